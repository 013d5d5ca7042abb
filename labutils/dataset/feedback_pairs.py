"""把网页上收来的评价与改正并进问答数据；网页在 notebook 04，用法见 README“评价变成新的题”。

写反馈的可能是任何人，所以和自己的问答文件一样逐条检查；与原有问答矛盾的以原有的为准。
"""

from __future__ import annotations

from pathlib import Path

from labutils.base.paths import rel
from labutils.dataset.chunking import Page
from labutils.dataset.qa_checks import drop_near_duplicates, name_rows, recheck, text_of


def merge(
    path: str | Path, voted: list[tuple[str, dict]], rows: list[dict], pages: list[Page],
    rejected: list[dict],
) -> list[dict]:
    """rows 后面接上反馈里合格的新问答；不要求页码和证据。voted 是 web_feedback.read_pairs(path) 的结果。

    答案与某个事实相同的归到那个事实，其余各算新的事实。不合格的加进 rejected 并打印文件和行号。
    """
    fresh, refused = _checked(path, voted, pages)
    kept, repeated = drop_near_duplicates([*rows, *fresh])
    known = {id(row) for row in rows}
    added = [row for row in kept if id(row) not in known]
    refused += repeated
    rejected += refused
    for item in refused:
        print(f"{item['row']['source']}不合格：{item['reason']}。")
    print(f"反馈 {rel(path)}：收下 {len(added)} 条新问答，{len(refused)} 条没有收。")
    for row in added:
        del row["source"]
    return name_rows([*rows, *added])


def _checked(
    path: str | Path, voted: list[tuple[str, dict]], pages: list[Page]
) -> tuple[list[dict], list[dict]]:
    """反馈 → (合格的, 不合格的)，每条带着 source：来自哪个文件的第几行。"""
    page_text, chinese = text_of(pages)
    good, refused = [], []
    for where, pair in voted:
        row, problem = recheck(pair, page_text, False, chinese)
        row["source"] = f"{rel(path)} {where}"
        if problem:
            refused.append({"stage": problem.stage, "reason": problem.reason, "row": row})
        else:
            good.append(row)
    return good, refused
