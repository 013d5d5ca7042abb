"""生成：批量与单条一致、停得下来、流式文字拼起来等于批量结果、线程出错不会卡住。"""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from fakes.chat_fakes import build_tokenizer, write_kind
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import GenerationConfig

from labutils.base.errors import LabError
from labutils.base.text import Cut
from labutils.models import chat, generate, loader, table
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
    one = ["".join(generate.stream(*taught, question)) for question in questions]
    for size in (1, 4, 6, 64):
        assert one == generate.answer(*taught, questions, batch_size=size)


@pytest.mark.parametrize(("options", "swaps", "names"), [
    ({}, False, {"lab_0", "lab_1"}), ({}, True, {"MainThread"}),
    ({"repetition_penalty": 1.01}, False, {"lab_0", "lab_1"}),
    ({"do_sample": True, "top_k": 1}, False, {"MainThread"})])
def test_greedy_answers_use_two_cores(taught, monkeypatch, options, swaps, names):
    """两张表各用一个线程；计算时换权重的，抽样的（要按次序取随机数），只在一个线程里。"""
    seen, forward, threads = set(), table.Table._forward, torch.get_num_threads()

    def watched(*args):
        seen.add(threading.current_thread().name)
        return forward(*args)

    monkeypatch.setattr(generate, "can_batch", lambda model: True)
    monkeypatch.setattr(generate, "swaps_weights", lambda model: swaps)
    monkeypatch.setattr(table.Table, "_forward", watched)
    assert generate.answer(*taught, list(TALK) * 4, **options) == list(TALK.values()) * 4
    assert seen == names
    with ThreadPoolExecutor(1) as pool:  # 以后新开的线程也还是原来那么多
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == threads


def test_a_single_question_needs_no_trial(taught, monkeypatch):
    monkeypatch.setattr(generate, "can_batch", None)
    assert generate.answer(*taught, ["再见"]) == ["慢走"] and generate.answer(*taught, []) == []


def test_message_lists_are_accepted(taught):
    assert generate.answer(*taught, [[{"role": "user", "content": "再见"}]]) == ["慢走"]


def test_max_new_tokens_is_a_limit(taught):
    assert generate.answer(*taught, ["今天星期几"], max_new_tokens=3) == ["今天"]


def test_answer_that_reached_the_limit_says_so(taught):
    """正好在上限说完结束符的不算；叫停的也不算。"""
    question, whole = "今天星期几", TALK["今天星期几"]
    size = len(taught[1].encode("\n" + whole, add_special_tokens=False)) + 1  # 换行、回答、结束符
    for limit, finished in ((3, False), (size - 1, False), (size, True), (size + 9, True)):
        replies = generate.answer(*taught, [question, "你好"], max_new_tokens=limit)
        assert isinstance(replies[0], generate.Unfinished) is not finished
        *pieces, last = generate.stream(*taught, question, max_new_tokens=limit)
        assert isinstance(last, Cut) is not finished
        assert "".join(pieces) == replies[0] if isinstance(last, Cut) else "".join([*pieces, last]) == whole
        assert isinstance(last, Cut) is False or last == f"（到了上限 {limit} 个词元，没有说完）"
    stop = threading.Event()
    stop.set()
    pieces = generate.stream(*taught, question, stop=stop, max_new_tokens=1)
    assert not any(isinstance(piece, Cut) for piece in pieces)


SETTINGS = {"do_sample": True, "temperature": 0.4, "top_p": 0.8, "top_k": 7, "repetition_penalty": 1.7,
            "no_repeat_ngram_size": 2, "num_beams": 3, "length_penalty": 2.0, "min_length": 200,
            "min_new_tokens": 40, "max_length": 900, "suppress_tokens": list(range(300, 900)),
            "bad_words_ids": [[301]], "forced_eos_token_id": 7, "use_cache": False}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_base_change_no_answer(toy_base, tmp_path, setting):
    """基座 generation_config.json 里的惩罚、束搜索、抽样、长度：哪里都不用，只留下结束符。"""
    folder = shutil.copytree(toy_base, tmp_path / "base")
    path = folder / "generation_config.json"
    sampled = setting in ("temperature", "top_p", "top_k", "do_sample")
    own = json.loads(path.read_text(encoding="utf-8")) | {"do_sample": sampled, setting: SETTINGS[setting]}
    path.write_text(json.dumps(own))
    plain, changed = (loader.load(base, device="cpu") for base in (toy_base, folder))
    answers, pieces = zip(*((generate.answer(*loaded, ["你好"], max_new_tokens=24),
                             list(generate.stream(*loaded, "你好", max_new_tokens=24)))
                            for loaded in (plain, changed)), strict=True)
    assert answers[0] == answers[1] and pieces[0] == pieces[1]
    assert changed[0].generation_config.to_diff_dict() == plain[0].generation_config.to_diff_dict()


