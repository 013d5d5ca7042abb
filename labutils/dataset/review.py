"""人工审阅：把问答导出成 Excel 表，人写下“接受、拒绝、修改”，读回来检查后生效。讲解见 notebook 01。

被自动检查拦下的也列在表里，改好了可以救回来；但谁也不能让没通过检查的题直接进数据集。
"""

import contextlib
import hashlib
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count, filterfalse
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import openpyxl
from openpyxl.cell import Cell
from openpyxl.styles import Alignment, Font
from openpyxl.styles.numbers import BUILTIN_FORMATS
from openpyxl.worksheet.datavalidation import DataValidation
from openpyxl.worksheet.worksheet import Worksheet

from labutils.base.errors import LabError
from labutils.base.figures import template, without_blank_lines
from labutils.base.files import one_sentence, rel, write
from labutils.dataset.checks import document_of, name_rows, recheck, tidy
from labutils.dataset.clean import Page
from labutils.dataset.office import DAMAGED
from labutils.dataset.rows import drop_near_duplicates

ID, DECISION, CHECK, NOTE = "编号", "决定", "自动检查", "备注"
EDITABLE = {"question": "问题", "answer": "答案", "key_points": "要点", "evidence": "证据", "page": "页码"}
# 列名 → 列宽（约几个西文字母）；最常填的放在编号旁边
WIDTHS = (12, 8, 32, 40, 20, 44, 6, 32, 20)
COLUMNS = dict(zip((ID, DECISION, *EDITABLE.values(), CHECK, NOTE), WIDTHS, strict=True))
ACCEPT, REJECT, EDIT, UNREVIEWED = "接受", "拒绝", "修改", ""
_SHOWN = 5  # 一次最多列出这么多处要改的
_NUMBER = re.compile("[1-9][0-9]{0,8}")
_LONGEST = 32767  # Excel 一格至多这么多字
Decided = dict[str, tuple[int, dict[str, str]]]  # 编号 → (行号, 那一行)；表里没有的行号是 0
Problems = list[tuple[int, str, str]]  # (行号, 列名, 哪里不对)
# 中文 Excel 自带的日期、时间，只写编号，openpyxl 3.1.5 不认（findings/openpyxl_cjk_dates_are_integers.sh）
_DATES = {"y年m月": (27, 36, 50, 52, 57), "m月d日": (28, 29, 51, 53, 54, 58), "y年m月d日": (31,),
          "m-d-y": (30,), "h时m分": (32, 34, 55), "h时m分s秒": (33, 35, 56)}
BUILTIN_FORMATS.update((number, form) for form, numbers in _DATES.items() for number in numbers)
_UNITS = {"年": "year", "月": "month", "日": "day", "时": "hour", "分": "minute", "秒": "second"}
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # 工作簿存不下的字符


class Candidate(NamedTuple):
    row: dict
    rejected: dict | None = None  # 被拦下的那条记录 {"stage", "reason", "row"}；通过检查的是 None


def candidates(rows: list[dict], rejected: Iterable[dict]) -> dict[str, Candidate]:
    """编号 → 问答。没有编号或编号重复的，用内容算一个：内容不变，编号就不变。"""
    found: dict[str, Candidate] = {}
    refused = [Candidate(item["row"], item) for item in filter(_has_row, rejected)]
    for item in [*map(Candidate, rows), *refused]:
        given = item.row.get("id")
        name = _cell(given) if isinstance(given, str) else ""
        if not name or name in found:
            source = json.dumps(item.row, ensure_ascii=False, sort_keys=True)
            name = "X" + hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()[:8]
        found.setdefault(name, item)
    return found


def _has_row(item: dict) -> bool:
    return isinstance(item.get("row"), dict)  # 读不出来的回复没有问答


def cells(row: dict) -> dict[str, str]:
    """可以改的五格的文字；要点一行一个。"""
    return {field: _cell(row.get(field)) for field in EDITABLE}


def _cell(value: object) -> str:
    """一格里的文字，写出前和读回后都过一遍，所以没改过的格子总是相同。"""
    if isinstance(value, list):
        value = "\n".join(_cell(item) for item in value)
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    text = text.replace("_x000D_", "").replace("\r\n", "\n").replace("\r", "\n")  # 前者是 Excel 存的回车
    return _NOT_XML.sub("", text).strip()[:_LONGEST].strip()


