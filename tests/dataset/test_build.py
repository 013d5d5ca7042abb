"""从 PDF 到 train.json 的全程：随仓库的数据对得上，别人的 PDF 也走得通，网页反馈并得进来。"""

import json

import pytest
from fakes.documents import FONT
from fpdf import FPDF

from labutils.base.errors import LabError
from labutils.base.files import DATA, write_json_lines
from labutils.dataset import build as dataset_build
from labutils.dataset.build import COURSE_PDF, DOWN, UP, build_dataset, collect, locate_pages, name_facts
from labutils.dataset.checks import validate
from labutils.dataset.clean import Page
from labutils.dataset.generation import Generation
from labutils.dataset.prompts import Chunk
from labutils.dataset.report import mark, paragraphs
from labutils.dataset.rows import UNANSWERABLE, check_no_leak, load_conversations, load_qa
from labutils.demo.events import Feedback

TEXT = "图书馆每周开放六天。借书期限是三十天。逾期每天交费两角。"
ROWS = [
    {"question": "图书馆一周开几天？", "answer": "六天。"},
    {"question": "每周有多少天可以进图书馆？", "answer": "六天。"},
    {"question": "书可以借多久？", "answer": "三十天。"},
    {"question": "借书的期限有多长？", "answer": "三十天。"},
    {"question": "书一次能拿走看多少天？", "answer": "三十天。", "page": 1,
     "evidence": "借书期限是三十天"},
]


@pytest.fixture
def other_pdf(tmp_path):
    pdf = FPDF()
    pdf.add_font("zh", fname=FONT)
    pdf.add_page()
    pdf.set_font("zh", size=12)
    pdf.multi_cell(0, 8, TEXT)
    pdf.output(tmp_path / "other.pdf")
    return tmp_path / "other.pdf"


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_shipped_data_survive_and_replay_agrees(tmp_path, capsys):
    report = build_dataset(COURSE_PDF, DATA / "qa.jsonl", tmp_path)
    assert report["pairs"] == report["funnel"][-1][1] == 150
    assert (report["train"], report["dev"], report["facts"]) == (100, 50, 50)
    assert report["dev_facts_in_train"] == 50
    counts = [count for _, count in report["funnel"]]
    assert counts == sorted(counts, reverse=True) and counts[0] > 150  # 样例里真有坏的
    assert counts[0] - 150 == len(lines(tmp_path / "data" / "rejected.jsonl"))
    assert load_qa(tmp_path / "data" / "qa.jsonl") == load_qa(DATA / "qa.jsonl")
    assert len(load_conversations(tmp_path / "data" / "train.json")) == 100
    assert len(load_conversations(tmp_path / "data" / "dev.json")) == 50
    out = capsys.readouterr().out
    assert "没有调用 API" in out and "150 对与 data/qa.jsonl 的 150 对一致" in out
    assert "✓ 验证集没有训练集的题" in out and "覆盖 " in out
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert {f"dataset_report.{kind}" for kind in ("json", "html", "png")} <= names


def test_replay_alone_gives_the_same_questions(tmp_path):
    build_dataset(COURSE_PDF, None, tmp_path)
    got = {row["question"] for row in load_qa(tmp_path / "data" / "qa.jsonl")}
    assert got == {row["question"] for row in load_qa(DATA / "qa.jsonl")}


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LabError, match="不能读写 "):
        build_dataset(COURSE_PDF, None, tmp_path / "file" / "out")


def test_seed_changes_the_split_only(tmp_path):
    build_dataset(COURSE_PDF, DATA / "qa.jsonl", tmp_path / "a", seed=1)
    build_dataset(COURSE_PDF, DATA / "qa.jsonl", tmp_path / "b", seed=2)
    a, b = ((tmp_path / x / "data" / "dev.json").read_text(encoding="utf-8") for x in "ab")
    assert a != b


def test_other_pdf_with_own_questions(tmp_path, other_pdf, capsys):
    qa = write_json_lines(ROWS, tmp_path / "mine.jsonl")
    report = build_dataset(other_pdf, qa, tmp_path / "out")
    out = capsys.readouterr().out
    assert report["funnel"][0] == ("文件里的条目", 5) and "回放" not in out
    assert "4 条没写页码或证据" in out
    assert (report["pairs"], report["facts"], report["train"], report["dev"]) == (5, 2, 3, 2)
    rows = load_qa(tmp_path / "out" / "data" / "qa.jsonl")
    assert rows[0]["key_points"] == ["六天。"] and rows[0]["fact_id"] == rows[1]["fact_id"]


