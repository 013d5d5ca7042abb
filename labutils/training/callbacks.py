"""训练过程中的旁观者：逐行写日志、打印进度、画实时曲线、发现 nan 就停。

都是 transformers 的 TrainerCallback：训练循环在固定的时刻叫它们一声。讲解在 notebook 02。
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from labutils.base import files
from labutils.base.errors import LabError


def read_log(path: Path) -> list[dict[str, Any]]:
    """读 training_log.jsonl；写的时候被打断的半行略过，还没有这个文件就是 []。"""
    return [row for _, row in files.read_rows(path, torn="skip")]


def watchers(log: TrainingLog, callbacks: Iterable[TrainerCallback]) -> list[TrainerCallback]:
    """一次训练的全部旁观者：损失坏了先停下，再记日志；画着实时曲线就不打印进度。"""
    callbacks = list(callbacks)
    drawing = any(isinstance(c, LiveLossCurve) for c in callbacks) and LiveLossCurve.in_notebook()
    return [StopWhenBroken(), log, FinishWithRecord(), *([] if drawing else [PrintProgress()]), *callbacks]


class TrainingLog(TrainerCallback):
    """把每次记录追加到 training_log.jsonl，写完立即落盘。

    两种行：{"step", "loss", "seconds"} 和 {"step", "eval_loss"}；seconds 是纯训练时间，不含评测与保存。
    接着训练时先去掉 start_step 之后的行。
    """

    def __init__(self, path: Path, start_step: int):
        self.path = path
        self.rows = [row for row in read_log(path) if row["step"] <= start_step]
        files.write_json_lines(self.rows, path)
        self.seconds = max((row.get("seconds", 0.0) for row in self.rows), default=0.0)

    def on_step_begin(self, args, state, control, **kwargs):
        self._started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds += time.perf_counter() - self._started

    def on_log(self, args, state, control, logs=None, **kwargs):
        row = {"step": state.global_step} | {key: logs[key] for key in ("eval_loss", "loss") if key in logs}
        if "loss" in logs:
            row["seconds"] = round(self.seconds, 3)
        if len(row) > 1:  # Trainer 最后的汇总行不要；汇总在 result.json
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


class FinishWithRecord(TrainerCallback):
    """最后一步总要记录并评测，存检查点的那一步总要记录，即使不是 logging_steps 的整数倍。"""

    def on_step_end(self, args, state, control, **kwargs):
        finished = state.global_step >= state.max_steps
        control.should_evaluate |= finished and args.eval_strategy != "no"
        control.should_log |= control.should_save or finished


class StopWhenBroken(TrainerCallback):
    """损失变成 nan 或无穷大时停下，说明原因，不浪费后面的时间。"""

    def on_log(self, args, state, control, logs=None, **kwargs):
        found = [logs[key] for key in ("loss", "eval_loss", "grad_norm") if key in logs]
        if not all(map(math.isfinite, found)):
            raise LabError(f"训练在第 {state.global_step} 步发散：损失是 {found[0]}；把 learning_rate "
                           "调小（例如除以 3），若用了半精度则改成 dtype: fp32，再重新训练")


class PrintProgress(TrainerCallback):
    """在终端打印进度，全程约 20 行。"""

    def on_log(self, args, state, control, logs=None, **kwargs):
        step, total = state.global_step, state.max_steps
        if "eval_loss" in logs:
            print(f"  第 {step}/{total} 步  验证集损失 {logs['eval_loss']:.4f}", flush=True)
        elif "loss" in logs and (step >= total or step % max(total // 20, 1) < args.logging_steps):
            print(f"  第 {step}/{total} 步  训练损失 {logs['loss']:.4f}", flush=True)


class LiveLossCurve(TrainerCallback):
    """在笔记本的单元里画一张不断更新的损失曲线；不在笔记本里时什么也不做。

    重画同一个输出（update_display），所以保存下来的笔记本里只有最后一张。
    两次重画至少隔 seconds 秒，且重画所占的时间不超过总时间的约 5%。
    """

    def __init__(self, seconds: float = 2.0):
        self.seconds, self.next_time = seconds, 0.0

    @staticmethod
    def in_notebook() -> bool:
        """当前进程是不是 Jupyter 内核。"""
        from IPython import get_ipython

        return hasattr(get_ipython(), "kernel")

    def on_log(self, args, state, control, **kwargs):
        if time.perf_counter() >= self.next_time:
            self.on_train_end(args, state, control)

    def on_train_end(self, args, state, control, **kwargs):
        started = time.perf_counter()
        rows = [row for row in state.log_history if row.keys() & {"loss", "eval_loss"}]
        if not rows or not self.in_notebook():
            return
        from IPython.display import display

        from labutils.base import figures  # 画图才导入：matplotlib 要半秒

        figure = figures.loss_curve(rows)
        display(figure, display_id=f"loss-{id(self)}", update=self.next_time > 0)
        now = time.perf_counter()
        self.next_time = now + max(self.seconds, 20 * (now - started))
