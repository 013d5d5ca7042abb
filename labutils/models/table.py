"""一张表：很多个回答同时生成，每一步各前进一个词元，谁来了下一步就加入，谁说完了就离开。

对比（generate.answer）与网页（demo/batching.py）都用它，讲解见 notebook 04。算法：Yu et al., "Orca", OSDI
2022。一行有自己的提示、抽样设置；用不用适配器也由 peft 按行决定，transformers 自带的连续拼批做不到这一点。
"""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, LogitsProcessorList
from transformers.cache_utils import DynamicLayer
from transformers.generation import logits_process

BASE = "__base__"  # peft 的写法：这一行不用任何适配器
TEXTS = list(range(5, 18)), list(range(18, 82))  # 试着拼的两行；有的结构隔几个词元才压缩一次
_log = logging.getLogger(__name__)


def left_pad(rows: list[list[int]], pad_id: int, device) -> dict[str, torch.Tensor]:
    """左侧补齐；返回 (批, 最长) 的 input_ids 与 attention_mask。"""
    ids = list(map(torch.tensor, rows))
    masks = list(map(torch.ones_like, ids))
    return {"input_ids": pad_sequence(ids, True, pad_id, "left").to(device),
            "attention_mask": pad_sequence(masks, True, 0, "left").to(device)}


class Row:
    """表里的一行：提示的词元 ids，说过的词元 said。

    options 是 max_new_tokens 与抽样设置，有不认识的引发 TypeError；默认贪心。
    """

    def __init__(self, model, ids: list[int], adapter: bool = True, max_new_tokens: int = 128, **options):
        self.ids, self.adapter, self.limit, self.said = ids, adapter, max_new_tokens, []
        self.steps = processors(**options)
        self.sampled = bool(options.get("do_sample") or options.get("temperature"))
        self.stops = model.generation_config.eos_token_id

    @property
    def complete(self) -> bool:
        """说到了结束符。"""
        return bool(self.said) and self.said[-1] in self.stops

    def leaves(self) -> bool:
        """该离开了：说完了，或到了上限。"""
        return self.complete or len(self.said) >= self.limit

    def pick(self, scores: torch.Tensor) -> int:
        """按这一行的设置选下一个词元；scores 形状 (1, 词表)。"""
        scores = self.steps(torch.tensor([self.ids + self.said], device=scores.device), scores)
        return int(torch.multinomial(scores.softmax(-1), 1) if self.sampled else scores.argmax())

    def add(self, token: int) -> None:
        self.said.append(token)

    def fail(self, error: Exception) -> None:
        """选词元时出错。"""
        raise error


def can_batch(model, mixed: bool = False) -> bool:
    """能不能拼批：键值缓存要是最普通的一种，而且真的拼一次，与各算各的只差舍入。

    mixed：要一行用适配器、一行不用。peft 与各家结构拼不了的情形很多（专家、归一化层、DoRA、不看遮罩的
    RWKV……），列不全，所以试。
    """
    if mixed and not hasattr(model.base_model, "_enable_peft_forward_hooks"):
        return False  # 这种适配器不认 adapter_names，peft 却不说：只换几个词元的，试也试不出来

    try:
        plain = {type(layer) for layer in DynamicCache(config=model.config).layers} == {DynamicLayer}
        with torch.inference_mode():
            return plain and _rows_are_independent(model, mixed)
    except Exception as error:
        _log.info("拼不了批，一次一个", exc_info=error)
        return False


def _rows_are_independent(model, mixed: bool) -> bool:
    """长短不同的两行拼在一起算（mixed 时前一行不用适配器），每行与单独算的只差舍入；最后一步接着缓存算。"""
    rows = [Row(model, ids, adapter) for ids, adapter in zip(TEXTS, (not mixed, True), strict=True)]
    table, cache, (ids, mask) = Table(model), DynamicCache(), left_pad(TEXTS, 0, model.device).values()
    table._forward(ids[:, :-1], mask[:, :-1], cache, rows)
    for row, scores in zip(rows, table._forward(ids[:, -1:], mask, cache, rows), strict=True):
        with nullcontext() if row.adapter else model.disable_adapter():
            alone = model(input_ids=torch.tensor([row.ids], device=model.device)).logits[0, -1].float()
        if differ(scores, alone, model.dtype):
            return False
    return True


def differ(scores: torch.Tensor, alone: torch.Tensor, dtype: torch.dtype) -> bool:
    """与别的行一起算的分数 scores，和单独算的 alone，相差不止 dtype 的舍入。"""
    return bool((scores - alone).norm() > torch.finfo(dtype).eps ** 0.5 * alone.norm())


def processors(do_sample: bool = False, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 50,
               repetition_penalty: float = 1.0) -> LogitsProcessorList:
    """抽样设置 → 依次改动分数的步骤，顺序与 ``model.generate`` 相同；默认是贪心。"""
    steps = LogitsProcessorList()
    if repetition_penalty != 1:
        steps.append(logits_process.RepetitionPenaltyLogitsProcessor(float(repetition_penalty)))
    if do_sample or temperature:
        steps += [logits_process.TemperatureLogitsWarper(float(temperature or 1)),
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
            batch = left_pad([row.ids + row.said for row in rows], 0, self.model.device)
            cache, mask = DynamicCache(), batch["attention_mask"]
            scores = self._forward(batch["input_ids"], mask, cache, rows)
            self._merge(rows, cache, mask)
            self._choose(rows, scores)

    def step(self) -> None:
        """说完的、被停止的离开，其余各前进一个词元。"""
        self.leave()
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
        except Exception:  # peft 不摘下按行开关适配器的挂钩；留着它们，以后单用适配器的计算都会错
            for module in self.model.modules():
                module._forward_pre_hooks.clear()
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

    def leave(self) -> list[Row]:
        """说完的、被停止的离开；返回它们。"""
        left = [row.leaves() for row in self.rows]
        gone, kept = [], []
        for i, (row, leaving) in enumerate(zip(self.rows, left, strict=True)):
            gone.append(row) if leaving else kept.append(i)
        if gone:
            self.rows, mask = [self.rows[i] for i in kept], self.mask[kept]
            first = int(mask.argmax(1).min()) if kept else 0  # 左边谁也用不到的几列裁掉
            self.mask = mask[:, first:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[kept, :, first:], layer.values[kept, :, first:]
        return gone


def _stack(old: torch.Tensor, new: torch.Tensor, width: int) -> torch.Tensor:
    """两批键或值 (行, 头, 长度, 维) 都在左边补零到 width 长，再上下接起来。"""
    return torch.cat([pad(states, (0, 0, width - states.shape[2], 0)) for states in (old, new)])


def finished(model, rows: list[Row], width: int) -> Iterator[Row]:
    """至多 width 行同时算，谁说完了就给出谁；空出四分之一才接、也只接四分之一：接得太碎、太多都慢。"""
    table, waiting = Table(model), deque(rows)
    while waiting or table.rows:
        yield from table.leave()
        if waiting and len(table.rows) <= width * 3 // 4:
            table.join([waiting.popleft() for _ in range(min(len(waiting), max(1, width // 4)))])
        elif table.rows:
            table.step()
