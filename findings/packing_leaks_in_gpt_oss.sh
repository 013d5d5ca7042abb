#!/usr/bin/env bash
# gpt-oss、AFMoE（Arcee Trinity）用 DataCollatorWithFlattening 拼接训练，样本互相看得见，use_cache=False 也没有用
#
# 【先猜】（在一百多种结构上试之前的想法；写成文字时已经看到了结果）
#   DataCollatorWithFlattening 拼成一行，position_ids 各从 0 数起，不给 attention_mask，use_cache=False（Trainer 的缺省）：
#   只有注意力的结构都认得出边界，样本互不相见；漏的只会是带状态的（Mamba、线性注意力、卷积）和不用 position_ids 的
#   老结构（OPT、Bloom）。
#
# 【实际】只有注意力的结构里，Qwen3-MoE、Mixtral、Llama 猜对了；gpt-oss 与 AFMoE 猜错了：换掉第一条，第二条的 logits 全变了，
#   Trainer 算的第二条的损失也跟着变（它的 labels 一个没动）。没有警告。eager（gpt-oss 的缺省）、sdpa 都漏。
#   带状态的（Qwen3-Next、Nemotron-H、Mamba-2……）也漏，这一点猜对了，不在下面的输出里；
#   其中有的（Qwen3-Next、Granite-4、OLMo-hybrid）给了 return_seq_idx=True 会报错，不给就悄悄地漏。
#
# 【为什么】transformers 靠 create_causal_mask 从 position_ids 里认边界；这两种结构调用它时没有把 position_ids 传进去
#   （modeling_gpt_oss.py、modeling_afmoe.py 的 mask_kwargs），得到的就是普通的因果遮罩。flash attention 走另一条路，
#   没有试。gpt-oss 的一处有人提过改法：huggingface/transformers 的 PR #39997，2025 年 8 月，5.23.0 里没有。
#
# 【伤到谁】在 CPU、没有 flash attention 的显卡上拼接微调 gpt-oss 的人：每条样本都看得见排在前面的别的样本，
#   损失既不报错也不离谱，打乱次序才看得出它在变。
#
# 【怎么避开】拼接以前拿两条样本试：换掉第一条，第二条的 logits 应当一位不变；不是就补齐了训练。
#
# 【怎么量】随机的四层小模型（宽 32，initializer_range=0.2，好让差别看得清；差多少随权重而变），不下载模型。
# 版本：transformers 5.23.0，torch 2.13.0，accelerate 1.15.0，Python 3.11，CPU。日期：2026-11-29。
#
# 【看到的输出】
#   transformers 5.23.0，torch 2.13.0+cpu
#   gpt_oss（eager）：第二条的 logits 与单独时相差 130.3%，换掉第一条动了 128.2%；Trainer 算的第二条的损失 5.630、5.381、5.491
#   afmoe（sdpa）：第二条的 logits 与单独时相差 96.9%，换掉第一条动了 138.8%；Trainer 算的第二条的损失 5.707、6.153、5.473
#   qwen3_moe（sdpa）：第二条的 logits 与单独时相差 0.0%，换掉第一条动了 0.0%；Trainer 算的第二条的损失 5.452、5.452、5.452
#   mixtral（sdpa）：第二条的 logits 与单独时相差 0.0%，换掉第一条动了 0.0%；Trainer 算的第二条的损失 6.366、6.366、6.366
#   llama（sdpa）：第二条的 logits 与单独时相差 0.0%，换掉第一条动了 0.0%；Trainer 算的第二条的损失 5.354、5.354、5.354

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0

venv/bin/python -I - <<'PY'
import contextlib
import io
import logging
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers
from transformers import (AutoConfig, AutoModelForCausalLM, DataCollatorWithFlattening, Trainer,
                          TrainingArguments)

logging.disable(logging.WARNING)
SMALL = dict(vocab_size=200, hidden_size=32, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=4,
             num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4, num_local_experts=4,
             num_experts_per_tok=2, max_position_embeddings=256, initializer_range=0.2, pad_token_id=0,
             bos_token_id=0, eos_token_id=2)


def rows(first):
    made = torch.Generator().manual_seed(7)
    second = torch.randint(3, 200, (19,), generator=made).tolist()
    one = torch.randint(3, 200, (23,), generator=torch.Generator().manual_seed(first)).tolist()
    return [{"input_ids": ids, "labels": ids} for ids in (one, second)]


def second_of(model, given):
    batch = DataCollatorWithFlattening()(given)
    batch.pop("labels")
    with torch.no_grad():
        return model(**batch, use_cache=False).logits[0, -19:]


def trainer_loss(model, given):
    """Trainer 自己拼接、评测；第一条不算损失。"""
    quiet = [given[0] | {"labels": [-100] * 23}, given[1]]
    args = TrainingArguments("out", per_device_eval_batch_size=2, use_cpu=True, report_to=[], disable_tqdm=True)
    trainer = Trainer(model, args, data_collator=DataCollatorWithFlattening(), eval_dataset=quiet)
    with contextlib.redirect_stdout(io.StringIO()):
        return trainer.evaluate()["eval_loss"]


print(f"transformers {transformers.__version__}，torch {torch.__version__}")
leaks = {}
for kind in ("gpt_oss", "afmoe", "qwen3_moe", "mixtral", "llama"):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL)).eval()
    alone = model(input_ids=torch.tensor([rows(1)[1]["input_ids"]]), use_cache=False).logits[0].detach()
    packed, other = (second_of(model, rows(first)) for first in (1, 2))
    away, moved = (float((packed - wanted).norm() / wanted.norm()) for wanted in (alone, other))
    losses = [trainer_loss(model, rows(first)) for first in (1, 2, 3)]
    leaks[kind] = moved > 1e-5 or max(losses) - min(losses) > 1e-4
    print(f"{kind}（{model.config._attn_implementation}）：第二条的 logits 与单独时相差 {away:.1%}，换掉第一条动了 {moved:.1%}；"
          f"Trainer 算的第二条的损失 " + "、".join(f"{loss:.3f}" for loss in losses))
if leaks != {"gpt_oss": True, "afmoe": True, "qwen3_moe": False, "mixtral": False, "llama": False}:
    sys.exit(f"行为变了：漏的是 {leaks}")
PY
