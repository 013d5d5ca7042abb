"""训练的“课程表”：各个来源怎样混合、先后次序、哪些样本在一批。

课程表在训练前一次排好：第 n 个样本是哪一条、怎么改写，只由种子和 n 决定，与进程里
别的随机数无关。所以训练被打断后从第 n 个样本接着来，结果一位不差。
讲解在 notebooks/02_lora_finetune.ipynb。
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def schedule(sizes: list[int], ratios: list[float], total: int, seed: int) -> list[tuple]:
    """排课程表：total 个 (轮次, 来源号, 行号)。

    来源 0（问答）每轮每行一次；来源 k 每轮取 round(ratios[k] × sizes[0]) 行，接着上一轮
    往下取，取完一遍重新洗牌，因此各行出现的次数最多差一。每一轮内部打乱。
    """
    counts = [round(ratio * sizes[0]) for ratio in ratios]
    streams = [_endless(size, f"{seed}-{k}") for k, size in enumerate(sizes)]
    plan: list[tuple] = []
    epoch = 0
    while len(plan) < total:
        rows = [(epoch, k, next(streams[k])) for k, n in enumerate(counts) for _ in range(n)]
        random.Random(f"{seed}-epoch-{epoch}").shuffle(rows)
        plan += rows
        epoch += 1
    return plan[:total]


def _endless(size: int, seed: str):
    rng, order = random.Random(seed), list(range(size))
    while True:
        rng.shuffle(order)
        yield from list(order)


def group_similar(plan: Sequence[T], lengths: Sequence[int], batch: int, seed: int) -> list[T]:
    """把长短相近的样本放进同一批，少算填充；lengths 是 plan 里各样本的词元数。

    每 8 批为一块，块内按长度排序，再打乱批的次序。块再大填充更少，但一批里的样本太相像
    （比较见 benchmarks/LOG.md）。
    """
    rng, grouped = random.Random(f"{seed}-group"), []
    for start in range(0, len(plan), 8 * batch):
        block = sorted(range(start, min(start + 8 * batch, len(plan))), key=lengths.__getitem__)
        batches = [block[i:i + batch] for i in range(0, len(block), batch)]
        rng.shuffle(batches)
        grouped += [plan[number] for one in batches for number in one]
    return grouped
