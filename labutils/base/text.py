"""把写法不同、意思相同的文字变成同一个样子，供造数据和评测共用。

“五年”“5 年”“５年”说的是同一件事。先统一写法再比较，才不会冤枉正确的回答。
在 notebooks/03_before_after.ipynb 讲解，notebooks/01_build_dataset.ipynb 也用到。
"""

import re
import unicodedata
from decimal import Decimal, InvalidOperation
from functools import lru_cache

UNITS = {"亿": 8, "万": 4, "千": 3, "百": 2, "十": 1}  # 从大到小；值是后面几个零
NONZERO = "一二三四五六七八九两"
DIGIT = "零〇" + NONZERO
LONGEST = 24  # 再长的不是一个数；Decimal 到 28 位都是准的
_TO_ARABIC = str.maketrans(DIGIT + "点", "001234567892.")

# 词里的“一”“十”“零”，不是数。没列全的也不要紧：两边同样换成“1带1路”，比较的结果不变
_WORD = ("(?<!分之)(?<=[统唯之其不同逐])一"
         "|(?<![十百千万亿零〇周期拜第初])一(?=[流般定直样些律致旦切贯再并起概下共])"
         f"|(?<=[几数])十(?![{NONZERO}])|(?<![{NONZERO}百千零])十(?=足|分[^\\W\\d钟之制以左的为内])"
         "|零(?=[下食售件碎散])|百(?=分[点比])")
_DIGITS = f"(?:(?!{_WORD})[{DIGIT}])++"
_RUN = rf"(?:(?!{_WORD})[{DIGIT}{''.join(UNITS)}\d])++"
# “三点五”是 3.5；“下午三点”“三点十五”“三点零五分”“三点一刻”是时刻，“点”不动
_NUMBER = re.compile(rf"(?=[{DIGIT}{''.join(UNITS)}\d])(?:(?:(?<=[午晨晚])|(?<=[早晚]上)){_RUN}|{_RUN}"
                     rf"(?:(?:\.\d++|(?<!\d)点(?!零[{NONZERO}]分){_DIGITS}(?![十刻]))[百千万亿]*+)?)")
_ADJACENT = re.compile(f"[{NONZERO}]{{2}}")
_LAST = re.compile(f"(?<=[{NONZERO}十百千])([百千万亿])([{NONZERO}])$")


class Cut(str):
    """流式回答的最后一段：不是回答的文字，说的是为什么没有说完，例如“（到了上限 128 个词元，没有说完）”。

    直接打印出来就是提示；要分开处理的（网页、对比）用 isinstance 认它。
    """


@lru_cache(1024)  # 同一句话常要接连比几次
def normalize(text: str) -> str:
    """统一全半角、大小写、数字写法，去掉标点和空白；做到不再变化为止，所以是幂等的。"""
    while (new := _one_pass(text)) != text:
        text = new
    return text


def without_spaces(text: str) -> str:
    """去掉一切空白：排版留下的空格和换行不算文字。"""
    return re.sub(r"\s", "", text)


def contains(answer: str, key_point: str) -> bool:
    """回答里有没有这个要点。要点中的 “|” 隔开几种都算对的写法。

    数字要整个对上：“5年”不算出现在“15年”里，“4000门”也不算出现在“14000门”里。
    """
    normalized = normalize(answer)
    for point in filter(None, map(normalize, key_point.split("|"))):
        before = r"(?<![\d.负])" if point[0].isdigit() else ""
        after = r"(?!\d|\.\d)" if point[-1].isdigit() or point[-1] == "点" else ""
        if re.search(before + re.escape(point) + after, normalized):
            return True
    return False


def _one_pass(text: str) -> str:
    # 英文逗号作千分位要在全半角统一之前看：中文逗号“，”是分隔两项，不是千分位
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    text = _RAISED.sub(r"^\g<0>", text)  # 10³ 不是 103
    text = unicodedata.normalize("NFKC", text).casefold()
    for pattern, new in _REWRITES:
        text = pattern.sub(new, text)
    return text


def _between_numbers(match: re.Match[str]) -> str:
    """标点去掉；两边是数字（或左边是“8点”）时，小数点留着，别的换成“、”，免得 1、2 变成 12。"""
    text, start, end = match.string, match.start(), match.end()
    left = text[max(start - 2, 0) : start].replace("点", "")
    if not (left[-1:].isdigit() and text[end : end + 1].isdigit()):
        return ""
    return "." if match[0] == "." else "、"


