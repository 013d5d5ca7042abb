"""Office 与 OFD 文件：一个压缩包，里面是互相引用的 XML。这里打开它，取出一段文字、一个公式。"""

import io
import lzma
import posixpath
import re
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from lxml import etree

from labutils.base.errors import LabError
from labutils.dataset.clean import SYMBOL
from labutils.dataset.layout import LOWERED, RAISED

# 压缩包坏在哪里，zipfile 就在哪里报什么：连“加了密”“压缩方式不认识”（RuntimeError）都会有
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError,
           RuntimeError, LookupError, ValueError, TypeError, AttributeError, etree.LxmlError)
Element = etree._Element
Block = tuple[bool, str]  # (是不是一、二级标题, 一段文字)
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)


def whole(read: Callable) -> Callable:
    """装饰 read(path, name)：文件坏了，不管坏在压缩包里还是 XML 里，都抛 LabError，一句话说清。"""
    @wraps(read)
    def checked(path: Path, name: str) -> list:
        try:
            return read(path, name)
        except DAMAGED as error:
            raise LabError(f"{name} 已损坏，或打开要密码（{type(error).__name__}），请重新下载或复制一份；"
                           f"能打开的话，去掉密码，另存一份 {path.suffix} 再试。") from None
    return checked


class Package:
    """标签和属性都只留本名，不带命名空间：严格的、带宏的、做模板的 OOXML，读法就都一样。"""

    def __init__(self, path: Path):
        self.zip = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
        self.files = {file.replace("\\", "/").lower(): file for file in self.zip.namelist()}

    def xml(self, part: str | None) -> Element:
        """一个部件的 XML；没有这个部件（None、空）就是一个空元素。"""
        if not part:
            return etree.Element("none")
        root = etree.fromstring(self.zip.read(self.files[part.lower()]), _PARSER)
        for element in root.iter("*"):  # 幻灯片的 id 和 r:id 都有，要的是指着另一个部件的 r:id：它排在后面
            element.tag = element.tag.rpartition("}")[2]
            element.attrib.update({key.rpartition("}")[2]: text for key, text in sorted(element.items())})
        etree.strip_elements(root, "Fallback")  # 同样的内容为旧版软件存的第二份
        etree.strip_tags(root, "AlternateContent", "Choice")
        return root

    def links(self, part: str) -> dict[str, str]:
        """part 引用的部件：按引用的编号（rId1）和种类（styles）都查得到。"""
        folder, file = posixpath.split(part)
        rels = f"{folder}/_rels/{file}.rels".lstrip("/")
        found = {}
        for link in self.xml(rels if rels.lower() in self.files else None).iter("Relationship"):
            target = resolve(part, link.get("Target", ""))
            found |= {link.get("Id"): target, posixpath.basename(link.get("Type", "")): target}
        return found


def value(element: Element, path: str, default: str | None = None, key: str = "val") -> str | None:
    """path 那个元素的 val（或属性 key）；没有这个元素、没有写就是 default。"""
    found = element.find(path)
    return default if found is None else found.get(key, default)


def resolve(part: str, target: str) -> str:
    """part 里写的路径 target 指压缩包里的哪个文件；以 / 开头的从根算起。"""
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(part), target)).lstrip("/")


# Wingdings 里常见的几个；别的多半是项目符号
_WINGDINGS = {0xF0FC: "✓", 0xF0FB: "✗", 0xF0FE: "☑", 0xF0FD: "☒", 0xF0A8: "□", 0xF06F: "□", 0xF0E0: "→",
              0xF050: "✓", 0xF04F: "✗", 0xF052: "☑", 0xF051: "☒", 0xF0A3: "□"}
_SCRIPTS = {"\1": ("^", RAISED), "\3": ("_", LOWERED)}


