"""课程文档（PDF、Word、Markdown、纯文本）→ 每页的干净文字 → 带页码的文本块。

在 notebooks/01_build_dataset.ipynb 讲解。三件事依次做：逐页取出文字（document_pdf、
document_formats）；去掉页眉页脚页码、接上被排版截断的句子（document_clean）；按句子切块（chunking）。
页码一路带着走，后面每条问答都能指回它出自哪一页。
"""

from __future__ import annotations

from pathlib import Path

from labutils.base.errors import LabError
from labutils.base.paths import rel
from labutils.base.system_errors import one_sentence
from labutils.dataset.chunking import Chunk, Page, chunks
from labutils.dataset.document_clean import clean_pages, join_lines
from labutils.dataset.document_formats import READERS
from labutils.dataset.document_pdf import read_pdf

__all__ = ["Chunk", "Page", "chunks", "clean_pages", "join_lines", "read_pages"]


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
    if not path.is_file():
        what = "是一个文件夹，不是文件" if path.is_dir() else "不存在"
        raise LabError(f"{name} {what}，请检查文件的路径和名字。")
    with path.open("rb") as file:
        start = file.read(5)
    if not start:
        raise LabError(f"{name} 是空文件（0 字节），请重新下载或复制这份文件。")
    suffix = path.suffix.lower()
    if suffix == ".pdf" or start == b"%PDF-":
        return read_pdf(path, name)
    if suffix not in READERS:
        known = "、".join([".pdf", *READERS])
        raise LabError(f"{name} 的格式（{suffix or '没有扩展名'}）读不了，请换成 {known} 之一。")
    pages = READERS[suffix](path, name)
    if not pages:
        raise LabError(f"{name} 里没有文字，请换一份文档。")
    return pages
