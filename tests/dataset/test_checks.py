"""问答质检：格式、长度、语言、指代、抄错几个字的证据、要点在不在证据里；坏的挑得出、原因写得清。"""

import pytest

from labutils.base.files import DATA
from labutils.dataset.checks import funnel, is_chinese, nearest_span, outside_reference, validate
from labutils.dataset.clean import Page
from labutils.dataset.formats import read_pages
from labutils.dataset.rows import load_qa

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


# ---- 格式与编号 ----

TWO_PAGES = [
    Page(1, "线上一流课程计划4000门左右。\n认定后要继续建设五年。"),
    Page(2, "社会实践类课程要有70%以上的\n学时到基层去。"),
]
COUNT = {
    "id": "F01-1", "fact_id": "F01", "question": "线上一流课程计划多少门？",
    "answer": "计划4000门左右。", "key_points": ["4000门"], "page": 1,
    "evidence": "线上一流课程计划4000门左右",
}


def changed(**changes):
    return {k: v for k, v in {**COUNT, **changes}.items() if v is not ...}


def test_good_row_passes_unchanged():
    good, rejected = validate([COUNT], TWO_PAGES)
    assert good == [COUNT] and rejected == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": ...}, "缺少问题"),
        ({"answer": None}, "缺少答案"),
        ({"question": 5}, "长 1 字"),
        ({"question": True}, "不是文字"),
        ({"answer": ["a"]}, "不是文字"),
        ({"question": "谁"}, "长 1 字"),
        ({"answer": "长" * 501}, "长 501 字"),
        ({"key_points": {"a": 1}}, "key_points"),
        ({"key_points": ["4000门", " "]}, "key_points"),
        ({"key_points": ["5000门"]}, "答案里没有要点“5000门”"),
        ({"question": "线上一流课程计划4000门吗？"}, "问题里已经说出了答案"),
        ({"page": 0}, "不是正整数"),
        ({"page": True}, "不是正整数"),
        ({"page": "首页"}, "不是正整数"),
        ({"page": "-1"}, "不是正整数"),
        ({"page": 1.5}, "不是正整数"),
        ({"page": "1-2"}, "不是正整数"),
        ({"page": "1" * 5000}, "不是正整数"),
        ({"page": 9}, "超出文档（共 2 页）"),
        ({"page": ...}, "缺少页码"),
        ({"evidence": ...}, "缺少证据"),
        ({"evidence": {}}, "evidence 不是文字"),
        ({"id": False}, "id 不是文字"),
        ({"key_points": [None, "4000门"]}, "不空的文字"),
        ({"page": 2}, "证据不在第 2 页，它在第 1 页"),
        ({"evidence": "计划5000门"}, "文档里没有这句话"),
        ({"answer": "共6000门。", "key_points": ["6000门"]}, "数字在第 1 页找不到"),
        ({"fact_id": [1]}, "fact_id 不是文字"),
    ],
)
def test_bad_row_is_rejected_with_reason(changes, reason):
    bad = changed(**changes)
    good, rejected = validate([bad], TWO_PAGES)
    assert good == [] and rejected[0]["row"] == bad
    assert reason in rejected[0]["reason"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"id": 1, "fact_id": 7}, {"id": "1", "fact_id": "7"}),
        ({"id": 1.5}, {"id": "1.5"}),
        ({"answer": 4000, "key_points": 4000}, {"answer": "4000", "key_points": ["4000"]}),
        ({"key_points": [4000, " 左右 "]}, {"key_points": ["4000", "左右"]}),
        ({"key_points": "4000门"}, {"key_points": ["4000门"]}),
        ({"page": 1.0}, {"page": 1}),
        ({"page": "1.0"}, {"page": 1}),
        ({"page": " 第1页 "}, {"page": 1}),
        ({"page": "第一页"}, {"page": 1}),
        ({"page": "Page 1"}, {"page": 1}),
        ({"difficulty": 3}, {"difficulty": 3}),  # 用户自己的键，原样留着
    ],
)
def test_numbers_and_text_are_both_fine(written, read):
    good, rejected = validate([changed(**written)], TWO_PAGES)
    assert rejected == [] and good == [{**COUNT, **read}]


def test_number_and_text_are_the_same_id():
    good, rejected = validate([changed(id=1), changed(id="1", question="线上类的计划数是多少？")], TWO_PAGES)
    assert len(good) == 1 and rejected[0]["reason"] == "id 1 与前面的重复"


def test_units_of_any_kind_are_compared():
    ok = changed(question="丛书一共多少册，定价多少？", answer="一共8册，定价2角，下午3点半取书。",
                 key_points=["八册", "两角", "三点半"], evidence=..., page=...)
    assert validate([ok], TWO_PAGES, require_evidence=False)[0]


def test_not_an_object_and_repeated_id():
    good, rejected = validate(["文字", COUNT, changed(question="线上类的计划数是多少？")], TWO_PAGES)
    assert [r["reason"] for r in rejected] == ["不是一个 JSON 对象", "id F01-1 与前面的重复"]
    assert len(good) == 1


def test_evidence_ignores_line_breaks_and_page_as_text():
    ok = changed(question="学时要求是多少？", answer="70%以上。", key_points=["百分之七十"], page="2",
             evidence="70%以上的学时 到基层去")
    good, rejected = validate([ok], TWO_PAGES)
    assert not rejected and good[0]["page"] == 2


def test_alternatives_in_key_points():
    ok = changed(answer="四千门左右", key_points=["5000门|4000门"])
    assert validate([ok], TWO_PAGES)[0]


def test_chinese_numeral_is_the_same_number():
    ok = changed(question="要继续建设多久？", answer="5年。", key_points=["5年"],
             evidence="继续建设五年")
    assert validate([ok], TWO_PAGES)[0]


def test_without_pages_evidence_is_not_checked():
    assert validate([changed(evidence="别处的话", page=77)])[0]


def test_user_rows_may_lack_everything_but_question_and_answer():
    rows = [{"question": "要继续建设多久？", "answer": "五年。"},
            {"question": "建设期有多长？", "answer": "五年"},
            {"question": "线上计划多少门？", "answer": "4000门"}]
    good, rejected = validate(rows, TWO_PAGES, require_evidence=False)
    assert not rejected
    assert [r["fact_id"] for r in good] == ["F01", "F01", "F02"]  # 答案相同的归到一起
    assert [r["id"] for r in good] == ["F01-1", "F01-2", "F02-1"]
    assert good[0]["key_points"] == ["五年。"] and "key_points" not in rows[0]


def test_user_rows_with_wrong_evidence_are_still_rejected():
    _, rejected = validate([changed(evidence="没有的话")], TWO_PAGES, require_evidence=False)
    assert "文档里没有" in rejected[0]["reason"]


def test_generated_names_avoid_taken_ones():
    rows = [changed(id=...), changed(id="F01-1", question="第二种问法是什么？"),
            {"question": "另一件事是什么？", "answer": "别的"}]
    good, _ = validate(rows)
    assert len({r["id"] for r in good}) == 3
    assert good[2]["fact_id"] != "F01"
