"""批量生成与流式生成。讲解见 notebook 03（批量）与 notebook 04（流式）。"""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import nullcontext
from functools import partial
from threading import Event, Thread

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from labutils.base.errors import LabError
from labutils.base.text import Cut
from labutils.models.chat import header, prompt_ids
from labutils.models.loader import OUT_OF_MEMORY, cores, swaps_weights
from labutils.models.table import Row, can_batch, finished, left_pad


class Unfinished(str):
    """到了 max_new_tokens 还没有说完的回答；除了这一点就是普通的文字。"""


@torch.inference_mode()
def answer(model, tokenizer, questions, max_new_tokens: int = 128, batch_size: int = 128,
           on_answer: Callable[[int, str], None] | None = None, **generation) -> list[str]:
    """批量回答；每个问题是字符串或消息列表，返回同样顺序的回答，没有说完的是 Unfinished。

    on_answer(题号, 回答)：每答完一题调用一次，用来边答边存。默认贪心解码，也可以给 temperature、top_p、
    top_k、repetition_penalty、do_sample。同时算 batch_size 题；显存或内存不够时引发 LabError。
    """
    rows = [Row(model, prompt_ids(tokenizer, as_messages(question)), True, max_new_tokens, **generation)
            for question in questions]
    numbers, skipped, replies = {id(row): number for number, row in enumerate(rows)}, header(tokenizer), {}
    order = sorted(rows, key=lambda row: -len(row.ids))  # 长的先来
    options = _options({"max_new_tokens": max_new_tokens, **generation})
    together = len(rows) > 1 and can_batch(model)  # 只有一题，不必试
    in_order = together and (any(row.sampled for row in rows) or swaps_weights(model))
    ways = {"cpu": in_halves} if generation else {"cpu": in_halves, "cuda": captured}
    make = _one_by_one if not together else finished if in_order else ways.get(model.device.type, finished)
    try:
        for row in make(model, order, batch_size if together else options):
            number = numbers[id(row)]
            said = str if row.complete else Unfinished
            replies[number] = said(clean(tokenizer, row.said[: -1 if row.complete else None], skipped))
            if on_answer:
                on_answer(number, replies[number])
    except OUT_OF_MEMORY:
        raise LabError(f"同时回答 {batch_size} 个问题，显存或内存不够；请减小 batch_size 或 "
                       "max_new_tokens，或换小一号的模型。") from None
    return [replies[number] for number in range(len(rows))]


