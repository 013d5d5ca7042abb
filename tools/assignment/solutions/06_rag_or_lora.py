# %% solution 06-mrr
def my_mrr(positions):
    return sum(1 / place for place in positions if place) / len(positions)
# %% hidden 06-mrr-check
assert abs(my_mrr([1, None, 4]) - 1.25 / 3) < 1e-9
assert abs(my_mrr([3]) - 1 / 3) < 1e-9 and my_mrr([None]) == 0
# %% solution 06-guess
my_guess = 30
# %% hidden 06-guess-check
assert abs(my_guess - 34) <= 20
# %% solution 06-update
def my_update(rows, old, new):
    def changed(value):
        if isinstance(value, list):
            return [changed(item) for item in value]
        return value.replace(old, new) if isinstance(value, str) else value

    keys = ("answer", "key_points", "evidence")
    return [{key: changed(value) if key in keys else value for key, value in row.items()}
            for row in rows]
# %% hidden 06-update-check
lent = [{"id": "L1", "question": "30天够吗？", "answer": "借期是30天。", "key_points": ["30天", "图书馆"],
         "page": 1, "evidence": "借期为30天"},
        {"question": "谁？", "answer": "馆长。", "key_points": ["馆长"], "page": 2, "evidence": "由馆长办理"}]
kept = repr(lent)
moved = my_update(lent, "30天", "40天")
assert repr(lent) == kept and moved[1] == lent[1]
assert moved[0] == {**lent[0], "answer": "借期是40天。", "key_points": ["40天", "图书馆"],
                    "evidence": "借期为40天"}
# %% solution 06-choose
my_choices = ["检索", "微调", "查表"]
# %% hidden 06-choose-check
assert [choice.strip() for choice in my_choices] == ["检索", "微调", "查表"]
