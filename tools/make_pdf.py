"""把小份 Markdown 排成 PDF：课程文档 `data/source/course_document.pdf` 由它生成。

用法：`python -m tools.make_pdf 文档.md 文档.pdf`。同一输入总是得到逐字节相同的文件，
这样测试才能断定仓库里的 PDF 与 Markdown 一致。PDF 在 notebooks/01_build_dataset.ipynb 里用到。

支持的写法：# ## ### 标题、段落、`- ` 与 `1. ` 列表、`> ` 提示框、`|` 表格。
"""

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fpdf import FPDF, FontFace
from fpdf.enums import TableBordersLayout

from labutils.base.errors import LabError

FONT = "zh"
FIXED_DATE = datetime(2025, 1, 1, tzinfo=UTC)  # 不取当前时间，输出才能逐字节相同
BLUE, GREY, PALE = (23, 62, 115), (110, 110, 110), (240, 244, 250)
# 中文排版的避头尾：前一组不放在行首，后一组不放在行尾
NOT_FIRST = set("，。、；：？！）》”’〕】…—%")
NOT_LAST = set("（《“‘〔【")
HEADING_SIZE = {1: 19, 2: 14, 3: 11.5}
TEXT_SIZE, LINE_HEIGHT, MARGIN = 11, 7.2, 24


class Block(NamedTuple):
    """一块内容：kind 为 h1/h2/h3/p/li/quote/table；text 用于文字，rows 用于表格。"""

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


def parse_markdown(source: str) -> list[Block]:
    """把 Markdown 文本切成块；空行分段，相邻的表格行合成一张表。"""
    blocks: list[Block] = []
    for line in source.splitlines():
        line = line.strip()
        previous = blocks[-1] if blocks else Block("")
        if line.startswith("|"):
            row = tuple(cell.strip() for cell in line.strip("|").split("|"))
            if all(re.fullmatch(r":?-+:?", cell) for cell in row):
                continue
            rows = previous.rows if previous.kind == "table" else ()
            blocks[len(blocks) - bool(rows) :] = [Block("table", rows=(*rows, row))]
        elif previous.kind == "p" and line and _block(line).kind == "p":
            blocks[-1] = Block("p", previous.text + line)  # 中文换行不补空格
        else:
            blocks.append(_block(line))
    return [block for block in blocks if block.text or block.rows]


def _block(line: str) -> Block:
    """一行非表格文字属于哪种块。"""
    line = line.replace("**", "").replace("`", "")  # 字体只有一种字重，强调记号去掉
    if heading := re.match(r"(#{1,3})\s+(.+)", line):
        return Block(f"h{len(heading[1])}", heading[2])
    if line.startswith(">"):
        return Block("quote", line[1:].strip())
    if item := re.match(r"(?:-|(\d+\.))\s+(.+)", line):
        return Block("li", f"{item[1] or '•'} {item[2]}")
    return Block("p", line)


def font_path() -> Path:
    """中文字体文件（zhplot 包自带的 Noto Sans SC，OFL 许可）；没装该包时报 LabError。"""
    spec = find_spec("zhplot")
    path = Path(spec.origin).parent / "fonts" / "NotoSansSC-Regular.ttf" if spec else None
    if path is None or not path.exists():
        raise LabError("找不到中文字体：请先执行 pip install zhplot，再重新生成 PDF。")
    return path


def wrap(text: str, width: float, measure) -> Iterator[str]:
    """按宽度断行：英文和数字不拆开，标点遵守避头尾。

    参数 width 与 measure(文字) 的单位相同（这里是毫米）。
    """
    units = re.findall(r"[A-Za-z0-9.%]+(?:—[0-9.%]+)?|——|.", text)
    line: list[str] = []
    for unit in units:
        if line and measure("".join(line) + unit) > width:
            carried = _carry(line, unit)
            yield "".join(line).rstrip()
            line = carried
        line.append(unit)
    if line:
        yield "".join(line)


def _carry(line: list[str], unit: str) -> list[str]:
    """从行尾取下要跟着 unit 到下一行去的部分（就地缩短 line）。"""
    carried: list[str] = []
    while len(line) > 1 and (unit[0] in NOT_FIRST or line[-1][0] in NOT_LAST):
        unit = line.pop()
        carried.insert(0, unit)
    return carried


