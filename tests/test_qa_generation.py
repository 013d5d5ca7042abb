"""出题：回复怎么坏都不崩、不编；调用断了接着做；密钥不外露。服务器是真的，跑在本机。"""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from labutils.chunking import Chunk
from labutils.errors import LabError
from labutils.qa_generation import (
    Prompts,
    fill,
    generate,
    load_prompts,
    make_client,
    messages_for,
    parse_response,
    replay,
)
from labutils.text_normalize import normalize

KEY = "sk-secret-123456"
PROMPTS = Prompts(system="出题", user="第 {{页码}} 页，{{问答对数}} 对：{{文本}}", total_pairs=6)
CHUNKS = [Chunk("线上计划4000门。", (1,)), Chunk("继续建设五年。", (1, 2))]


def item(question="计划多少门？", answer="4000门左右。", **extra):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"conversations": messages, "fact_id": "F01", "key_points": ["4000门"], "page": 1,
            "evidence": "计划4000门", **extra}


def dump(*items):
    return json.dumps(items, ensure_ascii=False, indent=1)


# ---- 解析 ----

def test_clean_array():
    pairs, problems = parse_response(dump(item(), item("总共建几门？")))
    assert [p["question"] for p in pairs] == ["计划多少门？", "总共建几门？"] and not problems
    assert pairs[0] == {"fact_id": "F01", "key_points": ["4000门"], "page": 1,
                        "evidence": "计划4000门", "question": "计划多少门？",
                        "answer": "4000门左右。"}


@pytest.mark.parametrize(
    "wrap",
    [
        "好的，下面是结果：\n{}\n希望有帮助！",
        "```json\n{}\n```",
        "<think>\n先出一题 {{\"conversations\": []}} 再说\n</think>\n{}",
        "没有开头标记的思考</think>\n```\n{}\n```\n以上。",
        '{{"data": {}}}',
    ],
)
def test_wrapping_is_removed(wrap):
    pairs, problems = parse_response(wrap.format(dump(item())))
    assert len(pairs) == 1 and not problems


def test_one_object_per_line_without_array():
    text = "\n".join(json.dumps(item(f"第{i}问是什么？"), ensure_ascii=False) for i in range(3))
    assert len(parse_response(text)[0]) == 3


@pytest.mark.parametrize("position", range(20, len(dump(item("第二题是什么？"))) - 2, 7))
def test_cut_off_last_item_is_dropped_wherever_it_breaks(position):
    whole, second = dump(item()), dump(item("第二题是什么？"))
    text = whole.rstrip("]\n") + ",\n" + second.lstrip("[\n")[:position]
    pairs, problems = parse_response(text)
    if len(pairs) == 2:  # 刚好断在最后一个 } 之后，内容是全的
        assert pairs[1]["evidence"] == "计划4000门"
        return
    assert [p["question"] for p in pairs] == ["计划多少门？"]
    assert len(problems) == 1 and "断" in problems[0]["reason"] and not problems[0]["fixed"]


@pytest.mark.parametrize(
    ("old", "new"),
    [('"计划4000门"', '"计划4000门",'), ('["4000门"]', '["4000门",]'), ('"page": 1', "'page': 1"),
     ('"page"', "page"), ("4000门左右。", '约"4000门"。'), ("4000门左右。", "4000门\n左右。")],
)
def test_small_defects_are_repaired_and_reported(old, new):
    text = json.dumps([item()], ensure_ascii=False).replace(old, new)
    pairs, problems = parse_response(text)
    assert len(pairs) == 1 and pairs[0]["page"] == 1
    assert new.strip('",[]') in text
    assert all(p["fixed"] and "已修好" in p["reason"] for p in problems)


@pytest.mark.parametrize("answer", ['线上,"4000门",左右', '甲","乙', "4000门\\"])
def test_repair_must_not_lose_or_move_a_word(answer):
    text = dump(item()).replace("4000门左右。", answer)
    pairs, problems = parse_response(text)
    kept = [normalize(p["answer"]) for p in pairs]  # 标点不论，字一个也不能少
    assert kept in ([], [normalize(answer)]) and (kept or not problems[0]["fixed"])


def test_broken_item_does_not_swallow_the_next():
    bad = '{"conversations": [{"role": "user", "content": "没有下文'
    text = "[" + bad + ",\n" + dump(item()).lstrip("[")
    pairs, problems = parse_response(text)
    assert [p["question"] for p in pairs] == ["计划多少门？"] and len(problems) == 1


