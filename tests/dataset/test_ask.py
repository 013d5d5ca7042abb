"""一次次请求：重试、等待、结构化输出的退让、Ctrl-C、密钥。服务器是真的，跑在本机。"""

import asyncio
import email.utils
import json
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from fakes.qa_server import CHUNKS, KEY, ONE, PROMPTS, records, serve

from labutils.base.errors import LabError
from labutils.dataset import ask, prompts
from labutils.dataset.ask import FIRST_TRIES, TRIES, Caller, CallFailed
from labutils.dataset.generation import generate
from labutils.dataset.prompts import Chunk, Prompts, load_prompts, qa_requests, unanswerable_requests
from labutils.dataset.service import (
    Price,
    Service,
    count_tokens,
    estimate_cost,
    find_service,
    load_presets,
    make_client,
    retry_after,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ask, "FIRST_WAIT", 0.01)


# ---- 重试与失败 ----

@pytest.mark.parametrize("step", ["429", 500, 502, 503, 408, "reset", "empty", "html"])
def test_passing_trouble_is_retried(tmp_path, monkeypatch, step):
    with serve(monkeypatch, script=[step, step]) as server:
        assert len(generate(ONE, "m", tmp_path, PROMPTS).files) == 1
    assert len(server.calls) == 3


def test_retry_after_is_honoured(tmp_path, monkeypatch):
    with serve(monkeypatch, script=["429"], retry_after="0.7") as server:
        generate(ONE, "m", tmp_path, PROMPTS)
    assert server.calls[1]["start"] - server.calls[0]["end"] >= 0.65


def test_retry_after_may_be_a_date_or_nonsense():
    def told(**headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return retry_after(SimpleNamespace(response=SimpleNamespace(headers=named)))

    assert 900 < told(retry_after=email.utils.formatdate(time.time() + 1000, usegmt=True)) <= 1000
    assert told(retry_after="soon") is None and told() is None and told(retry_after="-3") == 0
    assert told(retry_after_ms="300") == 0.3


def test_too_long_a_retry_after_fails_the_chunk_at_once(tmp_path, monkeypatch):
    with serve(monkeypatch, script=["429"], retry_after="3600") as server:
        result = generate(CHUNKS, "m", tmp_path, PROMPTS, concurrency=1)
    assert len(result.files) == 5 and "429" in result.failures[0]["reason"] and len(server.calls) == 6


def test_slow_call_times_out_and_is_retried(tmp_path, monkeypatch):
    impatient = Prompts("出题", PROMPTS.user, timeout_seconds=0.5)
    with serve(monkeypatch, script=["slow"], delay=0.4) as server:
        generate(ONE, "m", tmp_path, impatient)
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("code", "reason"),
    [(401, "不认这个密钥"), (403, "没有使用 m 的权限"), (404, "没有模型 m"), (402, "余额不足")])
def test_hopeless_errors_stop_at_once_in_one_sentence(tmp_path, monkeypatch, capsys, code, reason):
    with serve(monkeypatch, script=["ok", *[code] * 9]) as server, pytest.raises(LabError) as caught:
        generate(CHUNKS, "m", tmp_path, PROMPTS, concurrency=1)
    message = str(caught.value)
    assert len(server.calls) == 2 and reason in message and "已收到的回复都在" in message
    assert KEY not in message + capsys.readouterr().out and "\n" not in message
    assert (tmp_path / "responses" / "001.txt").exists()


def test_empty_account_is_told_from_too_many_requests(tmp_path, monkeypatch):
    with serve(monkeypatch, script=["429"] * 9, error_code="insufficient_quota") as server:
        with pytest.raises(LabError, match="余额不足"):
            generate(ONE, "m", tmp_path, PROMPTS)
    assert len(server.calls) == 1


