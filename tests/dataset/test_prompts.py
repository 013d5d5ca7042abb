"""出题与解析：提示词写错说得出来；回复怎么坏都不崩、不编，一条也取不出就说原因，没有一份蒙混过关。"""

import json
import time

import pytest

from labutils.base.errors import LabError
from labutils.base.text import normalize
from labutils.dataset.build import collect
from labutils.dataset.clean import Page
from labutils.dataset.prompts import (
    Chunk,
    Prompts,
    fill,
    load_prompts,
    messages_for,
    unanswerable_requests,
)
from labutils.dataset.replies import parse_response


def item(question="计划多少门？", answer="4000门左右。", **extra):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"conversations": messages, "fact_id": "F01", "key_points": ["4000门"], "page": 1,
            "evidence": "计划4000门", **extra}


def dump(*items):
    return json.dumps(items, ensure_ascii=False, indent=1)


# ---- 解析 ----

def test_clean_array():
    pairs, problems = parse_response(dump(item(), item("总共建几门？")))
    assert [p["question"] for p in pairs] == ["计划多少门？", "总共建几门？"] and not problems
    assert pairs[0] == {"fact_id": "F01", "key_points": ["4000门"], "page": 1,
                        "evidence": "计划4000门", "question": "计划多少门？",
                        "answer": "4000门左右。"}


@pytest.mark.parametrize(
    "wrap",
    [
        "好的，下面是结果：\n{}\n希望有帮助！",
        "```json\n{}\n```",
        "<think>\n先出一题 {{\"conversations\": []}} 再说\n</think>\n{}",
        "没有开头标记的思考</think>\n```\n{}\n```\n以上。",
        '{{"data": {}}}',
    ],
)
def test_wrapping_is_removed(wrap):
    pairs, problems = parse_response(wrap.format(dump(item())))
    assert len(pairs) == 1 and not problems


def test_one_object_per_line_without_array():
    text = "\n".join(json.dumps(item(f"第{i}问是什么？"), ensure_ascii=False) for i in range(3))
    assert len(parse_response(text)[0]) == 3


@pytest.mark.parametrize("position", range(20, len(dump(item("第二题是什么？"))) - 2, 7))
def test_cut_off_last_item_is_dropped_wherever_it_breaks(position):
    whole, second = dump(item()), dump(item("第二题是什么？"))
    text = whole.rstrip("]\n") + ",\n" + second.lstrip("[\n")[:position]
    pairs, problems = parse_response(text)
    if len(pairs) == 2:  # 刚好断在最后一个 } 之后，内容是全的
        assert pairs[1]["evidence"] == "计划4000门"
        return
    assert [p["question"] for p in pairs] == ["计划多少门？"]
    assert len(problems) == 1 and problems[0]["kind"] == "cut" and not problems[0]["fixed"]
    assert "断" in problems[0]["reason"]


@pytest.mark.parametrize(
    ("old", "new"),
    [('"计划4000门"', '"计划4000门",'), ('["4000门"]', '["4000门",]'), ('"page": 1', "'page': 1"),
     ('"page"', "page"), ("4000门左右。", '约"4000门"。'), ("4000门左右。", "4000门\n左右。")],
)
def test_small_defects_are_repaired_and_reported(old, new):
    text = json.dumps([item()], ensure_ascii=False).replace(old, new)
    pairs, problems = parse_response(text)
    assert len(pairs) == 1 and pairs[0]["page"] == 1
    assert new.strip('",[]') in text
    assert all(p["fixed"] and "已修好" in p["reason"] for p in problems)


@pytest.mark.parametrize("answer", ['线上,"4000门",左右', '甲","乙', "4000门\\"])
def test_repair_must_not_lose_or_move_a_word(answer):
    text = dump(item()).replace("4000门左右。", answer)
    pairs, problems = parse_response(text)
    kept = [normalize(p["answer"]) for p in pairs]  # 标点不论，字一个也不能少
    assert kept in ([], [normalize(answer)]) and (kept or not problems[0]["fixed"])


def test_broken_item_does_not_swallow_the_next():
    bad = '{"conversations": [{"role": "user", "content": "没有下文'
    text = "[" + bad + ",\n" + dump(item()).lstrip("[")
    pairs, problems = parse_response(text)
    assert [p["question"] for p in pairs] == ["计划多少门？"] and len(problems) == 1


