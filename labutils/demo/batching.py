"""连续拼批：每一步同时算出所有人的下一个词元，谁来了下一步就加入，谁说完了就离开。讲解见 notebook 04。

算法：Yu et al., "Orca", OSDI 2022。一人一行：自己的提示、抽样设置、停止信号；用不用适配器也由 peft 按行决定，
transformers 自带的连续拼批做不到这一点，还要换掉整个模型的注意力实现。
"""

import logging
import threading
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, LogitsProcessorList
from transformers.cache_utils import DynamicLayer
from transformers.generation import logits_process

from labutils.base.errors import LabError
from labutils.demo.engine import Line, Prompt, Reply, Stop, Streams
from labutils.models import loader
from labutils.models.chat import generation_config, prompt_ids
from labutils.models.generate import GrowingText, as_messages, cut_at, left_pad, stream

BASE = "__base__"  # peft 的写法：这一行不用任何适配器
MAX_ROWS = 32
JOIN_AT_ONCE = 8   # 一步最多接这么多新人：算新提示时，正在说的人要等
_log = logging.getLogger(__name__)


def local(model, tokenizer) -> Line:
    """本进程里的模型怎样答：能拼批就拼批，否则一次一个；关掉适配器不是微调前的引发 LabError。"""
    loader.check_before(model)
    # 网页可以另给分词器，它的结束符也要认
    model.generation_config = generation_config(tokenizer, model.generation_config)
    if not can_batch(model):
        return Streams(partial(stream, model, tokenizer))
    batcher = Batcher(model, tokenizer, MAX_ROWS)
    # 第一次计算要做许多准备，比以后慢几倍；先做完，别让第一个提问的人等
    hello = Prompt([], prompt_ids(tokenizer, as_messages("你好")))
    first = batcher.start(hello, True, Stop(), {"max_new_tokens": 2})
    first.over.wait()
    first.read()
    return batcher


def can_batch(model) -> bool:
    """能不能拼批：键值缓存要是最普通的一种，而且真的拼一次，与各算各的结果一样。

    peft 与各家结构拼不了的情形很多（专家、归一化层、DoRA、不看遮罩的 RWKV……），列不全，所以试。
    """
    try:
        plain = {type(layer) for layer in DynamicCache(config=model.config).layers} == {DynamicLayer}
        with torch.inference_mode():
            return plain and _rows_are_independent(model)
    except Exception as error:
        _log.info("拼不了批，一次一个", exc_info=error)
        return False


def _rows_are_independent(model) -> bool:
    """长短不同的两行拼在一起算，有适配器时一行用、一行不用：每行都与单独算的相同。"""
    plain = not hasattr(model, "disable_adapter")
    texts, rows = ([5, 6, 7], list(range(8, 18))), [SimpleNamespace(adapter=on) for on in (plain, True)]
    batch = left_pad(texts, 0, model.device)
    together = Table(model)._forward(batch["input_ids"], batch["attention_mask"], DynamicCache(), rows)
    for ids, row, scores in zip(texts, rows, together, strict=True):
        with nullcontext() if row.adapter else model.disable_adapter():
            alone = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1].float()
        if (scores - alone).norm() > torch.finfo(model.dtype).eps ** 0.5 * alone.norm():
            return False
    return True


class Batcher(Line):
    """一个模型、一条生成线程：有人问时才开，答完了就结束，不留下任何显存或内存。"""

    quiet = 120.0

    def __init__(self, model, tokenizer, width: int):
        super().__init__(width)
        self.model, self.new = model, partial(Row, model, tokenizer)
        self._thread: threading.Thread | None = None

    def serve(self) -> None:
        with self.lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="lab-batch")
                self._thread.start()

    def _run(self) -> None:
        table = Table(self.model)
        while (newcomers := self._newcomers()) is not None:
            with torch.inference_mode():
                self._join(table, newcomers)
                table = self._step(table)

    def _newcomers(self) -> "list[Row] | None":
        """下一步要接的新人；没有人要答时返回 None，线程随之结束。"""
        with self.lock:
            newcomers = self.turn(JOIN_AT_ONCE)
            if self.replies:
                return newcomers
            self._thread = None

    def _join(self, table: "Table", rows: "list[Row]") -> None:
        """一起接进来；出了错就一个一个地接，只让接不进来的那个人收到错误。"""
        try:
            return table.join(rows)
        except Exception as error:
            if len(rows) == 1:
                return rows[0].fail(error)
        for row in rows:
            self._join(table, [row])

    def _step(self, table: "Table") -> "Table":
        """各前进一步；出了错，缓存就不可信了：换一张新表，把每个人说到一半的话重新算一遍接着说。

        每次重新接入都至少多一个词元，所以总会结束。
        """
        try:
            table.step()
            return table
        except Exception:
            _log.exception("拼批的一步出错，逐个重新接入")
        fresh = Table(self.model)
        for row in [row for row in table.rows if not row.over.is_set()]:
            self._join(fresh, [row])
        return fresh


