#!/usr/bin/env bash
# peft：adapter_names 让一批里每行各用各的适配器，换成 IA3、LoHa、TrainableTokens，它被悄悄丢掉，每一行都用了适配器
#
# 【先猜】（运行之前写下）
#   model(input_ids, adapter_names=["__base__", "default"]) 在 LoRA 上是支持的：第一行等于基座，第二行用适配器。
#   别的适配器（IA3、LoHa、LoKr、TrainableTokens……）不支持，会像 LoRA 遇到 DoRA 那样抛 ValueError；
#   至少，不认识的关键字会让 forward 抛 TypeError。
#
# 【实际】LoRA 如猜想。IA3、LoHa、LoKr、TrainableTokens：不报错、不提醒，要求“__base__”的那一行照样用了适配器，与全用
#   适配器时一位不差。
#
# 【为什么】peft_model.py 的 _enable_peft_forward_hooks 先看底层有没有同名的方法：只有 LoRA 一类的几种有，
#   没有的就直接 yield，什么也没做；而 adapter_names 属于 special_peft_forward_args，传给模型之前已经去掉了。
#
# 【伤到谁】一批里同时算“微调前”和“微调后”的对比、网页、评测：两列完全相同，看上去是“微调没有起作用”，或者
#   把微调后的成绩当成基座的成绩。
#
# 【怎么避开】用之前看 hasattr(model.base_model, "_enable_peft_forward_hooks")；没有就用 with model.disable_adapter()
#   单独算一遍基座。
#
# 版本：peft 0.21.2，transformers 5.23.0，torch 2.13.0，Python 3.11，CPU。日期：2026-11-28。
#
# 【看到的输出】
#   peft 0.21.2，transformers 5.23.0
#   adapter_names=["__base__", "default"]，第一行用的是：
#     LoRA            基座
#     IA3             适配器
#     LoHa            适配器
#     LoKr            适配器
#     TrainableTokens 适配器

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0

HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error venv/bin/python -I -W ignore - <<'PY'
import sys

import peft
import torch
import transformers
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, TrainableTokensConfig, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM

print(f"peft {peft.__version__}，transformers {transformers.__version__}")
IDS = torch.tensor([[5, 6, 7, 8]] * 2)


def base():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8)).eval()


@torch.no_grad()
def first_row(config):
    """adapter_names 要第一行用基座；它实际是谁的。"""
    model = get_peft_model(base(), config).eval()
    for weight in model.parameters():
        if weight.requires_grad:
            weight.add_(torch.randn_like(weight))  # 当作训练过
    true, tuned = base()(input_ids=IDS).logits[0], model(input_ids=IDS).logits[0]
    assert (true - tuned).abs().max() > 1e-2, "适配器没有起作用，比不出来"
    mixed = model(input_ids=IDS, adapter_names=["__base__", "default"]).logits[0]
    return "基座" if torch.allclose(mixed, true, atol=1e-5) else "适配器" if torch.equal(mixed, tuned) else "都不是"


kinds = {"LoRA": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
         "IA3": IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]),
         "LoHa": LoHaConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
         "LoKr": LoKrConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
         "TrainableTokens": TrainableTokensConfig(
             task_type="CAUSAL_LM", target_modules=["embed_tokens"], token_indices=[5, 6])}
found = {name: first_row(config) for name, config in kinds.items()}
print("adapter_names=[\"__base__\", \"default\"]，第一行用的是：")
for name, whose in found.items():
    print(f"  {name:<16}{whose}")
if found != {name: "基座" if name == "LoRA" else "适配器" for name in kinds}:
    sys.exit(f"行为变了：{found}")
PY
