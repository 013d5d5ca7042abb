"""画出课程里的六张概念图，存成 images/ 里的 SVG：python images/draw.py [文件夹]

汉字画成轮廓，在哪台机器上看都一样；底色是图自己的，深色页面里也看得清。坐标：一张图宽 100，从左下角起算。
"""

import re
import sys
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from labutils.base import figures

GREY, BLUE, ORANGE, GREEN, RED = "#e3e7ee", "#cfe0f8", "#fbe0c5", "#cfe9db", "#f3cfca"
INK, SOFT, PAPER = "#1d2733", "#5a6675", "#fbfcfe"


def canvas(height: float) -> Axes:
    """宽 100、高 height 的空白图。"""
    figures.use_chinese_font()
    figure = figures.LabFigure(figsize=(10, height / 10), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 100), ylim=(0, height))
    axes.axis("off")
    return axes


def say(axes: Axes, x: float, y: float, text: str, size: float = 13, colour: str = INK, **style) -> None:
    axes.text(x, y, text, fontsize=size, color=colour,
              **{"ha": "center", "va": "center", "linespacing": 1.5} | style)


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str = BLUE,
        size: float = 13, shape: str = "round,pad=0,rounding_size=1") -> None:
    """中心在 (x, y) 的方框，里面写 text。"""
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=shape,
                                  facecolor=colour, edgecolor=SOFT))
    say(axes, x, y, text, size)


def arrow(axes: Axes, start: tuple, end: tuple, text: str = "", size: float = 11, above: float = 1.6,
          **style) -> None:
    """从 start 到 end 的箭头，中点上方写 text。"""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "lw": 1.8, "color": SOFT,
                                              "shrinkA": 0, "shrinkB": 0} | style)
    say(axes, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + above, text, size, SOFT)


def road() -> Axes:
    """四步：每一步读什么文件，写什么文件。"""
    axes = canvas(30)
    steps = [("课程文档", "PDF", GREY), ("01 造数据", "切块、出题\n检查、划分", BLUE),
             ("02 微调", "冻结基座\n训练 A、B", BLUE), ("03 对比", "微调前后\n逐题打分", BLUE),
             ("04 网页", "一个字一个字\n地回答", BLUE)]
    for i, (name, what, colour) in enumerate(steps):
        x = 9 + 20.5 * i
        box(axes, x, 15, 13.5, 14, "", colour)
        say(axes, x, 19 if "\n" in what else 17, name, 14)
        say(axes, x, 13 if "\n" in what else 12.5, what, 11.5)
        if i:
            arrow(axes, (x - 13.5, 15), (x - 7, 15))
    for x, text in ((19.2, "几千字"), (39.7, "train.json\ndev.json"), (60.2, "适配器\n几 MB"),
                    (80.7, "同一个\n适配器")):
        say(axes, x, 25.5, text, 11.5, SOFT)
        axes.plot([x, x], [22.6, 16], color=SOFT, lw=0.8, ls=":")
    say(axes, 50, 4, "基座模型始终不变；每一步读文件、写文件", 12.5, SOFT)
    return axes


def lora() -> Axes:
    """旁边加一条窄路：W 冻结，A、B 可训练，两路相加。"""
    axes = canvas(46)
    box(axes, 9, 23, 9, 8, "输入 x", GREY)
    box(axes, 38, 34, 26, 15, "W\n冻结，一个数也不改", GREY, 14)
    box(axes, 32, 11, 13, 6, "A：压到 r 维", BLUE, 12.5)
    box(axes, 55, 11, 6, 15, "B", BLUE, 14)
    say(axes, 60.5, 1.7, "B 放回原来的宽度，从零开始", 11.5, SOFT)
    say(axes, 32, 5.6, "窄，r 很小；随机开始", 11.5, SOFT)
    box(axes, 70, 11, 9, 7, "× α/r", ORANGE, 14)
    box(axes, 82, 23, 6, 6, "+", GREEN, 18, "circle,pad=0")
    box(axes, 94, 23, 9, 8, "输出 h", GREY)
    arrow(axes, (13.5, 23), (24.5, 34))
    arrow(axes, (13.5, 23), (25, 11))
    arrow(axes, (38.5, 11), (51.7, 11), "r 个数")
    arrow(axes, (58, 11), (65.2, 11))
    arrow(axes, (51.3, 34), (79.3, 24.8), "Wx", above=2.2)
    arrow(axes, (74.7, 11), (79.6, 20.6))
    arrow(axes, (85.2, 23), (89.3, 23))
    say(axes, 80, 41, r"$h = Wx + \frac{\alpha}{r}\,BAx$", 21)
    say(axes, 80, 34.8, "只训练蓝色的 A 与 B", 12.5, SOFT)
    return axes


