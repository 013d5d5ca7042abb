"""怎么问：一次请求从发出到拿到回复（重试、等待、“服务器不认识的参数”），几个线程一起问，Ctrl-C 怎么停。

重试只在这里做（openai 客户端自己的重试关着）：429、5xx、超时、断线、空回复都再试几次，
等多久先听服务器的 Retry-After，没有就按次数加倍。讲解见 notebooks/01_build_dataset.ipynb。
"""

import email.utils
import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import openai

from labutils.dataset.prompts import SCHEMAS, Request, parse_response
from labutils.dataset.service import Service, explain, out_of_money

TRIES = 7
FIRST_TRIES = 3  # 还一次都没有问通时，连不上、答非所问多半是地址写错了，不必试那么多次
FIRST_WAIT = 0.5  # 秒；每次加倍，再乘 0.5–1 的随机数，免得大家同时再来
LONGEST_BACKOFF = 30.0
LONGEST_RETRY_AFTER = 120.0  # 服务器要求等得更久，就把这一块记为失败，先做别的
FORMATS = ("json_schema", "json_object")  # 结构化输出：从最严的试起，服务器不认就退一级，都不认就不要求


def together(work: Callable[[], None], threads: int, stop: threading.Event) -> None:
    """threads 个线程各做一遍 work，都做完才返回；哪个引发了异常，就让别的收工，再原样引发。

    Ctrl-C（notebook 里是 ■）按一次：设置 stop，等大家做完手上的，再引发 KeyboardInterrupt；
    再按一次立刻引发。用守护线程而不用 ThreadPoolExecutor：后者的线程不做完，程序退不出去。
    """
    ended: list[BaseException | None] = []  # 每个线程做完时放进一个：它引发的异常，没有就是 None

    def body() -> None:
        try:
            work()
            ended.append(None)
        except BaseException as error:  # 交给主线程引发
            stop.set()
            ended.append(error)

    def wait() -> None:
        while len(ended) < threads:  # 不用 Thread.join：它被 Ctrl-C 打断后，会误以为线程已经结束
            time.sleep(0.05)

    try:
        for _ in range(threads):
            threading.Thread(target=body, daemon=True).start()
        wait()
    except KeyboardInterrupt:
        stop.set()
        print("\n正在收尾：不再发新的请求，等已经发出的回来（再按一次 Ctrl-C 立刻停）……", flush=True)
        wait()
        raise
    for error in filter(None, ended):
        raise error


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

    def judge(self) -> tuple[int, bool, str]:
        """取得出几条问答；是否完整（没有写到一半断掉的，或明说没有可问的）；有毛病时第一个毛病。"""
        pairs, problems = parse_response(self.text)
        cut = any(problem["kind"] == "cut" for problem in problems)
        whole = not cut if pairs else not problems
        return len(pairs), whole, problems[0]["reason"] if problems else ""


class Caller:
    """向一台服务器提问，几个线程可以共用；stop 一设置，等待就提前结束。"""

    def __init__(self, client: openai.OpenAI, service: Service):
        self.client, self.service, self.stop = client, service, threading.Event()
        self.refused: frozenset[str] = frozenset()  # 服务器不认的参数和输出格式，以后的请求都不带
        self.answered = False  # 问通过没有

    def ask(self, request: Request) -> Reply | None:
        """问到有回复为止；等着重试时要求停下，返回 None。

        重试用完、或重试没有用时引发 CallFailed，里面是一句中文。
        """
        for attempt in itertools.count(1):
            reply, error = self._try(request)
            if reply is not None:
                self.answered = True
                return reply
            wait = _wait(error, attempt)
            if wait is None or attempt >= self._tries(error):
                raise self._failed(error, attempt)
            if self.stop.wait(wait):
                return None

    def _try(self, request: Request) -> tuple[Reply | None, Exception | None]:
        """问一次：回复或错误。错误先抹掉密钥再交出去，以后出现在哪个调用栈里都不要紧。"""
        key = self.client.api_key
        try:
            return _reply(self._send(request), key), None
        except BadAnswer as error:
            return None, error
        except openai.APIError as error:
            error.message = _without_key(error.message, key)
            error.args, error.body = (error.message,), None
            return None, error.with_traceback(None)

    def _tries(self, error: Exception) -> int:
        unreachable = isinstance(error, BadAnswer | openai.APIConnectionError)
        reached = self.answered or isinstance(error, openai.APITimeoutError)
        return FIRST_TRIES if unreachable and not reached else TRIES

    def _send(self, request: Request) -> object:
        """发一次；服务器不认识某个参数（400、422）就去掉它再发，成功了才记住。"""
        refused = self.refused
        while True:
            form = next((form for form in FORMATS if form not in refused), "")
            try:
                reply = self._create(request, form, "temperature" not in refused)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                part = _refused_part(error, form, refused)
                if not part:
                    raise
                refused |= {part}
            except ValueError:
                raise BadAnswer from None  # 正文不是 JSON
            else:
                self.refused |= refused
                return reply

    def _create(self, request: Request, form: str, temperature: bool) -> object:
        arguments: dict = {"model": self.service.model, "messages": request.messages}
        if temperature:
            arguments["temperature"] = request.temperature
        if form:
            arguments["response_format"] = {"type": form}
        if form == "json_schema":
            schema = {"name": request.kind, "strict": True, "schema": SCHEMAS[request.kind]}
            arguments["response_format"]["json_schema"] = schema
        return self.client.chat.completions.create(**arguments, extra_body=self.service.extra_body or None)

    def _failed(self, error: Exception, attempts: int) -> CallFailed:
        times = f"（试了 {attempts} 次）" if attempts > 1 else ""
        if isinstance(error, BadAnswer):
            host = urlsplit(str(self.client.base_url)).hostname
            return CallFailed(f"{host} 没有按 OpenAI 的格式回答{times}，请检查模型名和{self.service.where}")
        reason = explain(error, self.service.model, self.client, self.service.where,
                         self.service.key_env or "（这个服务没有设密钥）")
        hopeless = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
        return CallFailed(reason.rstrip("；") + times, isinstance(error, hopeless) or out_of_money(error))


def _refused_part(error: openai.APIStatusError, form: str, refused: frozenset[str]) -> str:
    """服务器不认的是温度（有的思考模型不许设）还是输出格式 form；都不是就是空的。"""
    temperature = "temperature" in f"{error.param} {error.message}".lower() and "temperature" not in refused
    return "temperature" if temperature else form


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


def _reply(answer: object, key: str) -> Reply:
    """服务器的回答 → Reply；不是约定的格式引发 BadAnswer。回答里若带着密钥就抹掉。"""
    choices = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        raise BadAnswer
    text = message.content if isinstance(message.content, str) else ""
    usage = getattr(answer, "usage", None)
    numbers = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    counted = all(isinstance(number, int) for number in numbers)
    return Reply(_without_key(text, key), choices[0].finish_reason == "length",
                 dict(zip(("input", "output"), numbers, strict=True)) if counted else None)


def _without_key(text: str, key: str) -> str:
    return text.replace(key, "（密钥）") if len(key) >= 8 else text  # 太短的是“none”这类占位
