"""数据集报告：段落认得对、覆盖数得对、泄漏报得出来；写出的网页安全。"""

import json
import random

import pytest

from labutils.base.errors import LabError
from labutils.base.files import DATA
from labutils.dataset.build import finish
from labutils.dataset.clean import Page
from labutils.dataset.formats import read_pages
from labutils.dataset.report import (
    describe,
    funnel_plot,
    mark,
    overview_plot,
    paragraphs,
    split_problem,
    summary,
    write,
)
from labutils.dataset.rows import load_qa, split

PAGES = [
    Page(1, "图书馆手册\n一、开放时间\n图书馆每周开放六天。周一上午闭馆。\n1. 例外\n节假日另行通知。"),
    Page(2, "项目 收费\n逾期 两角\n丢书 照价\n二、罚则\n逾期的人要交费；\n交费之后才能再借。\n"
            "<b>坏</b>标记。"),
]


def row(name, question, evidence, page=1, fact=None, answer="答。"):
    return {"id": name, "fact_id": fact or name[:2], "question": question, "answer": answer,
            "key_points": [answer], "page": page, "evidence": evidence}


ROWS = [
    row("F1-1", "开放几天？", "每周开放六天"),
    row("F1-2", "一周里哪些日子能进馆？", "每周开放六天。周一上午闭馆"),
    row("F2-1", "逾期收多少？", "逾期两角", page=2),
    row("F2-2", "迟还交几角？", "两角\n丢书", page=2),
    row("F3-1", "什么时候才能再借？", "要交费；交费之后才能再借", page=2),
]
TRAIN, DEV = [ROWS[0], ROWS[2], ROWS[4]], [ROWS[1], ROWS[3]]


# ---- 段落与覆盖 ----

def test_headings_tables_and_paragraphs():
    found = [(p.page, p.section, p.text) for p in paragraphs(PAGES)]
    assert found == [
        (1, "一、开放时间", "图书馆每周开放六天。周一上午闭馆。"),
        (1, "一、开放时间 › 1. 例外", "节假日另行通知。"),
        (2, "一、开放时间 › 1. 例外", "项目 收费\n逾期 两角\n丢书 照价"),
        (2, "二、罚则", "逾期的人要交费；"),
        (2, "二、罚则", "交费之后才能再借。"),
        (2, "二、罚则", "<b>坏</b>标记。"),
    ]


def test_evidence_marks_every_paragraph_it_touches():
    found = paragraphs(PAGES)
    lost = mark(found, [*ROWS, row("F9-1", "没有出处？", "别处的话"), {"id": "F9-2"}])
    assert [p.questions for p in found] == [
        ["F1-1", "F1-2"], [], ["F2-1", "F2-2"], ["F3-1"], ["F3-1"], []]
    assert lost == ["F9-1", "F9-2"]


def test_course_document_is_cut_into_its_chapters():
    found = paragraphs(read_pages(DATA / "source" / "course_document.pdf"))
    chapters = list(dict.fromkeys(p.section.split(" › ")[0] for p in found))
    assert [name[:2] for name in chapters[1:]] == [f"{n}、" for n in "一二三四五六七八九十"]
    assert mark(found, load_qa(DATA / "qa.jsonl")) == []


# ---- 数字 ----

def test_describe_counts():
    report = describe(ROWS, TRAIN, DEV, PAGES)
    assert (report["pairs"], report["facts"]) == (5, 3)
    assert report["coverage"]["paragraphs"] == 6 and report["coverage"]["covered"] == 4
    assert 0 < report["coverage"]["characters"] < 1
    assert [p["text"] for p in report["uncovered"]] == ["节假日另行通知。", "<b>坏</b>标记。"]
    last = report["sections"][-1]
    assert last == {"section": "二、罚则", "pages": [2], "paragraphs": 3, "covered": 2, "pairs": 1}
    assert report["lengths"]["question"]["max"] == 11 and report["lengths"]["answer"]["median"] == 2
    assert report["split"]["dev_facts_not_in_train"] == []


def test_unlearned_facts_are_reported():
    report = describe(ROWS, TRAIN, [ROWS[1], row("F8-1", "只考不学？", "x")], PAGES)
    assert report["split"]["dev_facts_not_in_train"] == ["F8"]
    text = summary(report)
    assert "✗ 1 个事实只在验证集考、训练集没学：F8。" in text and "✓" not in text


def test_shipped_split_is_clean_and_a_random_one_is_not():
    rows, pages = load_qa(DATA / "qa.jsonl"), read_pages(DATA / "source" / "course_document.pdf")
    clean = describe(rows, *split(rows, 42), pages)
    assert split_problem(clean) == ""
    assert "训练集 100，验证集 50" in summary(clean)
    assert "覆盖 27/54 段" in summary(clean)
    mixed = random.Random(42).sample(rows, len(rows))
    assert "只在验证集考" in split_problem(describe(rows, mixed[:100], mixed[100:], pages))


