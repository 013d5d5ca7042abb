"""对话引擎：模式、长度、锁与停止；最后用真的玩具模型核对适配器开关。"""

import threading

import pytest
from fakes.web_fakes import AdapterModel, CharTokenizer, FakeStream, PlainModel

from labutils.base.errors import LabError
from labutils.demo.engine import (
    AFTER,
    BEFORE,
    BOTH,
    MAX_CHARACTERS,
    MAX_CONTEXT,
    MAX_TURNS,
    ChatEngine,
    check_question,
    generation_options,
)
from labutils.models import generate


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def engine(model=None, **fake):
    return ChatEngine(model or AdapterModel(), CharTokenizer(), FakeStream(**fake))


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
    with pytest.raises(LabError, match="没有加载适配器"):
        plain.sides(BOTH)
    with pytest.raises(LabError, match="没有“随便”这个模式"):
        engine().sides("随便")


def test_fit_drops_oldest_turns_first():
    talk = [user("甲" * 200), bot("一" * 150), user("乙"), bot("二"), user("丙")]
    assert engine().fit(talk, 100) == (talk, 0)
    assert engine().fit(talk, 200) == (talk[2:], 1)


def test_fit_refuses_a_question_that_can_never_fit():
    with pytest.raises(LabError, match="问题有 500 个词元.*上限 512"):
        engine().fit([user("长" * 500)], 128)


def test_fit_without_a_known_limit_keeps_everything():
    talk = [user("甲" * 900), bot("一"), user("乙")]
    assert ChatEngine(object(), CharTokenizer(), FakeStream()).fit(talk, 500) == (talk, 0)


def test_history_and_context_are_bounded():
    talk = [user("问"), bot("答")] * (MAX_TURNS + 5) + [user("现在")]
    assert len(engine().fit(talk, 16)[0]) == 2 * MAX_TURNS + 1
    big = PlainModel()
    big.config = type("Config", (), {"max_position_embeddings": 10**6})()
    assert ChatEngine(big, CharTokenizer(), FakeStream()).limit() == MAX_CONTEXT


def test_reply_switches_adapter_and_passes_options():
    chat = engine()
    for side, head in ((BEFORE, "前"), (AFTER, "后")):
        said = "".join(chat.reply([user("你好")], side, threading.Event(), max_new_tokens=8))
        assert said.startswith(head)
        call = chat._stream.calls[-1]
        assert call["adapter"] is (side == AFTER) and call["max_new_tokens"] == 8


def test_only_one_reply_at_a_time():
    chat, order = engine(delay=0.005), []

    def talk(side):
        for letter in chat.reply([user("说：一二三四五六")], side, threading.Event()):
            order.append((side, letter))

    threads = [threading.Thread(target=talk, args=(side,)) for side in (BEFORE, AFTER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    sides = [side for side, _ in order]
    assert len(sides) == 16 and sum(a != b for a, b in zip(sides, sides[1:], strict=False)) == 1


def test_stopping_and_closing_free_the_lock():
    chat, stop = engine(), threading.Event()
    talk = chat.reply([user("你好")], AFTER, stop)
    next(talk)
    waiting = threading.Event()
    waiting.set()
    assert list(chat.reply([user("你好")], AFTER, waiting)) == []  # 没排到就被停止
    stop.set()
    assert list(talk) == [] and chat._stream.stopped == 1
    talk = chat.reply([user("你好")], AFTER, threading.Event())
    next(talk)
    talk.close()
    assert chat._stream.closed == 2
    assert list(chat.reply([user("说：好")], AFTER, threading.Event())) == list("后：好")


def test_error_frees_the_lock():
    chat = engine()
    with pytest.raises(LabError):
        list(chat.reply([user("坏")], AFTER, threading.Event()))
    assert list(chat.reply([user("说：好")], AFTER, threading.Event()))


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
    chat = ChatEngine(model, tokenizer)
    assert chat.parallel > 1  # 自带小模型可以拼批
    options = generation_options(12, 0, 0.9, 1.0)

    def ask(side):
        return "".join(chat.reply([user("你好")], side, threading.Event(), **options)).strip()

    after, before, again = ask(AFTER), ask(BEFORE), ask(AFTER)
    assert after == again != before
    assert [after] == answer(model, tokenizer, ["你好"], max_new_tokens=12)
    with model.disable_adapter():
        assert [before] == answer(model, tokenizer, ["你好"], max_new_tokens=12)
    assert chat.limit() == model.config.max_position_embeddings


def test_one_stop_signal_serves_both_sides(tuned):
    """并排对比的两边共用一个停止信号：左边说完，不能让右边一个字也不说。"""
    chat, stop = ChatEngine(*tuned, generate.stream), threading.Event()
    options = {"min_new_tokens": 30, "max_new_tokens": 30, "do_sample": True, "temperature": 9.0}
    said = ["".join(chat.reply([user("你好")], side, stop, **options)) for side in (BEFORE, AFTER)]
    assert all(said) and not stop.is_set()


def test_real_stream_closed_midway_restores_the_adapter(tuned):
    model, tokenizer = tuned
    chat = ChatEngine(model, tokenizer, generate.stream)
    # 随机权重贪心时可能只吐控制符；高温采样才有文字。
    talk = chat.reply([user("你好")], BEFORE, threading.Event(), min_new_tokens=100,
                      max_new_tokens=200, do_sample=True, temperature=9.0)
    assert next(talk) and model._adapters_disabled
    talk.close()
    assert not model._adapters_disabled
    assert chat.queue.enter(threading.Event())
