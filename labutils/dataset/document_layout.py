"""读的顺序：PDF 记的是画字的先后，不一定是读的先后；两栏和直排的页按位置重排。

输入两份同一页的文字：plain 按画的先后；grid 按位置排成等宽的格子（pypdf 的 layout 模式），
同一列的字在各行的下标相同。由 document_pdf 调用，在 notebooks/01_build_dataset.ipynb 用到。
能认的只有横排两栏、一字一画的直排；三栏以上、图文绕排认不出，仍按画的先后。
"""

from __future__ import annotations

import re
from collections import Counter

from labutils.base.text_normalize import without_spaces
from labutils.dataset.document_clean import PAGE_NUMBER

_HAN_ONLY = re.compile("[\u3001-\u9fff\ufe10-\ufe4f\uff01-\uff1f]{1,2}")
_GAP = re.compile(r"\s{2,}")
MIN_LINES = 5  # 至少这么多行左右都有字，才可能是两栏
MIN_PROSE = 8  # 一栏里的行，字数的中位数至少这么多；表格的格子短


def reading_order(plain: str, grid: str) -> tuple[str, str]:
    """返回 (按读的先后排好的文字, 认出的版式)；版式是 "两栏"、"直排" 或空。

    画的先后本来就对时原样返回 plain。重排不得增减一个字，否则也返回 plain。
    """
    lines = [line.rstrip() for line in grid.splitlines() if line.strip()]
    vertical = _vertical(lines)
    ordered = vertical or _two_columns(lines)
    if not ordered or _letters(ordered) != _letters(plain):
        return plain, ""
    if without_spaces(ordered) == without_spaces(plain):
        return (ordered if vertical else plain), ""
    return ordered, "直排" if vertical else "两栏"


def _letters(text: str) -> Counter:
    return Counter(without_spaces(text))


def _vertical(lines: list[str]) -> str:
    """一格一字、五行二十字以上：从右往左、从上往下读；每一竖行成为一行。"""
    cells = [(m.start(), m.group()) for line in lines for m in re.finditer(r"\S+", line)]
    single = [text for _, text in cells if _HAN_ONLY.fullmatch(text)]
    if len(lines) < 5 or len(single) < max(20, 0.8 * len(cells)):
        return ""
    columns: dict[int, str] = {}
    for start, text in cells:
        near = next((x for x in (start, start - 1, start + 1) if x in columns), start)
        columns[near] = columns.get(near, "") + text
    return "\n".join(columns[x] for x in sorted(columns, reverse=True))


def _two_columns(lines: list[str]) -> str:
    """左栏读完再读右栏；横跨两栏的标题把页面隔成上下几段，各段分别读。"""
    gutter = _gutter(lines)
    if gutter is None:
        return ""
    body = _body_range(lines, gutter)
    ordered: list[str] = []
    left: list[str] = []
    right: list[str] = []
    for i, line in enumerate(lines):
        if _crosses(line, gutter) or (i not in body and _stands_alone(line, gutter)):
            ordered += [*left, *right, line]
            left, right = [], []
        else:
            left.append(line[:gutter].rstrip())
            right.append(line[gutter:])
    return "\n".join(line for line in ordered + left + right if line.strip())


def _body_range(lines: list[str], gutter: int) -> range:
    """从第一行到最后一行左右都有字的行。"""
    both = [i for i, line in enumerate(lines)
            if not _crosses(line, gutter) and line[:gutter].strip() and line[gutter:].strip()]
    return range(both[0], both[-1] + 1)


def _stands_alone(line: str, gutter: int) -> bool:
    """栏外的行：页码，或不从栏边起头的居中标题。"""
    start = len(line) - len(line.lstrip())
    at_edge = start <= 4 or gutter <= start <= gutter + 4
    return bool(PAGE_NUMBER.fullmatch(line)) or not at_edge


def _crosses(line: str, gutter: int) -> bool:
    """横跨中缝：缝的左右两格都有字。缝左边一格是空的就不算。"""
    return len(line) > gutter and bool(line[gutter - 1 : gutter].strip())


def _gutter(lines: list[str]) -> int | None:
    """右栏从第几格开始；不是两栏就返回 None。

    右栏各行从同一格开始，左边空着两格以上；两边都得是写满的长行，否则是表格。
    """
    widest = max(map(len, lines), default=0)
    starts = Counter(m.end() for line in lines for m in _GAP.finditer(line)
                     if 0.25 * widest < m.end() < len(line))
    if not starts:
        return None
    gutter = max(starts, key=lambda x: (starts[x], -x))
    # 段首缩进的行起点靠右，最靠左的那个起点才是栏边
    gutter = min(x for x in starts if gutter - 4 <= x <= gutter and starts[x] >= 2 or x == gutter)
    split = [(line[:gutter].strip(), line[gutter:].strip()) for line in lines
             if not _crosses(line, gutter)]
    both = [pair for pair in split if all(pair)]
    if len(both) < MIN_LINES or len(split) < 0.6 * len(lines):
        return None
    sides = ([a for a, _ in split if a], [b for _, b in split if b])
    return gutter if all(_is_prose(side) for side in sides) else None


def _is_prose(lines: list[str]) -> bool:
    """像正文：行够长，四成以上写满，里面没有表格那样的大空隙。"""
    sizes = sorted(map(len, lines))
    full = [n for n in sizes if n >= 0.8 * sizes[-1]]
    gaps = [line for line in lines if _GAP.search(line)]
    return (sizes[len(sizes) // 2] >= MIN_PROSE and len(full) >= 0.4 * len(sizes)
            and len(gaps) <= 0.1 * len(lines))
