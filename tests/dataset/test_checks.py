"""问答质检的新关口：语言、指代、抄错几个字的证据、要点在不在证据里、训练与验证之间的重复。"""

import pytest

from labutils.base.files import DATA
from labutils.dataset.checks import funnel, is_chinese, nearest_span, outside_reference, validate
from labutils.dataset.clean import Page
from labutils.dataset.formats import read_pages
from labutils.dataset.rows import drop_leaked, leaked, load_qa

TEXT = (
    "线上一流课程计划认定4000门左右，课程须在全国性公开课程平台上向社会学习者开放。\n"
    "专属在线课程的英文是Small Private Online Course。认定之后要继续建设五年，"
    "课程要安排20%—50%的教学时间由学生在线自主学习，不包括实习课程。"
)
PAGES = [Page(1, TEXT)]
GOOD = {"question": "线上一流课程计划认定多少门？", "answer": "计划认定4000门左右。",
        "key_points": ["4000门"], "page": 1, "evidence": "线上一流课程计划认定4000门左右"}


def check(**changes):
    good, rejected = validate([{**GOOD, **changes}], PAGES)
    return (good[0], None) if good else (None, rejected[0])


def test_shipped_pairs_all_pass_unrepaired():
    rows = load_qa(DATA / "qa.jsonl")
    good, rejected = validate(rows, read_pages(DATA / "source" / "course_document.pdf"))
    assert rejected == [] and good == rows and len(good) == 150


# ---- 关口 ----

@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({"answer": None}, "格式"),
        ({"answer": "长" * 501}, "长度"),
        ({"evidence": "长" * 501}, "长度"),
        ({"question": "How many online courses are planned?"}, "语言"),
        ({"answer": "About 4000 courses are planned.", "key_points": ["4000"]}, "语言"),
        ({"question": "本文计划认定多少门线上课程？"}, "指代"),
        ({"answer": "如上所述，4000门。"}, "指代"),
        ({"answer": "计划认定很多门。"}, "答案"),
        ({"question": "计划认定4000门左右吗？"}, "答案"),
        ({"evidence": "文档里没有这句话"}, "证据"),
        ({"evidence": "课程须在全国性公开课程平台上"}, "证据"),
    ],
)
def test_stage_names_the_gate(changes, stage):
    _, item = check(**changes)
    assert item["stage"] == stage and item["row"] == {**GOOD, **changes} and item["reason"]


def test_funnel_counts_every_gate():
    items = [{"stage": "解析"}, {"stage": "证据"}, {"stage": "证据"}, {"stage": "去重"}]
    steps = funnel("条目", 10, items)
    assert steps[:2] == [("条目", 10), ("读得出来", 9)]
    assert dict(steps)["答案自洽"] == 9 and dict(steps)["原文有依据"] == 7 and steps[-1][1] == 6
    assert "读得出来" not in dict(funnel("条目", 1, []))


# ---- 语言 ----

@pytest.mark.parametrize(
    ("text", "chinese"),
    [("线上课程多少门", True), ("SPOC 是什么的缩写？", True), ("4000", True), ("", True),
     ("Python 的 list 和 tuple 有什么区别？", True), ("What is the 课程?", False), ("什么是SPOC", True),
     ("これは何ですか", False)],
)
def test_is_chinese(text, chinese):
    assert is_chinese(text) is chinese


def test_foreign_answer_is_fine_when_quoted_from_the_page():
    row, _ = check(question="专属在线课程的英文名称是什么？", answer="Small Private Online Course",
                   key_points=["Small Private Online Course"],
                   evidence="英文是Small Private Online Course")
    assert row


def test_english_document_takes_english_pairs():
    english = [Page(1, "The library opens six days a week and closes on Monday morning.")]
    row = {"question": "How many days does the library open?", "answer": "six days",
           "key_points": ["six days"], "page": 1, "evidence": "opens six days a week"}
    assert validate([row], english)[1] == []


# ---- 指代 ----

@pytest.mark.parametrize(
    "text",
    ["本文讲了什么？", "根据上文，期限多长？", "上述课程有几类？", "该文件由谁发布？", "文中提到的期限是？",
     "这份通知的文号是什么？", "请问以上内容说明了什么？", "下列哪项正确？", "据文中所说是几年？",
     "前述条件有哪些？", "本办法何时施行？", "第3页写了什么？", "如下所示的是什么？", "这段话的意思是？"],
)
def test_question_needing_the_page_is_found(text):
    assert outside_reference(text)


