#!/usr/bin/env bash
# CPU 上用 bf16 训练，每一批的词元数都不同：要紧吗？
#
# 【先猜】（运行之前写下）
#   一个线性层，输入的行数从 300 变到 599，各乘一次。行数差不多，时间也差不多；乘完就放掉，
#   内存不增加。再把同样的行数各乘一次，时间不变。fp32 与 bf16 都是这样。
#
# 【实际】fp32 是这样。bf16 每遇到一种没见过的行数，慢一到三倍，进程的内存还多占 1 MiB 多，乘完不还：
#   300 种行数，只这一个层就是几百 MiB。第二次遇到同样的行数就快了，内存也不再增加。
#   把行数凑成 32 的倍数（只有十种），头一次就快，内存几乎不增加。
#
# 【为什么】fp32 的乘法交给 MKL，bf16 的交给 oneDNN。oneDNN 按“做什么、什么形状”现准备一个对象，准备好的留着，
#   PyTorch 又留着一层，两处各有份数的上限，一份有多大不算在内。慢也慢在留：两处都不留
#   （ONEDNN_PRIMITIVE_CACHE_CAPACITY=0、LRU_CACHE_CAPACITY=1），内存不增加，头一次也不慢；只关一处没有用。
#   （ONEDNN_VERBOSE=2 看得到每种行数一次 create:cache_miss；其余由试验推断，没有读源码。）
#
# 【伤到谁】在 CPU 上用 torch.autocast("cpu", torch.bfloat16) 或 bf16 权重训练，样本长短不一、不补到固定长度
#   （首尾相接、按长短分组、一条一批）的人：前向与两种梯度各是一种形状，再乘上层的种类，留的份数很快不够，
#   旧的被挤掉，步步都在重新准备。一个 8 百万参数的 LoRA 微调，一步的 CPU 时间多了三四成，
#   内存从约 0.8 GiB 变成 1.7 GiB。看起来像“bf16 没有快多少，还更占内存”。
#
# 【怎么避开】把每批的词元数凑成 32 的倍数（末尾添几个不算损失的词元），或补到几种固定的长度。
#
# 【怎么量】一个线程，256 → 1536 的线性层，CPU 时间；内存是 /proc/self/statm 的常驻大小。
#   没有 avx512_bf16 的 CPU 走的是另一条路，不比，说明之后退出。
# 版本：torch 2.13.0（CPU 版，oneDNN 3.12.0），Python 3.11，AMD EPYC。日期：2026-11-29。
#
# 【看到的输出】
#   torch 2.13.0+cpu
#   torch.float32：300 种行数，头一次 3.52 毫秒，多占 5 MiB；再来一次 3.50 毫秒，多占 0 MiB
#   torch.bfloat16：300 种行数，头一次 3.37 毫秒，多占 374 MiB；再来一次 0.80 毫秒，多占 0 MiB
#   bf16，凑成 32 的倍数：0.94 毫秒，多占 16 MiB
#   两处都不留：
#   torch.float32：300 种行数，头一次 3.29 毫秒，多占 3 MiB；再来一次 3.27 毫秒，多占 0 MiB
#   torch.bfloat16：300 种行数，头一次 0.92 毫秒，多占 0 MiB；再来一次 0.92 毫秒，多占 0 MiB
#   bf16，凑成 32 的倍数：0.85 毫秒，多占 3 MiB

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH ONEDNN_PRIMITIVE_CACHE_CAPACITY LRU_CACHE_CAPACITY

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 numpy==2.4.6

cat > lengths.py <<'PY'
import os
import sys
import time

import torch

torch.set_num_threads(1)
lengths = list(range(300, 600))


def resident():
    """进程现在占多少内存，MiB。"""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def spent(dtype, lengths):
    """一个 256 → 1536 的线性层，各种行数乘一次：(平均几毫秒，多占几 MiB)。"""
    weight, states = torch.ones(1536, 256, dtype=dtype), torch.ones(800, 256, dtype=dtype)
    for length in (640, 704):  # 预热
        torch.nn.functional.linear(states[:length], weight)
    held, began = resident(), time.process_time()
    for length in lengths:
        torch.nn.functional.linear(states[:length], weight)
    return (time.process_time() - began) / len(lengths) * 1000, resident() - held


if not torch.cpu.get_capabilities().get("avx512_bf16"):
    sys.exit("这个 CPU 没有 avx512_bf16 的指令，没有可比的。")
rounded = spent(torch.bfloat16, [-(-length // 32) * 32 for length in lengths])
found = {}
for dtype in (torch.float32, torch.bfloat16):
    found[dtype] = first, again = spent(dtype, lengths), spent(dtype, lengths)
    print(f"{dtype}：{len(lengths)} 种行数，头一次 {first[0]:.2f} 毫秒，多占 {first[1]:.0f} MiB；"
          f"再来一次 {again[0]:.2f} 毫秒，多占 {again[1]:.0f} MiB")
print(f"bf16，凑成 32 的倍数：{rounded[0]:.2f} 毫秒，多占 {rounded[1]:.0f} MiB")
first, again = found[torch.bfloat16]
if os.environ.get("LRU_CACHE_CAPACITY"):
    if first[1] > 30:
        sys.exit("行为变了：两处都不留了，内存还是增加。")
    sys.exit(0)
if first[1] < 150 or first[0] < 1.3 * again[0]:
    sys.exit("行为变了：没见过的行数不再又慢又占内存。")
if max(again[1], rounded[1], found[torch.float32][0][1]) > 30:
    sys.exit("行为变了：见过的行数、凑成倍数的、fp32 的，内存也增加。")
PY
venv/bin/python -c 'import torch; print("torch", torch.__version__)'
venv/bin/python -I lengths.py
echo "两处都不留："
ONEDNN_PRIMITIVE_CACHE_CAPACITY=0 LRU_CACHE_CAPACITY=1 venv/bin/python -I lengths.py
