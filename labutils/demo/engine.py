"""网页聊天框里的文字：用户和模型写的都只当文字，绝不当网页代码。讲解见 notebook 04。

聊天框会把消息当 Markdown 渲染，而 Markdown 允许夹带 HTML。框架自带的清洗会把
``<script>`` 整个删掉，用户就看不到自己问了什么；这里改成让它原样显示。


先来先答的队：同时最多答几个，其余排队，排满了就请人晚点再来。讲解见 notebook 04。

网页背后的对话引擎：一个模型，适配器开或关，逐字产生回答。讲解见 notebook 04。

“微调前”和“微调后”是同一份权重：关掉适配器就是微调前，打开就是微调后。
多数模型可以拼批，很多人一起答；不能拼批的一次答一个，其余排队。


让几边同时回答，合成一串“到现在为止”的快照。讲解见 notebook 04。
"""

import queue
import re
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

from labutils.base.errors import LabError
from labutils.models import chat

# “词连接符”：不占位置、不可见。放在 ``<`` 后面，浏览器就不会把它当成标签的开头。
GUARD = "\u2060"
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
_FENCE = re.compile(r"(`{3,}(?!.*`)|~{3,})")  # 顶格的代码块开头
# 标签、注释、实体的开头；会去外网取图片的 ``![``；各种链接：``](``、``][``、``]:``、裸网址、邮箱。
_MARKUP = re.compile(r"<(?=[a-zA-Z/!?])|&(?=[a-zA-Z#])|!(?=\[)|\](?=[(\[:])|:(?=//)|@(?=\w)"
                     r"|(?<=\bwww)\.", re.IGNORECASE)


def show_question(text: str) -> str:
    """用户的话 → 逐字显示的 Markdown：每个标点前加反斜杠，行首空格换成不断行空格。"""
    text = _INDENT.sub(lambda m: m.group().replace("\t", "    ").replace(" ", "\u00a0"), text)
    return _PUNCTUATION.sub(r"\\\1", text)


def show_answer(text: str) -> str:
    """模型的话 → 可以放心渲染的 Markdown：保留标题、列表、代码块，标签和链接只当文字。

    顶格的 ``` 代码块里的内容本来就只当文字显示，不改动，复制出来的代码才是原样。
    """
    # 不画 mermaid 图：画图库会执行图里的指令。多一个空格就按普通代码显示。
    text = text.replace("```mermaid", "``` mermaid")
    lines, fence = [], ""
    for line in re.split(r"\r\n?|\n", text):  # 渲染时单独的 \r 也是换行
        before, fence = fence, _fence_after(line, fence)
        lines.append(line if before and fence is not None else _MARKUP.sub(_guard, line))
    return "\n".join(lines)


def _guard(match: re.Match) -> str:
    return match.group() + GUARD


def _fence_after(line: str, fence: str | None) -> str | None:
    """读过这一行之后在哪种代码块里：空的是不在，None 是说不准，从此一律保护。

    列表、引用里的代码块随着缩进结束，在哪里结束要整个解析才知道，所以不是顶格的都算说不准。
    """
    if fence and line.lstrip().startswith(fence):
        return None if line.rstrip(" ").strip(fence[0]) else ""
    if fence or fence is None:
        return fence
    mark = _FENCE.match(line)
    return mark[1] if mark else None if "```" in line or "~~~" in line else ""


def show(messages: list[dict]) -> list[dict]:
    """历史对话 → 聊天框要的消息列表。"""
    shown = {"user": show_question, "assistant": show_answer}
    return [{"role": m["role"], "content": shown[m["role"]](m["content"])} for m in messages]


def plain_messages(history: list[dict] | None) -> list[dict]:
    """把两种形状的历史对话统一成 ``[{"role": …, "content": 字符串}]``。

    浏览器送来的 content 是片段列表 ``[{"type": "text", "text": …}]``，程序接口送来的是字符串。
    形状不对时抛出 LabError，指出是第几条。
    """
    if not isinstance(history or [], list):
        raise LabError("历史对话应当是消息列表，每条是有 role 和 content 的字典，请改正后再发送。")
    return [_plain_message(message, i) for i, message in enumerate(history or [], start=1)]


def _plain_message(message: dict, number: int) -> dict:
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
        raise LabError(f"历史对话第 {number} 条不对：要有 role（user 或 assistant）和 content。")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        content = "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    if not isinstance(content, str):
        raise LabError(f"历史对话第 {number} 条的 content 应当是文字，请改成字符串。")
    return {"role": message["role"], "content": content}


def complete_turns(messages: list[dict]) -> list[dict]:
    """只留下一问一答都齐的轮次：出错或没有内容的轮次不再送给模型。"""
    kept = []
    for question, answer in zip(messages, messages[1:], strict=False):
        if (question["role"], answer["role"]) == ("user", "assistant") and answer["content"]:
            kept += [question, answer]
    return kept


