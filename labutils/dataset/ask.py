"""在另一个线程里跑异步的活：notebook 里已经有一个事件循环，命令行里没有，这样写两边都能用。

Ctrl-C（notebook 里是 ■）按一次：不再发新请求，等已经发出的回来；再按一次立刻停。


怎么问：一次请求从发出到拿到回复，包括重试、等待和“服务器不认识的参数”。

重试只在这里做（openai 客户端自己的重试关着）：429、5xx、超时、断线、空回复都再试几次，
等多久先听服务器的 Retry-After，没有就按次数加倍。讲解见 notebooks/01_build_dataset.ipynb。
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import openai

from labutils.dataset.prompts import Request
from labutils.dataset.service import Service, explain, out_of_money


class Stopped(Exception):
    """要求停下了，等待提前结束。"""


class StopSign:
    """停下的信号；raised 可以在任何线程里看，sleep 在事件循环里用。"""

    def __init__(self) -> None:
        self.raised = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self._task: asyncio.Task | None = None

    def attach(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()

    def set(self) -> None:
        self.raised = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._event.set)

    def cancel(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def sleep(self, seconds: float) -> None:
        """睡 seconds 秒；要求停下时立刻醒来，引发 Stopped。"""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            pass
        if self.raised:
            raise Stopped


def run(work: Callable[[StopSign], Coroutine]) -> None:
    """跑完 work(停下的信号)；它引发的异常原样引发，按了 Ctrl-C 就在收尾之后引发 KeyboardInterrupt。"""
    stop, errors, finished = StopSign(), [], threading.Event()

    async def attached() -> None:
        stop.attach()
        await work(stop)

    def body() -> None:
        try:
            asyncio.run(attached())
        except BaseException as error:  # noqa: BLE001  交给主线程引发
            errors.append(error)
        finally:
            finished.set()

    threading.Thread(target=body, daemon=True).start()
    if _wait_for(finished, stop):
        raise KeyboardInterrupt
    if errors:
        raise errors[0]


def _wait_for(finished: threading.Event, stop: StopSign) -> int:
    """等活干完，返回按了几次 Ctrl-C。

    不用 Thread.join：Python 3.11 的 join 被 Ctrl-C 打断后，会误以为线程已经结束。
    """
    presses = 0
    while not finished.is_set():
        try:
            finished.wait(0.1)
        except KeyboardInterrupt:
            presses += 1
            if presses == 1:
                stop.set()
                print("\n正在收尾：不再发新的请求，等已经发出的回来（再按一次 Ctrl-C 立刻停）……", flush=True)
            else:
                stop.cancel()
    return presses


TRIES = 7
FIRST_TRIES = 3  # 还一次都没有问通时，连不上、答非所问多半是地址写错了，不必试那么多次
FIRST_WAIT = 0.5  # 秒；每次加倍，再乘 0.5–1 的随机数，免得大家同时再来
LONGEST_BACKOFF = 30.0
LONGEST_RETRY_AFTER = 120.0  # 服务器要求等得更久，就把这一块记为失败，先做别的
FORMATS = ("json_schema", "json_object", "")  # 结构化输出：从最严的试起，服务器不认就退一级


class CallFailed(Exception):
    """这一次没有问成；fatal：再问别的块也一样（密钥、余额、模型名），应当停下。"""

    def __init__(self, reason: str, fatal: bool = False):
        super().__init__(reason)
        self.reason, self.fatal = reason, fatal


class BadAnswer(Exception):
    """HTTP 200，但不是约定的格式（空的、一张网页……）。"""


@dataclass(frozen=True)
class Reply:
    """一份回复：文字、是否到了长度上限、用量（服务器没有报就是 None）。"""

    text: str
    cut: bool
    usage: dict | None


@dataclass(frozen=True)
class Options:
    """服务器认的参数；它拒绝哪个就去掉哪个，以后的请求都照此办理。"""

    format: str = FORMATS[0]
    temperature: bool = True


class Caller:
    """向一台服务器提问；sleep(秒) 由调用者给，要停下时它会引发异常。"""

    def __init__(self, client: openai.AsyncOpenAI, service: Service,
                 sleep: Callable[[float], Awaitable[None]] = asyncio.sleep):
        self.client, self.service, self.sleep = client, service, sleep
        self.options = Options()
        self.answered = False  # 问通过没有

    async def ask(self, request: Request) -> Reply:
        """问到有回复为止；重试用完、或重试没有用时引发 CallFailed，里面是一句中文。"""
        for attempt in range(1, TRIES + 1):
            reply, error = await self._try(request)
            if reply is not None:
                self.answered = True
                return reply
            wait = _wait(error, attempt)
            if wait is None or attempt >= self._tries(error):
                raise self._failed(error, attempt)
            await self.sleep(wait)
        raise AssertionError("最后一次不是返回就是引发异常")

    async def _try(self, request: Request) -> tuple[Reply | None, Exception | None]:
        """问一次：回复或错误。错误先抹掉密钥再交出去，以后出现在哪个调用栈里都不要紧。"""
        key = self.client.api_key
        try:
            return _reply(await self._send(request), key), None
        except BadAnswer as error:
            return None, error
        except openai.APIError as error:
            error.message = _without_key(error.message, key)
            error.args, error.body = (error.message,), None
            return None, error.with_traceback(None)

    def _tries(self, error: Exception) -> int:
        unreachable = isinstance(error, BadAnswer) or (
            isinstance(error, openai.APIConnectionError)
            and not isinstance(error, openai.APITimeoutError))
        return FIRST_TRIES if unreachable and not self.answered else TRIES

    async def _send(self, request: Request) -> object:
        """发一次；服务器不认识某个参数（400、422）就去掉它再发，成功了才记住。"""
        options = self.options
        while True:
            try:
                reply = await self._create(request, options)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                simpler = _simpler(options, error)
                if simpler is None:
                    raise
                options = simpler
            except ValueError:
                raise BadAnswer from None  # 正文不是 JSON
            else:
                if options.format != self.options.format or not options.temperature:
                    self.options = options
                return reply

    async def _create(self, request: Request, options: Options) -> object:
        arguments: dict = {"model": self.service.model, "messages": request.messages}
        if options.temperature:
            arguments["temperature"] = request.temperature
        if options.format == "json_schema":
            schema = {"name": request.kind, "strict": True, "schema": request.schema}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif options.format:
            arguments["response_format"] = {"type": options.format}
        if self.service.extra_body:
            arguments["extra_body"] = self.service.extra_body
        return await self.client.chat.completions.create(**arguments)

    def _failed(self, error: Exception, attempts: int) -> CallFailed:
        times = f"（试了 {attempts} 次）" if attempts > 1 else ""
        if isinstance(error, BadAnswer):
            host = urlsplit(str(self.client.base_url)).hostname
            return CallFailed(f"{host} 没有按 OpenAI 的格式回答{times}，请检查模型名和{self.service.where}")
        reason = explain(error, self.service.model, self.client, self.service.where,
                         self.service.key_env or "（这个服务没有设密钥）")
        return CallFailed(reason.rstrip("；") + times, fatal=_fatal(error))


def _fatal(error: openai.APIError) -> bool:
    kinds = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
    return isinstance(error, kinds) or out_of_money(error)


def _wait(error: Exception, attempt: int) -> float | None:
    """再试之前等几秒；None 表示再试也没有用。"""
    if isinstance(error, openai.APIStatusError):
        code = error.status_code
        if out_of_money(error) or not (code in (408, 409, 429) or code >= 500):
            return None
        told = _retry_after(error.response.headers)
        if told is not None:
            return told if told <= LONGEST_RETRY_AFTER else None
    return min(LONGEST_BACKOFF, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1)


def _retry_after(headers: object) -> float | None:
    """Retry-After：秒数或日期（RFC 9110 §10.2.3）；没有、看不懂是 None。"""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _simpler(options: Options, error: openai.APIError) -> Options | None:
    """去掉服务器拒绝的参数；没有可去的了返回 None。"""
    blamed = f"{error.param or ''} {error.message}".lower()
    if options.temperature and "temperature" in blamed:  # 有的思考模型不许设温度
        return replace(options, temperature=False)
    if options.format:
        return replace(options, format=FORMATS[FORMATS.index(options.format) + 1])
    return None


def _reply(answer: object, key: str) -> Reply:
    """服务器的回答 → Reply；不是约定的格式引发 BadAnswer。回答里若带着密钥就抹掉。"""
    choices = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        raise BadAnswer
    text = message.content if isinstance(message.content, str) else ""
    return Reply(_without_key(text, key), choices[0].finish_reason == "length", _usage(answer))


def _without_key(text: str, key: str) -> str:
    return text.replace(key, "（密钥）") if len(key) >= 8 else text  # 太短的是“none”这类占位


def _usage(answer: object) -> dict | None:
    usage = getattr(answer, "usage", None)
    numbers = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    if not all(isinstance(n, int) for n in numbers):
        return None
    return {"input": numbers[0], "output": numbers[1]}
