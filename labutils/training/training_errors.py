"""把训练中常见的错误换成一句说得清的中文：磁盘满、文件夹写不了、显存或内存不够。"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from labutils.base.errors import LabError
from labutils.base.system_errors import FULL, sentence
from labutils.models.models import OUT_OF_MEMORY
from labutils.training import checkpoints

LITTLE = 64 * 2**20  # 剩余空间少于 64 MiB 时，写文件失败就当作磁盘满
AGAIN = "，会接着训练（可删旧的 runs/、output/，或设 save_total_limit）"


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """在这个范围里，系统错误和内存不够变成 LabError；认不出的原样抛出。

    磁盘满时删掉写了一半的检查点：它不能用，又占着地方。
    """
    try:
        yield
    except OUT_OF_MEMORY:
        raise LabError(_memory("显存或内存")) from None
    except (OSError, RuntimeError, SafetensorError) as error:
        if system := as_system_error(error, folder):
            if full := system.errno in FULL:
                checkpoints.discard_unfinished(folder)
            raise LabError(sentence(system, folder, AGAIN if full else "")) from None
        if "not enough memory" in str(error):
            raise LabError(_memory("内存")) from None
        raise


def _memory(kind: str) -> str:
    return (f"{kind}不够；请把 per_device_train_batch_size 减半、gradient_accumulation_steps 加倍，"
            "设 gradient_checkpointing: true，或减小 max_input_length 与 max_output_length")


def as_system_error(error: Exception, folder: Path) -> OSError | None:
    """error 若是系统错误就返回它；别的库报的磁盘满换成系统错误；都不是就返回 None。

    磁盘满看错误文字，或 torch 写文件失败而剩余空间确实很少。
    """
    if isinstance(error, OSError) and error.errno:
        return error
    code = next((code for code in FULL if os.strerror(code) in str(error)), None)
    signs = ("PytorchStreamWriter", "inline_container", "file write failed")  # torch.save 写到一半
    if any(sign in str(error) for sign in signs) and shutil.disk_usage(folder).free < LITTLE:
        code = errno.ENOSPC
    return OSError(code, os.strerror(code)) if code else None
