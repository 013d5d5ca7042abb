"""模型文件夹里的配置与权重文件：有哪些分片、每个分片里有什么；缺了、坏了用一句话说清楚。讲解见 notebook 02。

safetensors 与分片索引的格式出自 transformers 与 safetensors 的文档。
"""

import json
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # 只为认出 torch.load 拒绝读取时的报错

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from labutils.base.errors import LabError, first_line
from labutils.base.files import rel

# transformers 找权重文件的次序
NAMES = ("model.safetensors", "model.safetensors.index.json",
         "pytorch_model.bin", "pytorch_model.bin.index.json")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# 这几种 init_lora_weights 从基座里减去一部分；pissa、olora 载入时算得出同样的一部分，别的算不出
MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
DAMAGED = (OSError, RuntimeError, ValueError, EOFError, SafetensorError, UnpicklingError, zipfile.BadZipFile)


def read_json(path: Path, advice: str = "请重新下载这个文件") -> dict:
    """一份 JSON 写的配置；打不开、不是一个 JSON 对象时引发 LabError。"""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise LabError(f"{rel(path)} 读不懂（没有这个文件，或不是一份完整的配置），{advice}。")
    return value


def adapter_settings(folder: Path) -> dict:
    """adapter_config.json 的内容；读不懂时引发 LabError。"""
    return read_json(folder / "adapter_config.json", "请换一个完整的 checkpoint-N")


def shards(folder: Path) -> list[Path]:
    """transformers 会用的全部权重文件，按名字排序；没有、不全、只是 git-lfs 的占位说明时引发 LabError。"""
    found = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if found is None:
        raise LabError(f"模型文件夹 {rel(folder)} 里没有权重文件（model.safetensors 或 "
                       "pytorch_model.bin，或它们的分片与索引），请确认下载完整。")
    files = _listed(found) if found.suffix == ".json" else [found]
    if missing := [path.name for path in files if not path.is_file()]:
        raise LabError(f"模型文件夹 {rel(folder)} 缺少 {len(files)} 个权重分片中的 {len(missing)} 个："
                       f"{'、'.join(missing[:3])}，请重新下载缺少的文件。")
    for path in files:
        with path.open("rb") as file:
            if file.read(24).startswith(b"version https://git-lfs"):
                raise LabError(f"{rel(path)} 只是 git-lfs 的占位说明，不是权重；"
                               "请安装 git-lfs 后运行 git lfs pull，或从 ModelScope 下载。")
    return files


def _listed(index: Path) -> list[Path]:
    """索引文件 weight_map 里提到的分片。"""
    try:
        return [index.parent / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    except (LabError, KeyError, AttributeError, TypeError):
        raise LabError(f"权重索引 {rel(index)} 读不懂，请重新下载这个文件。") from None


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """一个权重文件里的张量；损坏时引发 LabError。

    .bin 是 torch.save 的压缩包：先核对每一项的校验和，再以 weights_only 读取，绝不执行其中的代码。
    """
    with _damage_said(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise ValueError(f"{broken} 的校验和不对")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """几个权重文件里每个张量的形状；safetensors 只读文件头。损坏时引发 LabError。"""
    found = {}
    for path in files:
        with _damage_said(path):
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            else:
                found |= {name: tuple(tensor.shape) for name, tensor in tensors(path).items()}
    return found


@contextmanager
def _damage_said(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise LabError(f"权重文件 {rel(path)} 损坏或没有下载完（{first_line(error)}），"
                       "请重新下载这个文件。") from error


def refuse_nan(tensors: Iterable[tuple[str, torch.Tensor]], where: str) -> None:
    """有 nan 或无穷大时引发 LabError：文件头完好、内容却坏了的分片，训练时只会看到损失是 nan。"""
    for name, tensor in tensors:
        if (tensor.dtype in FLOATS and tensor.numel()
                and not torch.stack(tensor.detach().aminmax()).isfinite().all()):
            raise LabError(f"{where} 的权重 {name} 里有 nan 或无穷大，多半是文件损坏，请重新下载权重文件。")