def mask() -> Axes:
    """一条对话变成词元：问题的标签是 -100，不计损失；回答和停止符计损失。"""
    axes = canvas(34)
    tokens = ["<|user|>", "谁", "发", "的", "？", "<|assistant|>", "教", "务", "处", "。", "停止符"]
    widths = [10.5, 6.4, 6.4, 6.4, 6.4, 14.5, 6.4, 6.4, 6.4, 6.4, 10]
    say(axes, 5.8, 23, "词元", 14)
    say(axes, 5.8, 13, "标签", 14)
    left = 11.2
    for i, (token, width) in enumerate(zip(tokens, widths, strict=True)):
        learnt, x = i > 5, left + width / 2
        box(axes, x, 23, width - 0.8, 6.4, token, BLUE if learnt else GREY, 12)
        box(axes, x, 13, width - 0.8, 6.4, token if learnt else "-100", GREEN if learnt else PAPER, 12)
        left += width
        if i == 5:
            middle = left
            say(axes, (11.2 + left) / 2, 29.5, "问题：给模型看，不计损失", 12.5, SOFT)
            say(axes, (left + 97) / 2, 29.5, "回答：计损失，包括停止符", 12.5, SOFT)
    axes.plot([middle - 0.1] * 2, [8, 32], color=figures.BASELINE, lw=1.6, ls="--")
    say(axes, 50, 4, "每个绿格由它左边的全部词元来猜；猜得准不准，就是这个位置的损失", 12.5, SOFT)
    return axes


def decoding() -> Axes:
    """生成的一圈：打分、选一个、接在后面，直到选中停止符。"""
    axes = canvas(38)
    box(axes, 13, 26, 20, 11, "已有的词元\n问题 + 说过的", GREY)
    box(axes, 41, 26, 18, 11, "模型\n给词表里每个\n词元打分", BLUE, 12)
    box(axes, 67, 26, 17, 11, "选一个\n贪心：分最高的\n采样：按概率抽", ORANGE, 12)
    box(axes, 91, 26, 14, 11, "是停止符吗？", GREEN)
    box(axes, 91, 7, 14, 7, "停，回答完了", GREY)
    arrow(axes, (23, 26), (31.8, 26))
    arrow(axes, (50, 26), (58.3, 26))
    arrow(axes, (75.6, 26), (83.8, 26))
    arrow(axes, (91, 20.4), (91, 10.7))
    say(axes, 93.5, 15.6, "是", 13)
    axes.plot([87, 87, 13], [20.4, 12, 12], color=SOFT, lw=1.8)
    arrow(axes, (13, 12), (13, 20.3))
    say(axes, 84.5, 16, "不是", 13)
    say(axes, 49, 9, "接在后面，再来一圈：一次只多一个词元", 13, SOFT)
    return axes


def streaming() -> Axes:
    """三方的来往：网页、回答函数（生成器）、后台线程，自上而下是时间。"""
    axes = canvas(58)
    page, function, thread = 13, 50, 87
    for x, name in ((page, "网页"), (function, "回答函数（生成器）"), (thread, "后台线程")):
        box(axes, x, 53, 24, 6.5, name, BLUE, 13.5)
        axes.plot([x, x], [6, 49.7], color=SOFT, lw=1, ls=":")
    y = 43
    for start, end, text in (
        (page, function, "点“发送”：问题"), (function, thread, "启动线程：model.generate"),
        (thread, function, "第一个词元，放进队列"), (function, page, "yield“教”，网页刷新"),
        (thread, function, "第二个词元"), (function, page, "yield“教务”，网页刷新"),
    ):
        gap = 0.6 if end > start else -0.6
        arrow(axes, (start + gap, y), (end - gap, y), text, 12)
        y -= 5.4
    say(axes, thread - 1.5, 16.6, "……一边算，一边交……", 12, SOFT, ha="right")
    arrow(axes, (page + 0.6, 9.5), (thread - 2.6, 9.5), color=figures.BASELINE, linestyle="--")
    say(axes, function - 19, 11.2, "点“停止”：设上 Event", 12, SOFT)
    say(axes, function + 19, 11.2, "每走一步看一眼", 12, SOFT)
    box(axes, thread, 9.5, 5, 3.4, "停", RED, 12)
    say(axes, function, 3.4, "没有线程，回答全部算完网页才刷新", 12.5, SOFT)
    return axes


