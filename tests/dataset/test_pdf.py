"""读 PDF：好文件读得全、和人读的一样，读不出的有一句话说清楚。PDF 都在测试里现做。"""

import contextlib
import random
import re
import time

import pypdf
import pytest
from fakes import documents as awkward
from fakes.documents import (
    FONT,
    LEFT,
    MIXED,
    RIGHT,
    SENTENCE,
    VERTICAL,
    WRAPPED,
    draw,
    error_of,
    image_page,
    make_pdf,
    raw_pdf,
    simple_font,
    to_unicode,
)
from fpdf import FPDF
from fpdf.enums import AccessPermission, EncryptionMethod

from labutils.base.errors import LabError
from labutils.base.text import without_spaces
from labutils.dataset.clean import Page
from labutils.dataset.formats import read_pages
from labutils.dataset.layout import Run, page_text
from labutils.dataset.prompts import chunks

# ---- 寻常的 PDF，和整份读不了的 ----

def test_text_pages_footer_and_broken_lines(tmp_path):
    texts = ["一、总则\n" + SENTENCE, "二、条件\n第二页。"]
    pages = read_pages(make_pdf(tmp_path / "a.pdf", texts))
    assert [p.number for p in pages] == [1, 2]
    assert pages[0].text == "一、总则\n" + SENTENCE  # 排版折了好几行，接回来一字不差
    assert pages[1].text == "二、条件\n第二页。"


def test_table_rows_stay_apart(tmp_path):
    rows = "类型 门数\n线上 1875\n线下 1463"
    pages = read_pages(make_pdf(tmp_path / "t.pdf", [SENTENCE + "\n" + rows]))
    assert pages[0].text.endswith("。\n类型 门数\n线上 1875\n线下 1463")


