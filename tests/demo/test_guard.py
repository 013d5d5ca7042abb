"""上限：提问频率、请求大小、登录次数，只开放页面用到的地址。"""

import asyncio
from types import SimpleNamespace

import pytest

from labutils.base.errors import LabError
from labutils.demo import guard
from labutils.demo.guard import WRONG_IN_ALL, WRONG_PASSWORDS, WRONG_SECONDS, Guard, RateLimit, Visitors


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    return now


def test_rate_limit_forgets_after_its_time(clock):
    limit = RateLimit(2, 60)
    limit.count("甲")
    limit.count("甲")
    assert limit.wait("甲") == 60 and limit.wait("乙") == 0
    clock[0] += 61
    assert limit.wait("甲") == 0


def test_rate_limit_does_not_grow(clock):
    limit = RateLimit(2, 60, sources=10)
    for i in range(1000):
        limit.count(str(i))
    assert len(limit._seen) == 10 and "999" in limit._seen


def test_each_page_has_its_own_limit_and_a_classroom_shares_one(clock):
    visitors = Visitors(per_page=3, per_address=5)
    for _ in range(3):
        visitors.check("页一", "10.0.0.1")
    with pytest.raises(LabError, match="一分钟最多 3 次，请等 60 秒"):
        visitors.check("页一", "10.0.0.1")
    visitors.check("页二", "10.0.0.1")
    visitors.check("页三", "10.0.0.1")
    with pytest.raises(LabError):
        visitors.check("页四", "10.0.0.1")  # 换标签页也躲不过
    visitors.check("页四", "10.0.0.2")
    for i in range(50):
        visitors.check(f"转发 {i}", "127.0.0.1")  # 反向代理后面都是本机地址


async def inner(scope, receive, send):
    """假的网页：读完请求，密码是 right 就放行。"""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    status = 200 if body != b"wrong" else 400
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def request(guard, path, method="GET", chunks=(b"",), headers=(), client="10.0.0.9", **more):
    """一次请求，返回 (状态, 头)；没有回应时状态是 0。"""
    scope = {"type": "http", "path": path, "method": method, "client": (client, 1),
             "headers": list(headers), **more}
    parts, sent = list(chunks), []

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return (sent[0]["status"], dict(sent[0]["headers"])) if sent else (0, {})


@pytest.mark.parametrize("path", [
    "/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/gradio_api/upload",
    "/gradio_api/proxy=http://outside.invalid", "/gradio_api/component_server",
    "/gradio_api/stream/x", "/gradio_api/vibe-edit", "/gradio_api/process_recording",
    "/monitoring", "/docs", "/openapi.json", "/file=/etc/passwd", "/../etc/passwd", "/dev/reload",
])
def test_addresses_the_page_does_not_use_are_closed(path):
    assert request(Guard(inner), path)[0] == 404


def test_pages_pass_with_protective_headers():
    for path in ("/", "/config", "/assets/index.js", "/gradio_api/queue/join", "/login"):
        status, headers = request(Guard(inner), path)
        assert status == 200 and b"default-src 'self'" in headers[b"content-security-policy"]
    assert request(Guard(inner, "/demo"), "/demo/config")[0] == 200
    assert request(Guard(inner, "/demo"), "/demo/gradio_api/upload")[0] == 404


def test_big_requests_are_refused_with_or_without_a_stated_length():
    guard = Guard(inner, max_body=100)
    said = [(b"content-length", b"101")]
    assert request(guard, "/gradio_api/queue/join", "POST", headers=said)[0] == 413
    assert request(guard, "/gradio_api/queue/join", "POST", headers=[(b"content-length", b"x")])[0] == 413
    assert request(guard, "/gradio_api/queue/join", "POST", [b"a" * 60, b"a" * 60])[0] == 0
    assert request(guard, "/gradio_api/queue/join", "POST", [b"a" * 50, b"a" * 50])[0] == 200


def test_wrong_passwords_close_the_door_for_a_while(clock):
    guard = Guard(inner)
    for _ in range(WRONG_PASSWORDS):
        assert request(guard, "/login", "POST", [b"wrong"])[0] == 400
    assert request(guard, "/login", "POST", [b"right"])[0] == 429
    assert request(guard, "/login", "POST", [b"right"], client="10.0.0.8")[0] == 200
    assert request(guard, "/config")[0] == 200  # 已经登录的人不受影响
    clock[0] += WRONG_SECONDS + 1
    assert request(guard, "/login", "POST", [b"right"])[0] == 200


def test_changing_address_does_not_buy_endless_guesses(clock):
    guard = Guard(inner)
    got = [request(guard, "/login", "POST", [b"wrong"], client=f"10.0.{i}.1")[0] for i in range(150)]
    assert got.count(400) == WRONG_IN_ALL and got[-1] == 429


def test_guessing_all_at_once_does_not_help(clock):
    """一百个连接先只发请求头，过了检查再一起发密码：仍然只有头几次算数。"""
    guard, seen = Guard(inner), []

    async def guess(gate):
        async def receive():
            await gate.wait()
            return {"type": "http.request", "body": b"wrong", "more_body": False}

        async def send(message):
            seen.append(message.get("status"))

        await guard({"type": "http", "path": "/login", "method": "POST", "client": ("10.0.0.9", 1),
                     "headers": []}, receive, send)

    async def all_at_once():
        gate = asyncio.Event()
        jobs = [asyncio.create_task(guess(gate)) for _ in range(100)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*jobs)

    asyncio.run(all_at_once())
    assert seen.count(400) == WRONG_PASSWORDS and seen.count(429) == 90


def test_right_passwords_are_not_counted(clock):
    guard = Guard(inner)
    for _ in range(3 * WRONG_PASSWORDS):
        assert request(guard, "/login", "POST", [b"right"])[0] == 200


@pytest.mark.parametrize("path", ["/config", "/gradio_api/heartbeat/a", "/gradio_api/cancel",
                                  "/gradio_api/reset", "/gradio_api/app_id", "/gradio_api/queue/data",
                                  "/gradio_api/run/predict", "/gradio_api/info"])
def test_every_call_needs_the_login_when_there_is_a_password(path):
    app = SimpleNamespace(auth={"student": "word"}, cookie_id="x", tokens={"good": "student"})
    cookie = [(b"cookie", b"access-token-unsecure-x=good")]
    assert request(Guard(inner), path, "POST", app=app)[0] == 401
    wrong = [(b"cookie", b"access-token-x=bad")]
    assert request(Guard(inner), path, "POST", headers=wrong, app=app)[0] == 401
    assert request(Guard(inner), path, "POST", headers=cookie, app=app)[0] == 200
    assert request(Guard(inner), "/login", app=app)[0] == 200


def test_leaving_logs_out_nobody_else():
    asked = []

    async def app(scope, receive, send):
        asked.append(scope["query_string"])
        await inner(scope, receive, send)

    request(Guard(app), "/logout", query_string=b"all_session=true")
    assert asked == [b"all_session=false"]


def test_websockets_are_closed():
    sent = []

    async def send(message):
        sent.append(message["type"])

    asyncio.run(Guard(inner)({"type": "websocket", "path": "/"}, None, send))
    assert sent == ["websocket.close"]


async def broken(scope, receive, send):
    raise KeyError("内部细节")


def test_what_breaks_the_framework_gets_a_plain_answer():
    status, headers = request(Guard(broken), "/gradio_api/queue/join", "POST")
    assert status == 400 and b"content-security-policy" in headers
