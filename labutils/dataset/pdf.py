"""用 pypdf 读 PDF：打得开的逐页取出文字，打不开、读不出的说清楚为什么、怎么办。讲解见 notebook 01。

PDF 记的是画字的先后，不一定是读的先后；两栏和直排的页按位置重排。能认的只有横排两栏、一字一画的直排；
三栏以上、图文绕排认不出，仍按画的先后。
"""

import logging
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pypdf
from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError

from labutils.base.errors import LabError
from labutils.base.text import without_spaces
from labutils.dataset.clean import PAGE_NUMBER, Page, clean_pages, filled_lines, numbered

# pypdf 遇到小毛病会往日志里写英文；真正有事时下面会用一句中文说清楚
logging.getLogger("pypdf").setLevel(logging.CRITICAL)

# 坏在哪里，pypdf 就在哪里报什么：用不了的压缩方式是 NotImplementedError（属 RuntimeError）
BROKEN = (PyPdfError, pypdf.errors.DeprecationError, ValueError, LookupError, TypeError,
          AttributeError, RuntimeError, ArithmeticError, AssertionError, EOFError, zlib.error)


@dataclass
class Found:
    """读的时候发现的事：页码从 1 开始。"""

    raw: list[str] = field(default_factory=list)  # 每页的文字
    images: list[int] = field(default_factory=list)  # 有图片的页
    garbled: list[int] = field(default_factory=list)  # 字体没有文字对照表的页
    damaged: list[int] = field(default_factory=list)  # 内容坏了的页
    reordered: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # 版式 → 重排过的页


def read_pdf(path: Path, name: str) -> list[Page]:
    """读出每一页，已去掉页眉页脚页码、接好断句。name 是报错时用的短路径。

    整份都读不出（扫描件、空白、加密、截断、乱码、不是 PDF）时抛 LabError；
    只有个别页读不出时打印一行提醒，那一页的文字留空，页码不乱。
    """
    reader, found = _open(path, name), Found()
    found.raw = [_extract(page, number, found) for number, page in enumerate(reader.pages, 1)]
    pages = numbered(clean_pages(found.raw))
    empty = [page.number for page in pages if not page.text]
    found.images = [n for n in sorted({*empty} - {*found.garbled}) if _has_image(reader.pages[n - 1])]
    if len(empty) == len(pages):
        raise LabError(_no_text(found, name))
    _remind(found, name)
    return pages


def _open(path: Path, name: str) -> pypdf.PdfReader:
    """打开 PDF；打不开的说清楚为什么、怎么办。"""
    data = path.read_bytes()
    if b"%PDF-" not in data[:1024]:
        raise LabError(f"{name} 不是 PDF（开头没有 PDF 标记），请确认下载到的不是网页或别的格式。")
    # pypdf 会尽量救活截断的文件，但会悄悄少掉几页，所以先看结尾标记
    if b"%%EOF" not in data.rstrip(b"\0\r\n\t ")[-1024:]:
        raise LabError(f"{name} 不完整（结尾缺失，可能没有下载完），请重新下载。")
    try:
        return _load(path, name)
    except FileNotDecryptedError:
        raise LabError(f"{name} 设了打开密码，请在 PDF 阅读器里输入密码打开，"
                       "再用“打印/导出为 PDF”另存一份没有密码的。") from None
    except DependencyError:
        raise LabError(f"{name} 用了 AES 加密，请先运行 pip install 'pypdf[crypto]'。") from None
    except NotImplementedError:
        raise LabError(f"{name} 的加密方式（如证书加密）或压缩方式这里读不了，"
                       "请用 PDF 阅读器打开，再“打印/导出为 PDF”另存一份。") from None
    except BROKEN as error:
        raise LabError(f"{name} 已损坏，读不出来（{type(error).__name__}），"
                       "请重新下载，或用阅读器打开后另存一份再试。") from None


def _load(path: Path, name: str) -> pypdf.PdfReader:
    reader = pypdf.PdfReader(path)
    # 只设了“限制编辑”的 PDF 用空口令就能打开；要口令才能打开的不行
    if reader.is_encrypted and not reader.decrypt(""):
        raise FileNotDecryptedError
    if not len(reader.pages):
        raise LabError(f"{name} 里一页也没有，请换一份 PDF。")
    reader.pages[0]  # 坏目录在这里就会报错
    return reader


def _extract(page: pypdf.PageObject, number: int, found: Found) -> str:
    """一页的文字，按读的先后；读不出的页记在 found 里，返回空。"""
    unreadable = 0

    def count(text: str, _cm: list, _tm: list, font: dict | None, _size: float) -> None:
        nonlocal unreadable
        unreadable += len(text.strip()) if font and _has_no_characters(font) else 0

    try:
        plain = page.extract_text(visitor_text=count)
    except BROKEN:
        found.damaged.append(number)
        return ""
    if _is_garbled(plain, unreadable):
        found.garbled.append(number)
        return ""
    text, layout = reading_order(plain, _grid(page)) if plain.strip() else ("", "")
    if layout:
        found.reordered[layout].append(number)
    return text


