"""对话引擎：模式、长度、排队与停止、聊天框文字；最后用真的玩具模型核对适配器开关。"""

import threading
import time
from functools import partial

import pytest
from fakes.web_fakes import AdapterModel, CharTokenizer, FakeStream, PlainModel, wait_for

from labutils.base.errors import LabError
from labutils.demo import batching
from labutils.demo.engine import (
    AFTER,
    BEFORE,
    BOTH,
    GUARD,
    MAX_CHARACTERS,
    MAX_CONTEXT,
    MAX_TURNS,
    ChatEngine,
    Line,
    Prompt,
    Stop,
    Streams,
    check_question,
    complete_turns,
    generation_options,
    plain_messages,
    show,
    show_answer,
    show_question,
)
from labutils.models import generate


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def engine(model=None, **fake):
    return ChatEngine(model or AdapterModel(), CharTokenizer(), Streams(FakeStream(**fake)))


def talk(chat, text, side=AFTER, stop=None, **options):
    """一边的快照，一个一个地给。"""
    return chat.together({side: chat.fit([user(text)], 8)}, stop or Stop(), **options)


def said(chat, text, side=AFTER, stop=None, **options):
    """一边的整个回答。"""
    return list(talk(chat, text, side, stop, **options))[-1].texts[side]


def test_zero_temperature_is_greedy():
    assert generation_options(64, 0, 0.9, 1.1) == {
        "max_new_tokens": 64, "do_sample": False, "repetition_penalty": 1.1}
    sampled = generation_options(64, 0.7, 0.9, 1.0)
    assert sampled["do_sample"] and sampled["temperature"] == 0.7 and sampled["top_p"] == 0.9


def test_settings_outside_the_sliders_are_pulled_in():
    wild = generation_options(10**9, -5, float("nan"), 99)
    assert wild == {"max_new_tokens": 512, "do_sample": False, "repetition_penalty": 2.0}
    assert generation_options(0, float("inf"), float("nan"), 1)["top_p"] == 0.1
    for bad in (None, "多", [1]):
        with pytest.raises(LabError, match="max_new_tokens 应当是数"):
            generation_options(bad, 0, 1, 1)


def test_invisible_control_characters_are_dropped():
    assert check_question("你\x00好\ud800\x1b[31m\n👨‍👩‍👧") == "你好[31m\n👨‍👩‍👧"
    with pytest.raises(LabError, match="先输入"):
        check_question("\x00\x07")
    with pytest.raises(LabError, match="应当是文字"):
        check_question(["你好"])


def test_question_is_checked():
    assert check_question("  你好\n") == "你好"
    for text, said in (("", "先输入"), (" \n", "先输入"), (None, "先输入"),
                       ("长" * (MAX_CHARACTERS + 1), str(MAX_CHARACTERS))):
        with pytest.raises(LabError, match=said):
            check_question(text)


def test_modes_depend_on_adapter():
    assert engine().modes == [BEFORE, AFTER, BOTH]
    assert engine().sides(BOTH) == [BEFORE, AFTER]
    plain = engine(PlainModel())
    assert plain.modes == [AFTER] and plain.sides(AFTER) == [AFTER]
    with pytest.raises(LabError, match="有适配器的模型才分微调前后"):
        plain.sides(BOTH)
    with pytest.raises(LabError, match="不能用“随便”"):
        engine().sides("随便")


def test_fit_drops_oldest_turns_first():
    talk = [user("甲" * 200), bot("一" * 150), user("乙"), bot("二"), user("丙")]
    assert engine().fit(talk, 100)[::2] == (talk, 0)
    kept = engine().fit(talk, 200)
    assert kept == (talk[2:], list("乙二丙"), 1)


def test_fit_refuses_a_question_that_can_never_fit():
    with pytest.raises(LabError, match="问题有 500 个词元.*上限 512"):
        engine().fit([user("长" * 500)], 128)


def test_fit_without_a_known_limit_keeps_everything():
    talk = [user("甲" * 900), bot("一"), user("乙")]
    assert engine(object()).fit(talk, 500)[::2] == (talk, 0)