def test_dead_server_is_given_up_after_a_few_chunks(tmp_path, monkeypatch):
    many = [Chunk(f"第{i}块", (1,)) for i in range(50)]
    with serve(monkeypatch, script=[500] * 999) as server, pytest.raises(LabError, match="出错（500）.*7 次"):
        generate(many, "m", tmp_path, PROMPTS, concurrency=2)
    assert len(server.calls) <= 7 * TRIES


@pytest.mark.parametrize("step", ["html", None])
def test_wrong_address_is_told_soon(tmp_path, monkeypatch, step):
    with serve(monkeypatch, script=[step] * 99) as server:
        pass
    if step:
        with serve(monkeypatch, script=[step] * 99) as server, \
                pytest.raises(LabError, match="没有按 OpenAI 的格式回答.*OPENAI_BASE_URL"):
            generate(ONE, "m", tmp_path, PROMPTS)
        assert len(server.calls) == FIRST_TRIES
    else:
        with pytest.raises(LabError, match="连不上 127.0.0.1"):
            generate(ONE, "m", tmp_path, PROMPTS)


# ---- 结构化输出 ----

def formats_of(body):
    return body.get("response_format", {}).get("type")


def formats(server):
    return [formats_of(body) for body, _ in server.seen]


@pytest.mark.parametrize(
    ("refused", "used"),
    [((), "json_schema"), (("json_schema",), "json_object"), (("json_schema", "json_object"), None)])
def test_output_format_falls_back_once_and_is_remembered(tmp_path, monkeypatch, refused, used):
    def refuses(body):
        return body.get("response_format", {}).get("type") in refused

    with serve(monkeypatch, refuses=refuses) as server:
        generate(CHUNKS, "m", tmp_path, PROMPTS, concurrency=1)
    assert formats(server) == [*refused, *[used] * 6]


