"""检查点：认出写了一半的、找到可以接着训练的、判断文件夹里是不是同一次训练。

一个训练文件夹里有：run.json（这次训练由什么决定）、checkpoint-N/、training_log.jsonl、
loss.png、result.json。讲解在 notebooks/02_lora_finetune.ipynb。


把训练中常见的错误换成一句说得清的中文：磁盘满、文件夹写不了、显存或内存不够。
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from labutils.base.errors import LabError
from labutils.base.files import FULL, as_system_error, from_root, model_folder, rel, sentence
from labutils.models.loader import OUT_OF_MEMORY

WEIGHTS = "adapter_model.safetensors"
# 多卡时每个进程一个 rng_state；FSDP 的优化器存成 optimizer.bin
ARCHIVES = ("optimizer.*", "scheduler.pt", "rng_state*.pth")
STATE = "trainer_state.json"  # Trainer 最后写它
RESULT = "result.json"  # 训练完才有
# 不影响权重的项：改了也算同一次训练
NEUTRAL = {"output_dir", "save_steps", "save_total_limit", "eval_steps", "eval_strategy",
           "logging_steps", "log_level", "per_device_eval_batch_size", "dataloader_num_workers",
           "predict_with_generate", "generation_config", "num_proc", "train_file", "val_file",
           "test_file", "general_file", "unanswerable_file"}  # 数据看内容的指纹，不看文件名


def checkpoints(folder: Path) -> list[Path]:
    """folder 里的 checkpoint-N，按 N 从小到大；完整与否不论。"""
    found = [p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """checkpoint-300 → 300。"""
    return int(checkpoint.name.split("-")[1])


def problem(checkpoint: Path) -> str:
    """检查点不完整时说明缺了什么，完整时返回空字符串。

    依次查：权重文件的头与长度相符、训练状态是完整的 JSON 且步数与文件夹名相同、
    优化器等压缩包有完好的目录和校验和（写了一半的包没有目录）。
    """
    if reason := _weights_problem(checkpoint):
        return reason
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{STATE} 缺失或只写了一半"
    if state.get("global_step") != step_of(checkpoint):
        return f"{STATE} 的步数与文件夹名不符"
    for pattern in ARCHIVES:
        files = list(checkpoint.glob(pattern))
        if not files or not all(_archive_is_whole(path) for path in files):
            return f"{pattern} 缺失或只写了一半"
    return ""


def _weights_problem(checkpoint: Path) -> str:
    try:
        with safe_open(checkpoint / WEIGHTS, framework="pt") as tensors:
            alive = any("lora_B" in name for name in tensors.keys())
    except (OSError, SafetensorError):
        return f"{WEIGHTS} 缺失或只写了一半"
    return "" if alive else f"{WEIGHTS} 里没有 LoRA 权重"


def _archive_is_whole(path: Path) -> bool:
    """torch.save 的文件是 zip：目录在末尾，写了一半就没有；内容有校验和。"""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def refuse_foreign(folder: Path) -> None:
    """文件夹里有检查点却没有 run.json，就不是本程序训练的：引发 LabError，绝不去删它们。"""
    if checkpoints(folder) and not (folder / "run.json").is_file():
        raise LabError(f"{rel(folder)} 里有别的程序训练的检查点（没有 run.json）；"
                       "请换一个 output_dir")


def last_valid(folder: Path, steps: int) -> Path | None:
    """最后一个可以接着训练的检查点；它后面不完整的会被删去并打印说明，以免被别处当成结果。

    已经训练完的（有 result.json），权重就是成果：只缺训练状态的不删，正好是第 steps 步的直接用，
    别的引发 LabError。
    """
    finished = (folder / RESULT).is_file()
    for checkpoint in reversed(checkpoints(folder)):
        kept = finished and not _weights_problem(checkpoint)
        if kept and step_of(checkpoint) == steps:
            return checkpoint
        reason = problem(checkpoint)
        if not reason:
            return checkpoint
        if kept:
            raise LabError(f"{rel(checkpoint)} 的权重完好，但 {reason}，不能接着训练；"
                           "请换一个 output_dir，或从头训练（命令末尾写 no，程序里写 resume=False）")
        print(f"跳过并删除不完整的 {rel(checkpoint)}：{reason}")
        shutil.rmtree(checkpoint)
    return None


def discard_unfinished(folder: Path) -> None:
    """删去刚才没有写完的检查点：总是最后一个。"""
    for checkpoint in checkpoints(folder)[-1:]:
        if problem(checkpoint):
            shutil.rmtree(checkpoint, ignore_errors=True)


def at_step(folder: Path, step: int) -> Path:
    """指定步数的检查点；没有或不完整时引发 LabError，并列出有哪些。"""
    checkpoint = folder / f"checkpoint-{step}"
    available = [step_of(p) for p in checkpoints(folder)]
    if step not in available:
        raise LabError(f"{rel(folder)} 里没有 checkpoint-{step}；"
                       f"现有的步数：{available or '无'}")
    if reason := problem(checkpoint):
        raise LabError(f"{rel(checkpoint)} 不完整（{reason}），换一个步数：{available}")
    return checkpoint


def discard_after(folder: Path, step: int) -> None:
    """删去步数大于 step 的检查点：从较早的一步接着训练时，后面的已不属于这次训练。"""
    for checkpoint in checkpoints(folder):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint)


def clear(folder: Path) -> None:
    """从头训练前清空上一次的产物，只删本模块认识的文件。"""
    for checkpoint in checkpoints(folder):
        shutil.rmtree(checkpoint)
    for name in ("run.json", "training_log.jsonl", "loss.png", RESULT):
        (folder / name).unlink(missing_ok=True)


def identity(config: dict[str, Any], data: str, base: str, weights: str, seed: int,
             steps: int, dtype: str) -> dict[str, Any]:
    """一次训练由什么决定：配置、数据、基座、种子。值相同，训练结果就相同。"""
    flat = {"数据内容": data, "基座": base, "基座权重": weights, "seed": seed, "dtype": dtype}
    for section, values in config.items():
        for key, value in (values.items() if isinstance(values, dict) else [(section, values)]):
            if key not in NEUTRAL | {"seed", "dtype", "num_train_epochs"}:
                flat[key] = value
    flat["max_steps"] = steps
    return json.loads(json.dumps(flat, ensure_ascii=False))


def differences(folder: Path, wanted: dict[str, Any]) -> list[str]:
    """文件夹里已有的训练与这次要做的有哪些不同，例如“learning_rate：0.003 → 0.001”。"""
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ["缺少 run.json"]
    except ValueError:
        return ["run.json 只写了一半"]
    return [f"{key}：{found.get(key)} → {wanted.get(key)}"
            for key in {**found, **wanted} if found.get(key) != wanted.get(key)]


def weights_digest(model: torch.nn.Module) -> str:
    """基座权重的指纹：只取一维的参数（归一化与偏置），6B 模型也只要一瞬间。"""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        if tensor.dim() == 1:
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def base_reference(model_name: str) -> str:
    """写进 adapter_config.json 的基座名：自带模型写名字，文件夹写相对仓库根目录的路径。

    不写机器上的绝对路径：换一台机器就失效，还会泄露目录结构。
    """
    folder = model_folder(model_name)
    return from_root(folder) if folder else model_name


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
                discard_unfinished(folder)
            raise LabError(sentence(system, folder, AGAIN if full else "")) from None
        if "not enough memory" in str(error):
            raise LabError(_memory("内存")) from None
        raise


def _memory(kind: str) -> str:
    return (f"{kind}不够；请把 per_device_train_batch_size 减半、gradient_accumulation_steps 加倍，"
            "设 gradient_checkpointing: true，或减小 max_input_length 与 max_output_length")


CONFIG = "adapter_config.json"


def find_adapter(folder: str | Path) -> Path:
    """找到可用的适配器：folder 自己就是，或它里面步数最大的一个完整的 checkpoint-N

    没有可用的时抛出 LabError，说明缺哪个文件、下一步做什么。
    """
    folder = Path(folder)
    candidates = [folder] if (folder / CONFIG).is_file() else []
    candidates += reversed(checkpoints(folder))
    reasons = []
    for candidate in candidates:
        reason = adapter_problem(candidate)
        if not reason:
            return candidate
        reasons.append(f"{rel(candidate)} {reason}")
    why = "；".join(reasons) or f"{rel(folder)} 里没有 checkpoint-N，也没有 {CONFIG}"
    raise LabError(f"找不到可用的适配器：{why}。请先运行 notebook 02，或指定正确的适配器文件夹。")


def adapter_problem(folder: Path) -> str:
    """适配器文件夹缺什么、坏在哪里；完好时是空字符串"""
    try:
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"缺少 {CONFIG}"
    except ValueError:
        return f"的 {CONFIG} 只写了一半"
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as tensors:
            return "" if list(tensors.keys()) else f"的 {WEIGHTS} 里没有权重"
    except FileNotFoundError:
        return f"缺少 {WEIGHTS}"
    except (OSError, SafetensorError):
        return f"的 {WEIGHTS} 已损坏或只写了一半"