@pytest.mark.parametrize(
    "text",
    ["资本文化是什么？", "日本文学有哪些？", "基本文件有几份？", "70%以上的学时在哪里？",
     "应该输入哪个文号？", "中文中有多少字？", "申报通知和办法冲突时，该办法还有效吗？", "本科课程有几类？",
     "上下文化差异是什么？",
     "第三批通知的文号是什么？", "材料没有写明。", "版本文字错了怎么办？", "该用哪个表？"],
)
def test_ordinary_question_is_not_blamed(text):
    assert outside_reference(text) == ""


def test_answer_may_point_at_what_the_question_named():
    assert outside_reference("该通知由教育部发布。")
    assert not outside_reference("该通知由教育部发布。", known="第三批通知由谁发布？")


# ---- 证据 ----

@pytest.mark.parametrize(
    ("written", "literal"),
    [
        ("课程要安排20%-50%的教学时间，由学生在线自主学习",
         "课程要安排20%—50%的教学时间由学生在线自主学习"),
        ("认定之后，要继续建设5年", "认定之后要继续建设五年"),
        ("课程须在全国性的公开课程平台上，向社会的学习者开放",
         "课程须在全国性公开课程平台上向社会学习者开放"),
        ("专属在线课程的英文是 Ｓmall Private Online Course",
         "专属在线课程的英文是Small Private Online Course"),
    ],
)
def test_small_copying_mistakes_become_the_literal_text(written, literal):
    assert nearest_span(written, TEXT) == literal and literal in TEXT


@pytest.mark.parametrize(
    "written",
    ["线下一流课程计划认定4000门左右", "线上一流课程计划认定4001门左右", "认定之后不要继续建设五年",
     "包括实习课程，由学生在线自主学习", "认定之后要继续建设六年", "建设五年",
     "课程须在全国性公开课程平台向社会学习者开放",  # 少了“上”：分不清是漏字还是改意思，宁可不认
     "", "完全不相干的一句话，说的是别的事情",
     "课程要安排50%—20%的教学时间由学生在线自主学习"],
)
def test_changed_meaning_is_never_repaired(written):
    assert nearest_span(written, TEXT) is None


def test_span_keeps_the_line_break_of_the_page():
    written = "向社会学习者开放专属在线课程的英文"
    assert nearest_span(written, TEXT) == "向社会学习者开放。\n专属在线课程的英文"


def test_repair_is_recorded_and_exact_is_left_alone():
    row, _ = check(evidence="线上一流课程，计划认定4000门左右")
    assert row["evidence"] == GOOD["evidence"]
    assert row["evidence_original"] == "线上一流课程，计划认定4000门左右"
    assert "evidence_original" not in check()[0]


# ---- 要点 ----

@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"key_points": ["5000门|4000门"]}, True),
        ({"answer": "要建设5年。", "key_points": ["５年"], "question": "之后还要干多久？",
          "evidence": "继续建设五年"}, True),
        ({"answer": "计划认定4000门左右，向社会开放。", "key_points": ["4000门", "社会"]}, False),
        ({"answer": "计划认定4000门左右", "key_points": ["计划认定4000门左右"]}, True),
        ({"answer": "大约4000门课", "key_points": ["大约4000门课"]}, True),  # 整个答案，只核对数字
        ({"answer": "大约4000门课", "key_points": ["4000门课"]}, False),
    ],
)
def test_key_points_must_be_in_the_evidence(changes, passes):
    row, item = check(**changes)
    assert bool(row) is passes, item
    assert passes or "证据里没有要点" in item["reason"]


# ---- 训练与验证 ----

LONG = "据第三批国家级一流本科课程认定工作的通知，线上一流课程的总计划大约是多少门"


def pair(name, question, fact="F1", point="4000门"):
    return {"id": name, "fact_id": fact, "question": question, "answer": f"{point}。",
            "key_points": [point]}


def test_near_duplicates_between_train_and_dev():
    train = [pair("a", LONG + "呢？")]
    same_fact = pair("b", LONG + "？", point="4000")  # 要点写法不同，仍是同一个事实
    other_fact = pair("c", LONG.replace("线上", "线下") + "呢？", fact="F2", point="3000门")
    fresh = pair("d", "线上类一共打算认定几门课？")
    dev = [same_fact, other_fact, fresh, pair("e", LONG + "呢", fact="F9", point="不同")]
    assert [(row["id"], twin["id"]) for row, twin in leaked(train, dev)] == [("b", "a"), ("e", "a")]
    kept, dropped = drop_leaked(train, dev)
    assert [row["id"] for row in kept] == ["c", "d"]
    assert [item["stage"] for item in dropped] == ["去重", "去重"]
    assert "与训练集的 a 几乎一样" in dropped[0]["reason"] and dropped[0]["row"] == same_fact
