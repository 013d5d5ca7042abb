"""笔记本里看的审阅表：问答、证据和自动检查的结果并排，未通过的和证据改过的排在前面

模型写的文字不可信：由 jinja2 自动转义，绝不当作标签执行。
讲解见 notebooks/01_build_dataset。
"""

from dataclasses import dataclass

from labutils.base.html_templates import template, without_blank_lines
from labutils.dataset.qa_review import Candidate, candidates, cells, check_result

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


def table(
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
