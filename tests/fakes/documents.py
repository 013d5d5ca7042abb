"""现做一批 PDF、幻灯片、OFD：每个函数写一份到 path 并返回它；读不了的取出那一句话。

PDF 的文字取自这里的常量，测试好对照。
"""

import io
import re
import zipfile
from pathlib import Path

import pptx
import pypdf
import pytest
import zhplot
from fpdf import FPDF
from PIL import Image
from pptx.util import Cm
from pypdf.generic import NameObject

from labutils.base.errors import LabError
from labutils.dataset.formats import read_pages

FONT = next((Path(zhplot.__file__).parent / "fonts").rglob("*.ttf"))

LEFT = [
    "学校图书馆面向全体师生开放，每周开放六天，周一上午闭馆整理图书。读者凭校园卡入馆，"
    "一人一卡，不得转借他人使用。",
    "借书期限是三十天，到期前可以在网上续借一次，续借期限为十五天；逾期不还的，每天交两角。",
    "自习室座位采用预约制，每人每天可以预约两次，每次最多四小时，迟到二十分钟的预约自动取消。",
] * 2
RIGHT = [
    "体育馆在工作日的晚上对校外居民开放，入场须出示身份证件，未成年人应当由监护人陪同进入。",
    "游泳池的水深为一米二到两米，开放时配备四名持证救生员；雷雨天气停止开放，已购的票可以退。",
    "器材损坏的，使用人应当照价赔偿，并在三日以内到值班室办理登记手续，逾期由所在单位催办。",
] * 2


def new_pdf(size=11) -> FPDF:
    pdf = FPDF()
    pdf.set_auto_page_break(False)
    pdf.add_font("zh", fname=FONT)
    pdf.set_font("zh", size=size)
    return pdf


def save(pdf, path):
    pdf.output(path)
    return path


def wrap(paragraphs: list[str], per_line: int) -> list[str]:
    """段首空两格，写满 per_line 个字就换行。"""
    lines = []
    for text in paragraphs:
        text = "\u3000\u3000" + text
        lines += [text[i : i + per_line] for i in range(0, len(text), per_line)]
    return lines


def column(pdf, x, lines, top=40, step=6):
    for i, line in enumerate(lines):
        pdf.text(x, top + i * step, line)


def two_columns(path, by_row=False, title="校园设施使用指南"):
    """by_row：一行左、一行右地画，许多办公软件“另存为”就是这样。"""
    pdf = new_pdf(10)
    pdf.add_page()
    pdf.set_font("zh", size=16)
    pdf.text(70, 25, title)
    pdf.set_font("zh", size=10)
    left, right = wrap(LEFT, 24), wrap(RIGHT, 24)
    if by_row:
        for i in range(max(len(left), len(right))):
            column(pdf, 15, left[i : i + 1], 40 + i * 6)
            column(pdf, 110, right[i : i + 1], 40 + i * 6)
    else:
        column(pdf, 15, left)
        column(pdf, 110, right)
    pdf.text(103, 285, "1")
    return save(pdf, path)


def tables(path):
    pdf = new_pdf(10)
    for number in (1, 2):
        pdf.add_page()
        pdf.text(15, 15, f"附件{number} 各学院课程统计")
        pdf.set_y(20)
        rows = [("学院", "课程类型", "门数", "说明")]
        for i in range(12):
            rows.append((f"第{i + 1}学院", "线上课程" if i % 2 else "线下课程", str(10 * number + i),
                         "含两门虚拟仿真实验教学课程，其中一门为跨校共建" if i % 3 == 0 else "无"))
        with pdf.table(col_widths=(30, 30, 20, 50), wrapmode="CHAR", first_row_as_headings=False) as table:
            for row in rows:
                table.row(row)
        pdf.text(100, 290, f"- {number} -")
    return save(pdf, path)


WRAPPED = [
    ("项目", "负责部门", "期限", "说明"),
    ("学籍注册", "教务处", "每学期第一周", "逾期两周未注册又未请假的，按自动退学处理，特殊情况可以延期。"),
    ("缓考申请", "", "考试前三天", "因病缓考须附二级以上医院证明。"),
    ("成绩复核", "教务处与开课学院共同受理，先由开课学院核对试卷再报教务处", "", "只核对有无漏评。"),
    ("校外实习", "", "", ""),
]


