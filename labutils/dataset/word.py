"""Word 文档 → 一段段文字：自动编号、公式、表格、文本框、脚注都在里面，修订按“全部接受”读。

先把 XML 改成读者看到的样子（_accept、_show_fields、_describe、_move_hung），再从头到尾取文字。
不用 python-docx：它不认带宏的、做模板的、“严格”的文档，也漏掉上面这些。
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from lxml import etree

from labutils.dataset.office import Block, Element, Package, attach, merged, value, whole, words

_TITLE = re.compile(r"(?:heading|标题) ?[12]|title|标题", re.IGNORECASE)
_NOTES = ("footnoteReference", "endnoteReference")
_VANISH = "rPr/vanish[not(@val='0' or @val='false' or @val='off')]"
_HIDDEN = f"//r[{_VANISH} or rPr/rStyle/@val=$styles/@styleId] | //p[pPr/pStyle/@val=$styles/@styleId]"
_CIRCLED = re.compile(r"\\o\\ac\([○〇],(\w+)\)")
_FIELD = re.compile(r"\s*EQ\s+(.*)|.*", re.IGNORECASE | re.DOTALL)
_HUNG = (*_NOTES, "txbxContent", "chart", "relIds")  # 挂在一段上、放在它后面的


@whole
def word_blocks(path: Path, name: str) -> list[Block]:
    """正文按读的先后；表格一行一行，格间用“ | ”隔开；文本框、脚注（〔注：…〕）放在它那一段的后面。

    页眉、页脚、批注、隐藏的字不读。文件损坏时抛 LabError；有 MathType 的公式（存成了图片）时打印一行提醒。
    """
    package = Package(path)
    main = package.links("").get("officeDocument", "word/document.xml")
    links, root = package.links(main), package.xml(main)
    styles = package.xml(links.get("styles"))
    notes = {(f"{note.tag}Reference", note.get("id")): note
             for kind in ("footnotes", "endnotes") for note in package.xml(links.get(kind))}
    for mark in root.iter(*_NOTES):
        mark.extend(notes.get((mark.tag, mark.get("id")), ()))
    attach(package, links, root)
    _accept(root)
    _show_fields(root)
    for hidden in root.xpath(_HIDDEN, styles=styles.xpath(f"style[{_VANISH}]")):
        hidden.clear()
    _describe(root, styles, Numbering(package.xml(links.get("numbering"))))
    _move_hung(root)
    if count := len(root.xpath("//OLEObject[starts-with(@ProgID, 'Equation')]")):
        print(f"提醒：{name} 里有 {count} 个公式是 MathType 或旧的公式编辑器做的，存成了图片，没有读。")
    return list(_blocks(root, {}))


def _accept(root: Element) -> None:
    """修订按“全部接受”；注在字上的拼音不要。"""
    for row in root.xpath("//tr[trPr/del]"):
        row.getparent().remove(row)
    # 段末的回车删掉了，和下一段并成一段；下沉的首字自成一段，也并进去
    for paragraph in root.xpath("//p[pPr[rPr/del or rPr/moveFrom or framePr/@dropCap]]"):
        for below in paragraph.xpath("following-sibling::*[1][self::p]"):
            start = len(below.xpath("pPr"))
            below[start:start] = paragraph.xpath("*[not(self::pPr)]")
            paragraph.getparent().remove(paragraph)
    etree.strip_elements(root, "del", "moveFrom", "rt")


# 一层层的域，是不是还在代码里；代码不会跨段，坏了的域至多丢一段
_FIELD_MARKS: dict[str, Callable[[list[bool]], list[bool]]] = {
    "begin": lambda fields: [*fields, True], "separate": lambda fields: [*fields[:-1], False],
    "end": lambda fields: fields[:-1], "p": lambda fields: [False] * len(fields)}


def _show_fields(root: Element) -> None:
    r"""域只留结果，不要代码；公式域（EQ）没有结果，字在代码里，原样留下：\f(1,2) 是二分之一。"""
    fields, code = [], ""
    for node in root.iter("p", "fldChar", "instrText", "t"):
        kind = node.get("fldCharType", node.tag)
        if kind in _FIELD_MARKS:
            fields = _FIELD_MARKS[kind](fields)
        elif any(fields):
            node.text, code = "", code + (node.text or "")
        if kind == "end":
            node.tag, node.text, code = "t", _CIRCLED.sub(r"(\1)", _FIELD.sub(r"\1", code)), ""


def _describe(root: Element, styles: Element, numbering: "Numbering") -> None:
    """每段记下它的自动编号（label），是一、二级标题的记下 title。"""
    by_id = {style.get("styleId"): style for style in styles.iter("style")}
    for paragraph in root.iter("p"):
        sources = [paragraph, *_chain(by_id, value(paragraph, "pPr/pStyle"))]
        named = any(_TITLE.fullmatch(value(style, "name", "")) for style in sources[1:])
        if _first(sources, "pPr/outlineLvl", "0" if named else "9") in ("0", "1"):
            paragraph.set("title", "1")
        number, level = (_first(sources, f"pPr/numPr/{key}", "0") for key in ("numId", "ilvl"))
        paragraph.set("label", numbering.label(number, int(level)))


def _chain(styles: dict[str, Element], style_id: str | None) -> list[Element]:
    """一个样式和它所依据的各个样式。"""
    style = styles.get(style_id)
    return [] if style is None else [style, *_chain(styles, value(style, "basedOn"))]


def _first(sources: list[Element], path: str, default: str) -> str:
    return next((found for source in sources if (found := value(source, path)) is not None), default)


def _move_hung(root: Element) -> None:
    """文本框、脚注移到它那一段（表格里的，那一行）的后面；从后往前移，先后不乱。"""
    for node in reversed(list(root.iter(*_HUNG))):
        around = takewhile(lambda one: one.tag not in _HUNG, node.iterancestors())
        [one for one in around if one.tag in ("p", "tr")][-1].addnext(node)


def _blocks(parent: Element, above: dict[int, str]) -> Iterator[Block]:
    """parent 里的各段和表格的各行；above 是所在的表格里各列上面的字。"""
    for item in parent.iterchildren("*"):
        if item.tag == "p":
            yield "title" in item.attrib, words(item)
        elif item.tag == "tr":  # 格子可以在内容控件里；格子里再套的表并在那一格里，不另起行
            cells = item.xpath("tc | */tc | */*/tc")
            yield False, merged(cells, above, int(value(item, "trPr/gridBefore", "0")))
        elif item.tag in _NOTES:
            yield False, f"〔注：{' '.join(map(words, item))}〕"
        else:
            yield from _blocks(item, {} if item.tag == "tbl" else above)


class Numbering:
    """numbering.xml：“一、”“第二条”“1.2”怎样数、怎样写。同一个定义（abstractNum）的各个列表接着数。"""

    def __init__(self, root: Element):
        self.counts: dict[str, dict[int, int]] = defaultdict(dict)  # 哪个定义 → 哪一级 → 数到几
        self.lists = {one.get("numId"): one for one in root.iter("num")}
        shared = {value(one, "styleLink", ""): one for one in root.iter("abstractNum")}
        self.definitions = {one.get("abstractNumId"): shared.get(value(one, "numStyleLink"), one)
                            for one in root.iter("abstractNum")}

    def label(self, number: str, level: int) -> str:
        """列表 number 第 level 级的下一项前面写什么，连同后面的空格；没有这个列表、这一级的是空的。"""
        if (own := self.lists.get(number)) is None:
            return ""
        definition = self.definitions.get(value(own, "abstractNumId"), own)
        levels = {int(form.get("ilvl")): form for form in [*definition.iter("lvl"), *own.iter("lvl")]}
        counts = self.counts[definition.get("abstractNumId")]
        for again in own.xpath(f"lvlOverride[@ilvl={level}]/startOverride"):
            counts[level] = int(again.get("val")) - 1
            again.getparent().remove(again)  # 只在头一次重新数
        _count(counts, levels, level)
        return _written(counts, levels, level) if level in levels else ""


def _count(counts: dict[int, int], levels: dict[int, Element], level: int) -> None:
    """第 level 级数一个：跳过的上级当作已经数到第一个，下级重新数。"""
    for n, form in levels.items():
        start = int(value(form, "start", "0"))
        if n <= level:
            counts[n] = counts.get(n, start - (n == level)) + (n == level)
        elif value(form, "lvlRestart") != "0":
            counts.pop(n, None)


def _written(counts: dict[int, int], levels: dict[int, Element], level: int) -> str:
    form = levels[level]
    text = value(form, "lvlText", "")
    for n, count in counts.items():
        kind = None if form.find("isLgl") is not None else value(levels[n], "numFmt")
        text = text.replace(f"%{n + 1}", FIGURES.get(kind, str)(count))
    text = "•" if text and value(form, "numFmt") == "bullet" else text.strip()
    tight = value(form, "suff") == "nothing" or re.search("^$|[、）．：]$", text)
    return text if tight else f"{text} "


def _han(number: int, digits: str = "零一二三四五六七八九", units: str = "千百十") -> str:
    pairs = zip(f"{number:04}", [*units, ""], strict=True)
    text = "".join(digits[int(digit)] + unit * (digit != "0") for digit, unit in pairs)
    text = re.sub("零+", "零", text).strip("零")
    return text.removeprefix("一") if text.startswith("一十") else text


def _among(series: Sequence[str]) -> Callable[[int], str]:
    """排好的一列里的第几个；超出了就写数字。"""
    return lambda number: series[number - 1] if 0 < number <= len(series) else str(number)


_ROMAN = [ten + one for ten in ",x,xx,xxx,xl,l,lx,lxx,lxxx,xc".split(",")
          for one in ",i,ii,iii,iv,v,vi,vii,viii,ix".split(",")][1:]
_LETTERS = [letter * times for times in (1, 2, 3) for letter in "abcdefghijklmnopqrstuvwxyz"]
_CIRCLES = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳㉑㉒㉓㉔㉕㉖㉗㉘㉙㉚㉛㉜㉝㉞㉟㊱㊲㊳㊴㊵㊶㊷㊸㊹㊺㊻㊼㊽㊾㊿"
FIGURES: dict[str | None, Callable[[int], str]] = {
    **dict.fromkeys(("chineseCounting", "chineseCountingThousand", "japaneseCounting", "taiwaneseCounting",
                     "taiwaneseCountingThousand", "ideographDigital"), _han),
    "chineseLegalSimplified": lambda n: _han(n, "零壹贰叁肆伍陆柒捌玖", "仟佰拾"),
    "ideographTraditional": _among("甲乙丙丁戊己庚辛壬癸"),
    "ideographZodiac": _among("子丑寅卯辰巳午未申酉戌亥"),
    **dict.fromkeys(("decimalEnclosedCircle", "decimalEnclosedCircleChinese"), _among(_CIRCLES)),
    "lowerLetter": _among(_LETTERS), "upperLetter": _among([text.upper() for text in _LETTERS]),
    "lowerRoman": _among(_ROMAN), "upperRoman": _among([text.upper() for text in _ROMAN]),
    "decimalZero": "{:02}".format, "none": lambda n: ""}
