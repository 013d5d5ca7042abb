"""人工审阅：把问答导出成表格，人写下“接受、拒绝、修改”，读回来检查后生效。

在 notebooks/01_build_dataset.ipynb 讲解。自动检查只能看字面，题好不好还得人来看。
被自动检查拦下的也列在表里，改好了可以救回来；但谁也不能让没通过检查的题直接进数据集。
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from labutils.base.errors import LabError
from labutils.base.paths import rel
from labutils.dataset.chunking import Page
from labutils.dataset.qa_checks import (
    drop_near_duplicates,
    name_rows,
    recheck,
    text_of,
    tidy,
)
from labutils.dataset.review_file import CHECK, DECISION, EDITABLE, ID, NOTE, read_table, write_table

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
