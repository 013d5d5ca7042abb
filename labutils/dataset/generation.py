"""请大模型根据文档出题：同时问几块，回复立刻存盘，断了再运行会接着做，不重复花钱。

进度文件每收到一个回复就在末尾追加一行（JSON Lines），任何时候被杀掉都不丢已付钱的回复；一行属于哪一问，看块的
指纹、提示词的指纹和模型。文件只增不改，半行读的时候略过。一次请求怎么发见 ask，讲解见 notebook 01。
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from labutils.base.errors import LabError
from labutils.base.files import one_sentence, read_rows, rel, sentence, write, write_json_lines
from labutils.dataset.ask import Caller, CallFailed, Reply, together
from labutils.dataset.prompts import Chunk, Prompts, Request, load_prompts, qa_requests, unanswerable_requests
from labutils.dataset.service import Bill, estimate_cost, find_service, make_client, spending_cap

ASKS = 3  # 回复取不出问答、或写到一半断了，一共问几次
KEPT = "，已收到的回复都还在，会接着做"
FAILURES_IN_A_ROW = 5  # 接连这么多块都没有问成，多半是服务器停了，不再一块块地试


@dataclass
class Generation:
    """一次出题的结果；files 与 chunks 一一对应，没有问成的块不在里面。"""

    files: list[Path] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    unanswerable_files: list[Path] = field(default_factory=list)
    failures: list[dict] = field(default_factory=list)
    bill: Bill | None = None


def generate(
    chunks: list[Chunk], model: str = "", out_dir: str | Path = "output/lab", prompts: Prompts | None = None,
    *, preset: str = "", concurrency: int = 4, max_cost: float | None = None,
    confirm: Callable[[str], bool] | None = None, retry_failed: bool = False, unanswerable: int = 0,
) -> Generation:
    """每块问一次，回复追加到 out_dir/responses/progress.jsonl，另写成 NNN.txt 供人看。

    preset 是 configs/api_presets.yaml 里的名字；不写就用 OPENAI_BASE_URL、OPENAI_API_KEY。
    concurrency：同时几个请求。max_cost：最多花多少（预设的币种），估算或实际超过就停下，有 confirm 就先问它。
    unanswerable：另要几个“没有写明”的问题。已有回复的块不再调用；retry_failed 只再问上次失败的块。
    密钥、模型名、余额、磁盘有问题，超过花费上限，或一块也没问成时抛 LabError，已收到的都还在。
    """
    if concurrency < 1 or unanswerable < 0:
        raise LabError(f"同时的请求数 {concurrency} 至少是 1，“没有写明”的问题数 {unanswerable} 不能小于 0。")
    prompts = prompts or load_prompts()
    service = find_service(preset, model)
    requests = [*qa_requests(chunks, prompts), *unanswerable_requests(chunks, unanswerable, prompts)]
    folder, halted = Path(out_dir) / "responses", ""
    with Progress(folder / "progress.jsonl", service.model) as progress:
        todo = _todo(requests, progress, retry_failed)
        bill, expected = Bill(service.price), estimate_cost(todo, service.price)
        _announce(requests, todo, progress, expected)
        if todo:
            cap = spending_cap(service, expected, max_cost, confirm)
            caller = Caller(make_client(service, prompts.timeout_seconds), service)
            try:
                halted = Workers(caller, todo, progress, bill, cap).run(concurrency)
            finally:  # Ctrl-C 也要留下结果和一句总结
                result = _write(folder, requests, progress, bill)
                _summarize(result, requests, progress, folder)
        else:
            result = _write(folder, requests, progress, bill)
    if halted:
        raise LabError(f"{halted}；已收到的回复都在 {rel(folder)}，改好后再运行会接着做。")
    if not result.files:
        raise LabError(_nothing_asked(result.failures, retry_failed))
    return result


def _nothing_asked(failures: list[dict], retry_failed: bool) -> str:
    if failures:
        return f"一块也没有问成：{failures[0]['reason']}；改好后加上 --retry-failed 再运行。"
    if retry_failed:
        return ("以前没有失败的块，这次一块也没有问；请去掉 --retry-failed"
                "（notebook 里 retry_failed=True）再运行。")
    return "一块也没有问成：文档里没有可问的文字，请换一份文档。"


def _todo(requests: list[Request], progress: Progress, retry_failed: bool) -> list[Request]:
    """还要问的。付过钱却用不了的，只有 retry_failed 才再问；没付钱的失败，再运行就会再问。"""
    todo = {}  # 一字不差的两块只问一次
    for request in requests:
        entry = progress.entry(request)
        wanted = bool(entry.failure) if retry_failed else not entry.unusable
        if wanted and not entry.done:
            todo.setdefault((request.chunk_hash, request.prompt_hash), request)
    return list(todo.values())


def _announce(requests: list[Request], todo: list[Request], progress: Progress, expected: Bill) -> None:
    done = sum(progress.entry(request).done for request in requests)
    failed = sum(bool(progress.entry(request).failure) for request in requests)
    if progress.torn:
        print(f"提醒：{rel(progress.path)} 有 {progress.torn} 行没写完（上次中断时留下的），已略过。")
    print(f"共 {len(requests)} 次提问，已有 {done} 次的回复，{failed} 次上次失败；还要调用 {len(todo)} 次。")
    if todo:
        print(f"估算：{expected}。")
    elif failed:
        print("只剩上次失败的，加上 --retry-failed（notebook 里 retry_failed=True）可以再问。")


class Workers:
    """几个线程一起把 todo 问完：回复一到就存盘，不合用的再问，到了花费上限就停。谁记账谁拿着 lock。"""

    def __init__(self, caller: Caller, todo: list[Request], progress: Progress, bill: Bill,
                 cap: float | None):
        self.caller, self.progress, self.bill, self.cap = caller, progress, bill, cap
        self.queue, self.total, self.finished = iter(todo), len(todo), 0
        self.halted, self.failures_in_a_row = "", 0

    def run(self, concurrency: int) -> str:
        """同时至多 concurrency 个，停下时已经发出的会等到回来。返回中途停下的原因，顺利就是空的。"""
        together(self._work, min(concurrency, self.total), self.caller.stop)
        self.caller.client.close()  # 都做完了才关：按两次 Ctrl-C 撇下的线程还在用它的连接
        return self.halted

    def _work(self) -> None:
        for request in self.queue:  # 几个线程取同一个迭代器，谁空谁取
            try:
                if not self._settle(request):
                    return
            except LabError as error:  # 存不进去：再问就是白花钱
                return self._halt(str(error))
            with self.progress.lock:  # 每做完约十分之一说一句；太密了刷屏，太疏了像死机
                self.finished += 1
                if self.finished % max(1, self.total // 10) == 0 or self.finished == self.total:
                    print(f"  {self.finished}/{self.total}", flush=True)

    def _settle(self, request: Request) -> bool:
        """问到合用为止，或记下没有问成；要停下、没有问完的返回假。"""
        entry = self.progress.entry(request)
        while not entry.done:
            try:
                reply = None if self.caller.stop.is_set() else self.caller.ask(request)
            except CallFailed as failure:
                self._fail(request, failure)
                return True
            if reply is None:
                return False
            with self.progress.lock:
                if not self._keep(request, reply, entry):
                    return True
        return True

    def _fail(self, request: Request, failure: CallFailed) -> None:
        with self.progress.lock:
            self.progress.fail(request, failure.reason)
            self.failures_in_a_row += 1
            if failure.fatal or self.failures_in_a_row >= FAILURES_IN_A_ROW:
                self._halt(failure.reason)

    def _keep(self, request: Request, reply: Reply, entry: Entry) -> bool:
        """存下一份回复并记账；返回假表示问够了次数，一条也用不了。"""
        pairs, whole, problem = reply.judge()
        last = entry.asked + 1 >= ASKS or bool(reply.stopped)
        final = whole or bool(last and (pairs or entry.best))
        self.failures_in_a_row = 0
        self.bill.add(reply.usage, request, reply.text)
        self.progress.reply(request, reply.text, reply.usage, pairs, final)
        if self.cap is not None and self.bill.money > self.cap:
            self._halt(f"这次运行已花{self.bill.cost}，超过上限 {self.cap:.4g}，停下了；要接着做请加大上限")
        if last and not final:
            reason = reply.stopped or f"问了 {ASKS} 次，回复都用不了：{problem}"
            self.progress.fail(request, reason, unusable=True)
        return final or not last

    def _halt(self, reason: str) -> None:
        """停下：在等待重试的立刻醒来收工，已经发出的等到回来。"""
        self.halted = self.halted or reason
        self.caller.stop.set()


def _write(folder: Path, requests: list[Request], progress: Progress, bill: Bill) -> Generation:
    """把最好的回复写成一个个文件，失败的写进 failures.jsonl；都由进度文件得来，可以随时重写。"""
    result = Generation(bill=bill)
    kinds = {"qa": ("", result.files, result.chunks),
             "unanswerable": ("unanswerable-", result.unanswerable_files, [])}
    for request in requests:
        entry, (prefix, files, chunks) = progress.entry(request), kinds[request.kind]
        if entry.best is not None:
            path = folder / f"{prefix}{request.number:03d}.txt"
            with one_sentence(path, KEPT):
                write(path, entry.best.encode("utf-8", errors="replace"))
            files.append(path)
            chunks.append(request.chunk)
        if entry.failure:
            result.failures.append({"kind": request.kind, "chunk": request.number,
                                    "pages": list(request.chunk.pages), "reason": entry.failure})
    with one_sentence(folder / "failures.jsonl", KEPT):
        write_json_lines(result.failures, folder / "failures.jsonl")
    return result


def _summarize(result: Generation, requests: list[Request], progress: Progress, folder: Path) -> None:
    done = sum(progress.entry(request).done for request in requests)
    left = len(requests) - done - len(result.failures)
    parts = [f"问成 {done} 次"]
    parts += [f"失败 {len(result.failures)} 次（原因见 {rel(folder / 'failures.jsonl')}，"
              "加上 --retry-failed 只再问这些）"] if result.failures else []
    parts += [f"还没问 {left} 次（再运行会接着做）"] if left else []
    print(f"{'，'.join(parts)}。实际：{result.bill}。", flush=True)


@dataclass
class Entry:
    """一问到目前为止的经过。"""

    replies: list[dict] = field(default_factory=list)
    asked: int = 0  # 上次判定“回复用不了”之后又问了几次
    failure: str = ""  # 最近一次失败的原因；后来成功了就清空
    unusable: bool = False  # 失败是因为回复用不了（付过钱），不是因为没有问成

    @property
    def done(self) -> bool:
        return any(reply["final"] for reply in self.replies)

    @property
    def best(self) -> str | None:
        """取得出问答最多的那份回复，一样多时要后来的；没有就是 None。写到一半的也算，它也是花了钱的。"""
        usable = [reply for reply in reversed(self.replies) if reply["pairs"] or reply["final"]]
        return max(usable, key=lambda r: (r["pairs"], r["final"]))["text"] if usable else None

    def note(self, record: dict) -> None:
        if record["event"] == "failed":
            self.failure, self.unusable = record["reason"], record["unusable"]
            self.asked = 0 if self.unusable else self.asked
        else:
            self.replies.append(record)
            self.asked += 1
            self.failure = "" if record["final"] else self.failure


class Progress:
    """用 with 打开：锁住文件（正被使用、写不进去时抛 LabError）；几个线程一起用时，谁写谁先拿 lock。"""

    def __init__(self, path: str | Path, model: str):
        self.path, self.model = Path(path), model
        self.entries: dict[tuple[str, str, str], Entry] = {}
        self.torn = 0  # 略过了几行写坏的
        self.lock = threading.Lock()
        self._file_lock = filelock.FileLock(self.path.with_suffix(".lock"), timeout=0)

    def __enter__(self) -> Progress:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file_lock.acquire()
            self._file = open(self.path, "ab", buffering=0)  # 在 __exit__ 里关
            self._load()
        except filelock.Timeout:
            busy = f"另一个程序正在往 {rel(self.path)} 里写，请等它结束或换一个输出文件夹。"
            raise LabError(busy) from None
        except OSError as error:
            self._file_lock.release()
            raise LabError(sentence(error, self.path, KEPT)) from None
        return self

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self._file.close()
        self._file_lock.release()

    def entry(self, request: Request) -> Entry:
        return self.entries.setdefault((request.chunk_hash, request.prompt_hash, self.model), Entry())

    def reply(self, request: Request, text: str, usage: dict | None, pairs: int, final: bool) -> None:
        """记下一份回复。final：这一问到此为止，不必再问。"""
        self._append(request, dict(event="reply", pairs=pairs, final=final, usage=usage, text=text))

    def fail(self, request: Request, reason: str, unusable: bool = False) -> None:
        self._append(request, dict(event="failed", reason=reason, unusable=unusable))

    def _append(self, request: Request, record: dict) -> None:
        names = {"chunk": request.chunk_hash, "prompt": request.prompt_hash, "model": self.model,
                 "kind": request.kind, "pages": list(request.chunk.pages)}
        # 服务器偶尔会给半个表情符号，换成问号也要存下来：这是花了钱的回复
        data = (json.dumps(names | record, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")
        with one_sentence(self.path, KEPT):
            while data:
                data = data[self._file.write(data):]
            os.fsync(self._file.fileno())
        self.entry(request).note(record)

    def _load(self) -> None:
        records = [row for _, row in read_rows(self.path, torn="skip")]
        for record in records:
            key = (record["chunk"], record["prompt"], record["model"])
            self.entries.setdefault(key, Entry()).note(record)
        data = self.path.read_bytes()
        self.torn = sum(bool(line.strip()) for line in data.split(b"\n")) - len(records)
        if data[-1:] not in (b"", b"\n"):  # 补上换行，新的一行才不会接在半行后面
            self._file.write(b"\n")
