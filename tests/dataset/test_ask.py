"""一次次请求：存盘、续作、重试、等待、结构化输出的退让、花费上限、Ctrl-C。服务器是真的，跑在本机。"""

import asyncio
import email.utils
import json
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from fakes.qa_server import KEY, serve

from labutils.base.errors import LabError
from labutils.dataset import ask, generation, prompts
from labutils.dataset.ask import FIRST_TRIES, TRIES, Caller, CallFailed
from labutils.dataset.clean import Chunk
from labutils.dataset.generation import generate
from labutils.dataset.prompts import Prompts
from labutils.dataset.service import find_service, make_client

PROMPTS = Prompts(system="出题 JSON", user="第 {{页码}} 页，{{问答对数}} 对：\n{{文本}}",
                  unanswerable="写 {{问题数}} 个：\n{{文本}}", chars_per_fact=100)
CHUNKS = [Chunk(f"第{i}号事项的办理期限是{i + 10}天。", (i,)) for i in range(1, 7)]
ONE = CHUNKS[:1]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ask, "FIRST_WAIT", 0.01)


def records(folder):
    lines = (folder / "responses" / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# ---- 存盘与续作 ----

def test_one_call_per_chunk_and_every_reply_saved(tmp_path, monkeypatch, capsys):
    with serve(monkeypatch) as server:
        result = generate(CHUNKS, "出题模型", tmp_path, PROMPTS, concurrency=1)
    assert [p.name for p in result.files] == [f"{i:03d}.txt" for i in range(1, 7)]
    assert result.chunks == CHUNKS and result.failures == []
    assert "第3号事项" in result.files[2].read_text(encoding="utf-8")
    body, key = server.seen[0]
    assert body["model"] == "出题模型" and key == f"Bearer {KEY}" and body["temperature"] == 0.3
    assert body["messages"][1]["content"].startswith("第 1 页，3 对：")
    assert (result.bill.calls, result.bill.input_tokens, result.bill.output_tokens) == (6, 600, 300)
    out = capsys.readouterr().out
    assert "还要调用 6 次" in out and "问成 6 次" in out and KEY not in out


def test_only_what_is_missing_or_changed_is_asked(tmp_path, monkeypatch):
    with serve(monkeypatch) as server:
        generate(CHUNKS[:4], "m", tmp_path, PROMPTS)
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        assert len(server.calls) == 6
        generate([CHUNKS[0], Chunk("第1号事项改了。", (1,)), CHUNKS[1]], "m", tmp_path, PROMPTS)
        assert len(server.calls) == 7  # 中间插了一块，别的块不受影响
        generate(CHUNKS, "另一个模型", tmp_path, PROMPTS)
        assert len(server.calls) == 13
        generate(CHUNKS, "m", tmp_path, Prompts("改了", PROMPTS.user, chars_per_fact=100))
        assert len(server.calls) == 19


def test_identical_chunks_are_paid_once(tmp_path, monkeypatch):
    with serve(monkeypatch) as server:
        result = generate([CHUNKS[0], CHUNKS[0]], "m", tmp_path, PROMPTS)
    assert len(server.calls) == 1 and len(result.files) == 2


def test_torn_last_line_is_tolerated_and_asked_again(tmp_path, monkeypatch, capsys):
    with serve(monkeypatch) as server:
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        path = tmp_path / "responses" / "progress.jsonl"
        path.write_bytes(path.read_bytes()[:-40])
        assert len(generate(CHUNKS, "m", tmp_path, PROMPTS).files) == 6
        assert len(server.calls) == 7 and "1 行没写完" in capsys.readouterr().out
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        assert len(server.calls) == 7


def test_finished_run_needs_no_key_and_no_server(tmp_path, monkeypatch):
    with serve(monkeypatch):
        generate(CHUNKS, "m", tmp_path, PROMPTS)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert len(generate(CHUNKS, "m", tmp_path, PROMPTS).files) == 6


def test_concurrency_is_bounded(tmp_path, monkeypatch):
    with serve(monkeypatch, delay=0.1) as server:
        generate(CHUNKS, "m", tmp_path, PROMPTS, concurrency=3)
    assert 2 <= server.most_active <= 3


def test_unanswerable_go_to_their_own_files(tmp_path, monkeypatch):
    with serve(monkeypatch, content='{"pairs": [{"question": "电话？", "answer": "没有写明"}]}'):
        result = generate(CHUNKS, "m", tmp_path, PROMPTS, unanswerable=5)
    assert [p.name for p in result.unanswerable_files] == ["unanswerable-001.txt", "unanswerable-004.txt"]
    assert len(result.files) == 6


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
    date = email.utils.formatdate(time.time() + 1000, usegmt=True)
    assert 900 < ask._retry_after({"retry-after": date}) <= 1000
    assert ask._retry_after({"retry-after": "soon"}) is None
    assert ask._retry_after({}) is None and ask._retry_after({"retry-after": "-3"}) == 0


def test_too_long_a_retry_after_fails_the_chunk_at_once(tmp_path, monkeypatch):
    with serve(monkeypatch, script=["429"], retry_after="3600") as server:
        result = generate(CHUNKS, "m", tmp_path, PROMPTS, concurrency=1)
    assert len(result.files) == 5 and "429" in result.failures[0]["reason"] and len(server.calls) == 6


def test_slow_call_times_out_and_is_retried(tmp_path, monkeypatch):
    impatient = Prompts("出题", PROMPTS.user, timeout_seconds=0.5)
    with serve(monkeypatch, script=["slow"], delay=0.4) as server:
        generate(ONE, "m", tmp_path, impatient)
    assert len(server.calls) == 2


@pytest.mark.parametrize("content", ['{"pairs": [{"conversations": [{"role": "user", "con',
                                     "", "抱歉，我不能。", '{"questions": ["甲"]}'])
def test_unusable_reply_is_asked_again_but_not_for_ever(tmp_path, monkeypatch, content):
    with serve(monkeypatch, content=content) as server:
        with pytest.raises(LabError, match="一块也没有问成.*问了 3 次.*--retry-failed"):
            generate(ONE, "m", tmp_path, PROMPTS)
        assert len(server.calls) == 3 and len(records(tmp_path)) == 4
        with pytest.raises(LabError, match="一块也没有问成"):
            generate(ONE, "m", tmp_path, PROMPTS)
        assert len(server.calls) == 3  # 付过钱的失败，不说就不再付
        server.content = None
        assert len(generate(ONE, "m", tmp_path, PROMPTS, retry_failed=True).files) == 1
        assert len(server.calls) == 4
    assert (tmp_path / "responses" / "failures.jsonl").read_bytes() == b""


def test_half_a_reply_is_kept_when_asking_again_does_not_help(tmp_path, monkeypatch):
    whole = {"question": "几天办完？", "answer": "十一天。"}
    half = json.dumps({"pairs": [whole, whole]}, ensure_ascii=False)[:-12]
    with serve(monkeypatch, content=half) as server:
        result = generate(ONE, "m", tmp_path, PROMPTS)
    assert len(server.calls) == 3 and len(result.files) == 1 and result.failures == []


def test_reply_cut_at_the_length_limit_is_not_asked_again(tmp_path, monkeypatch):
    with serve(monkeypatch, content='{"pairs": [{"conver', finish="length") as server:
        with pytest.raises(LabError, match="长度上限"):
            generate(ONE, "m", tmp_path, PROMPTS)
    assert len(server.calls) == 1


def test_nothing_to_ask_is_an_answer(tmp_path, monkeypatch):
    with serve(monkeypatch, content='{"pairs": []}') as server:
        assert len(generate(ONE, "m", tmp_path, PROMPTS).files) == 1
    assert len(server.calls) == 1


def test_retry_failed_asks_nothing_else(tmp_path, monkeypatch, capsys):
    with serve(monkeypatch, script=[400, 400, 400]) as server:
        result = generate(CHUNKS[:3], "m", tmp_path, PROMPTS, concurrency=1)
        assert [f["chunk"] for f in result.failures] == [1] and "失败 1 次" in capsys.readouterr().out
        before = len(server.calls)
        result = generate(CHUNKS, "m", tmp_path, PROMPTS, retry_failed=True)
        assert len(server.calls) == before + 1 and len(result.files) == 3
    saved = (tmp_path / "responses" / "failures.jsonl").read_text(encoding="utf-8")
    assert saved == ""


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

def formats(server):
    return [body.get("response_format", {}).get("type") for body, _ in server.seen]


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


# ---- 钱 ----

PRICED = """
shop: {title: 店, base_url: URL, key_env: OPENAI_API_KEY, model: m, currency: 元,
       prices: {m: {input: 1000, output: 2000}}}
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """一个有价格的预设：每次调用 100 × 1000 + 50 × 2000（每百万）＝ 0.2 元。"""
    with serve(monkeypatch) as server:
        path = tmp_path / "presets.yaml"
        path.write_text(PRICED.replace("URL", server.url), encoding="utf-8")
        monkeypatch.setattr(generation, "find_service",
                            lambda preset, model: find_service(preset, model, path))
        yield server


def test_estimate_above_the_limit_stops_before_any_call(tmp_path, shop):
    with pytest.raises(LabError, match=r"估算 约 [\d.]+ 元，超过上限 0.1，还没有调用，没有花钱"):
        generate(CHUNKS, "", tmp_path, PROMPTS, preset="店", max_cost=0.1)
    assert shop.calls == []


def test_confirmed_estimate_goes_on_and_money_is_reported(tmp_path, shop, capsys):
    asked = []
    generate(CHUNKS, "", tmp_path, PROMPTS, preset="shop", max_cost=0.1,
             confirm=lambda problem: asked.append(problem) or True)
    assert len(shop.calls) == 6 and asked[0].endswith("超过上限 0.1。")
    assert re.search(r"估算：6 次调用.*元", out := capsys.readouterr().out)
    assert "实际：6 次调用，输入 600、输出 300 个 token，约 1.2 元" in out


def test_refused_estimate(tmp_path, shop):
    with pytest.raises(LabError, match="没有花钱"):
        generate(CHUNKS, "", tmp_path, PROMPTS, preset="shop", max_cost=0.1, confirm=lambda q: False)
    assert shop.calls == []


def test_actual_cost_above_the_limit_stops_and_keeps_what_came(tmp_path, shop, monkeypatch):
    monkeypatch.setattr("labutils.dataset.service.OUTPUT_TOKENS_PER_PAIR", 1)  # 估算远低于实际
    few = Prompts("", "{{文本}}")
    with pytest.raises(LabError, match="已花约 0.8 元，超过上限 0.7.*已收到的回复都在"):
        generate(CHUNKS, "", tmp_path, few, preset="shop", max_cost=0.7, concurrency=1)
    assert len(shop.calls) == 4
    generate(CHUNKS, "", tmp_path, few, preset="shop", max_cost=0.7, concurrency=1)
    assert len(shop.calls) == 6


def test_limit_without_a_price(tmp_path, monkeypatch):
    with serve(monkeypatch) as server, pytest.raises(LabError, match="价格没有填.*api_presets.yaml"):
        generate(CHUNKS, "m", tmp_path, PROMPTS, max_cost=1)
    assert server.calls == []


def test_usage_missing_is_guessed_and_said(tmp_path, monkeypatch, capsys):
    with serve(monkeypatch, usage=False):
        generate(CHUNKS, "m", tmp_path, PROMPTS)
    assert "其中 6 次服务器没有报用量" in capsys.readouterr().out


# ---- Ctrl-C、事件循环、锁 ----

CHILD = """
import sys
from labutils.dataset.clean import Chunk
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


def test_two_runs_in_one_folder_do_not_pay_twice(tmp_path, monkeypatch):
    with serve(monkeypatch, delay=0.5) as server:
        first = threading.Thread(target=generate, args=(CHUNKS, "m", tmp_path, PROMPTS))
        first.start()
        while not server.calls:
            time.sleep(0.01)
        with pytest.raises(LabError, match="另一个程序正在"):
            generate(CHUNKS, "m", tmp_path, PROMPTS)
        first.join()
    assert len(server.calls) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="要用 /dev/full")
def test_disk_full_is_one_sentence_and_stops_paying(tmp_path, monkeypatch):
    from labutils.dataset.progress import Progress

    opened = Progress.__enter__

    def full(self):
        opened(self)
        self._file.close()
        self._file = open("/dev/full", "ab", buffering=0)
        return self

    with serve(monkeypatch) as server:
        generate(CHUNKS[:2], "m", tmp_path, PROMPTS)
        monkeypatch.setattr(Progress, "__enter__", full)
        with pytest.raises(LabError, match="磁盘满了.*progress.jsonl.*腾出空间后再运行"):
            generate(CHUNKS, "m", tmp_path, PROMPTS, concurrency=1)
        assert len(server.calls) == 3  # 存不下，就不再问下一块
    assert len(records(tmp_path)) == 2


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
