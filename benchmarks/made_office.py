"""办公软件写出的文档：python-docx、python-pptx、手写的 .docx 与 .ofd，以及 LibreOffice 由它们导出的 PDF。"""

import re
import subprocess
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import docx
import pptx
from docx.enum.section import WD_SECTION
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls, qn
from docx.shared import Mm, Pt
from made_text import Paragraph, Writer, chinese

SERIF = "Noto Serif CJK SC"
WITH_FORMS = 'pdf:writer_pdf_Export:{"ExportFormFields":{"type":"boolean","value":"true"}}'


def to_pdf(source: Path, target: Path) -> None:
    """LibreOffice 把 source 另存为 PDF。"""
    profile = f"-env:UserInstallation=file://{target.parent.resolve()}/.office"
    kind = "pdf" if source.suffix == ".pptx" else WITH_FORMS
    subprocess.run(["soffice", profile, "--headless", "--convert-to", kind, "--outdir",
                    str(source.parent), str(source)], check=True, capture_output=True, timeout=300)
    source.with_suffix(".pdf").replace(target)


def new_docx():
    document = docx.Document()
    document.sections[0].page_width, document.sections[0].page_height = Mm(210), Mm(297)
    for style in ("Normal", "Heading 1", "Heading 2", "Title"):
        font = document.styles[style].font
        font.name = SERIF
        document.styles[style].element.rPr.rFonts.set(qn("w:eastAsia"), SERIF)
    document.styles["Normal"].font.size = Pt(12)
    return document


def add(document, paragraphs: Iterable[Paragraph]) -> list[Paragraph]:
    """各段写进 document：标题用标题样式，正文首行缩进两字。"""
    paragraphs = list(paragraphs)
    for item in paragraphs:
        if item.kind == "title":
            document.add_heading(item.text, 1 if item.text.startswith("第") else 2)
        else:
            document.add_paragraph(item.text).paragraph_format.first_line_indent = Pt(24)
    return paragraphs


def page_number(footer, before: str = "— ", after: str = " —") -> None:
    paragraph = footer.paragraphs[0]
    paragraph.alignment = 1
    paragraph.add_run(before)
    field = f'<w:fldSimple {nsdecls("w")} w:instr="PAGE"><w:r><w:t>1</w:t></w:r></w:fldSimple>'
    paragraph._p.append(parse_xml(field))
    paragraph.add_run(after)


def _exported(path: Path, name: str, make: Callable[[Path], Any]) -> Any:
    """先用 make 写出 name 这份文件，再导出成 PDF；返回 make 的返回。"""
    source = path.parent / ".source" / name
    source.parent.mkdir(exist_ok=True)
    truth = make(source)
    to_pdf(source, path)
    return truth


def save_pdf(document, path: Path) -> None:
    _exported(path, f"{path.stem}.docx", document.save)


def regulations(path: Path) -> list[Paragraph]:
    """规章：“第一条”后面轮流是全角空格、半角空格；页脚“— 3 —”。"""
    document, writer = new_docx(), Writer(1)
    title = Paragraph("教学设施使用与管理办法", [], "title")
    document.add_heading(title.text, 0)
    page_number(document.sections[0].footer)
    truth = [title, *add(document, writer.regulation(9, 12))]
    save_pdf(document, path)
    return truth


def handbook(path: Path, chapters: int = 14, sections: int = 4, paragraphs: int = 8) -> list[Paragraph]:
    """手册：偶数页眉是书名，奇数页眉是这一章的名字，页脚“— 3 —”。"""
    document, writer, truth = new_docx(), Writer(2), []
    document.settings.odd_and_even_pages_header_footer = True
    for number in range(1, chapters + 1):
        part = list(writer.chapters(1, sections, paragraphs))
        part[0].text = part[0].text.replace("第一章", f"第{chinese(number)}章")
        section = document.sections[0] if number == 1 else document.add_section(WD_SECTION.NEW_PAGE)
        section.header.is_linked_to_previous = False
        section.header.paragraphs[0].text = part[0].text
        if number == 1:
            section.even_page_header.paragraphs[0].text = "教学运行手册（二〇二六年版）"
            page_number(section.footer)
            page_number(section.even_page_footer)
        truth += add(document, part)
    save_pdf(document, path)
    return truth


