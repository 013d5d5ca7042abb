"""Word 文档 → 一段段文字：自动编号、公式、表格、文本框、脚注都在里面，修订按“全部接受”读。

先把 XML 改成读者看到的样子（_accept、_show_fields、_hide、_describe），再从头到尾取文字。
不用 python-docx：它不认带宏的、做模板的、“严格”的文档，也漏掉上面这些。
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from lxml import etree

from labutils.dataset.office import HUNG, Block, Element, Package, Part, drawn, merged, value, whole, words

_TITLE = re.compile(r"(?:heading|标题) ?[12]|title|标题", re.IGNORECASE)


@whole
def word_blocks(path: Path, name: str) -> list[Block]:
    """正文按读的先后；表格一行一行，格间用“ | ”隔开；文本框、脚注（〔注：…〕）放在它那一段的后面。

    页眉、页脚、批注、隐藏的字不读。文件损坏时抛 LabError；有 MathType 的公式（存成了图片）时打印一行提醒。
    """
    package = Package(path)
    main = package.links("").get("officeDocument", "word/document.xml")
    links, root = package.links(main), package.xml(main)
    styles = {style.get("styleId"): style for style in package.xml(links.get("styles")).iter("style")}
    _attach(root, package, links)
    _accept(root)
    _show_fields(root)
    _hide(root, styles)
    _describe(root, styles, Numbering(package.xml(links.get("numbering"))))
    if count := len(root.xpath("//OLEObject[starts-with(@ProgID, 'Equation')]")):
        print(f"提醒：{name} 里有 {count} 个公式是 MathType 或旧的公式编辑器做的，存成了图片，没有读。")
    return list(_blocks(root))


def _attach(root: Element, package: Package, links: dict[str, str]) -> None:
    """脚注、尾注、图表、SmartArt 的字在别的部件里，搬到用它们的地方。"""
    for kind in ("footnote", "endnote"):
        notes = {note.get("id"): note for note in package.xml(links.get(f"{kind}s"))}
        for mark in root.iter(f"{kind}Reference"):
            mark.extend(notes.get(mark.get("id"), ()))
    for item in root.iter("chart", "relIds"):
        for line in list(drawn(package, links, item)):
            etree.SubElement(etree.SubElement(item, "p"), "t").text = line


def _accept(root: Element) -> None:
    """修订按“全部接受”；注在字上的拼音不要。"""
    for row in root.xpath("//tr[trPr/del]"):
        row.getparent().remove(row)
    # 段末的回车删掉了，和下一段并成一段；下沉的首字自成一段，也并进去
    for paragraph in root.xpath("//p[pPr[rPr/del or rPr/moveFrom or framePr/@dropCap]]"):
        below = paragraph.getnext()
        if below is not None and below.tag == "p":
            start = len(below.xpath("pPr"))
            below[start:start] = paragraph.xpath("*[not(self::pPr)]")
            paragraph.getparent().remove(paragraph)
    etree.strip_elements(root, "del", "moveFrom", "rt")


def _show_fields(root: Element) -> None:
    """域只留结果，不要代码；公式域（EQ）没有结果，字在代码里。"""
    inside: list[list[str] | None] = [None]  # 一层层的域：字是哪段代码里的；正文和域的结果是 None
    for node in root.iter("p", "fldChar", "instrText", "t"):
        kind = node.get("fldCharType", node.tag)
        if kind == "p":
            inside = [None] * len(inside)  # 代码不会跨段；坏了的域至多丢一段
        elif kind == "begin":
            inside.append([])
        elif kind == "separate":
            inside[-1] = inside[-2] if len(inside) > 1 else None
        elif kind == "end" and len(inside) > 1:
            node.tag, node.text = "t", equation("".join(inside.pop() or []))
        elif inside[-1] is not None:
            inside[-1].append(node.text or "")
            node.text = ""


_EQ_PART = re.compile(r"\\([a-z])((?:\\[a-z]+ ?\d*|\\[^a-z\s])*) *\(([^()]*)\)", re.IGNORECASE)


def equation(code: str) -> str:
    r"""公式域里的字：\f(1,2) 是 1/2，\r(,2) 是 √(2)，\o\ac(○,1) 是 ①；加了拼音的只留汉字。别的域没有字。"""
    kind, _, text = code.strip().partition(" ")
    text = re.sub(r'\\\* *(?:"[^"]*"|\S+)', "", text)
    text = re.sub(r"\\o(?:\\\w+)?\(\\s\\up ?\d+\([^()]*\),([^()]*)\)", r"\1", text)
    text = re.sub(r"\\o\\ac\([○〇],(\d+)\)", lambda m: circled(int(m[1])), text)
    text = text.replace(r"\(", "\1").replace(r"\)", "\2")
    while (shorter := _EQ_PART.sub(_eq_part, text)) != text:
        text = shorter
    return text.strip().translate({1: "(", 2: ")"}) if kind.lower() == "eq" else ""


def _eq_part(match: re.Match) -> str:
    kind, options, inside = match.groups()
    parts = [Part(part.strip()) for part in re.split("[,;，；]", inside)]
    if kind == "r":
        parts = [Part(), *parts][-2:]  # 没写几次方的是平方根
    form = {"f": "{0:g}/{1:g}", "r": "√{0:[}({1})", "b": "({all})", "i": "∫{0:_}{1:^} {2}",
            "s": "{0:_}" if r"\do" in options else "{0:^}"}.get(kind.lower(), "{spaced}")
    text = form.format(*parts, Part(), Part(), all=inside, spaced=" ".join(parts))
    return text.replace("(", "\1").replace(")", "\2")  # 里层的括号先换掉，外层才认得出自己的


def _hide(root: Element, styles: dict[str, Element]) -> None:
    """去掉隐藏的字：自己设了隐藏，或样式是隐藏的。"""
    def hidden(element: Element) -> bool:
        vanish = element.find("rPr/vanish")
        return vanish is not None and vanish.get("val") not in ("0", "false", "off")

    names = {name for name, style in styles.items() if hidden(style)}
    for element in list(root.iter("r", "p")):
        if hidden(element) or value(element, f"{element.tag}Pr/{element.tag}Style") in names:
            element.clear()


def _describe(root: Element, styles: dict[str, Element], numbering: "Numbering") -> None:
    """每段记下它的自动编号（label），是一、二级标题的记下 title。"""
    @cache
    def chain(style_id: str | None) -> list[Element]:
        """一个样式和它所依据的各个样式。"""
        style = styles.get(style_id)
        return [] if style is None else [style, *chain(value(style, "basedOn"))]

    for paragraph in root.iter("p"):
        style_id = value(paragraph, "pPr/pStyle")
        sources = [paragraph, *chain(style_id)]
        outline = _first(sources, "pPr/outlineLvl")
        named = any(_TITLE.fullmatch(value(style, "name", "")) for style in sources[1:])
        if outline in ("0", "1") or (outline is None and named):
            paragraph.set("title", "1")
        number = _first(sources, "pPr/numPr/numId")
        if number in numbering.lists:
            level = _first(sources, "pPr/numPr/ilvl") or numbering.level_of(number, style_id)
            paragraph.set("label", numbering.label(number, int(level)))


def _first(sources: list[Element], path: str) -> str | None:
    return next((found for source in sources if (found := value(source, path)) is not None), None)


def _blocks(parent: Element) -> Iterator[Block]:
    for item in parent.iterchildren("*"):
        if item.tag == "p":
            yield "title" in item.attrib, words(item)
            yield from _hung(item)
        elif item.tag == "tbl":
            yield from _rows(item)
        else:
            yield from _blocks(item)


def _hung(element: Element) -> Iterator[Block]:
    """一段（或表格的一行）后面：它的文本框和脚注。"""
    for node in element.iter(*HUNG):
        outside = [next(one.iterancestors(*HUNG), None) for one in (node, element)]
        if outside[0] is outside[1]:
            note = f"〔注：{' '.join(map(words, node.iter('p')))}〕"
            yield from [(False, note)] if node.tag.endswith("Reference") else _blocks(node)


def _rows(table: Element) -> Iterator[Block]:
    above: dict[int, str] = {}
    for row in table.iter("tr"):
        if next(row.iterancestors("tbl")) is table:  # 格子里再套的表并在那一格里，不另起行
            cells = [cell for cell in row.iter("tc") if next(cell.iterancestors("tr")) is row]
            yield False, merged(cells, above, int(value(row, "trPr/gridBefore", "0")))
            yield from _hung(row)


class Numbering:
    """numbering.xml：“一、”“第二条”“1.2”怎样数、怎样写。同一个定义（abstractNum）的各个列表接着数。"""

    def __init__(self, root: Element):
        self.counts: dict[str, dict[int, int]] = defaultdict(dict)  # 哪个定义 → 哪一级 → 数到几
        self.started: set[tuple[str, int]] = set()
        self.lists: dict[str, tuple[str, dict[int, Element], dict[int, int]]] = {}  # 定义、各级、从几重新数
        definitions = {one.get("abstractNumId"): one for one in root.iter("abstractNum")}
        shared = {value(one, "styleLink", ""): one for one in definitions.values()}
        for number in root.iter("num"):
            one = definitions.get(value(number, "abstractNumId"), etree.Element("none"))
            one = shared.get(value(one, "numStyleLink"), one)
            levels = [*one.iter("lvl"), *number.iterfind("lvlOverride/lvl")]
            again = {int(over.get("ilvl")): int(value(over, "startOverride"))
                     for over in number.iterfind("lvlOverride[startOverride]")}
            self.lists[number.get("numId")] = (
                one.get("abstractNumId"), {int(level.get("ilvl")): level for level in levels}, again)

    def level_of(self, number: str, style_id: str | None) -> int:
        """样式里没写第几级的，看哪一级指着这个样式。"""
        levels = self.lists[number][1]
        return next((n for n, level in levels.items() if value(level, "pStyle") == style_id), 0)

    def label(self, number: str, level: int) -> str:
        """列表 number 第 level 级的下一项前面写什么，连同后面的空格。"""
        definition, levels, again = self.lists[number]
        if level not in levels:
            return ""
        first = {n: again.get(n, int(value(form, "start", "0"))) for n, form in levels.items()}
        counts = self.counts[definition]
        if level in again and (number, level) not in self.started:
            counts.pop(level, None)
        self.started.add((number, level))
        count = counts.get(level, first[level] - 1) + 1
        above = {n: counts.get(n, first[n]) for n in first if n < level}  # 跳过的各级，当作已经数到第一个
        kept = [n for n in levels if n > level and value(levels[n], "lvlRestart") == "0"]
        below = {n: counts[n] for n in kept if n in counts}
        self.counts[definition] = {**above, level: count, **below}
        return _written(levels[level], levels, {**above, level: count})


def _written(form: Element, levels: dict[int, Element], counts: dict[int, int]) -> str:
    text = value(form, "lvlText", "")
    if value(form, "numFmt") == "bullet":
        return "• " if text else ""
    for n, count in counts.items():
        kind = None if form.find("isLgl") is not None else value(levels[n], "numFmt")
        text = text.replace(f"%{n + 1}", FIGURES.get(kind, str)(count))
    tight = value(form, "suff") == "nothing" or text.endswith(("、", "）", "．", "："))
    return text if tight or not text.strip() else f"{text.strip()} "


def _han(number: int, digits: str = "零一二三四五六七八九", units: str = "千百十") -> str:
    pairs = zip(f"{number:04}", [*units, ""], strict=True)
    text = "".join(digits[int(digit)] + unit * (digit != "0") for digit, unit in pairs)
    text = re.sub("零+", "零", text).strip("零")
    return text.removeprefix("一") if text.startswith("一十") else text


def _roman(number: int) -> str:
    text = ""
    for letters, size in zip("m cm d cd c xc l xl x ix v iv i".split(),
                             (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1), strict=True):
        text += letters * (number // size)
        number %= size
    return text


def _letters(number: int) -> str:
    return chr(97 + (number - 1) % 26) * ((number - 1) // 26 + 1)


def _among(series: str) -> Callable[[int], str]:
    """排好的一列字里的第几个；超出了就写数字。"""
    return lambda number: series[number - 1] if 0 < number <= len(series) else str(number)


circled = _among("①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳㉑㉒㉓㉔㉕㉖㉗㉘㉙㉚㉛㉜㉝㉞㉟㊱㊲㊳㊴㊵㊶㊷㊸㊹㊺㊻㊼㊽㊾㊿")
FIGURES: dict[str | None, Callable[[int], str]] = {
    **dict.fromkeys(("chineseCounting", "chineseCountingThousand", "japaneseCounting", "taiwaneseCounting",
                     "taiwaneseCountingThousand", "ideographDigital"), _han),
    "chineseLegalSimplified": lambda n: _han(n, "零壹贰叁肆伍陆柒捌玖", "仟佰拾"),
    "ideographTraditional": _among("甲乙丙丁戊己庚辛壬癸"),
    "ideographZodiac": _among("子丑寅卯辰巳午未申酉戌亥"),
    "decimalEnclosedCircle": circled, "decimalEnclosedCircleChinese": circled,
    "decimalEnclosedFullstop": "{}.".format, "decimalEnclosedParen": "({})".format,
    "lowerLetter": _letters, "upperLetter": lambda n: _letters(n).upper(),
    "lowerRoman": _roman, "upperRoman": lambda n: _roman(n).upper(),
    "decimalZero": "{:02}".format, "none": lambda n: ""}
