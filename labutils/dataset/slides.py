"""按位置读的两种文档 → 一页页的文字：幻灯片（.pptx）的形状、版式文档（.ofd，公文和电子发票常用）的字。

幻灯片一张一页，标题在先，别的从上到下、从左到右，备注在最后；OFD 的字按坐标拼成一行行。
"""

import re
from collections.abc import Iterator
from pathlib import Path

from labutils.base.errors import LabError
from labutils.base.text import without_spaces
from labutils.dataset.clean import Page, clean_pages, numbered, tidy, width
from labutils.dataset.layout import Run, page_text
from labutils.dataset.office import Element, Package, attach, merged, resolve, value, whole, words
from labutils.dataset.word import FIGURES

# 各个形状，日期、页脚、页眉、页码除外；组合起来的排在一起
_SHAPES = ("cSld/spTree//*[self::sp or self::graphicFrame]"
           "[not(nvSpPr/nvPr/ph[@type='dt' or @type='ftr' or @type='hdr' or @type='sldNum'])]")
_WITH_GROUPS = "ancestor-or-self::*[self::sp or self::graphicFrame or self::grpSp]"
_SAME_PLACE = "//sp[nvSpPr/nvPr/ph[@idx=$idx or @type=$kind]]/spPr/xfrm/off"
_HIDDEN = dict.fromkeys(("0", "false"), "放映时隐藏")
_ROW = 360_000  # 高低差不到 1 厘米（360000 EMU）算同一行
# 自动编号的种类是“数字 + 样子”：arabicPeriod、circleNumDbPlain、ea1ChsPeriod
_FIGURES = {"alphaLc": "lowerLetter", "alphaUc": "upperLetter", "romanLc": "lowerRoman",
            "romanUc": "upperRoman", "circleNum": "decimalEnclosedCircle", "ea1": "chineseCounting"}
_FORMS = {"Period": "{}. ", "ParenR": "{}) ", "ParenBoth": "({}) "}


@whole
def read_slides(path: Path, name: str) -> list[Page]:
    """一张幻灯片一页；表格一行一行，格间用“ | ”隔开；图表、SmartArt 的文字也读。

    隐藏的幻灯片也读，记在 note 里；日期、页脚、页码不读。文件损坏时抛 LabError。
    """
    package = Package(path)
    main = package.links("").get("officeDocument", "ppt/presentation.xml")
    links = package.links(main)
    parts = [links[item.get("id")] for item in package.xml(main).iter("sldId")]
    return [_page(package, number, part) for number, part in enumerate(parts, 1)]


def _page(package: Package, number: int, part: str) -> Page:
    slide, links = package.xml(part), package.links(part)
    attach(package, links, slide)
    layout = links.get("slideLayout", "")
    models = [package.xml(layout), package.xml(package.links(layout).get("slideMaster"))]
    places = {shape: [_place(one, models) for one in shape.xpath(_WITH_GROUPS)]
              for shape in slide.xpath(_SHAPES)}
    shown = _text(sorted(places, key=places.get))
    spoken = _text(package.xml(links.get("notesSlide")).xpath("//sp[nvSpPr/nvPr/ph/@type='body']"))
    text = f"{shown}\n备注：{spoken}" if spoken else shown
    return Page(number, tidy(text).strip(), _HIDDEN.get(slide.get("show"), ""))


def _place(shape: Element, models: list[Element]) -> tuple[bool, int, int]:
    """排在第几：(不是标题, 第几行, 左边的位置)；自己没写位置的占位符看版式、母版。"""
    kind, idx = (value(shape, "*/nvPr/ph", "", key) for key in ("type", "idx"))
    offs = shape.xpath("(.|spPr|grpSpPr)/xfrm/off")
    for model in models:
        offs += model.xpath(_SAME_PLACE, idx=idx, kind=kind)
    off = [*offs, {"x": "0", "y": "0"}][0]
    return kind not in ("title", "ctrTitle"), round(int(off.get("y")) / _ROW), int(off.get("x"))


def _text(shapes: list[Element]) -> str:
    lines = []
    for shape in shapes:
        above: dict[int, str] = {}
        lines += [merged(row.findall("tc"), above) for row in shape.iter("tr")]
        paragraphs = shape.xpath(".//p[not(ancestor::tc)]")
        _number(paragraphs)
        lines += filter(None, map(words, paragraphs))
    return "\n".join(lines)