@pytest.mark.parametrize(
    ("conversations", "reason"),
    [([], "不是一问一答"), ([{"role": "user", "content": "只有问"}], "不是一问一答"),
     ([{"role": "human", "content": "问"}, {"role": "gpt", "content": "答"}], "不是一问一答")],
)
def test_wrong_shape_is_dropped_with_reason(conversations, reason):
    pairs, problems = parse_response(dump({"conversations": conversations}))
    assert pairs == [] and reason in problems[0]["reason"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "空的"), ("<think>想到一半", "空的"), ("抱歉，我不能。", "没有问答"),
     ('{"error": 1}', "没有问答")],
)
def test_nothing_found_is_a_problem(text, reason):
    pairs, problems = parse_response(text)
    assert pairs == [] and reason in problems[0]["reason"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"conversations": ' + "[" * 100_000 + "]" * 100_000 + "}", "太深"),
     (dump(item("\ud83d 是什么？")).encode("ascii", "backslashreplace").decode(), "残缺")],
)
def test_hostile_replies_are_dropped_not_fatal(text, reason):
    pairs, problems = parse_response("[" + text + "]")
    assert pairs == [] and reason in problems[0]["reason"]


def test_enormous_page_number_is_not_fatal():
    text = dump(item()).replace('"page": 1', '"page": ' + "9" * 5000)
    pairs, problems = parse_response(text)
    assert len(pairs) + len(problems) >= 1


def test_empty_array_means_nothing_to_ask():
    assert parse_response("这一段没有可出的题：\n[]") == ([], [])


# ---- 先看结构：哪里是思考、哪里是包装 ----

ITEM = '{"question":"几点？","answer":"十点。","key_points":["十点"],"page":1,"evidence":"十点"}'
OTHER = ITEM.replace("几点", "何时")


@pytest.mark.parametrize("text", [
    f'{{"data":{{"items":[{ITEM},{OTHER}]}}}}',
    f"```json\n{ITEM}\n```\n第二条：\n```\n[{OTHER}]\n```",
    f'{{"facts":[{{"fact_id":"F01","pairs":[{ITEM},{OTHER}]}}]}}',
    f'{{"pairs":[{{"序号":1,{ITEM[1:]},{{"meta":{{"a":[1,{{}}]}},{OTHER[1:]}]}}',
    json.dumps(f'{{"pairs":[{ITEM},{OTHER}]}}', ensure_ascii=False),
    json.dumps({"output": f"[{ITEM},{OTHER}]"}),
    f"不写 <think> 了：{ITEM}\n{OTHER}\n（也没有写 </think>）",
    f'<think>草稿 {ITEM} 不好</think>\n<think>再想 "屏 {ITEM}</think>{ITEM}{OTHER}',
    f"草稿 {ITEM} 不好</think>\n好的：{ITEM}{OTHER}",
    f"[THINK]{ITEM}[/THINK][{ITEM},{OTHER}]",
    ITEM + OTHER.replace('"question":', "“question”："),
    ITEM + OTHER.replace("十点。", "写作 {\\\"question\\\": 1} 与 </think>。"),
    ITEM + OTHER[:-1] + ',"难度":"易",}',
])
def test_pairs_are_found_by_structure(text):
    assert [pair["question"] for pair in parse_response(text)[0]] == ["几点？", "何时？"]


@pytest.mark.parametrize(("text", "kinds"), [
    (f"<think>{ITEM} 再想想", ["cut"]),
    (f'<think>{ITEM}</think>{{"pairs": []}}', []),
    (f'{ITEM}</think>\n{{"pairs": []}}', []),
    (ITEM.replace("十点。", "十\\u0001点。"), ["broken"]),
    ('{"fact_id":"F1","answer":"十点。"}', ["shape"]),
])
def test_drafts_and_odd_items_are_not_pairs(text, kinds):
    pairs, problems = parse_response(text)
    assert pairs == [] and [problem["kind"] for problem in problems] == kinds


