"""把训练中常见的系统错误换成一句说得清的中文：磁盘满、显存或内存不够。"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from labutils import checkpoints, paths
from labutils.errors import LabError

LITTLE = 64 * 2**20  # 剩余空间少于 64 MiB 时，写文件失败就当作磁盘满


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """在这个范围里，认得出原因的系统错误变成 LabError；认不出的原样抛出。

    磁盘满时删掉写了一半的检查点：它不能用，又占着地方。
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise LabError(_memory("显存或内存")) from None
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_disk_full(error, folder):
            checkpoints.discard_unfinished(folder)
            raise LabError(f"磁盘满了，{paths.rel(folder)} 写不进去；请腾出空间（可删旧的 runs/、"
                           "output/ 或设 save_total_limit），再运行一次就会接着训练") from None
        if "not enough memory" in str(error):
            raise LabError(_memory("内存")) from None
        raise


def _memory(kind: str) -> str:
    return (f"{kind}不够；请把 per_device_train_batch_size 减半、gradient_accumulation_steps 加倍，"
            "设 gradient_checkpointing: true，或减小 max_input_length 与 max_output_length")


def is_disk_full(error: Exception, folder: Path) -> bool:
    """是不是磁盘满：错误号、错误文字，或 torch 写文件失败而剩余空间确实很少。"""
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        return True
    signs = ("PytorchStreamWriter", "inline_container", "file write failed")  # torch.save 写到一半
    return any(sign in str(error) for sign in signs) and shutil.disk_usage(folder).free < LITTLE