def words(element: Element) -> str:
    """一段（或一格）里的文字，连着的空白并成一个空格；自动编号在最前面。"""
    text = _inside(element).replace("\2\1", "").replace("\4\3", "")
    text = re.sub("([\1\3])(.*?)[\2\4]", _script, text)
    text = re.sub(r"[ \t\n]+", " ", text).strip()
    return element.get("label", "") + text if text or element.getparent().tag == "tc" else ""


def _inside(node: Element) -> str:
    return "".join(_TEXTS.get(child.tag, _inside)(child) for child in node.iterchildren("*"))


# 合并起来的格子里，不是第一格的；Word 写在 tcPr 里，PowerPoint 写成属性
_CONTINUES = "@{0}='1' or @{0}='true' or tcPr/{0}[not(@val='restart')]"


def merged(cells: list[Element], above: dict[int, str], column: int = 0) -> str:
    """表格的一行，格间用“ | ”隔开。上下合并的格子每一行都写一遍，各行自己就读得懂；above 是各列上面的字。"""
    texts = []
    for cell in cells:
        down, across = (cell.xpath(_CONTINUES.format(way)) for way in ("vMerge", "hMerge"))
        above[column] = above.get(column, "") if down else words(cell)
        texts += [] if across else [above[column]]
        column += int(value(cell, "tcPr/gridSpan", "1"))
    return " | ".join(texts)


def _run(node: Element) -> str:
    """上标、下标的两头先作记号：连着的几段在 words 里合成一个。"""
    text = _inside(node)
    place = value(node, "rPr/vertAlign") or value(node, "rPr", "0", "baseline")
    if place in ("0", "baseline"):
        return text
    return f"\3{text}\4" if place.startswith(("-", "sub")) else f"\1{text}\2"


def _script(match: re.Match) -> str:
    """10 的 4 次方写成 10⁴，不然就成了 104；文献号 [1]、注号 ① 原样。"""
    mark, table = _SCRIPTS[match[1]]
    text = match[2].strip()
    if re.fullmatch("[0-9+−-]+", text):
        return text.translate(table)
    return format(Part(text), mark) if re.match("[0-9A-Za-zΑ-ω+−(-]", text) else text


def _typed(node: Element) -> str:
    """符号字体的字在私有区里，换成看得懂的字；插入的符号（sym）只写了编码。"""
    code = int(node.get("char", "0"), 16)
    text = node.text or ("char" in node.attrib) * chr(code if code > 0xFF else code + 0xF000)
    font = node.get("font") or value(node.getparent(), "rPr/rFonts", "", "ascii")
    table = SYMBOL if font == "Symbol" else _WINGDINGS
    return re.sub("[\uf020-\uf0ff]", lambda match: table.get(ord(match[0]), "•"), text)


# 公式写成一行：{den:g} 不止一个字时加括号，{sub:_} 有下标才写
_FORMS = {
    "f": "{num:g}/{den:g}", "f noBar": "{num:g}¦{den:g}",
    "sSup": "{e:b}{sup:^}", "sSub": "{e:b}{sub:_}", "sSubSup": "{e:b}{sub:_}{sup:^}",
    "sPre": "{sub:_}{sup:^}{e}", "limLow": "{e}{lim:_}", "limUpp": "{e}{lim:^}", "rad": "√{deg:[}({e})",
    "nary": "{chr}{sub:_}{sup:^} {e}", "func": "{fName}{e:(}", "d": "{begChr}{e}{endChr}",
    "acc": "{e:b}{chr}", "bar": "{e:b}\u0305", "groupChr": "{chr}{e}",
    "m": "[{mr}]", "mr": "{e}", "eqArr": "{e}"}
_DEFAULTS = {
    "nary": {"chr": "∫"}, "acc": {"chr": "\u0302"}, "d": {"begChr": "(", "endChr": ")", "sepChr": "|"},
    "m": {"sepChr": "; "}, "eqArr": {"sepChr": "; "}, "mr": {"sepChr": ", "}}
