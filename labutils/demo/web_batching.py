"""许多人同时提问时，每一步同时算出所有人的下一个词元（连续拼批）。讲解见 notebook 04。

谁来了下一步就加入，谁说完了就离开，不必等最慢的人。算法：Yu et al., "Orca", OSDI 2022。
一人一行：自己的提示、抽样设置、停止信号。微调前与微调后也能在同一批里，由 peft 按行决定用不用适配器。
transformers 自带的连续拼批不用，是因为它不能按行开关适配器，还要换掉整个模型的注意力实现。
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from labutils.base.errors import LabError
from labutils.demo.batch_table import Row, Table
from labutils.models.chat_format import prompt_ids, stop_ids
from labutils.models.growing_text import GrowingText
from labutils.models.inference import as_messages

MAX_ROWS = 32
JOIN_AT_ONCE = 8  # 一步最多接这么多新人：算新提示时，正在说的人要等
PACE = 0.02  # 秒。人越多，每个人的字来得越成批：刷新网页的开销比模型还大，总共每秒最多五十次
_log = logging.getLogger(__name__)


def can_batch(model) -> bool:
    """能不能拼批：键值缓存要是最普通的一种，适配器要是没有合并的普通 LoRA。"""
    if not hasattr(model, "generate") or model.config.is_encoder_decoder:
        return False
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    adapters = getattr(model, "peft_config", {}).values()
    plain = all(a.peft_type == "LORA" and not a.use_dora for a in adapters)
    return kinds == {DynamicLayer} and plain


class Batcher:
    """一个模型、一条生成线程；stream 的形状与 ``labutils.inference.stream`` 相同。

    线程有人问时才开，答完了就结束，不留下任何显存或内存。
    """

    def __init__(self, model, tokenizer, rows: int = MAX_ROWS):
        self.model, self.tokenizer, self.rows = model, tokenizer, rows
        self._waiting: deque[Row] = deque()
        self._readers = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def stream(self, model, tokenizer, messages, stop: threading.Event | None = None,
               adapter: bool = True, timeout: float = 120.0, **generation) -> Iterator[str]:
        """逐段产出回答；前两个参数用不到。连起来与 ``inference.answer`` 的回答相同。

        设置 stop 或关闭这个生成器，这一行在下一步离开。这一行出错、timeout 秒没有新词元时引发
        LabError，别的行不受影响。
        """
        row = Row(prompt_ids(self.tokenizer, as_messages(messages)), stop_ids(self.tokenizer),
                  adapter, stop or threading.Event(), generation)
        self._submit(row)
        try:
            yield from self._read(row, timeout)
        finally:
            row.closed.set()
            with self._lock:
                self._readers -= 1

    def _submit(self, row: Row) -> None:
        with self._lock:
            self._waiting.append(row)
            self._readers += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="lab-batch")
                self._thread.start()

    def _read(self, row: Row, timeout: float) -> Iterator[str]:
        """把一行的词元变成文字。读得慢时一次取走攒下的所有词元，不拖慢生成。"""
        text = GrowingText(self.tokenizer)
        while not row.finished:
            try:
                row.read_into(text.ids, timeout)
            except queue.Empty:
                raise LabError(f"等了 {timeout:.0f} 秒没有新的文字，已停止；"
                               "请减小输入或稍后再试。") from None
            if row.failure is not None:
                raise LabError(f"生成这个回答时出错（{type(row.failure).__name__}），请缩短问题或"
                               "清空历史对话后再试；原因写在启动网页的窗口里。") from row.failure
            if piece := text.grown(last=row.finished):
                yield piece
                row.over.wait(self._readers * PACE)

    def _run(self) -> None:
        table = Table(self.model)
        while (newcomers := self._next(table)) is not None:
            for row in [row for row in newcomers if row.stopped]:
                newcomers.remove(row)
                row.end()
            with torch.inference_mode():
                self._join(table, newcomers)
                table = self._step(table)

    def _join(self, table: Table, rows: list[Row]) -> None:
        """一起接进来；出了错就一个一个地接，只让接不进来的那个人收到错误。"""
        try:
            return table.join(rows)
        except Exception as error:
            if len(rows) == 1:
                _log.exception("一个回答生成出错")
                return rows[0].end(error)
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
        for row in [row for row in table.rows if not row.done]:
            self._join(fresh, [row])
        return fresh

    def _next(self, table: Table) -> list[Row] | None:
        """下一步要接的新人；没有人要答时返回 None，线程随之结束。"""
        with self._lock:
            room = min(self.rows - len(table.rows), JOIN_AT_ONCE, len(self._waiting))
            newcomers = [self._waiting.popleft() for _ in range(room)]
            if newcomers or table.rows:
                return newcomers
            self._thread = None
            return None
