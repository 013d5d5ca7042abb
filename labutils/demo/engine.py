"""网页背后的对话引擎：查问题、裁历史、排队、把几边的回答合成快照、把文字变成放心显示的样子。

“微调前”和“微调后”是同一份权重：关掉适配器就是微调前，打开就是微调后。讲解见 notebook 04。
"""

import re
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import accumulate, count, pairwise
from typing import Literal, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError

from labutils.base.errors import LabError
from labutils.base.text import Cut
from labutils.models import chat

BEFORE, AFTER, BOTH = "微调前", "微调后", "并排对比"
MAX_CHARACTERS = 2000    # 一个问题
MAX_TURNS = 20           # 历史对话最多记几轮
MAX_CONTEXT = 4096       # 一次最多给模型多少词元，模型更长也不用
MAX_WAITING = 64         # 最多几个问题排队
DEFAULTS = {"max_new_tokens": 128, "temperature": 0.0, "top_p": 0.9, "repetition_penalty": 1.0}
# 页面上滑块的两端；请求可以不经过页面，所以这里再管一次
RANGES = {"max_new_tokens": (1, 512), "temperature": (0.0, 1.5), "top_p": (0.1, 1.0),
          "repetition_penalty": (1.0, 2.0)}
PACE = 0.05   # 秒。同一个页面不必刷新得更快，省下的时间给模型
SHARE = 0.02  # 秒。人越多，每个人的字来得越成批：刷新网页的开销比模型还大，总共每秒最多五十次
TICK = 0.5    # 秒。没有新东西也要醒一次，看看读者还在不在、前面还有几个人


