"""网页上每个按钮按下去做什么：提问、回答、停止、重试、清空、评价、改正；和回答的出处。讲解见 notebook 04。

conversations 为 ``{"微调前": 消息列表, "微调后": 消息列表}``，每个标签页各有一份，存在服务器上。
"""

import html
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import gradio as gr

from labutils.base import files
from labutils.base.errors import LabError
from labutils.comparison.metrics import LexicalSearch
from labutils.dataset.build import DOWN
from labutils.dataset.rows import NOT_STATED
from labutils.demo import engine
from labutils.demo.guard import Visitors

_log = logging.getLogger(__name__)
SIDES = (engine.BEFORE, engine.AFTER)
EMPTY = {engine.BEFORE: [], engine.AFTER: []}  # 没有人改它：对话变了就换一份
CLEARED = EMPTY, [], [], "", ""
THINKING = "正在回答……"
# 由 answer 说“已停止”：从别处说，会被还在路上的“正在回答”盖掉
STOPPED = gr.skip(), gr.skip(), gr.skip(), "已停止。", gr.skip()

# 自带数据上：与文件无关的对话最高 0.49，文件里的问题最低 0.54；文件没写的问题照实回答时另有 NOT_STATED 管。
ALIKE = 0.5
MAX_BYTES = 20 * 1024 * 1024  # 反馈文件最大多少：别让人把硬盘写满


class Page:
    """页面的事件处理。shown 指 [conversations, 两个聊天框, 状态, 出处] 这五个组件。"""

    def __init__(self, chat_engine: engine.ChatEngine, sources: "Sources", feedback: "Feedback"):
        self.engine, self.sources, self.feedback = chat_engine, sources, feedback
        self.visitors, self.voters = Visitors(), Visitors()
        self.running: dict[str, engine.Stop] = {}  # 正在生成的回答：每个标签页最多一个

    def ask(self, text: str, mode: str, conversations: dict, request: gr.Request):
        """把问题放进对话并清空输入框；不合要求的问题留在输入框里。"""
        with told():
            question = engine.check_question(text)
            sides = self.engine.sides(mode)
            self._start(request)
        kept = {side: engine.complete_turns(conversations[side])[-2 * engine.MAX_TURNS:] for side in SIDES}
        for side in sides:
            kept[side] = kept[side] + [{"role": "user", "content": question}]
        return "", kept, *boxes(kept), THINKING, ""

    def retry(self, mode: str, conversations: dict, request: gr.Request):
        """去掉这个模式最后的回答，留下问题等着重新回答。"""
        with told():
            sides = [side for side in self.engine.sides(mode) if conversations[side]]
            if not sides:
                raise LabError("还没有问过问题，没有可以重试的回答。")
            self._start(request)
        kept = {side: engine.complete_turns(conversations[side]) for side in SIDES}
        for side in sides:
            last = max(i for i, m in enumerate(conversations[side], 1) if m["role"] == "user")
            kept[side] = conversations[side][:last]
        return kept, *boxes(kept), THINKING, ""

    def _start(self, request: gr.Request) -> None:
        self.visitors.check(request.session_hash, _host(request))
        if request.session_hash in self.running:
            raise LabError("上一个回答还没有结束，请等它说完，或先点“停止”。")
        self.running[request.session_hash] = engine.Stop()

    def answer(self, conversations: dict, max_new_tokens, temperature, top_p, repetition_penalty,
               request: gr.Request):
        """同时回答还没有回答的几边，每来一段文字就刷新页面。"""
        signal, talk = self.running.get(request.session_hash), conversations
        if signal is None:  # 还没开始就被叫停了
            yield STOPPED
            return
        try:
            with told():
                options = engine.generation_options(max_new_tokens, temperature, top_p, repetition_penalty)
                asked = self._fitted(conversations, options["max_new_tokens"])
                with closing(self.engine.together(asked, signal, **options)) as snapshots:
                    for shot in snapshots:
                        if signal.is_set():
                            break
                        talk = conversations | {
                            side: conversations[side] + [{"role": "assistant", "content": text}]
                            for side, text in shot.texts.items() if text}
                        yield talk, *boxes(talk), queued(shot), ""  # gr.skip() 每次要重造组件，慢得多
            if self.running.get(request.session_hash) is signal:
                note = "".join(side * (len(asked) > 1) + cut for side, cut in shot.cut.items())
                yield talk, *boxes(talk), note, self._source(talk, asked)
            else:
                yield STOPPED
        finally:
            signal.set()
            if self.running.get(request.session_hash) is signal:
                del self.running[request.session_hash]

    def _fitted(self, conversations: dict, size: int) -> dict[str, engine.Prompt]:
        """等着回答的几边 → 放得进模型的消息。"""
        asked = {side: self.engine.fit(talk, size) for side, talk in conversations.items()
                 if talk and talk[-1]["role"] == "user"}
        for prompt in asked.values():
            if prompt.dropped:
                gr.Info(f"对话太长，这次没有把最早的 {prompt.dropped} 轮送给模型。")
        return asked

    def _source(self, conversations: dict, asked: dict) -> str:
        """最后一边的出处；一边没有输出任何文字时提醒。"""
        for side in asked:
            if conversations[side][-1]["role"] == "user":
                gr.Warning(f"{side}的模型没有输出任何文字，请换个问法再试。")
                return ""
        question, reply = conversations[list(asked)[-1]][-2:]
        return self.sources.show(question["content"], reply["content"])

    def stop(self, request: gr.Request) -> None:
        """叫停；标签页关了也是这样，不再为它生成，也忘掉它。"""
        if signal := self.running.pop(request.session_hash, None):
            signal.set()

    def clear(self, request: gr.Request):
        self.stop(request)
        return CLEARED

    def clear_leftovers(self, request: gr.Request):
        """清空之后可能还有一小段回答在路上，到了再清一次；这时又问了新问题的话，不能清。"""
        return [gr.skip()] * 5 if request.session_hash in self.running else CLEARED

    def switch(self, mode: str):
        """只显示这个模式用到的聊天框。"""
        return [gr.update(visible=side in self.engine.sides(mode)) for side in SIDES]

    def vote(self, kind: str, mode: str, conversations: dict, request: gr.Request):
        """记下对最后一个回答的评价；点了 👎 就展开改正框。"""
        with told():
            self._save(mode, conversations, request, vote=kind)
        gr.Info("记下了，谢谢。" if kind != DOWN else "记下了。知道正确答案的话，请写在“改正”里。")
        return gr.update(open=True) if kind == DOWN else gr.skip()

    def correct(self, text: str, mode: str, conversations: dict, request: gr.Request) -> str:
        """记下正确答案并清空改正框；空的不记。"""
        with told():
            if not (text or "").strip():
                raise LabError("请先写下正确答案再保存。")
            self._save(mode, conversations, request, correction=engine.check_question(text))
        gr.Info("改正已经保存，谢谢。")
        return ""

    def _save(self, mode: str, conversations: dict, request: gr.Request, **said) -> None:
        side = self.engine.sides(mode)[-1]
        turns = engine.complete_turns(conversations[side])
        if not turns:
            raise LabError("还没有回答可以评价，请先问一个问题。")
        self.voters.check(request.session_hash, _host(request))
        self.feedback.save(turns[-2]["content"], turns[-1]["content"], side, **said)

    def chat(self, message: str, request: gr.Request, mode: str = engine.AFTER,
             history: list | None = None) -> Iterator[str]:
        """程序接口 /chat：每次给出到目前为止的回答；mode 为 微调前、微调后 或 并排对比。"""
        with told():
            question = {"role": "user", "content": engine.check_question(message)}
            messages = engine.complete_turns(engine.plain_messages(history)) + [question]
            sides = self.engine.sides(mode)
            self.visitors.check(request.session_hash, _host(request))
            options = engine.generation_options(*engine.DEFAULTS.values())
            asked = dict.fromkeys(sides, self.engine.fit(messages, options["max_new_tokens"]))
            with closing(self.engine.together(asked, engine.Stop(), **options)) as snapshots:
                for shot in snapshots:
                    said = {side: text + shot.cut.get(side, "") for side, text in shot.texts.items()}
                    both = "\n".join(f"【{side}】{text}" for side, text in said.items())
                    yield both if len(sides) > 1 else said[sides[0]]


