"""问答数据：坏的挑得出、原因写得清；划分不泄漏；文件读写对得上官方格式。"""

import json

import pytest

from labutils.base.errors import LabError
from labutils.base.files import write_json_lines
from labutils.dataset.checks import validate
from labutils.dataset.clean import Page
from labutils.dataset.rows import (
    check_no_leak,
    drop_near_duplicates,
    load_conversations,
    load_qa,
    save_conversations,
    similarity,
    split,
    to_conversations,
)

PAGES = [
    Page(1, "线上一流课程计划4000门左右。\n认定后要继续建设五年。"),
    Page(2, "社会实践类课程要有70%以上的\n学时到基层去。"),
]
GOOD = {
    "id": "F01-1", "fact_id": "F01", "question": "线上一流课程计划多少门？",
    "answer": "计划4000门左右。", "key_points": ["4000门"], "page": 1,
    "evidence": "线上一流课程计划4000门左右",
}


def row(**changes):
    return {k: v for k, v in {**GOOD, **changes}.items() if v is not ...}


def facts(count, phrasings=3):
    return [
        {"id": f"F{f}-{p}", "fact_id": f"F{f}", "question": f"第{f}件事的问法{p}是什么？",
         "answer": f"答案{f}。", "key_points": [f"答案{f}"]}
        for f in range(count) for p in range(phrasings)
    ]


# ---- 质检 ----

def test_good_row_passes_unchanged():
    good, rejected = validate([GOOD], PAGES)
    assert good == [GOOD] and rejected == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": ...}, "缺少问题"),
        ({"answer": None}, "缺少答案"),
        ({"question": 5}, "不是文字"),
        ({"answer": ["a"]}, "不是文字"),
        ({"question": "谁"}, "长 1 字"),
        ({"answer": "长" * 501}, "长 501 字"),
        ({"key_points": {"a": 1}}, "key_points"),
        ({"key_points": ["4000门", " "]}, "key_points"),
        ({"key_points": ["5000门"]}, "答案里没有要点“5000门”"),
        ({"question": "线上一流课程计划4000门吗？"}, "问题里已经说出了答案"),
        ({"page": 0}, "不是正整数"),
        ({"page": True}, "不是正整数"),
        ({"page": "第一页"}, "不是正整数"),
        ({"page": "1" * 5000}, "不是正整数"),
        ({"page": 9}, "超出文档（共 2 页）"),
        ({"page": ...}, "缺少页码"),
        ({"evidence": ...}, "缺少证据"),
        ({"evidence": 3}, "evidence 不是文字"),
        ({"page": 2}, "证据不在第 2 页，它在第 1 页"),
        ({"evidence": "计划5000门"}, "文档里没有这句话"),
        ({"answer": "共6000门。", "key_points": ["6000门"]}, "数字在第 1 页找不到"),
        ({"fact_id": 1}, "fact_id 不是文字"),
    ],
)
def test_bad_row_is_rejected_with_reason(changes, reason):
    bad = row(**changes)
    good, rejected = validate([bad], PAGES)
    assert good == [] and rejected[0]["row"] == bad
    assert reason in rejected[0]["reason"]


def test_not_an_object_and_repeated_id():
    good, rejected = validate(["文字", GOOD, row(question="线上类的计划数是多少？")], PAGES)
    assert [r["reason"] for r in rejected] == ["不是一个 JSON 对象", "id F01-1 与前面的重复"]
    assert len(good) == 1


def test_evidence_ignores_line_breaks_and_page_as_text():
    ok = row(question="学时要求是多少？", answer="70%以上。", key_points=["百分之七十"], page="2",
             evidence="70%以上的学时 到基层去")
    good, rejected = validate([ok], PAGES)
    assert not rejected and good[0]["page"] == 2


def test_alternatives_in_key_points():
    ok = row(answer="四千门左右", key_points=["5000门|4000门"])
    assert validate([ok], PAGES)[0]


def test_chinese_numeral_is_the_same_number():
    ok = row(question="要继续建设多久？", answer="5年。", key_points=["5年"],
             evidence="继续建设五年")
    assert validate([ok], PAGES)[0]


def test_without_pages_evidence_is_not_checked():
    assert validate([row(evidence="别处的话", page=77)])[0]


