"""把文档切成文本块：每块不超过给定字数，句子完整，页码不丢。

大模型一次读不完整份文档，一块一块地读，出题才细。在 notebooks/01_build_dataset.ipynb 讲解。
做法：各页连成一整篇，记住每页从哪个字开始；句子和块都只是整篇里的一段（起点、终点），
所以去掉重叠再拼起来就是原文，页码由位置查得。
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from labutils.base.errors import LabError

SENTENCE_END = "。！？!?…"
STOPS = SENTENCE_END + "；;：:"  # 一行停在这些符号上，就是说完了，不接下一行
CLOSING = "”’」』）)】》"
COUNT = r"[零〇一二三四五六七八九十百\d]+"
NUMBERED = r"[（(][一二三四五六七八九十\d]+[）)]|\d{1,2}(?:\.\d{1,2})*[.．、\s]\s*\D"  # （一）、1.2 总则
HEADING = re.compile(
    rf"\s*(?:第{COUNT}[章节条]|[一二三四五六七八九十]+、|{NUMBERED}|[·•●○◆■▪－*-]\s)"
)
_HAN = "\u3400-\u9fff"
# 半角的 ! ? ; . 也出现在网址、小数、缩写里，后面是空白、汉字或结尾时才算句末；
# 英文句号还要求前面不是编号（1. 总则），后面另起一句
_SENTENCE_STOP = re.compile(
    rf"[。！？；]+[{CLOSING}]*|[!?;]+[{CLOSING}]*(?=[\s{_HAN}]|$)"
    rf"|(?:(?<=[a-z)\]])|(?<=\d\d\d))\.(?=\s+[A-Z{_HAN}])|\n"
)
_CLAUSE_STOP = re.compile(r"[，,、：:]")
_CELL_GAP = re.compile(rf"(?<=[{_HAN}\d）)%])\s+(?=[{_HAN}\d（(—-])")
# 汉字与汉字、数字与数字之间的空白，正文里不会有；“共 24 门”那样的空白正文里常有
_SURE_GAP = re.compile(rf"(?<=[{_HAN}）])\s+(?=[{_HAN}（])|(?<=[\d%])\s+(?=\d)")

Span = tuple[int, int]


@dataclass(frozen=True)
class Page:
    number: int  # 从 1 开始，和阅读器里的页码一致
    text: str


@dataclass(frozen=True)
class Chunk:
    text: str
    pages: tuple[int, ...]  # 这块文字来自哪几页
    repeated: int = 0  # 开头有多少个字是重复前一块末尾的


def is_row(line: str) -> bool:
    """像表格的一行：格间有空白。英文词之间、正文里汉字与数字之间的空格不算。"""
    if "\t" in line or " | " in line or _SURE_GAP.search(line):
        return True
    return len(_CELL_GAP.findall(line)) >= 2 and not re.search("[，。；！？]", line)


def chunks(pages: list[Page], size: int = 400, overlap: int = 50) -> list[Chunk]:
    """按句子装块，每块至多 size 个字；后一块重复前一块末尾至多 overlap 个字的整句。

    句末是 。！？；和换行。句子不会被切断，除非它自己就比 size 长（那时在逗号处分，再不行才硬切）。
    各块去掉开头重复的 repeated 个字再相连，除空白外与原文一字不差。大小不合适时抛 LabError。
    """
    if size < 1 or not 0 <= overlap < size:
        raise LabError(f"分块大小 {size}、重叠 {overlap} 不合适：要求 0 ≤ 重叠 < 大小。")
    text, starts = _whole(pages)
    pieces = [p for s in _sentences(text) for p in _cut_long(text, s, size)]
    result: list[Chunk] = []
    done = 0  # 已经装进块里的文字到哪里为止
    for first, last in _pack(pieces, size, overlap):
        start, end = pieces[first][0], pieces[last][1]
        found = sorted({n for a, b in pieces[first : last + 1] for n in _pages(starts, a, b)})
        result.append(Chunk(text[start:end], tuple(found), max(0, done - start)))
        done = end
    return result


def _whole(pages: list[Page]) -> tuple[str, list[tuple[int, int]]]:
    """各页连成一篇；返回 (全文, [(这一页从第几个字开始, 页码)])。空白页不占位置。"""
    text = ""
    starts: list[tuple[int, int]] = []
    for page in pages:
        body = page.text.strip()
        if body:
            text = text + between(text, body) + body
            starts.append((len(text) - len(body), page.number))
    return text, starts


def between(before: str, after: str) -> str:
    """两页之间接不接得上：上一页末句没写完，就和这一页的开头连成一句，否则换行。"""
    if not before:
        return ""
    last = before[before.rfind("\n") + 1 :]
    end = last.rstrip(CLOSING)[-1:]
    first = after.split("\n", 1)[0]
    # 没有句号的短行多半是标题；停在逗号上的一定没完
    unfinished = end not in STOPS + "." and (len(last) > 15 or end in "，、,")
    if not unfinished or HEADING.match(first) or is_row(last) or is_row(first):
        return "\n"
    return glue(last[-1], first[0])


def glue(left: str, right: str) -> str:
    """接上两行时中间放什么：西文词之间放空格；汉字之间、被截断的数字之间什么也不放。"""
    if not (left.isascii() and right.isascii()) or (left.isdigit() and right.isdigit()):
        return ""
    return " " if (left.isalnum() or left in ",.;:!?)]%'\"") and (right.isalnum() or right in "([\"'") else ""


def _sentences(text: str) -> list[Span]:
    spans, start = [], 0
    for stop in _SENTENCE_STOP.finditer(text):
        spans.append((start, stop.end()))
        start = stop.end()
    spans.append((start, len(text)))
    return [span for a, b in spans if (span := _trim(text, a, b))]


def _trim(text: str, start: int, end: int) -> Span | None:
    """去掉两头的空白；只有空白就返回 None。"""
    body = text[start:end]
    start += len(body) - len(body.lstrip())
    return (start, start + len(body.strip())) if body.strip() else None


def _cut_long(text: str, sentence: Span, size: int) -> list[Span]:
    """不比 size 长的原样返回；太长的先在逗号处分，一个分句还太长就硬切。"""
    start, end = sentence
    if end - start <= size:
        return [sentence]
    stops = [m.end() for m in _CLAUSE_STOP.finditer(text, start, end)] + [end]
    pieces = []
    while end - start > size:
        fitting = [stop for stop in stops if start < stop <= start + size]
        cut = fitting[-1] if fitting else start + size
        pieces.append((start, cut))
        start = cut
    pieces.append((start, end))
    return [piece for a, b in pieces if (piece := _trim(text, a, b))]


def _pack(pieces: list[Span], size: int, overlap: int) -> list[tuple[int, int]]:
    """相邻的句子装成块：返回每块的 (第一句, 最后一句) 序号。"""
    packed, first = [], 0
    for i, (_, end) in enumerate(pieces):
        if i > first and end - pieces[first][0] > size:
            packed.append((first, i - 1))
            first = _overlap_start(pieces, i, size, overlap)
    return [*packed, (first, len(pieces) - 1)] if pieces else []


def _overlap_start(pieces: list[Span], i: int, size: int, overlap: int) -> int:
    """从第 i 句往回数，重复的整句合计不超过 overlap 个字，连同第 i 句不超过 size。"""
    start = i
    while start > 0:
        begin = pieces[start - 1][0]
        if pieces[i - 1][1] - begin > overlap or pieces[i][1] - begin > size:
            break
        start -= 1
    return start


def _pages(starts: list[tuple[int, int]], begin: int, end: int) -> set[int]:
    """全文第 begin 到 end 个字落在哪几页。"""
    first = bisect_right(starts, (begin, float("inf"))) - 1
    last = bisect_right(starts, (end - 1, float("inf"))) - 1
    return {number for _, number in starts[first : last + 1]}
