#!/usr/bin/env bash
# 自动混合精度里更新过的权重，下一次前向用的是新的吗？
#
# 【先猜】（运行之前写下）
#   autocast 会把 fp32 的权重转成 bf16 并留着，免得一次前向里转两遍；原地更新会让张量的版本号加一，
#   留着的那份认版本号，更新之后当然重新转。每个线程各用各的，互不相干。
#
# 【实际】两样都不是：
#   同一个 autocast 里，optimizer.step() 之后再做一次前向，用的还是更新以前的权重，不报错也不提醒；
#   只有退出最外层的 autocast 才清掉。而且只有一份，全进程共用：别的线程退出它自己的 autocast，
#   也会清掉这边的，于是下一次前向又用上了新的。用新的还是旧的，要看别的线程恰好走到哪里。
#   用 torch.set_autocast_enabled 在工作线程里一直开着（线程池的 initializer 里很自然的写法），永远没有“退出”。
#
# 【为什么】留着的那份以张量本身为键，不看版本号；清的时机是嵌套层数降到零，在 torch.autocast 的 __exit__ 里。
#   （由行为推断，只读过 torch/amp/autocast_mode.py，没有读 C++ 的部分。）
#
# 【伤到谁】在工作线程里一直开着自动混合精度来训练的程序；把几次“前向、更新”包进同一个 autocast 的循环。
#   损失照样在降，只是有的层慢一步；断点续训与一口气训练对不上，才看得出来。
#
# 【怎么避开】每次前向各进出一次 autocast；或者关掉缓存：torch.autocast(..., cache_enabled=False)，
#   线程里一直开着的用 torch.set_autocast_cache_enabled(False)。
#
# 版本：torch 2.13.0（CPU 版），Python 3.11。日期：2026-11-29。
#
# 【看到的输出】
#   torch 2.13.0+cpu
#   同一个 autocast 里，更新前后两次前向的输出相同：True；退出再进，才是新的：True
#   关掉缓存，更新前后两次前向的输出相同：False
#   线程里一直开着，更新之后还是旧的：True；另一个线程进出一次它自己的 autocast，变成新的：True

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 numpy==2.4.6

venv/bin/python -I - <<'PY'
import sys
import threading

import torch

print("torch", torch.__version__)
x = torch.ones(1, 8)


def must(holds, words):
    if not holds:
        sys.exit(f"行为变了：{words}")


def around_an_update(**options):
    """(更新前的输出, 同一个 autocast 里更新后的, 退出再进的)"""
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    with torch.autocast("cpu", torch.bfloat16, **options):
        before = layer(x)
        before.float().square().sum().backward()
        optimizer.step()
        inside = layer(x)
    with torch.autocast("cpu", torch.bfloat16, **options):
        return before, inside, layer(x)


before, inside, outside = around_an_update()
kept, renewed = torch.equal(before, inside), not torch.equal(inside, outside)
print(f"同一个 autocast 里，更新前后两次前向的输出相同：{kept}；退出再进，才是新的：{renewed}")
must(kept and renewed, "更新之后不再用旧的权重，或退出再进也不是新的")

before, inside, outside = around_an_update(cache_enabled=False)
print(f"关掉缓存，更新前后两次前向的输出相同：{torch.equal(before, inside)}")
must(not torch.equal(before, inside) and torch.equal(inside, outside), "关掉缓存也用旧的权重")


def leave_one():
    with torch.autocast("cpu", torch.bfloat16):
        pass


def worker():
    torch.set_autocast_dtype("cpu", torch.bfloat16)
    torch.set_autocast_enabled("cpu", True)
    layer = torch.nn.Linear(8, 8)
    first = layer(x)
    with torch.no_grad():
        layer.weight.add_(1)
    old = torch.equal(first, layer(x))
    other = threading.Thread(target=leave_one)
    other.start()
    other.join()
    seen.append((old, not torch.equal(first, layer(x))))


seen = []
thread = threading.Thread(target=worker)
thread.start()
thread.join()
[(old, new)] = seen
print(f"线程里一直开着，更新之后还是旧的：{old}；另一个线程进出一次它自己的 autocast，变成新的：{new}")
must(old and new, "线程里一直开着，旧的权重不再留着，或别的线程清不掉它")
PY
