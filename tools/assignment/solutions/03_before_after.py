# %% solution 03-points
my_points = ["30天|一个月"]
# %% hidden 03-points-check
for reply in ("三十天。", "借期 30 天", "可以借一个月", "借期为３０天"):
    assert my_points and comparison.fact_correct(reply, my_points), reply
for reply in ("130天", "没有期限", "借期20天", "可以借一周", "可以借十一个月"):
    assert not comparison.fact_correct(reply, my_points), reply
# %% solution 03-fool
my_answer = "图书馆的开放时间由教务处统一安排。"
# %% hidden 03-fool-check
assert comparison.rouge_l(my_answer, "图书馆的开放时间由后勤处统一安排。") > 0.8
assert not comparison.fact_correct(my_answer, ["后勤处"])
# %% solution 03-loss
my_explanation = "B"
# %% hidden 03-loss-check
assert my_explanation.strip().upper() == "B"
# %% solution 03-baseline
def my_baseline(train_rows, questions):
    search = comparison.LexicalSearch([row["answer"] for row in train_rows])
    return [train_rows[search.scores(question).argmax()]["answer"] for question in questions]
# %% hidden 03-baseline-check
course = comparison.load_groups(base.DATA / "qa.jsonl", base.DATA, base.DATA / "probes")
held_out = course["unseen"]
copied = my_baseline([{key: row[key] for key in ("question", "answer")} for row in course["train"]],
                     [row["question"] for row in held_out])
assert len(copied) == len(held_out) and set(copied) <= {row["answer"] for row in course["train"]}
by_question = comparison.lexical_answers(course["train"], [row["question"] for row in held_out])["问题"]
points = [row["key_points"] for row in held_out]
right, plain = (sum(map(comparison.fact_correct, replies, points)) for replies in (copied, by_question))
assert right - plain > 0.1 * len(held_out), (right, plain)
# %% solution 03-premise
my_reply = "B"
# %% hidden 03-premise-check
assert my_reply.strip().upper() == "B"