def long_handbook(path: Path) -> list[Paragraph]:
    """更长的手册，用来计时：4 秒以内。"""
    return handbook(path, 21, 6, 9)


def bulletin(path: Path) -> list[Paragraph]:
    """简报：Word 里分两栏，通栏的标题，页脚有页码。"""
    document, writer = new_docx(), Writer(3)
    title = Paragraph("教学督导工作简报", [], "title")
    document.add_heading(title.text, 0)
    section = document.add_section(WD_SECTION.CONTINUOUS)
    section._sectPr.append(parse_xml(f'<w:cols {nsdecls("w")} w:num="2" w:space="425"/>'))
    page_number(section.footer, "第 ", " 页")
    truth = [title, *add(document, writer.chapters(3, 2, 6))]
    save_pdf(document, path)
    return truth


def register(path: Path) -> list[Paragraph]:
    """登记簿：Word 的表，每页重复表头，有的格子折行；前后有正文，页脚“第 3 页 共 6 页”。"""
    document, writer, truth = new_docx(), Writer(9), []
    page_number(document.sections[0].footer, "第 ", " 页 共 6 页")
    for part in range(1, 4):
        heads = ["编号", f"第{chinese(part)}批事项", "份数", "办理人"]
        truth += add(document, [writer.title(f"{chinese(part)}、"), writer.prose(2, 4)])
        table = document.add_table(1, len(heads), style="Table Grid")
        table.rows[0]._tr.get_or_add_trPr().append(parse_xml(f'<w:tblHeader {nsdecls("w")}/>'))
        rows = [[writer.serial(), writer.title().text + "（须当面核对）" * (number % 3 == 0),
                 str(writer.random.randint(2, 4000)), writer.name()] for number in range(24)]
        for cell, head in zip(table.rows[0].cells, heads, strict=True):
            cell.text = head
        for row in rows:
            line = table.add_row()
            line._tr.get_or_add_trPr().append(parse_xml(f'<w:cantSplit {nsdecls("w")}/>'))
            for cell, text in zip(line.cells, row, strict=True):
                cell.text = text
        truth += [*(Paragraph("".join(heads), [], kind) for kind in ("title", "again", "again")),
                  *map(writer.row, rows)]
        truth += add(document, [writer.prose(2, 3)])
    save_pdf(document, path)
    return truth


def vertical(path: Path) -> list[Paragraph]:
    """直排：Word 里“文字方向”选垂直，从右往左读。"""
    document, writer = new_docx(), Writer(4)
    sect = document.sections[0]._sectPr
    sect.append(parse_xml(f'<w:textDirection {nsdecls("w")} w:val="tbRl"/>'))
    document.styles["Normal"].paragraph_format.widow_control = False  # 不关，LibreOffice 有时把两段叠在一起
    truth = add(document, [Paragraph("校园旧事辑录", [], "title"), *(writer.prose(2, 4) for _ in range(14))])
    save_pdf(document, path)
    return truth


def form(path: Path) -> list[Paragraph]:
    """登记表：可填写的内容控件导出成表单域，值在域的外观里。"""
    document, writer, truth = new_docx(), Writer(5), []
    for _ in range(10):
        truth += add(document, [writer.title("表："), writer.prose(1, 2)])
        table = document.add_table(0, 2, style="Table Grid")
        for label in ("申请人", "所在学院", "联系电话", "申请理由"):
            value = f"{writer.name()}{writer.serial()}"
            cells = table.add_row().cells
            cells[0].text = label
            cells[1].paragraphs[0]._p.append(parse_xml(
                f'<w:sdt {nsdecls("w")}><w:sdtPr><w:alias w:val="{label}"/><w:text/></w:sdtPr><w:sdtContent>'
                f"<w:r><w:t>{value}</w:t></w:r></w:sdtContent></w:sdt>"))
            truth.append(writer.row([label, value]))
    save_pdf(document, path)
    return truth


