"""把写法不同、意思相同的文字变成同一个样子，供造数据和评测共用。

“五年”“5 年”“５年”说的是同一件事。先统一写法再比较，才不会冤枉正确的回答。
在 notebooks/03_before_after.ipynb 讲解，notebooks/01_build_dataset.ipynb 也用到。
"""

import re
import unicodedata

DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10_000, "亿": 100_000_000}

# 单独一个“一”多半不是数（一流、统一、一度），只有后面跟着量词时才换成数字
MEASURES = "年月日号周天期届批次轮门项个类种所条章节款名位人级步篇页份件道本套组倍元学课小分季"
COMPOUND = {"学": "期时年分", "课": "时", "小": "时", "分": "钟", "季": "度"}
NUMBER_CHARS = "".join(DIGITS) + "".join(UNITS)
NONZERO = "一二两三四五六七八九"

# 统一、唯一、之一、其一、不一、专一、单一；几十、数十、数十万（“人数十五人”里却是十五）
_WORD = f"(?<=[统唯之其不专单])一|(?<=[几数])十(?![{NONZERO}])"
# 数字后面紧跟着的不换，免得“5万一次”里的两个数连成一个
_CHINESE = re.compile(rf"(?<!\d)(?!{_WORD})[{NUMBER_CHARS}]+")
_TWO_DIGITS = re.compile(f"[{NONZERO}]{{2}}")
_PERCENT = re.compile(f"百分之(?:([{NUMBER_CHARS}]+)(?:点([{''.join(DIGITS)}]+))?|([0-9.]+))")
_WITH_UNIT = re.compile(r"(\d+(?:\.\d+)?)([百千万亿]*)")
_MIXED = re.compile(r"(?<!\d)\d++(?:\.\d++)?[百千万亿]++(?:\d++(?:\.\d++)?[百千万亿]*+)*+")
_BELOW_ZERO = re.compile(rf"(?<![\da-z%{NUMBER_CHARS}])(?:[-−]|零下)(?=\d+(?:\.\d+)?\s*°c)")
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")
_DATE = re.compile(r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)")
_RANGE = re.compile(r"(?<=[\d%])\s*[-–—―~～至到]+\s*(?=\d)")
_YEAR_BEFORE_RANGE = re.compile(r"(?<=\d)年(?=\s*[-–—―~～至到]+\s*\d+年)")
_PUNCTUATION = re.compile(r"(?:[^\w%]|_)+")
_DATE_ZERO = re.compile(r"(?<=[年月])0(?=\d[月日])")


class Cut(str):
    """流式回答的最后一段：不是回答的文字，说的是为什么没有说完，例如“（到了上限 128 个词元，没有说完）”。

    直接打印出来就是提示；要分开处理的（网页、对比）用 isinstance 认它。
    """

    __slots__ = ()


def normalize(text: str) -> str:
    """统一全半角、大小写、数字写法，去掉标点和空白。

    反复做到不再变化为止，所以结果再做一次仍是它自己（幂等）。
    小数点保留在数字之间；别的标点若隔开两个数字，留一个“、”，免得 1、2 变成 12。
    """
    while True:
        new = _one_pass(text)
        if new == text:
            return new
        text = new


def without_spaces(text: str) -> str:
    """去掉一切空白：排版留下的空格和换行不算文字。"""
    return re.sub(r"\s", "", text)


def contains(answer: str, key_point: str) -> bool:
    """回答里有没有这个要点。要点中的 “|” 隔开几种都算对的写法。

    数字要整个对上：“5年”不算出现在“15年”里，“4000门”也不算出现在“14000门”里。
    """
    normalized = normalize(answer)
    for point in filter(None, map(normalize, key_point.split("|"))):
        before = r"(?<![\d.])" if point[0].isdigit() else ""
        after = r"(?!\d|\.\d)" if point[-1].isdigit() else ""
        if re.search(before + re.escape(point) + after, normalized):
            return True
    return False


