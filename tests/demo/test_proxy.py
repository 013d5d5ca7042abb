"""放在 nginx 后面的一个路径里：页面、流式、登录都照常；没有装 nginx 就跳过。"""

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
from fakes.web_fakes import ANSWER, AdapterModel, CharTokenizer, FakeStream
from gradio_client import Client

from labutils.demo import server

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from web_visitor import Visitor, functions  # noqa: E402

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="找不到 nginx")
CONFIG = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /course/demo/ {{
      proxy_pass http://127.0.0.1:{inner}/;
      proxy_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}
}}
"""


@pytest.fixture
def outer(tmp_path):
    """（网页, 它的假模型, 从 nginx 进来的网址）。"""
    stream = FakeStream(delay=0.02)
    with server.launch(AdapterModel(), CharTokenizer(), stream=stream,
                         root_path="/course/demo", auth=("student", "word")) as demo:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = tmp_path / "nginx.conf"
        config.write_text(CONFIG.format(folder=tmp_path, port=port, inner=demo.url.rsplit(":", 1)[1]))
        process = subprocess.Popen([NGINX, "-c", str(config), "-p", str(tmp_path)])
        try:
            _wait(port)
            yield demo, stream, f"http://127.0.0.1:{port}/course/demo/"
        finally:
            process.terminate()
            process.wait(20)


def _wait(port: int) -> None:
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nginx 没有起来")


def test_page_and_streaming_work_behind_nginx(outer):
    demo, _, url = outer
    assert httpx.get(url + "config").status_code == 401
    assert httpx.get(url + "gradio_api/upload").status_code == 404
    client = Client(url, auth=demo.auth, verbose=False)
    job = client.submit("你好", api_name="/chat")
    assert job.result(timeout=60) == "后：" + ANSWER
    assert len(set(job.outputs())) > 5  # 真的逐段到，没有被 nginx 攒起来


def test_stop_works_behind_nginx(outer):
    """页面上的“停止”从 nginx 进来，生成在半秒里停下。"""
    demo, stream, url = outer

    async def go():
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            await client.post("login", data=dict(zip(("username", "password"), demo.auth, strict=True)))
            visitor = Visitor(client, await functions(client))
            await visitor.send("不停")
            async with aclosing(visitor.read()) as lines:
                async for line, _ in lines:
                    if '"assistant"' in line:
                        break
                began = time.monotonic()
                await visitor.press("stop")
                while not stream.stopped:
                    assert time.monotonic() - began < 0.5
                    await asyncio.sleep(0.01)

    asyncio.run(go())