class FairQueue:
    """slots 个位置，最多 limit 个人等；threading.Semaphore 不保证先来后到，所以自己排。"""

    def __init__(self, slots: int, limit: int):
        self.slots, self.limit = slots, limit
        self._active, self._waiting = 0, deque()
        self._changed = threading.Condition()

    def enter(self, stop: threading.Event, told: Callable[[int], None] = lambda ahead: None) -> bool:
        """排到了返回 True，用完要调用 leave；等的时候 stop 被设置则返回 False。

        前面的人数每次变化都告诉 told。队排满时引发 LabError。
        """
        ticket = self._join()
        ahead = None
        while not stop.is_set():
            with self._changed:
                if self._first(ticket):
                    self._waiting.remove(ticket)
                    self._active += 1
                    self._changed.notify_all()
                    return True
                now = self._waiting.index(ticket)
                if now == ahead:
                    self._changed.wait(0.1)
                    continue
            told(ahead := now)  # 在锁外面说，免得挡住别人
        with self._changed:
            self._waiting.remove(ticket)
            self._changed.notify_all()
        return False

    def leave(self) -> None:
        with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def _join(self) -> object:
        ticket = object()
        with self._changed:
            if self._active >= self.slots and len(self._waiting) >= self.limit:
                raise LabError(f"现在问的人太多，已经有 {self.limit} 个问题在排队，请过一会儿再问。")
            self._waiting.append(ticket)
        return ticket

    def _first(self, ticket: object) -> bool:
        return self._active < self.slots and self._waiting[0] is ticket


BEFORE, AFTER, BOTH = "微调前", "微调后", "并排对比"
MAX_CHARACTERS = 2000    # 一个问题
MAX_TURNS = 20           # 历史对话最多记几轮
MAX_CONTEXT = 4096       # 一次最多给模型多少词元，模型更长也不用
MAX_WAITING = 64         # 最多几个问题排队
DEFAULTS = {"max_new_tokens": 128, "temperature": 0.0, "top_p": 0.9, "repetition_penalty": 1.0}
# 页面上滑块的两端；请求可以不经过页面，所以这里再管一次
RANGES = {"max_new_tokens": (1, 512), "temperature": (0.0, 1.5), "top_p": (0.1, 1.0),
          "repetition_penalty": (1.0, 2.0)}


def generation_options(
    max_new_tokens: int, temperature: float, top_p: float, repetition_penalty: float
) -> dict:
    """页面上的四个设置 → 生成参数，超出范围的收到范围之内。

    温度为 0 表示贪心，每步取概率最大的词元。不是数的设置引发 LabError。
    """
    given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p,
             "repetition_penalty": repetition_penalty}
    value = {name: _within(name, number) for name, number in given.items()}
    options = {"max_new_tokens": int(value["max_new_tokens"]), "do_sample": value["temperature"] > 0,
               "repetition_penalty": value["repetition_penalty"]}
    if options["do_sample"]:
        options |= {"temperature": value["temperature"], "top_p": value["top_p"]}
    return options


def _within(name: str, number: float) -> float:
    low, high = RANGES[name]
    try:
        number = float(number)
    except (TypeError, ValueError):
        raise LabError(f"生成设置 {name} 应当是数，请改成 {low} 到 {high} 之间的数。") from None
    return min(number, high) if number >= low else low  # nan 与什么比都不成立，算最小


