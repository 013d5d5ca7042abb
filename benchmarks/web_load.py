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
from pathlib import Path

import httpx
import psutil

import labutils  # noqa: F401  先设好环境变量

HERE = Path(__file__).parent
WAYS = {"batch": "连续拼批", "single": "一次一个"}


def serve(adapter: str, way: str) -> None:
    """在这个进程里打开网页，打印网址，直到标准输入关闭。"""
    from labutils import inference, models, web_demo

    model, tokenizer = models.load(adapter)
    options = {"stream": inference.stream, "parallel": 1} if way == "single" else {}
    with web_demo.launch(model, tokenizer, rows=(), **options) as demo:
        print("URL", demo.url, flush=True)
        sys.stdin.read()


def references(adapter: str) -> tuple[dict[str, str], dict[str, int]]:
    """每个问题单独回答的结果，以及它有多少词元。"""
    from labutils import inference, models, paths, qa_dataset

    model, tokenizer = models.load(adapter)
    questions = [row["question"] for row in qa_dataset.load_qa(paths.DATA / "qa.jsonl")]
    replies = dict(zip(questions, inference.answer(model, tokenizer, questions, batch_size=1), strict=True))
    return replies, {q: len(tokenizer.encode(r, add_special_tokens=False)) for q, r in replies.items()}


async def ask(client: httpx.AsyncClient, question: str) -> tuple[float | None, str, str]:
    """问一次，返回 (首字秒数, 最后的回答, 错误)。"""
    began, first, last = time.perf_counter(), None, ""
    sent = await client.post("/gradio_api/call/chat", json={"data": [question, "微调后", []]})
    if sent.status_code != 200:
        return None, "", f"{sent.status_code} {sent.text[:80]}"
    event = ""
    async with client.stream("GET", f"/gradio_api/call/chat/{sent.json()['event_id']}") as lines:
        async for line in lines.aiter_lines():
            if line.startswith("event:"):
                event = line[6:].strip()
            elif line.startswith("data:") and event == "error":
                return first, last, line[:200]
            elif line.startswith("data:") and event in ("generating", "complete"):
                said = json.loads(line[5:])
                if said and said[0]:
                    first = first or time.perf_counter() - began
                    last = said[0]
            if event == "complete" and line.startswith("data:"):
                return first, last, ""
    return first, last, "没有等到结束"


async def chatter(client, number: int, questions: list[str], until: float, log: list) -> None:
    """一个人：一个接一个地问，直到时间到；最后一个问题等到答完。"""
    turn = number * 7
    while time.monotonic() < until:
        question = questions[turn % len(questions)]
        turn += 1
        try:
            log.append((question, *await ask(client, question)))
        except httpx.HTTPError as error:
            log.append((question, None, "", f"{type(error).__name__}: {error}"))


async def crowd(url: str, people: int, seconds: float, questions: list[str]) -> tuple[list, float]:
    limits = httpx.Limits(max_connections=None)
    log: list = []
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        began = time.monotonic()
        jobs = [chatter(client, i, questions, began + seconds, log) for i in range(people)]
        await asyncio.gather(*jobs)
        return log, time.monotonic() - began


def measure(way: str, adapter: str, people: int, seconds: float, replies: dict, sizes: dict) -> dict:
    """起一个网页，量一种做法。"""
    process = subprocess.Popen([sys.executable, __file__, adapter, "--serve", way], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    try:
        url = next(line.split()[1] for line in process.stdout if line.startswith("URL"))
        memory = psutil.Process(process.pid).memory_info
        asyncio.run(crowd(url, people, 5, list(replies)))  # 热身：线程、缓存先到位
        time.sleep(2)
        before = memory().rss
        log, took = asyncio.run(crowd(url, people, seconds, list(replies)))
        time.sleep(5)
        after = memory().rss
    finally:
        process.stdin.close()
        process.wait(30)
    return summary(log, took, replies, sizes) | {
        "memory_before_mib": round(before / 2**20), "memory_after_mib": round(after / 2**20)}


def summary(log: list, took: float, replies: dict, sizes: dict) -> dict:
    good = [(q, first) for q, first, last, error in log if not error and last == replies[q]]
    firsts = sorted(first for _, first in good)
    return {
        "asked": len(log), "seconds": round(took, 1),
        "errors": sum(bool(error) for *_, error in log),
        "wrong": sum(not error and last != replies[q] for q, _, last, error in log),
        "first_text_median_s": round(statistics.median(firsts), 2) if firsts else None,
        "first_text_p95_s": round(firsts[int(0.95 * (len(firsts) - 1))], 2) if firsts else None,
        "tokens_per_second": round(sum(sizes[q] for q, _ in good) / took, 1),
        "examples_of_errors": sorted({error for *_, error in log if error})[:3],
    }


def write(result: dict) -> None:
    (HERE / "web_load.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", "utf-8")
    rows = [("问题数", "asked"), ("出错", "errors"), ("与单独回答不同", "wrong"),
            ("首字时间中位数（秒）", "first_text_median_s"), ("首字时间 95 分位（秒）", "first_text_p95_s"),
            ("每秒词元数", "tokens_per_second"), ("内存，之前（MiB）", "memory_before_mib"),
            ("内存，之后（MiB）", "memory_after_mib")]
    lines = ["# 很多人同时用对话网页", "",
             f"{result['people']} 个人同时问 {result['for_seconds']:g} 秒，{result['cores']} 个核，"
             "自带小模型加适配器，贪心解码。由 `python benchmarks/web_load.py 适配器文件夹` 写出。", "",
             "| | " + " | ".join(WAYS.values()) + " |", "|---|" + "---|" * len(WAYS)]
    lines += [f"| {title} | " + " | ".join(str(result[way][key]) for way in WAYS) + " |"
              for title, key in rows]
    (HERE / "web_load.md").write_text("\n".join(lines) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter")
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--serve", choices=list(WAYS))
    options = parser.parse_args()
    if options.serve:
        return serve(options.adapter, options.serve)
    replies, sizes = references(options.adapter)
    result = {"people": options.people, "for_seconds": options.seconds, "cores": os.cpu_count()}
    for way in WAYS:
        result[way] = measure(way, options.adapter, options.people, options.seconds, replies, sizes)
        print(WAYS[way], json.dumps(result[way], ensure_ascii=False), flush=True)
    write(result)


if __name__ == "__main__":
    main()