def test_schema_lists_every_field(tmp_path, monkeypatch):
    with serve(monkeypatch) as server:
        generate(ONE, "m", tmp_path, PROMPTS)
    schema = server.seen[0][0]["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["required"] == ["pairs"]
    item = schema["schema"]["properties"]["pairs"]["items"]
    assert item["required"] == ["conversations", "fact_id", "key_points", "page", "evidence"]
    assert item["additionalProperties"] is False


def test_model_that_refuses_a_temperature(tmp_path, monkeypatch):
    with serve(monkeypatch, refuses=lambda body: "temperature" in body, error_param="temperature") as server:
        generate(CHUNKS[:3], "m", tmp_path, PROMPTS, concurrency=1)
    assert formats(server) == ["json_schema"] * 4
    assert ["temperature" in body for body, _ in server.seen] == [True, False, False, False]


def test_one_refused_text_does_not_change_the_format_for_others(tmp_path, monkeypatch):
    def refuses(body):
        return "第1号" in body["messages"][1]["content"]  # 这一块内容被拦下，与格式无关

    with serve(monkeypatch, refuses=refuses) as server:
        result = generate(CHUNKS, "m", tmp_path, PROMPTS, concurrency=1)
    assert len(result.files) == 5 and "400" in result.failures[0]["reason"]
    assert formats(server)[3:] == ["json_schema"] * 5


@pytest.mark.parametrize("told", [
    (400, {"detail": "temperature is not supported"}), (400, {"error": "temperature: only 1 is allowed"}),
    (400, {"msg": "invalid temperature"}), (500, {"error": {"message": "unknown parameter temperature"}}),
    (200, {"error": {"message": "temperature is deprecated", "code": 400}})])
def test_named_parameter_is_dropped_however_it_is_told(tmp_path, monkeypatch, told):
    with serve(monkeypatch, refuses=lambda body: "temperature" in body and told) as server:
        generate(CHUNKS[:2], "m", tmp_path, PROMPTS, concurrency=1)
    assert ["temperature" in body for body, _ in server.seen] == [True, False, False]
    assert formats(server) == ["json_schema"] * 3


@pytest.mark.parametrize("words", [
    "Developer instruction is not enabled", "System role not supported",
    "Conversation roles must alternate user/assistant"])
def test_refused_system_role_goes_into_the_users_words(tmp_path, monkeypatch, words):
    def refuses(body):
        return body["messages"][0]["role"] == "system" and (400, {"error": {"message": words}})

    with serve(monkeypatch, refuses=refuses) as server:
        generate(CHUNKS[:2], "m", tmp_path, PROMPTS, concurrency=1)
    roles = [[message["role"] for message in body["messages"]] for body, _ in server.seen]
    assert roles == [["system", "user"], ["user"], ["user"]]
    assert server.seen[1][0]["messages"][0]["content"].startswith(PROMPTS.system + "\n\n第 1 页")


def test_format_refused_with_500(tmp_path, monkeypatch):
    def refuses(body):
        return formats_of(body) == "json_schema" and (500, {"error": {"message": "unsupported json_schema"}})

    with serve(monkeypatch, refuses=refuses) as server:
        generate(ONE, "m", tmp_path, PROMPTS)
    assert formats(server) == ["json_schema", "json_object"]


@pytest.mark.parametrize(("told", "reason", "calls"), [
    ((400, {"error": {"message": "not in good standing", "code": "Arrearage"}}), "余额不足（400）", 1),
    ((429, {"error": {"code": "1113", "message": "余额不足或无可用资源包"}}), "余额不足（429）", 1),
    ((200, {"code": 30001, "message": "your account balance is insufficient"}), "余额不足（30001）", 1),
    ((200, {"choices": None, "base_resp": {"status_msg": "insufficient balance"}}), "余额不足", 1),
    ((403, {"error": {"code": "AccountOverdueError"}}), "余额不足（403）", 1),
    ((400, {"error": {"message": "Model Not Exist"}}), "没有模型 m（400）", 1),
    ((400, {"error": {"message": "API key not valid."}}), "不认这个密钥（400）", 1),
    ((400, {"error": {"message": "Content Exists Risk"}}), "审核拦下了这次请求（400）", 1),
    ((400, {"code": "data_inspection_failed", "message": "x"}), "审核拦下", 1),
    ((400, {"message": "maximum context length is 4096 tokens"}), "文字太长（400）", 1),
    ((200, {"error": {"code": 429, "message": "rate limited upstream"}}), "太频繁（429）", TRIES),
    ((429, {"error": {"message": "Rate limit reached. Add a payment method."}}), "太频繁", TRIES),
    ((429, {"error": {"message": "Request too large for m on tokens per min"}}), "文字太长", 1),
    ((400, {"error": {"message": "m is not a valid model ID"}}), "没有模型 m", 1),
    ((404, {"error": {"message": "No endpoints found matching your data policy"}}), "没有使用 m 的权限", 1),
    ((403, {"error": {"message": "The free tier of the model has been exhausted."}}), "余额不足", 1),
    ((403, {"error": {"message": "Country, region, or territory not supported"}}), "不为这个地区服务", 1),
    ((200, {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}), "不认这个密钥", 1),
])
def test_refusal_is_known_by_what_it_says(tmp_path, monkeypatch, told, reason, calls):
    with serve(monkeypatch, refuses=lambda body: told) as server, pytest.raises(LabError) as caught:
        generate(ONE, "m", tmp_path, PROMPTS)
    assert reason in str(caught.value) and len(server.calls) == calls


def test_wait_that_is_too_long_is_told(tmp_path, monkeypatch):
    with serve(monkeypatch, script=["429"], retry_after="600") as server, \
            pytest.raises(LabError, match="服务器要求过 600 秒再问"):
        generate(ONE, "m", tmp_path, PROMPTS)
    assert len(server.calls) == 1


# ---- 信封：话放在哪里，为什么没有说完 ----

def elsewhere(**message):
    """回答的文字搬到别处：每个键怎么由那段文字得来。"""
    def change(answer):
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        choice["message"] = {"content": None} | {key: make(text) for key, make in message.items()}
        return answer
    return change


@pytest.mark.parametrize("change", [
    elsewhere(content=lambda text: [{"type": "thinking", "thinking": [{"type": "text", "text": "想"}]},
                                    {"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]),
    elsewhere(reasoning_content=str), elsewhere(content=lambda text: "", reasoning=str),
    elsewhere(content=lambda text: "好的", tool_calls=lambda text: [{"function": {"arguments": text}}]),
    lambda answer: b"\xef\xbb\xbf" + json.dumps(answer).encode(),
    lambda answer: b": ping\n\ndata: " + json.dumps(answer).encode() + b"\n\ndata: [DONE]\n\n",
    lambda answer: answer | {"usage": None}, lambda answer: answer | {"usage": "many"},
    lambda answer: answer | {"usage": {"prompt_tokens": "100", "completion_tokens": 50.0}}])
def test_text_is_found_wherever_it_is(tmp_path, monkeypatch, change):
    with serve(monkeypatch, change=change) as server:
        result = generate(ONE, "m", tmp_path, PROMPTS)
    assert len(result.files) == len(server.calls) == 1
    assert "第1号事项" in json.dumps(records(tmp_path)[0], ensure_ascii=False)


def test_drafts_in_an_unfinished_thought_are_not_the_answer(tmp_path, monkeypatch):
    def change(answer):
        answer["choices"][0]["finish_reason"] = "length"
        return elsewhere(reasoning=str)(answer)

    with serve(monkeypatch, change=change), pytest.raises(LabError, match="长度上限"):
        generate(ONE, "m", tmp_path, PROMPTS)
    assert "第1号事项" in records(tmp_path)[0]["text"]


def ends(finish, **message):
    return lambda answer: answer | {"choices": [{"message": {"content": None} | message,
                                                 "finish_reason": finish}]}


@pytest.mark.parametrize(("change", "reason", "kept"), [
    (ends("content_filter"), "审核拦下", ""), (ends("sensitive"), "审核拦下", ""),
    (ends("stop", refusal="I can't help."), "模型拒绝", "I can't help."),
    (lambda answer: answer | {"choices": None, "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
     "审核拦下", "PROHIBITED_CONTENT")])
def test_refused_answer_is_paid_once_and_kept(tmp_path, monkeypatch, change, reason, kept):
    with serve(monkeypatch, change=change) as server, pytest.raises(LabError, match=reason):
        generate(ONE, "m", tmp_path, PROMPTS)
    reply, failed = records(tmp_path)
    assert len(server.calls) == 1 and kept in reply["text"] and reply["usage"] and failed["unusable"]


def test_endless_blanks_are_asked_again_without_a_format(tmp_path, monkeypatch):
    def change(answer):
        if formats_of(server.seen[-1][0]):
            answer["choices"][0] |= {"finish_reason": "length", "message": {"content": "{\n" + " \n" * 500}}
        return answer

    with serve(monkeypatch, change=change) as server:
        generate(CHUNKS[:2], "m", tmp_path, PROMPTS, concurrency=1)
    assert formats(server) == ["json_schema", None, None] and len(records(tmp_path)) == 3


def test_small_default_limit_is_raised_and_remembered(tmp_path, monkeypatch):
    def change(answer):
        if "max_tokens" not in server.seen[-1][0]:
            text = answer["choices"][0]["message"]["content"][:60]
            answer["choices"][0] |= {"finish_reason": "length", "message": {"content": text}}
        return answer

    with serve(monkeypatch, change=change) as server:
        assert len(generate(CHUNKS[:2], "m", tmp_path, PROMPTS, concurrency=1).files) == 2
    assert [body.get("max_tokens") for body, _ in server.seen] == [None, 4096, 4096]


# ---- 线程、Ctrl-C、事件循环 ----

CHILD = """
import sys
from labutils.dataset.prompts import Chunk
from labutils.dataset.generation import generate
from labutils.dataset.prompts import Prompts
chunks = [Chunk(f"第{i}号事项的办理期限是{i + 10}天。", (i,)) for i in range(1, 30)]
try:
    generate(chunks, "m", sys.argv[1], Prompts("JSON", "：\\n{{文本}}"), concurrency=2)
except KeyboardInterrupt:
    print("被打断")
"""


def test_ctrl_c_waits_for_what_is_under_way_and_sums_up(tmp_path, monkeypatch):
    with serve(monkeypatch, delay=0.3) as server:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, encoding="utf-8")
        while len(server.calls) < 3:
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        out, errors = child.communicate(timeout=60)
        done = len(server.calls)
        assert "正在收尾" in out and re.search(rf"问成 {done} 次，还没问 {29 - done} 次", out), out + errors
        assert out.strip().endswith("被打断") and errors == "" and done <= 6
        assert len(records(tmp_path)) == done  # 正在路上的也收下了
        generate([Chunk(f"第{i}号事项的办理期限是{i + 10}天。", (i,)) for i in range(1, 30)], "m", tmp_path,
                 Prompts("JSON", "：\n{{文本}}"), concurrency=9)
        assert len(server.calls) == 29


def test_ctrl_c_twice_stops_at_once(tmp_path, monkeypatch):
    with serve(monkeypatch, script=["ok", "ok"], delay=0.1) as server:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, encoding="utf-8")
        while len(server.calls) < 2:
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.01)
        server.delay = 30  # 后面的要等半分钟
        while len(server.calls) < 4 or len(records(tmp_path)) < 2:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert "正在收尾" in next(line for line in child.stdout if "正在收尾" in line)
        pressed = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, errors = child.communicate(timeout=25)
        assert time.monotonic() - pressed < 5 and child.returncode == 0, out + errors
    assert "问成 2 次，还没问 27 次" in out and out.strip().endswith("被打断") and errors == ""
    assert len(records(tmp_path)) == 2 and len(server.calls) == 4


def test_error_in_one_thread_stops_the_others_and_is_raised():
    stop, turns, finished = threading.Event(), iter(range(3)), []

    def work():
        if next(turns) == 0:
            raise ZeroDivisionError
        finished.append(stop.wait(10))  # 别的线程做完手上的才算完

    with pytest.raises(ZeroDivisionError):
        ask.together(work, 3, stop)
    assert finished == [True, True]


def test_works_inside_a_running_event_loop(tmp_path, monkeypatch):
    async def cell():  # notebook 的单元就是这样运行的
        return generate(CHUNKS, "m", tmp_path, PROMPTS)

    with serve(monkeypatch):
        assert len(asyncio.run(cell()).files) == 6


# ---- 密钥 ----

def test_key_echoed_in_a_reply_is_not_saved(tmp_path, monkeypatch):
    with serve(monkeypatch, content=f'{{"pairs": []}} 你的密钥是 {KEY}'):
        generate(ONE, "m", tmp_path, PROMPTS)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


def test_failed_call_does_not_hold_the_servers_words(monkeypatch):
    with serve(monkeypatch, script=[401]):
        service = find_service("", "m")
        with make_client(service) as client, pytest.raises(CallFailed) as caught:
            Caller(client, service).ask(prompts.qa_requests(ONE, PROMPTS)[0])
    error = caught.value
    assert KEY not in str(error) and error.__cause__ is None and error.__context__ is None


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_shipped_presets():
    assert set(load_presets()) == {"openai", "zhipu", "deepseek", "qwen", "ollama", "vllm"}
    for name in ("zhipu", "deepseek", "qwen", "ollama", "openai"):
        assert find_service(name).base_url.startswith("http")
    assert find_service("ollama").price == Price(0, 0, "元") and find_service("ollama").key_env == ""
    assert find_service("qwen").price is None  # 没有填，就不装作知道
    assert find_service("deepseek", "别的模型").price is None
    assert find_service("deepseek").price.date


@pytest.mark.parametrize(
    ("preset", "model", "reason"),
    [("vllm", "", "没有说用 vllm 的哪个模型"), ("", "", "没有说用 .* 的哪个模型"),
     ("没有这个", "m", "没有预设 没有这个.*deepseek")])
def test_what_is_missing_is_named(preset, model, reason):
    with pytest.raises(LabError, match=reason):
        find_service(preset, model)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a: 甲", "应是一组"), ("a: {base_url: 'ftp://x'}", "http"), ("a: {url: x}", "不认识的键 url"),
     ("a: {base_url: 'http://x', prices: [1, 2]}", "prices 应是一组"),
     ("a: {base_url: 'http://x', extra_body: 不思考}", "extra_body 应是一组"),
     ("a: {base_url: 'http://x', prices: {m: 3}}", "每百万 token"),
     ("a: {base_url: 'http://x', prices: {m: {input: -1, output: 2}}}", "每百万 token")])
