#!/usr/bin/env bash
# peft 的 target_modules="all-linear" 用在混合专家（MoE）模型上，到底训练了哪些权重
#
# 【先猜】（运行之前写下）
#   文档说 all-linear 是“输出层之外的全部 linear/Conv1D 模块”。照字面：
#   1. 注意力、普通 MLP、共享专家里的 nn.Linear 全都有 LoRA，一个不漏；
#   2. 路由器在 transformers 5 里不是 nn.Linear，所以没有；合并成一块三维参数的专家也没有
#      （若 peft 替人补上了专家，那么每种 MoE 都会补，很像的 Qwen2-MoE 和 Qwen3-MoE 不会两样）；
#   3. lora_dropout=0.05 照常可用。
#
# 【实际】Qwen2-MoE 和 gpt-oss 与字面的猜测一致，另外四种不是，于是同一个词在 MoE 上有两种意思：
#   1. Qwen3-MoE、MiniMax-M2、GLM-4-MoE、DeepSeek-V3：peft 自己填了
#      target_parameters = ['down_proj', 'gate.weight', 'gate_up_proj']。路由器和专家都有 LoRA；
#      而真正的 nn.Linear——普通 MLP（前几层、mlp_only_layers）和共享专家——一个也没有。
#   2. 与 Qwen3-MoE 很像的 Qwen2-MoE 却什么也不填：普通 MLP 和共享专家有，专家没有。gpt-oss 只有注意力。
#   3. 前四种遇到 lora_dropout=0.05 抛 ValueError，后两种照常。
#   4. 前四种里有普通 MLP 的，点名也没用：只写第 0 层普通 MLP 的全名，得到 LoRA 的是第 1 层的专家。
#   不用 dropout 时唯一的提示是警告，而它不实：说 gate_up_proj 的 rank_pattern 被忽略，其实秩已经翻倍（r=4 变成 8）。
#
# 【为什么】peft 把 transformers 4 的名字换算成 5 的：gate_proj、up_proj、down_proj、gate 一律改成合并后的参数，
#   不看点名的是专家还是普通 MLP。源码里写明 all-linear 要带上专家和路由器，理由是它们在 4 里都是 nn.Linear；
#   但 transformers 4.57.1 里 GLM-4-MoE、DeepSeek-V3 的路由器本来就不是 nn.Linear。Qwen2-MoE 落空，是因为查表时
#   用的是“哪些模型照 qwen2_moe 转换”的表，里面没有 qwen2_moe 自己。
#
# 【何时起，伤到谁】同在 transformers 5.23.0 下实测：peft 0.19.1 对前四种直接报错（“Target modules {'a', 'l', …} not
#   found”），0.20.0 起改成现在这样，不报错。伤到的是照抄 all-linear 的人：以为路由器冻结着，其实在训练；以为共享专家
#   在训练，其实没有；换一个 MoE 底座，同一份配置训练的就是另一批权重，比较两个底座的微调效果也就不公平。
#   上游已知其中一部分：huggingface/peft 的 #3711（写全名点不中共享专家），all-linear 的行为来自 #3232。
#
# 【怎么避开】target_modules 写出注意力各层的名字，target_parameters 写 ["experts.gate_up_proj", "experts.down_proj"]；
#   脚本末尾验证这样得到的恰好是注意力和专家。普通 MLP 和共享专家在 0.21.2 里没有找到点中的办法（试过列表写全名、正则）。
#
# 【怎么量】每种结构造一个两层、宽 32 的随机小模型，加上 B 不为零的 LoRA 再合并，看哪些权重变了；不下载模型。
# 版本：peft 0.21.2，transformers 5.23.0，torch 2.13.0，Python 3.11，CPU。日期：2026-11-28。
#
# 【看到的输出】
#   peft 0.21.2，transformers 5.23.0，torch 2.13.0+cpu
#
#   qwen3_moe：peft 自己填的 target_parameters = ['down_proj', 'gate.weight', 'gate_up_proj']
#     有 LoRA 的权重：注意力 8/8，普通 MLP 0/3，专家 2/2，路由器 1/1
#     是 nn.Linear 却没有：3 个；不是 nn.Linear 却有：3 个
#     lora_dropout=0.05：lora.ParamWrapper does not work with lora_dropout != 0.
#     警告：The following rank_pattern keys did not match any targeted module and were ignored: ['.*\\.gate_up_proj'].
#     警告：The following alpha_pattern keys did not match any targeted module and were ignored: ['.*\\.gate_up_proj'].
#     LoraConfig(r=4)，实际的秩：{'down_proj': 4, 'gate_up_proj': 8, 'weight': 4}
#
#   minimax_m2：peft 自己填的 target_parameters = ['down_proj', 'gate.weight', 'gate_up_proj']
#     有 LoRA 的权重：注意力 8/8，路由器 2/2，专家 4/4
#     是 nn.Linear 却没有：0 个；不是 nn.Linear 却有：6 个
#     lora_dropout=0.05：lora.ParamWrapper does not work with lora_dropout != 0.
#     警告：The following rank_pattern keys did not match any targeted module and were ignored: ['.*\\.gate_up_proj'].
#     警告：The following alpha_pattern keys did not match any targeted module and were ignored: ['.*\\.gate_up_proj'].
#     LoraConfig(r=4)，实际的秩：{'down_proj': 4, 'gate_up_proj': 8, 'weight': 4}
#
#   glm4_moe：peft 自己填的 target_parameters = ['down_proj', 'gate.weight', 'gate_up_proj']
#     有 LoRA 的权重：注意力 8/8，普通 MLP 0/3，专家 2/2，路由器 1/1，共享专家 0/3
#     是 nn.Linear 却没有：6 个；不是 nn.Linear 却有：3 个
#     lora_dropout=0.05：lora.ParamWrapper does not work with lora_dropout != 0.
#     警告：The following rank_pattern keys did not match any targeted module and were ignored: ['.*\\.gate_up_proj'].
#     警告：The following alpha_pattern keys did not match any targeted module and were ignored: ['.*\\.gate_up_proj'].
#     LoraConfig(r=4)，实际的秩：{'down_proj': 4, 'gate_up_proj': 8, 'weight': 4}
#
#   deepseek_v3：peft 自己填的 target_parameters = ['down_proj', 'gate.weight', 'gate_up_proj']
#     有 LoRA 的权重：注意力 10/10，普通 MLP 0/3，专家 2/2，路由器 1/1，共享专家 0/3
#     是 nn.Linear 却没有：6 个；不是 nn.Linear 却有：3 个
#     lora_dropout=0.05：lora.ParamWrapper does not work with lora_dropout != 0.
#     警告：The following rank_pattern keys did not match any targeted module and were ignored: ['.*\\.gate_up_proj'].
#     警告：The following alpha_pattern keys did not match any targeted module and were ignored: ['.*\\.gate_up_proj'].
#     LoraConfig(r=4)，实际的秩：{'down_proj': 4, 'gate_up_proj': 8, 'weight': 4}
#
#   qwen2_moe：peft 自己填的 target_parameters = []
#     有 LoRA 的权重：注意力 8/8，普通 MLP 3/3，路由器 0/1，专家 0/2，共享专家 3/3，共享专家的门 1/1
#     是 nn.Linear 却没有：0 个；不是 nn.Linear 却有：0 个
#     lora_dropout=0.05：可用
#
#   gpt_oss：peft 自己填的 target_parameters = []
#     有 LoRA 的权重：注意力 8/8，路由器 0/2，专家 0/4
#     是 nn.Linear 却没有：0 个；不是 nn.Linear 却有：0 个
#     lora_dropout=0.05：可用
#
#   只点名第 0 层的普通 MLP（写全名），合并后变了的是：
#     glm4_moe：['model.layers.1.mlp.experts.down_proj', 'model.layers.1.mlp.experts.gate_up_proj']
#     deepseek_v3：['model.layers.1.mlp.experts.down_proj', 'model.layers.1.mlp.experts.gate_up_proj']
#
#   绕开路由器的写法：target_modules 列出注意力的全名，target_parameters 写两个 experts.…：
#     qwen3_moe：专家、注意力
#     minimax_m2：专家、注意力
#     glm4_moe：专家、注意力
#     deepseek_v3：专家、注意力

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2

HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error venv/bin/python -I - <<'PY'
import re
import sys
import warnings

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)

SMALL = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
MOE = dict(moe_intermediate_size=16, num_experts_per_tok=2)
ROUTED = dict(n_routed_experts=4, n_shared_experts=1, n_group=1, topk_group=1, first_k_dense_replace=1)
ARCHITECTURES = {
    "qwen3_moe": dict(MOE, num_experts=4, head_dim=8, mlp_only_layers=[0]),
    "minimax_m2": dict(num_experts_per_tok=2, num_local_experts=4, head_dim=8),
    "glm4_moe": dict(MOE, **ROUTED, head_dim=8),
    "deepseek_v3": dict(
        MOE, **ROUTED, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16,
        qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
    ),
    "qwen2_moe": dict(MOE, num_experts=4, shared_expert_intermediate_size=16, mlp_only_layers=[0]),
    "gpt_oss": dict(num_experts_per_tok=2, num_local_experts=4, head_dim=8),
}
FILLED_IN = ("qwen3_moe", "minimax_m2", "glm4_moe", "deepseek_v3")
FILLED = ["down_proj", "gate.weight", "gate_up_proj"]
ROLES = {
    "注意力": r"self_attn\.\w+\.weight",
    "路由器": r"mlp\.(gate|router)\.weight",
    "专家": r"experts\.(gate_up_proj|down_proj)",
    "共享专家": r"shared_experts?\.\w+\.weight",
    "共享专家的门": r"shared_expert_gate\.weight",
    "普通 MLP": r"mlp\.(gate|up|down)_proj\.weight",
}