def test_cut_reply_keeps_the_whole_items_whatever_the_first_key():
    for rest in (',{"index":2,"quest', ',{"index":2,"meta":{"a":1},"answer":"x', ",{"):
        pairs, problems = parse_response(f'{{"pairs":[{{"index":1,{ITEM[1:]}{rest}')
        assert len(pairs) == 1 and [problem["kind"] for problem in problems] == ["cut"]


@pytest.mark.parametrize("formula", [
    r"\frac{a}{b}", r"3\times 2", r"\beta", r"\rho", r"\nabla f", r"\nu_0", r"\alpha", r"\sum", r"50\%",
    r"\to", r"\underline{x}", r"\(x\)", r"\{a\}", r"$x \ne y$", r"\theta", r"\text{长}", r"\right)",
    r"\bar x", r"\forall", r"\rtimes", r"\nsubseteq", r"$a \nparallel b$"])
def test_formula_with_one_backslash_is_restored(formula):
    pairs, problems = parse_response(ITEM.replace("十点。", formula))
    assert pairs[0]["answer"] == formula and [p["kind"] for p in problems] == ["fixed"]
    doubled = formula.replace("\\", "\\\\")
    pairs, problems = parse_response(ITEM.replace("十点。", doubled))
    assert pairs[0]["answer"] == formula and problems == []


@pytest.mark.parametrize("answer", [
    "甲\n乙", "第一\nnew line", "二\nparallel", "1.\nnote", "见\ne.g. 一", "$$\nE=mc^2\n$$", "甲\t乙",
    "\tif x", "C:\\new", "a\\\\b", "一\n\n1. 二", "他说“好”", "“\"引号\"”", "x/y",
    "\\begin{cases}1\\\\\n2\\end{cases}"])
def test_correct_json_stays_as_it_is(answer):
    pairs, problems = parse_response(json.dumps({"question": "几点？", "answer": answer}))
    assert pairs == [{"question": "几点？", "answer": answer}] and problems == []


def test_line_end_of_windows_is_one_line_break():
    assert parse_response(ITEM.replace("十点。", r"甲\r\n乙"))[0][0]["answer"] == "甲\n乙"


@pytest.mark.parametrize("text", [
    "{" * 300_000, '{"a":' * 60_000, '{"question":"a","x":' * 15_000, "[" * 300_000, "\\" * 300_000,
    '{"' * 150_000,
    '{"question":"a" "b","answer":' + '"x",' * 70_000 + "}", ITEM.replace("十点。", r"\ne" * 100_000)])
def test_garbage_takes_linear_time(text):
    start = time.process_time()
    parse_response(text)
    assert time.process_time() - start < 5


# ---- 提示词 ----

def test_shipped_prompts():
    prompts = load_prompts()
    system, user = messages_for(Chunk("原文{a}", (2, 3)), prompts)
    assert "不得编造" in system["content"] and "conversations" in user["content"]
    assert "原文{a}" in user["content"] and "2、3" in user["content"]
    assert "构造 3 个问答对" in user["content"] and "{{" not in user["content"]


def test_longer_chunks_get_more_questions():
    prompts = Prompts("出题", "{{事实数}}×{{问法数}}={{问答对数}}：{{文本}}", chars_per_fact=100, phrasings=2)
    asked = [messages_for(Chunk("字" * n, (1,)), prompts)[1]["content"] for n in (1, 160, 400)]
    assert [text.split("：")[0] for text in asked] == ["1×2=2", "2×2=4", "4×2=8"]


def test_unanswerable_requests_are_spread_and_enough():
    chunks = [Chunk(f"第{i}块", (i,)) for i in range(1, 11)]
    got = unanswerable_requests(chunks, 7, load_prompts())
    assert [r.number for r in got] == [1, 4, 7] and sum(r.pairs for r in got) >= 7
    assert "写 3 个" in got[0].messages[1]["content"] and "{{" not in got[0].messages[1]["content"]
    assert sum(r.pairs for r in unanswerable_requests(chunks, 100, load_prompts())) == 100
    assert unanswerable_requests(chunks, 0, load_prompts()) == []


def test_unanswerable_without_a_prompt():
    with pytest.raises(LabError, match="没有 unanswerable"):
        unanswerable_requests([Chunk("甲", (1,))], 1, Prompts("出题", "{{文本}}"))