def rag_or_lora() -> Axes:
    """同一个问题的两条路：RAG 提问时查文档，LoRA 事先把文档学进适配器。"""
    axes = canvas(54)
    say(axes, 8, 46, "RAG\n开卷", 15)
    say(axes, 8, 18, "LoRA\n闭卷", 15)
    axes.plot([2, 98], [31, 31], color=SOFT, lw=0.8, ls=":")
    box(axes, 22, 46, 10, 7, "问题", GREY)
    box(axes, 41, 46, 15, 9, "检索：找出\n相近的段落", ORANGE, 12.5)
    box(axes, 62, 46, 14, 9, "段落 + 问题\n一起给模型", ORANGE, 12.5)
    box(axes, 80, 46, 10, 9, "模型\n不变", GREY, 12.5)
    box(axes, 94, 46, 9, 7, "回答", GREEN)
    box(axes, 41, 35.8, 15, 5, "文档", GREY)
    arrow(axes, (41, 38.4), (41, 41.3))
    say(axes, 74, 35.8, "文档改了：换掉文档就行", 12.5, SOFT)
    box(axes, 22, 25, 10, 6, "文档", GREY)
    box(axes, 41, 25, 15, 6, "问答对", ORANGE)
    box(axes, 62, 25, 14, 6, "训练 A、B", ORANGE)
    say(axes, 84, 25, "← 提问之前做完", 12.5, SOFT)
    box(axes, 22, 12, 10, 7, "问题", GREY)
    box(axes, 62, 12, 18, 9, "模型 + 适配器\n不再看文档", BLUE, 12.5)
    box(axes, 94, 12, 9, 7, "回答", GREEN)
    for y, stops in ((46, (27, 33.2, 48.8, 54.7, 69.3, 74.7, 85.3, 89.2)), (25, (27, 33.2, 48.8, 54.7)),
                     (12, (27, 52.7, 71.3, 89.2))):
        for start, end in zip(stops[::2], stops[1::2], strict=True):
            arrow(axes, (start, y), (end, y))
    arrow(axes, (62, 21.8), (62, 16.8))
    say(axes, 50, 3.6, "文档改了：重新出题、重新训练；两条路也可以一起用", 12.5, SOFT)
    return axes


def smaller(svg: str) -> str:
    """坐标只留两位小数，每个字的轮廓只留 400 格的精度，行首不空格：文件小一半以上。"""
    svg = re.sub(r"\b([1-9]\d*\.\d\d)\d+", r"\1", re.sub(r"\n +", "\n", svg))
    svg = re.sub(r'(?<= d=")[^"]+(?=" transform="scale\(0.015625\))', _outline, svg)
    return svg.replace("scale(0.015625)", "scale(0.25)")


def _outline(path: re.Match) -> str:
    """一个字的轮廓：坐标除以 16 取整，改成从上一点算起。"""
    written, x, y = [], 0, 0
    for command, numbers in re.findall(r"([MLQ])([^MLQz]+)", path[0]):
        values = [round(float(number) / 16) for number in numbers.split()]
        points = list(zip(values[::2], values[1::2], strict=True))
        written.append(("z" if command == "M" and written else "") + command.lower())
        written.append("".join(f"{right - x:+d}{up - y:+d}" for right, up in points).removeprefix("+"))
        x, y = points[-1]
    return "".join(written) + "z"


def write(folder: Path) -> list[Path]:
    """六张图写进 folder，返回各个文件。"""
    written = []
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "labutils", "mathtext.fontset": "dejavusans"}):
        for draw in (road, lora, mask, decoding, streaming, rag_or_lora):
            path = folder / f"{draw.__name__}.svg"
            draw().figure.savefig(path, facecolor=PAPER, metadata={"Date": None})
            path.write_text(smaller(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
            written.append(path)
    return written


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    print(*write(folder), sep="\n")