def check_question(text: str) -> str:
    """去掉首尾空白与看不见的控制字符；空问题和过长的问题抛出 LabError。"""
    if not isinstance(text or "", str):
        raise LabError("问题应当是文字，请改正后再发送。")
    kept = (c for c in text or "" if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
    if not (text := "".join(kept).strip()):
        raise LabError("请先输入问题再发送。")
    if len(text) > MAX_CHARACTERS:
        raise LabError(f"问题有 {len(text)} 个字，超过上限 {MAX_CHARACTERS} 个字，请缩短后再发送。")
    return text


def generation_options(*settings: float) -> dict:
    """四个设置（次序同 RANGES）→ 生成参数，收到范围之内；温度 0 是贪心。不是数的引发 LabError。"""
    value = {name: _within(name, number) for name, number in zip(RANGES, settings, strict=True)}
    value["max_new_tokens"], value["do_sample"] = int(value["max_new_tokens"]), value["temperature"] > 0
    if not value["do_sample"]:
        del value["temperature"], value["top_p"]
    return value


def _within(name: str, number: float) -> float:
    low, high = RANGES[name]
    try:
        return min(max(low, float(number)), high)  # nan 与什么比都不成立，算最小
    except (TypeError, ValueError):
        raise LabError(f"生成设置 {name} 应当是数，请改成 {low} 到 {high} 之间的数。") from None


def complete_turns(messages: list[dict]) -> list[dict]:
    """只留下一问一答都齐的轮次：出错或没有内容的轮次不再送给模型。"""
    kept = []
    for question, answer in pairwise(messages):
        if (question["role"], answer["role"]) == ("user", "assistant") and answer["content"]:
            kept += [question, answer]
    return kept


class _Message(BaseModel):
    role: Literal["user", "assistant"]
    content: str


def plain_messages(history: list[dict] | None) -> list[dict]:
    """历史对话 → ``[{"role": …, "content": …}]``，别的键去掉；形状不对时抛出 LabError，指出是第几条。"""
    try:
        checked = TypeAdapter(list[_Message]).validate_python(history or [], strict=True)
    except ValidationError as error:
        where = "".join(f"第 {place + 1} 条" for place in error.errors()[0]["loc"][:1])
        raise LabError(f"历史对话{where}不对：应当是消息列表，每条是有 role（user 或 assistant）和 content"
                       "（字符串）的字典，请改正后再发送。") from None
    return [message.model_dump() for message in checked]


class Prompt(NamedTuple):
    """放得进模型的一次提问：消息、它们的词元编号（没有分词器时是空的）、为此去掉的轮数。"""

    messages: list[dict]
    ids: list[int]
    dropped: int = 0


class Snapshot(NamedTuple):
    """texts：每边到现在为止的回答；ahead：前面几个人在排队，没有排队时是 None；cut：没有说完的几边为什么。"""

    texts: dict[str, str]
    ahead: int | None = None
    cut: dict[str, Cut] = {}


class ChatEngine:
    """一个模型的两边。line 是它怎样回答：拼批（batching.Batcher）或各答各的（Streams）。"""

    def __init__(self, model, tokenizer, line: "Line"):
        self.model, self.tokenizer, self.line = model, tokenizer, line
        self.has_adapter = hasattr(model, "disable_adapter")  # 没有适配器时只有一个模型，不分微调前后
        self.modes = [BEFORE, AFTER, BOTH] if self.has_adapter else [AFTER]

    def sides(self, mode: str) -> list[str]:
        """一个模式要回答的是哪几边。"""
        if mode not in self.modes:
            raise LabError(f"不能用“{mode}”，请从 {'、'.join(self.modes)} 里选；有适配器的模型才分微调前后。")
        return [BEFORE, AFTER] if mode == BOTH else [mode]

    def limit(self) -> int | None:
        """一次最多给模型多少个词元；模型的配置里没写就不限制。"""
        known = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        return None if known is None else min(known, MAX_CONTEXT)

    def fit(self, messages: list[dict], max_new_tokens: int) -> Prompt:
        """去掉最早的轮次直到放得下。messages 的最后一条是这次的问题；只剩它还放不下时抛出 LabError。"""
        turns, limit = complete_turns(messages[:-1])[-2 * MAX_TURNS:] + messages[-1:], self.limit()
        for dropped in count():
            kept = turns[2 * dropped:]
            ids = [] if self.tokenizer is None else chat.prompt_ids(self.tokenizer, kept)
            if limit is None or len(ids) + max_new_tokens <= limit:
                return Prompt(kept, ids, dropped)
            if len(kept) == 1:
                raise LabError(f"问题有 {len(ids)} 个词元，再生成 {max_new_tokens} 个就超过模型的上限 "
                               f"{limit} 个，请缩短问题或调小“最多生成词元数”。")

    def together(self, asked: dict[str, Prompt], stop: "Stop", **options) -> Iterator[Snapshot]:
        """asked 里的几边同时回答；有了新东西就给一个快照，长时间没有时重复给同一个。

        哪一边出错、太久没有新文字就引发 LabError。关掉这个生成器会设置 stop，几边都停下来。
        """
        shown, heard = Snapshot(dict.fromkeys(asked, "")), time.monotonic()
        try:
            replies = {side: self.line.start(prompt, side != BEFORE, stop, options)
                       for side, prompt in asked.items()}
            rest = list(replies.values())
            while rest:
                woken = stop.news.wait(TICK)
                stop.news.clear()
                rest = [reply for reply in rest if not reply.over.is_set()]  # 先看，再取
                now = self._look(replies, rest, shown.texts)
                if now != shown or now.ahead is not None:
                    heard = time.monotonic()
                elif time.monotonic() - heard > self.line.quiet:
                    raise LabError(f"等了 {self.line.quiet:.0f} 秒没有新的文字，已停止；"
                                   "请减小输入或稍后再试。")
                elif woken and rest:
                    continue  # 新来的词元还不成字
                yield (shown := now)
                if rest:
                    rest[0].over.wait(max(PACE, SHARE * self.line.busy))
        finally:
            stop.set()

    def _look(self, replies: dict[str, "Reply"], rest: "list[Reply]", texts: dict[str, str]) -> Snapshot:
        """此刻的快照；有一边在答就不算排队。"""
        waits = [self.line.ahead(reply) for reply in rest]
        return Snapshot({side: texts[side] + reply.read() for side, reply in replies.items()},
                        None if None in waits else min(waits, default=None),
                        {side: reply.cut for side, reply in replies.items() if reply.cut})


class Stop(threading.Event):
    """叫停一次提问的信号。news 说有新东西可看；叫停也算，等着看的人立刻醒来。"""

    def __init__(self):
        super().__init__()
        self.news = threading.Event()

    def set(self) -> None:
        super().set()
        self.news.set()


class Reply:
    """一个回答：生成的线程往里放（put、end），网页的线程取走（read）。"""

    def __init__(self, prompt: Prompt, adapter: bool, stop: Stop, options: dict):
        self.prompt, self.adapter, self.stop, self.options = prompt, adapter, stop, options
        self.taken, self.over = False, threading.Event()  # 轮到了；不会再有新内容
        self.cut, self._failure, self._items = None, None, deque()  # cut：为什么没有说完

    def put(self, item) -> None:
        if isinstance(item, Cut):
            self.cut = item
        else:
            self._items.append(item)
        self.stop.news.set()

    def end(self, failure: Exception | None = None) -> None:
        self._failure = failure
        self.over.set()
        self.stop.news.set()

    def take(self) -> list:
        """取走攒下的全部；出了错就引发它。读得慢不拖慢生成。"""
        if self._failure is not None:
            raise self._failure
        return [self._items.popleft() for _ in range(len(self._items))]

    def read(self) -> str:
        """上次以后新增的文字。"""
        return "".join(self.take())


class Line:
    """先来先答的一条队：同时答 width 个，再来的排队，最多排 waiting 个。怎样答由子类的 serve 定。"""

    quiet = float("inf")  # 秒。这么久没有新文字就不等了
    new: Callable[..., Reply] = Reply

    def __init__(self, width: int, waiting: int = MAX_WAITING):
        self.width, self.waiting, self.lock = width, waiting, threading.Lock()
        self.replies: list[Reply] = []  # 没说完的，按到来的先后：前 width 个在答，后面的排队

    def start(self, prompt: Prompt, adapter: bool, stop: Stop, options: dict) -> Reply:
        """排进来，轮到了就开始答。排满时引发 LabError。"""
        reply = self.new(prompt, adapter, stop, options)
        with self.lock:
            self._tidy()
            if len(self.replies) >= self.width + self.waiting:
                raise LabError(f"现在问的人太多，已经有 {self.waiting} 个问题在排队，请过一会儿再问。")
            self.replies.append(reply)
            if len(self.replies) > self.width:
                stop.news.set()  # 要排队的，马上知道前面有几个人
        self.serve()
        return reply

    def ahead(self, reply: Reply) -> int | None:
        """前面还有几个人在排队；在答、答完了的是 None。"""
        with self.lock:
            self._tidy()
            waiting = self.replies[self.width:]
        return waiting.index(reply) if reply in waiting else None

    @property
    def busy(self) -> int:
        """正在答的有几个。"""
        return min(sum(not reply.over.is_set() for reply in self.replies), self.width)

    def turn(self, most: int | None = None) -> list[Reply]:
        """刚轮到的人，最多 most 个；要拿着锁调用。"""
        self._tidy()
        turn = [reply for reply in self.replies[: self.width] if not reply.taken][:most]
        for reply in turn:
            reply.taken = True
        return turn

    def _tidy(self) -> None:
        """说完的离开，没轮到就叫停的也离开。"""
        for reply in self.replies:
            if reply.stop.is_set() and not reply.taken:
                reply.end()
        self.replies = [reply for reply in self.replies if not reply.over.is_set()]


class Streams(Line):
    """各答各的：``stream(消息, stop=停止信号, **生成参数)`` 逐段给出文字，一个回答一条线程。

    要关掉适配器时另给 ``adapter=False``；没有适配器的（转给服务器的）用不着认它。
    """

    def __init__(self, stream: Callable, width: int = 1, waiting: int = MAX_WAITING):
        super().__init__(width, waiting)
        self.stream = stream

    def serve(self) -> None:
        with self.lock:
            turn = self.turn()
        for reply in turn:
            threading.Thread(target=self._work, args=(reply,), daemon=True).start()

    def _work(self, reply: Reply) -> None:
        off = {} if reply.adapter else {"adapter": False}
        try:
            with closing(self.stream(reply.prompt.messages, stop=reply.stop, **off,
                                     **reply.options)) as pieces:
                for piece in pieces:
                    reply.put(piece)
            reply.end()
        except Exception as error:  # 由网页的线程引发
            reply.end(error)
        self.serve()


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
    """模型的话 → 可以放心渲染的 Markdown：标签、链接只当文字；顶格的代码块不改动，复制出来才是原样。"""
    # 不画 mermaid 图：画图库会执行图里的指令。多一个空格就按普通代码显示。
    text = text.replace("```mermaid", "``` mermaid")
    lines = re.split(r"\r\n?|\n", text)  # 渲染时单独的 \r 也是换行
    fences = accumulate(lines, lambda fence, line: _fence_after(line, fence), initial="")
    return "\n".join(line if before and after is not None else _MARKUP.sub(rf"\g<0>{GUARD}", line)
                     for line, (before, after) in zip(lines, pairwise(fences), strict=True))


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