def _number(paragraphs: list[Element]) -> None:
    """自动编号（1. ① 一.）记在段上；同一级、同一种的接着数。"""
    counts: dict[tuple[str, str], int] = {}
    for paragraph in paragraphs:
        level, kind = value(paragraph, "pPr", "0", "lvl"), value(paragraph, "pPr/buAutoNum", "", "type")
        counts = {key: count for key, count in counts.items() if key[0] < level or key == (level, kind)}
        if kind:
            start = int(value(paragraph, "pPr/buAutoNum", "1", "startAt"))
            counts[level, kind] = counts.get((level, kind), start - 1) + 1
            paragraph.set("label", _label(kind, counts[level, kind]))


def _label(kind: str, number: int) -> str:
    figure = next((FIGURES[name] for begin, name in _FIGURES.items() if kind.startswith(begin)), str)
    form = next((form for end, form in _FORMS.items() if kind.endswith(end)), "{} ")
    return form.format(figure(number))


@whole
def read_ofd(path: Path, name: str) -> list[Page]:
    """一页一页的文字，模板页（红头）也在里面；去掉页眉页脚页码，接好断句。

    文件损坏、加密，或字体没有文字对照表（读出来是乱码）时抛 LabError。
    """
    package = Package(path)
    roots = package.xml("OFD.xml").iter("DocRoot")
    raw = [page for root in roots for page in _pages(package, resolve("", root.text.strip()))]
    text = without_spaces("".join(raw))
    if len(re.findall("[\ue000-\uf8ff]", text)) > 0.1 * len(re.findall(r"\w", text)):
        raise LabError(f"{name} 的字体没有文字对照表，读出来是乱码，请打印成 PDF，再用 OCR 软件识别。")
    return numbered(clean_pages(raw))


def _pages(package: Package, main: str) -> Iterator[str]:
    document = package.xml(main)
    units = {one.get("ID"): one for part in document.iter("PublicRes", "DocumentRes")
             for one in package.xml(resolve(main, part.text)).iter("CompositeGraphicUnit")}
    templates = {one.get("ID"): one.get("BaseLoc") for one in document.iter("TemplatePage")}
    for page in document.iterfind("Pages/Page"):
        content = package.xml(resolve(main, page.get("BaseLoc")))
        for mark in list(content.iter("Template")):
            mark.append(package.xml(resolve(main, templates[mark.get("TemplateID")])))
        runs = [run for run in _runs(content, units) if run.size]  # 缩成零的字看不见
        yield page_text(sorted(runs, key=lambda run: (-run.y, run.x)))[0]  # 模板页先画后画不定，照位置排


def _numbers(text: str) -> list[float]:
    """“1.5 2 g 3 2.5”：g 3 2.5 是连着 3 个 2.5。"""
    text = re.sub(r"g\s+(\d+)\s+(\S+)", lambda same: f"{same[2]} " * int(same[1]), text)
    return [float(number) for number in text.split()]


def _runs(layer: Element, units: dict[str, Element]) -> Iterator[Run]:
    """一层里的字，y 向上；反复用的图元（units）换成它里面的字。"""
    for item in layer.xpath(".//*[self::TextObject or self::CompositeObject][not(@Visible='false')]"):
        left, top, *_ = _numbers(item.get("Boundary"))
        a, b, c, d, e, f = _numbers(item.get("CTM", "1 0 0 1 0 0"))
        inside = _codes(item) if item.tag == "TextObject" else _runs(units[item.get("ResourceID")], units)
        for run in inside:
            x, y = left + e + a * run.x - c * run.y, top + f + b * run.x - d * run.y
            yield Run(run.text, x, x + a * (run.right - run.x), -y, run.size * max(abs(d), abs(b)))


def _codes(item: Element) -> Iterator[Run]:
    """一个文字图元里的几段字，坐标从它的左上角算起。"""
    x = y = 0.0
    size = float(item.get("Size"))
    for code in item.iter("TextCode"):
        x, y = float(code.get("X", x)), float(code.get("Y", y))  # 不写就和前一段的相同
        steps, text = _numbers(code.get("DeltaX", "")), (code.text or "").strip("\n")
        last = width(text[-1:] if steps else text) * size / 2
        if text.strip():
            yield Run(text, x, x + sum(steps) + last, -y, size)
