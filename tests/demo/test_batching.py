"""连续拼批：每个人的回答与单独问时一字不差，不串、不丢，停得下来，出错不卡住。"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, get_peft_model

from labutils.base.errors import LabError
from labutils.demo import batching
from labutils.demo.batching import Batcher, Row, Table, can_batch, processors
from labutils.models import loader
from labutils.models.chat import prompt_ids
from labutils.models.generate import GrowingText, answer, as_messages


@pytest.fixture(scope="module")
def tuned(toy_base):
    """随机权重加一个调得很大的适配器：不同的问题、不同的一边，回答必然不同。"""
    model, tokenizer = loader.load(toy_base, dtype="float32", device="cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6) if weight.ndim > 1 else None
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    tuned = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=3.0)
    return tuned, tokenizer


QUESTIONS = ["你好", "第三批国家级一流本科课程分哪五类？", "几年", "请介绍一下你自己，越长越好。" * 4, "再见"]


def prompt_of(tuned, question):
    return prompt_ids(tuned[1], as_messages(question))


def alone(tuned, question, adapter, **options):
    model, tokenizer = tuned
    if adapter:
        return answer(model, tokenizer, [question], **options)[0]
    with model.disable_adapter():
        return answer(model, tokenizer, [question], **options)[0]


def ask(batcher, question, adapter=True, **options):
    return "".join(batcher.stream(None, None, question, adapter=adapter, **options))


def test_many_at_once_equal_one_at_a_time(tuned):
    batcher = Batcher(*tuned, rows=6)
    jobs = [(q, adapter, 5 + 7 * i) for i, q in enumerate(QUESTIONS) for adapter in (True, False)] * 2

    def job(number):
        question, adapter, size = jobs[number]
        time.sleep(0.01 * number)  # 陆续到来，陆续离开
        return ask(batcher, question, adapter, max_new_tokens=size)

    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(job, range(len(jobs))))
    want = [alone(tuned, q, adapter, max_new_tokens=size) for q, adapter, size in jobs]
    assert got == want and len(set(want)) >= 8


def test_repetition_penalty_is_per_row(tuned):
    batcher = Batcher(*tuned)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda p: ask(batcher, "你好", max_new_tokens=20, repetition_penalty=p),
                            (1.0, 1.5, 1.0, 2.0)))
    assert got == [alone(tuned, "你好", True, max_new_tokens=20, repetition_penalty=p)
                   for p in (1.0, 1.5, 1.0, 2.0)]
    assert got[0] != got[1]


def test_sampling_really_samples(tuned):
    batcher = Batcher(*tuned)
    options = {"max_new_tokens": 12, "do_sample": True, "temperature": 5.0, "top_p": 1.0}
    assert len({ask(batcher, "你好", **options) for _ in range(4)}) > 1


def test_unknown_setting_is_refused(tuned):
    with pytest.raises(TypeError, match="no_such"):
        ask(Batcher(*tuned), "你好", no_such=1)


def test_stopping_one_leaves_the_others(tuned):
    batcher, stop = Batcher(*tuned), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(ask, batcher, "再见", max_new_tokens=60)
        pieces = batcher.stream(None, None, "你好", stop=stop, max_new_tokens=400)
        got = next(pieces)
        began = time.monotonic()
        stop.set()
        got += "".join(pieces)
        assert time.monotonic() - began < 5
        assert other.result() == alone(tuned, "再见", True, max_new_tokens=60)
    assert len(got) < 400 and alone(tuned, "你好", True, max_new_tokens=400).startswith(got)


def test_thread_and_memory_go_when_all_have_left(tuned):
    batcher = Batcher(*tuned)
    pieces = batcher.stream(None, None, "你好", max_new_tokens=400)
    next(pieces)
    thread = batcher._thread
    pieces.close()  # 读者关了网页
    thread.join(20)
    assert not thread.is_alive() and batcher._thread is None
    assert ask(batcher, "再见", max_new_tokens=8) == alone(tuned, "再见", True, max_new_tokens=8)


def failing(monkeypatch, when):
    """_forward 照常，只在 when(ids, rows) 成立时出错；返回出错的次数。"""
    forward, failures = Table._forward, []

    def patched(self, ids, mask, cache, rows):
        scores = forward(self, ids, mask, cache, rows)
        if when(ids, rows):
            failures.append(len(rows))
            raise RuntimeError("显存不够")  # 算到最后才出错：缓存已经被改过
        return scores

    monkeypatch.setattr(Table, "_forward", patched)
    return failures


def test_a_failing_prompt_ends_that_chat_alone(tuned, monkeypatch):
    batcher, bad = Batcher(*tuned), prompt_of(tuned, "请出错")
    failures = failing(monkeypatch, lambda ids, rows: any(row.prompt == bad for row in rows))
    with ThreadPoolExecutor(6) as pool:
        talking = batcher.stream(None, None, "你好", max_new_tokens=80)
        got = next(talking)  # 正说着
        others = [pool.submit(ask, batcher, q, max_new_tokens=30) for q in ("几年", "再见")]
        with pytest.raises(LabError, match=r"生成这个回答时出错（RuntimeError），请.*再试") as caught:
            ask(batcher, "请出错")
        assert "显存不够" not in str(caught.value)  # 内部细节只进日志
        assert got + "".join(talking) == alone(tuned, "你好", True, max_new_tokens=80)
        assert [job.result() for job in others] == [
            alone(tuned, q, True, max_new_tokens=30) for q in ("几年", "再见")]
    assert failures


def test_newcomers_who_arrive_with_a_failing_one_are_answered(tuned, monkeypatch):
    model, tokenizer = tuned
    batcher, table = Batcher(*tuned), Table(model)
    rows = [Row([5] * size, [], True, threading.Event(), {"max_new_tokens": 9}) for size in (5, 6, 7)]
    failing(monkeypatch, lambda ids, joining: rows[1] in joining)
    with torch.inference_mode():
        batcher._join(table, rows)
    assert table.rows == [rows[0], rows[2]] and rows[1].done and not rows[1].said
    assert [len(row.said) for row in rows] == [1, 0, 1]


def test_a_failing_step_loses_nothing(tuned, monkeypatch):
    batcher, once = Batcher(*tuned), [True, True]
    failures = failing(monkeypatch, lambda ids, rows: ids.shape[1] == 1 and len(rows[0].said) > 5
                       and once and once.pop())
    with ThreadPoolExecutor(5) as pool:
        got = list(pool.map(lambda q: ask(batcher, q, max_new_tokens=20), QUESTIONS))
    assert got == [alone(tuned, q, True, max_new_tokens=20) for q in QUESTIONS] and len(failures) == 2


def test_a_step_that_always_fails_still_ends(tuned, monkeypatch):
    batcher = Batcher(*tuned)
    failing(monkeypatch, lambda ids, rows: ids.shape[1] == 1)
    assert ask(batcher, "你好", max_new_tokens=9) == alone(tuned, "你好", True, max_new_tokens=9)


def test_a_failing_choice_ends_that_chat_alone(tuned, monkeypatch):
    batcher, pick = Batcher(*tuned), Row.pick

    def broken(self, scores):
        if self.limit == 33:
            raise RuntimeError("概率里有 nan")
        return pick(self, scores)

    monkeypatch.setattr(Row, "pick", broken)
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(ask, batcher, "你好", max_new_tokens=40, repetition_penalty=1.1)
        with pytest.raises(LabError, match="生成这个回答时出错"):
            ask(batcher, "再见", max_new_tokens=33, repetition_penalty=1.1)
        assert good.result() == alone(tuned, "你好", True, max_new_tokens=40, repetition_penalty=1.1)


def test_silence_is_not_waited_for_forever(tuned, monkeypatch):
    batcher = Batcher(*tuned)
    monkeypatch.setattr(batcher, "_submit", lambda row: None)
    with pytest.raises(LabError, match="没有新的文字"):
        ask(batcher, "你好", timeout=0.1)


def test_left_columns_are_cut_when_the_longest_leaves(tuned):
    model, tokenizer = tuned
    rows = [Row([5] * size, [], True, threading.Event(), {"max_new_tokens": 9}) for size in (50, 6)]
    with torch.inference_mode():
        table = Table(model)
        table.join(rows)
        rows[0].closed.set()
        table.step()
    assert table.rows == rows[1:] and table.mask.shape == (1, 7)
    assert table.cache.layers[0].keys.shape[2] == 7


def test_with_many_readers_the_text_comes_in_larger_pieces_but_all_of_it(tuned):
    batcher = Batcher(*tuned)
    batcher._readers = 40  # 另有 40 个人在读
    pieces = list(batcher.stream(None, None, "你好", max_new_tokens=60))
    assert len(pieces) < 10 and batcher._readers == 40
    assert "".join(pieces) == alone(tuned, "你好", True, max_new_tokens=60)


def test_what_can_be_batched(tuned, toy_base):
    assert can_batch(tuned[0]) and can_batch(loader.load(toy_base, device="cpu")[0])
    assert not can_batch(object())
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], use_dora=True)
    assert not can_batch(get_peft_model(loader.load(toy_base, device="cpu")[0], config))


def test_greedy_needs_no_steps():
    assert not processors() and not processors(do_sample=False, repetition_penalty=1.0)
    assert len(processors(do_sample=True, temperature=0.7, top_p=0.9)) == 3


def test_growing_text_holds_back_half_a_character(tuned):
    tokenizer = tuned[1]
    ids = tokenizer.encode("好 𠮷\n👍 完", add_special_tokens=False)
    text, pieces = GrowingText(tokenizer), []
    for i, token in enumerate(ids):
        text.ids.append(token)
        pieces.append(text.grown(last=i == len(ids) - 1))
    assert "".join(pieces) == "好 𠮷\n👍 完" and not any("\ufffd" in piece for piece in pieces)


def test_batch_size_is_a_constant_people_can_find():
    assert batching.MAX_ROWS >= 8