def check_result(item: Candidate) -> tuple[str, str]:
    """自动检查的结果：(failed、noted、passed 之一, 一句话)；恰好照字母排就是先看的在前。"""
    if item.rejected is not None:
        return "failed", f"未通过（{item.rejected['stage']}）：{item.rejected['reason']}"
    if "evidence_original" in item.row:
        return "noted", f"通过；证据已改成原文，回复里写的是：{item.row['evidence_original']}"
    return ("passed", "通过") if "evidence" in item.row else ("noted", "通过；没有证据，请自己核对")


def export(rows: list[dict], path: Path, rejected: Iterable[dict] = ()) -> Path:
    """写出审阅表（.xlsx），返回它的路径；rejected 是被拦下的（validate 等返回的样子），排在后面。"""
    records = []
    for name, item in candidates(rows, rejected).items():
        line = (name, UNREVIEWED, *cells(item.row).values(), _cell(check_result(item)[1]), "")
        records.append(dict(zip(COLUMNS, line, strict=True)))
    write_table(records, path)
    print(f"写好 {rel(path)}：{len(records)} 行。在“决定”一列填 {ACCEPT}、{REJECT} 或 {EDIT}，"
          "空着算没看过，照自动检查的结果办。")
    return path


@one_sentence()
def write_table(records: list[dict[str, str]], path: Path) -> None:
    """写出审阅表。已有一份不一样的时，先把它改名为 “原名-旧1.xlsx” 留着：里面可能有人写好的决定。"""
    if path.exists():
        with contextlib.suppress(LabError):  # 读不出的也留着
            if [record for _, record in read_table(path)] == records:
                return
        names = (path.with_name(f"{path.stem}-旧{i}{path.suffix}") for i in count(1))
        kept = path.rename(next(filterfalse(Path.exists, names)))
        print(f"原来的 {rel(path)} 改名为 {kept.name}，没有覆盖。")
    book = openpyxl.Workbook()
    _fill(book.active, records)
    data = io.BytesIO()
    book.save(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, data.getvalue())


def _fill(sheet: Worksheet, records: list[dict[str, str]]) -> None:
    sheet.title, sheet.freeze_panes = "审阅", "C2"  # 表头和左边两列不随着滚走
    for column, (name, width) in enumerate(COLUMNS.items(), 1):
        heading = sheet.cell(1, column, name)
        heading.font = Font(bold=True)
        sheet.column_dimensions[heading.column_letter].width = width
        for number, record in enumerate(records, 2):
            _fill_cell(sheet.cell(number, column), record[name], is_page=name == EDITABLE["page"])
    choices = DataValidation("list", formula1=f'"{ACCEPT},{REJECT},{EDIT}"', allow_blank=True,
                             showErrorMessage=True, error=f"请填 {ACCEPT}、{REJECT}、{EDIT} 或空着")
    choices.add(f"B2:B{len(records) + 2}")
    sheet.add_data_validation(choices)


def _fill_cell(cell: Cell, text: str, is_page: bool) -> None:
    cell.alignment = Alignment(wrap_text=True, vertical="top")
    cell.number_format = "@"  # 文本：人再改时，像日期、数字、公式的也不会被改写
    if text:  # 页码仍写成数；别的注明是文字，以 = 开头的才不会当公式
        cell.value, cell.data_type = text, "n" if is_page and _NUMBER.fullmatch(text) else "s"


def read_table(path: str | Path) -> list[tuple[int, dict[str, str]]]:
    """读回审阅表，返回 [(Excel 里的行号, {列名: 文字})]，空行跳过；打不开、表头不对时抛 LabError。"""
    name = rel(path)
    sheet = _sheet(Path(path), name)
    header, *rows = [[_cell(_seen(cell)) for cell in row] for row in sheet.iter_rows()] or [[]]
    _check_header(header, name)
    return [(number, {key: text for key, text in zip(header, texts, strict=True) if key})
            for number, texts in enumerate(rows, 2) if any(texts)]


