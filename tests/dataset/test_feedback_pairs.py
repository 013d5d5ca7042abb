"""网页上的评价与改正变成新的训练数据：检查照旧，编号不撞，训练集与验证集不漏题。"""

import json

import pytest

from labutils.base.errors import LabError
from labutils.base.files import DATA
from labutils.dataset.build import COURSE_PDF, DOWN, UP, build_dataset
from labutils.dataset.checks import validate
from labutils.dataset.rows import check_no_leak, load_conversations, load_qa
from labutils.demo.sources import Feedback

KNOWN = load_qa(DATA / "qa.jsonl")


@pytest.fixture
def feedback(tmp_path):
    """四条能用（改正、两个👍、改正了旧题的同义问法），五条不能用。"""
    saved = Feedback(tmp_path / "feedback.jsonl")
    say = saved.save
    say("申报材料要用什么语言来写？", "不知道。", "微调后", correction="申报材料要用中文来写。")      # 1
    say("想请您告诉我，这批课程的文号到底是多少呀？", KNOWN[3]["answer"], "微调后", vote=UP)      # 2
    say("这门课好不好？", "好。", "微调后", vote=DOWN)                                       # 3：只有👎
    say(KNOWN[0]["question"], "错的。", "微调后", correction="这是一个矛盾的答案。")            # 4：矛盾
    say("根据上文，期限是哪一年？", "一九九九年。", "微调后", vote=UP)                       # 5：指代
    say("长", "太短。", "微调后", vote=UP)                                                # 6：太短
    say("What is the deadline of it?", "Tomorrow.", "微调后", vote=UP)                    # 7：语言
    say("开会的地点由谁来确定？", "秘书处。", "微调后", vote=UP)                              # 8
    say(KNOWN[5]["question"], KNOWN[5]["answer"], "微调后", vote=UP)                       # 9：已经有了
    return saved.path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_good_feedback_becomes_pairs_and_the_rest_is_named(feedback, tmp_path, capsys):
    report = build_dataset(COURSE_PDF, DATA / "qa.jsonl", tmp_path, feedback=feedback)
    said, folder = capsys.readouterr().out, tmp_path / "data"
    assert report["pairs"] == 153 and report["funnel"][-1] == ("加上网页反馈", 153)
    assert "收下 3 条新问答，5 条没有收" in said
    for line in (4, 5, 6, 7, 9):
        assert f"feedback.jsonl 第 {line} 行不合格：" in said
    rows = load_qa(folder / "qa.jsonl")
    assert rows[:150] == KNOWN  # 原有的一条也不动
    new = rows[150:]
    assert [set(row) for row in new] == [{"id", "fact_id", "question", "answer", "key_points"}] * 3
    assert new[0]["answer"] == "申报材料要用中文来写。" and new[1]["fact_id"] == KNOWN[3]["fact_id"]
    known_facts = {row["fact_id"] for row in KNOWN}
    assert new[0]["fact_id"] not in known_facts and new[2]["fact_id"] not in known_facts
    assert len({row["id"] for row in rows}) == 153
    assert not validate(rows, require_evidence=False)[1]
    refused = [item for item in lines(folder / "rejected.jsonl") if "source" in item.get("row", {})]
    assert len(refused) == 5 and refused[0]["row"]["source"].endswith("行")


def test_train_and_dev_still_share_no_question(feedback, tmp_path):
    saved = Feedback(feedback)
    for row in KNOWN[::7]:  # 只差一两个字的旧题，答案相同：要么算重复，要么不能两边都有
        saved.save("请问" + row["question"], row["answer"], "微调后", vote=UP)
    build_dataset(COURSE_PDF, DATA / "qa.jsonl", tmp_path, feedback=feedback)
    train, dev = (load_conversations(tmp_path / "data" / f"{name}.json") for name in ("train", "dev"))
    check_no_leak(train, dev)
    answers = [item["conversations"][1]["content"] for item in train + dev]
    assert "申报材料要用中文来写。" in answers


def test_a_line_that_is_no_feedback_is_named(feedback, call, capsys, tmp_path):
    with feedback.open("a", encoding="utf-8") as file:
        file.write('{"question": "只有问题"}\n')
    assert call("dataset", "--feedback", str(feedback), "--out", str(tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert "feedback.jsonl 第 10 行不是网页写的反馈" in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "data" / "qa.jsonl").exists()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(LabError, match="没有.jsonl 不存在"):
        build_dataset(COURSE_PDF, DATA / "qa.jsonl", tmp_path, feedback=tmp_path / "没有.jsonl")


def test_the_command_merges(feedback, call, capsys, tmp_path):
    assert call("dataset", "--feedback", str(feedback), "--out", str(tmp_path / "out")) == 0
    assert "收下 3 条新问答" in capsys.readouterr().out
    assert len(lines(tmp_path / "out" / "data" / "qa.jsonl")) == 153
