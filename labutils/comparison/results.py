"""把对比结果变成网页：一个不依赖外部文件的页面，和笔记本里的并排表格

模型的回答、学生的数据都不可信：由 jinja2 自动转义，绝不当作标签执行。
讲解见 notebooks/03_before_after。


把一次对比写成文件：JSON 给程序，CSV 给表格软件，HTML 与 PNG 给人看

讲解见 notebooks/03_before_after。
"""

import base64
import csv
import io
import json
import math
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from labutils.base.errors import LabError
from labutils.base.figures import (
    AFTER,
    BASELINE,
    BEFORE,
    EMPTY,
    RIGHT,
    WRONG,
    _new_axes,
    data_label,
    label,
    save,
    template,
    without_blank_lines,
)
from labutils.base.files import one_sentence, write
from labutils.comparison.metrics import GROUPS

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


COLUMNS = {
    "id": "编号",
    "fact_id": "事实",
    "group": "问题组",
    "question": "问题",
    "reference": "标准答案",
    "key_points": "要点",
    "page": "页码",
    "before": "微调前回答",
    "before_correct": "微调前",
    "after": "微调后回答",
    "after_correct": "微调后",
    "before_rouge_l": "微调前 ROUGE-L",
    "after_rouge_l": "微调后 ROUGE-L",
    "before_bleu_4": "微调前 BLEU-4",
    "after_bleu_4": "微调后 BLEU-4",
    "baseline": "字面检索基线的回答",
    "baseline_correct": "字面检索基线",
}


@one_sentence()
def check_folder(out_dir: Path) -> None:
    """写不进去就引发 LabError：全部问题要答很久，不能答完才知道。"""
    out_dir.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=out_dir).close()


@one_sentence()
def write_all(comparison: Any, out_dir: Path) -> dict[str, Path]:
    """写出 comparison.json、.csv、.html 与 PNG，返回 {名字: 文件}

    comparison 是 evaluation.Comparison。HTML 最后写，里面内嵌了那些图。
    """
    files = {name: out_dir / f"comparison.{name}" for name in ("json", "csv", "html")}
    _write_json(comparison, files["json"])
    _write_csv(comparison.rows, files["csv"])
    images = {"正确率": out_dir / "accuracy.png"}
    filled = {g: s for g, s in comparison.before.items() if s["n"]}
    accuracy_bars(filled, comparison.after, comparison.lexical_baseline, images["正确率"])
    if any(row["fact_id"] for row in comparison.rows):
        images["逐个事实的对错"] = out_dir / "facts.png"
        fact_strip(comparison.rows, images["逐个事实的对错"])
    write(files["html"], page(comparison, images))
    return files | images


def _write_json(comparison: Any, path: Path) -> None:
    content = {
        "before": comparison.before,
        "after": comparison.after,
        "lexical_baseline": comparison.lexical_baseline,
        "notes": comparison.notes,
        "worse": [row["id"] for row in comparison.worse],
        "rows": comparison.rows,
    }
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    write(path, text + "\n")


def _write_csv(rows: list[dict], path: Path) -> None:
    """带 BOM 的 UTF-8：Excel 没有 BOM 就会把中文当成 GBK 读成乱码"""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS.values())
    writer.writerows([_cell(row.get(key)) for key in COLUMNS] for row in rows)
    write(path, text.getvalue().encode("utf-8-sig"))


FORMULA_STARTS = tuple("=+-@＝＋－＠\t\r\n")


def _cell(value: Any) -> Any:
    """一格的内容；模型答出 “=1+1” 这样的文字时前面加单引号，表格软件就不会当公式执行"""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, list):
        value = "；".join(value)
    if isinstance(value, str) and value.lstrip(" \u3000").startswith(FORMULA_STARTS):
        return "'" + value
    return value


def _bar_labels(axes: Axes, xs: list[float], scores: list[float], width: float) -> None:
    for x, score in zip(xs, scores, strict=True):
        if math.isfinite(score):
            axes.text(x, score + 0.015, f"{score:.0%}", ha="center", va="bottom", fontsize=9)


def group_label(group: str) -> str:
    """问题组的显示名，如 train → 训练过的问法；不认识的组原样返回"""
    return label(*GROUPS[group]) if group in GROUPS else data_label(group, "group")