def wrapped_table(path):
    """有空格子、有折成几行的格子。"""
    pdf = new_pdf(10)
    pdf.add_page()
    pdf.multi_cell(0, 7, "一、办事一览", new_x="LMARGIN", new_y="NEXT")
    with pdf.table(col_widths=(25, 45, 30, 80), wrapmode="CHAR", first_row_as_headings=False) as table:
        for row in WRAPPED:
            table.row(row)
    pdf.multi_cell(0, 7, "二、附则")
    return save(pdf, path)


def grey_image(pdf, x=0, y=0, w=210):
    buffer = io.BytesIO()
    Image.new("RGB", (60, 80), "gray").save(buffer, "PNG")
    pdf.image(buffer, x, y, w)


def scanned(path, text_pages=()):
    pdf = new_pdf()
    for number in range(1, 5):
        pdf.add_page()
        if number in text_pages:
            pdf.text(20, 30, f"第{number}页：{LEFT[number - 1][:30]}。")
        else:
            grey_image(pdf)
            pdf.text(103, 290, str(number))
    return save(pdf, path)


def long_document(path, count=300):
    pdf = new_pdf(11)
    for number in range(1, count + 1):
        pdf.add_page()
        pdf.text(15, 12, "学生手册（合订本）")
        pdf.text(160, 12, f"第{(number - 1) // 20 + 1}章")
        first = f"第{number}页的规定自公布之日起施行。" + LEFT[0] + RIGHT[0]
        body = [first, LEFT[1] + RIGHT[1], *LEFT[:3], *RIGHT[:3]]
        column(pdf, 20, wrap(body, 42), 30)
        pdf.text(100, 290, f"{number} / {count}")
    return save(pdf, path)


VERTICAL = LEFT[0] + LEFT[1]


def vertical(path, by_row=False, per_column=12):
    """直排：一字一画，从上往下、从右往左地读。by_row：画的时候却是一横排一横排的。"""
    pdf = new_pdf(14)
    pdf.add_page()
    cells = [divmod(i, per_column) for i in range(len(VERTICAL))]
    for c, r in sorted(cells, key=lambda cell: cell[::-1]) if by_row else cells:
        pdf.text(150 - 12 * c, 40 + 7 * r, VERTICAL[c * per_column + r])
    return save(pdf, path)


MIXED = [
    "课程 AI in Education（2024 版）面向 K-12 教师，学时 32 h，成绩≥60 分为合格。",
    "参考文献：Vaswani A. Attention Is All You Need. NeurIPS 2017, pp. 5998–6008.",
    "日本語の資料とРусский текст、Ελληνικα也在其中；温度 25℃，误差 ±0.5%。",
]


def mixed_scripts(path):
    pdf = new_pdf(10)
    pdf.add_page()
    column(pdf, 20, MIXED)
    return save(pdf, path)


def no_to_unicode(path, readable_page=False):
    """去掉字体的 ToUnicode，只剩字形编号。readable_page：再加一页好的。"""
    pdf = new_pdf()
    pdf.add_page()
    column(pdf, 20, wrap(LEFT + RIGHT, 30))
    pdf.output(path)
    writer = pypdf.PdfWriter(clone_from=path)
    for font in writer.pages[0]["/Resources"]["/Font"].values():
        del font.get_object()[NameObject("/ToUnicode")]
    if readable_page:
        writer.append(rotated(path.with_name("good.pdf"), 0))
    writer.write(path)
    return path


def running_heads(path):
    """单双页页眉不同，页眉两行，页脚一行。"""
    pdf = new_pdf()
    for number in range(1, 9):
        pdf.add_page()
        pdf.text(20, 10, "某某大学本科教学工作手册" if number % 2 else "第三章 课程建设")
        pdf.text(20, 16, "内部资料 请勿外传")
        column(pdf, 20, wrap([f"第{number}件事：" + LEFT[number % 6], RIGHT[number % 6]], 36), 30)
        pdf.text(20, 285, "教务处编印")
        pdf.text(180, 285, f"·{number}·")
    return save(pdf, path)


