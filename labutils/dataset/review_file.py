"""审阅表的文件：写成 Excel 直接能打开的 CSV，读回时认得 Excel 可能另存的样子。

表里写什么、决定怎样生效，见 qa_review。在 notebooks/01_build_dataset.ipynb 讲解。
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from labutils.base import whole_files
from labutils.base.errors import LabError
from labutils.base.paths import rel
from labutils.base.system_errors import one_sentence
from labutils.base.text_encoding import decode
from labutils.dataset.csv_cells import protect, unprotect

ID, DECISION, CHECK, NOTE = "编号", "决定", "自动检查", "备注"
EDITABLE = {"question": "问题", "answer": "答案", "key_points": "要点", "evidence": "证据",
            "page": "页码"}  # fmt: skip
COLUMNS = (ID, DECISION, *EDITABLE.values(), CHECK, NOTE)
REQUIRED = (ID, DECISION)


@one_sentence()
def write_table(records: list[dict[str, str]], path: Path) -> None:
    """写出带 BOM 的 UTF-8 CSV：Excel 没有 BOM 就会把中文当成 GBK 读成乱码。

    已有一份不一样的审阅表时，先把它改名为 “原名-旧1.csv” 留着：里面可能有人写好的决定。
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for record in records:
        texts = ((name, record.get(name, "")) for name in COLUMNS)
        writer.writerow(text if name == EDITABLE["page"] and text.isdecimal() else protect(text)
                        for name, text in texts)  # 页码本来就是数，不必加引号
    data = text.getvalue().encode("utf-8-sig")
    if path.exists() and path.read_bytes() == data:
        return
    if path.exists():
        kept = next(p for i in range(1, 10**6)
                    if not (p := path.with_name(f"{path.stem}-旧{i}{path.suffix}")).exists())
        path.rename(kept)
        print(f"原来的 {rel(path)} 改名为 {kept.name}，没有覆盖。")
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_files.write(path, data)


def read_table(path: str | Path) -> list[tuple[int, dict[str, str]]]:
    """读回审阅表，返回 [(Excel 里的行号, {列名: 文字})]；空行跳过，列的顺序不限。

    文件打不开、不是 CSV、缺少必需的列、列名重复时抛 LabError。
    """
    name = rel(path)
    text = _read(Path(path), name)
    rows = _rows(text, name)
    header = [cell.strip() for cell in rows[0]] if rows else []
    for column in REQUIRED:
        if column not in header:
            raise LabError(f"{name} 第 1 行没有“{column}”这一列，请保留导出时的表头。")
    for column in COLUMNS:
        if header.count(column) > 1:
            raise LabError(f"{name} 第 1 行有 {header.count(column)} 个“{column}”，请只留一列。")
    table = []
    for number, cells in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if any(cell.strip() for cell in cells[len(header):]):
            raise LabError(f"{name} 第 {number} 行比表头多出 {len(cells) - len(header)} 格，"
                           "可能是引号被改坏了，请对照导出的表修好。")
        cells += [""] * (len(header) - len(cells))
        pairs = zip(header, cells, strict=False)
        table.append((number, {key: unprotect(cell).strip() for key, cell in pairs if key}))
    return table


def _read(path: Path, name: str) -> str:
    try:
        data = path.read_bytes()
    except OSError:
        raise LabError(f"{name} 不存在或打不开，请先导出审阅表；正在 Excel 里开着就先关掉。") from None
    save_as = "请在 Excel 里另存为“CSV UTF-8（逗号分隔）”"
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise LabError(f"{name} 是 Excel 工作簿，不是 CSV，{save_as}。")
    return decode(data, name, save_as)


def _rows(text: str, name: str) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    except csv.Error:  # 一格超过 128 KB：引号没有配对，后面整张表都成了这一格
        raise LabError(f"{name} 第 {len(rows) + 1} 行有一格长得离谱，可能是引号被改坏了，"
                       "请对照导出的表修好。") from None
    return rows


def _delimiter(text: str) -> str:
    """有的系统里 Excel 用分号或制表符分隔；表头里有哪个就是哪个。"""
    first = text.split("\n", 1)[0]
    return next((mark for mark in ",;\t" if mark in first), ",")
