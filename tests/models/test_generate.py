"""生成：批量与单条一致、停得下来、流式文字拼起来等于批量结果、线程出错不会卡住。"""

import threading
from functools import partial

import pytest
import torch
from fakes.chat_fakes import build_tokenizer

from labutils.base.errors import LabError
from labutils.models import generate, loader
from labutils.models.chat import encode
from tools.tiny_base import vocab

TALK = {"你好": "早上好", "今天星期几": "今天星期三，明天星期四", "再见": "慢走"}


@pytest.fixture(scope="module")
def taught(toy_base):
    """把玩具模型练到背下三句对话，这样生成的内容是确定的。"""
    model, tokenizer = loader.load(toy_base, device="cpu")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        for question, reply in TALK.items():
            sample = encode(tokenizer, [{"role": "user", "content": question},
                                        {"role": "assistant", "content": reply}])
            batch = {key: torch.tensor([value]) for key, value in sample.items()}
            model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer


def test_answers_come_back_in_order(taught):
    assert generate.answer(*taught, list(TALK)) == list(TALK.values())


def test_batching_does_not_change_answers(taught):
    questions = list(TALK) * 2
    one = generate.answer(*taught, questions, batch_size=1)
    assert one == generate.answer(*taught, questions, batch_size=6)


def test_message_lists_are_accepted(taught):
    assert generate.answer(*taught, [[{"role": "user", "content": "再见"}]]) == ["慢走"]


def test_max_new_tokens_is_a_limit(taught):
    assert generate.answer(*taught, ["今天星期几"], max_new_tokens=3) == ["今天"]


def test_too_little_memory_is_said(taught, monkeypatch):
    def fail(**_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(taught[0], "generate", fail)
    with pytest.raises(LabError, match="2 个问题，显存或内存不够"):
        generate.answer(*taught, ["你好", "再见"])


def test_empty_list(taught):
    assert generate.answer(*taught, []) == []


def test_stream_equals_batch(taught):
    pieces = list(generate.stream(*taught, "今天星期几"))
    assert "".join(pieces) == TALK["今天星期几"] and len(pieces) > 1


def test_stop_event_ends_the_stream(taught):
    stop = threading.Event()
    pieces = []
    for piece in generate.stream(*taught, "今天星期几", stop=stop):
        pieces.append(piece)
        stop.set()
    assert len("".join(pieces)) < len(TALK["今天星期几"])


def test_closing_the_generator_ends_the_thread(taught):
    before = threading.active_count()
    generator = generate.stream(*taught, "今天星期几")
    next(generator)
    generator.close()
    assert threading.active_count() == before


def test_error_in_the_thread_reaches_the_reader(taught):
    with pytest.raises(LabError, match="生成回答时出错"):
        list(generate.stream(*taught, "你好", no_such_option=1))


def test_sampling_is_off_by_default_and_on_with_temperature(taught):
    torch.manual_seed(0)
    replies = {generate.answer(*taught, ["你好"], temperature=50.0, max_new_tokens=8)[0]
               for _ in range(5)}
    assert len(replies) > 1


@pytest.mark.parametrize("build", [
    vocab.build_tokenizer, *(partial(build_tokenizer, name) for name in ("Qwen3", "InternLM3"))])
def test_growing_text_joined_is_one_decode(build):
    """生僻字不切开，开头与末尾的空白不给出；不成字的字节也不会让后面的话丢掉。"""
    tokenizer = build()
    broken = tokenizer.encode("𠮷", add_special_tokens=False)[:-1]
    for text in (" 好 𠮷\n👍 完 \n", "a  b\n\n", ""):
        ids = tokenizer.encode(text, add_special_tokens=False)
        for row in (ids, ids + broken, broken + ids, [*ids, tokenizer.eos_token_id]):
            growing, pieces = generate.GrowingText(tokenizer), []
            for token in row:
                growing.ids.append(token)
                pieces.append(growing.grown())
            assert not "".join(pieces).endswith((" ", "\n", "\ufffd"))
            assert "\ufffd" not in "".join(pieces) or row[0] == broken[0]
            pieces.append(growing.grown(last=True))
            assert "".join(pieces) == generate.clean(tokenizer, row)
