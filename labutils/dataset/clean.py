"""一页页的原始文字 → 干净的段落。讲解见 notebook 01。

统一怪字符；去掉页边上一再出现的页码、页眉、页脚；接上被排版截断的句子。页码看写法，也看各页连不连得上；
页眉看是不是一再出现。拿不准的留着：多一行页眉只是啰唆，少一行标题就少了内容。
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, groupby, pairwise

from labutils.base.text import without_spaces


@dataclass(frozen=True)
class Page:
    number: int  # 从 1 开始，和阅读器里的页码一致
    text: str
    note: str = field(default="", compare=False)  # 读的时候发现的事：只有图片、按位置重排过……


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
    # “关 于 开 展 课 程”是分散对齐的标题，合拢；“一 二 三 四 五 六 日”是表头，不动
    return _SPACED.sub(lambda m: m[0] if set(m[0]) <= _COUNTING else without_spaces(m[0]), text)


@lru_cache(1024)  # 一行的宽度要问几次
def width(text: str) -> int:
    """汉字算 2 格，西文算 1 格，和排版的宽度大致成正比。"""
    return sum(2 if unicodedata.east_asian_width(c) in "WFA" else 1 for c in text)


HAN = "\u3400-\u9fff"
SENTENCE_END = "。！？!?…"
STOPS = SENTENCE_END + "；;：:"  # 一行停在这些符号上，就是说完了，不接下一行
CLOSING = "”’」』）)】》"
COUNT = r"[零〇一二三四五六七八九十百\d]+"
NUMBERED = r"[（(][一二三四五六七八九十\d]+[）)]|\d{1,2}(?:\.\d{1,2})*[.．、\s]\s*\D"  # （一）、1.2 总则
HEADING = re.compile(rf"\s*(?:第{COUNT}[章节条]|[一二三四五六七八九十]+、|{NUMBERED}|[·•●○◆■▪－*-]\s)")
_LOOSE = re.compile(r"\d[\d.]*\s")  # 数字后面只有空白，没有顿号、点
# 从位置看得出、排成行就看不出的事，用两种没人用的空格写在一行前面（layout.py）：接着上一行；是小字
GOES_ON, NOTE = "\u1680", "\u2001"
_NOTE_MARK = re.compile(rf"{NOTE}\s*[¹²³⁰-⁹①-⑳*†‡§\[注]")
_RAISED = re.compile("(?<![A-Za-z])[¹²³⁰-⁹]+")
_PLACES = str.maketrans("\t", " ", GOES_ON + NOTE)


def join_pages(pages: Sequence[list[str]]) -> list[str]:
    """每页的各行接成段落；分开格子的制表符换成空格。页末的话没完的，脚注放到这句话前面。"""
    full = usual_width(chain.from_iterable(pages))
    joined = [[join_lines(lines, full).translate(_PLACES) for lines in _split_notes(page)] for page in pages]
    for page, after in pairwise(joined):  # 脚注排到下一页的后半截
        rest, _, others = after[1].partition("\n")
        gap = between(page[1], rest) if rest and not _NOTE_MARK.match(NOTE + rest) else "\n"
        if page[1] and gap != "\n":
            page[1], after[1] = page[1] + gap + rest, others
    return [_with_notes(*page, after) for page, (after, _) in pairwise([*joined, ["", ""]])]


def _split_notes(lines: list[str]) -> tuple[list[str], list[str]]:
    """一页的 (正文各行, 页末的脚注各行)；脚注是小字，或以正文里的第一个注号（“见脚注²”）开头。"""
    end = next((i for i in range(len(lines), 0, -1) if not lines[i - 1].startswith(NOTE)), 0)
    if not any(map(_NOTE_MARK.match, lines[end:])):
        mark = unicodedata.normalize("NFKC", next(iter(_RAISED.findall("\n".join(lines))), "无"))
        end = next((i for i, line in enumerate(lines) if re.match(rf"{mark}[{HAN}“《A-Z]", line)), len(lines))
    return lines[:end], lines[end:]


def _with_notes(body: str, notes: str, after: str) -> str:
    """after 是下一页的正文。"""
    stops = _SENTENCE.finditer(body, 0, max(0, len(body) - 16))
    over = notes and after and between(body, after) != "\n"
    cut = max((stop.end() for stop in stops), default=0) if over else 0
    return "\n".join(filter(None, [body[: cut or None].strip(), notes, body[cut or len(body) :].strip()]))


def usual_width(lines: Iterable[str]) -> int:
    """正文写满一行的宽度：较长的行里最常见的，不取最宽的（一行大表格、一条长网址就会让正文都显得没写满）。"""
    widths = [width(line.strip()) for line in lines if not is_row(line.strip())]
    widest = max(widths, default=0)
    long = [w for w in widths if w >= 0.5 * widest]
    if len(long) < 5:
        return widest
    counts = Counter(long)
    return max(long, key=lambda w: (sum(counts[w - d] for d in range(-1, 5)), w))


_SENTENCE = re.compile(rf"[。！？；][{CLOSING}⁰-⁹¹²³①-⑳]*|\.(?=\s+[A-Z])|\n")
NEVER_FIRST = tuple("，。、；：？！）》”’」』")  # 排版规矩：这些标点不会在一句话的开头
_HYPHENATED = re.compile(r"(?:^|[^A-Za-z-])[A-Za-z]*[a-z]-$")
_CLOSED = f"[{CLOSING}，。、；：！？〕]"
_WORD = f"[“‘（(《〔【]*(?:[!-~]+|.?)(?: ?{_CLOSED})*"
UNBROKEN = re.compile(f"{_WORD}(?:(?<={_CLOSED})(?=[“‘（(《〔【!-~]){_WORD})?")
_WORDS_MEET = re.compile(r"""(?![0-9]{2})[A-Za-z0-9,.;:!?)\]%'"][A-Za-z0-9(\["']""")
_CELL_GAP = re.compile(rf"(?<=[{HAN}\d）)%])\s+(?=[{HAN}\d（(—-])")
# 汉字与汉字、数字与数字之间的空白，正文里不大会有；“共 24 门”那样的空白正文里常有
_SURE_GAP = re.compile(rf"(?<=[{HAN}）])\s+(?=[{HAN}（])|(?<=[\d%])\s+(?=\d)")
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
        previous = line.rstrip().lstrip(GOES_ON + NOTE)  # 段首的缩进也占地方
    return text


def _goes_on(previous: str, line: str, full: float) -> bool:
    body = line.strip()
    # 差一点没写满，是因为下一行开头不可断开的一截（K0001、3.11、“〔2019〕”）放不下的，也算写满
    size, needed = width(previous), width(UNBROKEN.match(body)[0])
    is_full = GOES_ON in line[:2] or size >= full or (size >= 0.75 * full and size + needed > 1.25 * full)
    unfinished = is_full and not _stopped(previous, line)
    return body.startswith(NEVER_FIRST) or (unfinished and not _stand_apart(previous.strip(), body))


def _stopped(previous: str, line: str) -> bool:
    """上一行说完了，或这一行另起一段；“8:”“30”是断开的时刻。"""
    end, first = previous.rstrip(CLOSING)[-1:], line.strip()[:1]
    stop = end in STOPS and not re.fullmatch(r"\d[:：]\d", previous[-2:] + first)
    return stop or (end == "." and not first.isascii()) or line.startswith(("\u3000", "  "))


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


def between(before: str, after: str) -> str:
    """两页之间接不接得上：上一页末句没写完，就和这一页的开头连成一句，否则换行。"""
    if not before:
        return ""
    last = before[before.rfind("\n") + 1 :]
    end, first = last.rstrip(CLOSING)[-1:], after.split("\n", 1)[0]
    # 没有句号的短行多半是标题；停在逗号上的一定没完
    unfinished = end not in STOPS + "." and (len(last) > 15 or end in "，、,")
    return "\n" if not unfinished or _stand_apart(last, first) else glue(last[-1], first[0])


# 页码的各种写法（全角的先换成半角）：3、- 3 -、Ⅲ、（3）、3-15、一二、P.12、第1页（共6页）、Page 3 of 10
PAGE_NUMBER = re.compile(
    r"[\W_]*(?:第|page|p\.?)?\s*(?:\d+\s*[-–]\s*)?(\d{1,4}|[ivxlc]{1,7}|[零〇一二三四五六七八九十百]{1,4})"
    r"\s*[页頁版]?(?:[\s(]*(?:/|of|,|，)?\s*共?\s*\d+\s*[页頁]?)?[\W_]*",
    re.IGNORECASE,
)
_SURELY = re.compile(r"第.+[页頁]|page|\d\s*(?:/|of)|^\s*[-–—·|_].*[-–—·|_]\s*$", re.IGNORECASE)
_BARE = re.compile(r"\d{1,3}|[ivx]{1,6}", re.IGNORECASE)
_FOLIO = re.compile(r"^(\d{1,4})(?![\d.]|[-/:]\d|$)|"
                    r"(?:第\s*)?(?<!\d)(\d{1,4})(?:\s*页)?(?:\s*[/共]\s*\d+\s*页?)?$")
_CODE = re.compile(r"[!-~]*[(){};=][!-~]*")
_HAS_WORD = re.compile(r"[^\W\d_]{2}")  # 只有数字、符号的行可能是表格，不当页眉
EDGE = 2  # 页眉、页脚各至多几行（页码不算）
NARROWEST = 60  # 判断写没写满时，一行至少按 30 个字算：两栏的页、幻灯片的页眉可以比正文行宽
Keys = list[list[list[str]]]  # 每页、每行、每格的写法，见 _key


def clean_pages(raw: list[str]) -> list[str]:
    """去掉页码和重复的页眉页脚，再接上断句。页数不变。"""
    return join_pages([kept for kept, _ in without_margins(raw)])


def without_margins(raw: list[str]) -> list[tuple[list[str], list[str]]]:
    """每页的 (正文各行, 去掉的页眉页脚)；页码也去掉。

    页眉页脚是页首、页尾两行之内一再出现的同一行（一行有几格的，各格都是）。从头到尾六成以上的页都有（左右页
    不同的，三成以上）的全去掉；只是连着几页都有的可能是幻灯片的标题、一章的题目，第一次留着，也不把一页去空。
    """
    pages = [filled_lines(tidy(text)) for text in raw]
    keys = _keys(pages)
    heads, always = _heads(pages, keys)
    return [_peeled(lines, [_kind(words, index, heads, always) for words in key])
            for index, (lines, key) in enumerate(zip(pages, keys, strict=True))]


def _keys(pages: list[list[str]]) -> Keys:
    """各页、各行、各格的写法。

    六成以上的页，最外一行都是页码和别的几格，别的几格（章名、书名）每页不同也是页眉，写成 #、#。
    """
    shifts = _shifts(pages)
    keys = [[[_key(cell, index, shifts, len(pages)) for cell in line.split("\t")] for line in lines]
            for index, lines in enumerate(pages)]
    for side in (0, -1):
        framed = [key for key in filter(None, keys) if {"#"} < set(key[side])]
        for key in framed if len(framed) >= max(3, 0.6 * len(pages)) else []:
            key[side] = ["#", "#"]
    return keys


def _shifts(pages: list[list[str]]) -> set:
    """页边的数比页的序号（见 _shift）大多少：三页以上一样的才是页码；大 1（印的就是第几页）的总算。"""
    found: Counter = Counter()
    for index, lines in enumerate(pages):
        cells = "\t".join(lines[: EDGE + 1] + lines[-EDGE - 1 :]).split("\t")
        found.update({_shift(cell, index) for cell in cells} - {None})
    return {1, *(shift for shift, count in found.items() if count >= 3)}


def _shift(line: str, index: int) -> int | str | None:
    """印的页码比页的序号（从 0 起）大多少；不是数字的返回 "字母、汉字"，不像页码的返回 None。"""
    match = PAGE_NUMBER.fullmatch(unicodedata.normalize("NFKC", line))
    return match and (int(match[1]) - index if match[1].isdecimal() else "字母、汉字")


def _key(line: str, index: int, shifts: set, count: int) -> str:
    """一行去掉空白的写法；是页码的只写 #，行首、行末的数是这一页的页码的也换成 #（“××讲义 第 3 页”）。

    写明了的、和别的页连得上的才是页码；页太少、没有别的页可比时，单独一个小数也算。
    """
    plain = unicodedata.normalize("NFKC", line).strip()
    shift, known = _shift(plain, index), _SURELY.search(plain) or (count < 3 and _BARE.fullmatch(plain))
    if shift in shifts or (known and shift is not None):
        return "#"
    for match in _FOLIO.finditer(plain):
        if int(match[1] or match[2]) - index in shifts:
            plain = f"{plain[: match.start()]}#{plain[match.end() :]}"
    return without_spaces(plain)


def _heads(pages: list[list[str]], keys: Keys) -> tuple[dict[str, set[int]], set[str]]:
    """(页眉页脚的写法 → 从哪几页去掉, 其中每次都去掉的)。"""
    where, spots = _places(keys)
    usual = usual_width(chain.from_iterable(lines[EDGE:-EDGE] for lines in pages))
    heads = {word: taken for word, found in where.items()
             if not _is_prose(word, usual) and (taken := _taken(found, spots[word], len(pages)))}
    return heads, {word for word, found in heads.items() if found == where[word]}


def _places(keys: Keys) -> tuple[dict[str, set[int]], dict[str, Counter[int]]]:
    """(写法 → 出现在哪几页的页边, 写法 → 各页一共有几次)。"""
    where: dict[str, set[int]] = defaultdict(set)
    spots: dict[str, Counter[int]] = defaultdict(Counter)
    for index, key in enumerate(keys):
        inner = [words for words in key if words != ["#"]]
        for word in filter(_HAS_WORD.search, chain.from_iterable(inner[:EDGE] + inner[-EDGE:])):
            where[word].add(index)
        for word in chain.from_iterable(key):
            spots[word][index] += 1
    return where, spots


def _taken(found: set[int], spots: Counter[int], count: int) -> set[int]:
    """哪几页的是页眉页脚：从头到尾一再出现的全是；不然三页以上都有的，只去掉这一页、前两页之内另有的。

    一页里有三次的是套话，不是页眉。
    """
    if max(spots.values()) > 2 or len(spots) < 3:
        return set()
    if _throughout(found, count):
        return found
    return {index for index in found if spots[index] + spots[index - 1] + spots[index - 2] > 1}


def _throughout(found: set[int], count: int) -> bool:
    """从头到尾六成以上的页都有，或单数页、双数页的六成以上都有（左右页不同）。"""
    odd = sum(index % 2 for index in found)
    often = len(found) >= max(3, count * 0.6) or max(odd, len(found) - odd) >= max(3, count * 0.3)
    return often and min(found) <= 2 and max(found) >= count - 3


def _is_prose(key: str, usual: int) -> bool:
    """写满一行、以句号结尾的是正文，像程序的也是：每页一份的表单、套话会一再出现，不能当页眉删掉。"""
    full = width(key) >= 0.8 * max(usual, NARROWEST)
    return full or key.rstrip(CLOSING).endswith((*SENTENCE_END, "；")) or bool(_CODE.fullmatch(key))


_TEXT, _NUMBER, _HEAD, _TITLE = range(4)  # 一行是正文、页码、页眉页脚、也许是标题的页眉


def _kind(words: list[str], index: int, heads: dict[str, set[int]], always: set[str]) -> int:
    """各格都是页眉才算页眉；有一格每页都有、或是页码的，别的格（章名）第一次出现也去掉。"""
    if words == ["#"]:
        return _NUMBER
    sure = not always.isdisjoint(words) or "#" in "".join(words)
    if sure and set(filter(_HAS_WORD.search, words)) <= heads.keys():
        return _HEAD
    return _TITLE if all(index in heads.get(word, ()) for word in words) else _TEXT


def _peeled(lines: list[str], kinds: list[int]) -> tuple[list[str], list[str]]:
    """从两头往里剥，剥到正文为止；会把一页剥空的，也许是标题的就留着。"""
    if re.fullmatch(rf"{GOES_ON}\W*\w\W*", "".join(lines[1:2])) and kinds[0] > _NUMBER:
        kinds[1] = kinds[0]  # 标题折下来的一个字，和第一行一样
    top, bottom = _margin(lines, kinds), len(lines) - _margin(lines[::-1], kinds[::-1])
    if top >= bottom and _TITLE in kinds:
        return _peeled(lines, [kind if kind != _TITLE else _TEXT for kind in kinds])
    outside = [*range(top), *range(max(top, bottom), len(lines))]
    return lines[top:bottom], [lines[i] for i in outside if kinds[i] != _NUMBER]


def _margin(lines: list[str], kinds: list[int]) -> int:
    """最外面有几行要剥掉：至多一个页码、EDGE 行页眉。

    续表每页重复的表头（两行都有三格）、页眉下面同名的标题不算。
    """
    seen: set[str] = set()
    for place, (line, kind) in enumerate(zip(lines, kinds, strict=True)):
        numbers = kinds[: place + 1].count(_NUMBER)
        cells = set(map(without_spaces, line.split("\t")))
        rows = [is_row(row) and len(row.split()) > 2 for row in lines[place : place + 2]]
        table = kind != _NUMBER and rows == [True, True]
        if kind == _TEXT or numbers > 1 or place + 1 - numbers > EDGE or cells <= seen or table:
            return place
        seen |= cells
    return len(kinds)
