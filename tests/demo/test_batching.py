"""连续拼批：每个人的回答与单独问时一字不差，不串、不丢，停得下来，出错不卡住。"""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from fakes.chat_fakes import write_kind
from fakes.web_fakes import wait_for
from peft import LoraConfig, TrainableTokensConfig, get_peft_model

from labutils.base.errors import LabError
from labutils.base.text import Cut
from labutils.demo import batching
from labutils.demo.batching import Batcher, Row
from labutils.demo.engine import AFTER, BEFORE, SHARE, ChatEngine, Prompt, Stop, Streams
from labutils.models import loader
from labutils.models.chat import prompt_ids
from labutils.models.generate import GrowingText, answer, as_messages, stream
from labutils.models.table import Table, can_batch, processors


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
    """transformers 的 generate 单独回答。"""
    pieces = stream(*tuned, question, adapter=adapter, **options)
    return "".join(piece for piece in pieces if not isinstance(piece, Cut))


def line(tuned, width=32):
    return ChatEngine(*tuned, Batcher(*tuned, width))


def talk(chat, question, side=AFTER, stop=None, **options):
    """一边到现在为止的回答，一个快照一个快照地给。"""
    asked = {side: chat.fit(as_messages(question), 1)}
    return (shot.texts[side] for shot in chat.together(asked, stop or Stop(), **options))


def ask(chat, question, adapter=True, **options):
    *_, text = talk(chat, question, AFTER if adapter else BEFORE, **options)
    return text


def a_row(tuned, size, limit=9):
    row = Row(*tuned, Prompt([], [5] * size), True, Stop(), {"max_new_tokens": limit})
    row.stops = []
    return row


def test_many_at_once_equal_one_at_a_time(tuned):
    chat = line(tuned, 6)
    jobs = [(q, adapter, 5 + 7 * i) for i, q in enumerate(QUESTIONS) for adapter in (True, False)] * 2

    def job(number):
        question, adapter, size = jobs[number]
        time.sleep(0.01 * number)  # 陆续到来，陆续离开
        return ask(chat, question, adapter, max_new_tokens=size)

    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(job, range(len(jobs))))
    want = [alone(tuned, q, adapter, max_new_tokens=size) for q, adapter, size in jobs]
    assert got == want and len(set(want)) >= 8


def test_repetition_penalty_is_per_row(tuned):
    chat = line(tuned)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda p: ask(chat, "你好", max_new_tokens=20, repetition_penalty=p),
                            (1.0, 1.5, 1.0, 2.0)))
    assert got == [alone(tuned, "你好", True, max_new_tokens=20, repetition_penalty=p)
                   for p in (1.0, 1.5, 1.0, 2.0)]
    assert got[0] != got[1]


@pytest.mark.parametrize("single", [False, True])
def test_answer_that_reached_the_limit_says_so(tuned, single, monkeypatch):
    """拼批的与一次一个的说法相同；正好说完的没有这句话。"""
    chat = ChatEngine(*tuned, Streams(partial(stream, *tuned))) if single else line(tuned)
    asked = {side: chat.fit(as_messages("你好"), 1) for side in (BEFORE, AFTER)}
    *_, shot = chat.together(asked, Stop(), max_new_tokens=7)
    assert shot.cut == dict.fromkeys(asked, "（到了上限 7 个词元，没有说完）")
    assert shot.texts == {side: alone(tuned, "你好", side == AFTER, max_new_tokens=7) for side in asked}
    first = tuned[0].generate(torch.tensor([prompt_of(tuned, "你好")]), max_new_tokens=1)[0, -1]
    monkeypatch.setattr(tuned[0].generation_config, "eos_token_id", [int(first)])  # 第一个词元就是结束
    *_, shot = chat.together({AFTER: asked[AFTER]}, Stop(), max_new_tokens=7)
    assert shot.cut == {} and shot.texts == {AFTER: ""}


def test_sampling_really_samples(tuned):
    chat = line(tuned)
    options = {"max_new_tokens": 12, "do_sample": True, "temperature": 5.0, "top_p": 1.0}
    assert len({ask(chat, "你好", **options) for _ in range(4)}) > 1


def test_unknown_setting_is_refused(tuned):
    with pytest.raises(TypeError, match="no_such"):
        ask(line(tuned), "你好", no_such=1)


def test_stopping_one_leaves_the_others(tuned):
    chat, stop = line(tuned), Stop()
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(ask, chat, "再见", max_new_tokens=60)
        texts = talk(chat, "你好", stop=stop, max_new_tokens=400)
        next(texts)
        began = time.monotonic()
        stop.set()
        *_, got = texts
        assert time.monotonic() - began < 5
        assert other.result() == alone(tuned, "再见", True, max_new_tokens=60)
    assert len(got) < 400 and alone(tuned, "你好", True, max_new_tokens=400).startswith(got)


