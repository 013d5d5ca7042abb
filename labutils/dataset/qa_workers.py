"""许多请求一起问：限定同时几个，回复一到就存盘，不合用的再问，到了花费上限就停。

在 notebooks/01_build_dataset.ipynb 讲解。
"""

from __future__ import annotations

import asyncio

from labutils.base.errors import LabError
from labutils.dataset.api_cost import Bill, describe_money
from labutils.dataset.background import Stopped, StopSign
from labutils.dataset.qa_parse import parse_response
from labutils.dataset.qa_progress import Progress
from labutils.dataset.qa_prompts import Request
from labutils.dataset.qa_requests import Caller, CallFailed, Reply

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
