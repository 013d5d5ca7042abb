"""一页上的字按位置排成行：同一行的、隔开的格子、左右几栏、直排、上下标。单位是磅，y 向上。

画字的先后多半就是读的先后（表格一格折成几行也是），所以先照它，看得出不对才按位置改：
页眉页脚先画、分栏却一行左一行右地画、直排、横放的页。图文绕排认不出。
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby, pairwise
from statistics import median

from labutils.base.text import without_spaces
from labutils.dataset.clean import GOES_ON, NOTE, UNBROKEN, glue, width

CELL, SPACE = 1.0, 0.5  # 空出一个字宽是隔开的格子，半个字宽是汉字之间有意的空格（以字号计）
_SQUEEZE = 0.75  # 全角标点可以和后面的字挤在一起，至多挤掉这么多
_LEVEL, _SMALL = 0.08, 0.86  # 基线相差不到这么多是同样高；字号不到这么多是小字（上下标、脚注）
_SAME_LINE, _FAR = 0.3, 2.2  # 基线相差不到这么多是同一行；页边的一行离正文这么远是页眉页脚
MIN_LINES, MIN_PROSE = 5, 8  # 至少这么多行才可能分栏、直排；一栏里的行，字数的中位数至少这么多（格子短）
# 地图、散点图一页有上万处字，都和都比要几分钟：栏边只试起头最多的几处（真的都在前六处），只和近来画的比
_MOST_EDGES, _RECENT = 20, 300
_MIN_VERTICAL, _VERTICAL_SHARE = 20, 0.8  # 直排：一字一处的至少这么多个，占全部的这么多
_SPLIT_SHARE = 0.6  # 至少这么多的行没有横跨中缝
_INDENT = 4  # 段首缩进至多这么多字
_FULL_WIDTH, _FULL_SHARE, _GAP_SHARE = 0.8, 0.4, 0.1  # 写满：到最长行的八成；正文四成写满，至多一成有格子

_HAN = "[\u2e80-\u9fff\uf900-\ufaff\ufe10-\ufe4f\uff01-\uff60]"
_STOP = re.compile(r"[，。；]|[,.](?!\d)")
_TWO_HAN, _SINGLE = re.compile(2 * _HAN), re.compile(f"{_HAN}.?")
_SCRIPT = re.compile("[0-9+\u2212,，n-]+")
RAISED = str.maketrans("0123456789+-\u2212n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")
LOWERED = str.maketrans("0123456789+-\u2212n", "₀₁₂₃₄₅₆₇₈₉₊₋₋ₙ")


@dataclass
class Run:
    """画在一起、紧挨着的几个字：左边、右边、基线，字号；angle 是方向（度，坐标已按它转正）。

    space 是前面的空白：0 没有，1 是推断的，2 真有空格；known 是字体里有没有对照。
    """

    text: str
    x: float
    right: float
    y: float
    size: float
    angle: int = 0
    space: int = 0
    known: bool = True


Line = list[Run]


_LAYOUTS = {False: "两栏以上", True: "直排"}


def page_text(runs: list[Run]) -> tuple[str, str]:
    """返回 (按读的先后排好的文字, 认出的版式)：版式是 "两栏以上"、"直排" 或空；格子之间是制表符。

    字的方向和大家不同的（水印、侧排的字）放在最后；直排里侧着的西文和数放回所在的竖行。
    """
    main, *others = _by_angle(runs)
    vertical = _is_vertical(main)
    if vertical:
        main, *others = _by_angle([_upright(run) if run.angle == 270 else run for run in runs])
    texts = (["".join(" " * (piece.space == 2) + piece.text for piece in column) for column in _columns(main)]
             if vertical else _region_texts(main))
    drawn = without_spaces("".join(piece.text for piece in main))
    layout = "" if len(texts) < 2 or without_spaces("".join(texts)) == drawn else _LAYOUTS[vertical]
    return "\n".join(filter(None, [*texts, *map(_text, others)])), layout


def _by_angle(runs: list[Run]) -> list[list[Run]]:
    """各个方向的串，最多的方向在前；一个字也没有时是空的一组。"""
    groups: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.angle].append(run)
    return [_pieces(group) for group in sorted(groups.values(), key=len, reverse=True)] or [[]]


# ---- 字连成串 ----

def _pieces(runs: list[Run]) -> list[Run]:
    """按画的先后连成串，中间没有格子那样的空隙；同样的字在同一处又画一遍（描粗、阴影）只算一次。"""
    found: list[Run] = []
    drawn: dict[str, list[Run]] = defaultdict(list)
    piece = Run("\t", 0, 0, 0, 1)
    for run in runs:
        near = 0.3 * min(run.right - run.x, run.size)
        if any(abs(run.x - before.x) <= near and abs(run.y - before.y) <= 0.3 * run.size
               for before in drawn[run.text][-_RECENT:]):
            continue
        drawn[run.text].append(run)
        gap = (run.x - piece.right) / piece.size
        between = _between(piece.text[-1], run.text[0], gap, run.space)
        if abs(run.y - piece.y) < _LEVEL * piece.size and gap > -_SQUEEZE and between != "\t":
            piece.text += between + run.text
            piece.right = run.right
        else:
            piece = replace(run)
            found.append(piece)
    return _with_scripts([piece for piece in found if piece.text.strip()])


def _between(left: str, right: str, gap: float, space: int) -> str:
    """两个字之间放什么；gap 以字号计。推断出来的空格在两个汉字之间不作数，西文的词距可以拉得很开。"""
    han = bool(_TWO_HAN.match(left + right))
    stretched = space > han  # 两端对齐的行，空格会拉开；汉字与西文之间至多拉开一个字多
    if gap >= CELL * (1 + stretched * (1 if (left + right).isascii() else 0.3)):
        return "\t"
    return " " if gap >= SPACE or stretched else ""


def _with_scripts(found: list[Run]) -> list[Run]:
    """上下标接到旁边的字上；是数的写成上下标的字，“120¹门”才不会成了“1201门”。"""
    result: list[Run] = []
    for piece in found:
        if not result or not _attach(result[-1], piece):
            result.append(piece)
    return result


def _attach(base: Run, piece: Run) -> bool:
    """piece 是 base 的上下标，或反过来，或同一行紧接着的，就接上。"""
    small, large = sorted([base, piece], key=lambda run: run.size)
    gap, rise = (piece.x - base.right) / large.size, (small.y - large.y) / large.size
    script = small.size < _SMALL * large.size and _LEVEL <= abs(rise) <= 0.7
    if not (-0.4 < gap < 0.4 and (script or abs(rise) < _LEVEL)):
        return False
    if script and _SCRIPT.fullmatch(small.text):
        small.text = small.text.translate(RAISED if rise > 0 else LOWERED)
    base.text += _between(base.text[-1], piece.text[0], gap, 0) + piece.text
    base.right, base.y, base.size = piece.right, large.y, large.size
    return True


# ---- 串排成行 ----

def _rows(found: list[Run]) -> list[Run]:
    """表格里折成几行的格子并成一串，和同一行里单行的格子放在同一条基线上；跨几行的格子放在这一行前面。"""
    result: list[Run] = []
    row: list[list[Run]] = []
    for cell, after in pairwise([*_grouped(found, _below), []]):
        if _beside_row(row, cell):
            row.append(cell)
        elif _beside_row(row, after):
            result += cell
        else:
            result += _row(row)
            row = [cell]
    return result + _row(row)


def _below(cell: list[Run], piece: Run, alike: float = 0.01) -> bool:
    """piece 是这一格里折下来的下一行；字号至多相差 alike 倍。"""
    above = cell[-1]
    overlap = piece.x < above.right and above.x < piece.right
    like = abs(piece.size - above.size) < alike * piece.size
    return overlap and like and 0.5 < (above.y - piece.y) / piece.size < _FAR


def _beside_row(row: list[list[Run]], cell: list[Run]) -> bool:
    """cell 在这一行的右边，上下和第一格重叠。"""
    if not row or not cell:
        return False
    first, margin = row[0], cell[0].size / 2
    level = cell[-1].y - margin < first[0].y and first[-1].y < cell[0].y + margin
    return level and cell[0].x > max(piece.right for piece in row[-1]) - margin


def _row(row: list[list[Run]]) -> list[Run]:
    """三格以上、有的折行有的不折，才是表格的一行。"""
    base = next((cell[0].y for cell in row if len(cell) == 1), None)
    if len(row) < 3 or base is None:
        return list(chain.from_iterable(row))
    return [_unfolded(cell, base) for cell in row]


def _unfolded(cell: list[Run], y: float) -> Run:
    text = cell[0].text
    for piece in cell[1:]:
        text += glue(text[-1], piece.text[0]) + piece.text
    return replace(cell[0], text=text, right=max(piece.right for piece in cell), y=y)


def _lines(found: list[Run]) -> list[Line]:
    """照画的先后，接连画在同一条基线上的是一行；后来补画的放回紧挨着的那一行。"""
    lines: list[Line] = []
    for line in _grouped(_rows(found), _same_line):
        home = next((other for other in lines[-_RECENT:] if _touches(other, line[0])), None)
        if home is None:
            lines.append(line)
        else:
            home += line
    return _peeled([sorted(line, key=lambda piece: piece.x) for line in lines])


def _touches(line: Line, piece: Run) -> bool:
    near = SPACE * piece.size
    return _same_line(line, piece) and any(
        abs(piece.x - other.right) < near or abs(other.x - piece.right) < near for other in line)


def _same_line(line: list[Run], piece: Run) -> bool:
    return abs(line[0].y - piece.y) < _SAME_LINE * min(line[0].size, piece.size)


def _peeled(lines: list[Line]) -> list[Line]:
    """先画的页脚、后画的页眉放回原处：最上面的一行一定最先读，最下面的最后读，从两头往里剥。"""
    top: list[Line] = []
    bottom: list[Line] = []
    while lines:
        heights = [line[0].y for line in lines]
        extremes = {min(heights): bottom, max(heights): top}
        end = 0 if heights[0] in extremes else -1
        if heights[end] not in extremes:
            break
        extremes[heights[end]].append(lines.pop(end))
    return top + lines + bottom[::-1]


def _region_texts(found: list[Run]) -> list[str]:
    usual = median([piece.size for piece in found for _ in piece.text] or [0])
    return [_text(region, usual) for region in _regions(found)]


def _text(found: list[Run], usual: float = 0) -> str:
    """排成行的文字；前面标明哪几行接着上一行、哪几行是小字（usual 是通常的字号），缩进几个字就空几个字。"""
    lines = [replace(line[0], text=_line_text(line), right=line[-1].right) for line in _lines(found)]
    left, sides, text = min((line.x for line in lines), default=0), _sides_of(lines), []
    for block in _grouped(lines, partial(_below, alike=0.1)):
        for line, joint in zip(block, [False, *_joints(block, sides, _sides_of(block))], strict=True):
            indent = "\u2003" * round(2 * min(_INDENT, (line.x - left) / line.size))
            text.append(NOTE * (line.size < _SMALL * usual) + GOES_ON * joint + indent + line.text)
    return "\n".join(text)


def _sides_of(lines: list[Run]) -> tuple[float, float]:
    """这些行的左边和右边；四分之一以上写到右边、有标点的才是一段段的话，不是名单、表格、落款，看不出右边在哪里。"""
    plain = [line for line in lines if "\t" not in line.text]
    if not _STOP.search("".join(line.text for line in plain)):
        return 0, math.inf
    left, rights = min(line.x for line in plain), sorted(line.right for line in plain)
    sides = left, rights[-1 - len(plain) // 10]
    return sides if sum(_joints(plain, sides)) >= max(2, len(plain) / 4) else (0, math.inf)


def _joints(lines: list[Run], *sides: tuple[float, float]) -> list[bool]:
    """哪几行（第一行除外）接着上一行。"""
    return [any(_goes_on(above, line, *side) for side in sides) for above, line in pairwise(lines)]


def _goes_on(above: Run, line: Run, left: float, right: float) -> bool:
    """上一行从左边写起，到右边放不下这一行开头不可断开的一截（再多算一格）。

    这一行也从左边写起，或和上一行一样居中（折成两行的标题）；靠右的是落款。
    """
    centred = abs(line.x + line.right - above.x - above.right) < line.size
    beside = above.x - left < _INDENT * line.size and (centred or line.x - left < _INDENT * line.size)
    needed = (width(UNBROKEN.match(line.text)[0]) + 1) * (line.right - line.x) / width(line.text)
    return beside and above.right + needed > right and line.text[0] != "\u3000"


def _line_text(line: Line) -> str:
    text = line[0].text
    for left, right in pairwise(line):
        gap = (right.x - left.right) / min(left.size, right.size)
        text += _between(left.text[-1], right.text[0], gap, int(gap > 0.15)) + right.text
    return text


# ---- 直排 ----

def _is_vertical(found: list[Run]) -> bool:
    """一字一处，上下比左右挨得近。"""
    single = sum(bool(_SINGLE.fullmatch(piece.text)) for piece in found)
    if single < max(_MIN_VERTICAL, _VERTICAL_SHARE * len(found)):
        return False
    columns = _columns(found)
    down = [above.y - below.y for column in columns for above, below in pairwise(column)]
    across = [right[0].x - left[0].x for right, left in pairwise(columns)]
    return median(down or [math.inf]) <= median(across or [math.inf])


def _columns(found: list[Run]) -> list[list[Run]]:
    """各竖行，从右往左；竖行里从上往下。"""
    columns = _grouped(sorted(found, key=lambda piece: -piece.x),
                       lambda column, piece: abs(column[0].x - piece.x) < 0.5 * piece.size)
    return [sorted(column, key=lambda piece: -piece.y) for column in columns]


def _upright(piece: Run) -> Run:
    """顺时针侧着的一串（坐标按字的方向转正过）转回页面的坐标。"""
    return replace(piece, x=piece.y, right=piece.y + piece.size, y=-piece.x - 0.8 * piece.size, angle=0)


def _grouped(found: Iterable[Run], together: Callable[[list[Run], Run], bool]) -> list[list[Run]]:
    """依次归组：和前一组 together 的进这一组，否则另起一组。"""
    groups: list[list[Run]] = []
    for piece in found:
        if not groups or not together(groups[-1], piece):
            groups.append([])
        groups[-1].append(piece)
    return groups


def _downward(found: list[Run]) -> list[list[Run]]:
    """从上往下的各行。"""
    return _grouped(sorted(found, key=lambda piece: -piece.y), _same_line)


# ---- 分栏 ----

def _regions(found: list[Run]) -> list[list[Run]]:
    """左栏读完再读右栏，右边还能再分；横跨两栏的标题把页面隔成上下几段，各段分别读。"""
    far = _far(found)
    edge = _edge([piece for piece in found if piece.y not in far])
    if edge is None:
        return [found]
    regions: list[list[Run]] = []
    ordered = sorted(found, key=lambda piece: -piece.y)
    for apart, band in groupby(ordered, key=lambda piece: _crosses(piece, edge) or piece.y in far):
        left, right = _sides(band, edge)
        (body, notes), (others, more) = _notes(left), _notes(right)
        regions += [left + right] if apart else [body, *_regions(others), notes, more]
    return list(filter(None, regions))


def _edge(found: list[Run]) -> float | None:
    """栏边：几串从同一处起头，左右都像栏；有几处时取横跨它的串最少、最靠左的。没有就返回 None。"""
    starts = Counter(round(piece.x) for piece in found)
    likely = sorted(x - 1 for x, times in starts.most_common(_MOST_EDGES) if times > 1)
    likely.sort(key=lambda edge: sum(_crosses(piece, edge) for piece in found))
    return next(filter(partial(_are_columns, found), likely), None)


def _sides(found: Iterable[Run], edge: float) -> tuple[list[Run], list[Run]]:
    sides: tuple[list[Run], list[Run]] = [], []
    for piece in found:
        sides[piece.x + piece.right > 2 * edge].append(piece)
    return sides


def _notes(column: list[Run]) -> tuple[list[Run], list[Run]]:
    """(正文, 栏底字号小的脚注)：从上到下的一栏；脚注读完右栏再读，才不夹在一句话中间。"""
    usual = median(piece.size for piece in column) if column else 0
    end = next((i for i in range(len(column), 0, -1) if column[i - 1].size > _SMALL * usual), 0)
    return column[:end], column[end:]


def _crosses(piece: Run, edge: float) -> bool:
    """横跨中缝：两边都伸进去一个半字以上；标点悬在外面、一行排得过长，只碰到一点。"""
    reach = 1.5 * piece.size
    return piece.x + reach < edge < piece.right - reach


def _far(found: list[Run]) -> set[float]:
    """离正文远的页眉页脚、标题的高低：它们不分左右。"""
    rows = _downward(found)
    ends = [*pairwise(rows[:2]), *pairwise(rows[:-3:-1])]
    return {piece.y for row, near in ends for piece in row if abs(piece.y - near[0].y) > _FAR * piece.size}


def _are_columns(found: list[Run], edge: float) -> bool:
    """两边的行够多，横跨中缝的够少，两边都是写满的长行（右边可以自己再分栏）。"""
    split = [piece for piece in found if not _crosses(piece, edge)]
    left, right = _sides(split, edge)
    enough = len(left) >= MIN_LINES and len(right) > 1 and len(split) >= _SPLIT_SHARE * len(found)
    return enough and _is_prose(left) and (_is_prose(right) or _edge(right) is not None)


def _is_prose(side: list[Run]) -> bool:
    """像正文：行够长，四成以上写满，里面没有表格那样的大空隙。"""
    rows = _downward(side)
    widths = sorted(max(p.right for p in row) - min(p.x for p in row) for row in rows)
    long = median(sum(len(p.text) for p in row) for row in rows) >= MIN_PROSE
    full = widths[int((1 - _FULL_SHARE) * len(rows))] >= _FULL_WIDTH * widths[-1]
    return long and full and len(side) <= (1 + _GAP_SHARE) * len(rows)
