"""随库数据的体检：课程文档、问答、无答案问题、样例回复。"""

import json
import re
import subprocess
import sys
from collections import Counter

import pypdf
import pytest

from labutils.base.errors import LabError
from labutils.base.files import DATA
from labutils.base.text import contains, normalize
from labutils.dataset.checks import validate
from labutils.dataset.rows import drop_near_duplicates, similarity
from labutils.training import questions
from tools import make_pdf as mp
from tools.make_pdf import make_pdf

SOURCE = DATA / "source" / "course_document.md"
PDF = DATA / "source" / "course_document.pdf"


def rows_of(name):
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


QA = rows_of("qa.jsonl")
PROBES = rows_of("unanswerable_test.jsonl")
TRAIN = rows_of("unanswerable_train.jsonl")


def flat(text):
    return re.sub(r"\s", "", text)


@pytest.fixture(scope="module")
def pages():
    return [flat(page.extract_text()) for page in pypdf.PdfReader(PDF).pages]


def drawing(pdf):
    """每页解压后的绘图指令：不比压缩后的字节，因为各平台的 zlib 压出来可以不同。"""
    return [page.get_contents().get_data() for page in pypdf.PdfReader(pdf).pages]


def test_pdf_is_built_from_the_markdown(tmp_path):
    again = tmp_path / "again.pdf"
    make_pdf(SOURCE, again)
    same = again.read_bytes() == PDF.read_bytes() or drawing(again) == drawing(PDF)
    assert same, "PDF 与 Markdown 不一致，请重新运行 python -m tools.make_pdf"


def test_pdf_pages(pages):
    assert 5 <= len(pages) <= 7
    assert all(page.endswith(f"第{n}页") for n, page in enumerate(pages, 1))


def test_every_text_of_the_source_reaches_the_pdf(pages):
    text = "".join(re.sub(r"第\d页$", "", page) for page in pages)
    for line in SOURCE.read_text(encoding="utf-8").splitlines():
        for piece in re.split(r"^[#>\-\s]+|\|", line.strip()):
            assert flat(piece) in text or not piece.strip("-"), piece


def test_first_page_says_what_it_is_and_is_not(pages):
    for words in ("教学摘编", "不是通知原文", "没有读到", "教育部官方网站"):
        assert words in pages[0]


def test_document_has_no_unsure_fact(pages):
    text = "".join(pages)
    for unsure in ("5992", "境外平台", "视频公开课", "可追溯", "5116", "5751"):
        assert unsure not in text


def test_one_relay_facts_say_so():
    for paragraph in SOURCE.read_text(encoding="utf-8").split("\n\n"):
        if re.search("两期教学活动|2024年1月31日|此后五年|政治审查意见|为准", paragraph):
            assert "据一所高校转发" in paragraph, paragraph


def test_document_answers_the_period_question_truthfully(pages):
    text = "".join(pages)
    assert "没有出现“有效期”一词" in text
    assert "申报时要作出承诺" in text


def test_fifty_facts_by_three():
    assert len(QA) == 150
    expected = [f"F{n:02d}-{k}" for n in range(1, 51) for k in (1, 2, 3)]
    assert [row["id"] for row in QA] == expected
    assert all(row["fact_id"] == row["id"][:3] for row in QA)
    keys = {"id", "fact_id", "question", "answer", "key_points", "page", "evidence"}
    assert all(set(row) == keys for row in QA)


def test_phrasings_share_everything_but_the_question():
    for first, *others in zip(*[iter(QA)] * 3, strict=True):
        for other in others:
            for key in ("answer", "key_points", "page", "evidence"):
                assert first[key] == other[key], other["id"]


def test_facts_are_distinct():
    assert len({row["answer"] for row in QA}) == 50
    assert len({tuple(row["key_points"]) for row in QA}) == 50


@pytest.mark.parametrize("row", QA[::3], ids=lambda row: row["fact_id"])
def test_fact_is_grounded(row, pages):
    evidence = flat(row["evidence"])
    assert len(evidence) >= 8
    assert [n for n, page in enumerate(pages, 1) if evidence in page] == [row["page"]]
    for point in row["key_points"]:
        assert contains(row["answer"], point)
        assert contains(row["evidence"], point)


def test_no_question_contains_a_key_point():
    for row in QA:
        assert not [p for p in row["key_points"] if contains(row["question"], p)], row["id"]


