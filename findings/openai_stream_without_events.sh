#!/usr/bin/env bash
# openai 客户端的 stream=True：服务器没有按流式回答（一份 JSON、一份 JSON 的错误、一张登录网页），得到的是
# 一个空的流，不报错
#
# 【先猜】（运行之前写下）
#   HTTP 200，但 Content-Type 不是 text/event-stream。客户端知道自己要的是流，所以会报错（响应的格式不对），
#   或者至少把 {"error": …} 变成 APIError：不带 stream 时，同样的 JSON 读得出来；流里的 {"error": …} 也会引发 APIError。
#
# 【实际】openai 3.54.0 三种都给出零个 chunk，循环正常结束，没有异常、没有警告。
#   “模型一个字也没有说”和“代理不支持流式”“额度用完（200 里带着 error）”“要先登录”于是分不出来。
#   作为对照：同一份错误放在一个 data: 事件里，引发 APIError；{"code": …, "message": …} 放在事件里不引发，
#   得到一个 choices 为 None 的 chunk。
#
# 【为什么】_streaming.py 按 SSE 一行行读：不是“data:”开头的行当作不认识的字段略过，读完就算流结束；
#   Content-Type 没有检查。
#
# 【伤到谁】套着网关、校园网认证、不支持流式的自建服务的聊天程序：页面显示一条空回答，像是答完了。
#
# 【怎么避开】一个 chunk 也没有收到就当作出错；读 stream.response.headers["content-type"] 说出原因；
#   choices 是 None 的 chunk 看它的其余字段（chunk.model_extra）。
#
# 版本：openai 3.54.0，Python 3.11，Linux。日期：2026-11-28。
#
# 【看到的输出】
#   openai 3.54.0
#     application/json  一份完整的回答             0 个 chunk，没有异常
#     application/json  {"error": …}        0 个 chunk，没有异常
#     text/html         登录网页                0 个 chunk，没有异常
#     text/event-stream {"error": …}        APIError
#     text/event-stream {"code", "message"} 1 个 chunk，choices None，没有异常

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet openai==3.54.0

venv/bin/python -I - <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai

ANSWER = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [
    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}]}
ERROR = {"error": {"message": "no quota left", "code": "insufficient_quota"}}
REPLIES = [  # Content-Type，说明，正文，预期
    ("application/json", "一份完整的回答", json.dumps(ANSWER), "0 个 chunk，没有异常"),
    ("application/json", '{"error": …}', json.dumps(ERROR), "0 个 chunk，没有异常"),
    ("text/html", "登录网页", "<html><body>Please log in</body></html>", "0 个 chunk，没有异常"),
    ("text/event-stream", '{"error": …}', f"data: {json.dumps(ERROR)}\n\n", "APIError"),
    ("text/event-stream", '{"code", "message"}', 'data: {"code": 30001, "message": "no money"}\n\n',
     "1 个 chunk，choices None，没有异常"),
]


class Reply(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        kind, _, text, _ = self.server.reply
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def outcome():
    try:
        chunks = list(client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True))
    except openai.APIError as error:
        return type(error).__name__
    choices = f"，choices {chunks[0].choices}" if chunks else ""
    return f"{len(chunks)} 个 chunk{choices}，没有异常"


server = HTTPServer(("127.0.0.1", 0), Reply)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
print(f"openai {openai.__version__}")
changed = []
for server.reply in REPLIES:
    kind, what, _, expected = server.reply
    seen = outcome()
    print(f"  {kind:<18}{what:<20}{seen}")
    changed += [f"{kind} {what}：{seen}（原来：{expected}）"] * (seen != expected)
if changed:
    sys.exit("行为变了：" + "；".join(changed))
PY
