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
    error_of,
    image_page,
    make_pdf,
)
from fpdf import FPDF
from fpdf.enums import AccessPermission, EncryptionMethod

from labutils.base.errors import LabError
from labutils.dataset.checks import on_page
from labutils.dataset.clean import Page
from labutils.dataset.formats import read_pages

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
        assert "含两门虚拟仿真实验教学课程，其中一门为跨校共建" in page.text
        assert lines[-1].endswith("无")  # 页码去掉了，表格里的数字还在


def test_empty_and_wrapped_cells_stay_in_order_and_can_be_cited(tmp_path):
    page, = read_pages(awkward.wrapped_table(tmp_path / "wrapped.pdf"))
    cells = [cell for row in WRAPPED for cell in row if cell]
    assert page.text.replace("\n", "").replace(" ", "") == "一、办事一览" + "".join(cells) + "二、附则"
    assert all(on_page(cell, page.text) for cell in cells)
    lines = page.text.split("\n")
    assert "缓考申请 考试前三天 因病缓考须附二级以上医院证明。" in lines
    assert "校外实习" in lines and not any(line[0] in "，。、；" for line in lines)


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
    """证书加密、不认识的压缩方式：pypdf 报的是 NotImplementedError。"""
    path = awkward.rotated(tmp_path / "good.pdf", 0)
    writer = pypdf.PdfWriter(clone_from=path)
    writer.encrypt("", algorithm="RC4-128")
    writer.write(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"/Standard", b"/Adobe.PubSec"))
    assert "证书加密" in error_of(path)
    data = awkward.rotated(tmp_path / "odd.pdf", 0).read_bytes()
    for name in (b"/FlatXDecode", b"/Fl         "):  # 后一种是 pypdf 不再认的旧简写
        (tmp_path / "odd.pdf").write_bytes(data.replace(b"/FlateDecode", name))
        assert "第 1 页已损坏" in error_of(tmp_path / "odd.pdf")


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


def test_one_damaged_page_is_skipped_with_a_note(tmp_path, capsys, monkeypatch):
    path = awkward.scanned(tmp_path / "bad.pdf", text_pages=(1, 2, 3, 4))
    whole = pypdf.PageObject.extract_text

    def fail_on_second(page, **options):
        if page.page_number == 1:
            raise pypdf.errors.PdfReadError("bad stream")
        return whole(page, **options)

    monkeypatch.setattr(pypdf.PageObject, "extract_text", fail_on_second)
    assert [p.text[:3] for p in read_pages(path)] == ["第1页", "", "第3页", "第4页"]
    assert "第 2 页已损坏" in capsys.readouterr().out


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
