"""统一排版软件留下的怪字符：看着一样、编码不同的字，模型和查找都会当成两个字。

在 notebooks/01_build_dataset.ipynb 用到（document.read_pages 的一步）。
全角标点是中文的正字，保留；全角的字母数字、部首区的“假汉字”、直排标点换成通常的写法。
"""

from __future__ import annotations

import re
import unicodedata

# 部首补充区里和汉字同形的字，Unicode 没有规定对应关系，PDF 里却常见
_RADICALS = dict(zip(
    "⺠⻁⻄⻅⻆⻉⻋⻓⻔⻘⻙⻚⻛⻜⻝⻢⻣⻤⻥⻦⻧⻨⻩⻬⻮⻰",
    "民虎西见角贝车长门青韦页风飞食马骨鬼鱼鸟卤麦黄齐齿龙", strict=True))
_VERTICAL_MARKS = dict(zip("︐︑︒︓︔︕︖︵︶︹︺︻︼︽︾︿﹀﹁﹂﹃﹄︱︙",
                           "，、。：；！？（）〔〕【】《》〈〉「」『』—…", strict=True))
_TABLE = str.maketrans({
    **_RADICALS, **_VERTICAL_MARKS, "\u00a0": " ", "\u2028": "\n", "\u2029": "\n",
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", ""),  # 看不见的字符
    **dict.fromkeys(map(chr, [*range(9), 11, *range(14, 32), 127]), ""),  # 控制字符
})
# 部首、兼容汉字、连字（ﬁ）、全角字母数字与百分号、半角句读
_TO_COMPOSE = re.compile("[\u2f00-\u2fdf\u2e9f\u2ef3\uf900-\ufaff\ufb00-\ufb06０-９Ａ-Ｚａ-ｚ％｡-｣､]")
_FULL_STOP_IN_NUMBER = re.compile(r"(?<=\d)．(?=\d)")
_HALF_MARKS = {",": "，", ";": "；", ":": "：", "?": "？", "!": "！"}
_HALF_MARK = re.compile("(?<=[\u3400-\u9fff”’」』）》])[,;:?!](?=[\u3400-\u9fff“‘「『（《]|$)", re.MULTILINE)
_BULLET = re.compile("^(\\s*)[\ue000-\uf8ff](?=\\s*\\S)", re.MULTILINE)
_SPACED = re.compile("(?<![\u3400-\u9fff])(?:[\u3400-\u9fff] +){5,}[\u3400-\u9fff](?![\u3400-\u9fff])")
_COUNTING = set("一二三四五六七八九十日 ")


def tidy(text: str) -> str:
    """统一字符，不增删有意义的字；行数不变。夹在汉字之间的半角标点换成全角。"""
    text = text.translate(_TABLE)
    text = _TO_COMPOSE.sub(lambda m: unicodedata.normalize("NFKC", m.group()), text)
    text = _FULL_STOP_IN_NUMBER.sub(".", text)
    text = _HALF_MARK.sub(lambda m: _HALF_MARKS[m.group()], text)
    text = _BULLET.sub(r"\1• ", text)  # 符号字体的项目符号落在私有区
    return _SPACED.sub(_close_up, text)


def _close_up(match: re.Match) -> str:
    """“关 于 开 展 课 程”是分散对齐的标题，合拢；“一 二 三 四 五 六 日”是表头，不动。"""
    spaced = match.group()
    return spaced if set(spaced) <= _COUNTING else spaced.replace(" ", "")


def width(text: str) -> int:
    """汉字算 2 格，西文算 1 格，和排版的宽度大致成正比。"""
    return sum(2 if unicodedata.east_asian_width(c) in "WFA" else 1 for c in text)
