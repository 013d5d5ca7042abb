#!/usr/bin/env bash
# papermill、nbclient 执行 notebook：前一个单元建的 asyncio 任务，等到后一个单元才印的东西，哪里也没有
#
# 【先猜】（照常理的猜测；读源码时起了疑，再运行证实）
#   第一个单元 task = asyncio.create_task(work())，第二个单元 await task。work 在第二个单元执行的时候才印的文字、
#   警告、图，会存进执行过的 notebook——不是在第二个单元下面，就是在第一个单元下面。
#
# 【实际】两个单元下面都没有：标准输出、标准错误、display 的都丢了，没有提醒，执行算成功。papermill 与 nbclient 一样。
#   同样的函数放进线程里跑就存在第二个单元下面；任务在同一个单元里建、在同一个单元里等，也都在。
#
# 【为什么】ipykernel 用 contextvars 记“现在的输出属于哪个请求”（iostream.py 的 OutStream.parent_header，display 的
#   发布者也是），任务在建立时复制了那一刻的上下文，所以输出一直标着第一个单元的请求；线程没有这份上下文，用的是最新的请求。
#   nbclient 的 _async_poll_output_msg 在执行第二个单元时，只收标着第二个单元的消息，别的拿到就扔。
#
# 【伤到谁】在 notebook 里先开好后台任务（并发调用接口、评测、下载），后面再等结果的人：定时用 papermill 跑，
#   存下来的报告里进度、警告、重试的记录整段没有，看起来像什么也没发生。只有任务的返回值和异常还在。
#
# 【怎么避开】在同一个单元里建任务、等任务；要跨单元，就让任务把要说的话放进列表或 logging 的文件，由等它的单元印出来。
#
# 版本：nbclient 0.11.0，papermill 2.7.0，ipykernel 7.4.0，jupyter_client 8.10.0，Python 3.11。日期：2026-11-29。
#
# 【看到的输出】
#   nbclient 0.11.0 papermill 2.7.0 ipykernel 7.4.0
#   nbclient，任务跨单元，第 1 个单元：早 3/3，晚 0/3，返回值没有
#   nbclient，任务跨单元，第 2 个单元：早 0/3，晚 0/3，返回值有
#   papermill，任务跨单元，第 1 个单元：早 3/3，晚 0/3，返回值没有
#   papermill，任务跨单元，第 2 个单元：早 0/3，晚 0/3，返回值有
#   对照，任务在同一个单元，第 1 个单元：早 3/3，晚 3/3，返回值有
#   对照，线程跨单元，第 1 个单元：早 3/3，晚 0/3，返回值没有
#   对照，线程跨单元，第 2 个单元：早 0/3，晚 3/3，返回值有

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet nbclient==0.11.0 papermill==2.7.0 ipykernel==7.4.0 jupyter_client==8.10.0
export HOME="$work" JUPYTER_PATH="$work/venv/share/jupyter"

venv/bin/python -I -W ignore - 2> errors <<'PY' || { tail -n 3 errors >&2; exit 1; }
import sys
from importlib.metadata import version

import nbclient
import nbformat
import papermill
from nbformat.v4 import new_code_cell, new_notebook

print("nbclient", version("nbclient"), "papermill", version("papermill"), "ipykernel", version("ipykernel"))
WORK = """import asyncio, sys, threading
from IPython.display import display


def say(when):
    print(when, "印的")
    print(when, "标准错误", file=sys.stderr)
    display(when + " 的 display")


go = asyncio.Event()


async def work():
    say("早")
    await go.wait()
    say("晚")
    return "返回值"
"""
START, WAIT = "task = asyncio.create_task(work())\nawait asyncio.sleep(0.2)", "go.set()\nprint(await task)"
THREAD = "ready = threading.Event()\nthread = threading.Thread(target=lambda: (say('早'), ready.wait(), say('晚')))\n" \
         "thread.start()"
JOIN = "ready.set()\nthread.join()\nprint('返回值')"


def with_nbclient(notebook):
    return nbclient.NotebookClient(notebook).execute()


def with_papermill(notebook):
    nbformat.write(notebook, "in.ipynb")
    papermill.execute_notebook("in.ipynb", "out.ipynb", progress_bar=False)
    return nbformat.read("out.ipynb", as_version=4)


def outputs(run, *sources):
    """第二个单元起，每个单元的输出里出现过的话。"""
    notebook = new_notebook(cells=[new_code_cell(source) for source in (WORK, *sources)],
                            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    texts = []
    for cell in run(notebook).cells[1:]:
        text = "".join(output.get("text") or output["data"]["text/plain"] for output in cell.outputs)
        texts.append({when: sum(f"{when} {what}" in text for what in ("印的", "标准错误", "的 display"))
                      for when in "早晚"} | {"返回值": "返回值" in text})
    return texts


def show(name, run, sources, expected):
    found = outputs(run, *sources)
    for number, cell in enumerate(found, 1):
        print(f"{name}，第 {number} 个单元：早 {cell['早']}/3，晚 {cell['晚']}/3，"
              f"返回值{'有' if cell['返回值'] else '没有'}")
    if [(cell["早"], cell["晚"], cell["返回值"]) for cell in found] != expected:
        sys.exit(f"行为变了：{name} 的输出是 {found}")


show("nbclient，任务跨单元", with_nbclient, (START, WAIT), [(3, 0, False), (0, 0, True)])
show("papermill，任务跨单元", with_papermill, (START, WAIT), [(3, 0, False), (0, 0, True)])
show("对照，任务在同一个单元", with_nbclient, (START + "\n" + WAIT,), [(3, 3, True)])
show("对照，线程跨单元", with_nbclient, (THREAD, JOIN), [(3, 0, False), (0, 3, True)])
PY