@pytest.mark.parametrize("content", [b"<html>not found</html>", "只是文字".encode(), b"\x00" * 50])
def test_not_a_pdf(tmp_path, content):
    path = tmp_path / "page.pdf"
    path.write_bytes(content)
    assert "不是 PDF" in error_of(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated(tmp_path, part):
    data = make_pdf(tmp_path / "whole.pdf", [SENTENCE]).read_bytes()
    path = tmp_path / "cut.pdf"
    path.write_bytes(data[: int(len(data) * part)])
    assert "不完整" in error_of(path)


def test_damaged_inside(tmp_path):
    path = tmp_path / "bad.pdf"
    path.write_bytes(b"%PDF-1.7\n" + b"garbage " * 100 + b"\n%%EOF\n")
    assert "已损坏" in error_of(path)


@pytest.mark.parametrize("method", ["RC4", "AES_256"])
def test_password(tmp_path, method):
    lock = dict(owner_password="o", user_password="u",
                encryption_method=EncryptionMethod[method])
    message = error_of(make_pdf(tmp_path / "locked.pdf", [SENTENCE], encryption=lock))
    assert "密码" in message and "另存" in message


def test_owner_password_only_is_readable(tmp_path):
    lock = dict(owner_password="o", permissions=AccessPermission.none())
    pages = read_pages(make_pdf(tmp_path / "limited.pdf", [SENTENCE], encryption=lock))
    assert pages[0].text == SENTENCE


def test_scanned(tmp_path):
    pdf = FPDF()
    for _ in range(3):
        image_page(pdf)
    pdf.output(tmp_path / "scan.pdf")
    message = error_of(tmp_path / "scan.pdf")
    assert "扫描件" in message and "1–3" in message and "OCR" in message


def test_one_image_page_is_skipped_with_a_note(tmp_path, capsys):
    pdf = FPDF()
    pdf.add_font("zh", fname=FONT)
    image_page(pdf)
    pdf.add_page()
    pdf.set_font("zh", size=11)
    pdf.cell(0, 10, "正文在第二页。")
    pdf.output(tmp_path / "cover.pdf")
    assert read_pages(tmp_path / "cover.pdf") == [Page(1, ""), Page(2, "正文在第二页。")]
    assert "第 1 页只有图片" in capsys.readouterr().out


def test_blank_and_no_pages(tmp_path):
    assert "空白" in error_of(make_pdf(tmp_path / "blank.pdf", ["", ""]))
    pypdf.PdfWriter().write(tmp_path / "zero.pdf")
    assert "一页也没有" in error_of(tmp_path / "zero.pdf")


# ---- 难读的版式 ----

@pytest.mark.parametrize("by_row", [False, True])
def test_two_columns_read_left_then_right(tmp_path, capsys, by_row):
    page, = read_pages(awkward.two_columns(tmp_path / "two.pdf", by_row))
    assert page.text.split("\n") == ["校园设施使用指南", *LEFT, *RIGHT]
    assert ("两栏" in capsys.readouterr().out) == by_row  # 重排过才提醒


def test_english_columns_with_uneven_baselines(tmp_path):
    """左右两栏的行不在同一高度，按画的先后读会一行左一行右地交错。"""
    pdf = awkward.new_pdf(10)
    pdf.add_page()
    left = ["The committee reviewed the recommendations", "of every institution and decided that the",
            "letters must arrive before the deadline, be-", "cause state-of-the-art equipment needs time"] * 3
    right = [line.replace("The committee", "A council").replace("letters", "reports") for line in left]
    for i in range(len(left)):
        awkward.column(pdf, 15, left[i : i + 1], 40 + 5 * i)
        awkward.column(pdf, 110, right[i : i + 1], 41.5 + 5 * i)
    text = read_pages(awkward.save(pdf, tmp_path / "english.pdf"))[0].text
    assert text.count("reviewed the recommendations of every institution") == 6
    assert "because state-of-the-art equipment" in text
    assert text.index("A council") > text.rindex("The committee")


def test_tables_keep_one_row_a_line(tmp_path):
    pages = read_pages(awkward.tables(tmp_path / "tables.pdf"))
    for number, page in enumerate(pages, 1):
        lines = page.text.split("\n")
        assert lines[:2] == [f"附件{number} 各学院课程统计", "学院 课程类型 门数 说明"]
        assert f"第2学院 线上课程 {10 * number + 1} 无" in lines
        note = "含两门虚拟仿真实验教学课程，其中一门为跨校共建"
        assert f"第1学院 线下课程 {10 * number} {note}" in lines
        assert lines[-1].endswith("无")  # 页码去掉了，表格里的数字还在


def test_empty_and_wrapped_cells_stay_in_order_and_can_be_cited(tmp_path):
    page, = read_pages(awkward.wrapped_table(tmp_path / "wrapped.pdf"))
    cells = [cell for row in WRAPPED for cell in row if cell]
    assert page.text.replace("\n", "").replace(" ", "") == "一、办事一览" + "".join(cells) + "二、附则"
    assert all(without_spaces(cell) in without_spaces(page.text) for cell in cells)
    lines = page.text.split("\n")
    assert "缓考申请 考试前三天 因病缓考须附二级以上医院证明。" in lines
    assert "学籍注册 教务处 每学期第一周 " + WRAPPED[1][3] in lines  # 折成几行的格子接回来，一行还是一行
    assert "成绩复核 " + WRAPPED[3][1] + " " + WRAPPED[3][3] in lines
    assert "校外实习" in lines and not any(line[0] in "，。、；" for line in lines)


def test_cell_over_several_rows_does_not_break_the_first(tmp_path):
    content = draw("课程表。", 60, 800)
    for i, name in enumerate(["线性代数与几何", "大学物理", "程序设计"]):
        content += draw(f"K{i}", 60, 760 - 40 * i)
        content += draw("必修", 110, 700) if i == 0 else b""
        content += draw(name, 160, 760 - 40 * i) + draw("48", 300, 760 - 40 * i)
        content += draw("数学", 360, 768 - 40 * i) + draw("学院", 360, 752 - 40 * i)
    assert text_of(raw_pdf(tmp_path / "span.pdf", [content])).split("\n") == [
        "课程表。", "K0 线性代数与几何 48 数学学院", "K1 大学物理 48 数学学院", "必修",
        "K2 程序设计 48 数学学院"]


def test_wide_long_text_table_is_not_taken_for_columns(tmp_path):
    pdf = awkward.new_pdf(10)
    pdf.add_page()
    for i in range(12):
        pdf.text(15, 30 + 7 * i, f"第{i}项指标")
        pdf.text(110, 30 + 7 * i, RIGHT[i % 6][:24])
    text = read_pages(awkward.save(pdf, tmp_path / "table.pdf"))[0].text
    assert text.split("\n")[3] == f"第3项指标 {RIGHT[3][:24]}"


@pytest.mark.parametrize("by_row", [False, True])
def test_vertical_text(tmp_path, by_row):
    page, = read_pages(awkward.vertical(tmp_path / "vertical.pdf", by_row))
    assert page.text.replace("\n", "") == VERTICAL


def test_mixed_scripts(tmp_path):
    page, = read_pages(awkward.mixed_scripts(tmp_path / "mixed.pdf"))
    assert page.text.split("\n") == MIXED


def test_scanned_with_typed_page_numbers(tmp_path):
    message = error_of(awkward.scanned(tmp_path / "scan.pdf"))
    assert "扫描件" in message and "1–4" in message and "OCR" in message


def test_mixed_scanned_and_text_pages(tmp_path, capsys):
    pages = read_pages(awkward.scanned(tmp_path / "mixed.pdf", text_pages=(2, 3)))
    assert [p.text for p in pages] == ["", f"第2页：{LEFT[1][:30]}。", f"第3页：{LEFT[2][:30]}。", ""]
    assert "第 1、4 页只有图片" in capsys.readouterr().out


def test_missing_to_unicode(tmp_path, capsys):
    """字多的子集字体，字形编号落在字母和汉字区，看字符类别看不出是乱码。"""
    assert "没有文字对照表" in error_of(awkward.no_to_unicode(tmp_path / "glyphs.pdf"))
    pages = read_pages(awkward.no_to_unicode(tmp_path / "half.pdf", readable_page=True))
    assert pages[0].text == "" and pages[1].text.split("\n") == LEFT[:2]
    assert "第 1 页的字体没有文字对照表" in capsys.readouterr().out


def test_running_heads_of_left_and_right_pages(tmp_path):
    for number, page in enumerate(read_pages(awkward.running_heads(tmp_path / "heads.pdf")), 1):
        assert page.text.split("\n") == [f"第{number}件事：" + LEFT[number % 6], RIGHT[number % 6]]


def test_footer_drawn_before_the_text(tmp_path):
    for number, page in enumerate(read_pages(awkward.footnotes_first(tmp_path / "first.pdf")), 1):
        assert page.text.split("\n") == [LEFT[number], RIGHT[number]]


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotated_page(tmp_path, angle):
    page, = read_pages(awkward.rotated(tmp_path / "turned.pdf", angle))
    assert page.text.split("\n") == LEFT[:2]


def test_nothing_but_running_heads(tmp_path):
    pdf = awkward.new_pdf()
    for number in range(1, 5):
        pdf.add_page()
        pdf.text(20, 10, f"某某大学讲义 第 {number} 页")
    assert "除了每页重复的页眉页脚" in error_of(awkward.save(pdf, tmp_path / "heads.pdf"))


def test_letter_spaced_title(tmp_path):
    page, = read_pages(awkward.spaced(tmp_path / "spaced.pdf"))
    assert page.text.split("\n")[:3] == ["教育部办公厅文件", "关于开展课程认定工作的通知", LEFT[0]]


def test_encrypted_damaged_and_no_pages(tmp_path):
    good = awkward.rotated(tmp_path / "good.pdf", 0)
    writer = pypdf.PdfWriter(clone_from=good)
    writer.encrypt("secret", algorithm="AES-256")
    writer.write(tmp_path / "locked.pdf")
    assert "密码" in error_of(tmp_path / "locked.pdf")
    data = good.read_bytes()
    (tmp_path / "cut.pdf").write_bytes(data[: len(data) // 2])
    assert "不完整" in error_of(tmp_path / "cut.pdf")
    pypdf.PdfWriter().write(tmp_path / "none.pdf")
    assert "一页也没有" in error_of(tmp_path / "none.pdf")


def test_unknown_encryption_and_compression(tmp_path):
    """证书加密打不开；不认识的压缩方式，那一页什么也没有，分不清是空白还是坏了。"""
    path = awkward.rotated(tmp_path / "good.pdf", 0)
    writer = pypdf.PdfWriter(clone_from=path)
    writer.encrypt("", algorithm="RC4-128")
    writer.write(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"/Standard", b"/Adobe.PubSec"))
    assert "证书加密" in error_of(path)
    data = awkward.rotated(tmp_path / "odd.pdf", 0).read_bytes()
    (tmp_path / "odd.pdf").write_bytes(data.replace(b"/FlateDecode", b"/FlatXDecode"))
    assert "已损坏" in error_of(tmp_path / "odd.pdf")


def test_a_hundred_flipped_bytes(tmp_path):
    """随便改坏一个字节：要么照样读得出，要么一句话说清楚。"""
    data, rng = awkward.rotated(tmp_path / "good.pdf", 0).read_bytes(), random.Random(0)
    path = tmp_path / "bad.pdf"
    for _ in range(100):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(broken)
        with contextlib.suppress(LabError):
            assert read_pages(path)


def test_one_damaged_page_is_skipped_with_a_note(tmp_path, capsys):
    path = awkward.raw_pdf(tmp_path / "bad.pdf", [draw(f"第{i}页的正文。") for i in (1, 2, 3)])
    path.write_bytes(path.read_bytes().replace(b"10 0 R 12 0 R", b"99 0 R 12 0 R"))
    pages = read_pages(path)
    assert [p.text for p in pages] == ["第1页的正文。", "", "第3页的正文。"]
    assert "第 2 页已损坏" in capsys.readouterr().out and "已损坏" in pages[1].note


def test_three_hundred_pages(tmp_path):
    path = awkward.long_document(tmp_path / "long.pdf")
    start = time.process_time()
    pages = read_pages(path)
    assert time.process_time() - start < 60  # 双核机器实测约 3 秒；繁忙时处理器时间也会变长
    assert len(pages) == 300
    for number, page in enumerate(pages, 1):
        assert page.text.startswith(f"第{number}页的规定自公布之日起施行。")
        assert not re.search("学生手册|合订本|/ 300", page.text)
        assert page.text.count(LEFT[0]) == 2


# ---- 字体里的字 ----

def text_of(path):
    return read_pages(path)[0].text


def test_fonts_without_their_own_table(tmp_path):
    """XeLaTeX、知网、宋体里的 GBK：没有对照表，或对照表和编码对不上，字却都认得出。"""
    cids = b"".join(n.to_bytes(2, "big") for n in (3693, 3456, 1846, 2756, 3647, 2359, 1634, 574))
    path = raw_pdf(tmp_path / "cid.pdf", [draw(cids)], awkward.SONG % b"Identity-H")
    assert text_of(path) == "图书馆每天开放。"
    kana = b"".join(n.to_bytes(2, "big") for n in range(374, 384))
    path = raw_pdf(tmp_path / "kana.pdf", [draw(kana)], awkward.SONG % b"Identity-H")
    assert text_of(path) == "こごさざしじすずせぜ"
    codes = simple_font(b"ABCDEF+E-BZ", b"/Encoding/Identity-H/ToUnicode 7 0 R")
    table = to_unicode(a31="2", a32="4")
    assert text_of(raw_pdf(tmp_path / "cnki.pdf", [draw(b"1212")], codes, table)) == "2424"
    song = simple_font(b"#CB#CE#CC#E5", b"/Encoding/WinAnsiEncoding")
    assert text_of(raw_pdf(tmp_path / "gbk.pdf", [draw("开放六天".encode("gbk"))], song)) == "开放六天"


def test_symbol_font_in_the_private_area(tmp_path):
    font = simple_font(b"ABCDEF+SymbolMT", b"/ToUnicode 7 0 R")
    table = to_unicode(a22="\uf062", a23="\uf03d", a24="\uf070", a25="\uf0b1")
    assert text_of(raw_pdf(tmp_path / "s.pdf", [draw(b'"#$%')], font, table)) == "β=π±"


@pytest.mark.parametrize(("font", "code"), [
    (b"/Encoding<</Type/Encoding/Differences[33/G21/G22/G23/G24/G25/G26]>>", b"!\"#$%&"),  # 方正的字形名
    (b"/Encoding/WinAnsiEncoding", "开放六天".encode("gbk")),  # 字体名看不出是 GBK
])
def test_glyph_names_and_western_letters_are_garbled(tmp_path, font, code):
    assert "乱码" in error_of(raw_pdf(tmp_path / "g.pdf", [draw(code)], simple_font(b"ABCDEF+Foo", font)))


def test_letters_written_as_rare_characters_are_garbled(tmp_path):
    text = "犌犅／犜 2312—1980 犛犲犮狌狉犲 犈犾犲犮狋狉狅狀犻犮 犛犲犪犾"
    assert "乱码" in error_of(raw_pdf(tmp_path / "gb.pdf", [draw(text)]))


def test_private_characters_do_not_condemn_a_readable_page(tmp_path):
    text = "\uf8e5" * 10 + "电场强度由电荷决定"
    assert "电场强度由电荷决定" in text_of(raw_pdf(tmp_path / "p.pdf", [draw(text)]))


def test_characters_outside_the_basic_plane(tmp_path):
    assert read_pages(raw_pdf(tmp_path / "x.pdf", [draw("图书馆每天开放。")]))[0].text.encode()
    font = simple_font(b"ABCDEF+Foo", b"/ToUnicode 7 0 R")
    text = text_of(raw_pdf(tmp_path / "y.pdf", [draw(b"12")], font, to_unicode(a31="𠮷", a32="野")))
    assert text == "𠮷野"
    wide = font.replace(b"600 ", b"1000 ")  # 两个代理码的框是同一个，差一个字宽
    table = to_unicode(a31="𠮷", a32="野", a33="𩸽")
    assert text_of(raw_pdf(tmp_path / "z.pdf", [draw(b"123")], wide, table)) == "𠮷野𩸽"


def test_codes_beyond_unicode_are_garbled(tmp_path):
    """四个字节的编码，字体里没有对照：PDFium 把编码当成字给出来。"""
    font = awkward.SONG.replace(b"/%s", b" 7 0 R")
    codes = (b"begincmap 2 begincodespacerange <00> <7f> <f0808080> <f7bfbfbf> endcodespacerange "
             b"1 begincidrange <f0a8a780> <f0a8a783> 1 endcidrange endcmap")
    assert "乱码" in error_of(raw_pdf(tmp_path / "b.pdf", [draw(b"\xf0\xa8\xa7\x80" * 3)], font, codes))


# ---- 一页上的位置 ----

@pytest.mark.parametrize(("pieces", "text"), [
    ([("本校有课程120", 12, 0), ("1", 7, 4), ("门，三门新开。", 12, 0)], "本校有课程120¹门，三门新开。"),
    ([("面积约为10", 12, 0), ("-4", 7, 4), ("米。", 12, 0)], "面积约为10⁻⁴米。"),
    ([("2", 7, 4), ("不含选修课。", 12, 0)], "²不含选修课。"),
    ([("进制数1010", 12, 0), ("2", 7, -3), ("等于十。", 12, 0)], "进制数1010₂等于十。"),
    ([("见文献", 12, 0), ("[1]", 7, 4), ("。", 12, 0)], "见文献[1]。"),
    ([("首", 20, 0), ("行的字大一些", 12, 0)], "首行的字大一些"),
])
def test_raised_and_lowered_figures(tmp_path, pieces, text):
    content, x = b"", 60
    for words, size, rise in pieces:
        content += draw(words, x, 780 + rise, size)
        x += size * len(words)
    assert text_of(raw_pdf(tmp_path / "s.pdf", [content])) == text


@pytest.mark.parametrize("by_character", [True, False])
def test_poor_mans_bold_is_read_once(tmp_path, by_character):
    words = "加速近似点点算法"
    parts = list(enumerate(words)) if by_character else [(0, words)]
    content = b"".join(draw(part, 60 + 12 * i + shift, 780) for i, part in parts for shift in (0, 1, 2))
    assert text_of(raw_pdf(tmp_path / "bold.pdf", [content + draw("正文。", 156, 780)])) == words + "正文。"


def test_form_values_and_text_notes(tmp_path, capsys):
    typed = "<</Type/Annot/Subtype/Widget/FT/Tx/T(a)/V<{}>/Rect[140 757 300 775]>>"
    tick = b"<</Type/Annot/Subtype/Widget/FT/Btn/T(b)/V/Yes/Rect[20 20 30 30]>>"
    note = "<</Type/Annot/Subtype/FreeText/Contents<{}>/DA(/F1 12 Tf)/Rect[60 100 300 120]>>"
    hidden = b"<</Type/Annot/Subtype/Text/Contents(comment)/Rect[60 60 80 80]>>"
    marks = [typed.format("feff" + "张三。".encode("utf-16-be").hex()).encode(), tick,
             note.format("feff" + "同意。".encode("utf-16-be").hex()).encode(), hidden]
    content = draw("课程申请表。") + draw("课程负责人：", y=760) + draw("联系电话无。", y=740)
    page, = read_pages(raw_pdf(tmp_path / "form.pdf", [content], notes=marks, fields=b"yes"))
    assert page.text == "课程申请表。\n课程负责人： 张三。\n联系电话无。\n同意。"
    assert "表单项" in capsys.readouterr().out and "表单项" in page.note


@pytest.mark.parametrize(("content", "text"), [
    (draw("第") + draw("条有三门。", 84) + draw("第", y=740) + draw("条有四门。", 84, 740) + draw("1", 72)
     + draw("2", 72, 740), "第1条有三门。\n第2条有四门。"),  # 先画全页的汉字，再补数字
    (draw("下。", y=700) + draw("中。", y=740) + draw("上。"), "上。\n中。\n下。"),
    (b"q 12 0 0 12 0 0 cm " + draw("放大画的字。", 5, 60, 1) + b"Q", "放大画的字。"),
    (b"q 1 0 0 -1 0 842 cm " + draw("翻转的坐标。", 60, 80, matrix=b"1 0 0 -1") + b"Q", "翻转的坐标。"),
    (draw("倒着的页。", 400, 60, -12) + draw("字号是负的。", 400, 80, -12), "倒着的页。\n字号是负的。"),
    (b"3 Tr " + draw("看不见的识别层。"), "看不见的识别层。"),
    (draw("类型      门数") + draw("线上      1875", y=760), "类型 门数\n线上 1875"),
])
def test_order_and_scale_of_drawing(tmp_path, content, text):
    assert text_of(raw_pdf(tmp_path / "order.pdf", [content])) == text


def test_row_drawn_from_right_to_left(tmp_path):
    rows = [("年份", "收入", "支出"), ("2023", "5118", "4900")]
    content = b"".join(draw(cell, 60 + 100 * i, 780 - 20 * j)
                       for j, row in enumerate(rows) for i, cell in reversed(list(enumerate(row))))
    assert text_of(raw_pdf(tmp_path / "t.pdf", [content])) == "年份 收入 支出\n2023 5118 4900"


def test_three_columns_and_notes_below_them(tmp_path):
    pdf = awkward.new_pdf(8)
    pdf.add_page()
    texts = ["".join((LEFT + RIGHT)[i:i + 4]) for i in (0, 3, 6)]
    for x, text in zip((10, 78, 146), texts, strict=True):
        awkward.column(pdf, x, [text[i : i + 20] for i in range(0, 200, 20)], 30, 5)
    pdf.set_font("zh", size=5)
    pdf.text(10, 85, "① 第一栏的注")
    text = text_of(awkward.save(pdf, tmp_path / "three.pdf")).replace("\n", "")
    assert text == "".join(text[:200] for text in texts) + "① 第一栏的注"


def lines_of(text, x, y, per_line=20, size=12):
    """从 (x, y) 往下排的几行，一行 per_line 个字。"""
    return b"".join(draw(text[i : i + per_line], x, y - 18 * (i // per_line), size)
                    for i in range(0, len(text), per_line))


BODY = "图书馆面向全体师生开放，读者凭校园卡入馆；自习室座位采用预约制，每人每天可以预约两次，" * 5
NOTES = ["①每周一上午闭馆整理图书，遇到节假日顺延。", "②迟到二十分钟的预约自动取消，不计次数。"]


def test_only_what_reaches_well_into_both_columns_lies_across_them(tmp_path):
    """一行排得过长、标点悬在栏外，只碰到另一栏；脚注读完各栏再读；末页的右栏只有两行。"""
    left, right = BODY[:150], BODY[150:190]
    content = draw("校园使用指南", 250, 800, 20) + lines_of(left, 60, 760, 21) + draw(NOTES[0], 60, 619, 8)
    content += draw("（" + right[:17], 308, 760) + lines_of(right[17:], 310, 742)
    content += draw(NOTES[1], 310, 619, 8)
    text = text_of(raw_pdf(tmp_path / "two.pdf", [content]))
    assert text.replace("\n", "") == "校园使用指南" + left + "（" + right + "".join(NOTES)


def test_notes_stand_before_the_sentence_that_goes_on_over_the_page(tmp_path):
    ends = ["这一句话到了页末还没有说完，须在第二天", "上午补办手续。"]
    first = "借书期限是三十天，逾期不还的，每天交两角。" * 6
    pages = read_pages(raw_pdf(tmp_path / "over.pdf", [
        lines_of(first + ends[0], 60, 780) + lines_of(NOTES[0], 60, 550, 30, 8) + draw("1", 300, 40, 9),
        draw(ends[1], 60, 780) + draw("2", 300, 40, 9)]))
    assert [page.text for page in pages] == [f"{first}\n{NOTES[0]}\n{ends[0]}", ends[1]]
    assert "".join(ends) in [chunk.text for chunk in chunks(pages, 40, 0)]


@pytest.mark.parametrize(("lines", "joined"), [
    (["借书的期限最长，每次不超过", "29 天的，记为一次，用到", "Python3.11等工具。"], True),
    (["程序设计与算法基础", "线性代数与空间几何", "大学物理实验的方法"], False),
    (["责任心强，热爱教育事业和学生", "身体健康", "有本科以上学历"], False),
])
def test_full_is_judged_in_the_narrow_box_itself(tmp_path, lines, joined):
    """一页宽的正文里有一个窄的文本框：写满没写满，看它自己的右边。"""
    box = b"".join(draw(line, 200, 500 - 18 * i) for i, line in enumerate(lines))
    text = text_of(raw_pdf(tmp_path / "box.pdf", [lines_of(BODY, 60, 780, 40) + box]))
    assert text.split("\n") == [BODY, *(["".join(lines)] if joined else lines)]


def test_title_in_two_lines_and_signature(tmp_path):
    title, body, names = "关于开展二〇二六年春季学期课程认定工作的", BODY + "遵照执行", "江北综合大学教务九月"
    content = (draw(title, 60, 800, 24) + draw("通知", 276, 770, 24) + lines_of(body, 60, 720, 40)
               + lines_of(names, 444, 612, 8))
    text = text_of(raw_pdf(tmp_path / "t.pdf", [content]))
    assert text.split("\n") == [title + "通知", body, names[:8], names[8:]]


def test_sideways_words_stay_in_their_vertical_line(tmp_path):
    lines = ["学校图书馆面向全体师生", "AI开放每周开放六天周日", "续借一次期限为十五天整"]
    content = b""
    for column, line in enumerate(lines):
        for row, char in enumerate(line):
            turned = b"0 -1 1 0" if char.isascii() else b"1 0 0 1"
            content += draw(char, 500 - 24 * column, 780 - 14 * row + 12 * char.isascii(), matrix=turned)
    assert text_of(raw_pdf(tmp_path / "v.pdf", [content])).replace("\n", "") == "".join(lines)
    font = awkward.SONG % b"UniGB-UCS2-V"
    content = b"".join(draw(line, 500 - 24 * i) for i, line in enumerate(lines))
    assert text_of(raw_pdf(tmp_path / "w.pdf", [content], font)).replace("\n", "") == "".join(lines)


def test_sideways_page_and_slanted_watermark(tmp_path):
    content = draw("仅供内部使用", 200, 300, 30, b"0.7 0.7 -0.7 0.7")
    for i, text in enumerate(["第一行说明，", "第二行结束。"]):
        content += draw(text, 100 + 20 * i, 100, matrix=b"0 1 -1 0")
    page, = read_pages(raw_pdf(tmp_path / "r.pdf", [content]))
    assert page.text == "第一行说明，第二行结束。\n仅供内部使用"


def test_an_earlier_wrong_password_is_not_blamed(tmp_path):
    lock = dict(owner_password="o", user_password="u", encryption_method=EncryptionMethod.RC4)
    assert "密码" in error_of(make_pdf(tmp_path / "locked.pdf", [SENTENCE], encryption=lock))
    pypdf.PdfWriter().write(tmp_path / "无页.pdf")
    assert "一页也没有" in error_of(tmp_path / "无页.pdf")


def test_heads_taken_are_told_and_progress_is_shown(tmp_path, capsys):
    pages = read_pages(awkward.running_heads(tmp_path / "heads.pdf"))
    assert "去掉了一再出现的页眉页脚“某某大学本科教学工作手册”（第 1、3、5、7 页）" in capsys.readouterr().out
    assert "内部资料" in pages[0].note
    read_pages(awkward.long_document(tmp_path / "long.pdf", 60))
    assert "读到第 30 页，共 60 页" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["l"], ["地名", "River", "一条长长的街道名字"]], ids=["散点图", "地图"])
def test_ten_thousand_places_on_a_page_take_seconds(words):
    rng = random.Random(0)
    places = [(rng.choice(words), rng.uniform(0, 3000), rng.uniform(0, 2000)) for _ in range(10_000)]
    started = time.process_time()
    text, _ = page_text([Run(word, x, x + 8 * len(word), y, 8) for word, x, y in places])
    assert time.process_time() - started < 10 and len(text) > 10_000
