"""网页背后的对话引擎：一个模型，适配器开或关，逐字产生回答。讲解见 notebook 04。

“微调前”和“微调后”是同一份权重：关掉适配器就是微调前，打开就是微调后。
开关是整个模型共用的状态，所以用锁保证同一时刻只有一个回答在生成。
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

from labutils import chat_format
from labutils.errors import LabError
from labutils.web_text import complete_turns

BEFORE, AFTER, BOTH = "微调前", "微调后", "并排对比"
MAX_CHARACTERS = 2000
DEFAULTS = {"max_new_tokens": 128, "temperature": 0.0, "top_p": 0.9, "repetition_penalty": 1.0}


def generation_options(
    max_new_tokens: int, temperature: float, top_p: float, repetition_penalty: float
) -> dict:
    """页面上的四个设置 → 生成参数；温度为 0 表示贪心，每步取概率最大的词元。"""
    options = {"max_new_tokens": int(max_new_tokens), "do_sample": temperature > 0,
               "repetition_penalty": float(repetition_penalty)}
    if temperature > 0:
        options |= {"temperature": float(temperature), "top_p": float(top_p)}
    return options


def check_question(text: str) -> str:
    """去掉首尾空白；空问题和过长的问题抛出 LabError。"""
    text = (text or "").strip()
    if not text:
        raise LabError("请先输入问题再发送。")
    if len(text) > MAX_CHARACTERS:
        raise LabError(f"问题有 {len(text)} 个字，超过上限 {MAX_CHARACTERS} 个字，请缩短后再发送。")
    return text


class ChatEngine:
    """把模型、分词器和流式生成函数包在一起。

    stream 的形状与 ``labutils.inference.stream`` 相同，可以换成转给服务器的 Endpoint.stream，
    测试时换成不用模型的假函数。parallel 是同时生成的回答的个数，本进程里的模型只能是 1。
    """

    def __init__(self, model, tokenizer, stream: Callable | None = None, parallel: int = 1):
        self.model, self.tokenizer, self.parallel = model, tokenizer, parallel
        self.has_adapter = hasattr(model, "disable_adapter")
        self._stream = stream or _default_stream
        self._lock = threading.Semaphore(parallel)

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
        """模型一次最多看多少个词元；配置里没写就不限制。"""
        return getattr(getattr(self.model, "config", None), "max_position_embeddings", None)

    def fit(self, messages: list[dict], max_new_tokens: int) -> tuple[list[dict], int]:
        """去掉最早的轮次直到放得下，返回 (消息, 去掉的轮数)。

        messages 的最后一条是这次的问题。只剩问题还放不下时抛出 LabError。
        """
        turns, limit = complete_turns(messages[:-1]) + messages[-1:], self.limit()
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
        self, messages: list[dict], side: str, stop: threading.Event, **options
    ) -> Iterator[str]:
        """逐段产生 side 这一边的回答；stop 被设置后尽快结束。

        调用方提前关掉这个生成器时，也会先等模型停下，再放开锁、恢复适配器。
        """
        if not self._wait_turn(stop):
            return
        try:
            with closing(self._stream(self.model, self.tokenizer, messages, stop=stop,
                                      adapter=side != BEFORE, **options)) as pieces:
                yield from pieces
        finally:
            self._lock.release()

    def _wait_turn(self, stop: threading.Event) -> bool:
        while not stop.is_set():
            if self._lock.acquire(timeout=0.1):
                return True
        return False


def _default_stream(model, tokenizer, messages, **options) -> Iterator[str]:
    # 用到时才导入：只改网页外观、只跑页面测试时不必等 transformers 加载。
    from labutils.inference import stream

    return stream(model, tokenizer, messages, **options)
