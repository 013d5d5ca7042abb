"""一页上的字按位置排成行：同一行的、隔开的格子、左右几栏、直排、上下标。单位是磅，y 向上。

画字的先后多半就是读的先后（表格一格折成几行也是），所以先照它，看得出不对才按位置改：
页眉页脚先画、分栏却一行左一行右地画、直排、横放的页。图文绕排认不出。
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, zip_longest
from statistics import median

from labutils.base.text import without_spaces
from labutils.dataset.clean import NEVER_FIRST, glue

CELL, SPACE = 1.0, 0.5  # 空出一个字宽是隔开的格子，半个字宽是汉字之间有意的空格（以字号计）
_SQUEEZE = 0.75  # 全角标点可以和后面的字挤在一起，至多挤掉这么多
_SAME_LINE, _FAR = 0.3, 2.2  # 基线相差不到这么多是同一行；页边的一行离正文这么远是页眉页脚
MIN_LINES, MIN_PROSE = 5, 8  # 至少这么多行才可能分栏、直排；一栏里的行，字数的中位数至少这么多（格子短）
_MIN_VERTICAL, _VERTICAL_SHARE = 20, 0.8  # 直排：一字一处的至少这么多个，占全部的这么多
_LEFT_SHARE, _SPLIT_SHARE = 0.25, 0.6  # 右栏的起点在版心的这个比例之后；至少这么多的行没有横跨中缝
_INDENT = 4  # 段首缩进至多这么多字
_FULL_WIDTH, _FULL_SHARE, _GAP_SHARE = 0.8, 0.4, 0.1  # 写满：到最长行的八成；正文四成写满，至多一成有格子

_HAN = re.compile("[\u2e80-\u9fff\uf900-\ufaff\ufe10-\ufe4f\uff01-\uff60]")
_SCRIPT = re.compile("[0-9+\u2212,，n-]+")
RAISED = str.maketrans("0123456789+-\u2212n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")
LOWERED = str.maketrans("0123456789+-\u2212n", "₀₁₂₃₄₅₆₇₈₉₊₋₋ₙ")


@dataclass
class Run:
    """画在一起、紧挨着的几个字：左边、右边、基线，字号；angle 是方向（度，坐标已按它转正）。

    space 是前面的空白：0 没有，1 是推断的，2 真有空格。
    """

    text: str
    x: float
    right: float
    y: float
    size: float
    angle: int = 0
    space: int = 0


Line = list[Run]


def page_text(runs: list[Run]) -> tuple[str, str]:
    """返回 (按读的先后排好的文字, 认出的版式)：版式是 "两栏以上"、"直排" 或空；格子之间是制表符。

    字的方向和大家不同的（水印、侧排的字）放在最后；直排里侧着的西文和数放回所在的竖行。
    """
    groups: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.angle].append(run)
    most = max(groups, key=lambda angle: len(groups[angle]), default=0)
    main = pieces(groups.pop(most, []))
    if _is_vertical(main):
        groups.pop(270, None)
        main = pieces(_upright(run) if run.angle == 270 else run for run in runs if run.angle in (most, 270))
        text, layout = _vertical(main), "直排"
    else:
        text, layout = _horizontal(main)
    changed = layout and without_spaces(text) != without_spaces("".join(piece.text for piece in main))
    return "\n".join(filter(None, [text, *_aside(groups)])), layout if changed else ""


def _horizontal(found: list[Run]) -> tuple[str, str]:
    regions = _regions(found)
    return "\n".join(_text(_lines(region)) for region in regions), "两栏以上" if len(regions) > 1 else ""


def _aside(groups: dict[int, list[Run]]) -> list[str]:
    """横放、倒放的照样排成行；斜的（水印）接成一行。"""
    turned = [_text(_lines(pieces(runs))) for angle, runs in groups.items() if angle % 90 == 0]
    return [*turned, "".join(run.text for angle, runs in groups.items() if angle % 90 for run in runs)]


# ---- 字连成串 ----

def pieces(runs: Iterable[Run]) -> list[Run]:
    """按画的先后连成串，中间没有格子那样的空隙；同样的字在同一处又画一遍（描粗、阴影）只算一次。"""
    found: list[Run] = []
    drawn: dict[str, list[Run]] = defaultdict(list)
    piece = Run("\t", 0, 0, 0, 1)
    for run in runs:
        gap = (run.x - piece.right) / piece.size
        between = _between(piece.text[-1], run.text[0], gap, run.space)
        narrow = min(1, (run.right - run.x) / piece.size)
        least = -_SQUEEZE if piece.text[-1] in NEVER_FIRST else -0.5 * narrow
        if abs(run.y - piece.y) < 0.08 * piece.size and gap > least and between != "\t":
            piece.text += between + run.text
            piece.right = run.right
        elif any(_same_place(run, before) for before in drawn[run.text]):
            continue
        else:
            piece = replace(run)
            found.append(piece)
        drawn[run.text].append(run)
    return _with_scripts([piece for piece in found if piece.text.strip()])


def _between(left: str, right: str, gap: float, space: int) -> str:
    """两个字之间放什么；gap 以字号计。推断出来的空格在两个汉字之间不作数，西文的词距可以拉得很开。"""
    if gap >= CELL * (2 if space and left.isascii() and right.isascii() else 1):
        return "\t"
    inferred = space == 1 and not (_HAN.match(left) and _HAN.match(right))
    return " " if (space == 2 or inferred or gap >= SPACE) and left != " " else ""


def _same_place(run: Run, before: Run) -> bool:
    near = 0.3 * min(run.right - run.x, run.size)
    return abs(run.x - before.x) <= near and abs(run.y - before.y) <= 0.3 * run.size


def _with_scripts(found: list[Run]) -> list[Run]:
    """上下标接到旁边的字上；是数的写成上下标的字，“120¹门”才不会成了“1201门”。"""
    result: list[Run] = []
    for piece in found:
        base = result[-1] if result else None
        gap = (piece.x - base.right) / max(base.size, piece.size) if base else CELL
        if not base or not -0.4 < gap < 0.4 or not (kind := _kind(base, piece)):
            result.append(piece)
            continue
        left, right = _marked(base, piece, kind)
        base.text = left + _between(left[-1], right[0], gap, 0) + right
        base.right = piece.right
        if kind < 0:  # 前一串才是上下标
            base.y, base.size = piece.y, piece.size
    return result


def _kind(base: Run, piece: Run) -> int:
    """1：piece 是 base 的上下标；-1：反过来；2：同一行接着的；0：不相干。"""
    rise = (piece.y - base.y) / max(base.size, piece.size)
    if abs(rise) < 0.08:
        return 2
    if not 0.08 <= abs(rise) <= 0.7 or abs(piece.size / base.size - 1) < 0.15:
        return 0
    return 1 if piece.size < base.size else -1


def _marked(base: Run, piece: Run, kind: int) -> tuple[str, str]:
    if kind == 2:
        return base.text, piece.text
    small, large = (piece, base) if kind > 0 else (base, piece)
    text = small.text
    if _SCRIPT.fullmatch(text):
        text = text.translate(RAISED if small.y > large.y else LOWERED)
    return (base.text, text) if kind > 0 else (text, piece.text)


# ---- 串排成行 ----

def _rows(found: list[Run]) -> list[Run]:
    """表格里折成几行的格子并成一串，和同一行里单行的格子放在同一条基线上；跨几行的格子放在这一行前面。"""
    cells = _grouped(found, _below)
    result, row = [], []
    for cell, after in zip_longest(cells, cells[1:], fillvalue=[]):
        if row and not _beside_row(row, cell):
            if after and _beside_row(row, after) and cell[0].x > row[-1][0].right:
                result += cell
                continue
            result += _row(row)
            row = []
        row.append(cell)
    return result + _row(row)


def _below(cell: list[Run], piece: Run) -> bool:
    """piece 是这一格里折下来的下一行。"""
    above = cell[-1]
    overlap = piece.x < above.right and above.x < piece.right
    return overlap and 0.5 < (above.y - piece.y) / piece.size < _FAR and abs(piece.size - above.size) < 0.1


def _beside_row(row: list[list[Run]], cell: list[Run]) -> bool:
    """cell 在这一行的右边，上下和第一格重叠。"""
    first, margin = row[0], cell[0].size / 2
    level = cell[-1].y - margin < first[0].y and first[-1].y < cell[0].y + margin
    return level and cell[0].x > max(piece.right for piece in row[-1]) - margin


def _row(row: list[list[Run]]) -> list[Run]:
    """三格以上、有的折行有的不折，才是表格的一行；第一格上面的标题不算折行。"""
    base = next((cell[0] for cell in row if len(cell) == 1), None)
    if len(row) < 3 or not base or max(map(len, row)) > 6:
        return [piece for cell in row for piece in cell]
    first = row[0]
    titles = first[:-1] if _same_line([base], first[-1]) else []
    return titles + [_unfolded(cell, base.y) for cell in (first[len(titles):], *row[1:])]


def _unfolded(cell: list[Run], y: float) -> Run:
    text = cell[0].text
    for piece in cell[1:]:
        text += glue(text[-1], piece.text[0]) + piece.text
    return replace(cell[0], text=text, right=max(piece.right for piece in cell), y=y)


def _lines(found: list[Run]) -> list[Line]:
    """照画的先后，接连画在同一条基线上的是一行；后来补画的放回紧挨着的那一行。"""
    lines: list[Line] = []
    for piece in _rows(found):
        last = lines[-1:] if lines and _same_line(lines[-1], piece) else []
        home = last or [line for line in lines if _same_line(line, piece) and _touches(line, piece)]
        if not home:
            home = [[]]
            lines += home
        home[0].append(piece)
    return _peeled([sorted(line, key=lambda piece: piece.x) for line in lines])


def _touches(line: Line, piece: Run) -> bool:
    near = SPACE * piece.size
    return any(abs(piece.x - other.right) < near or abs(other.x - piece.right) < near for other in line)


def _same_line(line: list[Run], piece: Run) -> bool:
    return abs(line[0].y - piece.y) < _SAME_LINE * min(line[0].size, piece.size)


def _peeled(lines: list[Line]) -> list[Line]:
    """先画的页脚、后画的页眉放回原处：最上面的一行一定最先读，最下面的最后读，从两头往里剥。"""
    top, bottom = [], []
    while lines:
        heights = [line[0].y for line in lines]
        if heights[0] == max(heights):
            top.append(lines.pop(0))
        elif heights[0] == min(heights):
            bottom.append(lines.pop(0))
        elif heights[-1] == min(heights):
            bottom.append(lines.pop())
        elif heights[-1] == max(heights):
            top.append(lines.pop())
        else:
            break
    return top + lines + bottom[::-1]


def _text(lines: list[Line]) -> str:
    """各行的文字；比最左边缩进几个字，前面就有几个全身空格，判断写没写满一行时要算上。"""
    left = min((line[0].x for line in lines), default=0)
    indents = [min(_INDENT, max(0, (line[0].x - left) / line[0].size)) for line in lines]
    return "\n".join("\u2003" * round(2 * indent) + _line_text(line)
                     for indent, line in zip(indents, lines, strict=True))


def _line_text(line: Line) -> str:
    text = line[0].text
    for left, right in pairwise(line):
        gap = (right.x - left.right) / min(left.size, right.size)
        text += _between(left.text[-1], right.text[0], gap, int(gap > 0.15)) + right.text
    return text


# ---- 直排 ----

def _is_vertical(found: list[Run]) -> bool:
    """一字一处，上下比左右挨得近。"""
    single = [piece for piece in found if len(piece.text) <= 2 and _HAN.match(piece.text)]
    columns = _columns(found)
    down = [a.y - b.y for column in columns for a, b in pairwise(column)]
    across = [a[0].x - b[0].x for a, b in pairwise(columns)]
    return (len(single) >= max(_MIN_VERTICAL, _VERTICAL_SHARE * len(found)) and len(down) >= MIN_LINES
            and not (across and median(down) > median(across)))


def _columns(found: list[Run]) -> list[list[Run]]:
    """各竖行，从右往左；竖行里从上往下。画的时候多半不是往下、往左走的，才按位置归到竖行。"""
    columns = _grouped(found, _same_column)
    leftward = sum(after[0].x < column[0].x for column, after in pairwise(columns))
    if 2 * len(columns) > len(found) or 2 * leftward < len(columns) - 1:
        columns = _grouped(sorted(found, key=lambda piece: -piece.x), _same_column)
    return [sorted(column, key=lambda piece: -piece.y) for column in columns]


def _same_column(column: list[Run], piece: Run) -> bool:
    return abs(column[0].x - piece.x) < 0.5 * piece.size


def _vertical(found: list[Run]) -> str:
    """从右往左、从上往下读；每一竖行成为一行。"""
    return "\n".join("".join(" " * (piece.space == 2) + piece.text for piece in column)
                     for column in _columns(found))


def _upright(piece: Run) -> Run:
    """顺时针侧着的一串（坐标按字的方向转正过）转回页面的坐标。"""
    return replace(piece, x=piece.y, right=piece.y + piece.size, y=-piece.x - 0.8 * piece.size)


def _grouped(found: list[Run], together: Callable[[list[Run], Run], bool]) -> list[list[Run]]:
    """依次归组：和前一组 together 的进这一组，否则另起一组。"""
    groups: list[list[Run]] = []
    for piece in found:
        if not groups or not together(groups[-1], piece):
            groups.append([])
        groups[-1].append(piece)
    return groups


# ---- 分栏 ----

def _regions(found: list[Run]) -> list[list[Run]]:
    """左栏读完再读右栏，右边还能再分；横跨两栏的标题把页面隔成上下几段，各段分别读。"""
    edge = _edge(found)
    if edge is None:
        return [found]
    regions = []
    ordered = sorted(_apart(found, edge), key=lambda pair: -pair[0].y)
    for apart, group in groupby(ordered, key=lambda pair: pair[1]):
        band = [piece for piece, _ in group]
        left, right = _sides(band, edge)
        body, notes = _notes(left)
        regions += [band] if apart else [body, *_regions(right), notes]
    return [region for region in regions if region]


def _edge(found: list[Run]) -> float | None:
    """栏边：几串从同一处起头，左右都像栏；有几处时取横跨它的串最少、最靠左的。没有就返回 None。"""
    starts = Counter(round(piece.x) for piece in found)
    begin = min((piece.x for piece in found), default=0)
    least = begin + _LEFT_SHARE * (max((piece.right for piece in found), default=0) - begin)
    likely = [x - 1 for x, times in starts.items() if times > 1 and x > least]
    crossing = {x: sum(_crosses(piece, x) for piece in found) for x in likely}
    return next((x for x in sorted(likely, key=lambda x: (crossing[x], x)) if _are_columns(found, x)), None)


def _sides(found: list[Run], edge: float) -> tuple[list[Run], list[Run]]:
    return [piece for piece in found if piece.x < edge], [piece for piece in found if piece.x >= edge]


def _notes(column: list[Run]) -> tuple[list[Run], list[Run]]:
    """(正文, 栏底字号小的脚注)：从上到下的一栏；脚注读完右栏再读，才不夹在一句话中间。"""
    usual = median(piece.size for piece in column) if column else 0
    end = next((i for i in range(len(column), 0, -1) if column[i - 1].size > 0.85 * usual), 0)
    return column[:end], column[end:]


def _crosses(piece: Run, edge: float) -> bool:
    """横跨中缝：从左栏一直画到栏边；行末的全角标点右半边是空的，不算。"""
    return piece.x < edge < piece.right + (0 if piece.text.endswith(NEVER_FIRST) else 0.5) * piece.size


def _apart(found: list[Run], edge: float) -> list[tuple[Run, bool]]:
    """各串是不是不分左右：横跨中缝，或是离正文远的页眉页脚、标题。"""
    rows = _grouped(sorted(found, key=lambda piece: -piece.y), _same_line)
    pairs = list(pairwise(rows))
    far = {id(piece) for row, near in [*pairs[:1], *(pair[::-1] for pair in pairs[-1:])] for piece in row
           if abs(piece.y - near[0].y) > _FAR * piece.size}
    return [(piece, _crosses(piece, edge) or id(piece) in far) for piece in found]


def _are_columns(found: list[Run], edge: float) -> bool:
    """上下重叠的行够多，横跨中缝的够少，两边都是写满的长行（右边可以自己再分栏）。"""
    split = [piece for piece in found if not _crosses(piece, edge)]
    left, right = _sides(split, edge)
    both = min(_beside(left, right), _beside(right, left))
    enough = both >= MIN_LINES and len(split) >= _SPLIT_SHARE * len(found)
    return enough and _is_prose(left) and (_is_prose(right) or len(_regions(right)) > 1)


def _beside(one: list[Run], other: list[Run]) -> int:
    """one 里有几串和 other 上下重叠。"""
    low, high = min((p.y for p in other), default=1), max((p.y for p in other), default=0)
    return sum(low - p.size <= p.y <= high + p.size for p in one)


def _is_prose(side: list[Run]) -> bool:
    """像正文：行够长，四成以上写满，里面没有表格那样的大空隙。"""
    rows = _grouped(sorted(side, key=lambda piece: -piece.y), _same_line)
    widths = [max(p.right for p in row) - min(p.x for p in row) for row in rows]
    sizes = [sum(len(p.text) for p in row) for row in rows]
    full = sum(width >= _FULL_WIDTH * max(widths) for width in widths)
    gaps = sum("\t" in _line_text(sorted(row, key=lambda piece: piece.x)) for row in rows)
    return median(sizes) >= MIN_PROSE and full >= _FULL_SHARE * len(rows) and gaps <= _GAP_SHARE * len(rows)
