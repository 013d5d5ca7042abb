"""网页上的 👍、👎 与改正：一行一条写进 JSONL，以后可以变成新的问答对。讲解见 notebook 04。

写的人可能是任何一个打开网页的人，所以只存文字、有大小上限；变成训练数据之前要有人看过。
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import BinaryIO

from labutils.base import paths
from labutils.base.errors import LabError
from labutils.base.system_errors import sentence
from labutils.base.text_normalize import normalize
from labutils.dataset.qa_dataset import read_json

FILE = paths.OUTPUT / "feedback.jsonl"
UP, DOWN = "up", "down"
MAX_CHARACTERS = 2000          # 改正最多多少字
MAX_BYTES = 20 * 1024 * 1024   # 文件最大多少：别让人把硬盘写满


class Feedback:
    """一个反馈文件。每条立刻写进去，程序中断也不丢。"""

    def __init__(self, path: str | Path = FILE):
        self.path = Path(path)
        self._lock = threading.Lock()

    def save(self, question: str, model_answer: str, side: str, vote: str = "",
             correction: str = "") -> dict:
        """写一条，返回写下的内容。改正太长、文件太大或写不进去时引发 LabError。"""
        correction = correction.strip()
        if len(correction) > MAX_CHARACTERS:
            raise LabError(f"改正有 {len(correction)} 个字，超过上限 {MAX_CHARACTERS} 个字，请缩短后再保存。")
        row = {"question": question, "model_answer": model_answer, "side": side, "vote": vote,
               "correction": correction, "time": time.strftime("%Y-%m-%d %H:%M:%S")}
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._lock:
            self._append(line)
        return row

    def _append(self, line: bytes) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                line = b"\n" + line if _is_torn(file) else line
                if file.tell() + len(line) > MAX_BYTES:
                    raise LabError("反馈文件已经写满，请告诉老师：把 "
                                   f"{paths.rel(self.path)} 移走后就能继续收。")
                file.write(line)
        except OSError as error:
            raise LabError(f"反馈没有保存下来：{sentence(error, self.path)}") from error


def _is_torn(file: BinaryIO) -> bool:
    """上次断电只写了半行：新的一条要另起一行，不能接在半行后面。"""
    if not file.tell():
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def read_pairs(path: str | Path = FILE) -> list[tuple[str, dict]]:
    """反馈文件 → ``[("第 3 行", {"question", "answer"})]``，问答可以直接交给 qa_checks.validate。

    有改正的用改正；只点了 👍 的用模型的回答；只点了 👎 的不用。同一个问题以最后一条为准，
    后来的 👎 也会撤掉先前的 👍。文件不存在、某行不对时引发 LabError，说明第几行。
    """
    answers: dict[str, tuple[str, dict]] = {}
    for where, row in read_json(path):
        texts = [row.get(key) for key in ("question", "model_answer", "vote", "correction")] \
            if isinstance(row, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise LabError(f"{paths.rel(path)} {where}不是网页写的反馈，"
                           "应有 question、model_answer、vote、correction，请删掉这一行。")
        question, model_answer, vote, correction = texts
        answer = correction or (model_answer if vote == UP else "")
        answers.pop(normalize(question), None)
        if answer:
            answers[normalize(question)] = where, {"question": question, "answer": answer}
    return list(answers.values())
