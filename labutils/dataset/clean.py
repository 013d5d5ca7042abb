"""一页页的原始文字 → 干净的段落 → 带页码的文字块。讲解见 notebook 01。

统一怪字符；去掉页眉、页脚、页码，接上被排版截断的句子；再按句子切块，页码一路带着走，
后面每条问答都能指回它出自哪一页。
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, pairwise

from labutils.base.errors import LabError
from labutils.base.text import without_spaces


@dataclass(frozen=True)
class Page:
    number: int  # 从 1 开始，和阅读器里的页码一致
    text: str
    note: str = field(default="", compare=False)  # 读的时候发现的事：只有图片、按位置重排过……


@dataclass(frozen=True)
class Chunk:
    text: str
    pages: tuple[int, ...]  # 这块文字来自哪几页
    repeated: int = 0  # 开头有多少个字是重复前一块末尾的


def numbered(texts: list[str]) -> list[Page]:
    """一页页的文字配上页码，从 1 开始。"""
    return [Page(number, text) for number, text in enumerate(texts, 1)]


def page_list(numbers: list[int]) -> str:
    """[1, 2, 3, 7] → "1–3、7"。"""
    by_run = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    runs = ([n for _, n in run] for _, run in by_run)
    return "、".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


def filled_lines(text: str) -> list[str]:
    """有字的各行，去掉行末的空白。"""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


# 看着一样、编码不同的字，模型和查找都会当成两个字。部首补充区里和汉字同形的，
# Unicode 没有规定对应关系，PDF 里却常见
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
# Adobe Symbol 字体 0x20–0x7E、0xA0–0xFE 的字：公式用它，取出来落在私有区（pdf.py、office.py 用）
SYMBOL = dict(enumerate(
    " !∀#∃%&∋()∗+,−./0123456789:;<=>?≅ΑΒΧ∆ΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_‾αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼", 0xF020)
) | dict(enumerate(
    "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊〈®©™∑⎛⎜⎝⎡⎢⎣⎧⎨⎩⎪\uf0f0〉∫⌠⎮⌡⎞⎟⎠⎤⎥⎦⎫⎬⎭",
    0xF0A0))
# 部首、兼容汉字、连字（ﬁ）、全角字母数字与百分号、半角句读
_TO_COMPOSE = re.compile("[\u2f00-\u2fdf\u2e9f\u2ef3\uf900-\ufaff\ufb00-\ufb06０-９Ａ-Ｚａ-ｚ％｡-｣､]")
_FULL_STOP_IN_NUMBER = re.compile(r"(?<=\d)．(?=\d)")
_HALF_MARKS = {",": "，", ";": "；", ":": "：", "?": "？", "!": "！"}
_HALF_MARK = re.compile("(?<=[\u3400-\u9fff”’」』）》])[,;:?!](?=[\u3400-\u9fff“‘「『（《]|$)", re.MULTILINE)
_BULLET = re.compile("^(\\s*)[\ue000-\uf8ff](?=\\s*\\S)", re.MULTILINE)
_SPACED = re.compile("(?<![\u3400-\u9fff])(?:[\u3400-\u9fff][ \t]+){5,}[\u3400-\u9fff](?![\u3400-\u9fff])")
_COUNTING = set("一二三四五六七八九十日 \t")
_SOFT_HYPHEN = re.compile("(?<=[a-z])[\u00ad\u2010]$", re.MULTILINE)  # 只在行末才看得见的连字符


def tidy(text: str) -> str:
    """统一字符，不增删有意义的字；行数不变。夹在汉字之间的半角标点换成全角。"""
    text = _SOFT_HYPHEN.sub("-", text).translate(_TABLE)
    text = _TO_COMPOSE.sub(lambda m: unicodedata.normalize("NFKC", m.group()), text)
    text = _FULL_STOP_IN_NUMBER.sub(".", text)
    text = _HALF_MARK.sub(lambda m: _HALF_MARKS[m.group()], text)
    text = _BULLET.sub(r"\1• ", text)  # 符号字体的项目符号落在私有区
    return _SPACED.sub(_close_up, text)


def _close_up(match: re.Match) -> str:
    """“关 于 开 展 课 程”是分散对齐的标题，合拢；“一 二 三 四 五 六 日”是表头，不动。"""
    spaced = match.group()
    return spaced if set(spaced) <= _COUNTING else without_spaces(spaced)


def width(text: str) -> int:
    """汉字算 2 格，西文算 1 格，和排版的宽度大致成正比。"""
    return sum(2 if unicodedata.east_asian_width(c) in "WFA" else 1 for c in text)


_HAN = "\u3400-\u9fff"
SENTENCE_END = "。！？!?…"
STOPS = SENTENCE_END + "；;：:"  # 一行停在这些符号上，就是说完了，不接下一行
CLOSING = "”’」』）)】》"
COUNT = r"[零〇一二三四五六七八九十百\d]+"
NUMBERED = r"[（(][一二三四五六七八九十\d]+[）)]|\d{1,2}(?:\.\d{1,2})*[.．、\s]\s*\D"  # （一）、1.2 总则
HEADING = re.compile(rf"\s*(?:第{COUNT}[章节条]|[一二三四五六七八九十]+、|{NUMBERED}|[·•●○◆■▪－*-]\s)")


_LOOSE = re.compile(r"\d[\d.]*\s")  # 数字后面只有空白，没有顿号、点


def join_pages(pages: Sequence[list[str]]) -> list[str]:
    """每页的各行接成段落；分开格子的制表符换成空格。"""
    full = usual_width(chain.from_iterable(pages))
    return [join_lines(lines, full).replace("\t", " ") for lines in pages]


def usual_width(lines: Iterable[str]) -> int:
    """正文写满一行的宽度（汉字算 2 格）：较长的行里最常见的那个宽度。

    不取最宽的一行：一行大表格、一条长网址就会让所有正文行都显得没写满。
    """
    widths = [width(line.strip()) for line in lines if not is_row(line.strip())]
    widest = max(widths, default=0)
    long = [w for w in widths if w >= 0.5 * widest]
    if len(long) < 5:
        return widest
    counts = Counter(long)
    return max(long, key=lambda w: (sum(counts[w - d] for d in range(-1, 5)), w))


NEVER_FIRST = tuple("，。、；：？！）》”’」』")  # 排版规矩：这些标点不会在一句话的开头
_HYPHENATED = re.compile(r"(?:^|[^A-Za-z-])[A-Za-z]*[a-z]-$")
_UNBROKEN = re.compile(rf"[“‘（(《〔【]*(?:[!-~]+|.?)[{CLOSING}，。、；：！？〕]*")
_WORDS_MEET = re.compile(r"""(?![0-9]{2})[A-Za-z0-9,.;:!?)\]%'"][A-Za-z0-9(\["']""")
_CELL_GAP = re.compile(rf"(?<=[{_HAN}\d）)%])\s+(?=[{_HAN}\d（(—-])")
# 汉字与汉字、数字与数字之间的空白，正文里不大会有；“共 24 门”那样的空白正文里常有
_SURE_GAP = re.compile(rf"(?<=[{_HAN}）])\s+(?=[{_HAN}（])|(?<=[\d%])\s+(?=\d)")
_ARTICLE = re.compile(rf"\s*(?:第{COUNT}[编章节条款]|[（(]?{COUNT}[）)、.．])\s+")  # 编号


def join_lines(lines: list[str], full_width: int = 0) -> str:
    """接上被排版截断的句子。full_width 是写满一行的宽度，不给就取最常见的。

    一行写满了、末尾又不是句号，说明句子没完；没写满就换行的是标题、表格或段尾，不接。
    下一行以逗号、句号之类开头，一定是上一行的后半截（表格里折行的格子常这样）。
    下一行空两格另起一段，或像标题、表格，也不接。行末带连字符的英文词接回去。
    """
    full = 0.8 * (full_width or usual_width(lines))
    text = previous = ""
    for line in lines:
        body = line.strip()
        if previous and _goes_on(previous, line, full):
            text = _attach(text, body)
        else:
            text += ("\n" if text else "") + body
        previous = line.rstrip()  # 段首的缩进也占地方
    return text


def _goes_on(previous: str, line: str, full: float) -> bool:
    end, body = previous.rstrip(CLOSING)[-1:], line.strip()
    stopped = end in STOPS or (end == "." and not body[:1].isascii()) or line.startswith(("\u3000", "  "))
    unfinished = _is_full(width(previous), body, full) and not stopped
    return body.startswith(NEVER_FIRST) or (unfinished and not _stand_apart(previous.strip(), body))


def _is_full(size: int, below: str, full: float) -> bool:
    """差一点没写满，是因为下一行开头不可断开的一截（K0001、3.11、“〔2019〕”）放不下的，也算写满。"""
    return size >= full or (size >= 0.75 * full and size + width(_UNBROKEN.match(below)[0]) > 1.25 * full)


def _stand_apart(line: str, below: str) -> bool:
    """标题、表格的行不和别的行相接。"""
    # “22 天。”“3.11 等工具，”是断在数字前面的句子，不是“22 天”“3.11 等工具”那样的标题
    heading = HEADING.match(below) and not (_LOOSE.match(below) and re.search("[，。；：]", below))
    return bool(heading) or is_row(line) or is_row(below)


def _attach(text: str, body: str) -> str:
    """英文词在行末用连字符断开的，去掉连字符；本来就有连字符的词（state-of-the-art）保留。"""
    word = text[max(text.rfind(" "), text.rfind("\n")) + 1 :]
    if re.match("[a-z]", body) and _HYPHENATED.search(word):
        return text[:-1] + body
    return text + glue(text[-1:], body[:1]) + body


def is_row(line: str) -> bool:
    """像表格的一行：格间有制表符、“ | ”或空白。编号后面的、英文词之间、汉字与数字之间的空白不算。"""
    body = _ARTICLE.sub("", line, count=1) if _ARTICLE.match(line) else line
    sure, gaps = len(_SURE_GAP.findall(body)), len(_CELL_GAP.findall(body))
    if re.search("[，。；！？]", body):  # 有句子的行里，一个空白不作数
        sure, gaps = sure - 1, 0
    return "\t" in body or " | " in body or sure > 0 or gaps >= 2


def glue(left: str, right: str) -> str:
    """接上两行时中间放什么：西文词之间放空格；汉字之间、被截断的数字之间什么也不放。"""
    return " " if _WORDS_MEET.fullmatch(left + right) else ""


# 半角的 ! ? ; . 也出现在网址、小数、缩写里，后面是空白、汉字或结尾时才算句末；
# 英文句号还要求前面不是编号（1. 总则），后面另起一句
_SENTENCE_STOP = re.compile(
    rf"[。！？；]+[{CLOSING}]*|[!?;]+[{CLOSING}]*(?=[\s{_HAN}]|$)"
    rf"|(?:(?<=[a-z)\]])|(?<=\d\d\d))\.(?=\s+[A-Z{_HAN}])|\n"
)
_BODY = re.compile(r"\S(?:.*\S)?", re.DOTALL)
_CLAUSE_STOP = re.compile(r"[，,、：:]")

Span = tuple[int, int]  # 整篇文字里的一段：(起点, 终点)


def chunks(pages: list[Page], size: int = 400, overlap: int = 50) -> list[Chunk]:
    """按句子装块，每块至多 size 个字；后一块重复前一块末尾至多 overlap 个字的整句。

    句末是 。！？；和换行。句子不会被切断，除非它自己就比 size 长（那时在逗号处分，再不行才硬切）。
    各块去掉开头重复的 repeated 个字再相连，除空白外与原文一字不差。大小不合适时抛 LabError。
    """
    if size < 1 or not 0 <= overlap < size:
        raise LabError(f"分块大小 {size}、重叠 {overlap} 不合适：要求 0 ≤ 重叠 < 大小。")
    text, starts = _whole(pages)
    sentences = _spans(text, [0, *(stop.end() for stop in _SENTENCE_STOP.finditer(text)), len(text)])
    pieces = [piece for sentence in sentences for piece in _cut_long(text, sentence, size)]
    result: list[Chunk] = []
    done = 0  # 已经装进块里的文字到哪里为止
    for first, last in _pack(pieces, size, overlap):
        start, end = pieces[first][0], pieces[last][1]
        result.append(Chunk(text[start:end], _pages(starts, start, end), max(0, done - start)))
        done = end
    return result


def _whole(pages: list[Page]) -> tuple[str, list[tuple[int, int]]]:
    """各页连成一篇；返回 (全文, [(这一页从第几个字开始, 页码)])。空白页不占位置。"""
    text, starts = "", []
    for page in pages:
        if body := page.text.strip():
            text = text + between(text, body) + body
            starts.append((len(text) - len(body), page.number))
    return text, starts


def between(before: str, after: str) -> str:
    """两页之间接不接得上：上一页末句没写完，就和这一页的开头连成一句，否则换行。"""
    if not before:
        return ""
    last = before[before.rfind("\n") + 1 :]
    end, first = last.rstrip(CLOSING)[-1:], after.split("\n", 1)[0]
    # 没有句号的短行多半是标题；停在逗号上的一定没完
    unfinished = end not in STOPS + "." and (len(last) > 15 or end in "，、,")
    if not unfinished or _stand_apart(last, first):
        return "\n"
    return glue(last[-1], first[0])


def _spans(text: str, cuts: list[int]) -> list[Span]:
    """在 cuts 这些位置把 text 切开，各段去掉两头的空白；只有空白的不要。"""
    return [body.span() for start, end in pairwise(cuts) if (body := _BODY.search(text, start, end))]


def _cut_long(text: str, sentence: Span, size: int) -> list[Span]:
    """不比 size 长的原样返回；太长的先在逗号处分，一个分句还太长就硬切。"""
    start, end = sentence
    stops = [m.end() for m in _CLAUSE_STOP.finditer(text, start, end)]
    cuts = [start]
    while end - cuts[-1] > size:
        furthest = cuts[-1] + size
        cuts.append(max((stop for stop in stops if cuts[-1] < stop <= furthest), default=furthest))
    return _spans(text, [*cuts, end])


def _pack(pieces: list[Span], size: int, overlap: int) -> list[tuple[int, int]]:
    """相邻的句子装成块：返回每块的 (第一句, 最后一句) 序号。"""
    packed, first = [], 0
    for i, (_, end) in enumerate(pieces):
        if i > first and end - pieces[first][0] > size:
            packed.append((first, i - 1))
            # 往回数，重复的整句合计不超过 overlap 个字，连同第 i 句不超过 size
            earliest = max(pieces[i - 1][1] - overlap, end - size)
            first = bisect_left(pieces, (earliest,), hi=i)
    return [*packed, (first, len(pieces) - 1)] if pieces else []


def _pages(starts: list[tuple[int, int]], begin: int, end: int) -> tuple[int, ...]:
    """全文第 begin 到 end 个字落在哪几页；没有空白页，中间的每一页都有字在内。"""
    first, last = (bisect_right(starts, (place, float("inf"))) - 1 for place in (begin, end - 1))
    return tuple(sorted({number for _, number in starts[first : last + 1]}))
