"""去掉页边上一再出现的东西：页码、页眉、页脚。讲解见 notebook 01。

页码看写法，也看各页连不连得上；页眉看是不是一再出现。拿不准的留着：多一行页眉只是啰唆，少一行标题就少了内容。
"""

import re
import unicodedata
from collections import Counter, defaultdict
from itertools import chain

from labutils.base.text import without_spaces
from labutils.dataset.clean import (
    CLOSING,
    SENTENCE_END,
    filled_lines,
    is_row,
    join_pages,
    tidy,
    usual_width,
    width,
)

# 页码的各种写法（全角的先换成半角）：3、- 3 -、Ⅲ、（3）、3-15、一二、P.12、第1页（共6页）、Page 3 of 10
PAGE_NUMBER = re.compile(
    r"[\W_]*(?:第|page|p\.?)?\s*(?:\d+\s*[-–]\s*)?(\d{1,4}|[ivxlc]{1,7}|[零〇一二三四五六七八九十百]{1,4})"
    r"\s*[页頁版]?(?:[\s(]*(?:/|of|,|，)?\s*共?\s*\d+\s*[页頁]?)?[\W_]*",
    re.IGNORECASE,
)
_SURELY = re.compile(r"第.+[页頁]|page|\d\s*(?:/|of)|^\s*[-–—·|_].*[-–—·|_]\s*$", re.IGNORECASE)
_BARE = re.compile(r"\d{1,3}|[ivx]{1,6}", re.IGNORECASE)
_FOLIO = re.compile(r"^(\d{1,4})(?=[^\d.])|(?:第\s*)?(?<!\d)(\d{1,4})(?:\s*页)?(?:\s*[/共]\s*\d+\s*页?)?$")
_CODE = re.compile(r"[!-~]*[(){};=][!-~]*")
_HAS_WORD = re.compile(r"[^\W\d_]{2}")  # 只有数字、符号的行可能是表格，不当页眉
EDGE = 2  # 页眉、页脚各至多几行（页码不算）
NARROWEST = 60  # 判断写没写满时，一行至少按 30 个字算：两栏的页、幻灯片的页眉可以比正文行宽
Keys = list[list[list[str]]]  # 每页、每行、每格的写法，见 _key


def clean_pages(raw: list[str]) -> list[str]:
    """去掉页码和重复的页眉页脚，再接上断句。页数不变。"""
    return join_pages([kept for kept, _ in without_margins(raw)])


def without_margins(raw: list[str]) -> list[tuple[list[str], list[str]]]:
    """每页的 (正文各行, 去掉的页眉页脚)；页码也去掉。

    页眉页脚是页首、页尾两行之内一再出现的同一行（一行有几格的，各格都是）。从头到尾六成以上的页都有（左右页
    不同的，三成以上）的全去掉；只是连着几页都有的可能是幻灯片的标题、一章的题目，第一次留着，也不把一页去空。
    """
    pages = [filled_lines(tidy(text)) for text in raw]
    keys = _keys(pages)
    heads, always = _heads(pages, keys)
    return [_peeled(lines, [_kind(words, index, heads, always) for words in key])
            for index, (lines, key) in enumerate(zip(pages, keys, strict=True))]


def _keys(pages: list[list[str]]) -> Keys:
    """各页、各行、各格的写法。

    六成以上的页，最外一行都是页码和别的几格，别的几格（章名、书名）每页不同也是页眉，写成 #、#。
    """
    shifts = _shifts(pages)
    keys = [[[_key(cell, index, shifts, len(pages)) for cell in line.split("\t")] for line in lines]
            for index, lines in enumerate(pages)]
    for side in (0, -1):
        framed = [key for key in filter(None, keys) if {"#"} < set(key[side])]
        for key in framed if len(framed) >= max(3, 0.6 * len(pages)) else []:
            key[side] = ["#", "#"]
    return keys


def _shifts(pages: list[list[str]]) -> set:
    """页边的数比页的序号（见 _shift）大多少：三页以上一样的才是页码；大 1（印的就是第几页）的总算。"""
    found: Counter = Counter()
    for index, lines in enumerate(pages):
        cells = "\t".join(lines[: EDGE + 1] + lines[-EDGE - 1 :]).split("\t")
        found.update({_shift(cell, index) for cell in cells} - {None})
    return {1, *(shift for shift, count in found.items() if count >= 3)}


def _shift(line: str, index: int) -> int | str | None:
    """印的页码比页的序号（从 0 起）大多少；不是数字的返回 "字母、汉字"，不像页码的返回 None。"""
    match = PAGE_NUMBER.fullmatch(unicodedata.normalize("NFKC", line))
    return match and (int(match[1]) - index if match[1].isdecimal() else "字母、汉字")


