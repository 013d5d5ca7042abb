#!/usr/bin/env bash
# target_modules="all-linear" 用在带索引器的稀疏注意力模型上，每一层 LoRA 都学得到东西吗？
#
# 【先猜】（运行之前写下）
#   "all-linear" 包住的每一层都真的被用到：训练几步以后，每一个 lora_B 都得到过不为零的梯度。
#
# 【实际】DeepSeek-V3.2、GLM（glm_moe_dsa）、HY-V4 的索引器（indexer：先给每个词元打分，只让注意力看分数最高的几个）
#   也包上了 LoRA，有索引器的每层三处：wq_b、wk、weights_proj。它们的 grad 一直是 None，训练多少步都停在初始值，
#   print_trainable_parameters 照样把它们算作可训练的：按 DeepSeek-V3.2 真实的尺寸，r=8 时有一千多万个参数。
#   不报错也不提醒；放进 DistributedDataParallel，第二步就报“上一步没有完成归约”。
#
# 【为什么】索引器的分数只用来取最大的 k 个位置（topk 的下标），下标不可导；
#   DeepSeek 的论文里索引器另有自己的损失，transformers 的前向里没有，所以只用语言模型的损失训练不到它。
#
# 【伤到谁】照习惯写 "all-linear" 微调这几种模型的人：以为索引器跟着学了领域里该看哪里，其实一点没有动；
#   多张显卡时直接训练不了，报的错又不说是哪一层。
#
# 【怎么避开】LoraConfig(target_modules="all-linear", exclude_modules=r".*\.indexer\..*")；或者自己列出要包的层。
#
# 版本：peft 0.21.2，transformers 5.23.0，torch 2.13.0（CPU 版），Python 3.11。日期：2026-11-29。
#
# 【看到的输出】
#   peft 0.21.2 transformers 5.23.0 torch 2.13.0+cpu
#   deepseek_v32：LoRA 权重 70 个，三步以后没有梯度的 24 个：indexer.weights_proj indexer.wk indexer.wq_b
#   glm_moe_dsa：LoRA 权重 70 个，三步以后没有梯度的 24 个：indexer.weights_proj indexer.wk indexer.wq_b
#   hy_v4：LoRA 权重 84 个，三步以后没有梯度的 12 个：indexer.weights_proj indexer.wk indexer.wq_b
#   没有梯度的权重一点没变：True；DistributedDataParallel 的第二步：RuntimeError
#   去掉索引器以后没有梯度的：0 个；DistributedDataParallel 的第二步：没有报错
#   DeepSeek-V3.2 的真实尺寸、r=8：可训练的参数里，索引器有 11,836,928 个

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0

venv/bin/python -I - <<'PY'
import sys

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, AutoModelForCausalLM

transformers.logging.set_verbosity_error()
print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
SMALL = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 4, "intermediate_size": 96, "moe_intermediate_size": 32,
         "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
         "max_position_embeddings": 512, "pad_token_id": 0, "q_lora_rank": 16, "kv_lora_rank": 16,
         "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "index_topk": 16,
         "index_n_heads": 2, "index_head_dim": 16}
ids = torch.randint(5, 190, (2, 64), generator=torch.Generator().manual_seed(1))


def must(holds, words):
    if not holds:
        sys.exit(f"行为变了：{words}")


def tuned(kind, **options):
    default = AutoConfig.for_model(kind)
    config = AutoConfig.for_model(kind, **{k: v for k, v in SMALL.items() if hasattr(default, k)})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float()
    return get_peft_model(model, LoraConfig(target_modules="all-linear", r=4, **options)).train()


def trained(model, steps=3):
    """(LoRA 权重, 其中没有梯度的)；名字 → (训练以前, 训练以后)。"""
    lora = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in lora.items()}
    optimizer = torch.optim.AdamW(lora.values(), lr=1e-2, weight_decay=0)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
    without = {name: (before[name], weight) for name, weight in lora.items() if weight.grad is None}
    return lora, without


def in_parallel(model):
    """两步 DistributedDataParallel 之后是什么错；没有错是 None。"""
    wrapped = DistributedDataParallel(model)
    try:
        for _ in range(2):
            wrapped(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    except RuntimeError as error:
        return error


kept = []
for kind in ("deepseek_v32", "glm_moe_dsa", "hy_v4"):
    lora, without = trained(tuned(kind))
    layers = sorted({name.split("self_attn.")[1].split(".lora_")[0] for name in without})
    print(f"{kind}：LoRA 权重 {len(lora)} 个，三步以后没有梯度的 {len(without)} 个：{' '.join(layers)}")
    must(layers == ["indexer.weights_proj", "indexer.wk", "indexer.wq_b"], f"{kind} 没有梯度的是 {layers}")
    kept += [torch.equal(*pair) for pair in without.values()]

torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
error = in_parallel(tuned("deepseek_v32"))
print(f"没有梯度的权重一点没变：{all(kept)}；DistributedDataParallel 的第二步：{type(error).__name__}")
must(all(kept) and "did not receive grad" in str(error), "没有梯度的权重变了，或 DistributedDataParallel 不再报错")

aside = {"exclude_modules": r".*\.indexer\..*"}
_, without = trained(tuned("deepseek_v32", **aside))
error = in_parallel(tuned("deepseek_v32", **aside))
print(f"去掉索引器以后没有梯度的：{len(without)} 个；DistributedDataParallel 的第二步：{error or '没有报错'}")
must(not without and error is None, "去掉索引器以后还有没有梯度的")

with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("deepseek_v32"))
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", r=8))
idle = sum(weight.numel() for name, weight in model.named_parameters()
           if weight.requires_grad and ".indexer." in name)
print(f"DeepSeek-V3.2 的真实尺寸、r=8：可训练的参数里，索引器有 {idle:,} 个")
must(idle > 10_000_000, "索引器的 LoRA 参数少了")
PY
