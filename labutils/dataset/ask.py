"""怎么问：一次请求从发出到拿到回复（重试、等待、“服务器不认识的参数”），几个线程一起问，Ctrl-C 怎么停。

重试只在这里做：429、5xx、超时、断线、空回复都再试几次，等多久先听服务器的 Retry-After，没有就按次数加倍；
等也没有用的（余额、审核……）不再试。讲解见 notebook 01。
"""

import itertools
import random
import re
import threading
import time
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import openai

from labutils.base.text import without_spaces
from labutils.dataset.prompts import SCHEMAS, Request
from labutils.dataset.replies import Said, bodies, decoded, parse_response
from labutils.dataset.service import Service, cause, count_tokens, explain, retry_after, room, status, words

TRIES = 7
FIRST_TRIES = 3  # 还一次都没有问通时，连不上、答非所问多半是地址写错了，不必试那么多次
FIRST_WAIT = 0.5  # 秒；每次加倍，再乘 0.5–1 的随机数，免得大家同时再来
LONGEST_BACKOFF = 30.0
LONGEST_RETRY_AFTER = 120.0  # 服务器要求等得更久，就把这一块记为失败，先做别的
FORMATS = ("json_schema", "json_object")  # 结构化输出：从最严的试起，服务器不认就退一级，都不认就不要求
# 请求里可以不带的部分 → 服务器不认它时会提到的字眼
PARTS = {"temperature": "temperature", "max_tokens": "max_tokens", **dict.fromkeys(
    FORMATS, "response.?format|json.?(?:schema|object|mode)|schema feature|structured|guided"
    "|requested parameters"),
    "system": "system.{0,30}(?:role|message|prompt|instruction)|developer instruction"
              "|roles? .{0,40}(?:system|alternate)"}
PASSING = ("", "rate", "timeout", "connection")  # 过一会儿可能就好的原因；没有说原因的看状态码
HOPELESS = ("key", "money", "permission", "region", "model")  # 换一块再问也一样
STOPPED = {"length": "回复到了服务器的长度上限，一条也没写完；请减小 chunk_size，或关掉模型的思考",
           "filter": "服务器的内容审核拦下了这一块的回复；请换一个服务，或去掉有关的文字",
           "refusal": "模型拒绝就这一块出题；请换一个模型，或去掉有关的文字"}