class Document(FPDF):
    """A4 页面，页脚印页码；标题进入大纲。"""

    def __init__(self, title: str, font: Path):
        super().__init__(format="A4")
        self.set_creation_date(FIXED_DATE)
        self.set_title(title)
        self.set_lang("zh-CN")
        self.set_margins(MARGIN, 22)
        self.set_auto_page_break(True, margin=24)
        self.add_font(FONT, fname=font)
        self.add_page()

    def footer(self) -> None:
        """页脚：居中的页码。"""
        self.set_y(-16)
        self.set_font(FONT, size=9)
        self.set_text_color(*GREY)
        self.cell(0, 6, f"第 {self.page_no()} 页", align="C")

    def lines(self, text: str, indent: float = 0, first: float = 0, fill: bool = False) -> None:
        """逐行写一段文字；indent 为整段左缩进（毫米），first 为首行另加的缩进。"""
        width = self.epw - indent - (4 if fill else 0)
        pad = "　" * round(first)  # 首行空两格用全角空格量宽度，画的时候改为移动起点
        wrapped = list(wrap(pad + text, width, self.get_string_width))
        if len(wrapped) <= 4 and self.will_page_break(LINE_HEIGHT * len(wrapped)):
            self.add_page()  # 短段落不跨页：一条事实的依据句就不会断在两页
        for number, line in enumerate(wrapped):
            shift = self.get_string_width(pad) if number == 0 else 0
            self.set_x(self.l_margin)
            if fill:
                self.rect(self.l_margin, self.get_y(), self.epw, LINE_HEIGHT, style="F")
            self.set_x(self.l_margin + indent + shift)
            self.cell(0, LINE_HEIGHT, line.lstrip("　"), new_x="LMARGIN", new_y="NEXT")

    def write_block(self, block: Block, following: Block | None) -> None:
        """画一块内容。"""
        if block.kind.startswith("h"):
            return self.heading(int(block.kind[1]), block.text)
        self.set_font(FONT, size=TEXT_SIZE)
        self.set_text_color(30, 30, 30)
        if block.kind == "table":
            return self.table_block(block.rows)
        if block.kind == "quote":
            self.quote(block.text)
        elif block.kind == "li":
            self.item(block.text)
        else:
            self.lines(block.text, first=2)
        self.ln(0 if following and following.kind == block.kind == "quote" else 1.6)

    def heading(self, level: int, text: str) -> None:
        """标题：进大纲，且不落在页底（下面至少还要容得下三行）。"""
        self.ln({1: 0, 2: 4.5, 3: 1.2}[level])
        if self.will_page_break(LINE_HEIGHT * 4):
            self.add_page()
        self.set_font(FONT, size=HEADING_SIZE[level])
        self.set_text_color(*BLUE)
        self.start_section(text, level - 1)
        self.cell(0, 9, text, align="C" if level == 1 else "L", new_x="LMARGIN", new_y="NEXT")
        if level == 2:
            self.set_draw_color(*BLUE)
            self.line(self.l_margin, self.get_y(), self.l_margin + self.epw, self.get_y())
        self.ln({1: 4, 2: 2.2, 3: 0}[level])

    def quote(self, text: str) -> None:
        """浅色底的提示框。"""
        self.set_fill_color(*PALE)
        top = self.get_y()
        self.rect(self.l_margin, top, self.epw, 1.5, style="F")
        self.set_y(top + 1.5)
        self.lines(text, indent=4, fill=True)
        self.rect(self.l_margin, self.get_y(), self.epw, 1.5, style="F")
        self.set_y(self.get_y() + 1.5)

    def item(self, text: str) -> None:
        """列表项：记号悬在左边，文字对齐。"""
        mark, content = text.split(" ", 1)
        if self.will_page_break(LINE_HEIGHT):
            self.add_page()
        self.set_x(self.l_margin + 3)
        self.cell(5, LINE_HEIGHT, mark)
        self.lines(content, indent=9)

    def table_block(self, rows: tuple[tuple[str, ...], ...]) -> None:
        """表格：首行为表头；列数不齐时报 LabError。"""
        uneven = [row for row in rows if len(row) != len(rows[0])]
        if uneven:
            raise LabError(f"表格的列数不一致：“{' | '.join(uneven[0])}”这一行，请补齐单元格。")
        if self.will_page_break(8 * len(rows)):
            self.add_page()
        self.ln(1)
        self.set_draw_color(150, 165, 190)
        self.set_fill_color(255, 255, 255)
        style = FontFace(emphasis=None, color=BLUE, fill_color=PALE)
        with self.table(
            rows, headings_style=style, line_height=7.5, text_align="CENTER",
            borders_layout=TableBordersLayout.ALL, wrapmode="CHAR",
        ):
            pass
        self.ln(3)


def check_coverage(source: str, font: Path) -> None:
    """字体缺字时报 LabError：fpdf2 只记日志并悄悄丢字，所以要先查。"""
    from fontTools.ttLib import TTFont

    with TTFont(font, lazy=True) as face:
        covered = set(face.getBestCmap())
    missing = {c for c in source if ord(c) not in covered and not c.isspace()}
    for number, line in enumerate(source.splitlines(), 1):
        if found := missing & set(line):
            letters = "".join(sorted(found))
            raise LabError(f"第 {number} 行有字体里没有的字“{letters}”，请换一个写法。")


def make_pdf(source: Path, target: Path) -> int:
    """把 source（Markdown）排成 target（PDF），返回页数。

    读不到文件、内容为空、字体缺字、表格列数不齐时报 LabError。
    """
    try:
        text = Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"读不了 Markdown 文件 {source}：请检查路径，并存成 UTF-8 编码。") from error
    blocks = parse_markdown(text)
    if not blocks:
        raise LabError(f"Markdown 文件 {source} 没有内容，请先写好文档。")
    font = font_path()
    check_coverage(text, font)
    title = next((block.text for block in blocks if block.kind == "h1"), Path(source).stem)
    document = Document(title, font)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        document.write_block(block, following)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    document.output(str(target))
    return document.pages_count


def main(arguments: list[str]) -> int:
    """命令行入口：成功返回 0，出错打印一句话并返回 1。"""
    if len(arguments) != 2:
        print("用法：python -m tools.make_pdf 文档.md 文档.pdf", file=sys.stderr)
        return 1
    try:
        pages = make_pdf(Path(arguments[0]), Path(arguments[1]))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"已生成 {arguments[1]}，共 {pages} 页")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
