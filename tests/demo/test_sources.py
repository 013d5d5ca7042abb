"""出处：自带数据上找得准，文件没有的不乱指，证据只当文字。评价与改正：写得进、读得回，能通过质检。"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from labutils.base import files
from labutils.base.errors import LabError
from labutils.dataset import checks
from labutils.dataset.build import DOWN, UP, read_pairs
from labutils.dataset.rows import load_qa
from labutils.demo import events
from labutils.demo.events import NONE, Feedback, Sources, examples


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
    known = Sources(rows)
    none = [known.find(p.get("question") or p["messages"][-1]["content"], p["answer"]) is None
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


# ---- 评价与改正 ----


def to_pairs(path):
    return [{"question": row["question"], "answer": row["answer"]} for row in read_pairs(path)]


@pytest.fixture
def feedback(tmp_path):
    return Feedback(tmp_path / "新建" / "feedback.jsonl")


def test_feedback_becomes_pairs(feedback):
    feedback.save("有效期多久？", "三年。", "微调后", vote=DOWN)
    feedback.save("有效期多久？", "三年。", "微调后", correction=" 一流本科课程的有效期是五年。 ")
    feedback.save("分哪几类？", "分为五类。", "微调后", vote=UP)
    feedback.save("谁主管？", "不知道。", "微调前", vote=DOWN)
    pairs = to_pairs(feedback.path)
    assert pairs == [{"question": "有效期多久？", "answer": "一流本科课程的有效期是五年。"},
                     {"question": "分哪几类？", "answer": "分为五类。"}]
    good, bad = checks.validate(pairs, require_evidence=False)
    assert len(good) == 2 and not bad


def test_the_last_word_counts(feedback):
    feedback.save("分哪几类？", "分为五类。", "微调后", vote=UP)
    feedback.save("分哪几类?", "分为五类。", "微调后", vote=DOWN)
    assert to_pairs(feedback.path) == []
    feedback.save("分哪几类？", "分为五类。", "微调后", correction="分为五类：线上、线下等。")
    assert to_pairs(feedback.path)[0]["answer"].endswith("等。")


def test_strange_text_survives_and_stays_on_one_line(feedback):
    text = '<script>\n"引号"\\ \u2028 👍 \ud800'
    feedback.save(text, "答", "微调后", vote=UP)
    feedback.save("第二条", "答", "微调后", vote=UP)
    lines = feedback.path.read_bytes().split(b"\n")
    assert len(lines) == 3 and json.loads(lines[0])["question"].startswith("<script>")
    assert len(to_pairs(feedback.path)) == 2


def test_many_writers_lose_nothing(feedback):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: feedback.save(f"第{i}问", "答" * 300, "微调后", vote=UP), range(200)))
    assert len(to_pairs(feedback.path)) == 200


def test_a_vote_after_half_a_line_begins_a_new_line(feedback):
    feedback.save("第一问", "答", "微调后", vote=UP)
    with feedback.path.open("ab") as file:
        file.write('{"question": "断'.encode())
    feedback.save("第二问", "答", "微调后", vote=UP)
    with pytest.raises(LabError, match="第 2 行"):
        to_pairs(feedback.path)
    lines = feedback.path.read_bytes().splitlines(keepends=True)
    feedback.path.write_bytes(lines[0] + lines[2])  # 照提示删掉那半行，别的都在
    assert [pair["question"] for pair in to_pairs(feedback.path)] == ["第一问", "第二问"]


def test_size_is_bounded(feedback, monkeypatch):
    with pytest.raises(LabError, match="超过上限 2000"):
        feedback.save("问", "答", "微调后", correction="长" * 2001)
    monkeypatch.setattr(events, "MAX_BYTES", 300)
    feedback.save("问", "答", "微调后", vote=UP)
    with pytest.raises(LabError, match="已经写满"):
        for _ in range(5):
            feedback.save("问", "答", "微调后", vote=UP)
    assert feedback.path.stat().st_size <= 300


def test_unwritable_place_is_explained(tmp_path):
    (tmp_path / "文件").write_text("")
    with pytest.raises(LabError, match="没有保存下来"):
        Feedback(tmp_path / "文件" / "feedback.jsonl").save("问", "答", "微调后", vote=UP)


@pytest.mark.parametrize("line", ['{"question": "问"}', "[1]", '{"question": 1, "model_answer": "", '
                                  '"vote": "", "correction": ""}'])
def test_bad_line_is_named(tmp_path, line):
    path = tmp_path / "feedback.jsonl"
    good = {"question": "问", "model_answer": "答", "vote": "up", "correction": ""}
    path.write_text(json.dumps(good) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(LabError, match="第 2 行不是网页写的反馈"):
        to_pairs(path)