def test_thread_and_memory_go_when_all_have_left(tuned):
    chat = line(tuned)
    talking = chat.together({AFTER: chat.fit(as_messages("你好"), 1)}, Stop(), max_new_tokens=400)
    next(talking)
    thread = chat.line._thread
    talking.close()  # 读者关了网页
    thread.join(20)
    assert not thread.is_alive() and chat.line._thread is None and not chat.line.busy
    assert ask(chat, "再见", max_new_tokens=8) == alone(tuned, "再见", True, max_new_tokens=8)


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
    chat, bad = line(tuned), prompt_of(tuned, "请出错")
    failures = failing(monkeypatch, lambda ids, rows: any(row.prompt.ids == bad for row in rows))
    with ThreadPoolExecutor(6) as pool:
        talking = talk(chat, "你好", max_new_tokens=80)
        next(talking)  # 正说着
        others = [pool.submit(ask, chat, q, max_new_tokens=30) for q in ("几年", "再见")]
        with pytest.raises(LabError, match=r"生成这个回答时出错（RuntimeError），请.*再试") as caught:
            ask(chat, "请出错")
        assert "显存不够" not in str(caught.value)  # 内部细节只进日志
        *_, got = talking
        assert got == alone(tuned, "你好", True, max_new_tokens=80)
        assert [job.result() for job in others] == [
            alone(tuned, q, True, max_new_tokens=30) for q in ("几年", "再见")]
    assert failures


def test_newcomers_who_arrive_with_a_failing_one_are_answered(tuned, monkeypatch):
    batcher, table = Batcher(*tuned, 32), Table(tuned[0])
    rows = [a_row(tuned, size) for size in (5, 6, 7)]
    failing(monkeypatch, lambda ids, joining: rows[1] in joining)
    with torch.inference_mode():
        batcher._join(table, rows)
    assert table.rows == [rows[0], rows[2]] and rows[1].over.is_set() and not rows[1].said
    assert [len(row.said) for row in rows] == [1, 0, 1]


def test_a_failing_step_loses_nothing(tuned, monkeypatch):
    chat, once = line(tuned), [True, True]
    failures = failing(monkeypatch, lambda ids, rows: ids.shape[1] == 1 and len(rows[0].said) > 5
                       and once and once.pop())
    with ThreadPoolExecutor(5) as pool:
        got = list(pool.map(lambda q: ask(chat, q, max_new_tokens=20), QUESTIONS))
    assert got == [alone(tuned, q, True, max_new_tokens=20) for q in QUESTIONS] and len(failures) == 2


def test_an_error_inside_the_model_leaves_nothing_behind(tuned, monkeypatch):
    """peft 按行开关适配器的挂钩，算到一半出错时它自己不摘。"""
    want, rows = alone(tuned, "你好", True, max_new_tokens=9), [a_row(tuned, 5), a_row(tuned, 6)]
    rows[0].adapter = False

    def fail(*_):
        raise RuntimeError("显存不够")

    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="显存不够"):
        broken.setattr(tuned[0].get_base_model().lm_head, "forward", fail)
        Table(tuned[0]).join(rows)
    assert alone(tuned, "你好", True, max_new_tokens=9) == want


def test_a_step_that_always_fails_still_ends(tuned, monkeypatch):
    chat = line(tuned)
    failing(monkeypatch, lambda ids, rows: ids.shape[1] == 1)
    assert ask(chat, "你好", max_new_tokens=9) == alone(tuned, "你好", True, max_new_tokens=9)


def test_a_failing_choice_ends_that_chat_alone(tuned, monkeypatch):
    chat, pick = line(tuned), Row.pick

    def broken(self, scores):
        if self.limit == 33:
            raise RuntimeError("概率里有 nan")
        return pick(self, scores)

    monkeypatch.setattr(Row, "pick", broken)
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(ask, chat, "你好", max_new_tokens=40, repetition_penalty=1.1)
        with pytest.raises(LabError, match="生成这个回答时出错"):
            ask(chat, "再见", max_new_tokens=33, repetition_penalty=1.1)
        assert good.result() == alone(tuned, "你好", True, max_new_tokens=40, repetition_penalty=1.1)


def test_left_columns_are_cut_when_the_longest_leaves(tuned):
    rows = [a_row(tuned, size) for size in (50, 6)]
    with torch.inference_mode():
        table = Table(tuned[0])
        table.join(rows)
        rows[0].stop.set()
        table.step()
    assert table.rows == rows[1:] and table.mask.shape == (1, 7)
    assert table.cache.layers[0].keys.shape[2] == 7


