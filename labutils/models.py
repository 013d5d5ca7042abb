"""唯一的模型加载处:自带小模型、本地文件夹、网上的模型名、LoRA 适配器文件夹。

讲解见 notebook 00(自带小模型)与 notebook 02(适配器)。
"""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from labutils.errors import LabError
from labutils.paths import rel, resolve
from labutils.tiny_base import WEIGHTS

TINY = "tiny"


def pick_device_dtype(dtype=None, device=None) -> tuple[torch.device, torch.dtype, str]:
    """选设备与精度,返回 (设备, 精度, 一句话理由)。

    有 CUDA 用 CUDA,其次苹果 MPS,否则 CPU。GPU 支持 bf16 就用 bf16(fp16 训练容易
    出现 loss 为 0 或 nan);CPU 用 fp32,小模型在 CPU 上 fp32 最稳。
    """
    if device is None:
        has_mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    device = torch.device(device)
    if dtype is not None:
        chosen = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        return device, chosen, f"设备 {device}、精度 {chosen}:由参数指定"
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return device, torch.bfloat16, f"设备 {device}、精度 bf16:这块 GPU 支持 bf16,省一半显存"
    reason = "没有可用的 GPU" if device.type == "cpu" else "这块 GPU 不支持 bf16"
    return device, torch.float32, f"设备 {device}、精度 fp32:{reason},fp32 最稳"


def is_adapter(folder: str | Path) -> bool:
    """文件夹里是不是 LoRA 适配器(而不是完整模型)。"""
    folder = resolve(folder)
    return (folder / "adapter_config.json").is_file() or (
        any(folder.glob("adapter_model.*")) and not (folder / "config.json").is_file())


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~", "output", "runs")) or name.count("/") > 1 or "\\" in name


def _base_folder(name: str) -> str:
    """把用户写的名字变成 from_pretrained 能用的位置;本地没有又不像网上名字时报错。"""
    if name == TINY:
        if not (WEIGHTS / "config.json").is_file():
            raise LabError("自带小模型的权重不在 labutils/tiny_base/weights,请重新克隆仓库,"
                           "或运行 python -m labutils.tiny_base train 重建。")
        return str(WEIGHTS)
    folder = resolve(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise LabError(f"模型文件夹 {rel(folder)} 里没有 config.json,"
                           "请确认下载完整、路径没有多一层。")
        return str(folder)
    if _looks_like_path(name) or name.count("/") != 1:
        raise LabError(f"找不到模型文件夹 {name},请检查路径;自带的小模型写作 tiny。")
    _go_online()
    return name


def _go_online() -> None:
    """用户点名要网上的模型时,才放开默认的离线设置。"""
    import huggingface_hub.constants as hub

    os.environ["HF_HUB_OFFLINE"] = "0"
    hub.HF_HUB_OFFLINE = False


def _adapter_base(folder: Path) -> str:
    """读适配器记录的基座;adapter_config.json 缺失或损坏时报错。"""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise LabError(f"适配器文件夹 {rel(folder)} 里没有 adapter_config.json,"
                       "请指向训练输出里的 checkpoint-N 文件夹,或先运行 notebook 02 训练。")
    if not any(folder.glob("adapter_model.*")):
        raise LabError(f"适配器文件夹 {rel(folder)} 里没有 adapter_model.safetensors,"
                       "请换一个完整的 checkpoint-N,或重新训练。")
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError) as error:
        raise LabError(f"{rel(path)} 读不懂({error}),请换一个完整的 checkpoint-N。") from error
    if not base:
        raise LabError(f"{rel(path)} 没有记录基座模型,"
                       "请在 base_model_name_or_path 里补上 tiny 或模型文件夹。")
    return base


def _load_base(name: str, dtype, device):
    source = _base_folder(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        shown = TINY if name == TINY else name
        raise LabError(f"加载模型 {shown} 失败:{reason}。请检查文件夹是否完整、网络是否可用。") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.name_or_path = model.name_or_path = name
    return model.to(device).eval(), tokenizer


def load(name_or_path: str | Path, dtype=None, device=None):
    """加载模型与分词器,返回 ``(model, tokenizer)``,model 处于 eval 状态。

    name_or_path:``"tiny"``、模型文件夹、网上的模型名,或适配器文件夹
    (此时返回套着适配器的 PeftModel,基座由 adapter_config.json 指明)。
    dtype 如 ``"float32"``、``torch.bfloat16``,不写则由 pick_device_dtype 决定。
    文件夹不存在、不完整、读不懂时抛出 LabError。从不执行下载来的代码。
    """
    name = str(name_or_path)
    device, dtype, _ = pick_device_dtype(dtype, device)
    folder = resolve(name)
    if name == TINY or not folder.is_dir() or not is_adapter(folder):
        if name != TINY and folder.is_dir() and folder.name.startswith("checkpoint-"):
            _adapter_base(folder)
        return _load_base(name, dtype, device)
    from peft import PeftModel

    model, tokenizer = _load_base(_adapter_base(folder), dtype, device)
    try:
        tuned = PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise LabError(f"适配器 {rel(folder)} 与基座 {model.name_or_path} 对不上:{reason}。"
                       "请用训练时的同一个基座。") from error
    return tuned.to(device).eval(), tokenizer