_MARKS = "[′\u0300-\u036f\u20d0-\u20ff]*"
_WHOLE = {  # 这样的不用加括号
    "": re.compile(".*", re.DOTALL), "(": re.compile(r"\([^()]*\)"),
    "g": re.compile(rf"(?:\d[\d.]*|[\u3400-\u9fff]+|\S){_MARKS}|(?:√|[A-Za-z]*)\([^()]*\)"),
    "b": re.compile(rf"[\w.]+{_MARKS}|[(\[|{{].*[)\]|}}]|\W?")}
_SHOWN = {"[": "[{}]", "^": "^{:g}", "_": "_{:g}"}
_AROUND = {"f": ("\1", "\2"), **dict.fromkeys(("sSup", "sSub", "sSubSup"), ("", "\3"))}


class Part(str):
    """公式里的一项；怎样加括号由 _FORMS 里冒号后面的记号决定。"""

    def __format__(self, form: str) -> str:
        if form in _WHOLE:
            return str(self) if _WHOLE[form].fullmatch(self) else f"({self!s})"
        return self and _SHOWN[form].format(self)


# 𝑥 是排成斜体的 x；看不见的乘号、函数符号和方程组里对齐的 & 不要
_LETTERS = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0x1D400, 0x1D800)}
_LETTERS |= dict.fromkeys(map(ord, "\u2061\u2062\u2063\u2064&"), "")


def formula(node: Element) -> str:
    """Word 的公式（OMML）写成一行：分数 (a+b)/2、上下标 x_1^2、根号 √(x)、∑_(i=1)^n x_i。"""
    if node.tag == "t":
        return (node.text or "").translate(_LETTERS)
    if node.tag not in _FORMS:
        return _sequence(node)
    settings = _DEFAULTS.get(node.tag, {}) | {
        child.tag: child.get("val", "") for child in node.iterfind(f"{node.tag}Pr/*")}
    between = settings.get("sepChr", "")
    parts = defaultdict(Part, {tag: Part(between.join(map(formula, node.iterfind(tag))))
                               for tag in {child.tag for child in node.iterchildren("*")}}) | settings
    return _FORMS.get(f"{node.tag} {settings.get('type')}", _FORMS[node.tag]).format_map(parts)


def _sequence(node: Element) -> str:
    """并排的几项；分数紧挨着字母、数字的括起来：2(1/2)、(1/2)x；上下标和后面的字隔开：x^k a。"""
    pieces = [(formula(child), *_AROUND.get(child.tag, ("", ""))) for child in node.iterchildren("*")]
    text = "".join(before + piece + after for piece, before, after in pieces)
    text = re.sub("(?<=[\\w\2\3])\1(.*?)\2|\1(.*?)\2(?=[\\w(√\1])", r"(\1\2)", text)
    text = re.sub("(?<=\\d)\3(?=\\d)|(?<=[^\\W\\d])\3(?=[^\\W\\d])", " ", text)
    return re.sub("[\1-\3]", "", text)


_TEXTS: dict[str, Callable[[Element], str]] = {
    "t": _typed, "sym": _typed, "r": _run, "noBreakHyphen": lambda node: "-",
    "v": lambda node: f"{node.text} ",  # 图表里的一项
    # 紧接着另一个公式的，中间空一格
    "oMath": lambda node: formula(node) + " " * len(node.xpath("following-sibling::*[1][self::oMath]")),
    **dict.fromkeys(("p", "tc"), lambda node: words(node) + " "),
    **dict.fromkeys(("tab", "ptab", "br", "cr"), lambda node: " "),
    **dict.fromkeys(("pPr", "rPr"), lambda node: "")}


def attach(package: Package, links: dict[str, str], root: Element) -> None:
    """图表、SmartArt 的字在别的部件里，搬到用它们的地方；图表的一个系列（名字、各类、各个数）是一段。"""
    for item in root.iter("chart", "relIds"):
        for line in list(package.xml(links.get(item.get("dm") or item.get("id"))).iter("p", "ser")):
            line.tag = "p"
            item.append(line)