def test_own_questions_on_the_course_pdf_are_not_mixed_with_the_samples(tmp_path, capsys):
    """自己的问答文件，哪怕配的是课程的文档，也没有样例回复的事。"""
    rows = load_qa(DATA / "qa.jsonl")[:6]
    report = build_dataset(COURSE_PDF, write_json_lines(rows, tmp_path / "mine.jsonl"), tmp_path)
    assert report["funnel"][0] == ("文件里的条目", 6) and report["pairs"] == 6
    assert "回放" not in capsys.readouterr().out
    assert lines(tmp_path / "data" / "rejected.jsonl") == []


# —— 从对话窗口复制来的回复 ——


def pasted(*facts):
    """一份回复：每个事实两种问法，都从 F01 编起，前后有客套话。"""
    items = [{"conversations": [{"role": "user", "content": question},
                                {"role": "assistant", "content": answer}], "fact_id": f"F{number:02d}"}
             for number, (answer, *asked) in enumerate(facts, 1) for question in asked]
    return f"好的，如下：\n```json\n{json.dumps(items, ensure_ascii=False, indent=1)}\n```\n还要再出吗？\n"


OPEN = ("六天。", "图书馆一周开几天？", "每周有多少天可以进图书馆？")
LEND = ("三十天。", "书可以借多久？", "借书的期限有多长？")
FINE = ("两角。", "逾期一天交多少？", "晚还一天要付几角？")


