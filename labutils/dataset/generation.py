"""许多请求一起问：限定同时几个，回复一到就存盘，不合用的再问，到了花费上限就停。

在 notebooks/01_build_dataset.ipynb 讲解。


请大模型根据文档出题：同时问几块，回复立刻存盘，断了再运行会接着做，不重复花钱。

没有 API 密钥也能走完全程：replay 读出随仓库附带的样例回复，走同一条解析、检查的路。
在 notebooks/01_build_dataset.ipynb 讲解。一次请求怎么发见 qa_requests，进度文件见 qa_progress。
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from labutils.base.errors import LabError
from labutils.base.files import DATA, one_sentence, rel, write
from labutils.dataset import ask
from labutils.dataset.ask import Caller, CallFailed, Reply, Stopped, StopSign
from labutils.dataset.clean import Chunk
from labutils.dataset.progress import KEPT, Progress
from labutils.dataset.prompts import (
    Prompts,
    Request,
    load_prompts,
    parse_response,
    qa_requests,
    unanswerable_requests,
)
from labutils.dataset.service import (
    Bill,
    describe_money,
    estimate_cost,
    find_service,
    make_client,
    spending_cap,
)

ASKS = 3  # 回复取不出问答、或写到一半断了，一共问几次
FAILURES_IN_A_ROW = 5  # 接连这么多块都没有问成，多半是服务器停了，不再一块块地试


class Workers:
    """把 todo 里的请求都问一遍。halted 不空：中途停下的原因。"""

    def __init__(self, caller: Caller, progress: Progress, bill: Bill, stop: StopSign,
                 cap: float | None = None):
        self.caller, self.progress, self.bill, self.stop, self.cap = caller, progress, bill, stop, cap
        self.halted = ""
        self.failures_in_a_row = 0
        self.finished = self.total = 0

    async def run(self, todo: list[Request], concurrency: int) -> None:
        """同时至多 concurrency 个；停下时已经发出的会等到回来。"""
        self.total = len(todo)
        queue = iter(todo)  # 几个工人取同一个迭代器，谁空谁取
        await asyncio.gather(*(self._work(queue) for _ in range(min(concurrency, len(todo)))))

    async def _work(self, queue) -> None:
        for request in queue:
            if self.stop.raised:
                return
            try:
                await self._answer(request)
            except CallFailed as failure:
                self._failed(request, failure)
            except LabError as error:  # 存不进去：再问就是白花钱
                self._halt(str(error))
            except Stopped:
                return

    def _halt(self, reason: str) -> None:
        """停下：在等待重试的立刻醒来收工，已经发出的等到回来。"""
        self.halted = self.halted or reason
        self.stop.set()

    async def _answer(self, request: Request) -> None:
        entry = self.progress.entry(request)
        while not entry.done:
            if self.stop.raised:
                return
            reply = await self.caller.ask(request)
            self.failures_in_a_row = 0
            self.bill.add(reply.usage, request, reply.text)
            pairs, whole = judge(reply)
            last = entry.asked + 1 >= ASKS or reply.cut
            found = max([pairs, *(r["pairs"] for r in entry.replies)])
            final = whole or (last and found > 0)
            self.progress.reply(request, reply.text, reply.usage, pairs, final)
            self._check_cap()
            if last and not final:
                self.progress.fail(request, why_unusable(reply), unusable=True)
                break
        self._say()

    def _failed(self, request: Request, failure: CallFailed) -> None:
        try:
            self.progress.fail(request, failure.reason)
        except LabError as error:
            return self._halt(str(error))
        self.failures_in_a_row += 1
        if failure.fatal or self.failures_in_a_row >= FAILURES_IN_A_ROW:
            self._halt(failure.reason)
        self._say()

    def _check_cap(self) -> None:
        if self.cap is not None and self.bill.money is not None and self.bill.money > self.cap:
            spent = describe_money(self.bill.money, self.bill.price)
            self._halt(f"这次运行已花{spent}，超过上限 {self.cap:.4g}，停下了；要接着做请加大上限")

    def _say(self) -> None:
        """每做完约十分之一说一句；太密了刷屏，太疏了像死机。"""
        self.finished += 1
        step = max(1, self.total // 10)
        if self.finished % step == 0 or self.finished == self.total:
            print(f"  {self.finished}/{self.total}", flush=True)


def judge(reply: Reply) -> tuple[int, bool]:
    """回复里取得出几条；是否完整（没有写到一半断掉的，或明说没有可问的）。"""
    pairs, problems = parse_response(reply.text)
    cut = any("断" in problem["reason"] for problem in problems)
    nothing_to_ask = not pairs and not problems
    return len(pairs), (bool(pairs) and not cut) or nothing_to_ask


def why_unusable(reply: Reply) -> str:
    """为什么一条也取不出。"""
    if reply.cut:
        return "回复到了服务器的长度上限，一条也没写完；请减小 chunk_size，或关掉模型的思考"
    _, problems = parse_response(reply.text)
    return f"问了 {ASKS} 次，回复都用不了：{problems[0]['reason'] if problems else '没有问答'}"


@dataclass
class Generation:
    """一次出题的结果；files 与 chunks 一一对应，没有问成的块不在里面。"""

    files: list[Path] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    unanswerable_files: list[Path] = field(default_factory=list)
    failures: list[dict] = field(default_factory=list)
    bill: Bill | None = None


def generate(
    chunks: list[Chunk],
    model: str = "",
    out_dir: str | Path = "output/lab",
    prompts: Prompts | None = None,
    *,
    preset: str = "",
    concurrency: int = 4,
    max_cost: float | None = None,
    confirm: Callable[[str], bool] | None = None,
    retry_failed: bool = False,
    unanswerable: int = 0,
) -> Generation:
    """每块问一次，回复追加到 out_dir/responses/progress.jsonl，另写成 NNN.txt 供人看。

    preset 是 configs/api_presets.yaml 里的名字；不写就用 OPENAI_BASE_URL、OPENAI_API_KEY。
    concurrency：同时几个请求。max_cost：最多花多少（预设写的币种），估算或实际超过就停下；
    给了 confirm（如命令行里的“继续吗”）就先问它。unanswerable：另要几个“没有写明”的问题。
    再次运行时，已有回复的块不再调用；retry_failed 只再问上次失败的块。
    密钥、模型名、余额、磁盘有问题，超过花费上限，或一块也没问成时抛 LabError，已收到的都还在。
    """
    if concurrency < 1 or unanswerable < 0:
        raise LabError(f"同时的请求数 {concurrency} 至少是 1，“没有写明”的问题数 {unanswerable} 不能小于 0。")
    prompts = prompts or load_prompts()
    service = find_service(preset, model)
    requests = [*qa_requests(chunks, prompts), *unanswerable_requests(chunks, unanswerable, prompts)]
    folder = Path(out_dir) / "responses"
    with Progress(folder / "progress.jsonl", service.model) as progress:
        todo = _todo(requests, progress, retry_failed)
        bill, expected = Bill(service.price), estimate_cost(todo, service.price)
        _announce(requests, todo, progress, expected)
        halted = ""
        if todo:
            cap = spending_cap(service, expected, max_cost, confirm)
            client = make_client(service, prompts.timeout_seconds)
            try:
                halted = _ask_all(client, service, todo, progress, bill, cap, concurrency)
            finally:  # Ctrl-C 也要留下结果和一句总结
                result = _write(folder, requests, progress, bill)
                _summarize(result, requests, progress, folder)
        else:
            result = _write(folder, requests, progress, bill)
    if halted:
        raise LabError(f"{halted}；已收到的回复都在 {rel(folder)}，改好后再运行会接着做。")
    if not result.files:
        reason = result.failures[0]["reason"] if result.failures else "没有可问的文字"
        raise LabError(f"一块也没有问成：{reason}；改好后加上 --retry-failed 再运行。")
    return result


def _todo(requests: list[Request], progress: Progress, retry_failed: bool) -> list[Request]:
    """还要问的。付过钱却用不了的，只有 retry_failed 才再问；没付钱的失败，再运行就会再问。"""
    todo, seen = [], set()
    for request in requests:
        entry, name = progress.entry(request), (request.chunk_hash, request.prompt_hash)
        paid_in_vain = bool(entry.failure) and entry.unusable
        wanted = bool(entry.failure) if retry_failed else not paid_in_vain
        if not entry.done and wanted and name not in seen:
            todo.append(request)
            seen.add(name)  # 一字不差的两块只问一次
    return todo


def _announce(
    requests: list[Request], todo: list[Request], progress: Progress, expected: Bill
) -> None:
    done = sum(progress.entry(request).done for request in requests)
    failed = sum(bool(progress.entry(r).failure and not progress.entry(r).done) for r in requests)
    if progress.torn:
        print(f"提醒：{rel(progress.path)} 有 {progress.torn} 行没写完（上次中断时留下的），已略过。")
    print(f"共 {len(requests)} 次提问，已有 {done} 次的回复，{failed} 次上次失败；还要调用 {len(todo)} 次。")
    if todo:
        print(f"估算：{expected}。")
    elif failed:
        print("只剩上次失败的，加上 --retry-failed（notebook 里 retry_failed=True）可以再问。")


def _ask_all(client, service, todo, progress, bill, cap, concurrency) -> str:
    """问完 todo；返回中途停下的原因，顺利就是空的。"""
    workers: list[Workers] = []

    async def work(stop: ask.StopSign) -> None:
        async with client:
            caller = Caller(client, service, stop.sleep)
            workers.append(Workers(caller, progress, bill, stop, cap))
            await workers[0].run(todo, concurrency)

    ask.run(work)
    return workers[0].halted


def _write(
    folder: Path, requests: list[Request], progress: Progress, bill: Bill
) -> Generation:
    """把最好的回复写成一个个文件，失败的写进 failures.jsonl；都由进度文件得来，可以随时重写。"""
    result = Generation(bill=bill)
    for request in requests:
        entry = progress.entry(request)
        if entry.usable and request.kind == "qa":
            result.files.append(_save(folder / f"{request.number:03d}.txt", entry.best))
            result.chunks.append(request.chunk)
        elif entry.usable:
            path = folder / f"unanswerable-{request.number:03d}.txt"
            result.unanswerable_files.append(_save(path, entry.best))
        if entry.failure and not entry.done:
            result.failures.append({"kind": request.kind, "chunk": request.number,
                                    "pages": list(request.chunk.pages), "reason": entry.failure})
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in result.failures]
    _save(folder / "failures.jsonl", "".join(lines))
    return result


def _save(path: Path, text: str) -> Path:
    """中途断电不会留下半个文件；写不进去时抛 LabError。"""
    with one_sentence(path, KEPT):
        write(path, text.encode("utf-8", errors="replace"))
    return path


def _summarize(
    result: Generation, requests: list[Request], progress: Progress, folder: Path
) -> None:
    done = sum(progress.entry(request).done for request in requests)
    left = len(requests) - done - len(result.failures)
    parts = [f"问成 {done} 次"]
    parts += [f"失败 {len(result.failures)} 次（原因见 {rel(folder / 'failures.jsonl')}，"
              "加上 --retry-failed 只再问这些）"] if result.failures else []
    parts += [f"还没问 {left} 次（再运行会接着做）"] if left else []
    print(f"{'，'.join(parts)}。实际：{result.bill}。", flush=True)


def replay(folder: str | Path = DATA / "sample_responses") -> list[Path]:
    """没有密钥时用：返回附带的样例回复文件，并用一行说明这是回放。"""
    paths = sorted(Path(folder).glob("*.txt"))
    if not paths:
        raise LabError(f"{rel(folder)} 里没有样例回复（*.txt），请从仓库恢复，或指定 API 模型。")
    print(f"没有调用 API：回放 {rel(folder)} 里的 {len(paths)} 份样例回复。")
    return paths
