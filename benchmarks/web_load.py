"""很多人同时用对话网页会怎样：``python benchmarks/web_load.py 适配器文件夹``。

起一个真的网页（自带小模型加适配器），让 40 个人各自不停地问 60 秒，每个回答与 inference.answer
单独回答的逐字相比；再换成“一次只答一个”的做法在同样的条件下量一遍。记下首字时间、每秒词元数、
前后内存。网页与提问的程序在同一台机器上抢同样的核。结果写进 benchmarks/web_load.json 与 .md。
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import psutil

import labutils  # noqa: F401  先设好环境变量

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from web_visitor import Refused, Visitor, functions  # noqa: E402

QUESTIONS = 60  # 轮流问这么多个不同的问题
WAYS = {"batch": "连续拼批", "single": "一次一个"}
SERVERS = [*WAYS, "endless"]  # endless 给测试用：同时只答 8 个，max_new_tokens 设到最大的永远说不完
LONGEST = 512


def serve(model_path: str, way: str) -> None:
    """在这个进程里打开网页，打印网址；之后每收到一行就说出正在拼批的行数，直到标准输入关闭。"""
    from labutils.demo import batching, guard
    from labutils.demo.server import launch
    from labutils.models import generate, loader

    tables = _watch(batching.Table)
    guard.Visitors.check = lambda *a: None  # 一个人问得比频率上限快得多
    if way == "endless":
        _never_end(batching.Row)
        batching.MAX_ROWS = 8
    model, tokenizer = loader.load(model_path)
    options = {"stream": partial(generate.stream, model, tokenizer)} if way == "single" else {}
    with launch(model, tokenizer, rows=(), **options) as demo:
        print("URL", demo.url, flush=True)
        for _ in sys.stdin:
            print(sum(len(table.rows) for table in tables), flush=True)


def _watch(kind: type) -> weakref.WeakSet:
    """从现在起造出来的、还活着的 kind。"""
    alive, made = weakref.WeakSet(), kind.__init__

    def init(self, *args):
        made(self, *args)
        alive.add(self)

    kind.__init__ = init
    return alive


def _never_end(row_kind: type) -> None:
    """max_new_tokens 设到最大的回答永远说不完，只能被停止。"""
    made = row_kind.__init__

    def init(self, *args):
        made(self, *args)
        if self.limit == LONGEST:
            self.stops, self.limit = [], 10**9

    row_kind.__init__ = init


class Server:
    """另一个进程里的网页。"""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.url = next(line.split()[1] for line in process.stdout if line.startswith("URL"))

    def memory(self) -> float:
        """占用的内存，MiB。"""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def rows(self) -> int:
        """现在正在拼批的行数。"""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def running(model_path: str, way: str = "batch"):
    """开一个网页，离开时关掉。"""
    process = subprocess.Popen(
        [sys.executable, __file__, str(model_path), "--serve", way], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    try:
        yield Server(process)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def references(model_path: str, count: int | None = None) -> dict[str, tuple[str, int]]:
    """每个问题单独回答的结果（页面上显示的样子）与它的词元数。"""
    from labutils.base import files
    from labutils.dataset.rows import load_qa
    from labutils.demo.engine import show_answer
    from labutils.models import generate, loader

    model, tokenizer = loader.load(model_path)
    questions = [row["question"] for row in load_qa(files.DATA / "qa.jsonl")][:count]
    replies = generate.answer(model, tokenizer, questions, batch_size=1)
    sizes = [len(tokenizer.encode(reply, add_special_tokens=False)) for reply in replies]
    return dict(zip(questions, zip(map(show_answer, replies), sizes, strict=True), strict=True))


async def crowd(url: str, people: int, seconds: float, questions: list[str]) -> tuple[list, float]:
    """people 个人各开一个标签页，各自不停地问 seconds 秒，最后一个问题等到答完。

    返回 ([(问题, 首字秒数, 回答, 错误)], 一共的秒数)。
    """
    limits = httpx.Limits(max_connections=None)
    log: list = []
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        actions, began = await functions(client), time.monotonic()
        jobs = [_chatter(Visitor(client, actions), i, questions, began + seconds, log)
                for i in range(people)]
        await asyncio.gather(*jobs)
        return log, time.monotonic() - began


async def _chatter(visitor: Visitor, number: int, questions: list[str], until: float, log: list) -> None:
    turn = number * 7
    while time.monotonic() < until:
        question = questions[turn % len(questions)]
        turn += 1
        try:
            await visitor.press("clear")  # 每次都从头问，才能与单独回答相比
            reply = await visitor.ask(question)
            log.append((question, reply.first, reply.text, ""))
        except (httpx.HTTPError, Refused) as error:
            log.append((question, None, "", f"{type(error).__name__}: {error}"))


def measure(way: str, model_path: str, people: int, seconds: float, replies: dict) -> dict:
    """起一个网页，量一种做法。"""
    with running(model_path, way) as server:
        asyncio.run(crowd(server.url, people, min(10, seconds), list(replies)))  # 热身：线程、缓存先到位
        time.sleep(1)
        before = server.memory()
        log, took = asyncio.run(crowd(server.url, people, seconds, list(replies)))
        time.sleep(2)
        left = {"rows_left": server.rows()} if way == "batch" else {}
        return summary(log, took, replies) | left | {
            "memory_before_mib": round(before), "memory_after_mib": round(server.memory())}


def summary(log: list, took: float, replies: dict) -> dict:
    good = [(q, first) for q, first, text, error in log if not error and text == replies[q][0]]
    firsts = sorted(first for _, first in good)
    return {
        "asked": len(log), "seconds": round(took, 1),
        "errors": sum(bool(error) for *_, error in log),
        "wrong": sum(not error and text != replies[q][0] for q, _, text, error in log),
        "first_text_median_s": round(statistics.median(firsts), 2) if firsts else None,
        "first_text_p95_s": round(firsts[int(0.95 * (len(firsts) - 1))], 2) if firsts else None,
        "tokens_per_second": round(sum(replies[q][1] for q, _ in good) / took, 1),
        "examples_of_errors": sorted({error for *_, error in log if error})[:3],
    }


def write(result: dict) -> None:
    (HERE / "web_load.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", "utf-8")
    rows = [("问题数", "asked"), ("用时（秒）", "seconds"), ("出错", "errors"),
            ("与单独回答不同", "wrong"), ("首字时间中位数（秒）", "first_text_median_s"),
            ("首字时间 95 分位（秒）", "first_text_p95_s"), ("每秒词元数", "tokens_per_second"),
            ("内存，之前（MiB）", "memory_before_mib"), ("内存，之后（MiB）", "memory_after_mib")]
    lines = ["# 很多人同时用对话网页", "",
             f"{result['people']} 个人同时问 {result['for_seconds']:g} 秒，{result['cores']} 个核"
             "（提问的程序也在上面），自带小模型加适配器，贪心解码。", "",
             "每个人一个标签页，走的是页面自己的请求；时间到了以后，已经问的都等到答完。",
             "由 `python benchmarks/web_load.py 适配器文件夹` 写出。", "",
             "| | " + " | ".join(WAYS.values()) + " |", "|---|" + "---|" * len(WAYS)]
    lines += [f"| {title} | " + " | ".join(str(result[way][key]) for way in WAYS) + " |"
              for title, key in rows]
    (HERE / "web_load.md").write_text("\n".join(lines) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--serve", choices=SERVERS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.model, options.serve)
    replies = references(options.model, QUESTIONS)
    result = {"people": options.people, "for_seconds": options.seconds, "cores": os.cpu_count()}
    for way in WAYS:
        result[way] = measure(way, options.model, options.people, options.seconds, replies)
        print(WAYS[way], json.dumps(result[way], ensure_ascii=False), flush=True)
    write(result)


if __name__ == "__main__":
    main()
