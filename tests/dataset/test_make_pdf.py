"""tools/make_pdf.py：解析、断行、缺字检查、可重复的输出。"""

import subprocess
import sys

import pypdf
import pytest

from labutils.base.errors import LabError
from tools import make_pdf as mp

SMALL = """# 标题一

> 提示的第一段。
>
> 提示的第二段。

## 第一节

第一行写到这里，
第二行接着写。

- 甲项
1. 乙项

### 小节

| 名称 | 数量 |
|---|:--:|
| 线上 | 40% |
| 线下 | 〔2023〕24号 |

收尾一段。
"""


@pytest.fixture
def small(tmp_path):
    source = tmp_path / "small.md"
    source.write_text(SMALL, encoding="utf-8")
    return source


def words(pdf):
    return "".join("".join(p.extract_text().split()) for p in pypdf.PdfReader(pdf).pages)


def test_parse_kinds_and_order():
    kinds = [block.kind for block in mp.parse_markdown(SMALL)]
    assert kinds == ["h1", "quote", "quote", "h2", "p", "li", "li", "h3", "table", "p"]


def test_parse_joins_lines_of_one_paragraph_without_spaces():
    assert mp.Block("p", "第一行写到这里，第二行接着写。") in mp.parse_markdown(SMALL)


def test_parse_table_skips_the_rule_row():
    table = next(b for b in mp.parse_markdown(SMALL) if b.kind == "table")
    assert table.rows == (("名称", "数量"), ("线上", "40%"), ("线下", "〔2023〕24号"))


def test_parse_two_tables_are_not_merged():
    blocks = mp.parse_markdown("| 甲 |\n|---|\n\n| 乙 |\n|---|\n")
    assert [b.rows for b in blocks] == [(("甲",),), (("乙",),)]


def test_parse_drops_emphasis_marks():
    assert mp.parse_markdown("要看**原文**和`page`") == [mp.Block("p", "要看原文和page")]


def test_parse_ordered_and_bullet_items():
    assert [b.text for b in mp.parse_markdown("- 甲\n2. 乙")] == ["• 甲", "2. 乙"]


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("一二三四五六", 3, ["一二三", "四五六"]),
        ("一二三，四五", 3, ["一二", "三，四", "五"]),  # 逗号不在行首
        ("一二《三四》", 3, ["一二", "《三", "四》"]),  # 书名号不在行尾
        ("一二2024年", 5, ["一二", "2024年"]),  # 数字不拆开
        ("占20%—50%的", 7, ["占", "20%—50%", "的"]),
        ("", 3, []),
    ],
)
def test_wrap(text, width, expected):
    assert list(mp.wrap(text, width, len)) == expected


def test_wrap_loses_no_character():
    text = "（一）申报说明：《教育部》〔2019〕8号，占20%—50%。" * 9
    assert "".join(mp.wrap(text, 13, len)) == text


def test_wrap_ends_even_if_everything_is_punctuation():
    assert "".join(mp.wrap("，" * 20, 3, len)) == "，" * 20


def test_pdf_has_text_outline_and_page_number(small, tmp_path):
    target = tmp_path / "new" / "small.pdf"
    assert mp.make_pdf(small, target) == 1
    text = words(target)
    for expected in ("标题一", "第一行写到这里，第二行接着写。", "线下〔2023〕24号", "第1页"):
        assert expected in text
    reader = pypdf.PdfReader(target)
    assert reader.metadata.title == "标题一"
    assert reader.outline[0].title == "标题一"


def test_same_input_same_bytes(small, tmp_path):
    first, second = tmp_path / "1.pdf", tmp_path / "2.pdf"
    mp.make_pdf(small, first)
    mp.make_pdf(small, second)
    assert first.read_bytes() == second.read_bytes()


def test_short_paragraph_does_not_cross_pages(tmp_path):
    source = tmp_path / "long.md"
    paragraphs = [f"段落{n}开始，" + "字" * 70 + f"，段落{n}结束。" for n in range(40)]
    source.write_text("\n\n".join(paragraphs), encoding="utf-8")
    assert mp.make_pdf(source, tmp_path / "long.pdf") > 1
    pages = pypdf.PdfReader(tmp_path / "long.pdf").pages
    pages = ["".join(page.extract_text().split()) for page in pages]
    assert all(any(p in page for page in pages) for p in paragraphs)


def test_missing_glyph_names_line_and_character(tmp_path):
    source = tmp_path / "bad.md"
    source.write_text("# 好\n\n坏字\U0001f600在这里", encoding="utf-8")
    with pytest.raises(LabError, match="第 3 行.*\U0001f600"):
        mp.make_pdf(source, tmp_path / "bad.pdf")
    assert not (tmp_path / "bad.pdf").exists()


def test_uneven_table_is_an_error(tmp_path):
    source = tmp_path / "bad.md"
    source.write_text("| 甲 | 乙 |\n|---|---|\n| 只有一格 |", encoding="utf-8")
    with pytest.raises(LabError, match="只有一格"):
        mp.make_pdf(source, tmp_path / "bad.pdf")


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xc4\xe3\xba\xc3"])
def test_empty_or_not_utf8_is_an_error(tmp_path, content):
    source = tmp_path / "bad.md"
    source.write_bytes(content)
    with pytest.raises(LabError, match="bad.md"):
        mp.make_pdf(source, tmp_path / "bad.pdf")


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(LabError, match="nothing.md"):
        mp.make_pdf(tmp_path / "nothing.md", tmp_path / "x.pdf")


def test_missing_font_package_is_an_error(monkeypatch):
    monkeypatch.setattr(mp, "find_spec", lambda name: None)
    with pytest.raises(LabError, match="zhplot"):
        mp.font_path()


def test_command_line(small, tmp_path):
    command = [sys.executable, "-m", "tools.make_pdf"]
    root = mp.__file__.rsplit("tools", 1)[0]
    good = subprocess.run(
        [*command, small, tmp_path / "a.pdf"], cwd=root, capture_output=True, encoding="utf-8"
    )
    assert good.returncode == 0 and "共 1 页" in good.stdout
    bad = subprocess.run(
        [*command, tmp_path / "no.md", tmp_path / "b.pdf"],
        cwd=root, capture_output=True, encoding="utf-8",
    )
    assert bad.returncode == 1 and "no.md" in bad.stderr and "Traceback" not in bad.stderr
    assert mp.main([]) == 1