def _check_header(header: list[str], name: str) -> None:
    for column in COLUMNS:
        if column in (ID, DECISION) and column not in header:
            raise LabError(f"{name} 第 1 行没有“{column}”这一列，请保留导出时的表头。")
        if header.count(column) > 1:
            raise LabError(f"{name} 第 1 行有 {header.count(column)} 个“{column}”，请只留一列。")


def _sheet(path: Path, name: str) -> Worksheet:
    try:
        data = path.read_bytes()
    except OSError:
        raise LabError(f"{name} 不存在或打不开，请先导出审阅表；正在 Excel 里开着就先关掉。") from None
    if not data.startswith(b"PK\x03\x04"):  # CSV、旧的 .xls，加了密码的也是旧格式
        raise LabError(f"{name} 不是 .xlsx 工作簿，请在 Excel 或 WPS 里打开（去掉密码），另存为 .xlsx。")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 用不到的图表、条件格式等等读不了，openpyxl 会用英文提醒
            return openpyxl.load_workbook(io.BytesIO(data), data_only=True).worksheets[0]
    except (*DAMAGED, TypeError, SyntaxError) as error:
        raise LabError(f"{name} 已损坏或不是 Excel 工作簿（{type(error).__name__}），"
                       "请在 Excel 里打开后另存一份 .xlsx 再试。") from None


def _seen(cell: Cell) -> object:
    """格子里的值，换成人看到的文字：改了格式再填，数字、日期、百分数就不再是文字。"""
    value = cell.value
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return f"{100 * value:.15g}%" if "%" in cell.number_format else f"{value:.15g}"
    dated = [f"{getattr(value, part)}{unit}" for unit, part in _UNITS.items()
             if unit in cell.number_format and hasattr(value, part)]
    return None if value is None else "".join(dated) or str(value).removesuffix(" 00:00:00")


class Review(NamedTuple):
    rows: list[dict]  # 留下的
    rejected: list[dict]  # 没留下的
    counts: dict[str, int]  # 决定 → 行数


def apply(
    path: str | Path, rows: list[dict], pages: list[Page] | None = None, rejected: Iterable[dict] = ()
) -> Review:
    """读回审阅表，让决定生效，改过的重新检查；rows、rejected 与导出时的相同，同一张表再用一次结果不变。

    有一处不对就抛 LabError，逐处写明行和列，这时什么也没有改。
    """
    known = candidates(rows, rejected)
    decided, problems = _decide(path, known)
    kept, lost = _edit(known, decided)
    touched = {name: decided[name][0] for name in kept if kept[name] is not known[name].row}  # 编号 → 行号
    problems += _recheck(kept, touched, known, pages)
    if problems := problems or _repeated(kept, touched):
        shown = [f"第 {number} 行“{column}”列：{reason}" for number, column, reason in problems[:_SHOWN]]
        shown += [f"等共 {len(problems)} 处"] * (len(problems) > _SHOWN)
        raise LabError(f"{rel(path)} 有要改的地方：{'；'.join(shown)}。改好保存后再读一次。")
    lost += filterfalse(_has_row, rejected)
    counts = Counter(record[DECISION] for _, record in decided.values())
    return Review(name_rows(list(kept.values())), lost, dict(counts))


def _decide(path: str | Path, known: dict[str, Candidate]) -> tuple[Decided, Problems]:
    """读出表里的决定；返回 (决定, 行里不对的地方)。"""
    decided: Decided = {name: (0, {DECISION: UNREVIEWED}) for name in known}
    problems: Problems = []
    for number, record in read_table(path):
        name = record[ID]
        if name not in known:
            problems.append((number, ID, f"{name or '空的'}，数据里没有这个编号"))
        elif decided[name][0]:
            problems.append((number, ID, f"{name} 与第 {decided[name][0]} 行重复"))
        else:
            decided[name] = number, record
            problems += _decision_problems(number, record, known[name].row)
    return decided, problems


