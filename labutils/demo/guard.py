"""网页的各种上限：能访问的地址、登录、请求大小、提问频率；来的不一定是学生。讲解见 notebook 04。"""

import logging
import threading
import time
from collections import deque

from starlette.datastructures import MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse

from labutils.base.errors import LabError

_log = logging.getLogger(__name__)

MAX_BODY = 256 * 1024          # 一次请求最多多少字节
QUESTIONS_PER_MINUTE = 20      # 一个网页（一个标签页）
ADDRESS_PER_MINUTE = 300       # 一个网络地址：一个教室可能共用一个
WRONG_PASSWORDS = 10           # 一个地址五分钟里可以输错几次
WRONG_IN_ALL = 100             # 所有地址加起来：地址可以伪造
WRONG_SECONDS = 300
LOOPBACK = ("127.0.0.1", "::1", "localhost")

# 页面真正用到的地址的第一段；其余（upload、file=、proxy=、component_server……）都拒绝。
# 框架升级后多出或少了地址时，test_guard 会说出来。
PAGES = {"", "config", "login", "logout", "theme.css", "assets", "static", "svelte", "favicon.ico",
         "robots.txt", "manifest.json", "pwa_icon", "gradio_api"}
CALLS = {"queue", "run", "info", "call", "heartbeat", "cancel", "reset", "startup-events", "app_id",
         "user", "login_check", "token", "theme.css"}  # gradio_api 的下一段
# 设了密码时，没有登录也能取的：登录页自己要用的文件，里面没有内容。其余的由这里先拦下，
# 因为框架的 heartbeat、cancel、reset 不查登录，陌生人可以占着连接、停掉别人的回答。
NO_LOGIN = PAGES - {"config", "gradio_api"}
NO_LOGIN_CALLS = {"login_check", "user", "token", "theme.css", "startup-events"}
HEADERS = {
    # 只许向自己取东西；页面的脚本和样式有一部分写在网页里，所以要 unsafe-inline。
    "content-security-policy": "; ".join((
        "default-src 'self'", "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'", "img-src 'self' data: blob:", "font-src 'self' data:",
        "connect-src 'self' data: blob:", "worker-src 'self' blob:", "object-src 'none'",
        "base-uri 'self'", "form-action 'self'")),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class RateLimit:
    """一段时间里每个来源最多几次。只记最近的来源，不会越记越多。"""

    def __init__(self, times: int, seconds: float = 60.0, sources: int = 4096):
        self.times, self.seconds, self.sources = times, seconds, sources
        self._seen: dict[str, deque[float]] = {}

    def wait(self, source: str) -> float:
        """还要等几秒才能再来一次；现在就可以时是 0。"""
        recent = self._seen.get(source, deque())
        while recent and recent[0] <= time.monotonic() - self.seconds:
            recent.popleft()
        return recent[0] + self.seconds - time.monotonic() if len(recent) >= self.times else 0.0

    def count(self, source: str) -> None:
        self._seen[source] = deque([*self._seen.pop(source, ()), time.monotonic()])  # 最近来过的排在最后
        while len(self._seen) > self.sources:
            del self._seen[next(iter(self._seen))]

    def forgive(self, source: str) -> None:
        """最近的一次不算。"""
        if self._seen.get(source):
            self._seen[source].pop()


class Visitors:
    """提问的频率：一个标签页一个限度，一个外来地址另有一个限度。"""

    def __init__(self, per_page: int = QUESTIONS_PER_MINUTE, per_address: int = ADDRESS_PER_MINUTE):
        self.pages, self.addresses = RateLimit(per_page), RateLimit(per_address)
        self._lock = threading.Lock()

    def check(self, session: str | None, address: str) -> None:
        """记一次提问；太频繁时引发 LabError，说明要等几秒。"""
        asked = [(self.pages, session or address)]
        if address not in LOOPBACK:  # 经反向代理或分享链接来的都是本机地址，只能按标签页算
            asked.append((self.addresses, address))
        with self._lock:
            if seconds := max(limit.wait(source) for limit, source in asked):
                raise LabError(f"太快了：一分钟最多 {self.pages.times} 次，请等 {seconds:.0f} 秒再试。")
            for limit, source in asked:
                limit.count(source)


class Guard:
    """套在网页外面的一层（ASGI 中间件）：先看地址、登录，再交给网页，请求太大时答 413。"""

    def __init__(self, app, root_path: str = "", max_body: int = MAX_BODY):
        self.app, self.root = RequestBodyLimitMiddleware(app, max_body), root_path.rstrip("/")
        self.wrong = RateLimit(WRONG_PASSWORDS, WRONG_SECONDS)
        self.wrong_in_all = RateLimit(WRONG_IN_ALL, WRONG_SECONDS)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "websocket":  # 网页不用
            return await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, address = scope["path"].removeprefix(self.root), (scope.get("client") or ("",))[0]
        if refusal := self._refusal(path, address, scope):
            return await refusal(scope, receive, send)
        if path.rstrip("/") == "/logout":  # 大家共用一个用户名：只退出自己，不把全班都退出
            scope = {**scope, "query_string": b"all_session=false"}
        login = scope["method"] == "POST" and path.rstrip("/") == "/login"
        counted = [(self.wrong, address), (self.wrong_in_all, "")] if login else []
        for limit, source in counted:  # 先记成输错，答对了再划掉：同时来一千次也只有头几次算数
            limit.count(source)
        if 200 <= await self._pass_on(scope, receive, send) < 400:
            for limit, source in counted:
                limit.forgive(source)

    async def _pass_on(self, scope, receive, send) -> int:
        """交给网页，答复添上 HEADERS；返回状态码。"""
        status = 0

        async def answer(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception as error:  # 乱填的请求会让框架出错：回一句话，不断开、不外泄调用栈
            path = scope["path"].removeprefix(self.root)
            _log.warning("框架处理不了的请求 %s：%s %s", path, type(error).__name__, error)
            if not status:
                await _plain(400, "请求不合格。")(scope, receive, answer)
        return status

    def _refusal(self, path: str, address: str, scope) -> PlainTextResponse | None:
        first, call = [*path.lstrip("/").split("/"), ""][:2]
        if first not in PAGES or (first == "gradio_api" and call not in CALLS):
            return _plain(404, "没有这个地址。")
        free = call in NO_LOGIN_CALLS if first == "gradio_api" else first in NO_LOGIN
        if not free and not _logged_in(scope):
            return _plain(401, "请先登录。")
        seconds = max(self.wrong.wait(address), self.wrong_in_all.wait(""))
        if first == "login" and seconds:
            return _plain(429, f"密码错得太多，请等 {seconds:.0f} 秒再试。")
        return None


def _logged_in(scope) -> bool:
    """和框架自己的查法一样：网页没有设密码，或 cookie 里有它发过的凭证。"""
    app = scope.get("app")  # 框架的应用
    if getattr(app, "auth", None) is None:
        return True
    cookies = HTTPConnection(scope).cookies
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(cookies.get(name) in app.tokens for name in names)


def _plain(status: int, text: str) -> PlainTextResponse:
    return PlainTextResponse(text, status, headers={"connection": "close"})
