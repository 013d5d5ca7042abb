"""进度文件：每收到一个回复就在末尾追加一行（JSON Lines），任何时候被杀掉都不丢已付钱的回复。

一行属于哪一问，看块的指纹、提示词的指纹和模型。文件只增不改，半行读的时候略过。讲解见 notebook 01。
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from labutils.base.errors import LabError
from labutils.base.files import one_sentence, read_rows, rel, sentence
from labutils.dataset.prompts import Request

KEPT = "，已收到的回复都还在，会接着做"


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
        key = (request.chunk_hash, request.prompt_hash, self.model)
        return self.entries.setdefault(key, Entry())

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
        records = [row for _, row in read_rows(self.path, torn="skip") if _is_record(row)]
        for record in records:
            key = (record["chunk"], record["prompt"], record["model"])
            self.entries.setdefault(key, Entry()).note(record)
        data = self.path.read_bytes()
        self.torn = sum(bool(line.strip()) for line in data.split(b"\n")) - len(records)
        if data[-1:] not in (b"", b"\n"):  # 补上换行，新的一行才不会接在半行后面
            self._file.write(b"\n")


_NAMES = ("chunk", "prompt", "model", "event")  # 都是文字
_REST = {"reply": {"text", "pairs", "final", "usage"}, "failed": {"reason", "unusable"}}


def _is_record(row: Any) -> bool:
    """是不是一条完整的记录（别的程序写的、缺了键的不是）。"""
    return (isinstance(row, dict) and all(isinstance(row.get(name), str) for name in _NAMES)
            and row.keys() >= _REST.get(row["event"], {None}))
