"""网页背后的对话引擎：一个模型，适配器开或关，逐字产生回答。讲解见 notebook 04。

“微调前”和“微调后”是同一份权重：关掉适配器就是微调前，打开就是微调后。
多数模型可以拼批，很多人一起答；不能拼批的一次答一个，其余排队。
"""

import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing

from labutils.base.errors import LabError
from labutils.demo.fair_queue import FairQueue
from labutils.demo.web_text import complete_turns
from labutils.models import chat_format

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
            used = len(chat_format.prompt_ids(self.tokenizer, turns))
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
    from labutils.demo import web_batching
    from labutils.models import inference

    if web_batching.can_batch(model):
        batcher = web_batching.Batcher(model, tokenizer)
        # 第一次计算要做许多准备，比以后慢几倍；先做完，别让第一个提问的人等
        for _ in batcher.stream(model, tokenizer, "你好", max_new_tokens=2):
            pass
        return batcher.stream, web_batching.MAX_ROWS
    return inference.stream, 1
