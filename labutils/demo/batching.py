"""网页上几个人同时问：一人一行，放在同一张表（models/table.py）里一起算。讲解见 notebook 04。"""

import logging
import threading
from functools import partial

import torch

from labutils.base.errors import LabError
from labutils.demo.engine import Line, Prompt, Reply, Stop, Streams
from labutils.models import loader
from labutils.models.chat import generation_config, prompt_ids
from labutils.models.generate import GrowingText, as_messages, cut_at, stream
from labutils.models.table import Row as TableRow
from labutils.models.table import Table, can_batch

MAX_ROWS = 32
JOIN_AT_ONCE = 8   # 一步最多接这么多新人：算新提示时，正在说的人要等
_log = logging.getLogger(__name__)


def local(model, tokenizer) -> Line:
    """本进程里的模型怎样答：能拼批就拼批，否则一次一个；关掉适配器不是微调前的引发 LabError。"""
    loader.check_before(model)
    # 网页可以另给分词器，它的结束符也要认
    model.generation_config = generation_config(tokenizer, model.generation_config)
    if not can_batch(model, mixed=hasattr(model, "disable_adapter")):
        return Streams(partial(stream, model, tokenizer))
    batcher = Batcher(model, tokenizer, MAX_ROWS)
    # 第一次计算要做许多准备，比以后慢几倍；先做完，别让第一个提问的人等
    hello = Prompt([], prompt_ids(tokenizer, as_messages("你好")))
    first = batcher.start(hello, True, Stop(), {"max_new_tokens": 2})
    first.over.wait()
    first.read()
    return batcher


class Batcher(Line):
    """一个模型、一条生成线程：有人问时才开，答完了就结束，不留下任何显存或内存。"""

    quiet = 120.0

    def __init__(self, model, tokenizer, width: int):
        super().__init__(width)
        self.model, self.new = model, partial(Row, model, tokenizer)
        self._thread: threading.Thread | None = None

    def serve(self) -> None:
        with self.lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="lab-batch")
                self._thread.start()

    def _run(self) -> None:
        table = Table(self.model)
        while (newcomers := self._newcomers()) is not None:
            with torch.inference_mode():
                self._join(table, newcomers)
                table = self._step(table)

    def _newcomers(self) -> "list[Row] | None":
        """下一步要接的新人；没有人要答时返回 None，线程随之结束。"""
        with self.lock:
            newcomers = self.turn(JOIN_AT_ONCE)
            if self.replies:
                return newcomers
            self._thread = None

    def _join(self, table: Table, rows: "list[Row]") -> None:
        """一起接进来；出了错就一个一个地接，只让接不进来的那个人收到错误。"""
        try:
            return table.join(rows)
        except Exception as error:
            if len(rows) == 1:
                return rows[0].fail(error)
        for row in rows:
            self._join(table, [row])

    def _step(self, table: Table) -> Table:
        """各前进一步；出了错，缓存就不可信了：换一张新表，把每个人说到一半的话重新算一遍接着说。

        每次重新接入都至少多一个词元，所以总会结束。
        """
        try:
            table.step()
            return table
        except Exception:
            _log.exception("拼批的一步出错，逐个重新接入")
        fresh = Table(self.model)
        for row in [row for row in table.rows if not row.over.is_set()]:
            self._join(fresh, [row])
        return fresh


class Row(TableRow, Reply):
    """网页上的一行：一个词元一个词元地放，读的时候变成文字。"""

    def __init__(self, model, tokenizer, *asked):
        Reply.__init__(self, *asked)
        TableRow.__init__(self, model, self.prompt.ids, self.adapter, **self.options)
        self.text = GrowingText(tokenizer)

    def leaves(self) -> bool:
        if self.stop.is_set() and not self.over.is_set():
            self.end()
        return self.over.is_set()

    def add(self, token: int) -> None:
        super().add(token)
        if not self.complete:
            self.put(token)
            if len(self.said) < self.limit:
                return
            self.put(cut_at(self.limit))
        self.end()

    def fail(self, error: Exception) -> None:
        _log.error("一个回答生成出错", exc_info=error)
        self.end(LabError(f"生成这个回答时出错（{type(error).__name__}），请缩短问题或清空历史对话后再试；"
                          "原因写在启动网页的窗口里。"))

    def read(self) -> str:
        last = self.over.is_set()  # 先看，再取：说完之后取到的就是全部
        self.text.ids += self.take()
        return self.text.grown(last=last)