def test_uncovered_paragraphs_are_listed():
    bare = describe(ROWS, TRAIN, DEV, PAGES)["uncovered"]
    assert len(bare) == 2
    assert (bare[0]["page"], bare[0]["section"]) == (1, "一、开放时间 › 1. 例外")
    assert bare[0]["text"].startswith("节假日")


# ---- 文件 ----

def test_files_agree_and_html_is_safe(tmp_path):
    steps = [("<i>条目</i>", 9), ("去重之后", 5)]
    report = write(tmp_path, ROWS, TRAIN, DEV, PAGES, steps)
    saved = json.loads((tmp_path / "dataset_report.json").read_text(encoding="utf-8"))
    assert saved == json.loads(json.dumps(report | {"funnel": steps}))
    assert (tmp_path / "dataset_report.png").read_bytes().startswith(b"\x89PNG")
    html = (tmp_path / "dataset_report.html").read_text(encoding="utf-8")
    assert "<b>坏" not in html and "&lt;b&gt;坏&lt;/b&gt;标记" in html and "<i>条目" not in html
    assert "没有出过题的段落（2 段）" in html and "划分干净" in html and "default-src 'none'" in html
    for outside in ("http://", "https://", "<script", str(tmp_path)):
        assert outside not in html


def test_interrupted_report_keeps_the_old_one(tmp_path, interrupted):
    write(tmp_path, ROWS, TRAIN, DEV, PAGES)
    with interrupted(tmp_path / "dataset_report.json"):
        write(tmp_path, ROWS[:1], TRAIN, DEV, PAGES)


def test_findings_of_the_reader_are_listed_by_page(tmp_path):
    notes = ["只有图片", "", "只有图片；去掉了页眉页脚“<手册>”"]
    pages = [*PAGES, *(Page(100 + i, "", note) for i, note in enumerate(notes))]
    report = write(tmp_path, ROWS, TRAIN, DEV, pages)
    assert report["notes"] == [{"note": "只有图片", "pages": "100、102"},
                               {"note": "去掉了页眉页脚“<手册>”", "pages": "102"}]
    html = (tmp_path / "dataset_report.html").read_text(encoding="utf-8")
    assert "<td>100、102</td>" in html and "“&lt;手册&gt;”" in html


def test_html_names_the_problems(tmp_path):
    copy = {**ROWS[0], "id": "F1-9", "evidence_original": "x"}
    write(tmp_path, [*ROWS, {**copy, "page": 7}], TRAIN, [{**copy, "fact_id": "F8"}], PAGES)
    html = (tmp_path / "dataset_report.html").read_text(encoding="utf-8")
    assert "verdict bad" in html and "划分干净" not in html
    assert "1 条证据抄错了几个字" in html and "F1-9" in html and "每一关" not in html


def test_finish_moves_leaked_questions_out(tmp_path):
    long = "图书馆从星期一到星期日一共开放多少天可以进去看书"
    rows = [row("F1-1", long + "呢？", "每周开放六天"),
            row("F1-2", long + "？", "每周开放六天", answer="六天。"),
            row("F4-1", "节假日怎么办？", "节假日另行通知"),
            row("F4-2", "放假的时候看什么通知？", "节假日另行通知")]
    rejected = []
    report = finish(tmp_path, rows, rejected, PAGES, 1, [("条目", 4)])
    assert len(rejected) == 1 and "几乎一样" in rejected[0]["reason"]
    assert report["funnel"] == [("条目", 4), ("验证集没有训练题", 3)]
    assert report["pairs"] == 3 == len(load_qa(tmp_path / "qa.jsonl"))
    assert rejected[0]["row"]["question"] not in (tmp_path / "dev.json").read_text(encoding="utf-8")


# ---- 图 ----

def test_funnel_shows_what_each_gate_takes():
    axes = funnel_plot([("条目 $1", 9), ("去重之后", 5)]).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [9, 5, 0, 4]
    assert [text.get_text() for text in axes.texts] == ["9", "5（−4）"]
    with pytest.raises(LabError, match="漏斗"):
        funnel_plot([])


def test_overview_draws_the_counts():
    report = describe(ROWS, TRAIN, DEV, PAGES)
    left, right = overview_plot(report).axes
    assert [bar.get_width() for bar in left.patches] == [2, 2, 1, 1]  # 两章：有题的，没题的
    assert sum(bar.get_height() for bar in right.patches) == 10  # 五个问题，五个答案


def test_long_documents_still_fit():
    pages = [Page(i, f"第{i}章 名字\n内容{i}。") for i in range(1, 301)]
    rows = [row("F1-1", "问？？？", "内容1"), row("F1-2", "问什么？", "内容2", page=2)]
    figure = overview_plot(describe(rows, rows[:1], rows[1:], pages))
    assert figure.get_size_inches()[1] < 12 and "共 300 章" in figure.axes[0].get_title()
