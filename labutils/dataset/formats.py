"""课程文档 → 一页页的文字：认出格式，交给读它的函数；读不了的说用什么软件另存成什么。讲解见 notebook 01。

PDF、幻灯片、OFD 各见自己的文件。Word、Markdown、纯文本没有固定的页：一“页”是一节，没有标题的约每
PAGE_LENGTH 字算一页，这样“证据在第几页”仍可核对。
"""

import io
import math
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from labutils.base.errors import LabError
from labutils.base.files import decode, one_sentence, rel
from labutils.dataset.clean import Page, filled_lines, join_lines, numbered, tidy, usual_width
from labutils.dataset.office import DAMAGED, Block
from labutils.dataset.pdf import read_pdf
from labutils.dataset.slides import read_ofd, read_slides
from labutils.dataset.word import word_blocks

SAVE_AS_UTF8 = "请用记事本打开，“另存为”时把编码选成 UTF-8"
PAGE_LENGTH = 1000  # 没有标题时约多少字算一页


@one_sentence()
def read_pages(path: str | Path) -> list[Page]:
    """读出每一页的文字，页码从 1 开始；PDF、OFD 已去掉页眉页脚页码并接好断句。

    PDF、OFD 的页就是阅读器里的页，.pptx 的一页是一张幻灯片。.docx、.md、.txt 没有固定的页，一“页”是
    一节：从一个一、二级标题到下一个；没有标题的，约每 1000 字（整段）算一页，.txt 里有换页符的按换页符分。
    文件不存在、读不出、没有文字、格式不认识时抛 LabError，说明原因和办法；
    PDF 只有个别页读不出时打印一行提醒，那一页的文字留空，页码不乱。
    """
    path = Path(path)
    name = rel(path)
    kind = _kind(_content(path, name), path.suffix.lower())
    if kind not in READERS:
        what = f"是 {kind} 格式" if kind.startswith(".") else kind or "没有扩展名"
        raise LabError(f"{name} {what}，读不了，请{HOW_TO_SAVE.get(kind, PRINT)}。")
    pages = READERS[kind](path, name)
    if not any(page.text for page in pages):
        raise LabError(f"{name} 里没有文字（可能全是图片），请换一份文档。")
    return pages


def _content(path: Path, name: str) -> bytes:
    """文件的内容；没有这个文件、文件是空的、是 Word 的临时文件时抛 LabError。"""
    if not path.is_file():
        raise LabError(f"{name} 不存在，或者是一个文件夹，请检查文件的路径和名字。")
    if path.name.startswith(("~$", ".~")):
        raise LabError(f"{name} 是 Word 的临时文件，请关掉 Word，选名字开头没有 {path.name[:2]} 的那一份。")
    if content := path.read_bytes():
        return content
    raise LabError(f"{name} 是空文件（0 字节），请重新下载或复制这份文件。")


# 扩展名常常写错，先看内容的开头；压缩包看里面的各个文件名，旧的 Office 文件（OLE）看里面有什么
_OLE = rb"\xd0\xcf\x11\xe0"
_SIGNS = {
    rb"PK.*\nword/": ".docx", rb"PK.*\nppt/": ".pptx", rb"PK.*\nxl/": ".xlsx", rb"PK.*\nOFD.xml": ".ofd",
    rb"PK.*\ncontent.xml": ".odt", rb"PK.*\nMETA-INF/container.xml": ".epub",
    rb"%PDF-": ".pdf", rb"\{\\rtf": ".rtf", rb"\xff\xd8\xff": ".jpg", rb"\x89PNG": ".png",
    rb"(?:\xef\xbb\xbf)?\s*(?i:<!doctype html|<html|MIME-Version:)": ".html",
    _OLE + b".*" + "EncryptedPackage".encode("utf-16-le"): "设了打开密码",
    _OLE + b".*" + "PowerPoint Document".encode("utf-16-le"): ".ppt",
    _OLE + b".*" + "Workbook".encode("utf-16-le"): ".xls", _OLE: ".doc"}
PRINT = "用能打开它的软件打开，“打印”里选“另存为 PDF”"
HOW_TO_SAVE = {kind: advice for kinds, advice in {
    "设了打开密码": "用 Word、PowerPoint 或 WPS 打开，去掉密码再保存",
    ".doc .wps .rtf .odt": "用 Word 或 WPS 打开，另存为 .docx",
    ".ppt .dps .odp": "用 PowerPoint 或 WPS 打开，另存为 .pptx",
    ".xls .xlsx .xlsm .xlsb .et .csv .ods": "用 Excel 或 WPS 打开，把要用的表复制到 Word 里，存成 .docx",
    ".html .htm .mht .mhtml": "用浏览器打开（扩展名不是 .html 的先改过来），“打印”里选“另存为 PDF”",
    ".epub .mobi .azw3": "用电子书软件（例如 calibre）转换成 .docx",
    ".caj .kdh .nh .teb": "用 CAJViewer 打开，另存为 PDF 或打印成 PDF",
    ".jpg .jpeg .png .bmp .gif .tif .tiff .webp .heic": "先用 OCR 软件识别，把文字存成 .docx 或 .txt",
    ".zip .rar .7z": "先解压，再选里面的文档"}.items() for kind in kinds.split()}


