"""问答与对话：重复与泄漏找得出，划分不漏题，文件读写对得上官方格式。"""

import json
import random

import pytest
from fakes.chat_fakes import build_tokenizer

from labutils.base.errors import LabError
from labutils.base.files import write_json_lines
from labutils.base.text import normalize
from labutils.dataset import rows as qa_rows
from labutils.dataset.rows import (
    Asked,
    check_no_leak,
    drop_leaked,
    drop_near_duplicates,
    load_conversations,
    load_qa,
    save_conversations,
    similarity,
    split,
    to_conversations,
)
from labutils.models import chat
from labutils.training import data
from labutils.training.config import Config
from tools.tiny_base.vocab import build_tokenizer as tiny_tokenizer

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


# ---- 去重 ----

def test_similarity_bounds():
    assert similarity("课程认定的依据是什么？", "课程认定的依据是什么") == 1
    assert similarity("甲乙丙丁", "子丑寅卯") == 0
    assert similarity("", "") == 1
    assert 0 < similarity("线上课程计划多少门", "线下课程计划多少门") < 1


def test_alike_questions_are_those_of_a_plain_search_and_few_are_compared(monkeypatch):
    """与逐条比的结果一样；长短悬殊的、空的、一两个字的、全是同一个字的也一样。"""
    rng, compared = random.Random(3), []
    monkeypatch.setattr(qa_rows, "overlap", lambda a, b: compared.append(1) or len(a & b) / len(a | b))
    old = ["".join(rng.choices("甲乙丙丁子丑寅卯", k=rng.choice([1, 2, 3, 4, 5, 9, 20, 30, 60, 66, 80, 120])))
           for _ in range(200)] + ["甲" * 40, "甲乙" * 30, "？", "甲乙丙丁子"]
    asked = Asked(old)
    for kept in old:
        letters = list(kept)
        place, cut = rng.randrange(len(letters)), rng.choice([0, 1, 2, len(letters) // 6])
        letters[place : place + cut] = rng.choices("甲乙丙", k=rng.choice([0, 1]))
        text = normalize("".join(letters))
        assert list(asked.alike(text)) == [
            n for n, other in enumerate(old) if text and normalize(other) and similarity(other, text) >= 0.8]
    long = "".join(map(chr, range(0x6000, 0x6000 + 78)))  # 几个字组以上算很长，两边可以不同
    for size in range(64, 78):
        assert [*Asked([long]).alike(long[:size])] == [*Asked([long[:size]]).alike(long)] == [0]
    compared.clear()
    many = [row(id=str(i), question=f"编号{rng.randrange(10**6):06d}的课程可以补考吗？") for i in range(3000)]
    kept, _ = drop_near_duplicates(many)  # 要点全相同，逐条比要四百多万次
    assert len(kept) > 2900 and len(compared) < 3 * len(many)


def test_duplicates_are_those_found_one_by_one():
    rng = random.Random(5)
    given = [row(id=str(i), question="".join(rng.choices("甲乙丙", k=rng.choice([3, 8, 12]))),
                 key_points=[rng.choice("一二")]) for i in range(200)]
    kept = []
    for one in given:
        if not any(normalize(one["question"]) == normalize(old["question"])
                   or one["key_points"] == old["key_points"]
                   and similarity(one["question"], old["question"]) >= 0.8 for old in kept):
            kept.append(one)
    assert drop_near_duplicates(given)[0] == kept and 20 < len(kept) < 180


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


def test_leak_is_found_even_with_other_punctuation():
    with pytest.raises(LabError, match="1 个问题训练集里也有"):
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


def test_pairs_are_conversations_too(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"question": "甲？", "answer": "乙。"}), encoding="utf-8")
    assert load_conversations(path) == to_conversations([{"question": "甲？", "answer": "乙。"}])
    wrong = {"缺少 conversations": {"question": "甲？"}, "第 2 条": {"question": "甲？", "answer": 3}}
    for words, pair in wrong.items():
        path.write_text(json.dumps(pair), encoding="utf-8")
        with pytest.raises(LabError, match=words):
            load_conversations(path)


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
        ('{"a": ' + "[" * 100_000, "层的括号"),
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
    with pytest.raises(LabError, match="qa.jsonl 第 2 行起有读不了的内容：.*几千位的整数"):
        load_qa(path)


# ---- 训练与验证 ----

ASKED = "据第三批国家级一流本科课程认定工作的通知，线上一流课程的总计划大约是多少门"


def pair(name, question, fact="F1", point="4000门"):
    return {"id": name, "fact_id": fact, "question": question, "answer": f"{point}。",
            "key_points": [point]}


def test_near_duplicates_between_train_and_dev():
    train = [pair("a", ASKED + "呢？")]
    same_fact = pair("b", ASKED + "？", point="4000")  # 要点写法不同，仍是同一个事实
    other_fact = pair("c", ASKED.replace("线上", "线下") + "呢？", fact="F2", point="3000门")
    fresh = pair("d", "线上类一共打算认定几门课？")
    dev = [same_fact, other_fact, fresh, pair("e", ASKED + "呢", fact="F9", point="不同")]
    kept, dropped = drop_leaked(train, dev)
    assert [row["id"] for row in kept] == ["c", "d"]
    assert [(item["stage"], item["row"]["id"]) for item in dropped] == [("去重", "b"), ("去重", "e")]
    assert "与训练集的 a 几乎一样" in dropped[0]["reason"] and dropped[0]["row"] == same_fact