def _grid(page: pypdf.PageObject) -> str:
    """按位置排的文字；pypdf 排不出来时返回空，这一页就按画的先后读。"""
    with suppress(*BROKEN):
        return page.extract_text(extraction_mode="layout", layout_mode_space_vertically=False)
    return ""


def _has_no_characters(font: dict) -> bool:
    """只有字形编号、查不到是什么字的字体：没有 ToUnicode，编码又是 Identity（ISO 32000-2 §9.10.2）。"""
    # pypdf 这时把字形编号当成字，看着像一串不相干的字母汉字
    return (font.get("/Subtype") == "/Type0" and "/ToUnicode" not in font
            and str(font.get("/Encoding")).startswith("/Identity"))


def _is_garbled(text: str, unreadable: int) -> bool:
    """三成以上的字查不到，或是私有区字符、控制符、替换符，这一页就没法读。"""
    visible = [c for c in text if not c.isspace()]
    strange = sum(unicodedata.category(c) in ("Co", "Cn", "Cc") or c == "\ufffd" for c in visible)
    return max(strange, unreadable) > 0.3 * len(visible)


MIN_LINES = 5  # 至少这么多行左右都有字，才可能是两栏；至少这么多行，才可能是直排
MIN_PROSE = 8  # 一栏里的行，字数的中位数至少这么多；表格的格子短
_MIN_VERTICAL, _VERTICAL_SHARE = 20, 0.8  # 直排：一格一字的至少这么多个，占全部格子的这么多
_LEFT_SHARE = 0.25  # 右栏的起点在行宽的这个比例之后
_INDENT = 4  # 段首缩进至多这么多格
_SPLIT_SHARE = 0.6  # 至少这么多的行没有横跨中缝
_FULL_WIDTH, _FULL_SHARE, _GAP_SHARE = 0.8, 0.4, 0.1  # 写满：到最长行的八成；正文四成写满，至多一成有空隙
_HAN_ONLY = re.compile("[\u3001-\u9fff\ufe10-\ufe4f\uff01-\uff1f]{1,2}")
_GAP = re.compile(r"\s{2,}")


def reading_order(plain: str, grid: str) -> tuple[str, str]:
    """返回 (按读的先后排好的文字, 认出的版式)；版式是 "两栏"、"直排" 或空。

    两份文字是同一页的：plain 按画的先后；grid 按位置排成等宽的格子（pypdf 的 layout 模式），
    同一列的字在各行的下标相同。画的先后本来就对时原样返回 plain；重排不得增减一个字，否则也返回 plain。
    """
    lines = filled_lines(grid)
    vertical = _vertical(lines)
    ordered = vertical or _two_columns(lines)
    flat, drawn = without_spaces(ordered), without_spaces(plain)
    if Counter(flat) != Counter(drawn):
        return plain, ""
    if flat == drawn:
        return vertical or plain, ""
    return ordered, "直排" if vertical else "两栏"


def _vertical(lines: list[str]) -> str:
    """一格一字、五行二十字以上：从右往左、从上往下读；每一竖行成为一行。"""
    cells = [(m.start(), m.group()) for line in lines for m in re.finditer(r"\S+", line)]
    single = sum(bool(_HAN_ONLY.fullmatch(text)) for _, text in cells)
    if len(lines) < MIN_LINES or single < max(_MIN_VERTICAL, _VERTICAL_SHARE * len(cells)):
        return ""
    return "\n".join(_upright(cells))


def _upright(cells: list[tuple[int, str]]) -> list[str]:
    """各竖行，从右往左；cells 是 (第几格, 字)，同一竖行的字左右至多差一格。"""
    columns: dict[int, str] = {}
    for start, text in cells:
        near = next((x for x in (start, start - 1, start + 1) if x in columns), start)
        columns[near] = columns.get(near, "") + text
    return [columns[x] for x in sorted(columns, reverse=True)]


def _two_columns(lines: list[str]) -> str:
    """左栏读完再读右栏；横跨两栏的标题把页面隔成上下几段，各段分别读。"""
    gutter = _gutter(lines)
    if gutter is None:
        return ""
    ordered, left, right = [], [], []
    for line, apart in zip(lines, _apart(lines, gutter), strict=True):
        if apart:
            ordered += [*left, *right, line]
            left, right = [], []
        else:
            left.append(line[:gutter])
            right.append(line[gutter:])
    return "\n".join(filled_lines("\n".join(ordered + left + right)))


