"""连续拼批用的表：一行是一个正在生成的回答，各行共用一次前向计算。讲解见 notebook 04。

许多人同时提问时，每一步同时算出所有人的下一个词元（连续拼批）。讲解见 notebook 04。

谁来了下一步就加入，谁说完了就离开，不必等最慢的人。算法：Yu et al., "Orca", OSDI 2022。
一人一行：自己的提示、抽样设置、停止信号。微调前与微调后也能在同一批里，由 peft 按行决定用不用适配器。
transformers 自带的连续拼批不用，是因为它不能按行开关适配器，还要换掉整个模型的注意力实现。
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator
from threading import Event

import torch
from torch.nn.functional import pad
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from labutils.base.errors import LabError
from labutils.models.chat import prompt_ids, stop_ids
from labutils.models.generate import GrowingText, as_messages, left_pad

BASE = "__base__"  # peft 的写法：这一行不用任何适配器
_END = object()
_log = logging.getLogger(__name__)


def processors(do_sample: bool = False, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 50,
               repetition_penalty: float = 1.0) -> LogitsProcessorList:
    """抽样设置 → 依次改动分数的步骤，顺序与 ``model.generate`` 相同；默认是贪心。"""
    steps = LogitsProcessorList()
    if repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(float(repetition_penalty)))
    if do_sample or temperature:
        steps += [TemperatureLogitsWarper(float(temperature)), TopKLogitsWarper(top_k),
                  TopPLogitsWarper(top_p)]
    return steps


class Row:
    """一个回答：生成线程往里加词元（add、end），读者取走（read_into）。"""

    def __init__(self, prompt: list[int], stops: list[int], adapter: bool, stop: Event,
                 options: dict):
        options = dict(options)
        self.prompt, self.stops, self.adapter, self.stop = prompt, stops, adapter, stop
        self.limit = options.pop("max_new_tokens", 128)
        self.steps = processors(**options)
        self.sampled = bool(options.get("do_sample") or options.get("temperature"))
        self.said: list[int] = []
        self.closed, self.over = Event(), Event()  # 读者走了；不会再有新词元
        self.finished, self.failure = False, None  # 读者已经读完；出的错
        self._out: queue.Queue = queue.Queue()

    @property
    def done(self) -> bool:
        return self.over.is_set()

    @property
    def stopped(self) -> bool:
        return self.stop.is_set() or self.closed.is_set()

    def pick(self, scores: torch.Tensor) -> int:
        """按这一行的设置选下一个词元；scores 形状 (1, 词表)。"""
        scores = self.steps(torch.tensor([self.prompt + self.said], device=scores.device), scores)
        if self.sampled:
            return int(torch.multinomial(scores.softmax(-1), 1))
        return int(scores.argmax())

    def add(self, token: int) -> None:
        self.said.append(token)
        if token in self.stops:
            self.end()
            return
        self._out.put(token)
        if len(self.said) >= self.limit:
            self.end()

    def end(self, error: Exception | None = None) -> None:
        self._out.put(error or _END)
        self.over.set()

    def read_into(self, ids: list[int], timeout: float) -> None:
        """等到至少一个新词元，把攒下的全部接在 ids 后面；等不到时引发 queue.Empty。"""
        item = self._out.get(timeout=timeout)
        while True:
            if isinstance(item, int):
                ids.append(item)
            else:
                self.finished, self.failure = True, None if item is _END else item
                return
            if self._out.empty():
                return
            item = self._out.get()


class Table:
    """所有正在生成的行：左侧补齐的键值缓存，和形状 (行, 长度) 的掩码。"""

    def __init__(self, model):
        self.model = model
        self._clear()

    def _clear(self) -> None:
        self.rows: list[Row] = []
        self.cache, self.mask = None, None

    def join(self, rows: list[Row]) -> None:
        """算完新人的提示（和已经说过的话），给出各自的下一个词元，再并进表里。

        中途出错时表不变，新人也没有多出词元，可以再接一次。
        """
        if not rows:
            return
        batch = left_pad([row.prompt + row.said for row in rows], 0, self.model.device)
        cache, mask = DynamicCache(), batch["attention_mask"]
        scores = self._forward(batch["input_ids"], mask, cache, rows)
        self._merge(rows, cache, mask)
        self._choose(rows, scores)

    def step(self) -> None:
        """说完的、被停止的离开，其余各前进一个词元。"""
        self._leave()
        if not self.rows:
            return
        ids = torch.tensor([[row.said[-1]] for row in self.rows], device=self.model.device)
        self.mask = pad(self.mask, (0, 1), value=1)
        self._choose(self.rows, self._forward(ids, self.mask, self.cache, self.rows))

    def _forward(self, ids, mask, cache, rows) -> torch.Tensor:
        """最后一个位置的分数，形状 (行, 词表)，float32。"""
        extra = {}
        if not all(row.adapter for row in rows):
            extra["adapter_names"] = [self.model.active_adapter if row.adapter else BASE for row in rows]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1]:]
        return self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True,
                          past_key_values=cache, logits_to_keep=1, **extra).logits[:, -1].float()

    def _choose(self, rows: list[Row], scores: torch.Tensor) -> None:
        """每一行选一个词元；选的时候出错，只结束那一行。"""
        best = scores.argmax(-1).tolist()
        for i, row in enumerate(rows):
            try:
                token = row.pick(scores[i : i + 1]) if row.steps else best[i]
            except Exception as error:
                _log.exception("选词元出错")
                row.end(error)
            else:
                row.add(token)

    def _merge(self, rows: list[Row], cache: DynamicCache, mask: torch.Tensor) -> None:
        """新人接在下面，短的在左边补齐；全算好了才换上去，内存不够时原来的表还在。"""
        if self.rows:
            width = max(mask.shape[1], self.mask.shape[1])
            pairs = list(zip(self.cache.layers, cache.layers, strict=True))
            states = [(_stack(old.keys, new.keys, width), _stack(old.values, new.values, width))
                      for old, new in pairs]
            mask = torch.cat([pad(m, (width - m.shape[1], 0)) for m in (self.mask, mask)])
            for layer, (keys, values) in zip(self.cache.layers, states, strict=True):
                layer.keys, layer.values = keys, values
        else:
            self.cache = cache
        self.rows, self.mask = self.rows + rows, mask

    def _leave(self) -> None:
        for row in self.rows:
            if row.stopped and not row.done:
                row.end()
        kept = [i for i, row in enumerate(self.rows) if not row.done]
        if not kept:
            self._clear()
        elif len(kept) < len(self.rows):
            self._keep(kept)

    def _keep(self, kept: list[int]) -> None:
        """只留这几行，并裁掉左边谁也用不到的几列。"""
        index = torch.tensor(kept, device=self.mask.device)
        mask = self.mask[index]
        first = int(mask.argmax(1).min())
        for layer in self.cache.layers:
            layer.keys = layer.keys[index, :, first:]
            layer.values = layer.values[index, :, first:]
        self.rows, self.mask = [self.rows[i] for i in kept], mask[:, first:]


def _stack(old: torch.Tensor, new: torch.Tensor, width: int) -> torch.Tensor:
    """两批键或值 (行, 头, 长度, 维) 都在左边补零到 width 长，再上下接起来。"""
    return torch.cat([pad(states, (0, 0, width - states.shape[2], 0)) for states in (old, new)])


MAX_ROWS = 32
JOIN_AT_ONCE = 8  # 一步最多接这么多新人：算新提示时，正在说的人要等
PACE = 0.02  # 秒。人越多，每个人的字来得越成批：刷新网页的开销比模型还大，总共每秒最多五十次


def can_batch(model) -> bool:
    """能不能拼批：键值缓存要是最普通的一种，适配器要是没有合并的普通 LoRA。"""
    if not hasattr(model, "generate") or model.config.is_encoder_decoder:
        return False
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    adapters = getattr(model, "peft_config", {}).values()
    plain = all(a.peft_type == "LORA" and not a.use_dora for a in adapters)
    return kinds == {DynamicLayer} and plain


class Batcher:
    """一个模型、一条生成线程；stream 的形状与 ``labutils.inference.stream`` 相同。

    线程有人问时才开，答完了就结束，不留下任何显存或内存。
    """

    def __init__(self, model, tokenizer, rows: int = MAX_ROWS):
        self.model, self.tokenizer, self.rows = model, tokenizer, rows
        self._waiting: deque[Row] = deque()
        self._readers = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def stream(self, model, tokenizer, messages, stop: threading.Event | None = None,
               adapter: bool = True, timeout: float = 120.0, **generation) -> Iterator[str]:
        """逐段产出回答；前两个参数用不到。连起来与 ``inference.answer`` 的回答相同。

        设置 stop 或关闭这个生成器，这一行在下一步离开。这一行出错、timeout 秒没有新词元时引发
        LabError，别的行不受影响。
        """
        row = Row(prompt_ids(self.tokenizer, as_messages(messages)), stop_ids(self.tokenizer),
                  adapter, stop or threading.Event(), generation)
        self._submit(row)
        try:
            yield from self._read(row, timeout)
        finally:
            row.closed.set()
            with self._lock:
                self._readers -= 1

    def _submit(self, row: Row) -> None:
        with self._lock:
            self._waiting.append(row)
            self._readers += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="lab-batch")
                self._thread.start()

    def _read(self, row: Row, timeout: float) -> Iterator[str]:
        """把一行的词元变成文字。读得慢时一次取走攒下的所有词元，不拖慢生成。"""
        text = GrowingText(self.tokenizer)
        while not row.finished:
            try:
                row.read_into(text.ids, timeout)
            except queue.Empty:
                raise LabError(f"等了 {timeout:.0f} 秒没有新的文字，已停止；"
                               "请减小输入或稍后再试。") from None
            if row.failure is not None:
                raise LabError(f"生成这个回答时出错（{type(row.failure).__name__}），请缩短问题或"
                               "清空历史对话后再试；原因写在启动网页的窗口里。") from row.failure
            if piece := text.grown(last=row.finished):
                yield piece
                row.over.wait(self._readers * PACE)

    def _run(self) -> None:
        table = Table(self.model)
        while (newcomers := self._next(table)) is not None:
            for row in [row for row in newcomers if row.stopped]:
                newcomers.remove(row)
                row.end()
            with torch.inference_mode():
                self._join(table, newcomers)
                table = self._step(table)

    def _join(self, table: Table, rows: list[Row]) -> None:
        """一起接进来；出了错就一个一个地接，只让接不进来的那个人收到错误。"""
        try:
            return table.join(rows)
        except Exception as error:
            if len(rows) == 1:
                _log.exception("一个回答生成出错")
                return rows[0].end(error)
        for row in rows:
            self._join(table, [row])

    def _step(self, table: Table) -> Table:
        """各前进一步；出了错，缓存就不可信了：换一张新表，把每个人说到一半的话重新算一遍接着说。

        每次重新接入都至少多一个词元，所以总会结束。
        """
        try:
            table.step()
            return table
        except Exception:
            _log.exception("拼批的一步出错，逐个重新接入")
        fresh = Table(self.model)
        for row in [row for row in table.rows if not row.done]:
            self._join(fresh, [row])
        return fresh

    def _next(self, table: Table) -> list[Row] | None:
        """下一步要接的新人；没有人要答时返回 None，线程随之结束。"""
        with self._lock:
            room = min(self.rows - len(table.rows), JOIN_AT_ONCE, len(self._waiting))
            newcomers = [self._waiting.popleft() for _ in range(room)]
            if newcomers or table.rows:
                return newcomers
            self._thread = None
            return None
