#!/usr/bin/env bash
# 左边补齐再给 attention_mask，同一段话的下一个词元的概率不变吗？
#
# 【先猜】（运行之前写下）
#   对所有生成模型，左边补齐并给 attention_mask，与单独送进去时一样（只差舍入）；
#   只有绝对位置的模型要 position_ids，generate 会替我算。循环的模型也会用 mask 把补齐清零。
#
# 【实际】Llama、RecurrentGemma（循环）、Mamba（状态空间）都一样，DeepSeek-V4 不一样：
#   左边补一个词元，概率就变；多补几个差得更多，补的个数正好是压缩的倍数（4、128）也不行。
#   attention_mask 和 position_ids 都给对了，带不带缓存、用不用 generate，都是这样，不报错也不提醒。
#   右边补齐一点不差。
#
# 【为什么】它把每 4 个（或 128 个）相邻的词元压成一块，从数组的第一格数起，补齐也压了进去；
#   每个词元能看哪几块却按 position_ids 算，从第一个真的词元数起，attention_mask 只盖住没有压缩的那一段：
#   先看见的是前面补齐的那几块，离自己近的真的前文压成的块反而看不见（modeling_deepseek_v4.py 的 block_bias）。
#
# 【伤到谁】成批生成、成批打分的程序：transformers 的惯例就是左边补齐，一批里短的那几行得到别的答案；
#   同一个问题，单独问与成批问不一样，批里有谁也有关系。
#
# 【怎么避开】一样长的才放进一批，或一次一个；只要打分、不要生成时用右边补齐。
#
# 版本：transformers 5.23.0，torch 2.13.0（CPU 版），Python 3.11。日期：2026-11-29。
#
# 【看到的输出】
#   transformers 5.23.0 torch 2.13.0+cpu
#   llama：generate，左边补 1、4、128 个，最多差 5e-07 个标准差
#   recurrent_gemma：generate，左边补 1、4、128 个，最多差 6e-07 个标准差
#   mamba：generate，左边补 1、4、128 个，最多差 6e-07 个标准差
#   deepseek_v4：左边补 1、4、128 个，差 2e-01、8e-01、1e+00
#   deepseek_v4：右边补 1、4、128 个，差 2e-06、2e-06、2e-06
#   deepseek_v4：左边补 128 个，generate 的第一步差 7e-01，最可能的词元相同的占 77%

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0

venv/bin/python -I - <<'PY'
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

transformers.logging.set_verbosity_error()
print("transformers", transformers.__version__, "torch", torch.__version__)
SMALL = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 1, "intermediate_size": 96, "max_position_embeddings": 512,
         "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "pad_token_id": 0}
ids = torch.randint(5, 190, (1, 40), generator=torch.Generator().manual_seed(1))
ones = torch.ones_like(ids)


def must(holds, words):
    if not holds:
        sys.exit(f"行为变了：{words}")


def random_model(kind):
    default = AutoConfig.for_model(kind)
    config = AutoConfig.for_model(kind, **{k: v for k, v in SMALL.items() if hasattr(default, k)})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).float().eval()


def padded(count, left=True):
    """(input_ids, attention_mask)，左边或右边补 count 个。"""
    pads = torch.zeros(1, count, dtype=torch.long)
    pair = lambda pad, real: torch.cat([pad, real] if left else [real, pad], 1)
    return pair(pads, ids), pair(pads, ones)


@torch.no_grad()
def logits(model, count, left=True):
    """真的词元处的 logits，形状 (40, 词表)；不用缓存，position_ids 从第一个真的词元数起。"""
    given, mask = padded(count, left)
    out = model(input_ids=given, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False).logits[0]
    return out[count:] if left else out[:len(ids[0])]


def generated(model, count):
    """generate 一个词元时的 logits；位置由它自己算。"""
    given, mask = padded(count)
    return model.generate(input_ids=given, attention_mask=mask, max_new_tokens=1, do_sample=False,
                          return_dict_in_generate=True, output_logits=True).logits[0]


def apart(a, b):
    """最大的差，以标准差为单位。"""
    return ((a - b).abs().max() / b.std()).item()


for kind in ("llama", "recurrent_gemma", "mamba"):
    model = random_model(kind)
    worst = max(apart(generated(model, count), generated(model, 0)) for count in (1, 4, 128))
    print(f"{kind}：generate，左边补 1、4、128 个，最多差 {worst:.0e} 个标准差")
    must(worst < 1e-3, f"{kind} 左边补齐也会变")

model = random_model("deepseek_v4")
alone = logits(model, 0)
for left in (True, False):
    gaps = [apart(logits(model, count, left), alone) for count in (1, 4, 128)]
    print(f"deepseek_v4：{'左' if left else '右'}边补 1、4、128 个，差 " + "、".join(f"{gap:.0e}" for gap in gaps))
    must(min(gaps) > 0.05 if left else max(gaps) < 1e-3, "左边补齐不再变，或右边补齐也变")
gap = apart(generated(model, 128), generated(model, 0))
first = (logits(model, 128).argmax(-1) == alone.argmax(-1)).float().mean().item()
print(f"deepseek_v4：左边补 128 个，generate 的第一步差 {gap:.0e}，最可能的词元相同的占 {first:.0%}")
must(gap > 0.05 and first < 1, "generate 不再变")
PY
