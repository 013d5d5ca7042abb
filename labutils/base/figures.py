"""图与表格共同的地基：有汉字的字体、颜色、会在笔记本里显示的图、损失曲线、jinja2 模板。

不用 pyplot：导入本模块不改变 matplotlib 的后端，画多少张图也不会占着内存不放。每个画图的函数都返回图，
写在格子的最后一行就会显示，给了 path 就另存为 PNG。讲解见 notebooks/00_start_here 与 02_lora_finetune。
"""

import importlib.util
import io
import re
from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from matplotlib import font_manager, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from labutils.base.errors import LabError

BEFORE, AFTER, BASELINE = "#aab2bf", "#2563c9", "#d9822b"
WRONG, RIGHT, EMPTY = "#e8b4ae", "#2e8b62", "#f2f2f2"


@cache
def _packaged_font() -> str:
    """zhplot 包里的字体的名字；只找它的文件，不导入（导入会改全局设置）"""
    folder = Path(importlib.util.find_spec("zhplot").origin).parent
    path = next(folder.rglob("*.ttf"))
    font_manager.fontManager.addfont(path)
    return FT2Font(path).family_name


def use_chinese_font() -> str:
    """让 matplotlib 用 zhplot 包里的 Noto Sans SC，图在哪台机器上画都一样；返回它的名字"""
    rcParams["font.family"] = ["sans-serif"]
    rcParams["font.sans-serif"] = [_packaged_font(), "DejaVu Sans"]
    rcParams["axes.unicode_minus"] = False  # 不少中文字体没有 U+2212 减号
    return _packaged_font()


def plain(text: object) -> str:
    """数据里带来的文字（步骤名、事实号）：$ 要转义，不然会被当成公式"""
    return str(text).replace("$", r"\$")


class LabFigure(Figure):
    """不经过 pyplot 的图，自己会变成 PNG，所以笔记本能直接显示它；alt 是读屏软件念的话"""

    alt = ""  # 空着就念坐标轴与图例的名字

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        """PNG 之外另给一份 <img alt=…>：JupyterLab 与 nbconvert 都不把元数据里的 alt 写进网页。"""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        names = [name for axes in self.axes for name in (
            axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *axes.get_legend_handles_labels()[1])]
        alt, png = self.alt or f"图：{'，'.join(filter(None, names))}", b64encode(buffer.getvalue()).decode()
        shown = f'<img alt="{escape(alt)}" src="data:image/png;base64,{png}">'
        return {"image/png": png, "text/html": shown}, {"image/png": {"alt": alt}}


def new_axes(width: float, height: float) -> tuple[LabFigure, Axes]:
    """一张 width × height 英寸的图和它唯一的坐标系，没有上边与右边的框线"""
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


def loss_curve(log: Iterable[dict], path: str | Path | None = None) -> Figure:
    """训练集与验证集的损失随步数的变化，纵轴是对数轴

    log 的项有 step 与 loss（训练）或 eval_loss（验证），其余跳过；一项损失也没有时抛出 LabError。
    """
    rows = [row for row in log if "step" in row]
    figure, axes = new_axes(6.4, 3.8)
    lines = ("loss", "训练损失", AFTER, ""), ("eval_loss", "验证损失", BASELINE, "o")
    for key, name, colour, marker in lines:
        if points := [(row["step"], row[key]) for row in rows if key in row]:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, ms=4,
                      label=f"{name} {points[-1][1]:.3f}")
    if not axes.lines:
        raise LabError("画不出损失曲线：训练记录里没有 loss 或 eval_loss，请先训练几步再画。")
    axes.set(xlabel="步数", ylabel="损失（对数轴）", yscale="log")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    return save(figure, path)


def template(name: str, **functions: Any) -> Template:
    """labutils 里名为 name 的模板；functions 可以当函数或过滤器。一切变量都自动转义，绝不当作标签执行。"""
    env = Environment(loader=PackageLoader("labutils", ""), autoescape=True, undefined=StrictUndefined)
    env.globals |= functions
    env.filters |= functions
    return env.get_template(name)


def without_blank_lines(html: str) -> str:
    """去掉空行：它们会让某些 Markdown 查看器把笔记本里的表格截断。"""
    return re.sub(r"\n\s*\n+", "\n", html)