def accuracy_bars(
    before: dict[str, dict],
    after: dict[str, dict],
    baseline: dict[str, dict] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """各组问题微调前后的正确率；baseline 里有的组再画一条虚线

    三个参数都是 {组: {"accuracy": 0–1, "n": 题数}}，即 evaluation.compare 的汇总；
    before 与 after 没有共同的组时抛出 LabError。讲解见 notebooks/03_before_after。
    """
    groups = [g for g in before if g in after]
    if not groups:
        raise LabError("画不出正确率：微调前后没有共同的问题组，请先运行对比。")
    figure, axes = _new_axes(max(4.0, 1.7 * len(groups)), 3.8)
    width = 0.36
    series = ((before, -width / 2, BEFORE, "微调前", "before"),
              (after, width / 2, AFTER, "微调后", "after"))  # fmt: skip
    for scores, shift, colour, zh, en in series:
        xs = [i + shift for i in range(len(groups))]
        heights = [scores[g]["accuracy"] for g in groups]
        axes.bar(xs, heights, width * 0.94, color=colour, label=label(zh, en))
        _bar_labels(axes, xs, heights, width)
    _baseline_lines(axes, groups, baseline or {}, width)
    ticks = [f"{group_label(g)}\nn={after[g]['n']}" for g in groups]
    axes.set_xticks(range(len(groups)), ticks)
    axes.set(ylim=(0, 1.12), ylabel=label("正确率", "accuracy"))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3,
                  frameon=False)  # fmt: skip
    return save(figure, path)


def _baseline_lines(axes: Axes, groups: list[str], baseline: dict, width: float) -> None:
    name = label("字面检索基线", "lexical baseline")
    for group in (g for g in baseline if g in groups):
        centre, score = groups.index(group), baseline[group]["accuracy"]
        axes.hlines(score, centre - width * 1.15, centre + width * 1.15, color=BASELINE,
                    linestyle="--", linewidth=1.8, label=f"{name} {score:.0%}")  # fmt: skip


def fact_strip(rows: list[dict], path: str | Path | None = None) -> Figure:
    """逐个事实的对错色块：一列一个事实，一行是“哪组问法 × 微调前或后”

    rows 是 evaluation.compare 的逐题结果，用到 group、fact_id、before_correct、after_correct；
    一个事实在一组里有几种问法时，全对、部分对、全错三种颜色。没有带 fact_id 的行时抛出 LabError。
    """
    rows = [r for r in rows if r.get("fact_id")]
    if not rows:
        raise LabError("画不出逐事实色块图：结果里没有 fact_id，请检查问答文件是否带有事实编号。")
    facts = sorted({r["fact_id"] for r in rows})
    lines = [(g, s) for g in dict.fromkeys(r["group"] for r in rows) for s in ("before", "after")]
    grid = [[_mark(rows, fact, *line) for fact in facts] for line in lines]
    figure, axes = _new_axes(max(5.0, 0.17 * len(facts) + 1.8), 0.38 * len(lines) + 1.5)
    colours = ListedColormap([WRONG, "#c9cf8e", RIGHT]).with_extremes(bad=EMPTY)
    image = axes.pcolormesh(grid, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=1)
    axes.set_xticks([i + 0.5 for i in range(len(facts))], [data_label(f, "?") for f in facts],
                    rotation=90, fontsize=7)  # fmt: skip
    stages = {"before": label("微调前", "before"), "after": label("微调后", "after")}
    axes.set_yticks([i + 0.5 for i in range(len(lines))],
                    [f"{group_label(g)} · {stages[s]}" for g, s in lines])  # fmt: skip
    axes.invert_yaxis()
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, ticks=[1 / 6, 0.5, 5 / 6], aspect=8, pad=0.01)
    marks = (("错", "wrong"), ("部分对", "partly"), ("对", "right"))
    bar.ax.set_yticklabels([label(*mark) for mark in marks])
    return save(figure, path)


def _mark(rows: list[dict], fact: str, group: str, stage: str) -> float:
    """0 全错，0.5 部分对，1 全对；这一组没有问到这个事实时是 nan（画成浅灰）"""
    marks = [r[f"{stage}_correct"] for r in rows if r["fact_id"] == fact and r["group"] == group]
    return (any(marks) + all(marks)) / 2 if marks else math.nan
