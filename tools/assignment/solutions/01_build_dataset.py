# 01_build_dataset 的参考答案与隐藏测试：solution 换掉答题格，hidden 接在检查格后面。
# ruff: noqa: F821 名字来自 notebook

# %% solution 01-cost
my_ratio = 1.9  # 输出占大头，它翻倍；输入不变

# %% hidden 01-cost-check
assert 1.7 <= float(my_ratio) <= 1.95

# %% solution 01-extract
def extract(reply):
    return json.loads(reply[reply.index("["):reply.rindex("]") + 1])

# %% hidden 01-extract-check
for inside in ([], [1, 2], [{"question": "开几天？", "key_points": ["六天", "[注]"]}]):
    written = json.dumps(inside, ensure_ascii=False, indent=1)
    for reply_text in (written, f"好的：\n{written}\n还要吗？", f"如下。```json\n{written}\n```完"):
        assert extract(reply_text) == inside, reply_text

# %% solution 01-questions
my_questions = ["书可以借多久？", "借书的期限有多长？", "从图书馆拿走的书几天之内要还？"]
my_answer = "借书期限是三十天。"

# %% hidden 01-questions-check
assert len(my_questions) == 3 and all(question.strip() for question in my_questions)
graded, refused = dataset.validate([{**fact, "question": question, "answer": my_answer}
                                    for question in my_questions], toy_document)
assert not refused and len(dataset.drop_near_duplicates(graded)[0]) == 3
assert "三十天" in my_answer

# %% solution 01-pairs
def too_strict(rows, threshold):
    return [(one["question"], other["question"]) for i, one in enumerate(rows) for other in rows[:i]
            if one["fact_id"] != other["fact_id"]
            and dataset.similarity(one["question"], other["question"]) >= threshold]

# %% hidden 01-pairs-check
graded_rows = dataset.load_qa(base.DATA / "qa.jsonl")
for limit in (0.5, 0.7):
    wanted = {frozenset((one["question"], other["question"])) for one in graded_rows for other in graded_rows
              if one["fact_id"] < other["fact_id"]
              and dataset.similarity(one["question"], other["question"]) >= limit}
    given = [frozenset(pair) for pair in too_strict(graded_rows, limit)]
    assert len(given) == len(wanted) and set(given) == wanted, limit

# %% solution 01-own
own = out / "toy"
own.mkdir(parents=True, exist_ok=True)
(own / "own.md").write_text("# 食堂\n\n食堂的开门时间是六点半。食堂的关门时间是二十点。\n", encoding="utf-8")
own_pairs = [("食堂几点开门？", "六点半。"), ("早上什么时候可以去食堂吃饭？", "六点半。"),
             ("食堂几点关门？", "二十点。"), ("晚饭最晚吃到什么时候？", "二十点。")]
own_lines = [json.dumps({"question": question, "answer": answer}) for question, answer in own_pairs]
(own / "own.jsonl").write_text("\n".join(own_lines), encoding="utf-8")
my_report = dataset.build_dataset(own / "own.md", own / "own.jsonl", out / "mine")

# %% hidden 01-own-check
assert {"pairs", "facts", "train", "dev", "funnel", "summary"} <= my_report.keys()
assert my_report["pairs"] >= 4 and my_report["facts"] >= 2 and my_report["dev"] >= 1
assert my_report["funnel"][0][0] == "文件里的条目"
assert my_report["dev_facts"] == my_report["dev_facts_in_train"]