def queued(shot: engine.Snapshot) -> str:
    """状态栏里的话。"""
    if shot.ahead is None:
        return THINKING
    return f"排队中：前面还有 {shot.ahead} 个问题。" if shot.ahead else "排队中：下一个就是你。"


def boxes(conversations: dict) -> list:
    return [engine.show(conversations[side]) for side in SIDES]


def _host(request: gr.Request) -> str:
    return request.client.host if request.client else ""


@contextmanager
def told():
    """把错误变成用户看得到的一句中文；没料到的错误另记日志，不把内部细节给用户。"""
    try:
        yield
    except LabError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        _log.exception("网页出错")
        raise gr.Error(f"生成回答时出错（{type(error).__name__}），请重试或换个问题再试；"
                       "原因写在启动网页的窗口里。", print_exception=False) from error


class Sources:
    """一批问答里的出处；没有页码和证据的问答不算。

    拿“问题 + 回答”去比，不只拿问题：问法五花八门，微调过的模型的答法却很固定。
    自带的数据上（每题去掉它自己再找），只用问题找对 18%，加上标准答案找对 96%。
    """

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
            return "<p><b>出处</b>　文件中没有：没有找到与这个回答相近的原文，请不要当作依据。</p>"
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
    """一个反馈文件（JSONL），看过以后可以并进数据集（dataset.build）；谁都能写，所以有大小上限。"""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()

    def save(self, question: str, model_answer: str, side: str, vote: str = "", correction: str = "") -> None:
        """写一条；文件太大或写不进去时引发 LabError。改正多长由 Page.correct 管。"""
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
                    raise LabError(f"反馈文件已经写满，请告诉老师：把 {files.rel(self.path)} 移走就能再收。")
                file.write(line)
        except OSError as error:
            raise LabError(f"反馈没有保存下来：{files.sentence(error, self.path)}") from error