def test_with_many_readers_the_text_comes_in_larger_pieces_but_all_of_it(tuned):
    chat = line(tuned)
    others = [a_row(tuned, 5, limit=10**6) for _ in range(31)]  # 另有 31 个人在读
    for row in others:
        row.taken = True
    chat.line.replies += others
    started = time.monotonic()
    texts = list(talk(chat, "你好", max_new_tokens=60))
    most = 3 + (time.monotonic() - started) / (31 * SHARE)  # 机器忙时模型慢，段数照样不会更多
    assert len(texts) <= most and chat.line.busy == 31
    assert texts[-1] == alone(tuned, "你好", True, max_new_tokens=60)
    for row in others:
        row.end()


def test_more_than_fit_wait_their_turn_and_all_are_answered(tuned):
    chat = line(tuned, 2)
    stop, told = Stop(), []
    asked = {AFTER: chat.fit(as_messages("你好"), 1)}
    busy = [chat.together(asked, stop, max_new_tokens=400) for _ in range(2)]
    for talking in busy:
        next(talking)
    with ThreadPoolExecutor(5) as pool:
        def job(question):
            for shot in chat.together({AFTER: chat.fit(as_messages(question), 1)}, Stop(), max_new_tokens=9):
                told.append(shot.ahead)
            return shot.texts[AFTER]

        jobs = [pool.submit(job, question) for question in QUESTIONS]
        wait_for(lambda: {0, 1, 2, 3, 4} <= set(told))
        stop.set()
        got = [job.result(20) for job in jobs]
    assert got == [alone(tuned, question, True, max_new_tokens=9) for question in QUESTIONS]


def test_what_can_be_batched(tuned, toy_base):
    assert can_batch(tuned[0], mixed=True) and can_batch(loader.load(toy_base, device="cpu")[0])
    assert not can_batch(object())
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], use_dora=True)
    dora = get_peft_model(loader.load(toy_base, device="cpu")[0], config)
    assert can_batch(dora) and not can_batch(dora, mixed=True)
    tokens = TrainableTokensConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens"],
                                   token_indices=[90])  # 试的那几个词元里没有它
    assert not can_batch(get_peft_model(loader.load(toy_base, device="cpu")[0], tokens), mixed=True)


@pytest.mark.parametrize(("kind", "settings", "fits"), [
    ("qwen3", {}, True), ("gpt2", {}, True), ("bloom", {}, True), ("falcon", {}, True),
    ("qwen3", {"modules_to_save": ["norm"]}, False),
    ("qwen2_moe", {}, False), ("qwen3_moe", {}, False), ("glm4_moe", {}, False),  # 专家里的词元不分行
    ("opt", {}, False), ("rwkv", {}, False), ("falcon_h1", {}, False)])
def test_batching_is_tried_not_guessed(tmp_path, kind, settings, fits):
    """试出来的与真的拼起来一样：能拼的，每个人的回答与单独问时相同。"""
    model, tokenizer = loader.load(write_kind(tmp_path / "base", kind))
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", **settings)
    if kind == "falcon_h1":
        config.target_modules = ["q_proj"]
    pair = get_peft_model(model, config).eval(), tokenizer
    torch.manual_seed(1)
    for name, weight in pair[0].named_parameters():
        weight.data += torch.randn_like(weight) if "lora_B" in name else 0
    assert can_batch(pair[0], mixed=True) == fits
    assert answer(*pair, QUESTIONS, max_new_tokens=6) == [
        alone(pair, question, True, max_new_tokens=6) for question in QUESTIONS]
    chat = ChatEngine(*pair, batching.local(*pair))
    assert isinstance(chat.line, Batcher) == fits
    for adapter in (True, False):
        assert ask(chat, "你好", adapter, max_new_tokens=6) == alone(pair, "你好", adapter, max_new_tokens=6)


def test_a_page_without_a_true_before_is_refused(toy_base, tmp_path):
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], init_lora_weights="pissa")
    tuned = get_peft_model(loader.load(toy_base, device="cpu")[0], config)
    tuned.peft_config["default"].base_model_name_or_path = str(toy_base)
    tuned.save_pretrained(tmp_path)
    with pytest.raises(LabError, match="init_lora_weights: pissa.*关掉以后不是微调前的模型"):
        batching.local(*loader.load(tmp_path, device="cpu"))


def test_end_of_another_tokenizer_stops_too(toy_base):
    model, tokenizer = loader.load(toy_base, device="cpu")
    own = model.generation_config.eos_token_id
    tokenizer.eos_token = "[MASK]"
    local = batching.local(model, tokenizer)
    assert local.model.generation_config.eos_token_id[0] == tokenizer.eos_token_id not in own
    assert set(own) < set(model.generation_config.eos_token_id)


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
