"""把内存估算说成话：这台机器放不放得下，放不下该改哪几项。讲解见 notebook 00。"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from labutils.base import paths
from labutils.lab.preflight import GIB, OK, WARN, Check
from labutils.models import models
from labutils.training import memory
from labutils.training.finetune_config import Config, load_config, override
from labutils.training.training_job import DTYPES

CUDA_ITSELF = 0.6 * GIB  # CUDA 运行环境与矩阵库的工作区，约数
SHORT = 128  # 再短就装不下一问一答了


def report(name: str, config_path: str | Path, length: int = 0, gpu: float = 0) -> list[Check]:
    """估算 name 这个模型按配置微调要多少内存，与这台机器（或 gpu GiB 的显卡）比较。

    length 是样本的 token 数，0 表示按配置允许的最长算。模型或配置读不懂时引发 LabError。
    """
    config, model_config = load_config(config_path), models.read_config(name)
    device, dtype, _ = models.pick_device_dtype(
        DTYPES[config.dtype] or (torch.bfloat16 if gpu else None),
        "cpu" if config.training_args.use_cpu and not gpu else None)
    place, room = (f"{gpu:g} GiB 的显卡", int(gpu * GIB - CUDA_ITSELF)) if gpu else room_on(device)
    on_gpu = bool(gpu) or device.type == "cuda"
    allocator = memory.GPU if on_gpu else memory.CPU
    guess = memory.estimate(model_config, config, dtype, length, allocator)
    checks = [Check("内存估算", OK, _describe(guess, config, dtype, length))]

    def total(changes: dict[str, Any]) -> int:
        changed = override(copy.deepcopy(config), changes)
        return memory.estimate(model_config, changed, DTYPES[changed.dtype] or dtype, length, allocator).total

    if guess.total <= room:
        return [*checks, Check(place, OK, f"能用 {size(room)}，放得下" + _spare(config, total, room))]
    need = guess.total
    for changes in remedies(config, on_gpu):
        need = total(changes)
        if need <= room:
            todo = f"改成 {_as_yaml(changes)}，约 {size(need)}"
            break
    else:
        todo = f"最省的设置也要约 {size(need)}，请换更大的机器或更小的模型"
    return [*checks, Check(place, WARN, f"只能用 {size(room)}，放不下", todo)]


def _spare(config: Config, total: Callable[[dict], int], room: int) -> str:
    """有富余时，梯度检查点是不是也可以省掉。"""
    if not config.training_args.gradient_checkpointing:
        return ""
    need = total({"gradient_checkpointing": False})
    if need > room:
        return ""
    return f"；关掉 gradient_checkpointing 也放得下（约 {size(need)}），每步少算一遍前向"


def room_on(device: torch.device) -> tuple[str, int]:
    """这台机器上能用的：(名称, 字节)。"""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return f"GPU {torch.cuda.get_device_name(device)}", int(free - CUDA_ITSELF)
    import psutil

    return "本机内存", psutil.virtual_memory().available


def remedies(config: Config, on_gpu: bool) -> Iterator[dict[str, Any]]:
    """由轻到重的改法，后一种包含前一种：先是不影响结果的，再是精度，最后是截短。"""
    training = config.training_args
    changes: dict[str, Any] = {}
    batch = training.per_device_train_batch_size
    if not training.gradient_checkpointing:
        changes["gradient_checkpointing"] = True
        yield dict(changes)
    if training.per_device_eval_batch_size > batch:
        changes["per_device_eval_batch_size"] = batch
        yield dict(changes)
    accumulate = training.gradient_accumulation_steps
    while batch > 1:
        batch, accumulate = batch // 2, accumulate * 2
        changes |= {"per_device_train_batch_size": batch, "per_device_eval_batch_size": batch,
                    "gradient_accumulation_steps": accumulate}
        yield dict(changes)
    if on_gpu and config.dtype == "fp32":
        changes["dtype"] = "bf16"
        yield dict(changes)
    if on_gpu and config.quantization is None:
        changes["quantization"] = "4bit"
        yield dict(changes)
    if config.max_length > 2 * SHORT:
        yield changes | {"max_input_length": SHORT, "max_output_length": SHORT}


def _describe(guess: memory.Estimate, config: Config, dtype: torch.dtype, length: int) -> str:
    training = config.training_args
    mode = "4 位量化" if config.quantization else str(dtype).removeprefix("torch.")
    saving = "，梯度检查点" if training.gradient_checkpointing else ""
    resident = guess.adapter + guess.gradients + guess.optimizer
    lines = [
        f"{paths.rel(config.path)}，{mode}{saving}，每批 {training.per_device_train_batch_size} 条、"
        f"每条 {memory.clipped(length, config)} 个词元",
        f"    模型权重                {size(guess.weights)}",
        f"    LoRA 的权重、梯度与优化器  {size(resident)}",
        f"    训练时的激活            {size(guess.activations)}",
        f"    评测时（每批 {training.per_device_eval_batch_size} 条）      {size(guess.evaluation)}",
        f"    峰值约                  {size(guess.total)}",
    ]
    return "\n".join(lines)


def _as_yaml(changes: dict[str, Any]) -> str:
    return "、".join(f"{key}: {str(value).lower()}" for key, value in changes.items())


def size(amount: float) -> str:
    """字节数 → 便于读的文字，例如 11.6 GiB。"""
    return f"{amount / GIB:.1f} GiB" if amount >= GIB else f"{amount / 2**20:.0f} MiB"