def test_lengths():
    assert all(12 <= len(row["answer"]) <= 45 for row in QA)
    assert all(8 <= len(row["question"]) <= 35 for row in QA + PROBES + TRAIN)


def test_phrasings_really_differ():
    for trio in zip(*[iter(QA)] * 3, strict=True):
        a, b, c = (row["question"] for row in trio)
        assert max(similarity(a, b), similarity(a, c), similarity(b, c)) < 0.5, a


def test_all_questions_are_distinct():
    counts = Counter(normalize(row["question"]) for row in QA + PROBES + TRAIN)
    assert counts.most_common(1)[0][1] == 1
    assert len(drop_near_duplicates(QA)[0]) == 150


def test_common_characters_only():
    """汉字限 GB2312 一级字，免得小模型在冷僻字上白费力气。"""
    for row in QA + PROBES + TRAIN:
        for char in row["question"] + row["answer"]:
            code = char.encode("gb2312", "ignore")
            common = len(code) == 2 and 0xB0 <= code[0] <= 0xD7
            assert char.isascii() or common or char in "，。、；：？！“”《》〔〕—（）", char


def test_unanswerable_sets():
    assert (len(PROBES), len(TRAIN)) == (24, 138)
    assert all(row["key_points"] == ["没有写明"] for row in PROBES)
    for row in PROBES + TRAIN:
        assert re.fullmatch(".+，材料没有写明。", row["answer"]), row["id"]
    assert len({row["id"] for row in QA + PROBES + TRAIN}) == 150 + 24 + len(TRAIN)


def test_refusals_use_the_names_of_attributes_that_answers_use():
    """一个意思一个名字：拒答时另起名字（如把“入选总数”叫“门数”），会学成问什么都是没见过的属性。"""
    names = tuple(questions.restated(attribute, "") for attribute in questions.attributes())
    for row in TRAIN:
        topic = row["answer"].removesuffix("，材料没有写明。")
        found = [name for name in names if topic.endswith(name)]
        assert found, topic
        subject = topic.removesuffix(max(found, key=len))
        assert not subject.endswith("的"), f"{topic}：标准回答里没有这个“的”"


def test_unanswerable_sets_share_no_topic():
    assert not {row["answer"] for row in PROBES} & {row["answer"] for row in TRAIN}
    for probe in PROBES:
        for other in TRAIN + QA:
            assert similarity(probe["question"], other["question"]) < 0.4, other["question"]
        for other in TRAIN:
            topics = [row["answer"].removesuffix("，材料没有写明。") for row in (probe, other)]
            assert similarity(*topics) < 0.4, topics


def test_answers_claim_no_period_of_validity():
    answer = next(row["answer"] for row in QA if row["question"] == "一流本科课程的有效期多久？")
    assert "承诺" in answer and "没有有效期的说法" in answer


def test_sample_responses_hold_all_pairs_and_real_defects():
    texts = [p.read_text(encoding="utf-8") for p in sorted(DATA.glob("sample_responses/*.txt"))]
    assert 10 <= len(texts) <= 15
    together = "\n".join(texts)
    for row in QA:
        assert json.dumps(row["question"], ensure_ascii=False) in together, row["id"]
    for defect in ("```json", "<think>", "},\n]", "\n[]"):
        assert defect in together
    assert any(text.count("[") > text.count("]") for text in texts), "没有被截断的回复"


def test_replaying_the_samples_gives_the_shipped_pairs():
    from labutils.dataset.formats import read_pages
    from labutils.dataset.replies import parse_response
    from labutils.dataset.rows import flatten

    pairs = []
    for path in sorted(DATA.glob("sample_responses/*.txt")):
        found, _ = parse_response(path.read_text(encoding="utf-8"))
        pairs += [flatten(pair) for pair in found]
    good, rejected = validate(pairs, read_pages(PDF))
    kept, dropped = drop_near_duplicates(good)
    assert sorted((r["fact_id"], r["question"]) for r in kept) == sorted(
        (r["fact_id"], r["question"]) for r in QA
    )
    assert {r["id"]: r["question"] for r in kept} == {r["id"]: r["question"] for r in QA}
    assert len(rejected) >= 4 and len(dropped) >= 3


# —— tools/make_pdf.py：解析、断行、缺字检查、可重复的输出 ——


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
