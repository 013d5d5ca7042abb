"""Word、Markdown、纯文本：和 PDF 走同一个入口，读不了的说得清。文件都在测试里现做。"""

import contextlib
import errno
import json
import random
from pathlib import Path

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from fakes.documents import error_of

from labutils.base.errors import LabError
from labutils.dataset import build as dataset_build
from labutils.dataset.checks import on_page, validate
from labutils.dataset.clean import chunks
from labutils.dataset.formats import read_pages

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
    assert on_page("先由学院核对，再报教务处", page.text)


def test_markdown_table_with_empty_and_wrapped_cells(tmp_path):
    text = "| 项目 | 部门 | 期限 |\n|---|---|---|\n| 缓考 |  | 三天 |\n| 复核 | 学院<br>教务处 | 甲\\|乙 |\n"
    page, = read_pages(written(tmp_path / "a.md", text))
    assert page.text.split("\n") == ["项目 | 部门 | 期限", "缓考 |  | 三天", "复核 | 学院 教务处 | 甲|乙"]


def test_word_revisions_content_controls_and_text_boxes(tmp_path, capsys):
    """python-docx 的 paragraph.text 会漏掉插入的字和内容控件里的段落。"""
    def build(document):
        word = nsdecls("w")
        document.element.body.insert(0, parse_xml(
            f"<w:p {word}><w:r><w:t>开放</w:t></w:r><w:del><w:r><w:delText>五</w:delText></w:r></w:del>"
            "<w:ins><w:r><w:t>六</w:t></w:r></w:ins><w:r><w:t>天。</w:t></w:r></w:p>"))
        document.element.body.insert(1, parse_xml(
            f"<w:sdt {word}><w:sdtContent><w:p><w:r><w:t>控件里的一段。</w:t></w:r></w:p>"
            "</w:sdtContent></w:sdt>"))
        document.element.body.insert(2, parse_xml(
            f"<w:p {word}><w:r><w:txbxContent><w:p><w:r><w:t>框</w:t></w:r></w:p>"
            "</w:txbxContent></w:r></w:p>"))

    page, = read_pages(word_file(tmp_path / "a.docx", build))
    assert page.text == "开放六天。\n控件里的一段。"
    assert "文本框" in capsys.readouterr().out


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


def test_unknown_empty_and_missing(tmp_path):
    message = error_of(written(tmp_path / "a.xlsx", "x"))
    assert "（.xlsx）读不了" in message and ".pdf、.docx、.md" in message
    assert "没有扩展名" in error_of(written(tmp_path / "README", "x"))
    assert "0 字节" in error_of(written(tmp_path / "a.md", ""))
    assert "没有文字" in error_of(written(tmp_path / "b.md", "\n \n---\n"))
    assert "不存在" in error_of(tmp_path / "none.docx")


def test_document_without_permission_is_one_sentence(tmp_path, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "课程.txt").write_text("文字", encoding="utf-8")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(LabError, match="没有权限，不能读写 .*课程.txt；"):
        read_pages(tmp_path / "课程.txt")


def test_missing_file_and_folder(tmp_path):
    assert "不存在" in error_of(tmp_path / "none.pdf")
    folder = tmp_path / "folder.pdf"
    folder.mkdir()
    assert "文件夹" in error_of(folder)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.pdf"
    path.write_bytes(b"")
    assert "0 字节" in error_of(path)


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
    assert report["pages"] == 2 and report["pairs"] == 6 and report["facts"] == 2
