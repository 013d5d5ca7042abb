"""问答对的质检：格式、长度、语言、指代、答案、证据，每条不合格的都写明关口和原因。

在 notebooks/01_build_dataset.ipynb 讲解。大模型写的问答对看着都像样，
不逐条核对，编造的数字就会混进训练集。证据的查找见 qa_evidence，用语见 qa_wording，
重复见 qa_duplicates。
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from labutils.base.text_normalize import contains, normalize
from labutils.dataset.chunking import Page
from labutils.dataset.qa_duplicates import NEAR_DUPLICATE, drop_near_duplicates, similarity
from labutils.dataset.qa_evidence import begins_on, nearest_span, on_page, point_problem, with_next_page
from labutils.dataset.qa_wording import foreign_words, is_chinese, outside_reference

__all__ = ["NEAR_DUPLICATE", "Problem", "drop_near_duplicates", "first_problem", "funnel",
           "name_rows", "recheck", "repair_evidence", "similarity", "text_of",
           "tidy", "validate"]

LENGTHS = {"question": ("问题", 4, 200), "answer": ("答案", 1, 500), "evidence": ("证据", 1, 500)}
_MOST_PAGES = 10**9  # 大得离谱的页码
# 关口的顺序，以及通过之后的说法；“解析”由 qa_parse 把关，“去重”由 qa_duplicates 把关
STAGES = {"解析": "读得出来", "格式": "格式正确", "长度": "长短合适", "语言": "语言一致",
          "指代": "单独看得懂", "答案": "答案自洽", "证据": "原文有依据", "去重": "去重之后"}

Rejected = dict  # {"stage": 关口, "reason": 原因, "row": 原来的那条}


class Problem(NamedTuple):
    stage: str
    field: str  # 出问题的键，如 answer；审阅表由它指出是哪一列
    reason: str


def validate(
    rows: Iterable[dict], pages: list[Page] | None = None, require_evidence: bool = True
) -> tuple[list[dict], list[Rejected]]:
    """逐条检查，返回 (合格的, 不合格的)；不合格的是 {"stage", "reason", "row"}。

    给了 pages 就核对语言和证据：evidence 要在第 page 页（可以从这一页跨到下一页），
    抄错几个字的改回原话，原来写的留在 evidence_original。
    require_evidence=False 用于用户自己的问答文件：没写页码和证据也收，写了仍要对得上。
    缺 key_points 时用整个答案代替；缺 fact_id 时，答案相同的算同一个事实。
    """
    good: list[dict] = []
    rejected: list[Rejected] = []
    seen_ids: set[str] = set()
    page_text, chinese = text_of(pages)
    for row in rows:
        clean, problem = recheck(row, page_text, require_evidence, chinese)
        if problem is None and clean.get("id") in seen_ids:
            problem = Problem("格式", "id", f"id {clean['id']} 与前面的重复")
        if problem:
            rejected.append({"stage": problem.stage, "reason": problem.reason, "row": row})
            continue
        seen_ids |= {clean["id"]} if "id" in clean else set()
        good.append(clean)
    return name_rows(good), rejected


def text_of(pages: list[Page] | None) -> tuple[dict[int, str] | None, bool]:
    """({页码: 那一页的文字}, 文档是不是中文)；没有文档时是 (None, False)。"""
    if pages is None:
        return None, False
    page_text = {page.number: page.text for page in pages}
    return page_text, is_chinese("".join(page_text.values()))


def recheck(
    row: object, page_text: dict[int, str] | None, require_evidence: bool, chinese: bool
) -> tuple[dict, Problem | None]:
    """整理一条、修正证据，再检查：(整理后的, 第一个问题或 None)。"""
    clean = repair_evidence(tidy(row), page_text)
    return clean, first_problem(clean, page_text, require_evidence, chinese)


def tidy(row: object) -> object:
    """去掉首尾空白、补上默认要点；不改动传进来的那条。"""
    if not isinstance(row, dict):
        return row
    clean = {k: v.strip() if isinstance(v, str) else v for k, v in row.items()}
    clean = {k: v for k, v in clean.items() if v not in (None, "", [])}
    if "key_points" not in clean and isinstance(clean.get("answer"), str):
        clean["key_points"] = [clean["answer"]]
    if isinstance(clean.get("key_points"), str):
        clean["key_points"] = [clean["key_points"]]
    page = clean.get("page")
    if isinstance(page, str) and page.isdecimal() and len(page) < 10:  # 几千位的 int() 会引发异常
        clean["page"] = int(page)
    return clean


def repair_evidence(row: object, page_text: dict[int, str] | None) -> object:
    """证据抄错了几个字就换成那一页的原话，原来的留在 evidence_original；其余原样返回。"""
    if page_text is None or _format_problem(row) or "evidence" not in row:
        return row
    evidence, page = row["evidence"], row.get("page", 0)
    if begins_on(evidence, page, page_text):
        return row
    span = (nearest_span(evidence, page_text.get(page, ""))
            or nearest_span(evidence, with_next_page(page, page_text)))
    return row if span is None or not begins_on(span, page, page_text) else {
        **row, "evidence": span, "evidence_original": evidence}


def first_problem(
    row: object, page_text: dict[int, str] | None, require_evidence: bool, chinese: bool
) -> Problem | None:
    """按 STAGES 的顺序检查一条，返回第一个问题；没有问题是 None。

    page_text 是 {页码: 那一页的文字}，None 表示没有文档可对；chinese：文档是不是中文。
    """
    checks: list[tuple[str, Callable[[dict], tuple[str, str] | None]]] = [
        ("格式", _format_problem), ("长度", _length_problem)]
    if chinese:
        checks.append(("语言", _language_problem))
    checks += [("指代", _reference_problem), ("答案", _answer_problem)]
    if page_text is not None:
        checks.append(("证据", lambda row: _evidence_problem(row, page_text, require_evidence)))
    found = ((stage, check(row)) for stage, check in checks)
    return next((Problem(stage, *problem) for stage, problem in found if problem), None)


def _format_problem(row: object) -> tuple[str, str] | None:
    if not isinstance(row, dict):
        return "", "不是一个 JSON 对象"
    for field, name in (("question", "问题"), ("answer", "答案")):
        value = row.get(field)
        if value is None:
            return field, f"缺少{name}（{field}）"
        if not isinstance(value, str):
            return field, f"{name}（{field}）不是文字"
    points = row["key_points"]
    if not isinstance(points, list) or not all(isinstance(p, str) and p.strip() for p in points):
        return "key_points", "要点（key_points）应是一组不空的文字"
    for field in ("id", "fact_id", "evidence"):
        if not isinstance(row.get(field, ""), str):
            return field, f"{field} 不是文字"
    page = row.get("page", 1)
    if not isinstance(page, int) or isinstance(page, bool) or not 1 <= page < _MOST_PAGES:
        return "page", f"页码（page）{page!r:.20} 不是正整数，或大得离谱"
    return None


def _length_problem(row: dict) -> tuple[str, str] | None:
    for field, (name, low, high) in LENGTHS.items():
        if field in row and not low <= len(row[field]) <= high:
            return field, f"{name}长 {len(row[field])} 字，应在 {low}–{high} 字之间"
    return None


def _language_problem(row: dict) -> tuple[str, str] | None:
    if not is_chinese(row["question"]):
        return "question", "文档是中文，问题不是中文"
    # 问英文名称的题，答案就是原文里的外文，不算错
    quoted = foreign_words(row["answer"]) <= foreign_words(row.get("evidence", ""))
    if not is_chinese(row["answer"]) and not quoted:
        return "answer", "文档是中文，答案不是中文"
    return None


def _reference_problem(row: dict) -> tuple[str, str] | None:
    if word := outside_reference(row["question"]):
        return "question", f"问题里的“{word}”离开原文就不知所指"
    if word := outside_reference(row["answer"], known=row["question"]):
        return "answer", f"答案里的“{word}”离开原文就不知所指"
    return None


def _answer_problem(row: dict) -> tuple[str, str] | None:
    for point in row["key_points"]:
        if not contains(row["answer"], point):
            return "key_points", f"答案里没有要点“{point}”"
    told = all(contains(row["question"], point) for point in row["key_points"])
    if told or contains(row["question"], row["answer"].replace("|", "")):
        return "question", "问题里已经说出了答案"
    return None


def _evidence_problem(
    row: dict, page_text: dict[int, str], required: bool
) -> tuple[str, str] | None:
    for field, name in (("evidence", "证据"), ("page", "页码")):
        if field not in row:
            return (field, f"缺少{name}（{field}）") if required else None
    evidence, page = row["evidence"], row["page"]
    if page not in page_text:
        return "page", f"页码 {page} 超出文档（共 {max(page_text, default=0)} 页）"
    if not begins_on(evidence, page, page_text):
        elsewhere = next((n for n in page_text if begins_on(evidence, n, page_text)), None)
        where = f"它在第 {elsewhere} 页" if elsewhere else "文档里没有这句话"
        return "page" if elsewhere else "evidence", f"证据不在第 {page} 页，{where}"
    whole = on_page(evidence, page_text[page])
    reason = point_problem(row, page_text[page] if whole else with_next_page(page, page_text))
    return ("key_points", reason) if reason else None


def name_rows(rows: list[dict]) -> list[dict]:
    """没有 fact_id、id 的补上：答案相同的问法归到同一个事实。"""
    used = {row["fact_id"] for row in rows if "fact_id" in row}
    free = (name for i in range(1, 10**9) if (name := f"F{i:02d}") not in used)
    by_answer = {normalize(row["answer"]): row["fact_id"] for row in rows if "fact_id" in row}
    counts: dict[str, int] = {}
    ids = {row["id"] for row in rows if "id" in row}
    for row in rows:
        if "fact_id" not in row:
            answer = normalize(row["answer"])
            if answer not in by_answer:
                by_answer[answer] = next(free)
            row["fact_id"] = by_answer[answer]
        while "id" not in row:
            counts[row["fact_id"]] = counts.get(row["fact_id"], 0) + 1
            name = f"{row['fact_id']}-{counts[row['fact_id']]}"
            if name not in ids:
                row["id"] = name
                ids.add(name)
    return rows


def funnel(first: str, total: int, rejected: list[Rejected]) -> list[tuple[str, int]]:
    """每过一道关口还剩多少条：[(first, total), (关口通过之后的说法, 条数), …]。

    没有经过“解析”的（现成的问答文件）不列那一关。
    """
    lost = Counter(item["stage"] for item in rejected)
    rows, left = [(first, total)], total
    for stage, name in STAGES.items():
        if stage == "解析" and not lost[stage]:
            continue
        left -= lost[stage]
        rows.append((name, left))
    return rows
