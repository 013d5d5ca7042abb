"""一次对比的结果：JSON 给程序，CSV 给表格软件，网页与两张图给人看。讲解见 notebook 03。

模型的回答、学生的数据都不可信：网页由 jinja2 自动转义，CSV 里的公式加单引号，绝不当作标签或公式执行。
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from labutils.base import figures
from labutils.base.errors import LabError
from labutils.base.figures import plain
from labutils.base.files import one_sentence, write
from labutils.comparison.metrics import GROUPS

CHANGES = {"better": "错 → 对", "worse": "对 → 错", "right": "一直对", "wrong": "一直错"}
COLUMNS = {
    "id": "编号", "fact_id": "事实", "group": "问题组", "question": "问题", "reference": "标准答案",
    "key_points": "要点", "page": "页码", "before": "微调前回答", "before_correct": "微调前",
    "after": "微调后回答", "after_correct": "微调后", "before_rouge_l": "微调前 ROUGE-L",
    "after_rouge_l": "微调后 ROUGE-L", "before_bleu_4": "微调前 BLEU-4", "after_bleu_4": "微调后 BLEU-4",
    "baseline": "最强的字面基线的回答", "baseline_correct": "最强的字面基线",
    "before_cut": "微调前没有说完", "after_cut": "微调后没有说完",
}
FORMULA_STARTS = tuple("=+-@＝＋－＠\t\r\n")


def change(row: dict) -> str:
    """这道题微调前后的变化，CHANGES 的键之一"""
    before, after = row["before_correct"], row["after_correct"]
    return ("right" if before else "better") if after else "worse" if before else "wrong"


def group_name(group: str) -> str:
    """问题组的中文名；自己另加的组原样返回"""
    return GROUPS.get(group, group)


@one_sentence()
def write_all(comparison: Any, out_dir: Path) -> dict[str, Path]:
    """写出 comparison.json、.csv、.html 与 PNG，返回 {名字: 文件}

    comparison 是 evaluate.Comparison。HTML 最后写，里面内嵌了那些图。
    """
    files = {name: out_dir / f"comparison.{name}" for name in ("json", "csv", "html")}
    content = {name: getattr(comparison, name) for name in ("before", "after", "lexical_baseline", "notes")}
    content |= {"worse": [row["id"] for row in comparison.worse], "rows": comparison.rows}
    write(files["json"], json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    write_csv(comparison.rows, files["csv"])
    images = {"正确率": out_dir / "accuracy.png"}
    accuracy_bars(comparison.before, comparison.after, comparison.lexical_baseline, images["正确率"])
    if any(row["fact_id"] for row in comparison.rows):
        fact_strip(comparison.rows, images.setdefault("逐个事实的对错", out_dir / "facts.png"))
    write(files["html"], page(comparison, images))
    return files | images


def write_csv(rows: list[dict], path: Path) -> None:
    """带 BOM 的 UTF-8：Excel 没有 BOM 就会把中文当成 GBK 读成乱码"""
    cells = [[cell(row.get(key)) for key in COLUMNS] for row in rows]
    table = pd.DataFrame(cells, columns=list(COLUMNS.values()), dtype=object)
    write(path, table.to_csv(index=False, lineterminator="\r\n").encode("utf-8-sig"))


def cell(value: Any) -> Any:
    """CSV 一格的内容；模型答出 “=1+1” 这样的文字时前面加单引号，表格软件就不会当公式执行"""
    if isinstance(value, bool):
        return "✓" if value else "✗"
    text = "；".join(value) if isinstance(value, list) else value
    guarded = isinstance(text, str) and text.lstrip(" \u3000").startswith(FORMULA_STARTS)
    return "'" + text if guarded else text


TEMPLATE = figures.template("comparison/comparison.html.j2", change=change, group_name=group_name,
                            percent="{:.0%}".format)


def page(comparison: Any, images: dict[str, Path]) -> str:
    """整个对比页面的 HTML；comparison 是 evaluate.Comparison，images 是 {图名: PNG 文件}"""
    encoded = [(title, base64.b64encode(p.read_bytes()).decode()) for title, p in images.items()]
    table = comparison.table().reset_index().to_html(index=False, classes="summary", border=0)  # 也转义
    return TEMPLATE.render(
        page=True, table=table, before=comparison.before, baseline=comparison.lexical_baseline,
        notes=comparison.notes, rows=comparison.rows, images=encoded, changes=CHANGES)


@dataclass
class AnswerTable:
    """放在笔记本格子最后一行就显示成并排表格；打印时是纯文字"""

    rows: list[dict]

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p>{self!r}</p>"
        return figures.without_blank_lines(TEMPLATE.render(page=False, rows=self.rows))

    def __repr__(self) -> str:
        lines = []
        for row in self.rows:
            lines.append(f"{row['id']} {row['question']}")
            for stage, name in (("before", "前"), ("after", "后")):
                cut = "（没有说完）" if row.get(f"{stage}_cut") else ""
                lines.append(f"  {cell(row[f'{stage}_correct'])} {name}：{row[stage]}{cut}")
        return "\n".join(lines) or "（没有符合条件的题）"


def answer_table(rows: list[dict], kind: str | None = None, group: str | None = None,
                 limit: int = 8) -> AnswerTable:
    """挑出一部分题并排显示：kind 是 CHANGES 的键，group 是问题组，最多 limit 题"""
    chosen = [row for row in rows if kind in (None, change(row)) and group in (None, row["group"])]
    return AnswerTable(chosen[:limit])


def accuracy_bars(before: dict[str, dict], after: dict[str, dict],
                  baseline: dict[str, dict] | None = None, path: str | Path | None = None) -> Figure:
    """各组问题微调前后的正确率，没有题的组不画；baseline 里有的组再画一条虚线

    三个参数都是 {组: {"accuracy": 0–1, "n": 题数}}，即 evaluate.compare 的汇总；
    before 与 after 没有共同的、有题的组时抛出 LabError。
    """
    groups = [g for g in before if g in after and after[g]["n"]]
    if not groups:
        raise LabError("画不出正确率：微调前后没有共同的问题组，请先运行对比。")
    figure, axes = figures.new_axes(max(4.0, 1.7 * len(groups)), 3.8)
    width = 0.36
    stages = (before, -1, figures.BEFORE, "微调前"), (after, 1, figures.AFTER, "微调后")
    for scores, side, colour, name in stages:
        xs = np.arange(len(groups)) + side * width / 2
        heights = [scores[g]["accuracy"] for g in groups]
        axes.bar(xs, heights, width * 0.94, color=colour, label=name)
        for x, height in zip(xs, heights, strict=True):
            axes.text(x, height + 0.015, f"{height:.0%}", ha="center", va="bottom", fontsize=9)
    _baseline_lines(axes, groups, baseline or {}, width * 1.15)
    axes.set_xticks(range(len(groups)), [f"{plain(group_name(g))}\nn={after[g]['n']}" for g in groups])
    axes.set(ylim=(0, 1.12), ylabel="正确率")
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.alt = "正确率，微调前→微调后：" + "；".join(
        f"{group_name(g)} {before[g]['accuracy']:.0%}→{after[g]['accuracy']:.0%}" for g in groups)
    return figures.save(figure, path)


def _baseline_lines(axes: Axes, groups: list[str], baseline: dict, half: float) -> None:
    for group in (g for g in baseline if g in groups):
        centre, score = groups.index(group), baseline[group]["accuracy"]
        axes.hlines(score, centre - half, centre + half, color=figures.BASELINE,
                    linestyle="--", linewidth=1.8, label=f"最强的字面基线 {score:.0%}")


def fact_strip(rows: list[dict], path: str | Path | None = None) -> Figure:
    """逐个事实的对错色块：一列一个事实，一行是“哪组问法 × 微调前或后”

    rows 是 evaluate.compare 的逐题结果，用到 group、fact_id、before_correct、after_correct；
    一个事实在一组里有几种问法时，全对、部分对、全错三种颜色。没有带 fact_id 的行时抛出 LabError。
    """
    table = pd.DataFrame([r for r in rows if r.get("fact_id")])
    if table.empty:
        raise LabError("画不出逐事实色块图：结果里没有 fact_id，请检查问答文件是否带有事实编号。")
    correct = table.groupby(["group", "fact_id"], sort=False)[["before_correct", "after_correct"]]
    # 0 全错，0.5 部分对，1 全对；这一组没有问到这个事实时是 nan（画成浅灰）
    marks = ((correct.any().astype(int) + correct.all()) / 2).stack().unstack("fact_id").sort_index(axis=1)
    height, width = marks.shape
    figure, axes = figures.new_axes(max(5.0, 0.17 * width + 1.8), 0.38 * height + 1.5)
    colours = ListedColormap([figures.WRONG, "#c9cf8e", figures.RIGHT]).with_extremes(bad=figures.EMPTY)
    image = axes.pcolormesh(marks, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=1)
    step = (width + 9) // 10  # 每列都写，字就小得看不清
    axes.set_xticks(np.arange(0, width, step) + 0.5, [plain(f) for f in marks.columns[::step]])
    stages = {"before_correct": "微调前", "after_correct": "微调后"}
    names = [plain(f"{group_name(g)} · {stages[s]}") for g, s in marks.index]
    axes.set_yticks(np.arange(height) + 0.5, names)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, ticks=[1 / 6, 0.5, 5 / 6], aspect=8, pad=0.01)
    bar.ax.set_yticklabels(["错", "部分对", "对"])
    right = (f"{group_name(g)} {stages[s]} {count}" for (g, s), count in (marks == 1).sum(axis=1).items())
    figure.alt = f"逐个事实的对错色块，各种问法都答对的事实数：{'；'.join(right)}"
    return figures.save(figure, path)