@pytest.mark.parametrize("name", ["webchat.txt", "webchat.md", "webchat", "webchat.json"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_a_reply_copied_from_a_chat_window(tmp_path, other_pdf, name, encoding):
    (tmp_path / name).write_bytes(pasted(OPEN, LEND).encode(encoding))
    report = build_dataset(other_pdf, tmp_path / name, tmp_path / "out")
    assert (report["pairs"], report["facts"], report["train"], report["dev"]) == (4, 2, 2, 2)


def test_several_replies_in_one_file_keep_their_facts_apart(tmp_path, other_pdf, capsys):
    """各份都从 F01 编起；写到一半断了的那份不吞掉后面的，断了的那条记在 rejected.jsonl 里。"""
    cut = pasted(OPEN, LEND)
    cut = cut[: cut.index("借书的期限") + 3]
    text = f"{cut}\n<think>再想想。</think>\n{pasted(FINE, OPEN)}{pasted(LEND)}"
    (tmp_path / "webchat.txt").write_text(text, encoding="utf-8")
    report = build_dataset(other_pdf, tmp_path / "webchat.txt", tmp_path / "out")
    rows = load_qa(tmp_path / "out" / "data" / "qa.jsonl")
    assert report["pairs"] == 6 and len({(row["fact_id"], row["answer"]) for row in rows}) == 3
    assert len({row["fact_id"] for row in rows}) == 3
    reasons = [row["reason"] for row in lines(tmp_path / "out" / "data" / "rejected.jsonl")]
    assert "写到一半断了，丢掉" in reasons and "不合格，原因见 rejected.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["今天天气不错。", "[]", "问：开几天？\n答：六天。", "| 问题 | 答案 |", " "])
def test_a_chat_without_questions_is_one_sentence(tmp_path, other_pdf, text):
    (tmp_path / "webchat.txt").write_text(text, encoding="utf-8")
    with pytest.raises(LabError, match="webchat.txt 里没有找到问答（.+）：请复制.*整个回复") as caught:
        build_dataset(other_pdf, tmp_path / "webchat.txt", tmp_path / "out")
    assert "JSON" not in str(caught.value) and "\n" not in str(caught.value)


def test_all_samples_in_one_file_give_the_course_data(tmp_path):
    texts = [path.read_text("utf-8") for path in sorted((DATA / "sample_responses").glob("*.txt"))]
    (tmp_path / "webchat.txt").write_text("\n\n".join(texts), encoding="utf-8")
    report = build_dataset(COURSE_PDF, tmp_path / "webchat.txt", tmp_path)
    assert (report["pairs"], report["facts"], report["dev_facts_in_train"]) == (150, 50, 50)


def test_course_questions_on_another_pdf_are_refused(tmp_path, other_pdf, capsys):
    with pytest.raises(LabError, match="qa.jsonl 里没有一条问答通过检查.*--preset"):
        build_dataset(other_pdf, DATA / "qa.jsonl", tmp_path)
    reasons = [row["reason"] for row in lines(tmp_path / "rejected.jsonl")]
    assert len(reasons) == 150 and all(reasons)
    assert "rejected.jsonl" not in capsys.readouterr().out  # 原因只在那一句里说


def test_another_document_in_the_place_of_the_course_pdf(tmp_path, other_pdf, monkeypatch):
    monkeypatch.setattr(dataset_build, "COURSE_PDF", other_pdf)
    with pytest.raises(LabError, match="没有配套的问答"):
        build_dataset(other_pdf, None, tmp_path)


def test_wrong_rows_of_a_user_are_reported(tmp_path, other_pdf, capsys):
    bad = {"question": "罚款多少？", "answer": "五元。", "page": 1, "evidence": "罚款五元"}
    qa = write_json_lines([*ROWS, bad], tmp_path / "mine.jsonl")
    report = build_dataset(other_pdf, qa, tmp_path / "out")
    assert report["pairs"] == 5
    assert "6 条里有 1 条不合格" in capsys.readouterr().out
    assert lines(tmp_path / "out" / "data" / "rejected.jsonl")[0]["row"] == bad


def test_other_pdf_without_questions_says_what_to_do(tmp_path, other_pdf):
    with pytest.raises(LabError, match="密钥.*问答文件"):
        build_dataset(other_pdf, None, tmp_path)


def test_api_model_is_called_and_page_comes_from_evidence(tmp_path, other_pdf, monkeypatch, capsys):
    """网络部分在 test_qa_generation 里测；这里只看回复怎样变成数据集。"""

    def fake(pieces, out_dir, prompts, model, unanswerable):
        assert model == "m" and all(isinstance(p, Chunk) for p in pieces)
        items = [{"conversations": [{"role": "user", "content": q},
                                    {"role": "assistant", "content": "三十天。"}],
                  "fact_id": "F01", "key_points": ["三十天"], "page": 99,
                  "evidence": "借书期限是三十天"} for q in ("书能借多久？", "借书期限有多长？")]
        path = tmp_path / "001.txt"
        path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
        extra = tmp_path / "unanswerable-001.txt"
        questions = ("罚款交到哪里？", "书能借多久", "借书证多少钱？", "本文的作者是谁？", "Who is he?",
                     "馆长是谁？", "自习室有几间？", "周末几点关门？")
        rows = [{"question": q, "answer": "材料没有写明。"} for q in questions]
        rows[2]["answer"] = "五元。"
        extra.write_text(json.dumps({"pairs": rows}, ensure_ascii=False), encoding="utf-8")
        return Generation([path], pieces, [extra])

    monkeypatch.setattr(dataset_build, "generate", fake)
    report = build_dataset(other_pdf, None, tmp_path, api_model="m", unanswerable=4)
    assert report["pairs"] == 2 and report["funnel"][0] == ("回复里的条目", 2)
    train, test = (lines(tmp_path / "data" / name) for name in UNANSWERABLE)
    assert [row["question"] for row in train] == ["罚款交到哪里？", "馆长是谁？", "周末几点关门？"]
    assert "请人看一遍再用" in capsys.readouterr().out
    assert test == [{"id": "N07", "question": "自习室有几间？", "answer": "材料没有写明。",
                     "key_points": ["没有写明"]}]  # 每三条留一条测试
    bad = lines(tmp_path / "data" / "unanswerable_rejected.jsonl")
    assert [r["reason"] for r in bad] == [
        "文件里答得出", "答案里没有“没有写明”", "问题里的“本文”离开原文就不知所指",
        "文档是中文，问题不是中文"]
    assert not any("没有写明" in r["answer"] for r in load_qa(tmp_path / "data" / "qa.jsonl"))
    assert load_qa(tmp_path / "data" / "qa.jsonl")[0]["page"] == 1


NOT_STATED = [{"question": question, "answer": "材料没有写明。"} for question in (
    "罚款交到哪里？", "馆长是谁？", "自习室有几间？")]


def unanswerable(folder):
    """写出的两个文件里的问题，没有写出的是 None。"""
    return [[row["question"] for row in lines(path)] if path.exists() else None
            for path in map((folder / "data").joinpath, UNANSWERABLE)]


def test_unanswerable_questions_beside_the_qa_file_are_checked_and_used(tmp_path, other_pdf, capsys):
    """读得懂的、文件里答不出的才用；测试题与训练题一样的不用，要点补上。"""
    wrong = [{"question": ROWS[0]["question"], "answer": "材料没有写明。"},  # 文件里答得出
             {"question": "借书证多少钱？", "answer": "五元。"}, {"question": "谁？"}]
    qa = write_json_lines(ROWS, tmp_path / "mine" / "qa.jsonl")
    write_json_lines(NOT_STATED[:2] + wrong, qa.with_name(UNANSWERABLE[0]))
    write_json_lines(NOT_STATED[1:], qa.with_name(UNANSWERABLE[1]))
    build_dataset(other_pdf, qa, tmp_path)
    assert unanswerable(tmp_path) == [["罚款交到哪里？", "馆长是谁？"], ["自习室有几间？"]]
    assert lines(tmp_path / "data" / UNANSWERABLE[1])[0]["key_points"] == ["没有写明"]
    assert "训练 2 条，测试 1 条，不合格 4 条" in capsys.readouterr().out
    reasons = [item["reason"] for item in lines(tmp_path / "data" / "unanswerable_rejected.jsonl")]
    assert reasons[:2] == ["文件里答得出", "答案里没有“没有写明”"] and len(reasons) == 4
    build_dataset(other_pdf, tmp_path / "data" / "qa.jsonl", tmp_path)  # 拿写出来的再做一次，结果一样
    assert unanswerable(tmp_path) == [["罚款交到哪里？", "馆长是谁？"], ["自习室有几间？"]]
    qa.with_name(UNANSWERABLE[1]).write_text("1\n", encoding="utf-8")
    with pytest.raises(LabError, match="mine/unanswerable_test.jsonl 第 1 行不是"):
        build_dataset(other_pdf, qa, tmp_path)


def test_nothing_of_the_course_document_is_left_for_another(tmp_path, other_pdf, monkeypatch, capsys):
    """课程的“没有写明”的问答只给课程的文档：别的文档没有就不训练也不测，以前留下的删掉。"""
    build_dataset(COURSE_PDF, write_json_lines(KNOWN, tmp_path / "qa.jsonl"), tmp_path)
    assert list(map(len, unanswerable(tmp_path))) == [138, 24]
    course = [[row["question"] for row in lines(DATA / name)] for name in UNANSWERABLE]
    assert unanswerable(tmp_path) == course and "没有“没有写明”" not in capsys.readouterr().out
    build_dataset(other_pdf, write_json_lines(ROWS, tmp_path / "mine.jsonl"), tmp_path)
    assert unanswerable(tmp_path) == [None, None]
    assert "既不训练，也不测。要的话，把 unanswerable_train.jsonl、" in capsys.readouterr().out
    monkeypatch.setattr(dataset_build, "DATA", tmp_path / "course")  # 自己的问答放进了课程的 data 文件夹
    qa = write_json_lines(ROWS, tmp_path / "course" / "mine.jsonl")
    write_json_lines(NOT_STATED, qa.with_name(UNANSWERABLE[0]))
    build_dataset(other_pdf, qa, tmp_path)
    assert unanswerable(tmp_path) == [None, None]


def test_only_one_of_the_two_files_may_be_given(tmp_path, other_pdf):
    qa = write_json_lines(ROWS, tmp_path / "mine" / "qa.jsonl")
    write_json_lines(NOT_STATED, qa.with_name(UNANSWERABLE[1]))
    build_dataset(other_pdf, qa, tmp_path)
    assert unanswerable(tmp_path) == [None, [row["question"] for row in NOT_STATED]]


def test_locate_pages():
    pages = [Page(1, "甲句。"), Page(2, "乙句。"), Page(3, "丙句。")]
    pairs = [{"evidence": "乙句", "page": 1}, {"evidence": "丙句", "page": 1}, {"page": 2}]
    got = locate_pages(pairs, pages[:2])
    assert [p["page"] for p in got] == [2, 1, 2]  # 这块以外的页不算


def test_name_facts_joins_and_separates():
    def pair(fact, point, page=1):
        return {"fact_id": fact, "key_points": [point], "page": page}

    rows = name_facts([
        [pair("F01", "五年"), pair("F01", "5 年"), pair("F02", "甲")],
        [pair("F01", "乙"), pair("F07", "5年"), {"question": "没编号"}],
    ])
    assert [r.get("fact_id") for r in rows] == ["F01", "F01", "F02", "F03", "F01", None]
    rows = name_facts([[pair(1, "五年"), pair("1", "甲")], [pair(1, "乙")]])  # 编号写成数也一样
    assert [r["fact_id"] for r in rows] == ["1", "1", "F01"]


def test_collect_reports_every_loss():
    whole = {"conversations": [{"role": "user", "content": "期限多长？"},
                               {"role": "assistant", "content": "三十天"}],
             "fact_id": "F01", "key_points": ["三十天"], "page": 1, "evidence": "期限是三十天"}
    text = json.dumps([whole, whole, {**whole, "evidence": "编的"}], ensure_ascii=False)
    kept, rejected, steps, _ = collect([text[:-1] + ', {"conversations": ['], [Page(1, TEXT)])
    assert len(kept) == 1
    counts = dict(steps)
    assert (counts["回复里的条目"], counts["读得出来"], counts["答案自洽"]) == (4, 3, 3)
    assert (counts["原文有依据"], counts["去重之后"]) == (2, 1)
    assert [r["stage"] for r in rejected] == ["解析", "证据", "去重"]


def test_different_facts_with_the_same_answer_stay_apart():
    """同一页、要点都是“三十天”：证据不同就是两个事实，否则划分时会有事实只考不学。"""
    def pair(fact, evidence):
        return {"fact_id": fact, "key_points": ["三十天"], "page": 1, "evidence": evidence}

    rows = name_facts([[pair("F01", "借书期限是三十天"), pair("F02", "公示期是三十天")],
                       [pair("F09", "借书期限是三十天。")]])
    assert [row["fact_id"] for row in rows] == ["F01", "F02", "F01"]


HALVES = [Page(1, "总则。\n本科生借书期限是三十天，"), Page(2, ""),
          Page(3, "可以续借一次。逾期每天交费两角。")]


def straddling(evidence, page=1):
    return {"question": "本科生借的书能看几天？", "answer": "三十天，可以续借一次。", "page": page,
            "key_points": ["三十天", "续借一次"], "evidence": evidence}


@pytest.mark.parametrize(("evidence", "kept"), [
    ("本科生借书期限是三十天，可以续借一次", "本科生借书期限是三十天，可以续借一次"),
    ("本科生的借书期限是三十天,可续借一次", "本科生借书期限是三十天，可以续借一次"),  # 抄错了几个字
])
def test_evidence_over_a_page_break_belongs_to_the_page_where_it_begins(evidence, kept):
    texts = [json.dumps({"pairs": [straddling(evidence, 1)]}, ensure_ascii=False)]
    row, = collect(texts, HALVES, pieces=[Chunk("…", (1, 3))]).rows
    assert (row["page"], row["evidence"]) == (1, kept)
    found = paragraphs(HALVES)
    assert mark(found, [row]) == []
    assert [bool(p.questions) for p in found] == [False, True, True]


def test_page_where_the_evidence_ends_is_put_right_or_named():
    evidence = "本科生借书期限是三十天，可以续借一次"
    pairs = locate_pages([straddling(evidence, page=3)], [HALVES[0], HALVES[2]])
    assert pairs[0]["page"] == 1
    _, rejected = validate([straddling(evidence, page=3)], HALVES)
    assert rejected[0]["reason"] == "证据不在第 3 页，它在第 1 页"
    _, rejected = validate([straddling("可以续借一次。逾期每天交费两角", page=1)], HALVES)
    assert rejected[0]["reason"] == "证据不在第 1 页，它在第 3 页"


# ---- 网页上的评价与改正：检查照旧，编号不撞，训练集与验证集不漏题 ----

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
