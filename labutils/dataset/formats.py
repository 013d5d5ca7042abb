"""课程文档（PDF、Word、Markdown、纯文本）→ 一页页的文字。讲解见 notebook 01。

PDF 见 pdf.py。别的格式没有固定的页：一“页”是一节，没有标题的约每 PAGE_LENGTH 字算一页，
这样“证据在第几页”仍可核对。
"""

import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import docx
from docx.opc.exceptions import PackageNotFoundError
from docx.oxml.ns import qn
from lxml import etree

from labutils.base.errors import LabError
from labutils.base.files import decode, one_sentence, rel
from labutils.dataset.clean import Page, filled_lines, join_lines, numbered, tidy, usual_width
from labutils.dataset.pdf import read_pdf

SAVE_AS_UTF8 = "请用记事本打开，“另存为”时把编码选成 UTF-8"
PAGE_LENGTH = 1000  # 没有标题时约多少字算一页
Block = tuple[bool, str]  # (是不是一、二级标题, 一段文字)


@one_sentence()
def read_pages(path: str | Path) -> list[Page]:
    """读出每一页的文字，页码从 1 开始；PDF 已去掉页眉页脚页码并接好断句。

    PDF 的页就是阅读器里的页。.docx、.md、.txt 没有固定的页，一“页”是一节：从一个一、二级
    标题到下一个；没有标题的，约每 1000 字（整段）算一页，.txt 里有换页符的按换页符分。
    文件不存在、读不出、没有文字、格式不认识时抛 LabError，说明原因和办法；
    PDF 只有个别页读不出时打印一行提醒，那一页的文字留空，页码不乱。
    """
    path = Path(path)
    name = rel(path)
    start, suffix = _start(path, name), path.suffix.lower()
    if suffix == ".pdf" or start == b"%PDF-":
        return read_pdf(path, name)
    if suffix not in READERS:
        known = "、".join([".pdf", *READERS])
        raise LabError(f"{name} 的格式（{suffix or '没有扩展名'}）读不了，请换成 {known} 之一。")
    if pages := READERS[suffix](path, name):
        return pages
    raise LabError(f"{name} 里没有文字，请换一份文档。")


def _start(path: Path, name: str) -> bytes:
    """文件的前 5 个字节；没有这个文件、文件是空的就抛 LabError。"""
    if not path.is_file():
        what = "是一个文件夹，不是文件" if path.is_dir() else "不存在"
        raise LabError(f"{name} {what}，请检查文件的路径和名字。")
    with path.open("rb") as file:
        if start := file.read(5):
            return start
    raise LabError(f"{name} 是空文件（0 字节），请重新下载或复制这份文件。")


def _to_pages(blocks: list[Block]) -> list[Page]:
    """有标题就一节一页，没有就攒够 PAGE_LENGTH 字一页。"""
    blocks = [(is_title, text) for is_title, raw in blocks if (text := tidy(raw).strip())]
    by_title = any(is_title for is_title, _ in blocks)
    return numbered(_sections(blocks, math.inf if by_title else PAGE_LENGTH))


def _sections(blocks: list[Block], limit: float) -> list[str]:
    """遇到标题、或再接就超过 limit 个字，另起一节；“章”紧跟着“节”时不单独成页。"""
    texts = [text for _, text in blocks[:1]]
    for (after_title, _), (is_title, text) in pairwise(blocks):
        if (is_title and not after_title) or len(texts[-1]) + 1 + len(text) > limit:
            texts.append(text)
        else:
            texts[-1] += f"\n{text}"
    return texts


def read_text(path: Path, name: str) -> list[Page]:
    """纯文本：空行、缩进分段，硬换行的句子接回去；有换页符（\\f）时按它分页。"""
    text = decode(path.read_bytes(), name, SAVE_AS_UTF8)
    parts = text.rstrip("\f\n ").split("\f")
    if len(parts) == 1:
        return _to_pages([(False, paragraph) for paragraph in _paragraphs(text)])
    pages = [tidy("\n".join(_paragraphs(part))).strip() for part in parts]
    return numbered(pages) if any(pages) else []


def _paragraphs(text: str) -> list[str]:
    full = usual_width(filled_lines(text))
    blocks = re.split(r"\n\s*\n", "\n".join(text.splitlines()))
    return [paragraph for block in blocks for paragraph in join_lines(filled_lines(block), full).split("\n")]


_FENCE = re.compile(r"^[^\S\n]*(?:```|~~~).*", re.MULTILINE)
_HEAD = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
_OWN_LINE = re.compile(r"\s*(?:[-*+]\s|\d+[.)]\s|>|\|)")  # 列表、引用、表格各占一行
# 表格的横线、分隔线；量词都不回头（+），不然一长串横线后面跟着字要试到天荒地老
_RULE = re.compile(r"\s*+\|?(?:\s*+:?-{2,}+:?\s*+\|?)++\s*+$|\s*+(?:[*_]\s*+){3,}+$")
# 不用现成的解析器：按 CommonMark，“见**六天。**周一”里的星号不算加粗，会留在文字里
_MARKS = (
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),  # 图片
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # 链接留文字
    (re.compile(r"(\*\*|__|~~|`)(?=\S)(.+?)(?<=\S)\1"), r"\2"),  # 加粗、删除线、代码
    (re.compile(r"(?<![*\w])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![*\w])"), r"\1"),  # 斜体
)