def _number(match: re.Match[str]) -> str:
    """整个是一个数就换成数字，不管后面是什么单位；不是就整个不动，绝不换一半。

    “三五年”“一两个”“三四百”是约数，“十四五”是规划的名称，“百年”“万一”前面没有数，都不动。
    """
    chars = match[0]
    whole, counted = chars.partition("点")[0], not UNITS.keys().isdisjoint(chars)
    if chars.isascii() or len(chars) > LONGEST or (_ADJACENT.search(whole) and (counted or len(whole) == 2)):
        return chars
    if not counted:  # 二〇二三
        return chars.translate(_TO_ARABIC)
    # “一万五”是 15000，“一百零五”是 105
    full = _LAST.sub(lambda m: m[1] + m[2] + "0" * (UNITS[m[1]] - 1), chars)
    try:
        return f"{_value(full.translate(_TO_ARABIC)):f}"
    except InvalidOperation:
        return chars


def _value(text: str) -> Decimal:
    """“1万6千”“1.5万”是多少；接不成一个数（“3百5百”“1万5”）时引发 InvalidOperation。"""
    for unit, zeros in UNITS.items():
        head, found, tail = text.partition(unit)
        if found:
            big, small = _value(head or "1" * (unit == "十")), _value(tail or "0")
            # 后面不带单位的要正好填满，如“1万2000”
            if small >= 10**zeros or (tail.isdigit() and tail[0] != "0" and len(tail) < zeros):
                raise InvalidOperation
            return big * 10**zeros + small
    return Decimal(text)


_RAISED = re.compile(r"(?<=\d)[⁰¹²³⁴-⁹]+")
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")
_REWRITES = [(re.compile(pattern), new) for pattern, new in (
    (r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)", lambda m: f"{m[1]}年{int(m[2])}月{int(m[3])}日"),
    (r"(?<![\d/])(\d{1,3})[/⁄](\d{1,3})(?![\d/])", r"\2分之\1"),
    # “周三10点”“周三三点”是两个数
    (rf"(?<=[{NONZERO}])(?=\d)|(?<=\d)(?=[{NONZERO}])", "、"),
    (r"(?<=[周期拜初高])([一二三四五六])(?=\1)", r"\1、"),
    (_NUMBER, _number),
    ("百分之百", "100%"),
    (r"百分之(\d+(?:\.\d+)?)", r"\1%"),
    (r"千分之(\d+(?:\.\d+)?)", r"\1‰"),
    (r"(?<=\d)时(?![间长段期代差])", "点"),
    (r"(?<!\d)(?<!\d:)0?(\d{1,2}):([0-5]\d)(?![\d:])", r"\1点\2"),  # 8:30、八点三十分、八点半
    (r"(?<=\d点)半", "30"),
    (r"(?<=\d点)(?:0?0分?(?!\d)|整)|(?<=\d点\d\d)分(?!之)|(?<=\d点)0(?=[1-9])", ""),
    (r"(?<![\d.])(\d+)(年|天|倍|小时|学期|个(?=半月))半", r"\1.5\2"),
    (r"(?<![\d.])(\d+)个半(?=小时|学期)", r"\1.5"),
    (r"(?<=\d)个(?=小时|学期)", ""),
    # 3.50 是 3.5；但版本、编号不是数：Python 3.10 不是 3.1，图 2.20、第 3.10 节也一样，2023.10 是十月
    (r"(?<![\d.a-z第表图式版])(?<![a-z表图式版] )(?!(?:19|20)\d\d\.10)(\d++)(?:\.0++|(\.\d*?[1-9])0++)"
     r"(?![\d.节版条章])", r"\1\2"),
    (r"(?<!\S)\.(?=\d)", "0."),
    # “2019年到2021年”就是“2019—2021年”，“3天至5天”“30%至50%”“第3章到第5章”也一样
    (r"(?<=\d)([^\W\d_]{1,2}|%)(?=\s*[-–—―~～至到]+\s*第?[\d.]+\1)", ""),
    (r"(?:(?<=[\d%])|(?<=\d点))\s*[-–—―~～至到]+\s*第?(?=\d)", "至"),
    (r"(周|星期)(\d)\s*[-–—―~～至到]+\s*\1(?=\d)", r"\1\2至"),
    (rf"(?<![\da-z%{DIGIT}{''.join(UNITS)}])[-−](?=\d+(?:\.\d+)?\s*(?:°c|[%度元分]))|零下(?=\d)", "负"),
    (r"(?:[^\w%‰]|_)+", _between_numbers),
    (r"(?<=[年月])0(?=\d[月日])", ""),
)]