def test_history_and_context_are_bounded():
    talk = [user("问"), bot("答")] * (MAX_TURNS + 5) + [user("现在")]
    assert len(engine().fit(talk, 16).messages) == 2 * MAX_TURNS + 1
    big = PlainModel()
    big.config = type("Config", (), {"max_position_embeddings": 10**6})()
    assert engine(big).limit() == MAX_CONTEXT


def test_reply_switches_adapter_and_passes_options():
    chat = engine()
    for side, head in ((BEFORE, "前"), (AFTER, "后")):
        assert said(chat, "你好", side, max_new_tokens=8).startswith(head)
        call = chat.line.stream.calls[-1]
        assert call["adapter"] is (side == AFTER) and call["max_new_tokens"] == 8


def test_both_sides_are_read_in_one_loop_but_answered_one_at_a_time():
    chat, stop = engine(delay=0.005), Stop()
    asked = dict.fromkeys((BEFORE, AFTER), chat.fit([user("说：一二三四五六")], 8))
    shots = list(chat.together(asked, stop))
    assert shots[-1].texts == {BEFORE: "前：一二三四五六", AFTER: "后：一二三四五六"}
    assert not any(shot.texts[AFTER] for shot in shots if len(shot.texts[BEFORE]) < 8)
    assert all(shot.ahead is None for shot in shots if any(shot.texts.values()))  # 有一边在说就不算排队
    assert stop.is_set()


def test_the_first_word_is_not_held_back():
    chat = engine(delay=0.02)
    began = time.monotonic()
    assert next(talk(chat, "说：好")).texts[AFTER]
    assert time.monotonic() - began < 0.2


# ---- 排队：先来先答，知道前面有几个人，等不及可以走，排满了明说 ----


def crowd(chat, names):
    """每个名字一个人依次来问；返回 (答完的次序, {名字: 听到的前面人数}, {名字: 停止信号}, 线程)。"""
    order, told, stops, threads = [], {}, {}, []

    def ask(name, stop, heard):
        for shot in talk(chat, f"说：{name}", stop=stop):
            heard.append(shot.ahead)
        if shot.texts[AFTER]:
            order.append(name)

    for place, name in enumerate(names, start=1):
        stops[name], told[name] = Stop(), []
        threads.append(threading.Thread(target=ask, args=(name, stops[name], told[name])))
        threads[-1].start()
        wait_for(lambda: len(chat.line.replies) > place)  # noqa: B023  保证先来后到
    return order, told, stops, threads


def join(threads):
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_first_come_first_served_and_positions_are_told():
    chat, first = engine(delay=0.002), Stop()
    busy = talk(chat, "不停", stop=first)
    next(busy)
    order, told, _, threads = crowd(chat, "甲乙丙丁戊")
    wait_for(lambda: all(told.values()))
    first.set()
    join(threads)
    assert order == list("甲乙丙丁戊")
    assert [heard[0] for heard in told.values()] == [0, 1, 2, 3, 4]
    for heard in told.values():
        waited = [ahead for ahead in heard if ahead is not None]
        assert waited == sorted(waited, reverse=True)


def test_leaving_the_line_lets_the_next_one_in():
    chat, first = engine(delay=0.002), Stop()
    busy = talk(chat, "不停", stop=first)
    next(busy)
    order, told, stops, threads = crowd(chat, "走留")
    began = time.monotonic()
    stops["走"].set()
    join(threads[:1])
    assert time.monotonic() - began < 0.2  # 叫停的立刻知道，不必等轮到
    wait_for(lambda: 0 in told["留"])
    first.set()
    join(threads)
    assert order == ["留"]


def test_full_line_is_refused_but_a_free_place_never_is():
    line = Streams(FakeStream(delay=0.01), width=2, waiting=0)
    stops = [Stop(), Stop()]
    for stop in stops:
        line.start(Prompt([user("不停")], []), True, stop, {})
    with pytest.raises(LabError, match="问的人太多，已经有 0 个问题在排队"):
        line.start(Prompt([user("不停")], []), True, Stop(), {})
    stops[0].set()
    wait_for(lambda: line.busy == 1)
    stop = Stop()
    line.start(Prompt([user("说：好")], []), True, stop, {}).over.wait(10)
    stops[1].set()


