#!/usr/bin/env bash
# 两条样本拼成一行、position_ids 各从 0 数起：它们互相看得见吗？要看 use_cache
#
# 【先猜】（运行之前写下）
#   transformers 能从“position_ids 又回到 0”认出拼接的边界（不给 attention_mask 时），
#   于是第二条样本的 logits 与它单独成行时一样。use_cache 只决定要不要把 K/V 交回来供下次用；
#   一次前向、没有旧缓存时，它不该改变任何 logits。所以 use_cache 开或关，结果都一样。
#
# 【实际】要看 use_cache：
#   use_cache=False：猜对了，第二条样本与单独成行时一样（sdpa 差 0，eager 差 2e-6）。
#   use_cache=True，也就是模型配置的默认值：第二条看得见第一条，换掉第一条的内容，第二条的 logits 跟着变；
#   没有任何提示。model.train() 也一样；开了激活重算（activation checkpointing）又好了，因为那时缓存自动关掉。
#   给一个全 1 的 attention_mask，也看得见，即使 use_cache=False。
#
# 【为什么】transformers 只在 attention_mask 和 past_key_values 都是 None 时才去认拼接的边界；use_cache=True 时
#   前向一开始就造一个空缓存，past_key_values 不再是 None。源码注释说没有缓存“一般就是训练时”；DataCollatorWithFlattening
#   的文档字符串没有提到 use_cache。
#   4.53.3 的源码里已经是这个条件（只读了源码，没有运行）。
#
# 【伤到谁】transformers 的 Trainer 默认把 use_cache 关掉（TrainingArguments.use_cache=False；只核对了默认值和
#   源码），不受影响。伤到的是自己写循环的人：DataCollatorWithFlattening 拼的一行直接交给 model(**batch)，训练时样本互相泄漏，损失是错的
#   （下面 4.518 变成 5.078，或 4.269 变成 4.226，可高可低）；用拼接来算验证损失、困惑度或给答案打分，结果取决于
#   谁和谁拼在一起；显存不够、打开激活重算时，损失还会“莫名”改变。
#   全 1 的 attention_mask 一事上游有人提过：huggingface/transformers 的 #46634（已关闭，5.23.0 里没有改）。
#
# 【怎么避开】拼接时写 use_cache=False（或 model.config.use_cache = False），并且不给 attention_mask。
#
# 【怎么量】随机的两层小 Llama、小 Glm（宽 32，initializer_range=0.2，好让差别看得清；差多少随权重而变），
#   各试 sdpa 和 eager；不下载模型。flash attention 和 flex attention 没有试。
# 版本：transformers 5.23.0，torch 2.13.0，Python 3.11，CPU。日期：2026-11-28。
#
# 【看到的输出】
#   transformers 5.23.0，torch 2.13.0+cpu
#
#   llama，sdpa，config.use_cache=True，第二条样本 logits 的标准差 1.1
#     use_cache=False：与单独成行差 0.0e+00；换掉第一条样本，第二条动了 0.0e+00
#     use_cache=True：与单独成行差 4.1e+00；换掉第一条样本，第二条动了 3.9e+00
#     不写 use_cache：与单独成行差 4.1e+00；换掉第一条样本，第二条动了 3.9e+00
#     不写 use_cache，model.train()：与单独成行差 4.1e+00；换掉第一条样本，第二条动了 3.9e+00
#     use_cache=False，另给全 1 的 attention_mask：与单独成行差 4.1e+00；换掉第一条样本，第二条动了 3.9e+00
#     DataCollatorWithFlattening（input_ids、labels、position_ids）：两条各自的损失 4.518，拼成一行 5.078，config.use_cache=False 后 4.518
#     不写 use_cache，model.train()，开激活重算：与单独成行差 0.0e+00；换掉第一条样本，第二条动了 0.0e+00
#
#   llama，eager，config.use_cache=True，第二条样本 logits 的标准差 1.1
#     use_cache=False：与单独成行差 1.9e-06；换掉第一条样本，第二条动了 0.0e+00
#     use_cache=True：与单独成行差 4.1e+00；换掉第一条样本，第二条动了 3.9e+00
#     不写 use_cache：与单独成行差 4.1e+00；换掉第一条样本，第二条动了 3.9e+00
#     不写 use_cache，model.train()：与单独成行差 4.1e+00；换掉第一条样本，第二条动了 3.9e+00
#     use_cache=False，另给全 1 的 attention_mask：与单独成行差 4.1e+00；换掉第一条样本，第二条动了 3.9e+00
#     DataCollatorWithFlattening（input_ids、labels、position_ids）：两条各自的损失 4.518，拼成一行 5.078，config.use_cache=False 后 4.518
#     不写 use_cache，model.train()，开激活重算：与单独成行差 1.9e-06；换掉第一条样本，第二条动了 0.0e+00
#
#   glm，sdpa，config.use_cache=True，第二条样本 logits 的标准差 1.0
#     use_cache=False：与单独成行差 0.0e+00；换掉第一条样本，第二条动了 0.0e+00
#     use_cache=True：与单独成行差 4.6e+00；换掉第一条样本，第二条动了 4.3e+00
#     不写 use_cache：与单独成行差 4.6e+00；换掉第一条样本，第二条动了 4.3e+00
#     不写 use_cache，model.train()：与单独成行差 4.6e+00；换掉第一条样本，第二条动了 4.3e+00
#     use_cache=False，另给全 1 的 attention_mask：与单独成行差 4.6e+00；换掉第一条样本，第二条动了 4.3e+00
#     DataCollatorWithFlattening（input_ids、labels、position_ids）：两条各自的损失 4.269，拼成一行 4.226，config.use_cache=False 后 4.269
#     不写 use_cache，model.train()，开激活重算：与单独成行差 0.0e+00；换掉第一条样本，第二条动了 0.0e+00
#
#   glm，eager，config.use_cache=True，第二条样本 logits 的标准差 1.0
#     use_cache=False：与单独成行差 1.5e-06；换掉第一条样本，第二条动了 0.0e+00
#     use_cache=True：与单独成行差 4.6e+00；换掉第一条样本，第二条动了 4.3e+00
#     不写 use_cache：与单独成行差 4.6e+00；换掉第一条样本，第二条动了 4.3e+00
#     不写 use_cache，model.train()：与单独成行差 4.6e+00；换掉第一条样本，第二条动了 4.3e+00
#     use_cache=False，另给全 1 的 attention_mask：与单独成行差 4.6e+00；换掉第一条样本，第二条动了 4.3e+00
#     DataCollatorWithFlattening（input_ids、labels、position_ids）：两条各自的损失 4.269，拼成一行 4.226，config.use_cache=False 后 4.269
#     不写 use_cache，model.train()，开激活重算：与单独成行差 1.5e-06；换掉第一条样本，第二条动了 0.0e+00
#
#   TrainingArguments.use_cache 的默认值：False

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 transformers==5.23.0

HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error venv/bin/python -I - <<'PY'
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, DataCollatorWithFlattening, TrainingArguments

torch.set_num_threads(1)

SMALL = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
)
FIRST, SECOND = [5, 9, 13, 21, 34], [7, 11, 18, 29, 47, 12]
OTHER_FIRST = [40, 41, 42, 43, 44]


def build(model_type, attention):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SMALL)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()


def second_logits(model, first, **options):
    """把 first 和 SECOND 拼成一行，只取 SECOND 那一段的 logits。"""
    ids = torch.tensor([first + SECOND])
    positions = torch.tensor([[*range(len(first)), *range(len(SECOND))]])
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=positions, **options).logits
    return logits[0, len(first):]


def gap(left, right):
    return (left - right).abs().max().item()


def losses(model):
    """DataCollatorWithFlattening 拼好的一行的损失，与两条样本各自损失按词元数加权的平均。"""
    features = [{"input_ids": ids, "labels": ids} for ids in (FIRST, SECOND)]
    together = DataCollatorWithFlattening(return_tensors="pt")(features)
    with torch.no_grad():
        packed = model(**together).loss.item()
        total = sum(model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.item() * (len(ids) - 1)
                    for ids in (FIRST, SECOND))
    return packed, total / (len(FIRST) + len(SECOND) - 2), sorted(together)


def expect(condition, sentence):
    if not condition:
        sys.exit(f"行为变了：{sentence}")


def check(name, model, alone, apart, **options):
    packed = second_logits(model, FIRST, **options)
    off = gap(packed, alone)
    moved = gap(packed, second_logits(model, OTHER_FIRST, **options))
    print(f"  {name}：与单独成行差 {off:.1e}；换掉第一条样本，第二条动了 {moved:.1e}")
    if apart:
        expect(off < 1e-4 and moved < 1e-4, f"{name} 时第二条样本看得见第一条了。")
    else:
        expect(off > 0.1 and moved > 0.1, f"{name} 时第二条样本不再看得见第一条。")


def main():
    print(f"transformers {transformers.__version__}，torch {torch.__version__}")
    ones = torch.ones(1, len(FIRST + SECOND), dtype=torch.long)

    for model_type in ("llama", "glm"):
        for attention in ("sdpa", "eager"):
            model = build(model_type, attention)
            alone = second_logits(model, [], use_cache=False)
            print(f"\n{model_type}，{attention}，config.use_cache={model.config.use_cache}，"
                  f"第二条样本 logits 的标准差 {alone.std():.1f}")
            check("use_cache=False", model, alone, True, use_cache=False)
            check("use_cache=True", model, alone, False, use_cache=True)
            check("不写 use_cache", model, alone, False)
            check("不写 use_cache，model.train()", model.train(), alone, False)
            check("use_cache=False，另给全 1 的 attention_mask", model.eval(), alone, False,
                  use_cache=False, attention_mask=ones)

            packed, separate, keys = losses(model)
            model.config.use_cache = False
            isolated, _, _ = losses(model)
            print(f"  DataCollatorWithFlattening（{'、'.join(keys)}）：两条各自的损失 {separate:.3f}，"
                  f"拼成一行 {packed:.3f}，config.use_cache=False 后 {isolated:.3f}")
            expect(abs(packed - separate) > 0.01, "默认设置下拼成一行的损失等于各自的损失了。")
            expect(abs(isolated - separate) < 1e-4, "关掉 use_cache 后拼成一行的损失不等于各自的损失。")

            model.config.use_cache = True
            model.train().activation_checkpointing_enable()
            check("不写 use_cache，model.train()，开激活重算", model, alone, True)

    default = TrainingArguments.__dataclass_fields__["use_cache"].default
    print(f"\nTrainingArguments.use_cache 的默认值：{default}")
    expect(default is False, "Trainer 不再默认关掉 use_cache。")


main()
PY