def rotated(path, angle=90):
    """整页横放：/Rotate 90。"""
    pdf = new_pdf()
    pdf.add_page()
    column(pdf, 20, wrap(LEFT[:2], 36))
    pdf.output(path)
    writer = pypdf.PdfWriter(clone_from=path)
    writer.pages[0].rotate(angle)
    writer.write(path)
    return path


def spaced(path):
    """分散对齐：每个字之间都有空隙。"""
    pdf = new_pdf()
    pdf.add_page()
    pdf.set_char_spacing(6)
    pdf.text(20, 30, "教育部办公厅文件")
    pdf.set_char_spacing(0)
    for i, char in enumerate("关于开展课程认定工作的通知"):
        pdf.text(20 + 9 * i, 45, char)
    column(pdf, 20, wrap(LEFT, 36), 60)
    return save(pdf, path)


def footnotes_first(path):
    """页脚、页码先画，正文后画（版式软件常这样）。"""
    pdf = new_pdf()
    for number in range(1, 5):
        pdf.add_page()
        pdf.text(100, 290, str(number))
        pdf.text(20, 10, "学习资料")
        column(pdf, 20, wrap([LEFT[number], RIGHT[number]], 36), 30)
    return save(pdf, path)


LONG = "社会实践一流课程要求学生有70%以上的学时到基层去，把社会服务同思想政治教育结合在一起，" * 2
SENTENCE = LONG + "并配有理论指导教师和稳定的实践基地。"


def make_pdf(path, texts, footer=True, encryption=None):
    pdf = FPDF()
    pdf.set_auto_page_break(False)
    pdf.add_font("zh", fname=FONT)
    for number, text in enumerate(texts, 1):
        pdf.add_page()
        pdf.set_font("zh", size=11)
        if text:
            pdf.multi_cell(0, 7, text, wrapmode="CHAR", new_x="LMARGIN", new_y="NEXT")
        if footer and text:
            pdf.set_y(-15)
            pdf.cell(0, 10, f"第 {number} 页", align="C")
    if encryption:
        pdf.set_encryption(**encryption)
    pdf.output(path)
    return path


def image_page(pdf):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "gray").save(buffer, "PNG")
    pdf.add_page()
    pdf.image(buffer, 10, 10, 50)


def error_of(path):
    """读不了的文档的那一句话：写明了文件、只有一行、不带机器路径。"""
    with pytest.raises(LabError) as caught:
        read_pages(path)
    message = str(caught.value)
    assert Path(path).name in message and "\n" not in message and str(path.parent) not in message
    return message


def zipped(path, parts):
    with zipfile.ZipFile(path, "w") as file:
        for name, text in parts.items():
            file.writestr(name, text)
    return path


def rewritten(path, change):
    """把压缩包里的每个 XML 改一遍。"""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    return zipped(path, {name: change(data.decode("utf-8")) if name.endswith((".xml", ".rels")) else data
                         for name, data in parts.items()})


def strict(text):
    """换成“严格”OOXML 的命名空间。"""
    return re.sub(r"http://schemas\.openxmlformats\.org/(\w+)/2006/(main|math|relationships)\b",
                  r"http://purl.oclc.org/ooxml/\1/\2", text)


def text_box(shapes, text, left, top):
    shape = shapes.add_textbox(Cm(left), Cm(top), Cm(5), Cm(1))
    shape.text_frame.text = text
    return shape


def slides(path, *builds, layout=5):
    """每个 build 造一张；版式 5 只有标题。"""
    show = pptx.Presentation()
    for build in builds:
        build(show.slides.add_slide(show.slide_layouts[layout]))
    show.save(path)
    return path


def ofd_line(text, x, y, size=4, delta="", more=""):
    return (f'<o:TextObject Boundary="{x} {y} 100 5" Size="{size}" {more}><o:TextCode X="0" Y="{size}" '
            f'DeltaX="{delta}">{text}</o:TextCode></o:TextObject>')