@pytest.mark.parametrize(
    ("conversations", "reason"),
    [([], "不是一问一答"), ([{"role": "user", "content": "只有问"}], "不是一问一答"),
     ([{"role": "human", "content": "问"}, {"role": "gpt", "content": "答"}], "不是一问一答")],
)
def test_wrong_shape_is_dropped_with_reason(conversations, reason):
    pairs, problems = parse_response(dump({"conversations": conversations}))
    assert pairs == [] and reason in problems[0]["reason"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "空的"), ("<think>想到一半", "空的"), ("抱歉，我不能。", "没有问答"),
     ('{"error": 1}', "没有问答")],
)
def test_nothing_found_is_a_problem(text, reason):
    pairs, problems = parse_response(text)
    assert pairs == [] and reason in problems[0]["reason"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"conversations": ' + "[" * 100_000 + "]" * 100_000 + "}", "太深"),
     (dump(item("\ud83d 是什么？")).encode("ascii", "backslashreplace").decode(), "残缺")],
)
def test_hostile_replies_are_dropped_not_fatal(text, reason):
    pairs, problems = parse_response("[" + text + "]")
    assert pairs == [] and reason in problems[0]["reason"]


def test_enormous_page_number_is_not_fatal():
    text = dump(item()).replace('"page": 1', '"page": ' + "9" * 5000)
    pairs, problems = parse_response(text)
    assert len(pairs) + len(problems) >= 1


def test_empty_array_means_nothing_to_ask():
    assert parse_response("这一段没有可出的题：\n[]") == ([], [])


# ---- 提示词 ----

def test_shipped_prompts():
    prompts = load_prompts()
    system, user = messages_for(Chunk("原文{a}", (2, 3)), 10, prompts)
    assert "不得编造" in system["content"] and "conversations" in user["content"]
    assert "原文{a}" in user["content"] and "2、3" in user["content"]
    assert "15 个问答对" in user["content"] and "{{" not in user["content"]


def test_markers_inside_the_document_stay():
    text = "代码 {x} {{页码}} %s $HOME {{别的}}"
    assert fill("第{{页码}}页：{{文本}}", {"页码": 1, "文本": text}) == "第1页：" + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("user: '{{文本}}'", "缺少文字 system"),
        ("system: 甲\nuser: 没有文本", "看不到文档"),
        ("system: 甲\nuser: '{{文本}} {{页数}}'", "不认识的占位符 页数"),
        ("system: 甲\nuser: '{{文本}}'\ntemprature: 1", "不认识的键 temprature"),
        ("system: 甲\nuser: '{{文本}}'\nchunk_size: 大", "应是数字"),
        ("system: [", "第 1 行附近不是合法的 YAML"),
        ("只是文字", "键: 值"),
    ],
)
def test_bad_prompt_file(tmp_path, content, reason):
    path = tmp_path / "prompt.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LabError, match=reason) as caught:
        load_prompts(path)
    assert "prompt.yaml" in str(caught.value)


def test_missing_prompt_file(tmp_path):
    with pytest.raises(LabError, match="不存在"):
        load_prompts(tmp_path / "none.yaml")


# ---- 调用 ----

class Stub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((body, self.headers["Authorization"]))
        step = self.server.script.pop(0) if self.server.script else 200
        code, delay = step if isinstance(step, tuple) else (step, 0)
        time.sleep(delay)
        if code == 200:
            message = {"role": "assistant", "content": self.server.reply}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
                      "choices": [choice]}
        else:
            answer = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code == 429:
            self.send_header("retry-after", "0.05")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextmanager
def serve(monkeypatch, script=(), reply="[]"):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.script, server.seen, server.reply = list(script), [], reply
    server.handle_error = lambda *args: None  # 客户端超时先挂断，不必打印
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_one_call_per_chunk_and_raw_replies_saved(tmp_path, monkeypatch, capsys):
    reply = "<think>想\r\n</think>" + dump(item())
    with serve(monkeypatch, reply=reply) as server:
        paths = generate(CHUNKS, "出题模型", tmp_path, PROMPTS)
    assert [p.name for p in paths] == ["001.txt", "002.txt"]
    assert [p.read_bytes().decode() for p in paths] == [reply, reply]
    body, key = server.seen[1]
    assert body["model"] == "出题模型" and key == f"Bearer {KEY}"
    assert body["messages"][1]["content"] == "第 1、2 页，3 对：继续建设五年。"
    everything = capsys.readouterr().out + "".join(
        p.read_text(encoding="utf-8") for p in tmp_path.rglob("*") if p.is_file())
    assert KEY not in everything and "还要调用 2 次" in everything


