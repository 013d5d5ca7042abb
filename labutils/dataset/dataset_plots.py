"""数据集的图：每一关还剩多少条的漏斗，以及覆盖、长短、划分的概览

每个函数都返回一个图对象：在笔记本里把它写在格子的最后一行就会显示，给了 path 就另存为 PNG。
画法与 plots 相同，不改变 matplotlib 的后端。讲解见 notebooks/01_build_dataset。
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labutils.base.errors import LabError
from labutils.base.fonts import data_label, label, use_chinese_font
from labutils.base.plots import AFTER, BASELINE, BEFORE, RIGHT, WRONG, LabFigure, save

_LONGEST_NAME = 18  # 坐标轴上的章节名最多这么多字
_MOST_CHAPTERS = 25  # 再多就看不清了；全部章节在报告的表里


def funnel(counts: list[tuple[str, int]], path: str | Path | None = None) -> Figure:
    """数据每过一关还剩多少：蓝色是剩下的，红色是这一关拦下的

    counts 是 dataset_build.build 报告里的 funnel，即 [(关口, 剩余条数)]；为空时抛出 LabError。
    """
    if not counts:
        raise LabError("画不出数据漏斗：没有任何关口的条数。")
    figure = _figure(7.0, 0.42 * len(counts) + 0.9)
    axes = figure.subplots()
    _bare(axes)
    names = [data_label(name, f"step {i}") for i, (name, _) in enumerate(counts, 1)]
    left = [count for _, count in counts]
    lost = [0, *(before - after for before, after in zip(left, left[1:], strict=False))]
    places = range(len(counts))
    axes.barh(places, left, color=AFTER, height=0.62)
    axes.barh(places, lost, left=left, color=WRONG, height=0.62)
    axes.set_yticks(places, names)
    for place, (count, gone) in enumerate(zip(left, lost, strict=True)):
        text = label(f"{count}（−{gone}）", f"{count} (−{gone})") if gone else str(count)
        axes.text(count + gone + max(left) * 0.01, place, text, va="center", fontsize=9)
    axes.set(xlim=(0, max(1, *left) * 1.16), xlabel=label("条数", "rows"))
    axes.invert_yaxis()
    return save(figure, path)


def overview(report: dict, path: str | Path | None = None) -> Figure:
    """一张图看数据集：各章的覆盖、每页的题数、问题与答案的长短

    report 是 dataset_report.describe 的结果。
    """
    chapters = _chapters(report["sections"])
    figure = _figure(10.5, max(5.2, 0.32 * min(len(chapters), _MOST_CHAPTERS) + 1.6))
    wide, narrow = figure.subfigures(1, 2, width_ratios=[1.2, 1])
    _coverage_bars(wide.subplots(), chapters)
    top, bottom = narrow.subplots(2, 1)
    _page_bars(top, report["by_page"])
    _length_bars(bottom, report["lengths"])
    return save(figure, path)


def _figure(width: float, height: float) -> LabFigure:
    use_chinese_font()
    return LabFigure(figsize=(width, height), dpi=100, layout="constrained")


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _chapters(sections: list[dict]) -> list[tuple[str, int, int, int]]:
    """小节并到所在的章：[(章名, 段落数, 出过题的段落数, 题数)]。"""
    totals: dict[str, list[int]] = {}
    for section in sections:
        total = totals.setdefault(section["section"].split(" › ")[0], [0, 0, 0])
        for i, key in enumerate(("paragraphs", "covered", "pairs")):
            total[i] += section[key]
    return [(name, *total) for name, total in totals.items()]


def _coverage_bars(axes: Axes, chapters: list[tuple[str, int, int, int]]) -> None:
    _bare(axes)
    shown = chapters[:_MOST_CHAPTERS]
    covered = [asked for _, _, asked, _ in shown]
    bare = [total - asked for _, total, asked, _ in shown]
    axes.barh(range(len(shown)), covered, color=RIGHT, height=0.66, label=label("出过题", "asked"))
    axes.barh(range(len(shown)), bare, left=covered, color=WRONG, height=0.66,
              label=label("没有题", "not asked"))  # fmt: skip
    for place, (_, total, _, pairs) in enumerate(shown):
        axes.text(total, place, label(f" {pairs} 题", f" {pairs}"), va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [_short(row[0], i) for i, row in enumerate(shown, 1)],
                    fontsize=8)  # fmt: skip
    more = label(f"（前 {len(shown)} 章，共 {len(chapters)} 章）", f" ({len(shown)} of {len(chapters)})")
    axes.set_title(label("各章的段落", "paragraphs by chapter")
                   + (more if len(shown) < len(chapters) else ""), pad=24)  # fmt: skip
    axes.set_xlabel(label("段落数", "paragraphs"))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(x=0.12, y=0.02)
    axes.invert_yaxis()
    _legend_above(axes)


def _short(name: str, number: int) -> str:
    text = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return data_label(text, f"chapter {number}")


def _page_bars(axes: Axes, pages: list[dict]) -> None:
    _bare(axes)
    numbers = [page["page"] for page in pages]
    train = [page["train"] for page in pages]
    axes.bar(numbers, train, color=AFTER, label=label("训练集", "train"))
    axes.bar(numbers, [page["dev"] for page in pages], bottom=train, color=BASELINE,
             label=label("验证集", "dev"))  # fmt: skip
    axes.set(xlabel=label("页", "page"), ylabel=label("题数", "pairs"))
    axes.set_title(label("每页的题数", "pairs by page"), pad=24)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend_above(axes)


def _length_bars(axes: Axes, lengths: dict[str, dict]) -> None:
    _bare(axes)
    values = [lengths["question"]["values"], lengths["answer"]["values"]]
    names = [label("问题", "question"), label("答案", "answer")]
    longest = max(max(part) for part in values)
    width = max(1, -(-longest // 16))
    bins = range(0, longest + 2 * width, width)
    axes.hist(values, bins=bins, color=[AFTER, BEFORE], label=names)
    axes.set(xlabel=label("字数", "characters"), ylabel=label("条数", "rows"))
    axes.set_title(label("问题与答案的长短", "lengths"), pad=24)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    """图例放在标题和图之间，柱子多高都遮不住。"""
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
