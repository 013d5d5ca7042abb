"""回答的出处，和网页上的 👍、👎 与改正。讲解见 notebook 04。

找出处时拿“问题 + 回答”去比，比只拿问题准得多：同一件事的问法五花八门，微调过的模型的答法却很固定。
用仓库自带的数据量过（每题去掉它自己再找）：只用问题找对 18%，加上标准答案找对 96%。
"""

import html
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from labutils.base import files
from labutils.base.errors import LabError
from labutils.comparison.metrics import LexicalSearch
from labutils.dataset.rows import NOT_STATED
from labutils.demo.engine import MAX_CHARACTERS

# 自带数据上：与文件无关的对话最高 0.49，文件里的问题最低 0.54；文件没写的问题照实回答时另有 NOT_STATED 管。
ALIKE = 0.5
NONE = "文件中没有"
MAX_BYTES = 20 * 1024 * 1024  # 反馈文件最大多少：别让人把硬盘写满


class Sources:
    """一批问答里的出处；没有页码和证据的问答不算。"""

    def __init__(self, rows: Sequence[dict]):
        self.rows = [row for row in rows if row.get("page") and row.get("evidence")]
        texts = [f"{row['question']} {row['answer']}" for row in self.rows]
        self._search = LexicalSearch(texts) if texts else None

    def find(self, question: str, reply: str) -> dict | None:
        """最像的一条问答；都不像，或回答自己说文件没有写明时，返回 None。"""
        if self._search is None or NOT_STATED in reply:
            return None
        scores = self._search.scores(f"{question} {reply}")
        best = int(scores.argmax())
        return self.rows[best] if scores[best] >= ALIKE else None

    def show(self, question: str, reply: str) -> str:
        """出处的 HTML；没有可查的问答时是空字符串。"""
        if self._search is None:
            return ""
        if (row := self.find(question, reply)) is None:
            return f"<p><b>出处</b>　{NONE}：没有找到与这个回答相近的原文，请不要当作依据。</p>"
        return (f"<p><b>出处</b>　第 {int(row['page'])} 页：“{html.escape(row['evidence'])}”<br>"
                "<small>按字面找到的最相近的原文；回答与它不一致时，以原文为准。</small></p>")


def examples(rows: Sequence[dict], count: int = 5) -> list[str]:
    """从问答里均匀挑出 count 个不同事实的问题，每个事实取最短的问法，放得进手机上的按钮。"""
    shortest: dict[str, str] = {}
    for row in rows:
        fact, question = row.get("fact_id") or row["question"], row["question"]
        shortest[fact] = min(shortest.get(fact, question), question, key=len)
    step = max(1, len(shortest) // count)
    return [*shortest.values()][::step][:count]


class Feedback:
    """一个反馈文件（JSONL），每条立刻写进去；以后可以变成新的问答对（dataset.build），但要有人看过。

    写的人可能是任何一个打开网页的人，所以只存文字、有大小上限。
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()

    def save(self, question: str, model_answer: str, side: str, vote: str = "",
             correction: str = "") -> None:
        """写一条。改正太长、文件太大或写不进去时引发 LabError。"""
        correction = correction.strip()
        if len(correction) > MAX_CHARACTERS:
            raise LabError(f"改正有 {len(correction)} 个字，超过上限 {MAX_CHARACTERS} 个字，请缩短后再保存。")
        row = {"question": question, "model_answer": model_answer, "side": side, "vote": vote,
               "correction": correction, "time": time.strftime("%Y-%m-%d %H:%M:%S")}
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, self.path.open("a+b") as file:
                if file.tell():  # 上次断电只写了半行的话，新的一条另起一行
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                if file.tell() + len(line) > MAX_BYTES:
                    raise LabError("反馈文件已经写满，请告诉老师：把 "
                                   f"{files.rel(self.path)} 移走后就能继续收。")
                file.write(line)
        except OSError as error:
            raise LabError(f"反馈没有保存下来：{files.sentence(error, self.path)}") from error
