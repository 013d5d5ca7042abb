"""批量生成与流式生成。讲解见 notebook 03(批量)与 notebook 04(流式)。

越来越长的一串词元，每次给出新增的文字；连起来与一次解码整串相同。讲解见 notebook 04。
"""

import queue
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from threading import Event, Thread

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from labutils.base.errors import LabError
from labutils.models.chat import prompt_ids, stop_ids
from labutils.models.loader import OUT_OF_MEMORY


def as_messages(question: str | list[dict]) -> list[dict]:
    """字符串当作一轮用户提问。"""
    return [{"role": "user", "content": question}] if isinstance(question, str) else question


def _options(tokenizer, generation: dict) -> dict:
    """默认贪心;给了 temperature > 0 才采样。"""
    options = {"max_new_tokens": 128, "do_sample": False, **generation}
    temperature = options.pop("temperature", None)
    if temperature:
        options |= {"do_sample": True, "temperature": temperature}
    if not options["do_sample"]:
        # 贪心时这些设置不起作用,留着只会让 transformers 提醒。
        options |= {"temperature": None, "top_p": None, "top_k": None}
    return options | {"eos_token_id": stop_ids(tokenizer), "pad_token_id": tokenizer.pad_token_id}


def left_pad(rows: list[list[int]], pad: int, device) -> dict[str, torch.Tensor]:
    """左侧补齐;返回 (批, 最长) 的 input_ids 与 attention_mask。"""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def clean(tokenizer, ids) -> str:
    """去掉控制符与开头的换行(ChatGLM3 把第一行留给元信息)。"""
    kept = [int(i) for i in ids if 0 <= int(i) < len(tokenizer)]
    return tokenizer.decode(kept, skip_special_tokens=True).strip()


@torch.inference_mode()
def answer(model, tokenizer, questions, max_new_tokens: int = 128, batch_size: int = 32,
           on_batch: Callable[[list[int], list[str]], None] | None = None,
           **generation) -> list[str]:
    """批量回答;每个问题是字符串或消息列表,返回同样顺序的回答。

    on_batch(题号, 回答):每答完一批调用一次,用来边答边存。

    默认贪心解码。按长度排序后分批,减少补齐的浪费。generation 里的其余参数交给
    ``model.generate``(如 temperature、top_p、repetition_penalty)。显存或内存不够时抛出 LabError。
    """
    rows = [prompt_ids(tokenizer, as_messages(question)) for question in questions]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    options = _options(tokenizer, {"max_new_tokens": max_new_tokens, **generation})
    replies = [""] * len(rows)
    for start in range(0, len(order), batch_size):
        picked = order[start : start + batch_size]
        batch = left_pad([rows[i] for i in picked], tokenizer.pad_token_id, model.device)
        try:
            output = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
        except OUT_OF_MEMORY:
            raise LabError(f"一次回答 {len(picked)} 个问题,显存或内存不够;请减小 batch_size 或 "
                           "max_new_tokens,或换小一号的模型。") from None
        for index, ids in zip(picked, output, strict=True):
            replies[index] = clean(tokenizer, ids)
        if on_batch:
            on_batch(picked, [replies[index] for index in picked])
    return replies


class _StopOnEvent(StoppingCriteria):
    def __init__(self, *events: Event):
        self.events = events

    def __call__(self, input_ids, scores, **kwargs) -> torch.Tensor:
        halt = any(event.is_set() for event in self.events)
        return torch.full((input_ids.shape[0],), halt, device=input_ids.device)


def stream(model, tokenizer, messages, stop: Event | None = None, adapter: bool = True,
           timeout: float = 120.0, **generation) -> Iterator[str]:
    """逐段产出回答文字;设置 stop 事件或关闭这个生成器都会让后台的生成停下来。

    adapter=False 时在停用 LoRA 适配器的情况下生成(微调前)。
    后台线程出错、或 timeout 秒没有新文字时抛出 LabError,不会一直等下去。
    """
    # closed 是自己的信号:不能去设调用方的 stop,它可能还管着下一段回答。
    stop, closed = stop or Event(), Event()
    ids = prompt_ids(tokenizer, as_messages(messages))
    batch = left_pad([ids], tokenizer.pad_token_id, model.device)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True,
                                    timeout=timeout)
    failure: list[BaseException] = []

    def work() -> None:
        switch = nullcontext() if adapter or not hasattr(model, "disable_adapter") \
            else model.disable_adapter()
        try:
            with switch, torch.inference_mode():
                model.generate(**batch, **_options(tokenizer, generation), streamer=streamer,
                               stopping_criteria=StoppingCriteriaList([_StopOnEvent(stop, closed)]))
        except Exception as error:  # 线程里的错误带回主线程再抛
            failure.append(error)
        finally:
            streamer.end()

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        begun = False
        for piece in streamer:
            piece = piece if begun else piece.lstrip()
            begun = begun or bool(piece)
            if piece:
                yield piece
    except queue.Empty:
        raise LabError(f"等了 {timeout:.0f} 秒没有新的文字,已停止;请减小输入或稍后再试。") from None
    finally:
        closed.set()
        thread.join(timeout)
    if failure:
        raise LabError(f"生成回答时出错:{failure[0]}。请减小输入或重启内核后再试。") from failure[0]


class GrowingText:
    """把新词元加进 ids，再调用 grown。"""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self._given = ""

    def grown(self, last: bool = False) -> str:
        """到现在为止新增的文字。last=False 时，末尾还不完整的字先留着。

        一个生僻字由几个字节词元拼成，没凑齐时解码出的是替换符，不能给读者看。
        """
        text = clean(self.tokenizer, self.ids)
        if not last:
            text = text.rstrip("\ufffd").rstrip()
        if not text.startswith(self._given):  # 后来的词元改变了前面的字：等它稳定
            return ""
        piece, self._given = text[len(self._given):], text
        return piece
