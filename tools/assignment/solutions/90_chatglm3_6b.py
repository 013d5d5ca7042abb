# %% solution 90-fuse
def fuse(q_weight, k_weight, v_weight):
    return torch.cat([q_weight, k_weight, v_weight])
# %% hidden 90-fuse-check
pieces = [torch.randn(height, 3) for height in (5, 2, 1)]
assert torch.equal(fuse(*pieces), torch.cat(pieces))
# %% solution 90-count
my_count = six.num_hidden_layers * config.peft_config.r * (six.hidden_size + sum(rows_6b))
# %% hidden 90-count-check
assert my_count == 1_949_696
# %% solution 90-half
my_guess = "B"
# %% hidden 90-half-check
assert my_guess == "B"
# %% solution 90-batch
my_batch = 5
# %% hidden 90-batch-check
assert my_batch == 5
