"""实验用到的图：损失曲线、正确率柱状图、逐事实色块图；数据集的图在 dataset_plots

每个函数都返回一个图对象：在笔记本里把它写在格子的最后一行就会显示，给了 path 就另存为 PNG。
这里不用 pyplot，所以导入本模块不会改变 matplotlib 的后端，画多少张图也不会占着内存不放。
讲解见 notebooks/02_lora_finetune 与 03_before_after。
"""

import io
import math
from collections.abc import Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from labutils.base.errors import LabError
from labutils.base.fonts import data_label, label, use_chinese_font

BEFORE, AFTER, BASELINE = "#aab2bf", "#2563c9", "#d9822b"
WRONG, RIGHT, EMPTY = "#e8b4ae", "#2e8b62", "#f2f2f2"

GROUPS = {
    "train": ("训练过的问法", "trained wording"),
    "unseen": ("没见过的问法", "unseen wording"),
    "general": ("通用能力", "general"),
    "unanswerable": ("材料没写的问题", "unanswerable"),
}


class LabFigure(Figure):
    """不经过 pyplot 的图，自己会变成 PNG，所以笔记本能直接显示它"""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def group_name(group: str) -> str:
    """问题组的显示名，如 train → 训练过的问法；不认识的组原样返回"""
    return label(*GROUPS[group]) if group in GROUPS else data_label(group, "group")


def _new_axes(width: float, height: float) -> tuple[LabFigure, Axes]:
    use_chinese_font()
    figure = LabFigure(figsize=(width, height), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: str | Path | None) -> Figure:
    """给了 path 就另存为 PNG；返回同一个图"""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return figure


def loss_curve(
    log: Iterable[dict], path: str | Path | None = None, ax: Axes | None = None
) -> Figure:
    """训练集与验证集的损失随步数的变化

    log 的每一项有 step，以及 loss（训练）或 eval_loss（验证）；其余的项跳过。
    一项损失也没有时抛出 LabError。讲解见 notebooks/02_lora_finetune。
    """
    rows = list(log)
    figure, axes = (ax.figure, ax) if ax is not None else _new_axes(6.4, 3.8)
    styles = {
        "loss": (label("训练损失", "train loss"), AFTER, ""),
        "eval_loss": (label("验证损失", "dev loss"), BASELINE, "o"),
    }
    for key, (name, colour, marker) in styles.items():
        points = [(r["step"], r[key]) for r in rows if key in r and "step" in r]
        if points:
            steps, losses = zip(*points, strict=True)
            axes.plot(steps, losses, color=colour, marker=marker, ms=4,
                      label=f"{name} {losses[-1]:.3f}")  # fmt: skip
    if not axes.lines:
        raise LabError("画不出损失曲线：训练记录里没有 loss 或 eval_loss，请先训练几步再画。")
    axes.set(xlabel=label("步数", "step"), ylabel=label("损失", "loss"))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    return save(figure, path)


def _bar_labels(axes: Axes, xs: list[float], scores: list[float], width: float) -> None:
    for x, score in zip(xs, scores, strict=True):
        if math.isfinite(score):
            axes.text(x, score + 0.015, f"{score:.0%}", ha="center", va="bottom", fontsize=9)


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
    ticks = [f"{group_name(g)}\nn={after[g]['n']}" for g in groups]
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
                    [f"{group_name(g)} · {stages[s]}" for g, s in lines])  # fmt: skip
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