def slides(path: Path) -> list[Paragraph]:
    """课件：同一个标题连着三张，最后一张是思考题。"""
    deck, writer, truth = pptx.Presentation(), Writer(6), []
    for chapter in range(1, 9):
        title = writer.title(f"{chapter}. ")
        for number in range(1, 5):
            slide = deck.slides.add_slide(deck.slide_layouts[1])
            if number < 4:
                head = Paragraph(title.text, [], "title" if number == 1 else "again")
                body = [writer.prose(1, 1) for _ in range(3)]
            else:
                question = f"{writer.serial()}号{writer.title().text}，先后次序为什么不能颠倒？"
                head = Paragraph("思考题", [], "title")
                body = [Paragraph(question, [question]), writer.prose(1, 1)]
            slide.shapes.title.text = head.text
            slide.placeholders[1].text = "\n".join(item.text for item in body)
            for paragraph in slide.placeholders[1].text_frame.paragraphs:
                paragraph.runs[0].font.size = Pt(22)
            for item in [head, *body]:
                item.page = len(deck.slides)
            truth += [head, *body]
    deck.save(path)
    return truth


def slides_pdf(path: Path) -> list[Paragraph]:
    """课件导出的 PDF。"""
    return _exported(path, "slides.pptx", slides)


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
M = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
CONTENT = "application/vnd.openxmlformats-officedocument.wordprocessingml"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
BOX = ('<w:r><w:pict><v:shape xmlns:v="urn:schemas-microsoft-com:vml" style="width:200pt;height:60pt">'
       "<v:textbox><w:txbxContent><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:txbxContent></v:textbox></v:shape></w:pict></w:r>")


def word(path: Path) -> list[Paragraph]:
    """手写的 .docx：自动编号的“第一条”“（一）”、脚注、文本框、公式。"""
    writer, truth, body, notes = Writer(7), [], [], []
    for number in range(1, 41):
        article = writer.prose(1, 2)
        body.append(_numbered(0, article.text))
        truth.append(Paragraph(f"第{chinese(number)}条{article.text}", article.sentences))
        if number % 5 == 0:
            for item in range(1, 4):
                point = writer.prose(1, 1)
                body.append(_numbered(1, point.text))
                truth.append(Paragraph(f"（{chinese(item)}）{point.text}", point.sentences))
        if number % 8 == 0:
            notes.append(writer.prose(1, 1, "note"))
            body.append(f'<w:p><w:r><w:t>另见脚注</w:t></w:r><w:r><w:footnoteReference w:id="{len(notes) + 1}'
                        '"/></w:r><w:r><w:t>。</w:t></w:r></w:p>')
            box = writer.prose(1, 1, "note")
            body.append(f"<w:p>{BOX.format(box.text)}</w:p>")
            formula = f"y{number}=kx{number}"
            body.append(f"<w:p><m:oMath {M}><m:r><m:t>{formula}</m:t></m:r></m:oMath></w:p>")
            truth += [Paragraph("另见脚注。"), notes[-1], box, Paragraph(formula)]
    _write_word(path, "".join(body), notes)
    return truth


def word_pdf(path: Path) -> list[Paragraph]:
    """word.docx 导出的 PDF：编号、脚注、文本框都成了画在页上的字。"""
    return _exported(path, "word.docx", word)


def _numbered(level: int, text: str) -> str:
    return (f'<w:p><w:pPr><w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="1"/></w:numPr></w:pPr>'
            f"<w:r><w:t>{text}</w:t></w:r></w:p>")


