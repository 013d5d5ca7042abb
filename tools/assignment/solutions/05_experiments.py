# %% solution 05-forget
my_forget = 40
# %% hidden 05-forget-check
assert isinstance(my_forget, (int, float)) and not isinstance(my_forget, bool) and 0 <= my_forget <= 100
# %% solution 05-alpha
my_alpha = 16
# %% hidden 05-alpha-check
assert my_alpha == 8 * lora.lora_alpha / lora.r
# %% solution 05-unmask
def unmask(sample):
    return {**sample, "labels": list(sample["input_ids"])}
# %% hidden 05-unmask-check
for hidden_sample in (*samples[:3], {"input_ids": [9, 3], "labels": [models.IGNORE, 3]}):
    hidden_before = json.dumps(hidden_sample)
    hidden_after = unmask(hidden_sample)
    assert hidden_after["input_ids"] == hidden_after["labels"] == hidden_sample["input_ids"]
    assert json.dumps(hidden_sample) == hidden_before
# %% solution 05-pairs
def differences(runs, first, second, group):
    def shares(method):
        return {name.rpartition("-")[2]: run["right"][group] / run["asked"][group]
                for name, run in runs.items() if name.rpartition("-")[0] == method}

    ours, theirs = shares(first), shares(second)
    return {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
# %% hidden 05-pairs-check
hidden_runs = {"new-1": record(3, 4), "new-2": record(1, 4), "old-1": record(1, 4), "old-2": record(4, 4),
               "renew-3": record(1, 4), "new-fast-3": record(1, 4), "old-3": record(0, 4)}
hidden_found = {int(seed): value for seed, value in differences(hidden_runs, "new", "old", "unseen").items()}
assert hidden_found == {1: 0.5, 2: -0.75}
# %% solution 05-design
my_design = "B"
my_reason = "A 同时改了两处；C 挑最好的一次与一次比，占了运气的便宜；D 看的是训练损失，不是没见过的问法。"
# %% hidden 05-design-check
assert chosen == "B" and len(str(my_reason)) >= 10
