"""把对比结果变成网页：一个不依赖外部文件的页面，和笔记本里的并排表格

模型的回答、学生的数据都不可信：由 jinja2 自动转义，绝不当作标签执行。
讲解见 notebooks/03_before_after。
"""

import base64
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template

from labutils.base.html_templates import template, without_blank_lines
from labutils.base.plots import GROUPS

CHANGES = {
    "better": "错 → 对",
    "worse": "对 → 错",
    "right": "一直对",
    "wrong": "一直错",
}


def change(row: dict) -> str:
    """这道题微调前后的变化，CHANGES 的键之一"""
    if row["before_correct"] == row["after_correct"]:
        return "right" if row["after_correct"] else "wrong"
    return "better" if row["after_correct"] else "worse"


def group_name(group: str) -> str:
    """问题组的中文名；不认识的组原样返回"""
    return GROUPS[group][0] if group in GROUPS else group


def percent(share: float) -> str:
    """0.666 → 67%"""
    return f"{share:.0%}"


@lru_cache(maxsize=1)
def _template() -> Template:
    return template("comparison/comparison.html.j2", change=change, group_name=group_name, percent=percent)


def page(comparison: Any, images: dict[str, Path]) -> str:
    """整个对比页面的 HTML；comparison 是 evaluation.Comparison，images 是 {图名: PNG 文件}"""
    encoded = [(title, base64.b64encode(p.read_bytes()).decode()) for title, p in images.items()]
    return _template().render(
        page=True,
        before=comparison.before,
        after=comparison.after,
        baseline=comparison.lexical_baseline,
        notes=comparison.notes,
        rows=comparison.rows,
        images=encoded,
        changes=CHANGES,
    )


@dataclass
class AnswerTable:
    """放在笔记本格子最后一行就显示成并排表格；打印时是纯文字"""

    rows: list[dict]

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p>{self!r}</p>"
        return without_blank_lines(_template().render(page=False, rows=self.rows))

    def __repr__(self) -> str:
        if not self.rows:
            return "（没有符合条件的题）"
        return "\n".join(
            f"{row['id']} {row['question']}\n"
            f"  {'✓' if row['before_correct'] else '✗'} 前：{row['before']}\n"
            f"  {'✓' if row['after_correct'] else '✗'} 后：{row['after']}"
            for row in self.rows
        )


def answer_table(
    rows: list[dict], kind: str | None = None, group: str | None = None, limit: int = 8
) -> AnswerTable:
    """挑出一部分题并排显示：kind 是 CHANGES 的键，group 是问题组，最多 limit 题"""
    chosen = [
        row
        for row in rows
        if (kind is None or change(row) == kind) and (group is None or row["group"] == group)
    ]
    return AnswerTable(chosen[:limit])