def test_markers_inside_the_document_stay():
    text = "代码 {x} {{页码}} %s $HOME {{别的}}"
    assert fill("第{{页码}}页：{{文本}}", {"页码": 1, "文本": text}) == "第1页：" + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("user: '{{文本}}'", "缺少文字 system"),
        ("system: 甲\nuser: 没有文本", "看不到文档"),
        ("system: 甲\nuser: '{{文本}} {{页数}}'", "不认识的占位符 页数"),
        ("system: 甲\nuser: '{{文本}}'\ntemprature: 1", "不认识的键 temprature"),
        ("system: 甲\nuser: '{{文本}}'\nchunk_size: 大", "应是数字"),
        ("system: 甲\nuser: '{{文本}}'\nphrasings: 0", "应大于 0"),
        ("system: 甲\nuser: '{{文本}}'\nphrasings: 1.5", "应是整数"),
        ("system: 甲\nuser: '{{文本}}'\nunanswerable: '{{事实数}}'", "不认识的占位符 事实数"),
        ("system: 甲\nuser: '{{文本}}'\nunanswerable: 五个", "看不到文档"),
        ("system: [", "第 1 行写法有误"),
        ("system: 甲\nuser: {{文本}}", "第 2 行写法有误.*加引号"),
        ("只是文字", "键: 值"),
    ],
)
def test_bad_prompt_file(tmp_path, content, reason):
    path = tmp_path / "prompt.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LabError, match=reason) as caught:
        load_prompts(path)
    assert "prompt.yaml" in str(caught.value)


def test_missing_prompt_file(tmp_path):
    with pytest.raises(LabError, match="找不到"):
        load_prompts(tmp_path / "none.yaml")


# ---- 有毛病的回复 ----

TEXT = "图书馆每周开放六天。借书期限是三十天。"
PAGE = [Page(1, TEXT)]


def loan(**changes):
    question, answer = changes.pop("question", "书可以借多久？"), changes.pop("answer", "三十天。")
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"conversations": messages, "fact_id": "F01", "key_points": ["三十天"], "page": 1,
            "evidence": "借书期限是三十天"} | changes


def wrapped(*items):
    return json.dumps({"pairs": list(items)}, ensure_ascii=False)


GOOD = wrapped(loan())
FLAT = {"page": "1", "evidence": "借书期限是三十天", "key_points": ["三十天"], "answer": "三十天。",
        "question": "书可以借多久？"}
CUT = wrapped(loan(), loan(question="图书馆一周开几天？", answer="六天。"))
ODD = {"conversations": [{"role": "human", "content": "甲"}]}

