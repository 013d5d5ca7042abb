"""Word、幻灯片、OFD、Markdown、纯文本：和 PDF 走同一个入口，读不了的说得清。文件都在测试里现做。"""

import contextlib
import errno
import json
import random
from pathlib import Path

import docx
import pytest
from fakes.documents import error_of, ofd, ofd_line, rewritten, slides, strict, text_box, zipped
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Cm

from labutils.base.errors import LabError
from labutils.dataset import build as dataset_build
from labutils.dataset.checks import begins_on, validate
from labutils.dataset.formats import read_pages
from labutils.dataset.prompts import chunks

DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
TEXT = "学校图书馆每周开放六天，周一上午闭馆。借书期限是三十天。"


def written(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def word_file(path, build):
    document = docx.Document()
    build(document)
    document.save(path)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_text_encodings(tmp_path, encoding):
    page, = read_pages(written(tmp_path / "a.txt", f"一、总则\r\n\r\n{TEXT}", encoding))
    assert page.text == f"一、总则\n{TEXT}"


@pytest.mark.parametrize(
    "data", ["圖書館每週開放六天".encode("big5"), bytes(range(128, 256)) * 4, b"ab\0\x01\xff"])
def test_unknown_encoding(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    message = error_of(path)
    assert "编码认不出" in message and "另存为" in message


def test_hard_wrapped_text_is_joined(tmp_path):
    text = TEXT[:-1] + "，到期前可以续借一次。"
    lines = [text[i : i + 12] for i in range(0, len(text), 12)] * 3
    page, = read_pages(written(tmp_path / "a.txt", "\n".join(["通知", "", *lines])))
    assert page.text == "\n".join(["通知", *[text] * 3])


def test_text_pages_by_form_feed_or_by_length(tmp_path):
    pages = read_pages(written(tmp_path / "a.txt", "第一页的话。\f第二页的话。\f\f"))
    assert [(p.number, p.text) for p in pages] == [(1, "第一页的话。"), (2, "第二页的话。")]
    pages = read_pages(written(tmp_path / "b.txt", "\n\n".join(f"第{i}条。{TEXT}" for i in range(1, 101))))
    assert len(pages) > 2 and all(len(p.text) <= 1000 for p in pages)
    assert "\n".join(p.text for p in pages).count(TEXT) == 100


MARKDOWN = f"""---
title: 元数据
---
# 图书馆手册

<!-- 编者注 -->
## 一、开放

学校图书馆每周**开放六天**，周一上午
闭馆，见[网站](https://example.org)。![图](a.png)

| 类型 | 门数 |
|:---|---:|
| 线上 | 1875 |

- 第一项
- 第二项 `code_name`

### 小节
> 引用一句。

## 二、借书
{TEXT}

```python
# 不是标题
x = 2 * 3 * 4
```
"""


def test_markdown_sections_are_pages(tmp_path):
    pages = read_pages(written(tmp_path / "a.md", MARKDOWN))
    assert [p.number for p in pages] == [1, 2]
    assert pages[0].text.split("\n") == [
        "图书馆手册", "一、开放", "学校图书馆每周开放六天，周一上午闭馆，见网站。", "类型 | 门数",
        "线上 | 1875", "• 第一项", "• 第二项 code_name", "小节", "引用一句。"]
    assert pages[1].text.split("\n") == ["二、借书", TEXT, "# 不是标题", "x = 2 * 3 * 4"]


def test_many_dashes_before_words_are_quick(tmp_path):
    line = "-" * 200 + " 附件"  # 会回头的正则在这里要算上许多年
    page, = read_pages(written(tmp_path / "a.md", f"{TEXT}\n\n{line}\n\n{'-' * 200}\n"))
    assert page.text.split("\n") == [TEXT, line]


def test_markdown_rule_ends_the_paragraph(tmp_path):
    text = "---\n第一段没有句号\n***\n第二段\n\n项目 | 期限\n--- | ---\n缓考 | 三天\n"
    page, = read_pages(written(tmp_path / "a.md", text))
    assert page.text.split("\n") == ["第一段没有句号", "第二段", "项目 | 期限", "缓考 | 三天"]


def test_word_text_and_tables_in_order(tmp_path):
    def build(document):
        document.add_heading("图书馆手册", 0)
        document.add_paragraph(TEXT)
        document.add_heading("一、数据", 1)
        table = document.add_table(2, 3)
        words = iter("类型 首批 二批 线上 1875 1095".split())
        for cell in [cell for row in table.rows for cell in row.cells]:
            cell.text = next(words)
        document.add_paragraph("表后一段。")

    pages = read_pages(word_file(tmp_path / "a.docx", build))
    assert pages[0].text == f"图书馆手册\n{TEXT}"
    assert pages[1].text == "一、数据\n类型 | 首批 | 二批\n线上 | 1875 | 1095\n表后一段。"


def test_word_table_with_empty_wrapped_merged_and_nested_cells(tmp_path):
    def build(document):
        table = document.add_table(4, 3)
        table.cell(0, 0).text, table.cell(0, 2).text = "缓考", "考前三天"  # 中间一格空着
        table.cell(1, 0).text = "复核"
        table.cell(1, 1).text = "先由学院核对，\n再报教务处"  # 格子里换行
        table.cell(1, 2).paragraphs[0].text = "只核对漏评，"
        table.cell(1, 2).add_paragraph("不重新评阅。")  # 格子里两段
        table.cell(2, 0).merge(table.cell(2, 2)).text = "以上由教务处解释"
        table.cell(3, 0).text = "附"
        inner = table.cell(3, 1).add_table(1, 2)  # 格子里再套一张表
        inner.cell(0, 0).text, inner.cell(0, 1).text = "甲", "乙"

    page, = read_pages(word_file(tmp_path / "a.docx", build))
    assert page.text.split("\n") == [
        "缓考 |  | 考前三天", "复核 | 先由学院核对， 再报教务处 | 只核对漏评， 不重新评阅。",
        "以上由教务处解释", "附 | 甲 乙 |"]
    assert begins_on("先由学院核对，再报教务处", (page.text, ""))


def test_markdown_table_with_empty_and_wrapped_cells(tmp_path):
    text = "| 项目 | 部门 | 期限 |\n|---|---|---|\n| 缓考 |  | 三天 |\n| 复核 | 学院<br>教务处 | 甲\\|乙 |\n"
    page, = read_pages(written(tmp_path / "a.md", text))
    assert page.text.split("\n") == ["项目 | 部门 | 期限", "缓考 |  | 三天", "复核 | 学院 教务处 | 甲|乙"]


def test_bad_word_files(tmp_path):
    path = tmp_path / "a.docx"
    path.write_bytes(b"\xd0\xcf\x11\xe0" + b"\0" * 600)
    assert ".doc 格式" in error_of(path)
    path.write_bytes(b"PK\x03\x04 not a zip")
    assert "已损坏" in error_of(path)
    good = word_file(tmp_path / "good.docx", lambda d: d.add_paragraph(TEXT)).read_bytes()
    path.write_bytes(good[: len(good) // 2])
    assert "已损坏" in error_of(path)
    assert "没有文字" in error_of(word_file(tmp_path / "blank.docx", lambda d: None))


def test_flipped_bytes_in_a_word_file(tmp_path):
    """随便改坏一个字节：要么照样读得出，要么一句话说清楚。"""
    data = word_file(tmp_path / "good.docx", lambda d: d.add_paragraph(TEXT)).read_bytes()
    path, rng = tmp_path / "a.docx", random.Random(0)
    for _ in range(100):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        with contextlib.suppress(LabError):
            assert read_pages(path)


def test_empty_and_missing(tmp_path):
    assert "0 字节" in error_of(written(tmp_path / "a.md", ""))
    assert "没有文字" in error_of(written(tmp_path / "b.md", "\n \n---\n"))
    assert "不存在" in error_of(tmp_path / "none.docx")


def test_slide_title_first_then_by_place(tmp_path):
    def build(slide):
        text_box(slide.shapes, "右", 15, 8.1)
        text_box(slide.shapes, "左", 1, 8.3)
        group = slide.shapes.add_group_shape()
        text_box(group.shapes, "组里下", 2, 13)
        text_box(group.shapes, "组里上", 9, 12)
        text_box(slide.shapes, "最上", 1, 0)
        slide.shapes.title.text = "标题"
        slide.notes_slide.notes_text_frame.text = "讲五分钟。\n提问。"

    path = slides(tmp_path / "a.pptx", build, lambda slide: None)
    assert [(page.number, page.text) for page in read_pages(path)] == [
        (1, "标题\n最上\n左\n右\n组里上\n组里下\n备注：讲五分钟。\n提问。"), (2, "")]


def test_slide_placeholders_take_their_place_from_the_layout(tmp_path):
    def build(slide):
        text_box(slide.shapes, "图注", 1, 18)
        slide.shapes.title.text, slide.placeholders[1].text = "标题", "正文"
        slide.shapes._spTree.append(slide.placeholders[1]._element)  # 画在最后，位置在上面

    page, = read_pages(slides(tmp_path / "a.pptx", build, layout=1))
    assert page.text == "标题\n正文\n图注"


def test_slide_tables_and_charts(tmp_path):
    def build(slide):
        table = slide.shapes.add_table(3, 2, Cm(1), Cm(5), Cm(10), Cm(3)).table
        for i, text in enumerate(["组别", "人数", "甲组", "8", "", "9"]):
            table.cell(i // 2, i % 2).text = text
        table.cell(1, 0).merge(table.cell(2, 0))
        data = CategoryChartData()
        data.categories = ["平时", "期末"]
        data.add_series("得分", (80, 90))
        chart = slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, Cm(1), Cm(9), Cm(9), Cm(5), data).chart
        chart.has_title = True
        chart.chart_title.text_frame.text = "成绩图"

    page, = read_pages(slides(tmp_path / "a.pptx", build))
    assert page.text == "组别 | 人数\n甲组 | 8\n甲组 | 9\n成绩图\n得分 平时 期末 80 90"


def test_slide_numbers_scripts_and_hidden_slides(tmp_path):
    def build(slide):
        kinds = ["arabicPeriod", "arabicPeriod", "ea1ChsPeriod", "circleNumDbPlain", "alphaUcParenBoth"]
        frame = text_box(slide.shapes, "甲\n乙\n丙\n丁\n戊", 1, 5).text_frame
        for paragraph, kind in zip(frame.paragraphs, kinds, strict=True):
            style = paragraph._p.get_or_add_pPr()
            style.append(style.makeelement(f"{{{DRAWING}}}buAutoNum", {"type": kind}))
        power = frame.add_paragraph()
        power.add_run().text = "10"
        power.add_run().text = "4"
        power.runs[1]._r.get_or_add_rPr().set("baseline", "30000")
        slide._element.set("show", "0")

    page, = read_pages(slides(tmp_path / "a.pptx", build))
    assert page.text == "1. 甲\n2. 乙\n一. 丙\n① 丁\n(A) 戊\n10⁴"
    assert page.note == "放映时隐藏"


def test_formula_in_a_slide(tmp_path):
    """PowerPoint 把有公式的形状存两份：新的是公式，旧版看的是图。"""
    square = "<n:sSup><n:e><n:t>c</n:t></n:e><n:sup><n:t>2</n:t></n:sup></n:sSup>"
    changes = {"<a:r><a:t>公式</a:t></a:r>": f'<n:m xmlns:n="urn:n"><n:oMath>{square}</n:oMath></n:m>',
               "<p:sp>": '<n:AlternateContent xmlns:n="urn:n"><n:Choice><p:sp>',
               "</p:sp>": "</p:sp></n:Choice><n:Fallback><p:pic/></n:Fallback></n:AlternateContent>"}
    path = slides(tmp_path / "a.pptx", lambda slide: text_box(slide.shapes, "公式", 1, 5))
    for old, new in changes.items():
        rewritten(path, lambda text, old=old, new=new: text.replace(old, new))
    assert read_pages(path)[0].text == "c^2"


@pytest.mark.parametrize("suffix, change", [
    (".pptx", strict), (".docx", lambda text: text),
    (".pptm", lambda text: text.replace("presentation.main+xml", "presentation.macroEnabled.main+xml")),
    (".ppsx", lambda text: text.replace("presentation.main+xml", "slideshow.main+xml"))])
def test_every_kind_of_slides(tmp_path, suffix, change):
    """扩展名写成 .docx 的幻灯片，照幻灯片读。"""
    path = slides(tmp_path / f"a{suffix}", lambda slide: text_box(slide.shapes, "开馆", 1, 5))
    assert read_pages(rewritten(path, change))[0].text == "开馆"


def test_ofd_lines_by_place_with_the_red_head(tmp_path):
    """画的先后打乱了；同一行的字画成几截，行首空两格；表格的格子之间空开。"""
    body = [ofd_line("书的读者应当在到期以前办理续借。", 20, 56), ofd_line("各学院：", 20, 40),
            ofd_line("名称", 20, 70), ofd_line("学分", 60, 70.5), ofd_line("了", 116, 48),
            ofd_line("借书期限是三十天，确有需要的可以续借一次，借", 28, 48, delta="g 21 4")]
    head = ofd_line("某某大学文件", 60, 20, 8)
    path = ofd(tmp_path / "a.ofd", "".join(body), ofd_line("另起一页。", 20, 40), template=head)
    first, second = read_pages(path)
    sentence = "借书期限是三十天，确有需要的可以续借一次，借了书的读者应当在到期以前办理续借。"
    assert first.text.split("\n") == ["某某大学文件", "各学院：", sentence, "名称 学分"]
    assert second.text == "某某大学文件\n另起一页。"


def test_ofd_transforms_invisible_and_composite(tmp_path):
    lines = ofd_line("第一行。", 100, 100) + ofd_line("第二行。", 100, 120)
    units = f'<o:CompositeGraphicUnit ID="5">{lines}</o:CompositeGraphicUnit>'
    body = (ofd_line("末行", 0, 60) + ofd_line("零号字", 0, 15, 0)
            + ofd_line("看不见", 0, 10, more='Visible="false"')
            + '<o:CompositeObject Boundary="0 0 200 200" CTM="0.35 0 0 0.35 0 0" ResourceID="5"/>')
    assert read_pages(ofd(tmp_path / "a.ofd", body, units=units))[0].text == "第一行。\n第二行。\n末行"


def test_ofd_without_readable_characters(tmp_path):
    assert "没有文字对照表" in error_of(ofd(tmp_path / "a.ofd", ofd_line("\ue236\ue28a\ue0c0浏览", 20, 40)))
    assert "没有文字" in error_of(ofd(tmp_path / "b.ofd", "<o:ImageObject/>"))


@pytest.mark.parametrize("name, advice", [
    *((f"a.{suffix}", "另存为 .docx") for suffix in ("doc", "wps", "rtf", "odt")),
    *((f"a.{suffix}", "复制到 Word") for suffix in ("xls", "XLSX", "et", "csv")),
    ("a.ppt", "另存为 .pptx"), ("a.dps", "另存为 .pptx"), ("a.html", "用浏览器打开"), ("a.mht", "另存为 PDF"),
    ("a.epub", "calibre"), ("a.caj", "CAJViewer"), ("a.kdh", "CAJViewer"), ("a.jpg", "OCR"), ("a.png", "OCR"),
    ("a.rar", "解压"), ("a.key", "另存为 PDF"), ("无扩展名", "没有扩展名"),
    ("~$手册.docx", "Word 的临时文件"), (".~手册.docx", "临时文件")])
def test_other_formats_are_told_what_to_do(tmp_path, name, advice):
    path = tmp_path / name
    path.write_bytes(b"x" * 100)
    message = error_of(path)
    assert advice in message and "\n" not in message and message.endswith("。")


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600


@pytest.mark.parametrize("name, content, said", [
    ("a.docx", OLE, ".doc 格式"), ("a.docx", OLE + "EncryptedPackage".encode("utf-16-le"), "去掉密码"),
    ("a.doc", OLE + "Workbook".encode("utf-16-le"), ".xls 格式"), ("a.wps", OLE, ".doc 格式"),
    ("a.docx", b"{\\rtf1 abc}", ".rtf 格式"), ("a.doc", b"\r\n<html><body>", ".html 格式"),
    ("a.docx", b"\xef\xbb\xbf<!DOCTYPE html>", ".html 格式"), ("a.doc", b"\x89PNG\r\n", ".png 格式"),
    ("a.pdf", b"<html>404</html>", "不是 PDF")])
def test_content_tells_the_real_format(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    assert said in error_of(path)


@pytest.mark.parametrize("member, said", [("xl/workbook.xml", ".xlsx 格式"), ("content.xml", ".odt 格式"),
                                          ("META-INF/container.xml", ".epub 格式")])
def test_other_zips_named_docx(tmp_path, member, said):
    assert said in error_of(zipped(tmp_path / "a.docx", {member: "<a/>"}))


def test_zip_that_is_no_document_and_text_that_begins_like_one(tmp_path):
    assert "先解压" in error_of(zipped(tmp_path / "a.zip", {"a.txt": "文"}))
    for text in ("PK 赛的规则。", "网页用 <html> 开头。"):
        assert read_pages(written(tmp_path / "a.txt", text))[0].text == text


@pytest.mark.parametrize("make", [
    lambda path: slides(path, lambda slide: text_box(slide.shapes, "开馆", 1, 5)),
    lambda path: ofd(path, ofd_line("开馆", 1, 5))])
def test_damaged_slides_and_ofd(tmp_path, make):
    data = make(tmp_path / "good").read_bytes()
    for suffix in (".pptx", ".ofd"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(data[: len(data) // 2])
        assert "已损坏" in error_of(path)
    assert "已损坏" in error_of(rewritten(make(tmp_path / "b.ofd"), lambda text: text[:-20]))


def test_document_without_permission_is_one_sentence(tmp_path, monkeypatch):
    def refuse(path, *args, **more):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "课程.txt").write_text("文字", encoding="utf-8")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(LabError, match="没有权限，不能读写 .*课程.txt；"):
        read_pages(tmp_path / "课程.txt")


def test_folder(tmp_path):
    folder = tmp_path / "folder.pdf"
    folder.mkdir()
    assert "文件夹" in error_of(folder)


def test_evidence_is_checked_against_sections(tmp_path):
    """别的格式也能核对证据：页码就是第几节。"""
    pages = read_pages(written(tmp_path / "a.md", MARKDOWN))
    row = {"question": "书可以借多久？", "answer": "三十天。", "key_points": ["三十天"],
           "page": 2, "evidence": "借书期限是三十天"}
    good, rejected = validate([row, {**row, "page": 1}], pages)
    assert len(good) == 1 and "它在第 2 页" in rejected[0]["reason"]
    assert chunks(pages, 60, 0)[-1].pages == (2,)


def test_whole_dataset_from_word(tmp_path):
    """整条造数据的路：Word 文档和现成的问答文件。"""
    def build(document):
        document.add_heading("开放", 1)
        document.add_paragraph("学校图书馆每周开放六天。")
        document.add_heading("借书", 1)
        document.add_paragraph("借书期限是三十天。")

    facts = [("六天。", "每周开放六天", 1, ["每周开几天？", "一周有多少天能进馆？", "开馆的日子有几天？"]),
             ("三十天。", "借书期限是三十天", 2, ["书可以借多久？", "几天之内要还书？", "借期有多长？"])]
    rows = [{"question": q, "answer": answer, "key_points": [answer[:-1]], "page": page, "evidence": evidence}
            for answer, evidence, page, questions in facts for q in questions]
    qa = written(tmp_path / "qa.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    report = dataset_build.build_dataset(word_file(tmp_path / "a.docx", build), qa, tmp_path / "out")
    assert report["pairs"] == 6 and report["facts"] == 2