def test_as_many_as_the_line_is_wide_are_answered_at_once():
    chat = ChatEngine(PlainModel(), None, Streams(FakeStream(delay=0.01), width=3))
    stops = [Stop() for _ in range(4)]
    talks = [chat.together({AFTER: Prompt([user("不停")], [])}, stop) for stop in stops]
    assert [next(each).ahead for each in talks] == [None, None, None, 0]
    for stop in stops:
        stop.set()


def test_stopping_and_closing_free_the_place():
    chat, stop = engine(), Stop()
    busy = talk(chat, "不停", stop=stop)
    next(busy)
    waiting = Stop()
    waiting.set()
    assert said(chat, "你好", stop=waiting) == ""  # 没排到就被停止
    stop.set()
    assert not [shot for shot in busy if shot.ahead is not None] and chat.line.stream.stopped == 1
    busy = talk(chat, "不停")
    next(busy)
    busy.close()
    assert said(chat, "说：好") == "后：好"
    assert chat.line.stream.closed == 3


def test_error_frees_the_place():
    chat = engine()
    with pytest.raises(LabError):
        said(chat, "坏")
    assert said(chat, "说：好")


def test_silence_is_not_waited_for_forever(monkeypatch):
    class Silent(Line):
        quiet = 0.1

        def serve(self):
            pass

    chat = ChatEngine(PlainModel(), CharTokenizer(), Silent(1))
    with pytest.raises(LabError, match="没有新的文字"):
        said(chat, "你好")


# ---- 聊天框里的文字：只当文字，不当网页代码；两种历史形状统一 ----


@pytest.mark.parametrize("text", [
    "<script>", "*粗*", "# 题", "`码`", "[链](x)", "&lt;", "1. 一", "$x$",
])
def test_question_escapes_every_ascii_punctuation(text):
    shown = show_question(text)
    assert shown != text
    assert shown.replace("\\", "") == text


def test_question_keeps_chinese_and_indentation():
    assert show_question("第三批〔2023〕，可以吗？") == "第三批〔2023〕，可以吗？"
    assert show_question("\t缩进\n  两格") == "\u00a0" * 4 + "缩进\n" + "\u00a0" * 2 + "两格"


@pytest.mark.parametrize("text", [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</div>", "<!-- 注释 -->",
    "<?xml?>", "&lt;b&gt;", "&#60;b&#62;", "![图](http://example.invalid/a.png)",
])
def test_answer_breaks_markup_but_reads_the_same(text):
    shown = show_answer("前 " + text)
    assert "<" + GUARD in shown or "&" + GUARD in shown or "!" + GUARD in shown
    assert not any(start in shown for start in ("<s", "<i", "</", "<!", "<?", "&l", "&#", "!["))
    assert shown.replace(GUARD, "") == "前 " + text


@pytest.mark.parametrize("text", ["1 < 2 且 a & b！", "## 标题\n- 一\n- **二**", "比分 3:2，[注]"])
def test_answer_leaves_ordinary_markdown_alone(text):
    assert show_answer(text) == text


@pytest.mark.parametrize("text", [
    "[点](https://a.b)", "[点][一]", "[一]: https://a.b", "https://a.b", "www.a.b", "WWW.a.b", "a@b.cn",
])
def test_answer_never_makes_links(text):
    shown = show_answer("前 " + text)
    assert GUARD in shown and shown.replace(GUARD, "") == "前 " + text


def test_answer_leaves_code_blocks_alone():
    code = "```python\nif a<b:\n    print('<b>')\n```"
    assert show_answer("看：\n" + code + "\n<b>") == "看：\n" + code + "\n<" + GUARD + "b>"
    assert show_answer("~~~\n<i>\n```\n<i>\n~~~") == "~~~\n<i>\n```\n<i>\n~~~"


def test_unfinished_code_block_while_streaming():
    assert show_answer("```\n<b>") == "```\n<b>"
    # 反引号后面还有反引号的一行是行内代码，不是代码块的开头。
    assert show_answer("```a``` \n<b>") == "```a``` \n<" + GUARD + "b>"
    # 代码块要用不少于开头个数的符号结束。
    assert show_answer("````\n```\n<b>") == "````\n```\n<b>"


