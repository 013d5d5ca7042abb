"""检查点：认出写了一半的、找到可以接着训练的、判断文件夹里是不是同一次训练。

训练文件夹里有 checkpoint-N/ 和下面 RUN、LOG、CURVE、RESULT 四个文件。讲解在 notebook 02。
"""

import dataclasses
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from labutils.base.errors import LabError
from labutils.base.files import FULL, as_system_error, from_root, model_folder, rel, sentence
from labutils.models.loader import OUT_OF_MEMORY
from labutils.training.config import Config

RUN, LOG, CURVE = "run.json", "training_log.jsonl", "loss.png"  # run.json：这次训练由什么决定
RESULT = "result.json"  # 训练完才有
CONFIG, WEIGHTS = ADAPTER = "adapter_config.json", "adapter_model.safetensors"
WHOLE = (*ADAPTER, "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")  # 接着训练要有的
# 不影响权重的项：改了也算同一次训练
NEUTRAL = {"output_dir", "save_steps", "save_total_limit", "eval_steps", "eval_strategy", "logging_steps",
           "log_level", "per_device_eval_batch_size", "dataloader_num_workers", "predict_with_generate",
           "generation_config", "num_proc", "path", "notes",
           "train_file", "val_file", "test_file", "general_file", "unanswerable_file",  # 数据看内容的指纹
           "dtype", "num_train_epochs"}  # 另记实际的精度、换算出的步数


def checkpoints(folder: Path) -> list[Path]:
    """folder 里的 checkpoint-N，按 N 从小到大；完整与否不论。"""
    found = [p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """checkpoint-300 → 300。"""
    return int(checkpoint.name.split("-")[1])


def problem(folder: Path, names: Iterable[str] = WHOLE) -> str:
    """folder 里的这些文件缺了哪个、坏了哪个；都完好时返回空字符串。"""
    for name in names:
        try:
            _read(folder / name)
        except FileNotFoundError:
            return f"缺少 {name}"
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
            return f"{name} 只写了一半或已损坏"
    return ""


def _read(path: Path) -> None:
    """读一遍检查点里的一个文件；坏了的引发异常。"""
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        safe_open(path, framework="pt")  # 文件头写着该有多长，与实际不符就打不开
    else:  # torch.save 的文件是 zip：目录在末尾，写了一半就没有；内容有校验和
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():
                raise zipfile.BadZipFile


def last_valid(folder: Path, steps: int) -> Path | None:
    """最后一个可以接着训练的检查点；它后面不完整的删去并打印说明，以免被别处当成结果。

    已经训练完的，权重就是成果，一个也不删：正好是第 steps 步、适配器完好的直接用，别的引发 LabError。
    """
    finished = (folder / RESULT).is_file()
    for checkpoint in reversed(checkpoints(folder)):
        reason = problem(checkpoint)
        if not reason or finished and step_of(checkpoint) == steps and not problem(checkpoint, ADAPTER):
            return checkpoint
        if finished:
            raise LabError(f"{rel(checkpoint)} 不能接着训练（{reason}）；请写前面一个检查点的步数，"
                           "换一个 output_dir，或从头训练（命令末尾写 no，程序里写 resume=False）")
        print(f"跳过并删除不完整的 {rel(checkpoint)}：{reason}")
        shutil.rmtree(checkpoint)
    return None


def at_step(folder: Path, step: int) -> Path:
    """指定步数的检查点；没有或不完整时引发 LabError，并列出有哪些。"""
    checkpoint = folder / f"checkpoint-{step}"
    available = list(map(step_of, checkpoints(folder)))
    if step not in available:
        raise LabError(f"{rel(folder)} 里没有 checkpoint-{step}；现有的步数：{available or '无'}，"
                       "请写其中一个，或写 auto")
    if reason := problem(checkpoint):
        raise LabError(f"{rel(checkpoint)} 不完整（{reason}），换一个步数：{available}")
    return checkpoint


def find_adapter(folder: str | Path) -> Path:
    """可用的适配器：folder 自己，或它里面步数最大的完整的 checkpoint-N；没有时引发 LabError，说缺什么。"""
    folder, reasons = Path(folder), []
    itself = [folder] if (folder / CONFIG).is_file() else []
    for candidate in itself + checkpoints(folder)[::-1]:
        if not (reason := problem(candidate, ADAPTER)):
            return candidate
        reasons.append(f"{rel(candidate)}（{reason}）")
    why = "；".join(reasons) or f"{rel(folder)} 里没有 checkpoint-N，也没有 {CONFIG}"
    raise LabError(f"找不到可用的适配器：{why}。请先运行 notebook 02，或指定正确的适配器文件夹。")


def discard_after(folder: Path, step: int) -> None:
    """删去步数大于 step 的检查点：从较早的一步接着训练时，后面的已不属于这次训练。"""
    for checkpoint in checkpoints(folder):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint)


def clear(folder: Path) -> None:
    """从头训练前清空上一次的产物，只删本模块认识的文件。"""
    discard_after(folder, -1)
    for name in (RUN, LOG, CURVE, RESULT):
        (folder / name).unlink(missing_ok=True)


def decisive(config: Config) -> dict[str, Any]:
    """配置里决定训练结果的项：{键: 值}，不分节。"""
    flat: dict[str, Any] = {}
    for section, values in dataclasses.asdict(config).items():
        flat |= values if isinstance(values, dict) else {section: values}
    kept = {key: value for key, value in flat.items() if key not in NEUTRAL}
    return json.loads(json.dumps(kept, ensure_ascii=False))  # 元组变成列表，与读回来的一样


def differences(folder: Path, wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """已有的训练与这次要做的有哪些项不同：{项: (原来的值, 这次的值)}。"""
    found = json.loads((folder / RUN).read_text(encoding="utf-8"))
    changed = {key: (found.get(key), wanted.get(key)) for key in found | wanted
               if found.get(key) != wanted.get(key)}
    if changed.keys() & {"基座", "基座权重"} == {"基座"}:
        print("基座换了地方，权重没有变：{} → {}".format(*changed.pop("基座")))
    return changed


def weights_digest(model: torch.nn.Module) -> str:
    """基座权重的指纹：每个参数均匀地取约一千个数，6B 模型也只要一瞬间；合并过适配器的就不同了。"""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        sample = tensor.detach().flatten()[:: tensor.numel() // 1024 + 1]
        digest.update(name.encode() + sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def base_reference(model_name: str) -> str:
    """写进 adapter_config.json 的基座名：自带模型写名字，文件夹写相对仓库根目录的路径，换一台机器也有效。"""
    folder = model_folder(model_name)
    return from_root(folder) if folder else model_name


AGAIN = "，会接着训练（可删旧的 runs/、output/，或设 save_total_limit）"
SMALLER = ("不够；请把 per_device_train_batch_size 减半、gradient_accumulation_steps 加倍，"
           "设 gradient_checkpointing: true，或减小 max_input_length 与 max_output_length")


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """在这个范围里，系统错误和内存不够变成 LabError；认不出的原样抛出。"""
    try:
        yield
    except (*OUT_OF_MEMORY, OSError, RuntimeError, SafetensorError) as error:
        if system := as_system_error(error, folder):
            raise LabError(sentence(system, folder, AGAIN if system.errno in FULL else "")) from None
        if isinstance(error, OUT_OF_MEMORY) or "not enough memory" in str(error):
            raise LabError("显存或内存" + SMALLER) from None
        raise