def check_question(text: str) -> str:
    """去掉首尾空白与看不见的控制字符；空问题和过长的问题抛出 LabError。"""
    if not isinstance(text or "", str):
        raise LabError("问题应当是文字，请改正后再发送。")
    text = "".join(c for c in text or "" if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
    text = text.strip()
    if not text:
        raise LabError("请先输入问题再发送。")
    if len(text) > MAX_CHARACTERS:
        raise LabError(f"问题有 {len(text)} 个字，超过上限 {MAX_CHARACTERS} 个字，请缩短后再发送。")
    return text


class ChatEngine:
    """把模型、分词器和流式生成函数包在一起。

    stream 的形状与 ``labutils.inference.stream`` 相同，可以换成转给服务器的 Endpoint.stream，
    测试时换成不用模型的假函数；不给就用本进程里的模型。parallel 是同时生成的回答的个数，
    再多的排队，最多 waiting 个。
    """

    def __init__(self, model, tokenizer, stream: Callable | None = None, parallel: int = 1,
                 waiting: int = MAX_WAITING):
        self.model, self.tokenizer = model, tokenizer
        self.has_adapter = hasattr(model, "disable_adapter")
        self._stream, self.parallel = (stream, parallel) if stream else _local(model, tokenizer)
        self.queue = FairQueue(self.parallel, waiting)

    @property
    def modes(self) -> list[str]:
        """可选的模式；没有适配器时只有一个模型，不分微调前后。"""
        return [BEFORE, AFTER, BOTH] if self.has_adapter else [AFTER]

    def sides(self, mode: str) -> list[str]:
        """一个模式要回答的是哪几边。"""
        if mode not in (BEFORE, AFTER, BOTH):
            raise LabError(f"没有“{mode}”这个模式，请从 {'、'.join(self.modes)} 里选一个。")
        if mode not in self.modes:
            raise LabError(f"没有加载适配器，不能用“{mode}”；请用带适配器的模型打开网页。")
        return [BEFORE, AFTER] if mode == BOTH else [mode]

    def limit(self) -> int | None:
        """一次最多给模型多少个词元；模型的配置里没写就不限制。"""
        known = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        return None if known is None else min(known, MAX_CONTEXT)

    def fit(self, messages: list[dict], max_new_tokens: int) -> tuple[list[dict], int]:
        """去掉最早的轮次直到放得下，返回 (消息, 去掉的轮数)。

        messages 的最后一条是这次的问题。只剩问题还放不下时抛出 LabError。
        """
        turns, limit = complete_turns(messages[:-1])[-2 * MAX_TURNS:] + messages[-1:], self.limit()
        dropped = 0
        while limit is not None:
            used = len(chat.prompt_ids(self.tokenizer, turns))
            if used + max_new_tokens <= limit:
                break
            if len(turns) == 1:
                raise LabError(f"问题有 {used} 个词元，再生成 {max_new_tokens} 个就超过模型的上限 "
                               f"{limit} 个，请缩短问题或调小“最多生成词元数”。")
            turns, dropped = turns[2:], dropped + 1
        return turns, dropped

    def reply(
        self, messages: list[dict], side: str, stop: threading.Event,
        told: Callable[[int], None] = lambda ahead: None, **options
    ) -> Iterator[str]:
        """逐段产生 side 这一边的回答；stop 被设置后尽快结束。

        要排队时把前面的人数告诉 told；队排满时引发 LabError。
        调用方提前关掉这个生成器时，也会先等模型停下，再让出位置。
        """
        if not self.queue.enter(stop, told):
            return
        try:
            with closing(self._stream(self.model, self.tokenizer, messages, stop=stop,
                                      adapter=side != BEFORE, **options)) as pieces:
                yield from pieces
        finally:
            self.queue.leave()


def _local(model, tokenizer) -> tuple[Callable, int]:
    """本进程里的模型怎样生成：能拼批就拼批，否则一次一个。"""
    # 用到时才导入：只改网页外观、只跑页面测试时不必等 transformers 加载。
    from labutils.demo import batching
    from labutils.models import generate

    if batching.can_batch(model):
        batcher = batching.Batcher(model, tokenizer)
        # 第一次计算要做许多准备，比以后慢几倍；先做完，别让第一个提问的人等
        for _ in batcher.stream(model, tokenizer, "你好", max_new_tokens=2):
            pass
        return batcher.stream, batching.MAX_ROWS
    return generate.stream, 1


PACE = 0.05  # 秒。同一个页面不必刷新得更快，省下的时间给模型
TICK = 0.5   # 秒。没有新东西也要醒一次，看看读者还在不在


@dataclass(frozen=True)
class Snapshot:
    """texts：每边到现在为止的回答；ahead：前面还有几个人在排队，没有排队时是 None。"""

    texts: dict[str, str] = field(default_factory=dict)
    ahead: int | None = None


def together(engine: ChatEngine, asked: dict[str, list[dict]], stop: threading.Event,
             **options) -> Iterator[Snapshot]:
    """asked 里的几边同时回答；内容有变化就给一个快照，长时间没变化时重复给同一个。

    哪一边出错就引发它的错误。关掉这个生成器会设置 stop，几边都停下来。
    """
    events: queue.SimpleQueue = queue.SimpleQueue()
    for side, messages in asked.items():
        threading.Thread(target=_pump, args=(engine, side, messages, stop, options, events),
                         daemon=True).start()
    shown, running = Snapshot(), len(asked)
    try:
        while running:
            for event in _take(events):
                running -= event[1] == "end"
                shown = _apply(shown, *event)
            yield shown
            time.sleep(PACE if running else 0)
    finally:
        stop.set()


def _take(events: queue.SimpleQueue) -> list[tuple]:
    """等到至少一件事，连同已经攒下的一起取走；等得太久时是空的。"""
    try:
        taken = [events.get(timeout=TICK)]
    except queue.Empty:
        return []
    while not events.empty():
        taken.append(events.get())
    return taken


def _apply(shown: Snapshot, side: str, kind: str, value) -> Snapshot:
    if kind == "error":
        raise value
    if kind == "wait":
        return replace(shown, ahead=value)
    if kind == "text":
        return Snapshot(shown.texts | {side: shown.texts.get(side, "") + value})
    return shown


def _pump(engine, side, messages, stop, options, events) -> None:
    """在自己的线程里把一边的回答搬进 events。"""
    try:
        with closing(engine.reply(messages, side, stop, lambda n: events.put((side, "wait", n)),
                                  **options)) as pieces:
            for piece in pieces:
                events.put((side, "text", piece))
    except Exception as error:  # 线程里的错误带回去再抛
        events.put((side, "error", error))
    else:
        events.put((side, "end", None))