@pytest.mark.parametrize("code", [
    "1. 一\n   ```", "- ```\n  码\n  ```", "> ```", "- [ ] ```\n      码\n      ```", "一\n   ```\n```",
    "```\n码\n ```", "```\n```~~", "```\n码\r```", "```\n```\t\n```",
])
def test_code_block_that_ended_early_does_not_let_markup_through(code):
    """列表里的代码块随缩进结束，渲染器与 CommonMark 认的结尾也略有不同：说不准的都保护。"""
    shown = show_answer(code + "\n<img src=x> [点](http://a.b)")
    assert shown.endswith(f"\n<{GUARD}img src=x> [点]{GUARD}(http:{GUARD}//a.b)")


def test_answer_never_draws_mermaid():
    assert "```mermaid" not in show_answer("```mermaid\ngraph TD\n```")
    assert "```mermaid" not in show_answer("- ```mermaid\n  x\n  ```")


def test_show_treats_roles_differently():
    assert show([user("*a*"), bot("*a*")]) == [user("\\*a\\*"), bot("*a*")]


def test_plain_messages_keeps_role_and_content():
    assert plain_messages([user("你好") | {"metadata": None}, bot("您好")]) == [user("你好"), bot("您好")]
    assert plain_messages(None) == plain_messages([]) == []


@pytest.mark.parametrize("history, said", [
    ("你好", "消息列表"),
    ([["问", "答"]], "第 1 条"),
    ([user("问"), {"role": "system", "content": "x"}], "第 2 条"),
    ([{"role": "user"}], "content"),
    ([{"role": "user", "content": 3}], "content"),
])
def test_plain_messages_says_what_is_wrong(history, said):
    with pytest.raises(LabError, match=said):
        plain_messages(history)


def test_complete_turns_drops_unanswered_questions():
    talk = [user("甲"), bot("一"), user("出错的"), user("乙"), bot(""),
            user("丙"), bot("三"), user("丁")]
    assert complete_turns(talk) == [user("甲"), bot("一"), user("丙"), bot("三")]
    assert complete_turns([]) == complete_turns([user("甲")]) == []


# ---- 真的模型 ----


@pytest.fixture(scope="module")
def tuned(toy_base):
    """玩具底座加一个故意调得很大的适配器：开关前后的回答必然不同。"""
    import torch
    from peft import LoraConfig, get_peft_model

    from labutils.models import loader

    model, tokenizer = loader.load(toy_base, dtype="float32", device="cpu")
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    tuned = get_peft_model(model, config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=3.0)
    return tuned, tokenizer


def test_real_adapter_switch_matches_batched_answers(tuned):
    from labutils.models.generate import answer

    model, tokenizer = tuned
    chat = ChatEngine(model, tokenizer, batching.local(model, tokenizer))
    assert chat.line.width > 1  # 自带小模型可以拼批
    options = generation_options(12, 0, 0.9, 1.0)
    after, before, again = (said(chat, "你好", side, **options) for side in (AFTER, BEFORE, AFTER))
    assert after == again != before
    assert [after] == answer(model, tokenizer, ["你好"], max_new_tokens=12)
    with model.disable_adapter():
        assert [before] == answer(model, tokenizer, ["你好"], max_new_tokens=12)
    assert chat.limit() == model.config.max_position_embeddings


def one_at_a_time(tuned):
    """不拼批的引擎。"""
    return ChatEngine(*tuned, Streams(partial(generate.stream, *tuned)))


def test_one_stop_signal_serves_both_sides(tuned):
    """并排对比的两边共用一个停止信号：左边说完，不能让右边一个字也不说。"""
    chat = one_at_a_time(tuned)
    options = {"min_new_tokens": 30, "max_new_tokens": 30, "do_sample": True, "temperature": 9.0}
    asked = dict.fromkeys((BEFORE, AFTER), chat.fit([user("你好")], 30))
    assert all(list(chat.together(asked, Stop(), **options))[-1].texts.values())


def test_real_stream_closed_midway_restores_the_adapter(tuned):
    model, _ = tuned
    chat = one_at_a_time(tuned)
    # 随机权重贪心时可能只吐控制符；高温采样才有文字。
    busy = talk(chat, "你好", BEFORE, min_new_tokens=100, max_new_tokens=200, do_sample=True,
                temperature=9.0)
    assert next(busy).texts[BEFORE] and model._adapters_disabled
    busy.close()
    wait_for(lambda: not chat.line.busy)
    assert not model._adapters_disabled
