"""回答的出处：找最像的一条问答，给出它的页码和证据；都不像就说文件中没有。讲解见 notebook 04。

拿“问题 + 回答”去比，比只拿问题准得多：同一件事的问法五花八门，微调过的模型的答法却很固定。
用仓库自带的数据量过（每题去掉它自己再找）：只用问题找对 18%，加上标准答案找对 96%。
"""

import html
from collections.abc import Sequence

from labutils.comparison.text_metrics import LexicalSearch

# 自带数据上：与文件无关的对话最高 0.49，文件里的问题最低 0.54；文件没写的问题照实回答时另有 NOT_STATED 管。
ALIKE = 0.5
NOT_STATED = "没有写明"
NONE = "文件中没有"


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
        row = self.find(question, reply)
        if row is None:
            return f"<p><b>出处</b>　{NONE}：没有找到与这个回答相近的原文，请不要当作依据。</p>"
        return (f"<p><b>出处</b>　第 {int(row['page'])} 页：“{html.escape(row['evidence'])}”<br>"
                "<small>按字面找到的最相近的原文；回答与它不一致时，以原文为准。</small></p>")


def examples(rows: Sequence[dict], count: int = 5) -> list[str]:
    """从问答里均匀挑出 count 个不同事实的问题，每个事实取最短的问法，放得进手机上的按钮。"""
    shortest: dict[str, str] = {}
    for row in rows:
        fact, question = row.get("fact_id") or row["question"], row["question"]
        if fact not in shortest or len(question) < len(shortest[fact]):
            shortest[fact] = question
    questions = list(shortest.values())
    step = max(1, len(questions) // count)
    return questions[::step][:count]
