"""排版与打印出的 PDF：XeLaTeX（ctex）、Chromium 打印、fpdf2，以及由它们变成的扫描件。"""

import html
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import zhplot
from fpdf import FPDF
from made_text import Paragraph, Writer, chinese
from PIL import Image, ImageChops, ImageDraw, ImageOps

TTF = next((Path(zhplot.__file__).parent / "fonts").rglob("*.ttf"))
NOTO = Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc")
CHROMIUM = os.environ.get("LAB_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


# ---- XeLaTeX ----

def typeset(path: Path, head: str, body: str) -> None:
    """排两遍，目录的页码才对。"""
    folder = path.parent / ".source"
    folder.mkdir(exist_ok=True)
    source = folder / f"{path.stem}.tex"
    source.write_text(f"{head}\n\\begin{{document}}\n{body}\n\\end{{document}}\n", "utf-8")
    for _ in range(2):
        subprocess.run(["xelatex", "-interaction=nonstopmode", "-halt-on-error", source.name],
                       cwd=folder, check=True, capture_output=True, timeout=300)
    source.with_suffix(".pdf").replace(path)


def tex(text: str) -> str:
    return text.replace("%", "\\%").replace("#", "\\#").replace("&", "\\&")


def paper(path: Path) -> list[Paragraph]:
    """论文：通栏的标题，正文两栏，每节有几条脚注。"""
    writer, body = Writer(20), []
    abstract = writer.prose(3, 3)
    truth = [Paragraph("校园事务办理流程的一次调查", [], "title"), Paragraph("作者：" + writer.name()),
             Paragraph("摘要", [], "title"), abstract]
    for number in range(1, 9):
        title = writer.title()
        body.append(f"\\section{{{title.text}}}")
        truth.append(Paragraph(f"{number} {title.text}", [], "title"))
        for part in range(8):
            item = writer.prose(2, 4)
            note = writer.prose(1, 1, "note") if part % 3 == 1 else None
            first, rest = item.sentences[0], "".join(item.sentences[1:])
            body.append(tex(first) + (f"\\footnote{{{tex(note.text)}}}" if note else "") + tex(rest) + "\n")
            truth += [item, note] if note else [item]
    typeset(path, "\\documentclass[twocolumn,UTF8,fontset=fandol,a4paper]{ctexart}",
            f"\\title{{{truth[0].text}}}\\author{{{truth[1].text}}}\\date{{}}\n\\maketitle\n"
            f"\\begin{{abstract}}\n{tex(abstract.text)}\n\\end{{abstract}}\n" + "\n".join(body))
    return truth


def essay(path: Path) -> list[Paragraph]:
    """一栏的文章：脚注多，句子常跨页，页眉左边是节名、右边是页码。"""
    writer, body, truth = Writer(29), [], []
    for number in range(1, 7):
        title = writer.title()
        body.append(f"\\section{{{title.text}}}")
        truth.append(Paragraph(f"{number} {title.text}", [], "title"))
        for _ in range(6):
            item, note = writer.prose(3, 6), writer.prose(1, 1, "note")
            middle = len(item.sentences) // 2
            first, rest = "".join(item.sentences[:middle]), "".join(item.sentences[middle:])
            body.append(f"{tex(first)}\\footnote{{{tex(note.text)}}}{tex(rest)}\n")
            truth += [item, note]
    typeset(path, "\\documentclass[UTF8,fontset=fandol,a4paper]{ctexart}\n\\pagestyle{headings}",
            "\n".join(body))
    return truth


FORMULAS = ("\\int_0^1 x^{%d}\\,\\mathrm{d}x=\\frac{1}{%d}",
            "\\sum_{i=1}^{n}\\alpha_i^{%d}\\le\\sqrt{\\beta+%d}",
            "\\begin{pmatrix}a_{%d}&0\\\\0&b\\end{pmatrix}\\cdot\\vec{v}=%d")


def thesis(path: Path) -> list[Paragraph]:
    """学位论文：目录、每章的页眉、行内与单独成行的公式。"""
    writer, body, contents, truth = Writer(21), [], [], []
    for chapter in range(1, 7):
        title = writer.title()
        body.append(f"\\chapter{{{title.text}}}")
        entry = Paragraph(f"第{chinese(chapter)}章 {title.text}", [], "title")
        contents.append(entry)
        truth.append(entry)
        for _ in range(3):
            title = writer.title()
            body.append(f"\\section{{{title.text}}}")
            contents.append(title)
            truth.append(title)
            for part in range(5):
                item = writer.prose(2, 4)
                inline = f"记 $x_{{{part}}}^2+\\gamma\\neq {chapter}$，" if part % 2 else ""
                body.append(f"{inline}{tex(item.text)}\n")
                truth.append(Paragraph(("记，" if inline else "") + item.text, item.sentences))
                if part == 2:
                    formula = FORMULAS[chapter % 3] % (chapter, chapter + 1)
                    body.append(f"\\begin{{equation}}\n{formula}\n\\end{{equation}}\n")
    typeset(path, "\\documentclass[UTF8,fontset=fandol,a4paper,oneside,openany]{ctexbook}\n"
            "\\usepackage{amsmath}\n\\pagestyle{headings}", "\\tableofcontents\n" + "\n".join(body))
    return [Paragraph("目录", [], "title"), *contents, *truth]


def lecture(path: Path) -> list[Paragraph]:
    """beamer 课件：项目符号、定义框，每页底下是作者、短标题与页码。"""
    writer, truth, frames = Writer(28), [], []
    for page in range(1, 21):
        title, items, block = writer.title(), [writer.prose(1, 1) for _ in range(2)], writer.prose(1, 1)
        frames.append(f"\\begin{{frame}}{{{title.text}}}\\begin{{itemize}}"
                      + "".join(f"\\item {tex(item.text)}" for item in items) + "\\end{itemize}"
                      f"\\begin{{block}}{{定义 {page}}}{tex(block.text)}\\end{{block}}\\end{{frame}}")
        truth += [title, *items, Paragraph(f"定义{page}", [], "title"), block]
    head = ("\\documentclass[UTF8,fontset=fandol]{ctexbeamer}\\usetheme{Madrid}\n"
            "\\setbeamertemplate{navigation symbols}{}\\title[事务办理]{校园事务}\\author{俞平山}\\date{}")
    typeset(path, head, "\n".join(frames))
    return truth


# ---- Chromium ----

def web_print(path: Path, title: str, body: str, *options: str) -> None:
    source = path.parent / ".source" / f"{path.stem}.html"
    source.parent.mkdir(exist_ok=True)
    style = ("@page{size:A4}body{font-family:'Noto Sans CJK SC';font-size:12pt;line-height:1.6}"
             "table{border-collapse:collapse}td,th{border:1px solid #333;padding:2px 8px}"
             "p{text-indent:2em;text-align:justify}")
    source.write_text(f'<!doctype html><html lang="zh-CN"><meta charset="utf-8"><title>{title}</title>'
                      f"<style>{style}</style><body>{body}</body></html>", "utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={path.resolve()}",
               *options, source.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def web_handbook(path: Path) -> list[Paragraph]:
    """网页打印成 PDF：页眉是日期与标题，页脚是网址与页码。"""
    writer = Writer(22)
    truth = [Paragraph("新生入学指南", [], "title"), *writer.chapters(4, 3, 7)]
    tags = {"title": "h2", "prose": "p"}
    body = "".join(f"<{tags[item.kind]}>{html.escape(item.text)}</{tags[item.kind]}>" for item in truth)
    web_print(path, "新生入学指南", body)
    return truth


def plan(path: Path) -> list[Paragraph]:
    """培养方案：每学期一张表，跨行的类别格，跨页时重复表头，有的格子里要折行。"""
    writer, truth, body = Writer(23), [], []
    for term in range(1, 9):
        heads = ["代号", "类别", f"第{chinese(term)}学期的课程", "学分", "学时", "考核方式", "开课单位"]
        title, text = writer.title(f"{chinese(term)}、"), writer.prose(2, 3)
        body.append(f"<h3>{title.text}</h3><p>{html.escape(text.text)}</p>")
        body.append(f"<table><thead>{_row('th', heads)}</thead>")
        truth += [title, text, *(Paragraph("".join(heads), [], kind) for kind in ("title", "again", "again"))]
        for group in range(3):
            kind = Paragraph(("通识必修", "学科基础", "专业选修")[group], [], "note")
            truth.append(kind)
            for line in range(5):
                cells = _course(writer, long=line == 3)
                span = f'<td rowspan="5">{kind.text}</td>' if line == 0 else ""
                row = _row("td", cells).replace("</td>", f"</td>{span}", 1)
                body.append(row)
                truth.append(Paragraph("".join(cells), ["".join(cells[1:])], "row"))  # 代号后面可以是类别
        body.append("</table>")
    web_print(path, "培养方案", "".join(body), "--no-pdf-header-footer")
    return truth


def _course(writer: Writer, long: bool) -> list[str]:
    pick = writer.random.choice
    hours, way, unit = pick([16, 32, 48, 64]), pick(["考试", "考查"]), pick(["数学院", "体育部"])
    name = writer.title().text + ("（含课内上机与校外参观，须先修前一学期的同名课程）" if long else "")
    return [writer.serial(), name, f"{hours / 16:.1f}", str(hours), way, unit]


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


# ---- fpdf2 ----

class Sheet(FPDF):
    """页脚是“— 3 —”的 A4 文档。"""

    numbered = True

    def __init__(self, font: Path = TTF, size: float = 12):
        super().__init__()
        self.add_font("zh", fname=font)
        self.set_font("zh", size=size)
        self.set_margins(25, 25)
        self.set_auto_page_break(True, 25)
        self.add_page()

    def footer(self) -> None:
        if self.numbered:
            self.set_y(-18)
            self.cell(0, 6, f"— {self.page_no()} —", align="C")

    def write_all(self, paragraphs: Iterable[Paragraph]) -> Iterator[Paragraph]:
        for item in paragraphs:
            start = "" if item.kind == "title" else "\u3000\u3000"
            self.multi_cell(0, 7.5, start + item.text, new_x="LMARGIN", new_y="NEXT", wrapmode="CHAR")
            yield item


SAME_SHAPE = str.maketrans("行方月日人见风长门青页飞食马鱼龙用生目里金黄",
                           "⾏⽅⽉⽇⼈⻅⻛⻓⻔⻘⻚⻜⻝⻢⻥⻰⽤⽣⽬⾥⾦⻩")


def report(path: Path) -> list[Paragraph]:
    """fpdf2 加 Noto Sans CJK（CFF 轮廓），用到的字超过 256 个；一部分存成了同形的部首，如“⾏”。"""
    sheet, truth = Sheet(NOTO), list(Writer(24).chapters(5, 2, 6))
    list(sheet.write_all(Paragraph(item.text.translate(SAME_SHAPE), kind=item.kind) for item in truth))
    sheet.output(path)
    return truth


def bold(path: Path) -> list[Paragraph]:
    """没有粗体的字库：标题与段首的话稍稍错开画三遍。"""
    sheet, writer, truth = Sheet(), Writer(25), []
    for item in writer.chapters(4, 2, 5):
        if item.kind == "title":
            for shift in (0.15, 0.3):
                sheet.text(25 + shift + 1, sheet.get_y() + 5.2, item.text)
            sheet.text(26, sheet.get_y() + 5.2, item.text)
            sheet.ln(8)
        else:
            list(sheet.write_all([item]))
        truth.append(item)
    sheet.output(path)
    return truth


def notice(path: Path) -> list[Paragraph]:
    """红头文件：红色的机关名与横线、文号、附件、压在落款上的圆章。"""
    sheet, writer = Sheet(size=15), Writer(26)
    sheet.set_text_color(200, 0, 0)
    sheet.set_font_size(34)
    head = Paragraph("江北综合大学文件", [], "title")
    sheet.cell(0, 22, head.text, align="C", new_x="LMARGIN", new_y="NEXT")
    sheet.set_text_color(0)
    sheet.set_font_size(15)
    number = Paragraph("江大教〔2026〕18号", [], "title")
    sheet.cell(0, 10, number.text, align="C", new_x="LMARGIN", new_y="NEXT")
    sheet.set_draw_color(200, 0, 0)
    sheet.line(25, sheet.get_y() + 2, 185, sheet.get_y() + 2)
    sheet.ln(10)
    title = writer.title("关于做好")
    sheet.multi_cell(0, 10, title.text + "的通知", align="C", new_x="LMARGIN", new_y="NEXT")
    body = [Paragraph("各学院、各部门：", [], "title")]
    for part in range(1, 5):
        body += [writer.title(f"{chinese(part)}、"), writer.prose(2, 3), writer.prose(1, 2, start="（一）"),
                 writer.prose(1, 2, start="（二）")]
    body.append(Paragraph("附件：1.任务分工表\u30002.时间安排表"))
    truth = [head, number, Paragraph(title.text + "的通知", [], "title"), *sheet.write_all(body)]
    sheet.ln(8)
    sheet.image(_seal(), x=135, y=sheet.get_y() - 8, w=40)
    for text in ("江北综合大学", "2026年9月1日"):
        sheet.cell(150, 9, text, align="R", new_x="LMARGIN", new_y="NEXT")
        truth.append(Paragraph(text))
    sheet.output(path)
    return truth


def _seal() -> Image.Image:
    image = Image.new("RGBA", (400, 400))
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 10, 390, 390), outline=(210, 0, 0, 180), width=14)
    draw.regular_polygon((200, 200, 70), 5, fill=(210, 0, 0, 180))
    return image


def scan(path: Path) -> list[Paragraph]:
    """扫描件：150 dpi，歪 1 度，底色发灰，有噪点；只有图，没有字。"""
    import pypdfium2

    sheet, writer, truth = Sheet(), Writer(27), []
    sheet.numbered = False
    for number in range(1, 5):
        items = [writer.title(f"{chinese(number)}、"), *(writer.prose(1, 2) for _ in range(6))]
        for item in sheet.write_all(items):
            item.page = number
            truth.append(item)
        if number < 4:
            sheet.add_page()
    document = pypdfium2.PdfDocument(bytes(sheet.output()))
    pages = [_scanned(page.render(scale=150 / 72).to_pil().convert("L")) for page in document]
    pages[0].save(path, save_all=True, append_images=pages[1:], resolution=150, title="扫描件")
    return truth


def _scanned(page: Image.Image) -> Image.Image:
    tilted = page.rotate(1, Image.Resampling.BICUBIC, fillcolor=255)
    grey = ImageChops.multiply(tilted, Image.new("L", page.size, 225))
    noise = Image.effect_noise(page.size, 24)
    return ImageOps.autocontrast(Image.blend(grey, noise, 0.12), cutoff=0)
