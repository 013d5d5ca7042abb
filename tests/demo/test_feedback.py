"""评价与改正：写得进、读得回，变成的问答对能通过质检，坏行说得清第几行。"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from labutils.base.errors import LabError
from labutils.dataset import checks
from labutils.dataset.build import DOWN, UP, read_pairs
from labutils.demo import sources
from labutils.demo.sources import Feedback


def to_pairs(path):
    return [pair for _, pair in read_pairs(path)]


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
    monkeypatch.setattr(sources, "MAX_BYTES", 300)
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