class Row(Reply):
    """表里的一行：一个词元一个词元地放，读的时候变成文字。options 里有不认识的设置时引发 TypeError。"""

    def __init__(self, model, tokenizer, *asked):
        super().__init__(*asked)
        options = dict(self.options)
        self.limit = options.pop("max_new_tokens", 128)
        self.steps = processors(**options)
        self.sampled = bool(options.get("do_sample") or options.get("temperature"))
        self.stops = model.generation_config.eos_token_id
        self.text, self.said = GrowingText(tokenizer), []

    def pick(self, scores: torch.Tensor) -> int:
        """按这一行的设置选下一个词元；scores 形状 (1, 词表)。"""
        scores = self.steps(torch.tensor([self.prompt.ids + self.said], device=scores.device), scores)
        return int(torch.multinomial(scores.softmax(-1), 1) if self.sampled else scores.argmax())

    def add(self, token: int) -> None:
        self.said.append(token)
        if token in self.stops:
            return self.end()
        self.put(token)
        if len(self.said) >= self.limit:
            self.put(cut_at(self.limit))
            self.end()

    def fail(self, error: Exception) -> None:
        _log.error("一个回答生成出错", exc_info=error)
        self.end(LabError(f"生成这个回答时出错（{type(error).__name__}），请缩短问题或清空历史对话后再试；"
                          "原因写在启动网页的窗口里。"))

    def read(self) -> str:
        last = self.over.is_set()  # 先看，再取：说完之后取到的就是全部
        self.text.ids += self.take()
        return self.text.grown(last=last)


def processors(do_sample: bool = False, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 50,
               repetition_penalty: float = 1.0) -> LogitsProcessorList:
    """抽样设置 → 依次改动分数的步骤，顺序与 ``model.generate`` 相同；默认是贪心。"""
    steps = LogitsProcessorList()
    if repetition_penalty != 1:
        steps.append(logits_process.RepetitionPenaltyLogitsProcessor(float(repetition_penalty)))
    if do_sample or temperature:
        steps += [logits_process.TemperatureLogitsWarper(float(temperature)),
                  logits_process.TopKLogitsWarper(top_k), logits_process.TopPLogitsWarper(top_p)]
    return steps


class Table:
    """所有正在生成的行：左侧补齐的键值缓存，和形状 (行, 长度) 的掩码。"""

    def __init__(self, model):
        self.model, self.rows, self.cache, self.mask = model, [], None, None

    def join(self, rows: list[Row]) -> None:
        """算完新人的提示（和已经说过的话），给出各自的下一个词元，再并进表里。

        中途出错时表不变，新人也没有多出词元，可以再接一次。
        """
        if rows:
            batch = left_pad([row.prompt.ids + row.said for row in rows], 0, self.model.device)
            cache, mask = DynamicCache(), batch["attention_mask"]
            scores = self._forward(batch["input_ids"], mask, cache, rows)
            self._merge(rows, cache, mask)
            self._choose(rows, scores)

    def step(self) -> None:
        """说完的、被停止的离开，其余各前进一个词元。"""
        self._leave()
        if self.rows:
            ids = torch.tensor([[row.said[-1]] for row in self.rows], device=self.model.device)
            self.mask = pad(self.mask, (0, 1), value=1)
            self._choose(self.rows, self._forward(ids, self.mask, self.cache, self.rows))

    def _forward(self, ids, mask, cache, rows) -> torch.Tensor:
        """最后一个位置的分数，形状 (行, 词表)，float32。"""
        extra = {}
        if not all(row.adapter for row in rows):
            extra["adapter_names"] = [self.model.active_adapter if row.adapter else BASE for row in rows]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1]:]
        try:
            return self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True,
                              past_key_values=cache, logits_to_keep=1, **extra).logits[:, -1].float()
        except Exception:
            _unhook(self.model)
            raise

    def _choose(self, rows: list[Row], scores: torch.Tensor) -> None:
        """每一行选一个词元；选的时候出错，只结束那一行。"""
        best = scores.argmax(-1).tolist()
        for i, row in enumerate(rows):
            try:
                row.add(row.pick(scores[i : i + 1]) if row.steps else best[i])
            except Exception as error:
                row.fail(error)

    def _merge(self, rows: list[Row], cache: DynamicCache, mask: torch.Tensor) -> None:
        """新人接在下面，短的在左边补齐；全算好了才换上去，内存不够时原来的表还在。"""
        if self.rows:
            width = max(mask.shape[1], self.mask.shape[1])
            states = [(_stack(old.keys, new.keys, width), _stack(old.values, new.values, width))
                      for old, new in zip(self.cache.layers, cache.layers, strict=True)]
            mask = torch.cat([pad(m, (width - m.shape[1], 0)) for m in (self.mask, mask)])
            for layer, (keys, values) in zip(self.cache.layers, states, strict=True):
                layer.keys, layer.values = keys, values
        else:
            self.cache = cache
        self.rows, self.mask = self.rows + rows, mask

    def _leave(self) -> None:
        for row in self.rows:
            if row.stop.is_set() and not row.over.is_set():
                row.end()
        kept = [i for i, row in enumerate(self.rows) if not row.over.is_set()]
        if len(kept) == len(self.rows):
            return
        self.rows, mask = [self.rows[i] for i in kept], self.mask[kept]
        first = int(mask.argmax(1).min()) if kept else 0  # 左边谁也用不到的几列裁掉
        self.mask = mask[:, first:]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[kept, :, first:], layer.values[kept, :, first:]


def _unhook(model) -> None:
    """中途出错时，peft 不摘下按行开关适配器的挂钩；留着它们，以后单用适配器的计算都会错。"""
    for module in model.modules():
        module._forward_pre_hooks.clear()


def _stack(old: torch.Tensor, new: torch.Tensor, width: int) -> torch.Tensor:
    """两批键或值 (行, 头, 长度, 维) 都在左边补零到 width 长，再上下接起来。"""
    return torch.cat([pad(states, (0, 0, width - states.shape[2], 0)) for states in (old, new)])