def in_halves(model, rows: list[Row], width: int) -> Iterator[Row]:
    """CPU 上分成两张表，在两个核上各走各的；谁先说完就先给出谁。"""
    count, advance = min(2, width), torch.inference_mode()(lambda table: next(table, None))
    with cores(count) as pool:
        tables = [finished(model, rows[i::count], width // count) for i in range(count)]
        moving = {pool.submit(advance, table): table for table in tables}
        while moving:
            for future in wait(moving, return_when=FIRST_COMPLETED).done:
                table = moving.pop(future)
                if row := future.result():
                    moving[pool.submit(advance, table)] = table
                    yield row


def captured(model, rows: list[Row], width: int) -> Iterator[Row]:
    """GPU 上把一步录成 CUDA 图再放，省下逐个启动上千个核函数的时间；由 transformers 的连续拼批来做，只贪心。

    用不了时说一声，剩下的照常一步步算。
    """
    config = GenerationConfig(max_new_tokens=rows[0].limit, eos_token_id=rows[0].stops, pad_token_id=0)
    pages = -(-(len(rows[0].ids) + rows[0].limit) // 256)  # 一行最长要几块缓存，一块 256 个词元
    settings = ContinuousBatchingConfig(num_blocks=width * pages + 1, max_requests_per_batch=width,
                                        max_batch_tokens=2048)
    waiting = dict(enumerate(rows))
    try:
        with model.continuous_batching_context_manager(
                config, timeout=10, continuous_batching_config=settings) as manager:
            waiting = dict(zip(manager.add_requests([row.ids for row in rows]), rows, strict=True))
            while waiting:
                found = manager.get_result(timeout=120)
                if found is None or found.error:
                    raise RuntimeError(found.error if found else "没有结果")
                row = waiting.pop(found.request_id)
                row.said = found.generated_tokens
                yield row
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        print(f"说明：这里用不了 CUDA 图（{error}），改为一步步算，会慢一些。")
        yield from finished(model, list(waiting.values()), width)


def _one_by_one(model, rows: list[Row], options: dict) -> Iterator[Row]:
    """拼不了批的结构（状态空间、滑动窗口……），一次一个。"""
    for row in rows:
        batch = left_pad([row.ids], 0, model.device)
        row.said = model.generate(**batch, **options)[0, len(row.ids) :].tolist()
        yield row


def as_messages(question: str | list[dict]) -> list[dict]:
    """字符串当作一轮用户提问。"""
    return [{"role": "user", "content": question}] if isinstance(question, str) else question


def _options(generation: dict) -> dict:
    """默认贪心；给了 temperature > 0 才采样。在哪里停由加载时的 generation_config 定。"""
    options = {"max_new_tokens": 128, "do_sample": False, **generation}
    if temperature := options.pop("temperature", None):
        options |= {"do_sample": True, "temperature": temperature}
    return options


def clean(tokenizer, ids: list[int], skipped: str = "") -> str:
    """编号 → 回答的文字：去掉控制符、词表之外的编号与首尾的空白（ChatGLM3 把第一行留给元信息）。

    开头的 skipped 见 chat.header，也去掉；才写到它的一半时还没有回答。
    """
    text = tokenizer.decode([i for i in ids if i < len(tokenizer)], skip_special_tokens=True).strip()
    return "" if skipped.startswith(text) else text.removeprefix(skipped).lstrip()


class GrowingText:
    """越来越长的一串词元 → 每次新增的文字，连起来与一次解码整串相同：把新词元加进 ids，再调用 grown。

    tokenizers 的 DecodeStream 更快，但模型写出不成字的字节时它会报错，末尾的半个字也不交出来。
    """

    def __init__(self, tokenizer):
        self.tokenizer, self.skipped, self.ids, self._shown = tokenizer, header(tokenizer), [], 0

    def grown(self, last: bool = False) -> str:
        """到现在为止新增的文字。last=False 时先留着末尾：没凑齐的生僻字解码出替换符，空白可能要去掉。"""
        text = clean(self.tokenizer, self.ids, self.skipped)
        if not last:
            text = text.rstrip("\ufffd").rstrip()
        piece, self._shown = text[self._shown :], max(self._shown, len(text))
        return piece


def cut_at(limit: int) -> Cut:
    """到了词元数的上限时，流式回答的最后一段。"""
    return Cut(f"（到了上限 {limit} 个词元，没有说完）")


class _Watch(StoppingCriteria):
    """generate 每选一个词元就叫它一次：词元放进队列，有事件发生就停。"""

    def __init__(self, *events: Event):
        self.events, self.tokens = events, queue.Queue()

    def __call__(self, input_ids, scores, **kwargs) -> torch.Tensor:
        self.tokens.put(int(input_ids[0, -1]))
        halt = any(event.is_set() for event in self.events)
        return torch.full((len(input_ids),), halt, device=input_ids.device)


def stream(model, tokenizer, messages, stop: Event | None = None, adapter: bool = True,
           timeout: float = 120.0, **generation) -> Iterator[str]:
    """逐段产出回答文字，连起来与 answer 单独回答的相同；没有说完的，最后另有一段 Cut。

    设置 stop 事件或关闭这个生成器都会让后台的生成停下来。adapter=False 时停用 LoRA 适配器（微调前）。
    后台线程出错、或 timeout 秒没有新词元时引发 LabError，不会一直等下去。
    """
    # closed 是自己的信号：不能去设调用方的 stop，它可能还管着下一段回答
    stop, closed, failure = stop or Event(), Event(), []
    watch, text, options = _Watch(stop, closed), GrowingText(tokenizer), _options(generation)
    stops = model.generation_config.eos_token_id
    batch = left_pad([prompt_ids(tokenizer, as_messages(messages))], tokenizer.pad_token_id, model.device)

    def work() -> None:
        off = not adapter and hasattr(model, "disable_adapter")
        try:
            with model.disable_adapter() if off else nullcontext(), torch.inference_mode():
                model.generate(**batch, **options, stopping_criteria=StoppingCriteriaList([watch]))
        except Exception as error:  # 线程里的错误带回主线程再抛
            failure.append(error)
        finally:
            watch.tokens.put(None)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        for token in iter(partial(watch.tokens.get, timeout=timeout), None):
            text.ids += [] if token in stops else [token]
            if piece := text.grown():
                yield piece
        if piece := text.grown(last=True):
            yield piece
        if len(text.ids) == options["max_new_tokens"] and not stop.is_set():
            yield cut_at(len(text.ids))
    except queue.Empty:
        raise LabError(f"等了 {timeout:.0f} 秒没有新的文字，已停止；请减小输入或稍后再试。") from None
    finally:
        closed.set()
        thread.join(timeout)
    if failure:
        raise LabError(f"生成回答时出错：{failure[0]}。请减小输入或重启内核后再试。") from failure[0]