def _decision_problems(number: int, record: dict[str, str], row: dict) -> Problems:
    decision = record[DECISION]
    if decision in (REJECT, EDIT):
        return []
    if decision not in (ACCEPT, UNREVIEWED):
        return [(number, DECISION, f"“{decision}”不认识，请填 {ACCEPT}、{REJECT}、{EDIT} 或空着")]
    reason = f"内容和导出时不同，“{DECISION}”却不是“{EDIT}”（不是你改的，就请重新导出）"
    return [(number, EDITABLE[field], reason) for field in _changed(row, record)]


def _changed(row: dict, record: dict[str, str]) -> dict[str, str]:
    """表里改过的格子：键 → 新的文字。"""
    return {field: record[EDITABLE[field]] for field, text in cells(row).items()
            if record.get(EDITABLE[field], text) != text}


def _edit(known: dict[str, Candidate], decided: Decided) -> tuple[dict[str, dict], list[dict]]:
    """让决定生效：(编号 → 留下的问答, 没留下的记录)；改过的和救回来的是新的一条，还没有检查。"""
    kept: dict[str, dict] = {}
    lost: list[dict] = []
    for name, (row, refused) in known.items():
        _, record = decided[name]
        if record[DECISION] == EDIT:
            kept[name] = {**_edited(row, record), "id": name}
        elif refused is not None and record[DECISION] == ACCEPT:
            kept[name] = {**row, "id": name}
        elif refused is not None:
            lost.append(refused)
        elif record[DECISION] == REJECT:
            note = f"：{record[NOTE]}" if record.get(NOTE) else ""
            lost.append({"stage": "人工", "reason": f"人工拒绝{note}", "row": row})
        else:
            kept[name] = row
    return kept, lost


def _edited(row: dict, record: dict[str, str]) -> dict:
    """换上表里改过的格子；没改的保持原样，改了证据就不再是“修正过的证据”。"""
    changed = _changed(row, record)
    new = row | changed
    if "key_points" in changed:
        new["key_points"] = list(filter(str.strip, changed["key_points"].split("\n")))
    if "evidence" in changed:
        new.pop("evidence_original", None)
    return tidy(new)


def _recheck(
    kept: dict[str, dict], touched: dict[str, int], known: dict[str, Candidate], pages: list[Page] | None
) -> Problems:
    """重新检查动过的，证据抄错几个字的就地改成原话；返回不合格的。"""
    problems: Problems = []
    document = document_of(pages)
    strict = all("evidence" in item.row for item in known.values() if not item.rejected)  # 个个有证据的数据集
    for name, number in touched.items():
        kept[name], problem = recheck(kept[name], document, strict or "evidence" in known[name].row)
        if problem:
            problems.append((number, EDITABLE.get(problem.field, ID), problem.reason))
    return problems


def _repeated(kept: dict[str, dict], touched: dict[str, int]) -> Problems:
    """改过的题和别的题重复了吗？没动过的排前面，重复了就怪动过的。"""
    order = sorted(kept, key=lambda name: name in touched)
    numbers = {id(kept[name]): number for name, number in touched.items()}
    _, dropped = drop_near_duplicates([kept[name] for name in order])
    return [(numbers[id(item["row"])], EDITABLE["question"], item["reason"])
            for item in dropped if id(item["row"]) in numbers]


@dataclass
class ReviewTable:
    """放在笔记本格子最后一行就显示成表格；打印时是纯文字。"""

    rows: list[dict]  # {"name", "cells", "check", "level"}
    total: int
    passed: int

    def _repr_html_(self) -> str:
        html = template("dataset/review.html.j2").render(vars(self))  # 模型写的文字不可信：由 jinja2 转义
        return without_blank_lines(html)

    def __repr__(self) -> str:
        lines = [f"{row['name']} {row['cells']['question']}\n  {row['check']}" for row in self.rows]
        return "\n".join(lines) or "（没有问答）"


def review_table(rows: list[dict], rejected: Iterable[dict] = (), limit: int = 10) -> ReviewTable:
    """并排看问答与检查结果，最多 limit 条：未通过的、证据改过或没有证据的排在前面。"""
    found = [dict(zip(("level", "check"), check_result(item), strict=True), name=name, cells=cells(item.row))
             for name, item in candidates(rows, rejected).items()]
    found.sort(key=itemgetter("level"))
    return ReviewTable(found[:limit], len(found), sum(row["level"] != "failed" for row in found))