def test_user_rows_may_lack_everything_but_question_and_answer():
    rows = [{"question": "要继续建设多久？", "answer": "五年。"},
            {"question": "建设期有多长？", "answer": "五年"},
            {"question": "线上计划多少门？", "answer": "4000门"}]
    good, rejected = validate(rows, PAGES, require_evidence=False)
    assert not rejected
    assert [r["fact_id"] for r in good] == ["F01", "F01", "F02"]  # 答案相同的归到一起
    assert [r["id"] for r in good] == ["F01-1", "F01-2", "F02-1"]
    assert good[0]["key_points"] == ["五年。"] and "key_points" not in rows[0]


def test_user_rows_with_wrong_evidence_are_still_rejected():
    _, rejected = validate([row(evidence="没有的话")], PAGES, require_evidence=False)
    assert "文档里没有" in rejected[0]["reason"]


def test_generated_names_avoid_taken_ones():
    rows = [row(id=...), row(id="F01-1", question="第二种问法是什么？"),
            {"question": "另一件事是什么？", "answer": "别的"}]
    good, _ = validate(rows)
    assert len({r["id"] for r in good}) == 3
    assert good[2]["fact_id"] != "F01"


# ---- 去重 ----

def test_similarity_bounds():
    assert similarity("课程认定的依据是什么？", "课程认定的依据是什么") == 1
    assert similarity("甲乙丙丁", "子丑寅卯") == 0
    assert similarity("", "") == 1
    assert 0 < similarity("线上课程计划多少门", "线下课程计划多少门") < 1


def test_exact_duplicates_and_conflicts():
    rows = [row(), row(id="b", question="线上一流课程 计划多少门?"),
            row(id="c", answer="4万门", key_points=["4万门"])]
    kept, dropped = drop_near_duplicates(rows)
    assert [r["id"] for r in kept] == ["F01-1"]
    assert [d["reason"] for d in dropped] == ["与 F01-1 的问题重复", "与 F01-1 问题相同、答案矛盾"]


def test_almost_same_question_is_dropped_only_with_same_answer():
    long = "据第三批国家级一流本科课程认定工作的通知，线上一流课程的总计划大约是多少门呢"
    one = row(question=long + "？")
    same = row(id="b", question=long + "吗？")
    other = row(id="c", question=long.replace("线上", "线下") + "？", key_points=["3000门"])
    kept, dropped = drop_near_duplicates([one, same, other])
    assert [r["id"] for r in kept] == ["F01-1", "c"] and len(dropped) == 1


def test_distinct_phrasings_survive():
    phrasings = ["线上一流课程计划多少门？", "线上一流课程总计划数是几？", "线上类总共要建几门？"]
    rows = [row(id=str(i), question=q) for i, q in enumerate(phrasings)]
    assert drop_near_duplicates(rows) == (rows, [])


# ---- 划分 ----

def test_split_by_fact_is_two_to_one_and_every_fact_is_learned():
    rows = facts(50)
    train, dev = split(rows, seed=1)
    assert (len(train), len(dev)) == (100, 50)
    assert len({r["fact_id"] for r in train}) == len({r["fact_id"] for r in dev}) == 50
    assert sorted(r["id"] for r in train + dev) == sorted(r["id"] for r in rows)


def test_split_depends_on_seed_only():
    rows = facts(20)
    assert split(rows, seed=3) == split(rows, seed=3)
    assert split(rows, seed=3) != split(rows, seed=4)


def test_random_split_tests_facts_never_learned():
    report = check_no_leak(*split(facts(50), seed=42, by="random"))
    assert (report["train"], report["dev"]) == (100, 50)
    assert report["dev_facts_in_train"] < report["dev_facts"]


def test_single_phrasing_facts_go_to_train():
    train, dev = split(facts(3) + [row(id="x", fact_id="solo")])
    assert "solo" in {r["fact_id"] for r in train} and "solo" not in {r["fact_id"] for r in dev}


def test_two_phrasings_give_one_each():
    train, dev = split(facts(5, phrasings=2))
    assert len(train) == len(dev) == 5


def test_all_single_phrasings_still_give_dev_and_say_so(capsys):
    train, dev = split(facts(30, phrasings=1))
    assert (len(train), len(dev)) == (27, 3)
    assert "只有一种问法" in capsys.readouterr().out


def test_split_errors():
    with pytest.raises(LabError, match="只有 1 条"):
        split([GOOD])
    with pytest.raises(LabError, match="fact"):
        split(facts(2), by="页")


def test_leak_is_found_even_with_other_punctuation():
    with pytest.raises(LabError, match="1 个问题在训练集里出现过"):
        check_no_leak([GOOD], [row(question="线上一流课程，计划多少门")])
    with pytest.raises(LabError, match="验证集是空的"):
        check_no_leak([GOOD], [])
    conversations = to_conversations([GOOD])
    with pytest.raises(LabError, match="线上一流课程"):
        check_no_leak(conversations, conversations)


