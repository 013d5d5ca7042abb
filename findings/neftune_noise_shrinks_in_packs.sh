#!/usr/bin/env bash
# transformers 的 NEFTune：同一个 alpha，样本一拼接（或与长样本同批），噪声就悄悄变小
#
# 【先猜】（运行之前写下）
#   NEFTune（arXiv:2310.05914）的噪声幅度是 alpha/√(L·d)，L 是这条样本自己的长度。neftune_noise_alpha=5
#   写在 TrainingArguments 里，所以一条 40 个词元的样本，单独一批、与 400 个词元的样本同批（补齐）、
#   用 DataCollatorWithFlattening 拼成一条，得到的噪声一样大。
#
# 【实际】幅度只看张量的第二维：补齐之后的宽度，或拼接之后的总长。40 个词元的样本：
#   单独 0.0988（= 5/√(40·64)，猜对），与 400 个词元的同批 0.0312，十条一起拼接（共 400）也是 0.0312：
#   小到原来的 1/√10。没有提醒；损失照样下降，只是正则化弱了。
#
# 【为什么】integrations/neftune.py 挂在词嵌入的输出上，那里只有形状 (批, 宽, d)，没有掩码也没有段的边界：
#   dims = output.size(1) * output.size(2)。
#
# 【伤到谁】为了快改成拼接（padding-free、packing）或把每批改大的人：别的都不变，NEFTune 的强度变了，
#   比较“拼接前后损失一样吗”时会把它算在拼接头上；alpha 也不能从一种拼法抄到另一种。
#
# 【怎么避开】自己加噪声，按每段自己的长度算幅度（有 cu_seq_lens 或 position_ids 就知道边界）；或按拼接后的长度
#   把 alpha 放大 √(总长/平均长度)。
#
# 版本：transformers 5.23.0，torch 2.13.0，Python 3.11，CPU。日期：2026-11-28。
#
# 【看到的输出】
#   transformers 5.23.0
#   一条 40 个词元的样本，alpha 5，d 64，得到的噪声最大：
#     单独一批                0.0988
#     与 400 个词元的同批（补齐）    0.0312
#     十条拼接（共 400 个词元）     0.0312

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0

HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error venv/bin/python -I - <<'PY'
import sys

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    DataCollatorWithFlattening, PrinterCallback, Qwen2Config, Qwen2ForCausalLM, Trainer, TrainingArguments)

ALPHA, WIDTH, SHORT, LONG = 5, 64, 40, 400
row = lambda size: {"input_ids": [7] * size, "labels": [7] * size}  # noqa: E731


def padded(rows):
    side = {key: pad_sequence([torch.tensor(r[key]) for r in rows], batch_first=True) for key in rows[0]}
    return side | {"attention_mask": torch.ones_like(side["input_ids"])}


def noise(rows, collator):
    """真的用 Trainer 训练一步（学习率 0），量第一条样本的词向量上多了多少。"""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=16, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024))
    clean = model.get_input_embeddings().weight[7].detach().clone()
    seen = []
    model.model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or (kwargs["hidden_states"],))[0]), with_kwargs=True)
    trainer = Trainer(model, TrainingArguments(
        "out", max_steps=1, per_device_train_batch_size=len(rows), learning_rate=0.0, report_to="none",
        neftune_noise_alpha=ALPHA, use_cpu=True, save_strategy="no", disable_tqdm=True,
        remove_unused_columns=False, train_sampling_strategy="sequential", label_names=["labels"]),
        train_dataset=rows, data_collator=collator)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return float((seen[0][0, :SHORT].detach() - clean).abs().max())


print(f"transformers {transformers.__version__}")
print(f"一条 {SHORT} 个词元的样本，alpha {ALPHA}，d {WIDTH}，得到的噪声最大：")
sizes = {}
for name, rows, collator in (
    ("单独一批", [row(SHORT)], padded),
    (f"与 {LONG} 个词元的同批（补齐）", [row(SHORT), row(LONG)], padded),
    (f"十条拼接（共 {LONG} 个词元）", [row(SHORT)] * 10, DataCollatorWithFlattening()),
):
    sizes[name] = noise(rows, collator)
    print(f"  {name:<20}{sizes[name]:.4f}")
alone, *others = sizes.values()
own, whole = ALPHA / (SHORT * WIDTH) ** 0.5, ALPHA / (LONG * WIDTH) ** 0.5
if not 0.95 * own < alone <= own * 1.001 or not all(0.95 * whole < size <= whole * 1.001 for size in others):
    sys.exit(f"行为变了：{sizes}，原来单独是 {own:.4f}，另两种是 {whole:.4f}")
PY
