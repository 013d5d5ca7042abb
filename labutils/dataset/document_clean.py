"""一页页的原始文字 → 干净的段落：去掉页眉、页脚、页码，接上被排版截断的句子。

在 notebooks/01_build_dataset.ipynb 讲解，由 document.read_pages 调用。
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from labutils.base.text_normalize import without_spaces
from labutils.dataset.chunking import CLOSING, HEADING, SENTENCE_END, STOPS, glue, is_row
from labutils.dataset.document_characters import tidy, width

PAGE_NUMBER = re.compile(
    r"[\s\-—–_·|]*(?:第\s*[\d一二三四五六七八九十百]+\s*页|page\s*\d+|\d{1,3}|[ivx]{1,6})"
    r"(?:\s*(?:/|of|[,，]?\s*共)\s*\d+\s*页?)?[\s\-—–_·|]*",
    re.IGNORECASE,
)
_HAS_WORD = re.compile(r"[^\W\d_]{2}")  # 只有数字、符号的行可能是表格，不当页眉
EDGE = 2  # 页眉、页脚各至多几行（页码不算）
NEVER_FIRST = tuple("，。、；：？！）》”’」』")  # 排版规矩：这些标点不会在一句话的开头
NARROWEST = 60  # 判断写没写满时，一行至少按 30 个字算：两栏的页、幻灯片的页眉可以比正文行宽
_HYPHENATED = re.compile(r"(?:^|[^A-Za-z-])[A-Za-z]*[a-z]-$")


def clean_pages(raw: list[str]) -> list[str]:
    """去掉页码和重复的页眉页脚，再接上断句。页数不变。

    页眉页脚是在页首或页尾两行之内、许多页都有（或单数页、双数页都有，或连着几页都有）的同一行。
    """
    pages = [[line.rstrip() for line in tidy(text).splitlines() if line.strip()] for text in raw]
    numbered = [_drop_page_number(lines) for lines in pages]
    where: dict[str, list[int]] = defaultdict(list)
    for number, lines in enumerate(numbered):
        for key in {_key(line) for line in lines[:EDGE] + lines[-EDGE:]}:
            where[key].append(number)
    repeated = {key for key, numbers in where.items()
                if _HAS_WORD.search(key) and _is_running(numbers, len(pages))}
    usual = usual_width([li for lines in numbered for li in lines if _key(li) not in repeated])
    running = {key for key in repeated if not _is_prose(key, usual)}
    kept = [_drop_running(lines, running) for lines in numbered]
    full = usual_width([line for lines in kept for line in lines])
    return [join_lines(lines, full) for lines in kept]


def _key(line: str) -> str:
    """数字换成 #：“××通知 第 3 页”每页都不同，说的却是一件事；章节号也一样。"""
    return re.sub(r"\d+", "#", without_spaces(line))


def _is_running(numbers: list[int], count: int) -> bool:
    """这一行出现在这些页（从 0 数）的边上，是不是页眉页脚。

    三种情形：六成以上的页都有；单数页或双数页的六成以上都有（书籍左右页不同）；
    连着三页、或隔页连着三次都有（每章换一个页眉）。
    """
    found = set(numbers)
    if len(found) >= max(3, count * 0.6):
        return True
    if any(len([n for n in found if n % 2 == odd]) >= max(3, count * 0.3) for odd in (0, 1)):
        return True
    return any(n + step in found and n + 2 * step in found for n in found for step in (1, 2))


def _is_prose(key: str, usual: int) -> bool:
    """写满一行或以句号结尾的是正文：每页一份的表单、套话会一再出现，不能当页眉删掉。"""
    full = max(usual, NARROWEST)
    return bool(usual) and (width(key) >= 0.8 * full or key.rstrip(CLOSING)[-1:] in SENTENCE_END + "；")


def _drop_running(lines: list[str], repeated: set[str]) -> list[str]:
    """从两头往里剥，剥到第一行不重复的为止；续表每页重复的表头（这行和里面一行都有三格）不算页眉。"""
    lines = list(lines)
    for end, next_in in ((0, 1), (-1, -2)):
        for _ in range(EDGE):
            if not lines or _key(lines[end]) not in repeated:
                break
            if len(lines) > 1 and min(len(lines[i].split()) for i in (end, next_in)) >= 3:
                break
            lines.pop(end)
            lines = _drop_page_number(lines)
    return lines


def _drop_page_number(lines: list[str]) -> list[str]:
    """只看第一行和最后一行：表格中间的数字不是页码。"""
    if lines and PAGE_NUMBER.fullmatch(lines[-1]):
        lines = lines[:-1]
    if lines and PAGE_NUMBER.fullmatch(lines[0]):
        lines = lines[1:]
    return lines


def usual_width(lines: list[str]) -> int:
    """正文写满一行的宽度（汉字算 2 格）：较长的行里最常见的那个宽度。

    不取最宽的一行：一行大表格、一条长网址就会让所有正文行都显得没写满。
    """
    widths = [width(line.strip()) for line in lines if not is_row(line.strip())]
    long = [w for w in widths if w >= 0.5 * max(widths)]
    if len(long) < 5:
        return max(widths, default=0)
    counts = Counter(long)
    return max(long, key=lambda w: (sum(counts[w - d] for d in range(-1, 5)), w))


def join_lines(lines: list[str], full_width: int = 0) -> str:
    """接上被排版截断的句子。full_width 是写满一行的宽度，不给就取最常见的。

    一行写满了、末尾又不是句号，说明句子没完；没写满就换行的是标题、表格或段尾，不接。
    下一行以逗号、句号之类开头，一定是上一行的后半截（表格里折行的格子常这样）。
    下一行空两格另起一段，或像标题、表格，也不接。行末带连字符的英文词接回去。
    """
    full = 0.8 * (full_width or usual_width(lines))
    text = ""
    previous = ""
    for line in lines:
        body = line.strip()
        if previous and _goes_on(previous, line, full):
            text = _attach(text, body)
        else:
            text += ("\n" if text else "") + body
        previous = body
    return text


def _goes_on(previous: str, line: str, full: float) -> bool:
    end = previous.rstrip(CLOSING)[-1:]
    body = line.strip()
    if body[:1] in NEVER_FIRST:
        return True
    new_paragraph = line.startswith(("\u3000", "  ")) or HEADING.match(body)
    stopped = end in STOPS or (end == "." and not body[:1].isascii())
    return (width(previous) >= full and not stopped and not new_paragraph
            and not is_row(previous) and not is_row(body))


def _attach(text: str, body: str) -> str:
    """英文词在行末用连字符断开的，去掉连字符；本来就有连字符的词（state-of-the-art）保留。"""
    word = text[max(text.rfind(" "), text.rfind("\n")) + 1 :]
    if body[:1].islower() and body[:1].isascii() and _HYPHENATED.search(word):
        return text[:-1] + body
    return text + glue(text[-1:], body[:1]) + body