@pytest.mark.parametrize(("own", "added"), [(None, []), (2, []), (7, [7]), ([2, 7, 9], [7, 9]), ([], [])])
def test_end_tokens_of_the_base_stop_too(toy_base, own, added):
    _, tokenizer = loader.load(toy_base, device="cpu")
    config = chat.generation_config(tokenizer, GenerationConfig(eos_token_id=own, max_new_tokens=77))
    assert config.eos_token_id == [*chat.stop_ids(tokenizer), *added] and config.max_new_tokens == 77


@pytest.mark.parametrize("own", ["</s>", ["</s>"], 1.5, True, [[7]]])
def test_end_tokens_of_the_base_are_numbers(toy_base, own):
    _, tokenizer = loader.load(toy_base, device="cpu")
    with pytest.raises(LabError, match=r"eos_token_id 应当是词元的编号.*generation_config\.json"):
        chat.generation_config(tokenizer, SimpleNamespace(eos_token_id=own))


@pytest.mark.parametrize(("kind", "virtual"), [
    ("rwkv", None), ("qwen3", PromptTuningConfig), ("qwen3", PrefixTuningConfig)])
def test_what_the_table_cannot_do_is_answered_one_at_a_time(tmp_path, kind, virtual):
    """RWKV 不看遮罩；提示微调的虚拟词元在前，补齐的夹在它与问题中间；前缀微调自己占着缓存。"""
    folder, questions = write_kind(tmp_path / "base", kind), ["问", "第二个问题长一些，有效期呢"]
    if virtual:
        tuned = get_peft_model(loader.load(folder, device="cpu")[0],
                               virtual(task_type="CAUSAL_LM", num_virtual_tokens=4))
        tuned.peft_config["default"].base_model_name_or_path = str(folder)
        folder = tmp_path / "a"
        tuned.save_pretrained(folder)
    model, tokenizer = loader.load(folder, device="cpu")
    assert not table.can_batch(model)
    alone = [str.join("", generate.stream(model, tokenizer, question, max_new_tokens=8)).removesuffix(
        generate.cut_at(8)) for question in questions]
    assert generate.answer(model, tokenizer, questions, max_new_tokens=8) == alone


def test_an_end_token_only_the_base_knows_ends_answers(taught):
    """回答的第二个字当作基座的结束符：批量、流式都停在它前面，也不显示它。"""
    model, tokenizer = taught
    second, = tokenizer.encode("\n天", add_special_tokens=False)[1:]
    kept = model.generation_config
    model.generation_config = chat.generation_config(tokenizer, GenerationConfig(eos_token_id=second))
    try:
        reply, = generate.answer(model, tokenizer, ["今天星期几"])
        assert reply == "今" and not isinstance(reply, generate.Unfinished)
        assert "".join(generate.stream(model, tokenizer, "今天星期几")) == reply
    finally:
        model.generation_config = kept


def test_too_little_memory_is_said(taught, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(table.Table, "join", fail)
    with pytest.raises(LabError, match="128 个问题，显存或内存不够"):
        generate.answer(*taught, ["你好", "再见"])


def test_empty_list(taught):
    assert generate.answer(*taught, []) == []


def test_stream_equals_batch(taught):
    pieces = list(generate.stream(*taught, "今天星期几"))
    assert "".join(pieces) == TALK["今天星期几"] and len(pieces) > 1


@pytest.fixture
def rows(taught):
    """两行长短不同的提示，和一步步算出来的回答。"""
    model, tokenizer, questions = *taught, ["再见", "今天星期几"]
    made = [table.Row(model, chat.prompt_ids(tokenizer, generate.as_messages(q)), max_new_tokens=12)
            for q in questions]
    expected = [row.said for row in sorted(table.finished(model, made, 2), key=made.index)]
    return [table.Row(model, row.ids, max_new_tokens=12) for row in made], expected


def test_captured_steps_answer_the_same(taught, rows):
    """同一条路在 CPU 上也走得通，只是没有图可录。"""
    for row in generate.captured(taught[0], rows[0], 2):
        assert row.leaves()
    assert [row.said for row in rows[0]] == rows[1]


def test_what_cannot_be_captured_is_computed_step_by_step(taught, rows, monkeypatch, capsys):
    def fails(*_, **__):
        raise RuntimeError("no graphs here")

    monkeypatch.setattr(type(taught[0]), "continuous_batching_context_manager", fails)
    assert len(list(generate.captured(taught[0], rows[0], 2))) == 2
    assert [row.said for row in rows[0]] == rows[1] and "no graphs here" in capsys.readouterr().out


def test_stop_event_ends_the_stream(taught):
    stop = threading.Event()
    pieces = []
    for piece in generate.stream(*taught, "今天星期几", stop=stop, min_new_tokens=400, max_new_tokens=400):
        pieces.append(piece)
        stop.set()
    assert 0 < len("".join(pieces)) < 200


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
    """生僻字不切开，缩进不变，开头与末尾的空白不给出；不成字的字节也不会让后面的话丢掉。"""
    tokenizer = build()
    broken = tokenizer.encode("𠮷", add_special_tokens=False)[:-1]
    for text in (" 好 𠮷\n👍 完 \n", "a  b\n\n", "a:\n    b\n        c", ""):
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
