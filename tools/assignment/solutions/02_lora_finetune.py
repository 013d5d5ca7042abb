# 02_lora_finetune 的参考答案与隐藏测试：solution 换掉答题格，hidden 接在检查格后面。
# ruff: noqa: F821 名字来自 notebook

# %% solution 02-first-step
still_after_one = "A"
still_forever = "AB"

# %% hidden 02-first-step-check
assert still_after_one.strip().upper() == "A"
assert still_forever.strip().upper() == "AB"

# %% solution 02-rank
my_rank = 20

# %% hidden 02-rank-check
assert my_rank == 20

# %% solution 02-labels
def my_labels(parts):
    return [i if role == "assistant" else -100 for role, ids in parts for i in ids]

# %% hidden 02-labels-check
for trial, expected in [
    ([("user", [11, 12, 13]), ("assistant", [21, 22]), ("user", [14]), ("assistant", [23])],
     [-100, -100, -100, 21, 22, -100, 23]),
    ([("system", [5]), ("user", [6, 6]), ("assistant", [6, 7])], [-100, -100, -100, 6, 7]),
    ([("user", [1]), ("user", [2])], [-100, -100]),
    ([("user", []), ("assistant", [9])], [9]),
]:
    assert list(my_labels(trial)) == expected, trial

# %% solution 02-learning-rate
my_guess = "更高"
slow_losses = train_by_hand(new_model(), learning_rate / 10)

# %% hidden 02-learning-rate-check
assert my_guess.strip() == "更高"
assert len(slow_losses) == steps and abs(slow_losses[0] - losses[0]) < 1e-3
assert sum(slow_losses[-5:]) > sum(losses[-5:])

# %% solution 02-passes
my_passes = 20

# %% hidden 02-passes-check
assert my_passes == 20
