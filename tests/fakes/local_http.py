"""测试用的本机服务器共用的部分：回一份完整的正文、不打印日志、起与停。"""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler


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