def _one_pass(text: str) -> str:
    # 英文逗号作千分位要在全半角统一之前看：中文逗号“，”是分隔两项，不是千分位
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _DATE.sub(lambda m: f"{m[1]}年{int(m[2])}月{int(m[3])}日", text)
    text = _PERCENT.sub(_percent, text)
    whole = text.strip()
    if whole and set(whole) <= set(NUMBER_CHARS):  # 整段就是一个数，如要点“五”
        return _to_digits(whole)
    text = _CHINESE.sub(_replace_number, text)
    text = _MIXED.sub(_expand_units, text)
    text = _YEAR_BEFORE_RANGE.sub("", text)  # “2019年到2021年”就是“2019—2021年”
    text = _RANGE.sub("至", text)
    text = _BELOW_ZERO.sub("负", text)
    return _DATE_ZERO.sub("", _PUNCTUATION.sub(_between_numbers, text))


def _between_numbers(match: re.Match[str]) -> str:
    """标点去掉；两边都是数字时，小数点留着，别的换成一个“、”。"""
    text, start, end = match.string, match.start(), match.end()
    if not (text[start - 1 : start].isdigit() and text[end : end + 1].isdigit()):
        return ""
    return "." if match[0] == "." else "、"


def _replace_number(match: re.Match[str]) -> str:
    """是一个数就换成数字。“万门左右”“百年”前面没有数，“三五年”“一两个”是约数，单独一字要有量词才算。"""
    chars, rest = match[0], match.string[match.end() : match.end() + 2]
    counted = len(chars) > 1 or _is_measure(rest) or match.string[: match.start()].endswith("第")
    vague = chars[0] in "百千万亿" or _TWO_DIGITS.fullmatch(chars)
    return _to_digits(chars) if counted and not vague else chars


def _is_measure(rest: str) -> bool:
    first, second = rest[:1], rest[1:2]
    return first != "" and first in MEASURES and (first not in COMPOUND or second in tuple(COMPOUND[first]))


def _to_digits(chars: str) -> str:
    if UNITS.keys().isdisjoint(chars):  # 二〇二三
        return "".join(str(DIGITS[c]) for c in chars)
    # “三四百”是约数，“十四五”是五年规划的名称，都不是一个数
    return chars if _TWO_DIGITS.search(chars) else str(_value(chars))


def _value(chars: str) -> int:
    """带单位的数是多少；没有连着的两个非零数字。"""
    total = section = digit = 0  # 总数；“万”“亿”以内的一段；还没遇到单位的数字
    for char in chars:
        unit = UNITS.get(char, 1)
        if unit >= 10_000:
            part, section = section + digit, 0  # “三亿二千万”相加，“一万亿”相乘
            total = (total + part) * unit if total < unit else total + part * unit
        elif unit > 1:
            section += (digit or 1) * unit
        digit = DIGITS.get(char, 0)
    if digit and (unit := UNITS.get(chars[-2], 1)) > 10:  # “一万五”是 15000，“一百零五”是 105
        digit *= unit // 10
    return total + section + digit


def _percent(match: re.Match[str]) -> str:
    chinese, fraction, digits = match.groups()
    whole = digits or _to_digits(chinese)
    return f"{whole}.{_to_digits(fraction)}%" if fraction else f"{whole}%"


def _expand_units(match: re.Match[str]) -> str:
    """“1.5万”→ 15000，“5万3千”→ 53000；接不成一个数的（“3百5百”“1万5”）原样不动。"""
    number, room = "", 0  # room：末尾还能填几位
    for digits, units in _WITH_UNIT.findall(match[0]):
        zeros = sum(len(str(UNITS[c])) - 1 for c in units)
        piece = _shift(digits, zeros)
        # 要填进前一个数末尾的零里；不带单位的要正好填满，如“1万2000”
        enough = len(piece) <= room if units else len(piece) == room
        if number and not (enough and piece.isdigit() and not number[-len(piece) :].strip("0")):
            return match[0]
        number, room = number[: len(number) - len(piece)] + piece if number else piece, zeros
    return number


def _shift(digits: str, zeros: int) -> str:
    """小数点右移 zeros 位。"""
    whole, _, fraction = digits.partition(".")
    shifted = whole + fraction[:zeros].ljust(zeros, "0")
    return (shifted.lstrip("0") or "0") + ("." + fraction[zeros:] if fraction[zeros:] else "")