# ---- 官方格式的各种写法：学的正好是该学的，写错的说得出第几条 ----

USER = {"role": "user", "content": "北京天气"}
THOUGHT = {"role": "assistant", "content": "我来查"}
REPLY = {"role": "assistant", "content": "晴，20度"}
SYSTEM = {"role": "system", "content": "简短回答"}


def read(tmp_path, *items, array=False):
    path = tmp_path / "train.json"
    lines = [json.dumps(item, ensure_ascii=False) for item in items]
    path.write_text(f"[{','.join(lines)}]" if array else "\n".join(lines), encoding="utf-8")
    return [item["conversations"] for item in load_conversations(path)]


def learned(tokenizer, messages):
    samples = [chat.encode(tokenizer, part) for part in chat.turns(messages)]
    return tokenizer.decode([i for sample in samples for i in sample["labels"] if i != chat.IGNORE])


@pytest.mark.parametrize("array", [False, True])
def test_array_and_lines_give_the_same(tmp_path, array):
    rows = [[USER, REPLY], [SYSTEM, USER, REPLY, USER, THOUGHT]]
    assert read(tmp_path, *({"conversations": row} for row in rows), array=array) == rows


def test_loss_flags_choose_what_is_learned(tmp_path):
    flagged = [{**USER, "loss": False}, {**THOUGHT, "loss": False}, USER, {**REPLY, "loss": True}]
    messages, = read(tmp_path, {"conversations": flagged})
    for tokenizer, end in ((tiny_tokenizer(), "</s>"), (build_tokenizer("Llama 3"), "<|eot_id|>")):
        assert learned(tokenizer, messages).strip() == f"晴，20度{end}"


CALLS = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}]


@pytest.mark.parametrize(("message", "words"), [
    ({"role": "tool", "name": "weather", "parameters": {}, "observation": "晴"}, "的角色是 tool"),
    ({"role": "tool", "tool_call_id": "1", "content": "晴"}, "的角色是 tool"),
    ({"role": "observation", "content": "晴"}, "的角色是 observation"),
    ({"role": "function", "name": "weather", "content": "晴"}, "的角色是 function"),
    ({**THOUGHT, "metadata": "weather"}, "带有 metadata"),
    ({"role": "assistant", "content": None, "tool_calls": CALLS}, "带有 tool_calls"),
    ({**THOUGHT, "function_call": CALLS[0]["function"]}, "带有 function_call"),
    ({**SYSTEM, "tools": CALLS}, "带有 tools"),
])
def test_tool_calls_are_refused_with_what_to_do(tmp_path, message, words):
    rest = "，是调用工具的写法.*请去掉这些消息，或去掉这一条。$"
    with pytest.raises(LabError, match=f"train.json 第 2 行：第 2 条消息{words}{rest}"):
        read(tmp_path, {"conversations": [USER, REPLY]}, {"conversations": [USER, message, REPLY]})
    with pytest.raises(LabError, match=f"train.json 第 1 行：带有 tools{rest}"):
        read(tmp_path, {"tools": CALLS, "conversations": [USER, REPLY]})


@pytest.mark.parametrize("nothing", [None, [], "", {}])
def test_empty_tool_fields_mean_none(tmp_path, nothing):
    empty = dict.fromkeys(("tools", "metadata", "tool_calls", "function_call"), nothing)
    item = {"tools": nothing, "conversations": [USER | empty, REPLY | empty]}
    assert read(tmp_path, item) == [[USER, REPLY]]


@pytest.mark.parametrize(("conversation", "words"), [
    ([USER, {**REPLY, "loss": "no"}], "第 2 条消息的 loss 应是 true 或 false"),
    ([{**USER, "loss": True}, REPLY], "第 1 条消息的 loss 不能是 true"),
    ([USER, USER, REPLY], "现在是 user、user、assistant"),
    ([USER, SYSTEM, REPLY], "system 只能在最前"),
    ([SYSTEM, SYSTEM, USER, REPLY], "system 只能在最前"),
    ([USER, REPLY, USER], "以 assistant 结尾"),
    ([SYSTEM], "以 assistant 结尾"),
    ([USER, {"role": "assistant"}], "第 2 条消息的 content 应是不空的文字"),
    ([USER, {"role": "助手", "content": "晴"}], "现在是 user、助手"),
])
def test_wrong_conversations_are_named(tmp_path, conversation, words):
    with pytest.raises(LabError, match=f"第 2 行：.*{words}"):
        read(tmp_path, {"conversations": [USER, REPLY]}, {"conversations": conversation})


def test_training_reads_the_same_conversations(tmp_path):
    read(tmp_path, {"conversations": [SYSTEM, USER, THOUGHT, USER, REPLY]}, {"conversations": [USER, REPLY]})
    source, = data.read_training(Config(), tmp_path)
    _, encoded, _ = data.encode_source(tiny_tokenizer(), source, 500)
    assert len(encoded) == 3 and all(len(row["input_ids"]) == len(row["labels"]) for row in encoded)
