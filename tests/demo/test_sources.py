"""出处：自带数据上找得准，文件没有的不乱指，证据只当文字。"""

import pytest

from labutils.base import files
from labutils.dataset.rows import load_qa
from labutils.demo.sources import NONE, Sources, examples


@pytest.fixture(scope="module")
def rows():
    return load_qa(files.DATA / "qa.jsonl")


def test_right_answers_find_their_own_page(rows):
    found = 0
    for i in range(0, len(rows), 3):  # 去掉这一条自己，用同一事实的别的问法去找
        row = rows[i]
        hit = Sources(rows[:i] + rows[i + 1:]).find(row["question"], row["answer"])
        found += hit is not None and hit["fact_id"] == row["fact_id"]
    assert found / len(rows[::3]) >= 0.9


@pytest.mark.parametrize("name, at_least", [("general", 1.0), ("unanswerable", 0.95)])
def test_what_the_document_does_not_say_gets_no_source(rows, name, at_least):
    probes = load_qa(files.DATA / "probes" / f"{name}.jsonl")
    sources = Sources(rows)
    none = [sources.find(p.get("question") or p["messages"][-1]["content"], p["answer"]) is None
            for p in probes]
    assert sum(none) / len(none) >= at_least


def test_page_and_evidence_are_shown_as_text():
    row = {"question": "有效期多久", "answer": "五年。", "page": 3, "evidence": "有效期<b>五年</b>"}
    shown = Sources([row]).show("有效期多久", "五年。")
    assert "第 3 页" in shown and "&lt;b&gt;五年&lt;/b&gt;" in shown
    assert NONE in Sources([row]).show("今天天气怎么样", "晴。")
    assert NONE in Sources([row]).show("有效期多久", "有效期，材料没有写明。")


def test_nothing_to_search_shows_nothing():
    assert Sources([]).show("问", "答") == ""
    assert Sources([{"question": "问", "answer": "答"}]).show("问", "答") == ""  # 没有页码和证据


def test_examples_are_short_questions_of_different_facts(rows):
    picked = examples(rows)
    facts = {row["question"]: row["fact_id"] for row in rows}
    assert len(picked) == 5 == len({facts[question] for question in picked})
    assert all(len(question) <= 40 for question in picked)
    assert examples([]) == [] and examples([{"question": "只有一个"}]) == ["只有一个"]
