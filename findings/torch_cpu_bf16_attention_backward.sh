#!/usr/bin/env bash
# CPU 有 bf16 的指令：短序列的 scaled_dot_product_attention 用 bf16 训练，比 fp32 快吗？
#
# 【先猜】（运行之前写下）
#   有 AVX512-BF16 的 CPU 上，bf16 的矩阵乘法快一倍多；融合的注意力多半也是两次矩阵乘法，
#   前向加反向应当比 fp32 快，至少不慢；自己写三行（乘、softmax、乘）要存下整个注意力矩阵，只会更慢。
#
# 【实际】反过来：对话常见的长度（40–120 个词元）上，融合的注意力 bf16 前向加反向比 fp32 慢一倍到三倍，
#   慢在反向；自己写的三行，同样的 bf16、同样的结果，反而快一到两倍。
#
# 【为什么】反向的核一块一块地算，每块都把 bf16 转成 fp32、算完再转回来，序列短的时候块小，
#   转换和小矩阵乘法的开销盖过了省下的。三行的写法交给 torch.bmm，整个矩阵一次算完。（由计时推断，没有读到源码。）
#
# 【伤到谁】在 CPU 上用自动混合精度（torch.autocast("cpu", torch.bfloat16)）训练小模型的人：线性层快了，
#   注意力慢了，合起来比该有的慢两三成；看总时间看不出慢在哪里，因为确实比 fp32 快了一点。
#   transformers 缺省的 attn_implementation="sdpa" 就是这条路。
#
# 【怎么避开】注意力单独用 fp32 算（关掉 autocast，q、k、v 先 .float()），或用 attn_implementation="eager"。
#
# 【怎么量】一个线程，批 1、4 个头、每头 64 维、因果遮罩；前向加反向各 200 次，五轮取最快的一轮（CPU 时间）。
#   没有 avx512_bf16 的 CPU 上 bf16 的矩阵乘法本来就慢，不比，说明之后退出。
# 版本：torch 2.13.0（CPU 版），Python 3.11，AMD EPYC。日期：2026-11-28。
#
# 【看到的输出】
#   torch 2.13.0+cpu
#   40 个词元：融合 fp32 0.15 毫秒，融合 bf16 0.61 毫秒，三行 bf16 0.28 毫秒，两种 bf16 的结果最多差 0.016
#   80 个词元：融合 fp32 0.39 毫秒，融合 bf16 1.11 毫秒，三行 bf16 0.35 毫秒，两种 bf16 的结果最多差 0.016
#   120 个词元：融合 fp32 0.79 毫秒，融合 bf16 1.67 毫秒，三行 bf16 0.54 毫秒，两种 bf16 的结果最多差 0.016

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 numpy==2.4.6

venv/bin/python -I - <<'PY'
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

torch.set_num_threads(1)


def fused(q, k, v):
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def written_out(q, k, v):
    """乘、softmax、乘。"""
    size = q.shape[-2]
    hidden = torch.full((size, size), -torch.inf, dtype=q.dtype).triu(1)
    return ((q * q.shape[-1] ** -0.5) @ k.mT + hidden).softmax(-1) @ v


def made(size, dtype):
    torch.manual_seed(0)
    return [torch.randn(1, 4, size, 64).to(dtype).requires_grad_() for _ in range(3)]


def milliseconds(attention, size, dtype):
    states, best = made(size, dtype), float("inf")
    upstream = torch.ones(1, 4, size, 64, dtype=dtype)
    for _ in range(5):
        began = time.process_time()
        for _ in range(200):
            torch.autograd.grad(attention(*states), states, upstream)
        best = min(best, time.process_time() - began)
    return best / 200 * 1000


print("torch", torch.__version__)
if not torch.cpu.get_capabilities().get("avx512_bf16"):
    sys.exit("这个 CPU 没有 avx512_bf16 的指令，没有可比的。")
for size in (40, 80, 120):
    states = made(size, torch.bfloat16)
    apart = (fused(*states) - written_out(*states)).abs().max().item()
    full, half = (milliseconds(fused, size, dtype) for dtype in (torch.float32, torch.bfloat16))
    plain = milliseconds(written_out, size, torch.bfloat16)
    print(f"{size} 个词元：融合 fp32 {full:.2f} 毫秒，融合 bf16 {half:.2f} 毫秒，"
          f"三行 bf16 {plain:.2f} 毫秒，两种 bf16 的结果最多差 {apart:.3f}")
    if half < 1.3 * full:
        sys.exit(f"行为变了：{size} 个词元时，融合的 bf16 不再比 fp32 慢三成以上。")
    if half < 1.5 * plain or apart > 0.05:
        sys.exit(f"行为变了：{size} 个词元时，三行的写法不再比融合的快一半，或结果不同了。")
PY
