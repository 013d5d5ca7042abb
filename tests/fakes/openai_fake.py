"""测试用的真服务器：兼容 OpenAI 接口，跑在本机，按脚本逐段回答（SSE）或出错；共用的部分也在这里。"""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-secret-654321"
MODEL = "glm-merged"
ANSWER = "\n 有效期五年，到期重新认定。"  # ChatGLM3 的回答以换行和空格开头


class QuietHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def send(self, data, code=200, *headers, kind="application/json"):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextmanager
def serving(server):
    """在另一个线程里跑 server，给出它；url 是兼容 OpenAI 接口的地址。"""
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    server.handle_error = lambda *args: None  # 客户端先挂断、被杀掉，都不必打印
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Handler(QuietHandler):
    """server.script 是每次提问怎么答，用完后都正常回答：状态码，"slow"、"cut"、"html"、"empty"，

    一串流式的 JSON（后面没有 [DONE]），或整个的一个 JSON。
    """

    def do_GET(self):
        self.server.keys.append(self.headers["Authorization"])
        if self.server.models_code != 200:
            return self.fail(self.server.models_code)
        names = [{"id": n, "object": "model", "created": 1, "owned_by": "x"} for n in self.server.models]
        return self.send(json.dumps({"object": "list", "data": names}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        self.server.keys.append(self.headers["Authorization"])
        step = self.server.script.pop(0) if self.server.script else 200
        if step == "html":
            return self.send(b"<html>nothing here</html>", kind="text/html")
        if step == "slow":
            time.sleep(1.0)
        if isinstance(step, int) and step != 200:
            return self.fail(step)
        if isinstance(step, dict):
            return self.send(json.dumps(step).encode())
        if isinstance(step, list):
            lines = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in step)
            return self.send(f": ping\n\n{lines}".encode(), kind="text/event-stream")
        return self.stream("" if step == "empty" else ANSWER, cut=step == "cut")

    def stream(self, text, cut):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for letter in text:
                self.event(json.dumps({"id": "1", "object": "chat.completion.chunk", "created": 1,
                                       "model": MODEL, "choices": [{"index": 0, "finish_reason": None,
                                                                    "delta": {"content": letter}}]}))
                self.server.sent += 1
                time.sleep(self.server.delay)
                if cut and self.server.sent == 5:
                    self.close_connection = True
                    return self.connection.close()
            self.event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.hung_up += 1

    def event(self, data):
        line = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def fail(self, code):
        self.send(json.dumps({"error": {"message": f"bad key {KEY}"}}).encode(), code, ("Retry-After", "60"))


@contextmanager
def running(script=(), models=(MODEL,), models_code=200, delay=0.0):
    """起一台服务器；给出它，url 是接口的地址。"""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.script, server.models, server.models_code, server.delay = list(script), models, models_code, delay
    server.seen, server.keys, server.sent, server.hung_up = [], [], 0, 0
    with serving(server):
        yield server
