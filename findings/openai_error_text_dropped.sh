#!/usr/bin/env bash
# openai 客户端 3.x：服务器说了为什么拒绝，异常的文字里却只剩“Error code: 422”
#
# 【先猜】（运行之前写下）
#   openai.BadRequestError、UnprocessableEntityError 的 str(error) 带着服务器的回答（一直是
#   “Error code: 400 - {…}”），所以从文字里就看得出不认的是哪个参数；四种常见的写法都一样。
#
# 【实际】2.8.0 猜对了，四种都带着。3.54.0 只留 {"error": {"message": …}} 和 {"message": …} 里的那句话；
#   FastAPI 的 {"detail": …}（自己架的服务多半是它，422 的参数错误总是它）、{"error": "一句话"}、{"msg": …}
#   在 str(error) 与 error.message 里都没有了，也没有提醒。error.body 里还在。
#
# 【为什么】_base_client.py 的 _make_status_error_from_response：异常的文字只放“专门的 message 字段”，
#   其余留给属性。前一种行为是整个 body 都写进去。
#
# 【伤到谁】用 str(error) 写日志、给用户看，或靠文字判断“是不是不认 temperature，去掉再试”的程序：
#   升级之后同样的拒绝变成一句“Error code: 422”，既看不出原因，也不会再退一步。
#
# 【怎么避开】判断与显示都看 error.body（可能是字典、列表或文字）；它不全时再看 error.response.text。
#
# 版本：openai 2.8.0 与 3.54.0，Python 3.11，Linux。日期：2026-11-28。
#
# 【看到的输出】
#   openai 2.8.0
#     {"error": {"message": …}}  文字里有  body 里有
#     {"detail": …}              文字里有  body 里有
#     {"error": "…"}             文字里有  body 里有
#     {"msg": …}                 文字里有  body 里有
#   openai 3.54.0
#     {"error": {"message": …}}  文字里有  body 里有
#     {"detail": …}              文字里没有  body 里有
#     {"error": "…"}             文字里没有  body 里有
#     {"msg": …}                 文字里没有  body 里有

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1

cat > ask.py <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai

REASON = "temperature is not supported here"
BODIES = {'{"error": {"message": …}}': {"error": {"message": REASON}}, '{"detail": …}': {"detail": REASON},
          '{"error": "…"}': {"error": REASON}, '{"msg": …}': {"msg": REASON}}


class Refuse(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(self.server.body).encode()
        self.send_response(422)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = HTTPServer(("127.0.0.1", 0), Refuse)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
told, kept = [], []
print(f"openai {openai.__version__}")
for shape, server.body in BODIES.items():
    try:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    except openai.UnprocessableEntityError as error:
        told.append(REASON in str(error) and REASON in error.message)
        kept.append(REASON in json.dumps(error.body))
        print(f"  {shape:<27}文字里{'有' if told[-1] else '没有'}  body 里{'有' if kept[-1] else '没有'}")
expected = [True] * 4 if openai.__version__.startswith("2.") else [True, False, False, False]
if told != expected or not all(kept) or len(kept) != 4:
    sys.exit(f"行为变了：openai {openai.__version__} 的文字 {told}（原来 {expected}），body {kept}")
PY

"${PYTHON:-python3}" -m venv venv
for version in 2.8.0 3.54.0; do
  venv/bin/python -m pip install --quiet "openai==$version"
  venv/bin/python -I ask.py
done
