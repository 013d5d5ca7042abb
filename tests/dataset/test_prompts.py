"""三十份有毛病的模型回复：要么取得出问答，要么被拒并说明原因；没有一份使程序崩溃，没有一份蒙混过关。"""

import json

import pytest

from labutils.dataset.build import collect
from labutils.dataset.clean import Page
from labutils.dataset.prompts import parse_response

TEXT = "图书馆每周开放六天。借书期限是三十天。"
PAGE = [Page(1, TEXT)]


def item(**changes):
    question, answer = changes.pop("question", "书可以借多久？"), changes.pop("answer", "三十天。")
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"conversations": messages, "fact_id": "F01", "key_points": ["三十天"], "page": 1,
            "evidence": "借书期限是三十天"} | changes


def dump(*items):
    return json.dumps({"pairs": list(items)}, ensure_ascii=False)


GOOD = dump(item())
FLAT = {"page": "1", "evidence": "借书期限是三十天", "key_points": ["三十天"], "answer": "三十天。",
        "question": "书可以借多久？"}
CUT = dump(item(), item(question="图书馆一周开几天？", answer="六天。"))
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
    ("不包在数组里，一行一个", json.dumps(item()) + "\n" + json.dumps(item(question="借期是几天？")), 2, ""),
    ("键的次序倒过来", dump(dict(reversed(item().items())), item(question="借期是几天？")), 2, ""),
    ("问题写在页码、证据后面", dump(FLAT), 1, ""),
    ("外层也有页码", GOOD.replace('{"pairs"', '{"page": 1, "pairs"'), 1, ""),
    ("页码开头，断在第二条", dump(FLAT, FLAT)[:-30], 1, "断"),
    ("键名全错", dump({"Q": "借多久？", "A": "三十天"}), 0, "没有问答"),
    ("角色名错", dump(ODD), 0, "不是一问一答"),
    ("只有问题的列表", '{"questions": ["借多久？", "开几天？"]}', 0, "没有问答"),
    ("问题是数字", dump(item(question=3)), 0, "不是"),
    ("没有证据", dump(item(evidence="")), 0, "缺少证据"),
    ("证据是编的", dump(item(evidence="逾期每天交费两角")), 0, "证据不在"),
    ("要点不在答案里", dump(item(key_points=["四十天"])), 0, "要点"),
    ("答案写在问题里", dump(item(question="三十天是不是借书期限？")), 0, "已经说出了答案"),
    ("一字不差地重复", dump(item(), item(), item()), 1, "重复"),
    ("半个表情符号", dump(item(question="书能借多久\\ud83d？")).replace("\\\\u", "\\u"), 0, "残缺"),
    ("括号套得极深", '{"conversations": ' + "[" * 50_000 + "]" * 50_000 + "}", 0, "太深"),
    ("页码大得离谱", GOOD.replace('"page": 1', '"page": ' + "9" * 5000), 0, "大得离谱"),
]


def test_there_are_at_least_thirty_kinds():
    assert len(REPLIES) >= 30 and len({reply for _, reply, _, _ in REPLIES}) == len(REPLIES)


@pytest.mark.parametrize(("reply", "kept", "reason"), [r[1:] for r in REPLIES], ids=[r[0] for r in REPLIES])
def test_parsed_or_rejected_with_a_reason(reply, kept, reason):
    rejected = []
    rows = collect([reply], PAGE, {}, rejected)
    reasons = [r["reason"] for r in rejected] + [p["reason"] for p in parse_response(reply)[1]]
    assert len(rows) == kept, reasons
    assert all(row["evidence"] in TEXT and row["answer"].strip("。\n\"“”") == "三十天" for row in rows)
    assert any(reason in text for text in reasons) if reason else (kept or reasons), reasons
    assert all(text.strip() for text in reasons)