# (名称, 回复, 留下几条, 说明原因的几个字；留下的条数与 GOOD 相同就不必有原因)
REPLIES = [
    ("思考过程", f"<think>先想想 {{\"pairs\": []}}</think>{GOOD}", 1, ""),
    ("没有开头的思考", f"想好了</think>\n{GOOD}", 1, ""),
    ("思考到一半就没了", "<think>我先想想这份文件", 0, "空的"),
    ("代码块", f"```json\n{GOOD}\n```", 1, ""),
    ("代码块没有关上", f"```json\n{GOOD}", 1, ""),
    ("前后都是客套话", f"好的，结果如下：\n{GOOD}\n希望有帮助！", 1, ""),
    ("只有客套话", "抱歉，我无法完成这个任务。", 0, "没有问答"),
    ("空回复", "", 0, "空的"),
    ("只有空白", " \n\t", 0, "空的"),
    ("网页", "<html><body>502 Bad Gateway</body></html>", 0, "没有问答"),
    ("开头就断了", '{"pairs": [{"conversations": [{"role": "user"', 0, "断"),
    ("第二条断在问题里", CUT[: CUT.rindex("图书馆") + 2], 1, "断"),
    ("第二条断在证据里", CUT[:-6], 1, "断"),
    ("只差最后的括号", GOOD[:-2], 1, ""),
    ("多余的逗号", GOOD.replace("}]}", "},]}"), 1, ""),
    ("单引号", GOOD.replace('"page"', "'page'"), 1, "已修好"),
    ("键没有引号", GOOD.replace('"page"', "page"), 1, "已修好"),
    ("字符串里有没转义的引号", GOOD.replace("三十天。", '"三十天"。'), 1, "已修好"),
    ("字符串里有真的换行", GOOD.replace("三十天。", "三十天\n。"), 1, ""),
    ("不包在数组里，一行一个", json.dumps(loan()) + "\n" + json.dumps(loan(question="借期是几天？")), 2, ""),
    ("键的次序倒过来", wrapped(dict(reversed(loan().items())), loan(question="借期是几天？")), 2, ""),
    ("问题写在页码、证据后面", wrapped(FLAT), 1, ""),
    ("外层也有页码", GOOD.replace('{"pairs"', '{"page": 1, "pairs"'), 1, ""),
    ("页码开头，断在第二条", wrapped(FLAT, FLAT)[:-30], 1, "断"),
    ("键名全错", wrapped({"Q": "借多久？", "A": "三十天"}), 0, "没有问答"),
    ("角色名错", wrapped(ODD), 0, "不是一问一答"),
    ("只有问题的列表", '{"questions": ["借多久？", "开几天？"]}', 0, "没有问答"),
    ("问题是数字", wrapped(loan(question=3)), 0, "不是"),
    ("没有证据", wrapped(loan(evidence="")), 0, "缺少证据"),
    ("证据是编的", wrapped(loan(evidence="逾期每天交费两角")), 0, "证据不在"),
    ("要点不在答案里", wrapped(loan(key_points=["四十天"])), 0, "要点"),
    ("答案写在问题里", wrapped(loan(question="三十天是不是借书期限？")), 0, "已经说出了答案"),
    ("一字不差地重复", wrapped(loan(), loan(), loan()), 1, "重复"),
    ("半个表情符号", wrapped(loan(question="书能借多久\\ud83d？")).replace("\\\\u", "\\u"), 0, "残缺"),
    ("括号套得极深", '{"conversations": ' + "[" * 50_000 + "]" * 50_000 + "}", 0, "太深"),
    ("页码大得离谱", GOOD.replace('"page": 1', '"page": ' + "9" * 5000), 0, "大得离谱"),
]


def test_there_are_at_least_thirty_kinds():
    assert len(REPLIES) >= 30 and len({reply for _, reply, _, _ in REPLIES}) == len(REPLIES)


@pytest.mark.parametrize(("reply", "kept", "reason"), [r[1:] for r in REPLIES], ids=[r[0] for r in REPLIES])
def test_parsed_or_rejected_with_a_reason(reply, kept, reason):
    rows, rejected, *_ = collect([reply], PAGE)
    reasons = [r["reason"] for r in rejected] + [p["reason"] for p in parse_response(reply)[1]]
    assert len(rows) == kept, reasons
    assert all(row["evidence"] in TEXT and row["answer"].strip("。\n\"“”") == "三十天" for row in rows)
    assert any(reason in text for text in reasons) if reason else (kept or reasons), reasons
    assert all(text.strip() for text in reasons)


@pytest.mark.parametrize("thought", [
    "<|begin_of_thought|>{0}<|end_of_thought|>{1}",
    "<|channel|>analysis<|message|>{0}<|channel|>final<|message|>{1}"])
def test_drafts_in_other_marks_of_thinking_are_not_pairs(thought):
    draft, answer = (f'{{"question": "{word}几点关门？", "answer": "十点。"}}' for word in ("草稿", "正文"))
    pairs, _ = parse_response(thought.replace("{0}", draft).replace("{1}", answer))
    assert [pair["question"] for pair in pairs] == ["正文几点关门？"]


def test_nan_is_no_page():
    pairs, _ = parse_response('{"question": "几点关门？", "answer": "十点。", "page": NaN}')
    assert pairs[0].get("page") is None


@pytest.mark.parametrize("formula", [
    r"$x \notag$", r"$A \nVdash B$", r"$a \twoheadrightarrow b$", r"$a \ne b$"])
def test_any_command_inside_dollars_keeps_its_backslash(formula):
    pairs, _ = parse_response('{"question": "公式？", "answer": "公式是 ' + formula + '。"}')
    assert pairs[0]["answer"] == f"公式是 {formula}。"