# ---- 文件 ----

def test_conversations_round_trip(tmp_path):
    path = save_conversations([GOOD], tmp_path / "deep" / "train.json")
    text = path.read_text(encoding="utf-8")
    assert "线上" in text and text.endswith("}\n") and text.count("\n") == 1
    loaded = load_conversations(path)
    assert loaded == to_conversations([GOOD]) and list(loaded[0]) == ["conversations"]
    assert save_conversations(loaded, path).read_text(encoding="utf-8") == text


def test_array_and_bom_and_system_message(tmp_path):
    path = tmp_path / "array.json"
    messages = [{"role": "system", "content": "你是助手"}, {"role": "user", "content": "问"},
                {"role": "assistant", "content": "答"}]
    path.write_text(json.dumps([{"conversations": messages}], indent=2), encoding="utf-8-sig")
    assert load_conversations(path) == [{"conversations": messages}]


def test_line_separator_inside_text_is_not_a_new_line(tmp_path):
    path = write_json_lines([{"question": "上\u2028下\x85行"}], tmp_path / "a.jsonl")
    assert load_qa(path)[0]["question"] == "上\u2028下\x85行"


GOOD_LINE = json.dumps(to_conversations([GOOD])[0], ensure_ascii=False)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{坏的", "第 2 行第 2 列不是合法的 JSON"),
        ('{"question": "问"}', "第 2 行缺少 conversations"),
        ('"文字"', "第 2 行缺少 conversations"),
        ('{"conversations": "\\ud83d"}', "残缺的字符"),
        ('{"a": ' + "[" * 100_000, "太深"),
        ('{"conversations": []}', "没有消息"),
        ('{"conversations": ["问"]}', "第 1 条消息应有 role"),
        ('{"conversations": [{"role": "user", "content": ""}]}', "不空的文字"),
        ('{"conversations": [{"role": "user", "content": "问"}]}', "以 assistant 结尾"),
        ('{"conversations": [{"role": ["x"], "content": "问"}]}', "以 assistant 结尾"),
    ],
)
def test_bad_conversation_line_is_named(tmp_path, line, reason):
    path = tmp_path / "dev.json"
    path.write_text(GOOD_LINE + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(LabError) as caught:
        load_conversations(path)
    assert "dev.json" in str(caught.value) and "第 2 行" in str(caught.value)
    assert reason in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_bad_item_in_array_is_counted(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(f"[{GOOD_LINE},\n {{}}]", encoding="utf-8")
    with pytest.raises(LabError, match="第 2 条缺少"):
        load_conversations(path)


def test_wrong_encoding_missing_and_empty_files(tmp_path):
    gbk = tmp_path / "gbk.json"
    gbk.write_bytes(GOOD_LINE.encode("gbk"))
    with pytest.raises(LabError, match="gbk.json 不是 UTF-8.*另存为"):
        load_conversations(gbk)
    with pytest.raises(LabError, match="none.json 不存在"):
        load_conversations(tmp_path / "none.json")
    for text in ("", "\n \n"):
        (tmp_path / "empty.json").write_text(text, encoding="utf-8")
        with pytest.raises(LabError, match="空文件"):
            load_conversations(tmp_path / "empty.json")
    (tmp_path / "empty.json").write_text("[]", encoding="utf-8")
    with pytest.raises(LabError, match="不能是空的"):
        load_conversations(tmp_path / "empty.json")
    with pytest.raises(LabError, match="一条问答也没有"):
        load_qa(tmp_path / "empty.json")
    with pytest.raises(LabError, match="dev.json 的数据是空的"):
        save_conversations([], tmp_path / "dev.json")


def test_load_qa_takes_both_forms(tmp_path):
    path = tmp_path / "qa.jsonl"
    extra = {**to_conversations([GOOD])[0], "page": 1}
    write_json_lines([GOOD, extra], path)
    rows = load_qa(path)
    assert rows[0] == GOOD
    assert rows[1] == {"page": 1, "question": GOOD["question"], "answer": GOOD["answer"]}
    path.write_text(GOOD_LINE + "\n3\n", encoding="utf-8")
    with pytest.raises(LabError, match="qa.jsonl 第 2 行不是 JSON 对象"):
        load_qa(path)
    path.write_text(GOOD_LINE + '\n{"page": ' + "9" * 5000 + "}\n", encoding="utf-8")
    with pytest.raises(LabError, match="qa.jsonl 第 2 行起有一个几千位的整数"):
        load_qa(path)