def _key(line: str, index: int, shifts: set, count: int) -> str:
    """一行去掉空白的写法；是页码的只写 #，行首、行末的数是这一页的页码的也换成 #（“××讲义 第 3 页”）。

    写明了的、和别的页连得上的才是页码；页太少、没有别的页可比时，单独一个小数也算。
    """
    plain = unicodedata.normalize("NFKC", line).strip()
    shift, known = _shift(plain, index), _SURELY.search(plain) or (count < 3 and _BARE.fullmatch(plain))
    if shift in shifts or (known and shift is not None):
        return "#"
    for match in _FOLIO.finditer(plain):
        if int(match[1] or match[2]) - index in shifts:
            plain = f"{plain[: match.start()]}#{plain[match.end() :]}"
    return without_spaces(plain)


def _heads(pages: list[list[str]], keys: Keys) -> tuple[dict[str, set[int]], set[str]]:
    """(页眉页脚的写法 → 从哪几页去掉, 其中每次都去掉的)。"""
    where, spots = _places(keys)
    usual = usual_width(chain.from_iterable(lines[EDGE:-EDGE] for lines in pages))
    heads = {word: taken for word, found in where.items()
             if not _is_prose(word, usual) and (taken := _taken(found, spots[word], len(pages)))}
    return heads, {word for word, found in heads.items() if found == where[word]}


def _places(keys: Keys) -> tuple[dict[str, set[int]], dict[str, Counter[int]]]:
    """(写法 → 出现在哪几页的页边, 写法 → 各页一共有几次)。"""
    where: dict[str, set[int]] = defaultdict(set)
    spots: dict[str, Counter[int]] = defaultdict(Counter)
    for index, key in enumerate(keys):
        inner = [words for words in key if words != ["#"]]
        for word in filter(_HAS_WORD.search, chain.from_iterable(inner[:EDGE] + inner[-EDGE:])):
            where[word].add(index)
        for word in chain.from_iterable(key):
            spots[word][index] += 1
    return where, spots


def _taken(found: set[int], spots: Counter[int], count: int) -> set[int]:
    """哪几页的是页眉页脚：从头到尾一再出现的全是；不然三页以上都有的，只去掉这一页、前两页之内另有的。

    一页里有三次的是套话，不是页眉。
    """
    if max(spots.values()) > 2 or len(spots) < 3:
        return set()
    if _throughout(found, count):
        return found
    return {index for index in found if spots[index] + spots[index - 1] + spots[index - 2] > 1}


def _throughout(found: set[int], count: int) -> bool:
    """从头到尾六成以上的页都有，或单数页、双数页的六成以上都有（左右页不同）。"""
    odd = sum(index % 2 for index in found)
    often = len(found) >= max(3, count * 0.6) or max(odd, len(found) - odd) >= max(3, count * 0.3)
    return often and min(found) <= 2 and max(found) >= count - 3


def _is_prose(key: str, usual: int) -> bool:
    """写满一行、以句号结尾的是正文，像程序的也是：每页一份的表单、套话会一再出现，不能当页眉删掉。"""
    full = width(key) >= 0.8 * max(usual, NARROWEST)
    return full or key.rstrip(CLOSING).endswith((*SENTENCE_END, "；")) or bool(_CODE.fullmatch(key))


_TEXT, _NUMBER, _HEAD, _TITLE = range(4)  # 一行是正文、页码、页眉页脚、也许是标题的页眉


def _kind(words: list[str], index: int, heads: dict[str, set[int]], always: set[str]) -> int:
    """各格都是页眉才算页眉；有一格每页都有、或是页码的，别的格（章名）第一次出现也去掉。"""
    if words == ["#"]:
        return _NUMBER
    sure = not always.isdisjoint(words) or "#" in "".join(words)
    if sure and set(filter(_HAS_WORD.search, words)) <= heads.keys():
        return _HEAD
    return _TITLE if all(index in heads.get(word, ()) for word in words) else _TEXT


def _peeled(lines: list[str], kinds: list[int]) -> tuple[list[str], list[str]]:
    """从两头往里剥，剥到正文为止；会把一页剥空的，也许是标题的就留着。"""
    top, bottom = _margin(lines, kinds), len(lines) - _margin(lines[::-1], kinds[::-1])
    if top >= bottom and _TITLE in kinds:
        return _peeled(lines, [kind if kind != _TITLE else _TEXT for kind in kinds])
    outside = [*range(top), *range(max(top, bottom), len(lines))]
    return lines[top:bottom], [lines[i] for i in outside if kinds[i] != _NUMBER]


def _margin(lines: list[str], kinds: list[int]) -> int:
    """最外面有几行要剥掉：至多一个页码、EDGE 行页眉。

    续表每页重复的表头（两行都有三格）、页眉下面同名的标题不算。
    """
    seen: set[str] = set()
    for place, (line, kind) in enumerate(zip(lines, kinds, strict=True)):
        numbers = kinds[: place + 1].count(_NUMBER)
        cells = set(map(without_spaces, line.split("\t")))
        table = kind != _NUMBER and list(map(_is_table_row, lines[place : place + 2])) == [True, True]
        if kind == _TEXT or numbers > 1 or place + 1 - numbers > EDGE or cells <= seen or table:
            return place
        seen |= cells
    return len(kinds)


def _is_table_row(line: str) -> bool:
    return is_row(line) and len(line.split()) >= 3
