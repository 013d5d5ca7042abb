"""幻灯片（.pptx）→ 一张一页的文字：标题在先，别的从上到下、从左到右；备注在最后。"""

from collections.abc import Iterator
from pathlib import Path

from labutils.dataset.clean import Page, numbered, tidy
from labutils.dataset.office import Element, Package, drawn, merged, value, whole, words
from labutils.dataset.word import FIGURES

_TITLES = ("title", "ctrTitle")
_MARGINS = ("dt", "ftr", "hdr", "sldNum")  # 日期、页脚、页眉、页码
_SAME_PLACE = "//sp[nvSpPr/nvPr/ph[@idx=$idx or @type=$kind]]/spPr/xfrm/off"
_ROW = 360_000  # 高低差不到 1 厘米（360000 EMU）算同一行
# 自动编号的种类是“数字 + 样子”：arabicPeriod、circleNumDbPlain、ea1ChsPeriod
_FIGURES = {"alphaLc": "lowerLetter", "alphaUc": "upperLetter", "romanLc": "lowerRoman",
            "romanUc": "upperRoman", "circleNum": "decimalEnclosedCircle", "ea1": "chineseCounting"}
_FORMS = {"Period": "{}. ", "ParenR": "{}) ", "ParenBoth": "({}) "}


@whole
def read_slides(path: Path, name: str) -> list[Page]:
    """一张幻灯片一页；表格一行一行，格间用“ | ”隔开；图表、SmartArt 的文字也读。

    隐藏的幻灯片也读，打印一行提醒；日期、页脚、页码不读。文件损坏时抛 LabError。
    """
    package = Package(path)
    main = package.links("").get("officeDocument", "ppt/presentation.xml")
    links, texts, hidden = package.links(main), [], []
    for number, item in enumerate(package.xml(main).iter("sldId"), 1):
        slide, around = package.xml(links[item.get("rel_id")]), package.links(links[item.get("rel_id")])
        texts.append(tidy("\n".join(_lines(package, slide, around))).strip())
        hidden += [str(number)] if slide.get("show") in ("0", "false") else []
    if hidden:
        print(f"提醒：{name} 的第 {'、'.join(hidden)} 张放映时隐藏，也读了；不要的话请删掉再试。")
    return numbered(texts)


def _lines(package: Package, slide: Element, links: dict[str, str]) -> Iterator[str]:
    layout = links.get("slideLayout")
    master = package.links(layout).get("slideMaster") if layout else None
    yield from _shapes(package, links, slide, [package.xml(layout), package.xml(master)])
    notes = package.xml(links.get("notesSlide")).iter("sp")
    lines = [line for shape in notes if _place(shape, "type") == "body" for line in _paragraphs(shape)]
    if lines:
        yield "备注：" + "\n".join(lines)


def _shapes(package: Package, links: dict[str, str], tree: Element, models: list[Element]) -> Iterator[str]:
    """tree（一张幻灯片或一个组合）里各个形状的文字，按读的先后。"""
    found = tree.xpath("(.|cSld/spTree)/*[self::sp or self::graphicFrame or self::grpSp]")
    shapes = [shape for shape in found if _place(shape, "type") not in _MARGINS]
    for shape in sorted(shapes, key=lambda shape: _order(shape, models)):
        if shape.tag == "grpSp":
            yield from _shapes(package, links, shape, models)
        elif shape.tag == "graphicFrame":
            above: dict[int, str] = {}
            yield from (merged(row.findall("tc"), above) for row in shape.iter("tr"))
            yield from drawn(package, links, shape)
        else:
            yield from _paragraphs(shape)


def _place(shape: Element, key: str) -> str | None:
    """占位符（标题、正文……）的种类 type 或编号 idx；不是占位符就是 None。"""
    return value(shape, "*/nvPr/ph", key=key)


def _order(shape: Element, models: list[Element]) -> tuple[bool, int, int]:
    """排在第几：(不是标题, 第几行, 左边的位置)；自己没写位置的占位符看版式、母版。"""
    kind = _place(shape, "type")
    offs = shape.xpath("(.|spPr|grpSpPr)/xfrm/off")
    for model in models:
        offs += model.xpath(_SAME_PLACE, idx=_place(shape, "idx") or "", kind=kind or "")
    off = [*offs, {"x": "0", "y": "0"}][0]
    return kind not in _TITLES, round(int(off.get("y")) / _ROW), int(off.get("x"))


def _paragraphs(shape: Element) -> list[str]:
    """形状里有字的各段；自动编号（1. ① 一.）写在前面，同一级的接着数。"""
    counts: dict[tuple[str, str], int] = {}
    for paragraph in shape.iter("p"):
        level, kind = value(paragraph, "pPr", "0", "lvl"), value(paragraph, "pPr/buAutoNum", "", "type")
        counts = {key: count for key, count in counts.items() if key[0] < level or key == (level, kind)}
        if kind:
            start = int(value(paragraph, "pPr/buAutoNum", "1", "startAt"))
            counts[level, kind] = counts.get((level, kind), start - 1) + 1
            paragraph.set("label", _label(kind, counts[level, kind]))
    return [line for paragraph in shape.iter("p") if (line := words(paragraph))]


def _label(kind: str, number: int) -> str:
    figure = next((FIGURES[name] for begin, name in _FIGURES.items() if kind.startswith(begin)), str)
    form = next((form for end, form in _FORMS.items() if kind.endswith(end)), "{} ")
    return form.format(figure(number))
