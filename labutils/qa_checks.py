"""问答对的质检：格式、答案、证据、重复，每条不合格的都写明原因。

在 notebooks/01_build_dataset.ipynb 讲解。大模型写的问答对看着都像样，
不逐条核对，编造的数字就会混进训练集。
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from labutils.chunking import Page
from labutils.text_normalize import contains, normalize

QUESTION_LENGTH = (4, 200)
ANSWER_LENGTH = (1, 500)
NEAR_DUPLICATE = 0.8  # 三字组重合到这个程度，只差一两个字，算同一种问法

Rejected = dict  # {"reason": 原因, "row": 原来的那条}


def validate(
    rows: Iterable[dict], pages: list[Page] | None = None, require_evidence: bool = True
) -> tuple[list[dict], list[Rejected]]:
    """逐条检查，返回 (合格的, 不合格的)；不合格的是 {"reason", "row"}。

    给了 pages 就核对证据：evidence 必须一字不差地（空白除外）出现在第 page 页。
    require_evidence=False 用于用户自己的问答文件：没写页码和证据也收，写了仍要对得上。
    缺 key_points 时用整个答案代替；缺 fact_id 时，答案相同的算同一个事实。
    """
    page_text = {p.number: p.text for p in pages} if pages is not None else None
    good: list[dict] = []
    rejected: list[Rejected] = []
    seen_ids: set[str] = set()
    for row in rows:
        clean = _tidy(row)
        reason = _format_problem(clean) or _answer_problem(clean)
        if not reason and page_text is not None:
            reason = _evidence_problem(clean, page_text, require_evidence)
        if not reason and clean.get("id") in seen_ids:
            reason = f"id {clean['id']} 与前面的重复"
        if reason:
            rejected.append({"reason": reason, "row": row})
            continue
        seen_ids |= {clean["id"]} if "id" in clean else set()
        good.append(clean)
    return _name_rows(good), rejected


def _tidy(row: object) -> object:
    """去掉首尾空白、补上默认要点；不改动传进来的那条。"""
    if not isinstance(row, dict):
        return row
    clean = {k: v.strip() if isinstance(v, str) else v for k, v in row.items()}
    clean = {k: v for k, v in clean.items() if v not in (None, "", [])}
    if "key_points" not in clean and isinstance(clean.get("answer"), str):
        clean["key_points"] = [clean["answer"]]
    if isinstance(clean.get("key_points"), str):
        clean["key_points"] = [clean["key_points"]]
    if isinstance(clean.get("page"), str) and clean["page"].isdecimal():
        clean["page"] = int(clean["page"])
    return clean


def _format_problem(row: object) -> str:
    if not isinstance(row, dict):
        return "不是一个 JSON 对象"
    limits = {"question": ("问题", QUESTION_LENGTH), "answer": ("答案", ANSWER_LENGTH)}
    for field, (name, (low, high)) in limits.items():
        value = row.get(field)
        if value is None:
            return f"缺少{name}（{field}）"
        if not isinstance(value, str):
            return f"{name}（{field}）不是文字"
        if not low <= len(value) <= high:
            return f"{name}长 {len(value)} 字，应在 {low}–{high} 字之间"
    points = row["key_points"]
    if not isinstance(points, list) or not all(isinstance(p, str) and p.strip() for p in points):
        return "要点（key_points）应是一组不空的文字"
    for field in ("id", "fact_id", "evidence"):
        if not isinstance(row.get(field, ""), str):
            return f"{field} 不是文字"
    page = row.get("page", 1)
    if not isinstance(page, int) or isinstance(page, bool) or page < 1:
        return f"页码（page）{page!r} 不是正整数"
    return ""


def _answer_problem(row: dict) -> str:
    for point in row["key_points"]:
        if not contains(row["answer"], point):
            return f"答案里没有要点“{point}”"
    if all(contains(row["question"], point) for point in row["key_points"]):
        return "问题里已经说出了答案"
    return ""


def _evidence_problem(row: dict, page_text: dict[int, str], required: bool) -> str:
    evidence, page = row.get("evidence"), row.get("page")
    if evidence is None or page is None:
        missing = "证据（evidence）" if evidence is None else "页码（page）"
        return f"缺少{missing}" if required else ""
    if page not in page_text:
        return f"页码 {page} 超出文档（共 {max(page_text, default=0)} 页）"
    if not on_page(evidence, page_text[page]):
        elsewhere = [n for n, text in page_text.items() if on_page(evidence, text)]
        where = f"，它在第 {elsewhere[0]} 页" if elsewhere else "，文档里没有这句话"
        return f"证据不在第 {page} 页{where}"
    known = set(_numbers(page_text[page]))
    for point in row["key_points"]:
        # 有几种写法（“|”隔开）时，只要一种的数字都在这一页就行
        if not any(known.issuperset(_numbers(part)) for part in point.split("|")):
            return f"要点“{point}”里的数字在第 {page} 页找不到"
    return ""


def on_page(evidence: str, text: str) -> bool:
    """证据是不是一字不差地在这页文字里；空白和换行不算，它们是排版留下的。"""
    return re.sub(r"\s", "", evidence) in re.sub(r"\s", "", text)


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", normalize(text))


def _name_rows(rows: list[dict]) -> list[dict]:
    """没有 fact_id、id 的补上：答案相同的问法归到同一个事实。"""
    used = {row["fact_id"] for row in rows if "fact_id" in row}
    free = (name for i in range(1, 10**9) if (name := f"F{i:02d}") not in used)
    by_answer: dict[str, str] = {}
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


def similarity(left: str, right: str, n: int = 3) -> float:
    """两句话的 n 字组 Jaccard 相似度：共有的字组数 ÷ 全部字组数，0–1。

    来源：Broder (1997), On the resemblance and containment of documents。
    """
    a, b = _grams(normalize(left), n), _grams(normalize(right), n)
    return len(a & b) / len(a | b) if a | b else 1.0


def _grams(text: str, n: int) -> set[str]:
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))} - {""}


def drop_near_duplicates(
    rows: list[dict], threshold: float = NEAR_DUPLICATE
) -> tuple[list[dict], list[Rejected]]:
    """去掉重复的问题，保留先出现的；返回 (留下的, 去掉的)。

    问题完全相同（标点、全半角不算）就算重复；答案要点不同的另报“矛盾”。
    差一两个字的，只有要点也相同才算重复：“线上”和“线下”只差一字，问的却是两件事。
    """
    kept: list[dict] = []
    dropped: list[Rejected] = []
    by_question: dict[str, dict] = {}
    by_points: dict[frozenset, list[dict]] = {}
    for row in rows:
        points = frozenset(normalize(p) for p in row["key_points"])
        same = by_question.get(normalize(row["question"]))
        close = same or next(
            (old for old in by_points.get(points, [])
             if similarity(old["question"], row["question"]) >= threshold), None)
        if close is None:
            kept.append(row)
            by_question[normalize(row["question"])] = row
            by_points.setdefault(points, []).append(row)
            continue
        agrees = points == frozenset(normalize(p) for p in close["key_points"])
        what = "与 {} 的问题重复" if agrees else "与 {} 问题相同、答案矛盾"
        dropped.append({"reason": what.format(close.get("id", close["question"])), "row": row})
    return kept, dropped