def _kind(content: bytes, suffix: str) -> str:
    """真正的格式，写成扩展名；看不出的就信扩展名 suffix。"""
    if content.startswith(b"PK"):
        with suppress(*DAMAGED):
            content = "\n".join(["PK", *zipfile.ZipFile(io.BytesIO(content)).namelist()]).encode()
    found = next((kind for sign, kind in _SIGNS.items() if re.match(sign, content, re.DOTALL)), suffix)
    return ".pdf" if suffix == ".pdf" else found  # 下载失败的 PDF 常是一张网页，read_pdf 会说重新下载


def _to_pages(blocks: list[Block]) -> list[Page]:
    """一节一页，“章”紧跟着“节”时不单独成页；没有标题的攒够 PAGE_LENGTH 字一页。"""
    blocks = [(is_title, text) for is_title, raw in blocks if (text := tidy(raw).strip())]
    limit = math.inf if any(is_title for is_title, _ in blocks) else PAGE_LENGTH
    texts = [text for _, text in blocks[:1]]
    for (after_title, _), (is_title, text) in pairwise(blocks):
        if is_title > after_title or len(f"{texts[-1]}\n{text}") > limit:
            texts.append(text)
        else:
            texts[-1] += f"\n{text}"
    return numbered(texts)


def read_text(path: Path, name: str) -> list[Page]:
    """纯文本：空行、缩进分段，硬换行的句子接回去；有换页符（\\f）时按它分页。"""
    text = decode(path.read_bytes(), name, SAVE_AS_UTF8)
    parts = [_paragraphs(part) for part in text.rstrip("\f\n ").split("\f")]
    if len(parts) > 1:
        return numbered([tidy("\n".join(part)).strip() for part in parts])
    return _to_pages([(False, paragraph) for paragraph in parts[0]])


def _paragraphs(text: str) -> list[str]:
    full = usual_width(filled_lines(text))
    blocks = re.split(r"\n\s*\n", "\n".join(text.splitlines()))
    return [paragraph for block in blocks for paragraph in join_lines(filled_lines(block), full).split("\n")]


_FENCE = re.compile(r"^[^\S\n]*(?:```|~~~).*", re.MULTILINE)
_HEAD = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
# 表格的横线、分隔线；量词都不回头（+），不然一长串横线后面跟着字要试到天荒地老
_RULE = re.compile(r"\s*+\|?(?:\s*+:?-{2,}+:?\s*+\|?)++\s*+$|\s*+(?:[*_]\s*+){3,}+$")
_ENDS = re.compile(rf"\s*$|.*  $|#{{1,6}}\s|{_RULE.pattern}")  # 下一行另起一段；两个空格表示换行
_BEGINS = re.compile(rf"\s*(?:$|[-*+]\s|\d+[.)]\s|>|\|)|{_RULE.pattern}")  # 列表、引用、表格各占一行
# 不用现成的解析器：按 CommonMark，“见**六天。**周一”里的星号不算加粗，会留在文字里
_MARKS = (
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),  # 图片
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # 链接留文字
    (re.compile(r"(\*\*|__|~~|`)(?=\S)(.+?)(?<=\S)\1"), r"\2"),  # 加粗、删除线、代码
    (re.compile(r"(?<![*\w])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![*\w])"), r"\1"),  # 斜体
    (re.compile(r"<br\s*/?>", re.IGNORECASE), " "),  # 表格里换行只能这样写
    (re.compile(r"^\s*(?:>\s?)+"), ""),  # 引用
    (re.compile(r"^(\s*)[-*+]\s"), r"\1• "),  # 列表
)


def read_markdown(path: Path, name: str) -> list[Page]:
    """去掉标记留下文字；表格每行一行，格间用“ | ”隔开；代码块原样。"""
    text = decode(path.read_bytes(), name, SAVE_AS_UTF8)
    text = re.sub(r"\A---\n.*?\n---\n|<!--.*?-->", "", text, flags=re.DOTALL)  # 文首的元数据、注释
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
        elif not _ENDS.match(above) and not _BEGINS.match(line):  # 和上一行是一段
            blocks.append((False, join_lines([blocks.pop()[1], body], 1)))
        elif not _RULE.match(line):
            blocks.append((False, body))
    return blocks


def _plain(line: str) -> str:
    for pattern, kept in _MARKS:
        line = pattern.sub(kept, line)
    if line.strip().startswith("|"):
        cells = re.split(r"(?<!\\)\|", re.sub(r"^\||(?<!\\)\|$", "", line.strip()))
        line = " | ".join(cell.strip().replace("\\|", "|") for cell in cells)
    return line


READERS: dict[str, Callable[[Path, str], list[Page]]] = {
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"),
                    lambda path, name: _to_pages(word_blocks(path, name))),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx", ".potx"), read_slides), ".pdf": read_pdf, ".ofd": read_ofd,
    ".md": read_markdown, ".markdown": read_markdown, ".txt": read_text}
