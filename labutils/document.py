"""PDF → 每页的干净文字 → 带页码的文本块。在 notebooks/01_build_dataset.ipynb 讲解。

三件事依次做：逐页取出文字；去掉页码、接上被排版截断的句子；按句子切块。
页码一路带着走，后面每条问答都能指回它出自哪一页。
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pypdf
from pypdf.errors import DependencyError, EmptyFileError, FileNotDecryptedError, PyPdfError

from labutils.chunking import CLOSING, HEADING, SENTENCE_END, Chunk, Page, chunks
from labutils.errors import LabError
from labutils.paths import rel

__all__ = ["Chunk", "Page", "chunks", "clean_pages", "join_lines", "read_pages"]

# pypdf 遇到小毛病会往日志里写英文；真正有事时下面会用一句中文说清楚
logging.getLogger("pypdf").setLevel(logging.CRITICAL)

_PAGE_NUMBER = re.compile(
    r"[\s\-—–_·|]*(?:第\s*\d+\s*页|page\s*\d+|\d{1,3})"
    r"(?:\s*(?:/|of|[,，]?\s*共)\s*\d+\s*页?)?[\s\-—–_·|]*",
    re.IGNORECASE,
)


def read_pages(pdf: str | Path) -> list[Page]:
    """读出每一页的文字，已去掉页码并接好断句。

    整份都没有文字（扫描件、空白）、加密、截断、不是 PDF 时抛 LabError。
    只有个别页是图片时打印一行提醒，那一页的文字留空，页码不乱。
    """
    path = Path(pdf)
    name = rel(path)
    reader = _open(path, name)
    raw, image_pages = [], []
    for number, page in enumerate(reader.pages, 1):
        text = _extract(page, number, name)
        raw.append(text)
        if not text.strip() and len(page.images) > 0:
            image_pages.append(number)
    _check_has_text(raw, image_pages, name)
    if image_pages:
        print(f"提醒：{name} 第 {_page_list(image_pages)} 页只有图片，没有可读的文字，已跳过。")
    return [Page(i, text) for i, text in enumerate(clean_pages(raw), 1)]


def _open(path: Path, name: str) -> pypdf.PdfReader:
    if not path.is_file():
        what = "是一个文件夹，不是文件" if path.is_dir() else "不存在"
        raise LabError(f"{name} {what}，请检查 PDF 的路径和文件名。")
    data = path.read_bytes()
    if not data:
        raise LabError(f"{name} 是空文件（0 字节），请重新下载或复制这份 PDF。")
    if b"%PDF-" not in data[:1024]:
        raise LabError(f"{name} 不是 PDF（开头没有 PDF 标记），请确认下载到的不是网页或别的格式。")
    # pypdf 会尽量救活截断的文件，但会悄悄少掉几页，所以先看结尾标记
    if b"%%EOF" not in data.rstrip(b"\0\r\n\t ")[-1024:]:
        raise LabError(f"{name} 不完整（结尾缺失，可能没有下载完），请重新下载。")
    try:
        reader = pypdf.PdfReader(path)
        # 只设了“限制编辑”的 PDF 用空口令就能打开；要口令才能打开的不行
        if reader.is_encrypted and not reader.decrypt(""):
            raise LabError(_encrypted(name))
        reader.pages[0]  # 空目录、坏目录在这里就会报错
    except FileNotDecryptedError:
        raise LabError(_encrypted(name)) from None
    except DependencyError:
        raise LabError(f"{name} 用了 AES 加密，请先运行 pip install 'pypdf[crypto]'。") from None
    except IndexError:
        raise LabError(f"{name} 里一页也没有，请换一份 PDF。") from None
    except EmptyFileError:
        raise LabError(f"{name} 是空文件（0 字节），请重新下载或复制这份 PDF。") from None
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LabError(_damaged(name, error)) from None
    return reader


def _encrypted(name: str) -> str:
    return (
        f"{name} 设了打开密码，请在 PDF 阅读器里输入密码打开，"
        "再用“打印/导出为 PDF”另存一份没有密码的。"
    )


def _damaged(name: str, error: Exception, where: str = "") -> str:
    return (
        f"{name} {where}已损坏，读不出来（{type(error).__name__}），"
        "请重新下载，或用阅读器打开后另存一份再试。"
    )


def _extract(page: pypdf.PageObject, number: int, name: str) -> str:
    try:
        text = page.extract_text().replace("\0", "")
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LabError(_damaged(name, error, f"第 {number} 页")) from None
    # 字体没带文字对照表时，取出来的是私有区字符或替换符，人读不懂，模型也学不了
    visible = [c for c in text if not c.isspace()]
    broken = sum(unicodedata.category(c) in ("Co", "Cn", "Cc") or c == "\ufffd" for c in visible)
    if broken > 0.3 * len(visible):
        raise LabError(
            f"{name} 第 {number} 页的字体没有文字对照表，取出来是乱码，"
            "请用 OCR 软件识别后另存为 PDF。"
        )
    return text


def _check_has_text(raw: list[str], image_pages: list[int], name: str) -> None:
    if any(text.strip() for text in raw):
        return
    if image_pages:
        raise LabError(
            f"{name} 是扫描件：第 {_page_list(image_pages)} 页只有图片、没有文字，"
            "请先用 OCR 软件识别成可以选中文字的 PDF。"
        )
    raise LabError(f"{name} 共 {len(raw)} 页，全是空白，没有可用的文字，请换一份 PDF。")


def _page_list(numbers: list[int]) -> str:
    """[1, 2, 3, 7] → "1–3、7"。"""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return "、".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


def clean_pages(raw: list[str]) -> list[str]:
    """去掉页码和每页重复的页眉页脚，再接上断句。页数不变。"""
    pages = [[line.strip() for line in text.splitlines() if line.strip()] for text in raw]
    pages = [_drop_page_number(lines) for lines in pages]
    # 连数字一起看会漏掉“××通知 第 3 页”，所以比较时把数字换成 #
    edges = Counter(re.sub(r"\d+", "#", e) for lines in pages for e in {*lines[:1], *lines[-1:]})
    limit = max(3, len(pages) * 0.6)
    repeated = {edge for edge, count in edges.items() if count >= limit}

    def keep(lines: list[str], i: int) -> bool:
        edge = i in (0, len(lines) - 1)
        return not (edge and re.sub(r"\d+", "#", lines[i]) in repeated)

    kept = [[line for i, line in enumerate(lines) if keep(lines, i)] for lines in pages]
    full = max((_width(line) for lines in kept for line in lines), default=0)
    return [join_lines(_drop_page_number(lines), full) for lines in kept]


def _drop_page_number(lines: list[str]) -> list[str]:
    """只看第一行和最后一行：表格中间的数字不是页码。"""
    if lines and _PAGE_NUMBER.fullmatch(lines[-1]):
        lines = lines[:-1]
    if lines and _PAGE_NUMBER.fullmatch(lines[0]):
        lines = lines[1:]
    return lines


def join_lines(lines: list[str], full_width: int = 0) -> str:
    """接上被排版截断的句子。full_width 是写满一行的宽度，不给就取最宽的一行。

    一行写满了、末尾又不是句号，说明句子没完；没写满就换行的是标题、表格或段尾，不接。
    """
    full = 0.8 * (full_width or max((_width(line) for line in lines), default=0))
    text = ""
    previous = ""
    for line in lines:
        broken = (
            previous
            and _width(previous) >= full
            and previous.rstrip(CLOSING)[-1:] not in SENTENCE_END + "；;：:"
            and not HEADING.match(line)
        )
        if not previous:
            text = line
        elif broken:
            text += _glue(previous[-1], line[0]) + line
        else:
            text += "\n" + line
        previous = line
    return text


def _glue(left: str, right: str) -> str:
    """英文单词之间补空格；中文和被截断的数字直接相连。"""
    return " " if left.isascii() and right.isascii() and left.isalpha() and right.isalpha() else ""


def _width(text: str) -> int:
    """汉字算 2 格，西文算 1 格，和排版的宽度大致成正比。"""
    return sum(2 if unicodedata.east_asian_width(c) in "WFA" else 1 for c in text)
