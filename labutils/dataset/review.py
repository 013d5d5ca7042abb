"""CSV 的一格：表格软件打开时不执行、不改写，读回来还是原来的文字。

Excel 会把 “=…” 当公式执行，把 “2023-12-05”“1/2”“0012” 改成日期和数字。
这样的文字前面加一个单引号；读回时去掉它，所以写出再读回，一个字也不差。


审阅表的文件：写成 Excel 直接能打开的 CSV，读回时认得 Excel 可能另存的样子。

表里写什么、决定怎样生效，见 qa_review。在 notebooks/01_build_dataset.ipynb 讲解。


人工审阅：把问答导出成表格，人写下“接受、拒绝、修改”，读回来检查后生效。

在 notebooks/01_build_dataset.ipynb 讲解。自动检查只能看字面，题好不好还得人来看。
被自动检查拦下的也列在表里，改好了可以救回来；但谁也不能让没通过检查的题直接进数据集。


笔记本里看的审阅表：问答、证据和自动检查的结果并排，未通过的和证据改过的排在前面

模型写的文字不可信：由 jinja2 自动转义，绝不当作标签执行。
讲解见 notebooks/01_build_dataset。
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from labutils.base import files
from labutils.base.errors import LabError
from labutils.base.figures import template, without_blank_lines
from labutils.base.files import decode, one_sentence, rel
from labutils.dataset.checks import name_rows, recheck, text_of, tidy
from labutils.dataset.clean import Page
from labutils.dataset.rows import drop_near_duplicates

FORMULA_STARTS = "=+-@＝＋－＠\t\r\n"
# 会被认成数字、日期、时间、真假值的文字
_REWRITTEN = re.compile(
    r"[\d\s.,:/%¥$()eE年月日时分秒+-]*\d[\d\s.,:/%¥$()eE年月日时分秒+-]*"
    r"|[A-Za-z]{3,9}[ -]?\d{1,4}|\d{1,2}[ -]?[A-Za-z]{3,9}|true|false",
    re.IGNORECASE,
)


def is_formula(text: str) -> bool:
    """表格软件会不会把它当公式；开头的空格（含全角）不算。"""
    return text.lstrip(" \u3000").startswith(tuple(FORMULA_STARTS))


def protect(text: str) -> str:
    """要写进 CSV 的文字：会被执行或改写的，前面加单引号。"""
    return "'" + text if _risky(text.lstrip("'")) else text


def unprotect(cell: str) -> str:
    """从 CSV 读到的文字：去掉 protect 加的单引号。"""
    return cell[1:] if cell.startswith("'") and _risky(cell.lstrip("'")) else cell


def _risky(text: str) -> bool:
    return is_formula(text) or _REWRITTEN.fullmatch(text) is not None


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
    files.write(path, data)


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


ACCEPT, REJECT, EDIT, UNREVIEWED = "接受", "拒绝", "修改", ""
STAGE, REASON = "人工", "人工拒绝"
_SHOWN = 5  # 一次最多列出这么多处要改的


class Candidate(NamedTuple):
    row: dict
    rejected: dict | None  # 被拦下的那条记录 {"stage", "reason", "row"}；通过检查的是 None


def export(rows: list[dict], path: str | Path, rejected: list[dict] | None = None) -> Path:
    """写出审阅表（CSV），返回它的路径；“决定”一列留给人填。

    rows 是通过检查的问答，rejected 是被拦下的（validate 等返回的样子），排在后面。
    """
    path = Path(path)
    records = [_record(name, candidate) for name, candidate in candidates(rows, rejected).items()]
    write_table(records, path)
    print(f"写好 {rel(path)}：{len(records)} 行。在“决定”一列填 {ACCEPT}、{REJECT} 或 {EDIT}，"
          "空着算没看过，照自动检查的结果办。")
    return path


def candidates(rows: list[dict], rejected: list[dict] | None) -> dict[str, Candidate]:
    """编号 → 问答。没有编号或编号重复的，用内容算一个：内容不变，编号就不变。"""
    found: dict[str, Candidate] = {}
    items = [Candidate(row, None) for row in rows]
    items += [Candidate(item["row"], item) for item in rejected or []
              if isinstance(item.get("row"), dict)]
    for item in items:
        name = item.row.get("id")
        if not isinstance(name, str) or not name.strip() or name.strip() in found:
            source = json.dumps(item.row, ensure_ascii=False, sort_keys=True)
            name = "X" + hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()[:8]
        found.setdefault(name.strip(), item)
    return found


def _record(name: str, candidate: Candidate) -> dict[str, str]:
    texts = {EDITABLE[field]: text for field, text in cells(candidate.row).items()}
    return {ID: name, DECISION: UNREVIEWED, **texts, CHECK: check_result(candidate), NOTE: ""}


def check_result(candidate: Candidate) -> str:
    """自动检查的结果，一句话。"""
    if candidate.rejected is not None:
        return f"未通过（{candidate.rejected['stage']}）：{candidate.rejected['reason']}"
    if "evidence_original" in candidate.row:
        return f"通过；证据已改成原文，回复里写的是：{candidate.row['evidence_original']}"
    return "通过" if "evidence" in candidate.row else "通过；没有证据，请自己核对"


def cells(row: dict) -> dict[str, str]:
    """可以改的五格的文字；要点一行一个。"""
    return {field: _cell(row.get(field)) for field in EDITABLE}


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(_cell(item) for item in value)
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


class Review(NamedTuple):
    """审阅的结果。rows 是留下的，rejected 是没留下的，counts 是 {决定: 行数}。"""

    rows: list[dict]
    rejected: list[dict]
    counts: dict[str, int]


def apply(
    path: str | Path, rows: list[dict], pages: list[Page] | None = None,
    rejected: list[dict] | None = None,
) -> Review:
    """读回审阅表，让决定生效。rows、rejected 与导出时的相同；同一张表再用一次结果不变。

    改过的重新检查。有一处不对就抛 LabError，逐处写明行和列，这时什么也没有改。
    """
    known = candidates(rows, rejected)
    problems: list[str] = []
    decided = _decisions(path, known, problems)
    kept: list[dict] = []
    lost: list[dict] = []
    touched: dict[str, int] = {}  # 改过的和救回来的：编号 → 行号
    for name, candidate in known.items():
        number, record = decided.get(name, (0, {DECISION: UNREVIEWED}))
        row, refused = _outcome(name, candidate, record)
        if row is None:
            lost.append(refused)
            continue
        kept.append(row)
        if record[DECISION] == EDIT or candidate.rejected is not None:
            touched[name] = number
    strict = all("evidence" in row for row in rows)  # 个个有证据的数据集，不收没有证据的
    must_cite = {name for name in touched if strict or "evidence" in known[name].row}
    page_text, chinese = text_of(pages)
    for place, row in enumerate(kept):
        if (name := row.get("id")) in touched:
            kept[place], problem = recheck(row, page_text, name in must_cite, chinese)
            if problem:
                column = EDITABLE.get(problem.field, ID)
                problems.append(f"第 {touched[name]} 行“{column}”列：{problem.reason}")
    problems = problems or _repeated(kept, touched)
    if problems:
        raise LabError(_complaint(path, problems))
    lost += [item for item in rejected or [] if not isinstance(item.get("row"), dict)]
    _remind_other_phrasings(kept, touched)
    counts = Counter(decided[name][1][DECISION] if name in decided else UNREVIEWED
                     for name in known)
    return Review(name_rows(kept), lost, dict(counts))


def _outcome(
    name: str, candidate: Candidate, record: dict[str, str]
) -> tuple[dict | None, dict | None]:
    """这一条的结果：(留下的问答, None) 或 (None, 没留下的记录)。"""
    decision = record[DECISION]
    if decision == EDIT:
        return {**_edited(candidate.row, record), "id": name}, None
    if candidate.rejected is not None:
        rescued = {**candidate.row, "id": name}
        return (rescued, None) if decision == ACCEPT else (None, candidate.rejected)
    if decision == REJECT:
        note = f"：{record[NOTE]}" if record.get(NOTE) else ""
        return None, {"stage": STAGE, "reason": REASON + note, "row": candidate.row}
    return candidate.row, None


def _complaint(path: str | Path, problems: list[str]) -> str:
    shown = "；".join(problems[:_SHOWN])
    more = f"；等共 {len(problems)} 处" if len(problems) > _SHOWN else ""
    return f"{rel(path)} 有要改的地方：{shown}{more}。改好保存后再读一次。"


def _decisions(
    path: str | Path, known: dict[str, Candidate], problems: list[str]
) -> dict[str, tuple[int, dict[str, str]]]:
    """编号 → (行号, 那一行)；行里不对的地方加进 problems。"""
    found: dict[str, tuple[int, dict[str, str]]] = {}
    for number, record in read_table(path):
        name = record[ID]
        if name not in known:
            problems.append(f"第 {number} 行“{ID}”列：{name or '空的'}，数据里没有这个编号")
        elif name in found:
            problems.append(f"第 {number} 行“{ID}”列：{name} 与第 {found[name][0]} 行重复")
        else:
            found[name] = number, record
            problems += _row_problems(number, record, known[name])
    return found


def _row_problems(number: int, record: dict[str, str], candidate: Candidate) -> list[str]:
    decision = record[DECISION]
    if decision not in (ACCEPT, REJECT, EDIT, UNREVIEWED):
        return [f"第 {number} 行“{DECISION}”列：“{decision}”不认识，"
                f"请填 {ACCEPT}、{REJECT}、{EDIT} 或空着"]
    if decision in (REJECT, EDIT):
        return []
    return [
        f"第 {number} 行“{EDITABLE[field]}”列：内容和导出时不同，“{DECISION}”却不是“{EDIT}”"
        "（不是你改的，多半是另存时换了编码，请重新导出）"
        for field in _changed(candidate.row, record)
    ]


def _changed(row: dict, record: dict[str, str]) -> list[str]:
    return [field for field, text in cells(row).items()
            if _cell(record.get(EDITABLE[field], text)) != text]


def _edited(row: dict, record: dict[str, str]) -> dict:
    """换上表里改过的格子；没改的保持原样，改了证据就不再是“修正过的证据”。"""
    new = dict(row)
    for field in _changed(row, record):
        text = _cell(record[EDITABLE[field]])
        points = [line.strip() for line in text.split("\n") if line.strip()]
        new[field] = points if field == "key_points" else text
        if field == "evidence":
            new.pop("evidence_original", None)
    return tidy(new)


def _repeated(kept: list[dict], touched: dict[str, int]) -> list[str]:
    """改过的题和别的题重复了吗？没动过的排前面，重复了就怪动过的。"""
    order = sorted(kept, key=lambda row: row.get("id") in touched)
    dropped = [item for item in drop_near_duplicates(order)[1] if item["row"]["id"] in touched]
    return [f"第 {touched[item['row']['id']]} 行“{EDITABLE['question']}”列：{item['reason']}"
            for item in dropped]


def _remind_other_phrasings(kept: list[dict], touched: dict[str, int]) -> None:
    """一个事实有几种问法，只改一种的答案，另几种就和它矛盾了。"""
    for row in (row for row in kept if row.get("id") in touched and "fact_id" in row):
        others = [other["id"] for other in kept
                  if other.get("fact_id") == row["fact_id"] and other["answer"] != row["answer"]]
        if others:
            print(f"提醒：{row['id']} 的答案和同一事实的 {'、'.join(others)} 不一样了，请核对。")


_LEVELS = ("failed", "noted", "passed")


@dataclass
class ReviewTable:
    """放在笔记本格子最后一行就显示成表格；打印时是纯文字"""

    rows: list[dict]  # {"name", "cells", "check", "level"}
    total: int
    passed: int

    def _repr_html_(self) -> str:
        html = template("dataset/review.html.j2").render(
            rows=self.rows, total=self.total, passed=self.passed)
        return without_blank_lines(html)

    def __repr__(self) -> str:
        lines = [f"{row['name']} {row['cells']['question']}\n  {row['check']}" for row in self.rows]
        return "\n".join(lines) or "（没有问答）"


def review_table(
    rows: list[dict], rejected: list[dict] | None = None, limit: int = 10
) -> ReviewTable:
    """并排看问答与检查结果，最多 limit 条：未通过的、证据改过或没有证据的排在前面"""
    found = [
        {"name": name, "cells": cells(item.row), "check": check_result(item), "level": _level(item)}
        for name, item in candidates(rows, rejected).items()
    ]
    passed = sum(row["level"] != "failed" for row in found)
    found.sort(key=lambda row: _LEVELS.index(row["level"]))
    return ReviewTable(found[:limit], total=len(found), passed=passed)


def _level(item: Candidate) -> str:
    if item.rejected is not None:
        return "failed"
    clean = "evidence" in item.row and "evidence_original" not in item.row
    return "passed" if clean else "noted"
