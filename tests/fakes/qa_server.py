"""测试用的真服务器：兼容 OpenAI 的出题接口，跑在本机，按块捣乱，并记下每一次调用。

每一块的毛病由它的文字决定（见 fault_of），所以同一份文档每次遇到的毛病相同；
会好的毛病只在第一次出现，重复的、没有根据的问答次次都有。
"""

import hashlib
import json
import os
import random
import re
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from fakes.openai_fake import QuietHandler, serving

from labutils.dataset.generation import generate
from labutils.dataset.prompts import Chunk, Prompts, load_prompts

KEY = "sk-sentinel-8f3a9c1d7e"
PROMPTS = Prompts(system="出题 JSON", user="第 {{页码}} 页，{{问答对数}} 对：\n{{文本}}",
                  unanswerable="写 {{问题数}} 个：\n{{文本}}", chars_per_fact=100)
CHUNKS = [Chunk(f"第{i}号事项的办理期限是{i + 10}天。", (i,)) for i in range(1, 7)]
ONE = CHUNKS[:1]
TEMPORARY = ("429", "500", "slow", "reset", "empty", "truncated", "wrong_schema", "html")
LASTING = ("duplicated", "ungrounded")
FACT = re.compile(r"第(\d+)号事项的办理期限是(\d+)天")


def fault_of(text, share):
    """这一块的毛病；share 是有毛病的块占多少（0–1）。"""
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16)
    if number % 1000 >= share * 1000:
        return ""
    kinds = TEMPORARY + LASTING
    return kinds[number // 1000 % len(kinds)]


def pairs_for(text):
    """这块文字里每个事项出两种问法。"""
    items = []
    for number, days in FACT.findall(text):
        for question in (f"第{number}号事项要几天办完？", f"办理{number}号事项的期限有多长？"):
            items.append({
                "conversations": [{"role": "user", "content": question},
                                  {"role": "assistant", "content": f"第{number}号事项的期限是{days}天。"}],
                "fact_id": f"F{number}", "key_points": [f"{days}天"], "page": 1,
                "evidence": f"第{number}号事项的办理期限是{days}天"})
    return items


def ungrounded(items):
    return items + [{**items[0], "fact_id": "F99999", "evidence": "文件里没有的一句话",
                     "conversations": [{"role": "user", "content": "没有根据的问题是什么？"},
                                       {"role": "assistant", "content": items[0]["key_points"][0]}]}]


class Handler(QuietHandler):
    disable_nagle_algorithm = True  # 否则头和正文分两次发，每个回复平白多等 40 毫秒

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"].split("：\n")[-1].strip()
        with self.server.lock:
            count = self.server.counts[text] = self.server.counts.get(text, 0) + 1
            self.server.seen.append((body, self.headers["Authorization"]))
            self.server.active += 1
            self.server.most_active = max(self.server.most_active, self.server.active)
        call = {"text": text, "start": time.time(), "paid": False}
        self.server.calls.append(call)
        try:
            step = self.server.step(body, text, count)
            self.answer(step, text, body, call)
        finally:
            call["end"] = time.time()
            with self.server.lock:
                self.server.active -= 1

    def answer(self, step, text, body, call):
        if isinstance(step, tuple):
            return self.send(json.dumps(step[1]).encode(), step[0])
        if step in (429, "429"):
            return self.error(429, ("Retry-After", self.server.retry_after))
        if step == "500" or isinstance(step, int):
            return self.error(int(step))
        if step == "reset":  # 发 RST：对方看到的是 connection reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return self.connection.close()
        time.sleep(self.server.delay * (3 if step == "slow" else 1))
        call["paid"] = True
        if step == "empty":
            return self.send(b"")
        if step == "html":
            return self.send(b"<html>gateway</html>", kind="text/html")
        return self.reply(step, text, body)

    def reply(self, step, text, body):
        items = pairs_for(text) if self.server.content is None else []
        content = json.dumps({"pairs": items}, ensure_ascii=False)
        if self.server.content is not None:
            content = self.server.content
        elif step == "truncated":
            content = content[: len(content) * 2 // 3]
        elif step == "wrong_schema":
            content = json.dumps({"questions": [i["conversations"][0]["content"] for i in items]})
        elif step == "duplicated":
            content = json.dumps({"pairs": items + items}, ensure_ascii=False)
        elif step == "ungrounded" and items:
            content = json.dumps({"pairs": ungrounded(items)}, ensure_ascii=False)
        message = {"role": "assistant", "content": content}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
                  "choices": [{"index": 0, "message": message, "finish_reason": self.server.finish}]}
        if self.server.usage:
            answer["usage"] = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
        answer = self.server.change(answer)
        self.send(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def error(self, code, *headers):
        extra = {"code": self.server.error_code, "param": self.server.error_param}
        message = f"Incorrect API key provided: {KEY} {self.headers['Authorization']}"
        self.send(json.dumps({"error": {"message": message, **extra}}).encode(), code, *headers)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.counts, self.seen, self.calls = threading.Lock(), {}, [], []
        self.script, self.share, self.delay, self.retry_after = [], 0.0, 0.0, "0.05"
        self.content, self.finish, self.usage = None, "stop", True
        self.error_code = self.error_param = None
        self.refuses = lambda body: False  # 不认识的参数：返回 True 就答 400，也可以是 (状态码, 正文)
        self.change = lambda answer: answer  # 回答的信封换个样子
        self.active = self.most_active = 0

    def step(self, body, text, count):
        """这一次怎么答：先照 script，再看是不是有不认的参数，最后看这一块的毛病。"""
        if refused := self.refuses(body):
            return 400 if refused is True else refused
        with self.lock:
            if self.script:
                return self.script.pop(0)
        fault = fault_of(text, self.share)
        return fault if fault in LASTING or count == 1 else "ok"

    def paid(self):
        """{块的文字: 完整回复过几次}。"""
        texts = [call["text"] for call in self.calls if call["paid"]]
        return {text: texts.count(text) for text in texts}


@contextmanager
def serve(monkeypatch=None, **settings):
    """起一台服务器；给了 monkeypatch 就把环境变量指向它。settings 是 Server 的属性。"""
    server = Server()
    for name, value in settings.items():
        assert hasattr(server, name), name
        setattr(server, name, value)
    with serving(server):
        if monkeypatch:
            monkeypatch.setenv("OPENAI_API_KEY", KEY)
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


def records(folder):
    """进度文件里的每一行。"""
    lines = (folder / "responses" / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def generate_in_child(url, source, out):
    """在另一个进程里出题，随时可能被杀；source 是 [[文字, 页码]] 的 JSON。"""
    os.environ |= {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": url}
    sys.stdout = open(os.devnull, "w")
    with open(source, encoding="utf-8") as file:
        pieces = [Chunk(text, tuple(pages)) for text, pages in json.load(file)]
    generate(pieces, "m", out, load_prompts(), concurrency=8)


OFFICES = ("教务处", "学生处", "财务处", "图书馆")
RULES = ("申请人应当提前提交材料", "逾期未办的视为同意", "特殊情况可以顺延一次", "结果在网上公布")


def long_text(pages=40, facts_per_page=27, seed=48):
    """一份有许多事项的规定，给出每一页的文字。按 400 字切块时 40 页约 120 块。"""
    rng = random.Random(seed)

    def line(number):
        return (f"第{number}号事项的办理期限是{rng.randint(10, 99)}天，由{rng.choice(OFFICES)}受理和答复，"
                f"{rng.choice(RULES)}。\n")

    return ["".join(line(page * 100 + i) for i in range(facts_per_page)) for page in range(1, pages + 1)]
