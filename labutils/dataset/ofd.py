"""版式文档（.ofd，公文、电子发票常用）→ 一页页的文字。字都写着坐标，按坐标拼成一行行。"""

import re
from collections.abc import Iterator
from pathlib import Path

from labutils.base.errors import LabError
from labutils.base.text import without_spaces
from labutils.dataset.clean import Page, numbered, width
from labutils.dataset.layout import Run, page_text
from labutils.dataset.margins import clean_pages
from labutils.dataset.office import Element, Package, resolve, whole


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
        under = [resolve(main, templates[one.get("TemplateID")]) for one in content.iter("Template")]
        layers = [content, *map(package.xml, under)]
        runs = [run for layer in layers for run in _runs(layer, units)]
        yield page_text(sorted(runs, key=lambda run: (-run.y, run.x)))[0]  # 模板页先画后画不定，照位置排


def _numbers(text: str) -> list[float]:
    """“1.5 2 g 3 2.5”：g 3 2.5 是连着 3 个 2.5。"""
    found, tokens = [], iter(text.split())
    for token in tokens:
        found += int(next(tokens)) * [float(next(tokens))] if token == "g" else [float(token)]
    return found


def _runs(layer: Element, units: dict[str, Element]) -> Iterator[Run]:
    """一层里的字，y 向上；反复用的图元（units）换成它里面的字。"""
    for item in layer.iter("TextObject", "CompositeObject"):
        left, top, *_ = _numbers(item.get("Boundary"))
        a, b, c, d, e, f = _numbers(item.get("CTM", "1 0 0 1 0 0"))
        inside = _codes(item) if item.tag == "TextObject" else _runs(units[item.get("ResourceID")], units)
        for run in inside if item.get("Visible") != "false" else ():
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