def build(model_type):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**SMALL, **ARCHITECTURES[model_type]})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def role_of(name):
    if "_norm" in name or "layernorm" in name:
        return None
    for role, pattern in ROLES.items():
        if re.search(rf"\.{pattern}$", name):
            return role
    return None


def adapt(model_type, **options):
    """加上 B 不为零的 LoRA 再合并；合并后数值变了的权重，就是 LoRA 管到的权重。"""
    model = build(model_type)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrapped = get_peft_model(model, config)
    messages = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    wrappers = [module for module in wrapped.modules() if isinstance(module, ParamWrapper)]
    ranks = dict(sorted((module.parameter_name, module.r["default"]) for module in wrappers))
    filled = sorted(wrapped.peft_config["default"].target_parameters or [])
    after = wrapped.merge_and_unload().state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    return filled, changed, ranks, messages


def linear_weights(model_type):
    modules = build(model_type).named_modules()
    return {f"{name}.weight" for name, module in modules if isinstance(module, nn.Linear) and name != "lm_head"}


def by_role(names, changed):
    counts = {}
    for name in names:
        role = role_of(name)
        if role:
            done, total = counts.get(role, (0, 0))
            counts[role] = (done + (name in changed), total + 1)
    return counts


def refusal(model_type):
    try:
        adapt(model_type, target_modules="all-linear", lora_dropout=0.05)
    except ValueError as error:
        return str(error)
    return ""


def expect(condition, sentence):
    if not condition:
        sys.exit(f"行为变了：{sentence}")


def main():
    print(f"peft {peft.__version__}，transformers {transformers.__version__}，torch {torch.__version__}")

    for model_type in ARCHITECTURES:
        filled, changed, ranks, messages = adapt(model_type, target_modules="all-linear")
        linear = linear_weights(model_type)
        counts = by_role(build(model_type).state_dict(), changed)
        refused = refusal(model_type)
        print(f"\n{model_type}：peft 自己填的 target_parameters = {filled}")
        print("  有 LoRA 的权重：" + "，".join(f"{role} {a}/{b}" for role, (a, b) in counts.items()))
        print(f"  是 nn.Linear 却没有：{len(linear - changed)} 个；不是 nn.Linear 却有：{len(changed - linear)} 个")
        print(f"  lora_dropout=0.05：{refused or '可用'}")
        for message in messages:
            print(f"  警告：{message}")
        if ranks:
            print(f"  LoraConfig(r=4)，实际的秩：{ranks}")

        whole = {role for role, (a, b) in counts.items() if a == b}
        nothing = {role for role, (a, _) in counts.items() if a == 0}
        if model_type in FILLED_IN:
            expect(filled == FILLED, f"{model_type} 不再自动填这三个 target_parameters。")
            expect({"注意力", "路由器", "专家"} == whole, f"{model_type} 的路由器或专家不再全有 LoRA。")
            expect(nothing == set(counts) - whole, f"{model_type} 的普通 MLP 或共享专家有 LoRA 了。")
            expect(ranks["gate_up_proj"] == 8 and any("rank_pattern" in m for m in messages),
                   f"{model_type} 的 gate_up_proj 不再是“秩翻倍、警告却说没有用上”。")
            expect("lora_dropout" in refused, f"{model_type} 不再拒绝 lora_dropout。")
        else:
            expect(not filled, f"{model_type} 也自动填 target_parameters 了。")
            expect(nothing == {"路由器", "专家"}, f"{model_type} 的路由器或专家有 LoRA 了。")
            expect(changed == linear, f"{model_type} 有 LoRA 的不再恰好是全部 nn.Linear。")
            expect(not refused, f"{model_type} 拒绝 lora_dropout 了。")

    print("\n只点名第 0 层的普通 MLP（写全名），合并后变了的是：")
    for model_type in ("glm4_moe", "deepseek_v3"):
        names = [f"model.layers.0.mlp.{part}" for part in ("gate_proj", "up_proj", "down_proj")]
        _, changed, _, _ = adapt(model_type, target_modules=names)
        print(f"  {model_type}：{sorted(changed)}")
        expect(changed and all(".1.mlp.experts." in name for name in changed), "写全名可以点中普通 MLP 了。")

    print("\n绕开路由器的写法：target_modules 列出注意力的全名，target_parameters 写两个 experts.…：")
    for model_type in FILLED_IN:
        attention = [n.removesuffix(".weight") for n in linear_weights(model_type) if role_of(n) == "注意力"]
        experts = ["experts.gate_up_proj", "experts.down_proj"]
        _, changed, _, _ = adapt(model_type, target_modules=attention, target_parameters=experts)
        roles = {role_of(name) for name in changed}
        print(f"  {model_type}：{'、'.join(sorted(roles))}")
        expect(roles == {"注意力", "专家"}, f"{model_type} 上这种写法不再恰好得到注意力和专家。")


main()
PY