def test_bad_preset_file(tmp_path, content, reason):
    path = tmp_path / "presets.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LabError, match=f"presets.yaml 的 a.*{reason}"):
        load_presets(path)


@pytest.mark.parametrize("key", [
    "sk-hidden-123456", "sk_hidden0123456789abcdef", "0a1b2c3d.hidden", "ahidden0123456789abcdef", "中文"])
def test_key_in_place_of_the_variable_is_not_shown(tmp_path, key):
    path = tmp_path / "presets.yaml"
    path.write_text(f"a: {{base_url: 'http://x', key_env: {key}}}", encoding="utf-8")
    with pytest.raises(LabError, match="a 的 key_env 应是环境变量的名字") as caught:
        make_client(find_service("a", "m", path))
    assert key not in str(caught.value)


def test_preset_may_be_called_by_a_number(tmp_path):
    path = tmp_path / "presets.yaml"
    path.write_text("1: {base_url: 'http://x'}", encoding="utf-8")
    assert find_service("1", "m", path).base_url == "http://x"


def test_environment_still_works(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    service = find_service("", "m")
    assert (service.base_url, service.price) == ("http://127.0.0.1:9/v1", None)
    assert make_client(service).api_key == "none"  # 自己架的服务可以不设密钥


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000v1", "http://[::1/v1", "sk-hidden-123456"])
def test_wrong_address_in_the_environment(monkeypatch, url):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(LabError, match="OPENAI_BASE_URL 写得不对") as caught:
        find_service("", "m")
    assert url not in str(caught.value)


@pytest.mark.parametrize(("preset", "name"), [("", "OPENAI_API_KEY"), ("deepseek", "DEEPSEEK_API_KEY")])
def test_no_key(preset, name):
    with pytest.raises(LabError, match=f"{name}.*现成的问答"):
        make_client(find_service(preset, "m"))


@pytest.mark.parametrize("key", ["sk-你的密钥", "sk-a b", "sk-a\nb"])
def test_badly_copied_key_is_not_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(LabError, match="重新复制") as caught:
        make_client(find_service("", "m"))
    assert key not in str(caught.value)


def test_service_does_not_hold_the_key(monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-hidden-123456")
    service = find_service("deepseek")
    assert make_client(service).api_key == "sk-hidden-123456" and "sk-hidden" not in repr(service)
    assert isinstance(service, Service)


def test_tokens_and_estimate():
    assert count_tokens("") == 0 and count_tokens("学分，共8") == 5 and count_tokens("a" * 10) == 3
    prompts, chunks = load_prompts(), [Chunk("字" * 380, (1,)), Chunk("字" * 95, (2,))]
    bill = estimate_cost(qa_requests(chunks, prompts), Price(2, 8, "元"))
    assert bill.output_tokens == (4 + 1) * 3 * 150 and bill.input_tokens > 475
    assert bill.money == pytest.approx((bill.input_tokens * 2 + bill.output_tokens * 8) / 1e6)
    more = estimate_cost(unanswerable_requests(chunks, 4, prompts), None)
    assert more.output_tokens == 4 * 150 and more.money is None and "没有填" in str(more)
