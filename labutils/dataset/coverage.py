"""文档的哪些段落出过题：认出标题和段落，再看每条证据落在哪一段。

在 notebooks/01_build_dataset.ipynb 讲解。大模型爱在开头和数字多的地方出题，
没有题的段落微调时学不到，答不出来不怪模型。
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import zip_longest

from labutils.base.text_normalize import without_spaces
from labutils.dataset.chunking import CLOSING, COUNT, NUMBERED, STOPS, Page, between

FRONT = "（开头）"
_CHAPTER = re.compile(rf"\s*(?:[一二三四五六七八九十]+、|第{COUNT}[章编部]|#\s)")
_SECTION = re.compile(rf"\s*(?:第{COUNT}节|{NUMBERED}|#{{2,}}\s)")
_HEADING_LENGTH = 30


@dataclass
class Paragraph:
    page: int
    section: str
    text: str
    questions: list[str] = field(default_factory=list)  # 证据落在这一段的题的编号


def paragraphs(pages: list[Page]) -> list[Paragraph]:
    """按出现的顺序列出段落；标题不算段落，表格、列表里不成句的几行合成一段。

    跨页的段落在两页各算一段。
    """
    found: list[Paragraph] = []
    chapter, part = FRONT, ""
    pages = [page for page in pages if page.text.strip()]
    for page, following in zip_longest(pages, pages[1:]):
        blocks = _blocks(page.text)
        unfinished = following and between(page.text.strip(), following.text.strip()) != "\n"
        for place, lines in enumerate(blocks, 1):
            # 页末半句话再短也不是标题
            heading = "" if unfinished and place == len(blocks) else _heading(lines)
            if heading and _CHAPTER.match(heading):
                chapter, part = heading, ""
            elif heading and _SECTION.match(heading):
                part = heading
            elif heading:
                chapter, part = heading, ""
            else:
                section = f"{chapter} › {part}" if part else chapter
                found.append(Paragraph(page.number, section, "\n".join(lines)))
    return found


def _blocks(text: str) -> list[list[str]]:
    """一行一段；连着几行都不成句的（表格）合成一段，编了号的标题总是单独一行。"""
    blocks: list[list[str]] = []
    open_run = False
    for line in (line.strip() for line in text.split("\n")):
        if not line:
            open_run = False
            continue
        loose = not _ends_sentence(line) and not _is_numbered(line)
        if loose and open_run:
            blocks[-1].append(line)
        else:
            blocks.append([line])
        open_run = loose
    return blocks


def _ends_sentence(line: str) -> bool:
    return line.rstrip(CLOSING)[-1:] in tuple(STOPS)


def _is_numbered(line: str) -> bool:
    short = len(line) <= _HEADING_LENGTH and not _ends_sentence(line)
    return short and bool(_CHAPTER.match(line) or _SECTION.match(line))


def _heading(lines: list[str]) -> str:
    """只有一行、短、末尾不是句号的是标题，返回它；不是标题返回空串。"""
    alone = len(lines) == 1 and len(lines[0]) <= _HEADING_LENGTH and not _ends_sentence(lines[0])
    return lines[0].lstrip("# ") if alone and "|" not in lines[0] else ""


def mark(found: list[Paragraph], rows: list[dict]) -> list[dict]:
    """把每条问答记到证据所在的段落（跨两段、两页的都记），返回找不到出处的问答。"""
    by_page: dict[int, list[Paragraph]] = {}
    for paragraph in found:
        by_page.setdefault(paragraph.page, []).append(paragraph)
    lost = []
    for row in rows:
        page, evidence = row.get("page", 0), without_spaces(row.get("evidence", ""))
        mine, after = by_page.get(page, []), min((n for n in by_page if n > page), default=page)
        touched = _touched(mine, evidence) or _touched([*mine, *by_page.get(after, [])], evidence)
        for paragraph in touched:
            paragraph.questions.append(row["id"])
        if not touched:
            lost.append(row)
    return lost


def _touched(mine: list[Paragraph], evidence: str) -> list[Paragraph]:
    flat = [without_spaces(paragraph.text) for paragraph in mine]
    start = "".join(flat).find(evidence) if evidence else -1
    if start < 0:
        return []
    end, place, touched = start + len(evidence), 0, []
    for paragraph, text in zip(mine, flat, strict=True):
        if place < end and place + len(text) > start:
            touched.append(paragraph)
        place += len(text)
    return touched