def test_resume_calls_only_what_is_missing(tmp_path, monkeypatch):
    with serve(monkeypatch, script=[200, 401]):
        with pytest.raises(LabError, match="已收到的回复都在"):
            generate(CHUNKS, "m", tmp_path, PROMPTS)
    assert (tmp_path / "responses" / "001.txt").exists()
    with serve(monkeypatch) as server:
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        assert len(server.seen) == 1 and "五年" in server.seen[0][0]["messages"][1]["content"]
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        assert len(server.seen) == 1  # 全有了，一次也不再调用
        generate(CHUNKS, "另一个模型", tmp_path, PROMPTS)
        assert len(server.seen) == 3  # 模型换了，旧回复不能冒充


def test_interrupted_between_reply_and_record(tmp_path, monkeypatch):
    with serve(monkeypatch) as server:
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        record = tmp_path / "responses" / "progress.json"
        done = json.loads(record.read_text(encoding="utf-8"))
        del done["002.txt"]
        record.write_text(json.dumps(done), encoding="utf-8")
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        assert len(server.seen) == 3
        record.write_text("{", encoding="utf-8")
        with pytest.raises(LabError, match="progress.json 坏了"):
            generate(CHUNKS, "m", tmp_path, PROMPTS)


def test_finished_run_needs_no_key(tmp_path, monkeypatch):
    with serve(monkeypatch):
        generate(CHUNKS, "m", tmp_path, PROMPTS)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert len(generate(CHUNKS, "m", tmp_path, PROMPTS)) == 2


def test_busy_and_broken_server_is_retried(tmp_path, monkeypatch):
    with serve(monkeypatch, script=[429, 500, 200, 200]) as server:
        generate(CHUNKS, "m", tmp_path, PROMPTS)
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("code", "reason"),
    [(401, "不认这个密钥"), (403, "没有使用 m 的权限"), (404, "没有模型 m"),
     (429, "太频繁"), (400, "出错（400）"), (500, "出错（500）")],
)
def test_errors_are_one_clear_sentence_without_the_key(tmp_path, monkeypatch, code, reason):
    with serve(monkeypatch, script=[code] * 9), pytest.raises(LabError) as caught:
        generate(CHUNKS, "m", tmp_path, PROMPTS, client=make_client(max_retries=0))
    message = str(caught.value)
    assert reason in message and "127.0.0.1" in message or code == 403
    assert reason in message and KEY not in message and "\n" not in message
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_timeout(tmp_path, monkeypatch):
    with serve(monkeypatch, script=[(200, 0.5)]), pytest.raises(LabError, match="超时"):
        generate(CHUNKS, "m", tmp_path, PROMPTS, client=make_client(timeout=0.1, max_retries=0))


def test_nothing_listening(tmp_path, monkeypatch):
    with serve(monkeypatch):
        pass
    with pytest.raises(LabError, match="连不上 127.0.0.1"):
        generate(CHUNKS, "m", tmp_path, PROMPTS, client=make_client(max_retries=0))


def test_empty_reply_is_not_saved_as_done(tmp_path, monkeypatch):
    with serve(monkeypatch, reply=""), pytest.raises(LabError, match="没有返回文字"):
        generate(CHUNKS, "m", tmp_path, PROMPTS)
    assert not list((tmp_path / "responses").glob("*.txt"))


def test_no_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(LabError, match="OPENAI_API_KEY.*回放"):
        generate(CHUNKS, "m", tmp_path, PROMPTS)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert make_client().api_key == "none"  # 本地服务不要密钥


# ---- 回放 ----

def test_replay_says_so(tmp_path, capsys):
    (tmp_path / "02.txt").write_text("乙", encoding="utf-8")
    (tmp_path / "01.txt").write_text("甲", encoding="utf-8")
    assert [p.name for p in replay(tmp_path)] == ["01.txt", "02.txt"]
    out = capsys.readouterr().out
    assert "没有调用 API" in out and out.count("\n") == 1


def test_replay_without_samples(tmp_path):
    with pytest.raises(LabError, match="没有样例回复"):
        replay(tmp_path)
