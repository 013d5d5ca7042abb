"""把文档切成文本块：每块不超过给定字数，句子完整，页码不丢。

大模型一次读不完整份文档，一块一块地读，出题才细。在 notebooks/01_build_dataset.ipynb 讲解。
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from labutils.errors import LabError

SENTENCE_END = "。！？!?…"
CLOSING = "”’」』）)】》"
HEADING = re.compile(
    r"\s*(?:第[零〇一二三四五六七八九十百\d]+[章节条]|[一二三四五六七八九十]+、"
    r"|[（(][一二三四五六七八九十\d]+[）)]|\d{1,2}(?:\.\d{1,2})*[.．、\s]\s*\D|[·•●○◆■▪－*-]\s)"
)
_SENTENCE = re.compile(f"[^{SENTENCE_END}\n]*(?:[{SENTENCE_END}]+[{CLOSING}]*|\n|$)\n?")
_CLAUSE = re.compile(r"[^，,；;、：:]*(?:[，,；;、：:]|$)")


@dataclass(frozen=True)
class Page:
    number: int  # 从 1 开始，和阅读器里的页码一致
    text: str


@dataclass(frozen=True)
class Chunk:
    text: str
    pages: tuple[int, ...]  # 这块文字来自哪几页


def chunks(pages: list[Page], size: int = 400, overlap: int = 50) -> list[Chunk]:
    """按句子装块，每块至多 size 个字；后一块重复前一块末尾至多 overlap 个字的整句。

    句子不会被切断，除非它自己就比 size 长（那时在逗号处分，再不行才硬切）。
    """
    if size < 1 or not 0 <= overlap < size:
        raise LabError(f"分块大小 {size}、重叠 {overlap} 不合适：要求 0 ≤ 重叠 < 大小。")
    result: list[Chunk] = []
    current: list[Chunk] = []  # 正在装的块里的句子
    for sentence in _sentences(pages, size):
        if current and _length(current) + len(sentence.text) > size:
            result.append(_merge(current))
            current = _tail(current, min(overlap, size - len(sentence.text)))
        current.append(sentence)
    if current:
        result.append(_merge(current))
    return [chunk for chunk in result if chunk.text]


def _sentences(pages: list[Page], size: int) -> list[Chunk]:
    found: list[Chunk] = []
    for page in pages:
        for part in _SENTENCE.findall(page.text):
            if not part.strip():
                continue
            last = found[-1].text if found else "\n"
            new_page = found and found[-1].pages[-1] != page.number
            # 上一页末句没写完（不是句号、也不像标题那么短），就和这一页的开头接成一句
            unfinished = last.rstrip(CLOSING)[-1] not in SENTENCE_END + "\n" and len(last) > 15
            if new_page and unfinished and not HEADING.match(part):
                found[-1] = Chunk(last + part, (*found[-1].pages, page.number))
            else:
                if new_page and not last.endswith("\n"):
                    found[-1] = Chunk(last + "\n", found[-1].pages)
                found.append(Chunk(part, (page.number,)))
    return [Chunk(p, s.pages) for s in found for p in _cut_long(s.text, size)]


def _cut_long(sentence: str, size: int) -> list[str]:
    if len(sentence) <= size:
        return [sentence]
    pieces = [""]
    for clause in _CLAUSE.findall(sentence):
        for start in range(0, len(clause), size):
            part = clause[start : start + size]
            if len(pieces[-1]) + len(part) > size:
                pieces.append("")
            pieces[-1] += part
    return [piece for piece in pieces if piece]


def _length(sentences: list[Chunk]) -> int:
    return sum(len(s.text) for s in sentences)


def _tail(sentences: list[Chunk], overlap: int) -> list[Chunk]:
    """末尾几个整句，合计不超过 overlap 个字。"""
    start = len(sentences)
    while start > 0 and _length(sentences[start - 1 :]) <= overlap:
        start -= 1
    return sentences[start:]


def _merge(sentences: list[Chunk]) -> Chunk:
    pages = sorted({n for s in sentences for n in s.pages})
    return Chunk("".join(s.text for s in sentences).strip(), tuple(pages))
