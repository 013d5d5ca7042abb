#!/usr/bin/env bash
# torch.set_num_threads 写在一个工作线程里：这个线程变了，主线程没变，以后新开的每个线程却都变了
#
# 【先猜】（运行之前写下）
#   set_num_threads 要么是整个进程的设置（到处都变），要么像 OpenMP 的 nthreads-var，只管调用它的线程。
#   所以在一个临时的线程里设成 1，它结束以后，别的线程、以后新开的线程都还是原来的数。
#
# 【实际】两样都不是。设 4 以后，一个临时的线程里设成 1：
#   主线程还是 4，早就开着、用过 torch 的线程还是 4，以后新开的线程却都是 1。设的那个线程早已结束，也改不回来，
#   除非再设一次。
#
# 【为什么】两层各管一半：OpenMP 的线程数（nthreads-var）每个线程一份，omp_set_num_threads 只改自己那一份；
#   torch 又另记了一个全进程的“上次设的数”，每个线程第一次用到 torch 的并行时照它设自己那一份
#   （ATen/ParallelOpenMP.cpp 与 Parallel.h 里的 lazy_init_num_threads）。文档只说“设 CPU 内部并行的线程数”。
#
# 【伤到谁】用线程池分几份同时算的人：为了不互相抢核，在 initializer 里把每个线程设成“核数 ÷ 份数”。池子关掉以后，
#   主线程看着一切照旧，可后来新开的线程（网页的生成线程、后台预取、下一次的池子）都按除过的数算，再除一次就
#   更少：只是变慢，没有任何提示，查主线程的 get_num_threads() 也看不出来。
#
# 【怎么避开】用完线程池，在主线程里再 torch.set_num_threads(原来的数)：这会把“上次设的数”改回来。
#
# 版本：torch 2.13.0（OpenMP 后端），Python 3.11，Linux x86-64，CPU。日期：2026-11-28。
#
# 【看到的输出】
#   torch 2.13.0+cpu，并行后端 OpenMP
#                     主线程  早开的线程  新开的线程
#   设之前               4        4          4
#   一个线程里设成 1 以后    4        4          1

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH OMP_NUM_THREADS MKL_NUM_THREADS

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 numpy

venv/bin/python -I - <<'PY'
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import torch

backend = torch.__config__.parallel_info().split("ATen parallel backend: ")[1].split()[0]
print(f"torch {torch.__version__}，并行后端 {backend}")


def asked_in_new_thread(work=torch.get_num_threads):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


torch.set_num_threads(4)
other = ThreadPoolExecutor(1)  # 一直开着的线程
other.submit(torch.get_num_threads).result()
before = torch.get_num_threads(), other.submit(torch.get_num_threads).result(), asked_in_new_thread()


def set_to_one():
    torch.set_num_threads(1)
    return torch.get_num_threads()


worker = asked_in_new_thread(set_to_one)
after = torch.get_num_threads(), other.submit(torch.get_num_threads).result(), asked_in_new_thread()
print("                  主线程  早开的线程  新开的线程")
print(f"设之前               {before[0]}        {before[1]}          {before[2]}")
print(f"一个线程里设成 {worker} 以后    {after[0]}        {after[1]}          {after[2]}")
if (before, worker, after) != ((4, 4, 4), 1, (4, 4, 1)):
    sys.exit(f"行为变了：{before} {worker} {after}")
PY