def ofd(path, *pages, template="", units=""):
    """每页的 XML 一份；template 是垫在每页下面的模板页（红头），units 是反复用的图元。"""
    def element(name, content):
        return f'<o:{name} xmlns:o="urn:o">{content}</o:{name}>'

    places = "".join(f'<o:Page ID="{i}" BaseLoc="Pages/P{i}/Content.xml"/>' for i in range(len(pages)))
    common = '<o:DocumentRes>Res.xml</o:DocumentRes><o:TemplatePage ID="9" BaseLoc="T.xml"/>'
    return zipped(path, {
        "OFD.xml": element("OFD", "<o:DocBody><o:DocRoot>Doc_0/Document.xml</o:DocRoot></o:DocBody>"),
        "Doc_0/Document.xml": element(
            "Document", f"<o:CommonData>{common}</o:CommonData><o:Pages>{places}</o:Pages>"),
        "Doc_0/Res.xml": element("Res", units), "Doc_0/T.xml": element("Page", template),
        **{f"Doc_0/Pages/P{i}/Content.xml": element("Page", f'<o:Template TemplateID="9"/>{text}')
           for i, text in enumerate(pages)}})


SONG = (b"<</Type/Font/Subtype/Type0/BaseFont/STSong-Light/Encoding/%s/DescendantFonts[<</Type/Font"
        b"/Subtype/CIDFontType0/BaseFont/STSong-Light/DW 1000/CIDSystemInfo<</Registry(Adobe)/Ordering(GB1)"
        b"/Supplement 5>>>>]>>")
UTF16 = SONG % b"UniGB-UCS2-H"  # 不嵌入的宋体：字写成 UTF-16


def simple_font(name, rest=b""):
    return b"<</Type/Font/Subtype/TrueType/BaseFont/%s/FirstChar 32/LastChar 126/Widths[%s]%s>>" % (
        name, b"600 " * 95, rest)


def to_unicode(**codes):
    """对照表：一个字节的编码（a22 是 0x22）→ 字。"""
    pairs = b" ".join(b"<%s><%s>" % (code[1:].encode(), char.encode("utf-16-be").hex().encode())
                      for code, char in codes.items())
    return (b"begincmap 1 begincodespacerange <00><ff> endcodespacerange %d beginbfchar %s endbfchar endcmap"
            % (len(codes), pairs))


def draw(text, x=60, y=780, size=12, matrix=b"1 0 0 1"):
    """画一串字（字体 F1）；text 是 bytes 时原样当作编码。"""
    code = text if isinstance(text, bytes) else text.encode("utf-16-be")
    return b"BT /F1 %d Tf %s %d %d Tm <%s> Tj ET " % (size, matrix, x, y, code.hex().encode())


def raw_pdf(path, pages, font=UTF16, cmap=b"", notes=(), fields=b""):
    """手写的 PDF：pages 是各页的内容，notes 是第一页的批注、表单域；font 里的 7 0 R 是对照表 cmap。"""
    kids = [8 + 2 * i for i in range(len(pages))]
    first = 8 + 2 * len(pages)
    marks = b" ".join(b"%d 0 R" % (first + i) for i in range(len(notes)))
    objects = {
        1: b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[%s]>>>>" % (marks if fields else b""),
        2: b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), b" ".join(b"%d 0 R" % k for k in kids)),
        3: font, 7: b"<</Length %d>>stream\n%s\nendstream" % (len(cmap), cmap)}
    for kid, content in zip(kids, pages, strict=True):
        objects[kid] = (b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F1 3 0 R>>>>"
                        b"/Contents %d 0 R%s>>" % (kid + 1, b"/Annots[%s]" % marks if kid == 8 else b""))
        objects[kid + 1] = b"<</Length %d>>stream\n%s\nendstream" % (len(content), content)
    objects |= {first + i: note for i, note in enumerate(notes)}
    data, places = b"%PDF-1.7\n", {}
    for number, body in sorted(objects.items()):
        places[number] = len(data)
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%d 1\n%010d 00000 n \n" % pair for pair in places.items())
    data += (b"xref\n%strailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n"
             % (table, first + len(notes), len(data)))
    path.write_bytes(data)
    return path