def together(work: Callable[[], None], threads: int, stop: threading.Event) -> None:
    """threads 个线程各做一遍 work，都做完才返回；哪个引发了异常，就让别的收工，再原样引发。

    Ctrl-C 按一次：设置 stop，等大家做完手上的，再引发 KeyboardInterrupt；再按一次立刻引发。
    用守护线程而不用 ThreadPoolExecutor：后者的线程不做完，程序退不出去。
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
    """这一次没有问成，reason 是一句中文；fatal：再问别的块也一样（密钥、余额、模型名），应当停下。"""

    def __init__(self, reason: str, fatal: bool = False):
        super().__init__(reason)
        self.reason, self.fatal = reason, fatal


class BadAnswer(Exception):
    """HTTP 200，但不是约定的格式（空的、一张网页……）。"""


@dataclass(frozen=True)
class Reply:
    """一份回复：文字、用量（服务器没有报就是 None）、没有说完、再问也没有用的原因。"""

    text: str
    usage: dict | None
    stopped: str = ""

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
        self.limited = False  # 要不要写明长度上限
        self.answered = False  # 问通过没有

    def ask(self, request: Request) -> Reply | None:
        """问到有回复为止；等着重试时要求停下，返回 None。重试用完、或没有用时引发 CallFailed。"""
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
        try:
            return self._send(request), None
        except BadAnswer as error:
            return None, error
        except openai.APIError as error:
            error.message = _without_key(error.message, self.client.api_key)
            error.args, error.body = (error.message,), None
            return None, error.with_traceback(None)

    def _tries(self, error: Exception) -> int:
        unreachable = isinstance(error, BadAnswer | openai.APIConnectionError)
        reached = self.answered or isinstance(error, openai.APITimeoutError)
        return FIRST_TRIES if unreachable and not reached else TRIES

    def _send(self, request: Request) -> Reply:
        """发一次；服务器不认其中一部分就去掉它再发，成功了才记住。"""
        refused = self.refused
        while True:
            parts = self._parts(request, refused)
            try:
                said = self._create(request, parts)
            except openai.APIError as error:
                part = _refused_part(error, parts)
                if not part:
                    raise
                refused |= {part}
            except ValueError:
                raise BadAnswer from None  # 不是约定的格式
            else:
                self.refused |= refused
                return self._reply(said, request, parts)

    def _parts(self, request: Request, refused: frozenset[str]) -> dict[str, dict]:
        """这一次带上的部分 → 它的参数；两种输出格式都在时，前面的管用。"""
        schema = {"name": request.kind, "strict": True, "schema": SCHEMAS[request.kind]}
        parts = {"json_schema": {"response_format": {"type": "json_schema", "json_schema": schema}},
                 "json_object": {"response_format": {"type": "json_object"}},
                 "temperature": {"temperature": request.temperature}, "system": {},
                 "max_tokens": {"max_tokens": room(request)} if self.limited else {}}
        return {name: values for name, values in parts.items() if name not in refused}

    def _create(self, request: Request, parts: dict[str, dict]) -> Said:
        messages, said = request.messages, Said()
        if "system" not in parts:  # 并进用户的话里
            messages = [{"role": "user", "content": "\n\n".join(m["content"] for m in messages)}]
        raw = self.client.chat.completions.with_raw_response.create(
            model=self.service.model, messages=messages, extra_body=self.service.extra_body or None,
            **ChainMap(*parts.values()))
        try:
            for body in bodies(decoded([raw.http_response.content])):
                said.add(body)
        except openai.APIError as error:
            if not (said.best or said.usage):
                raise
            said.text, said.ended = raw.http_response.text, cause(error) or "error"  # 收了钱的，原样留着
        return said

    def _reply(self, said: Said, request: Request, parts: dict[str, dict]) -> Reply:
        if not (said.best or said.ended):
            raise BadAnswer
        text, stopped = said.best, STOPPED.get(said.why, "")
        if said.why == "length":
            text = text if said.text or said.call else f"<think>{text}"  # 思考没有完，里面的是草稿
            stopped = "" if self._adjust(said, request, parts) else stopped
        return Reply(_without_key(text, self.client.api_key), said.usage, stopped)

    def _adjust(self, said: Said, request: Request, parts: dict[str, dict]) -> bool:
        """回复到了长度上限：不限定格式，或写明上限，也许就能问成；改了的返回真，下一次照新的问。"""
        if len(said.text) > 2 * len(without_spaces(said.text)) and not parts.keys().isdisjoint(FORMATS):
            self.refused = self.refused.union(FORMATS)  # 限定了格式就只吐空白
            return True
        used = said.usage["output"] if said.usage else count_tokens(said.best)
        low = used < room(request) and not parts.get("max_tokens", True)
        self.limited = self.limited or low
        return low

    def _failed(self, error: Exception, attempts: int) -> CallFailed:
        times = f"（试了 {attempts} 次）" if attempts > 1 else ""
        model, where, key = self.service.model, self.service.where, self.service.key_env
        if isinstance(error, BadAnswer):
            host = urlsplit(str(self.client.base_url)).hostname
            return CallFailed(f"{host} 没有按 OpenAI 的格式回答{times}，请检查模型名和{where}")
        reason = explain(error, model, self.client, where, key or "（这个服务没有设密钥）")
        return CallFailed(reason + times, cause(error) in HOPELESS)


def _refused_part(error: openai.APIError, parts: dict[str, dict]) -> str:
    """服务器不认的是哪一部分：看它提到了谁；400、422 什么原因也没说，就当是输出格式；都不是就是空的。"""
    told, code = words(error), status(error)
    if code in (401, 402, 403, 408, 429):
        return ""
    named = [part for part in parts if re.search(PARTS[part], told)]
    if code in (400, 422) and not cause(error):
        named += filter(parts.__contains__, FORMATS)
    return next(iter(named), "")


def _wait(error: Exception, attempt: int) -> float | None:
    """再试之前等几秒；None 表示再试也没有用。"""
    told = None
    if isinstance(error, openai.APIError):
        why, code, told = cause(error), status(error), retry_after(error)
        passing = why in PASSING if why else code in (0, 408, 409, 429) or code >= 500
        if not passing or (told or 0) > LONGEST_RETRY_AFTER:
            return None
    backoff = min(LONGEST_BACKOFF, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
    return backoff if told is None else told


def _without_key(text: str, key: str) -> str:
    return text.replace(key, "（密钥）") if len(key) >= 8 else text  # 太短的是“none”这类占位