def read_markdown(path: Path, name: str) -> list[Page]:
    """去掉标记留下文字；表格每行一行，格间用“ | ”隔开；代码块原样。"""
    text = decode(path.read_bytes(), name, SAVE_AS_UTF8)
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # 文首的元数据
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    blocks: list[Block] = []
    for number, part in enumerate(_FENCE.split(text)):  # 单数段是代码
        lines = part.split("\n")
        blocks += ((False, line) for line in lines) if number % 2 else _marked(lines)
    return _to_pages(blocks)


def _marked(lines: list[str]) -> list[Block]:
    """代码块以外的各行：标题、段落和表格；连着的几行是一段，接在上一行后面。"""
    blocks: list[Block] = []
    for above, line in pairwise(["", *lines]):
        body = _plain(line)
        if heading := _HEAD.match(line):
            blocks.append((len(heading[1]) <= 2, _plain(heading[2])))
        elif body.strip() and _same_paragraph(above, line):
            blocks.append((False, join_lines([blocks.pop()[1], body], 1)))
        elif not _RULE.match(line):
            blocks.append((False, body))
    return blocks


def _same_paragraph(above: str, line: str) -> bool:
    """两行都是普通的字，上一行末尾也没有表示换行的两个空格。"""
    ends = not above.strip() or above.endswith("  ") or _HEAD.match(above) or _RULE.match(above)
    return not (ends or _OWN_LINE.match(line) or _RULE.match(line))


def _plain(line: str) -> str:
    for pattern, kept in _MARKS:
        line = pattern.sub(kept, line)
    line = re.sub(r"<br\s*/?>", " ", line, flags=re.IGNORECASE)  # 表格里换行只能这样写
    line = re.sub(r"^\s*(?:>\s?)+", "", line)
    line = re.sub(r"^(\s*)[-*+]\s", r"\1• ", line)
    if line.strip().startswith("|"):
        cells = re.split(r"(?<!\\)\|", re.sub(r"^\||(?<!\\)\|$", "", line.strip()))
        line = " | ".join(cell.strip().replace("\\|", "|") for cell in cells)
    return line


# 压缩包坏在哪里，zipfile 就在哪里报什么：连“加了密”“压缩方式不认识”（RuntimeError）都会有
DAMAGED = (PackageNotFoundError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError,
           RuntimeError, LookupError, ValueError, AttributeError, etree.LxmlError)


def read_docx(path: Path, name: str) -> list[Page]:
    """正文和表格按读的先后；表格每行一行，格间用“ | ”隔开。修订按“全部接受”读。

    页眉页脚、脚注、自动编号（“一、”由 Word 生成的）不在正文里，读不到。
    python-docx 的 paragraph.text 会漏掉修订插入的字和内容控件，所以直接走一遍 XML。
    """
    if path.read_bytes().startswith(b"\xd0\xcf\x11\xe0"):
        raise LabError(f"{name} 设了打开密码，或其实是旧的 .doc 格式，"
                       "请在 Word 里打开，去掉密码，另存为 .docx。")
    try:
        document = docx.Document(str(path))
        titles = {style.style_id for style in document.styles
                  if style.name in ("Title", "Heading 1", "Heading 2", "heading 1", "heading 2")}
        blocks = list(_blocks(document.element.body, titles))
    except DAMAGED as error:
        raise LabError(f"{name} 已损坏或不是 Word 文档（{type(error).__name__}），"
                       "请在 Word 里打开后另存一份 .docx 再试。") from None
    if document.element.body.findall(".//" + qn("w:txbxContent")):
        print(f"提醒：{name} 里有文本框，框里的文字没有读，需要的话请移到正文里。")
    return _to_pages(blocks)


def _blocks(parent: etree._Element, titles: set[str]) -> Iterator[Block]:
    for item in parent.iterchildren():
        if item.tag == qn("w:p"):
            yield not titles.isdisjoint(item.xpath("w:pPr/w:pStyle/@w:val")), _words(item)
        elif item.tag == qn("w:tbl"):
            yield from _rows(item)
        elif item.tag in (qn("w:sdt"), qn("w:sdtContent"), qn("w:ins")):
            yield from _blocks(item, titles)


def _rows(table: etree._Element) -> Iterator[Block]:
    for row in table.iter(qn("w:tr")):
        if next(row.iterancestors(qn("w:tbl"))) is table:  # 格子里再套的表并在那一格里，不另起行
            yield False, " | ".join(map(_words, row.iterchildren(qn("w:tc"))))


# 换行和制表符换成空格；跳过段落的格式、删掉和移走的字、文本框
_REPLACED = {**dict.fromkeys(map(qn, ("w:tab", "w:br", "w:cr")), " "),
             **dict.fromkeys(map(qn, ("w:pPr", "w:del", "w:moveFrom", "w:txbxContent")), "")}


def _words(element: etree._Element) -> str:
    """一段（或一格）里的文字，连着的空白并成一个空格。"""
    return re.sub(r"[ \t\n]+", " ", "".join(map(_text, element.iterchildren()))).strip()


def _text(node: etree._Element) -> str:
    if node.tag == qn("w:t"):
        return node.text or ""
    if node.tag in (qn("w:p"), qn("w:tc")):
        return _words(node) + " "
    return _REPLACED.get(node.tag, "".join(map(_text, node.iterchildren())))


READERS: dict[str, Callable[[Path, str], list[Page]]] = {
    ".docx": read_docx, ".md": read_markdown, ".markdown": read_markdown, ".txt": read_text}