def _apart(lines: list[str], gutter: int) -> list[bool]:
    """各行是不是不分左右：横跨中缝，或在两栏的上面、下面自成一行。"""
    both = [i for i, line in enumerate(lines) if _has_both(line, gutter)]
    return [_crosses(line, gutter) or (not both[0] <= i <= both[-1] and _stands_alone(line, gutter))
            for i, line in enumerate(lines)]


def _has_both(line: str, gutter: int) -> bool:
    """左右两栏都有字。"""
    return not _crosses(line, gutter) and bool(line[:gutter].strip() and line[gutter:].strip())


def _stands_alone(line: str, gutter: int) -> bool:
    """栏外的行：页码，或不从栏边起头的居中标题。"""
    start = len(line) - len(line.lstrip())
    at_edge = start <= _INDENT or gutter <= start <= gutter + _INDENT
    return bool(PAGE_NUMBER.fullmatch(line)) or not at_edge


def _crosses(line: str, gutter: int) -> bool:
    """横跨中缝：缝的左右两格都有字。缝左边一格是空的就不算。"""
    return len(line) > gutter and bool(line[gutter - 1 : gutter].strip())


def _gutter(lines: list[str]) -> int | None:
    """右栏从第几格开始（各行从同一格开始，左边空着两格以上）；不是两栏就返回 None。"""
    widest = max(map(len, lines), default=0)
    starts = Counter(m.end() for line in lines for m in _GAP.finditer(line)
                     if _LEFT_SHARE * widest < m.end() < len(line))
    gutter = _edge(starts)
    return gutter if _are_columns(lines, gutter) else None


def _edge(starts: Counter[int]) -> int:
    """段首缩进的行起点靠右，最常见的起点附近最靠左的那个才是栏边。"""
    usual = max(sorted(starts), key=starts.__getitem__, default=0)
    return min([usual, *(x for x in starts if usual - _INDENT <= x < usual and starts[x] >= 2)])


def _are_columns(lines: list[str], gutter: int) -> bool:
    """左右都有字的行够多，横跨中缝的够少，两边都是写满的长行。"""
    split = [(line[:gutter], line[gutter:]) for line in lines if not _crosses(line, gutter)]
    both = sum(_has_both(line, gutter) for line in lines)
    enough = both >= MIN_LINES and len(split) >= _SPLIT_SHARE * len(lines)
    return enough and all(map(_is_prose, zip(*split, strict=True)))


def _is_prose(side: tuple[str, ...]) -> bool:
    """像正文：行够长，四成以上写满，里面没有表格那样的大空隙。"""
    lines = list(filter(None, map(str.strip, side)))
    sizes = sorted(map(len, lines))
    full = sum(size >= _FULL_WIDTH * sizes[-1] for size in sizes)
    gaps = sum(bool(_GAP.search(line)) for line in lines)
    return (sizes[len(sizes) // 2] >= MIN_PROSE and full >= _FULL_SHARE * len(sizes)
            and gaps <= _GAP_SHARE * len(lines))


def _has_image(page: pypdf.PageObject) -> bool:
    with suppress(*BROKEN):
        return len(page.images) > 0
    return False


def _no_text(found: Found, name: str) -> str:
    if found.garbled:
        return (f"{name} 第 {page_list(found.garbled)} 页的字体没有文字对照表，取出来是乱码，"
                "请用 OCR 软件识别后另存为 PDF。")
    if found.images:
        return (f"{name} 是扫描件：第 {page_list(found.images)} 页只有图片、没有文字，"
                "请先用 OCR 软件识别成可以选中文字的 PDF。")
    if any(map(str.strip, found.raw)):
        return f"{name} 共 {len(found.raw)} 页，除了每页重复的页眉页脚没有别的文字，请换一份 PDF。"
    if found.damaged:
        return (f"{name} 第 {page_list(found.damaged)} 页已损坏，读不出来，"
                "请重新下载，或用阅读器打开后另存一份再试。")
    return f"{name} 共 {len(found.raw)} 页，全是空白，没有可用的文字，请换一份 PDF。"


def _remind(found: Found, name: str) -> None:
    """个别页有问题不挡路，但要让人知道。"""
    for numbers, what in (
        (found.images, "只有图片，没有可读的文字，已跳过"),
        (found.garbled, "的字体没有文字对照表，取出来是乱码，已跳过；需要的话请用 OCR 软件识别"),
        (found.damaged, "已损坏，读不出来，已跳过；需要的话请用阅读器打开后另存一份再试"),
        *((numbers, f"是{layout}，画的先后和读的先后不同，已按位置重排，请抽看一页")
          for layout, numbers in found.reordered.items()),
    ):
        if numbers:
            print(f"提醒：{name} 第 {page_list(numbers)} 页{what}。")


def page_list(numbers: list[int]) -> str:
    """[1, 2, 3, 7] → "1–3、7"。"""
    by_run = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    runs = ([n for _, n in run] for _, run in by_run)
    return "、".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)
