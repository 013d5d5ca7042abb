"""同义词替换：把问题换一种说法,意思不变。讲解见 notebook 02 的数据增强。

预训练语料(tiny_base)和微调时的问题改写用的是同一张表 synonyms.txt。
做法同 EDA(Wei 与 Zou,2019,arXiv:1901.11196)中的同义词替换。
"""

from functools import cache
from pathlib import Path
from random import Random


@cache
def table() -> dict[str, tuple[str, ...]]:
    """词 → 可以换成的词;一个词出现在几组里时合在一起。"""
    found: dict[str, list[str]] = {}
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        words = [] if line.startswith("#") else line.split()
        for word in words:
            found.setdefault(word, []).extend(other for other in words if other != word)
    return {word: tuple(dict.fromkeys(others)) for word, others in found.items()}


@cache
def _longest() -> int:
    return max(map(len, table()))


def _word_at(text: str, start: int, shortest: int) -> str:
    """从 start 开始能在表里找到的最长的词(至少 shortest 个字);没有就是空串。"""
    for length in range(min(_longest(), len(text) - start), shortest - 1, -1):
        if text[start : start + length] in table():
            return text[start : start + length]
    return ""


def replace(text: str, rng: Random, probability: float = 0.4, shortest: int = 1) -> str:
    """从左到右找表里的词(先找长的),每个以 probability 的概率换成同组的另一个。

    少于 shortest 个字的词不换:单字常是别的词的一部分,如“创新”里的“新”。
    """
    pieces, place = [], 0
    while place < len(text):
        word = _word_at(text, place, shortest)
        swap = word and rng.random() < probability
        pieces.append(rng.choice(table()[word]) if swap else word or text[place])
        place += len(word) or 1
    return "".join(pieces)