def _write_word(path: Path, body: str, notes: list[Paragraph]) -> None:
    levels = "".join(
        f'<w:lvl w:ilvl="{level}"><w:start w:val="1"/><w:numFmt w:val="chineseCountingThousand"/>'
        f'<w:lvlText w:val="{shape}"/></w:lvl>' for level, shape in enumerate(("第%1条", "（%2）")))
    footnotes = "".join(f'<w:footnote w:id="{number}"><w:p><w:r><w:footnoteRef/></w:r><w:r><w:t>{note.text}'
                        "</w:t></w:r></w:p></w:footnote>" for number, note in enumerate(notes, 2))
    parts = {"document": f"<w:document {W}><w:body>{body}</w:body></w:document>",
             "numbering": f'<w:numbering {W}><w:abstractNum w:abstractNumId="0">{levels}</w:abstractNum>'
                          '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num></w:numbering>',
             "footnotes": f"<w:footnotes {W}>{footnotes}</w:footnotes>",
             "styles": f"<w:styles {W}></w:styles>"}
    kinds = "".join(f'<Override PartName="/word/{name}.xml" ContentType="{CONTENT}.'
                    f'{"document.main" if name == "document" else name}+xml"/>' for name in parts)
    links = "".join(f'<Relationship Id="r{name}" Type="{OFFICE}/{name}" Target="{name}.xml"/>'
                    for name in parts if name != "document")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("[Content_Types].xml", f'<Types xmlns="{PACKAGE}/content-types"><Default '
                      'Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships'
                      f'+xml"/>{kinds}</Types>')
        file.writestr("_rels/.rels", f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" '
                      f'Type="{OFFICE}/officeDocument" Target="word/document.xml"/></Relationships>')
        file.writestr("word/_rels/document.xml.rels",
                      f'<Relationships xmlns="{PACKAGE}/relationships">{links}</Relationships>')
        for name, xml in parts.items():
            file.writestr(f"word/{name}.xml", f'<?xml version="1.0" encoding="UTF-8"?>{xml}')


OFD = 'xmlns:ofd="http://www.ofdspec.org/2016"'


def ofd(path: Path) -> list[Paragraph]:
    """公文用的 .ofd：一行一个 TextObject，坐标是毫米。"""
    writer, truth, pages = Writer(8), [], []
    for number in range(1, 5):
        items = [writer.prose(1, 2) for _ in range(8)]
        lines = [line for item in items for line in _lines("\u3000\u3000" + item.text, 157)]
        pages.append("".join(
            f'<ofd:TextObject ID="{number * 1000 + i}" Boundary="25 {20 + 7 * i} 160 6" Font="1" Size="4.6">'
            f'<ofd:TextCode X="0" Y="5" DeltaX="{" ".join(str(_wide(one)) for one in line[:-1])}">{line}'
            "</ofd:TextCode></ofd:TextObject>" for i, line in enumerate(lines)))
        truth += [Paragraph(item.text, item.sentences, page=number) for item in items]
    links = "".join(f'<ofd:Page ID="{n}" BaseLoc="Pages/Page_{n}/Content.xml"/>' for n in range(len(pages)))
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("OFD.xml", f'{head}<ofd:OFD {OFD} Version="1.0" DocType="OFD"><ofd:DocBody>'
                      "<ofd:DocRoot>Doc_0/Document.xml</ofd:DocRoot></ofd:DocBody></ofd:OFD>")
        file.writestr("Doc_0/Document.xml", f"{head}<ofd:Document {OFD}><ofd:CommonData><ofd:PageArea><ofd:"
                      "PhysicalBox>0 0 210 297</ofd:PhysicalBox></ofd:PageArea></ofd:CommonData><ofd:Pages>"
                      f"{links}</ofd:Pages></ofd:Document>")
        for number, page in enumerate(pages):
            file.writestr(f"Doc_0/Pages/Page_{number}/Content.xml", f'{head}<ofd:Page {OFD}><ofd:Content>'
                          f'<ofd:Layer ID="9{number}">{page}</ofd:Layer></ofd:Content></ofd:Page>')
    return truth


def _wide(letter: str) -> float:
    """4.6 毫米的字号，一个字多宽。"""
    return 2.3 if letter.isascii() else 4.6


def _lines(text: str, size: int) -> list[str]:
    """折成至多 size 毫米宽的行；西文词不断开。"""
    lines = [""]
    for word in re.findall("[!-~]+|.", text):
        if sum(map(_wide, lines[-1] + word)) > size:
            lines.append("")
        lines[-1] += word
    return lines
