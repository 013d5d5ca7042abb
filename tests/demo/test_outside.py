"""从外面看网页：真的 labutils demo 进程（密码、端口、日志、对外的连接），和放在 nginx 后面的一个路径里。"""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import aclosing, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from fakes.web_fakes import ANSWER, AdapterModel, CharTokenizer, FakeStream, free_port
from gradio_client import Client

from labutils.demo import server

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from web_visitor import Visitor, functions  # noqa: E402

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@contextmanager
def demo(tmp_path, *options, **environment):
    """开一个网页，给出 (网址, 进程, 读到现在的输出的函数)；离开时结束它。"""
    log = tmp_path / "log.txt"
    env = {name: value for name, value in os.environ.items()
           if name not in ("GRADIO_ANALYTICS_ENABLED", "LAB_DEMO_AUTH")}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment}
    command = [sys.executable, "-m", "labutils", "demo", "tiny", "--feedback",
               str(tmp_path / "feedback.jsonl"), *options]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env, cwd=ROOT)
    said = lambda: log.read_text(encoding="utf-8")  # noqa: E731
    try:
        end = time.monotonic() + 120
        while "按 Ctrl+C" not in said() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        found = re.search(r"网页已打开：http://[^:]+:(\d+)", said())
        yield (f"http://127.0.0.1:{found[1]}" if found else ""), process, said
    finally:
        process.terminate()
        process.wait(20)


def test_open_to_the_network_needs_the_password_it_made(tmp_path):
    port = free_port()
    with demo(tmp_path, "--host", "0.0.0.0", "--port", str(port)) as (_, process, said):
        made = re.findall(r"用户名 (\S+)，密码 (\S+)", said())
        assert len(made) == 1 and len(made[0][1]) >= 12
        user, password = made[0]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/config").status_code == 401
            for guess in ("", "student", password[:-1], password.swapcase()):
                sent = client.post("/login", data={"username": user, "password": guess})
                assert sent.status_code >= 400 and client.get("/config").status_code == 401
            sent = client.post("/login", data={"username": user, "password": password})
            assert sent.status_code == 200 and client.get("/config").status_code == 200
        assert said().count(password) == 1  # 只显示一次，日志里没有


def test_given_password_is_never_written_and_nobody_outside_is_called(tmp_path):
    word = "mima-73a9-zhen"
    with demo(tmp_path, LAB_DEMO_AUTH=f"laoshi:{word}") as (url, process, said):
        assert 8080 <= int(url.rsplit(":", 1)[1]) < 8180  # 没有写端口：8080 或下一个空的
        with httpx.Client(base_url=url) as client:
            client.post("/login", data={"username": "laoshi", "password": "x" + word})
            client.post("/login", data={"username": "laoshi", "password": word})
            assert client.get("/config").status_code == 200
            client.post("/gradio_api/queue/join", content=b"{")  # 出错也不写出来
            connections = psutil.Process(process.pid).net_connections(kind="inet")
        outside = [c for c in connections if c.raddr and c.raddr.ip not in ("127.0.0.1", "::1")]
        assert not outside
    assert word not in said() and "Traceback" not in said()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and word in path.read_text()]


def test_a_busy_port_is_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with demo(tmp_path, "--port", str(port)) as (url, process, said):
            assert not url and process.wait(60) == 1
            assert len(said().strip().splitlines()) == 1 and f"端口 {port} 打不开" in said()


NOTHING_OUTSIDE = """
import socket, sys
asked = []
real, look = socket.socket.connect, socket.getaddrinfo
def connect(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        asked.append(address)
        raise OSError("外网被堵上了")
    return real(self, address)
def getaddrinfo(host, *rest, **more):
    if host not in (None, "127.0.0.1", "::1", "localhost", "0.0.0.0"):
        asked.append(host)
        raise socket.gaierror("外网被堵上了")
    return look(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
sys.path.insert(0, "tests")
import time
import httpx
from labutils import demo, models
model, tokenizer = models.load("tiny")
with demo.launch(model, tokenizer) as page:
    from gradio_client import Client
    print(Client(page.url, verbose=False).predict("你好", api_name="/chat"))
    time.sleep(2)
print("ASKED", asked)
"""


def test_no_name_is_looked_up_and_no_connection_made(tmp_path):
    """统计、检查新版本、下载字体……一样都没有：把外网堵上，看谁去碰它。"""
    env = {name: value for name, value in os.environ.items() if name != "GRADIO_ANALYTICS_ENABLED"}
    done = subprocess.run([sys.executable, "-c", NOTHING_OUTSIDE], env=env | {"PYTHONPATH": str(ROOT)},
                          cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("ASKED []"), done.stdout + done.stderr


# ---- 放在 nginx 后面；没有装 nginx 就跳过 ----

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="找不到 nginx")
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
        port = free_port()
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


@needs_nginx
def test_page_and_streaming_work_behind_nginx(outer):
    demo, _, url = outer
    assert httpx.get(url + "config").status_code == 401
    assert httpx.get(url + "gradio_api/upload").status_code == 404
    client = Client(url, auth=demo.auth, verbose=False)
    job = client.submit("你好", api_name="/chat")
    assert job.result(timeout=60) == "后：" + ANSWER
    assert len(set(job.outputs())) > 5  # 真的逐段到，没有被 nginx 攒起来


@needs_nginx
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
