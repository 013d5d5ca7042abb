"""读 PDF：好文件读得全，坏文件说得清。所有 PDF 都在测试里现做。"""

import errno
import io
from pathlib import Path

import pypdf
import pytest
import zhplot
from fakes.document_errors import error_of
from fpdf import FPDF
from fpdf.enums import AccessPermission
from PIL import Image

from labutils.base.errors import LabError
from labutils.dataset.clean import Chunk, Page, chunks, clean_pages, join_lines
from labutils.dataset.formats import read_pages

FONT = next((Path(zhplot.__file__).parent / "fonts").rglob("*.ttf"))
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


def test_document_without_permission_is_one_sentence(tmp_path, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "课程.txt").write_text("文字", encoding="utf-8")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(LabError, match="没有权限，不能读写 .*课程.txt；"):
        read_pages(tmp_path / "课程.txt")


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


def test_missing_file_and_folder(tmp_path):
    assert "不存在" in error_of(tmp_path / "none.pdf")
    folder = tmp_path / "folder.pdf"
    folder.mkdir()
    assert "文件夹" in error_of(folder)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.pdf"
    path.write_bytes(b"")
    assert "0 字节" in error_of(path)


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
    from fpdf.enums import EncryptionMethod

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


@pytest.mark.parametrize(
    "footer", ["3", "- 3 -", "— 3 —", "第3页", "第 3 页 共 10 页", "3 / 10", "Page 3 of 10"]
)
def test_page_number_forms(footer):
    assert clean_pages([f"正文。\n{footer}", f"{footer}\n另一页。"]) == ["正文。", "另一页。"]


def test_numbers_inside_text_are_kept():
    assert clean_pages(["门数\n24\n如上。", "2023年\n共24号。", "小表\n2019"]) == [
        "门数\n24\n如上。", "2023年\n共24号。", "小表\n2019"]


def test_running_header_removed():
    raw = [f"课程实验讲义 第 {i} 页\n{word}是正文。" for i, word in enumerate("甲乙丙丁", 1)]
    assert clean_pages(raw) == ["甲是正文。", "乙是正文。", "丙是正文。", "丁是正文。"]


def test_repeated_sentences_are_not_headers():
    """每页一份的套话写满一行或以句号结尾，是正文；左右页、每章不同的短行才是页眉。"""
    body = "本表一式两份，由所在学院和教务处分别保存，填写时请用"
    names = "甲乙丙丁戊己庚辛"
    heads = ["第一章"] * 4 + ["第二章"] * 4
    raw = [f"{head}\n{body}\n黑色墨水。\n{name}填。" for head, name in zip(heads, names, strict=True)]
    assert clean_pages(raw) == [f"{body}黑色墨水。\n{name}填。" for name in names]


def test_repeated_table_head_is_kept():
    raw = [f"学院 门数 说明\n{name}学院 12 无" for name in "甲乙丙丁"]
    assert clean_pages(raw) == raw


def test_one_wide_line_does_not_stop_joining():
    lines = ["这一行正好写满了还没有说完，", "所以接上。"] * 6
    got = join_lines(["https://example.org/a/very/long/address/that/is/wide", *lines])
    assert got.count("没有说完，所以接上。") == 6


def test_join_lines_rules():
    assert join_lines(["这一行写满了还没有说", "完。"]) == "这一行写满了还没有说完。"
    assert join_lines(["短标题", "这一行写满了还没有说完。"]) == "短标题\n这一行写满了还没有说完。"
    assert join_lines(["这一行写满了而且说完。", "下一句"]) == "这一行写满了而且说完。\n下一句"
    assert join_lines(["这一行写满了但后面是", "二、标题"]) == "这一行写满了但后面是\n二、标题"
    assert join_lines(["数字在这里断开了20", "23年。"]) == "数字在这里断开了2023年。"
    assert join_lines(["this is deep", "learning"]) == "this is deep learning"
    assert join_lines(["published in 2017,", "pp. 5 to 8"]) == "published in 2017, pp. 5 to 8"
    assert join_lines(["some informa-", "tion here"]) == "some information here"
    assert join_lines(["state-of-the-", "art models"]) == "state-of-the-art models"
    assert join_lines(["这一行写满了还没有说", "　　另起一段。"]) == "这一行写满了还没有说\n另起一段。"
    assert join_lines(["线上 1875 1463", "线下 1463 1875"]) == "线上 1875 1463\n线下 1463 1875"
    assert join_lines([]) == ""


PAGES = [Page(1, "甲一二三四。乙一二三四！丙一二三四？"), Page(2, "丁一二三四。戊一二三四。")]


def test_chunks_keep_sentences_whole():
    got = chunks(PAGES, size=13, overlap=0)
    assert [c.text for c in got] == [
        "甲一二三四。乙一二三四！", "丙一二三四？\n丁一二三四。", "戊一二三四。"]
    assert [c.pages for c in got] == [(1,), (1, 2), (2,)]


def test_overlap_repeats_whole_sentences():
    got = [c.text for c in chunks(PAGES, size=13, overlap=6)]
    assert got[1].startswith("乙一二三四！") and got[0].endswith("乙一二三四！")
    assert all(len(text) <= 13 for text in got)
    assert [c.text for c in chunks(PAGES, size=13, overlap=5)][1].startswith("丙")  # 放不下整句


@pytest.mark.parametrize(("size", "overlap"), [(20, 0), (50, 10), (120, 50), (400, 50)])
def test_chunks_lose_nothing(size, overlap):
    pages = [Page(1, "标题\n" + SENTENCE * 3), Page(2, SENTENCE)]
    got = chunks(pages, size, overlap)
    assert all(0 < len(c.text) <= size for c in got)
    if overlap == 0:
        whole = "".join(c.text for c in got).replace("\n", "")
        assert whole == "".join(p.text for p in pages).replace("\n", "")


def test_long_sentence_is_cut_at_commas():
    got = [c.text for c in chunks([Page(1, "一二三四，五六七八，九十。")], size=6, overlap=0)]
    assert got == ["一二三四，", "五六七八，", "九十。"]
    assert [c.text for c in chunks([Page(1, "一" * 14)], size=6, overlap=2)][0] == "一" * 6


def test_sentence_across_pages_is_one():
    pages = [Page(1, "第一句。这一句话很长很长，写到页末还没有"), Page(2, "写完。第三句。")]
    got = chunks(pages, size=20, overlap=0)
    assert got[1] == Chunk("这一句话很长很长，写到页末还没有写完。", (1, 2))


def test_pieces_of_a_long_sentence_keep_their_own_pages():
    got = chunks([Page(1, "一" * 20), Page(2, "二" * 20)], size=20, overlap=0)
    assert [(c.text, c.pages) for c in got] == [("一" * 20, (1,)), ("二" * 20, (2,))]


def test_sizes_are_checked():
    for size, overlap in [(0, 0), (10, 10), (10, -1)]:
        with pytest.raises(LabError, match="重叠"):
            chunks(PAGES, size, overlap)


def test_no_text_no_chunks():
    assert chunks([]) == [] and chunks([Page(1, "")]) == []
