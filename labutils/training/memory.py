"""训练之前估算内存：在 meta 设备上把一步训练真的走一遍，只记账，不算数，也不占内存。

meta 张量只有形状没有内容。账本记下每个算子新产生的存储块，释放时划去，余额的最大值就是峰值；所以任何结构、
用不用梯度检查点，都按真实的代码计算，只要 config.json 与微调配置。样本都按一样长算，补齐与首尾相接就一样多。
后半把估算说成话。讲解见 notebook 00。
"""

import copy
import itertools
import operator
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoModelForCausalLM

from labutils.base import files
from labutils.base.errors import GIB, OK, WARN, Check, first_line
from labutils.models import loader
from labutils.training.config import Config, load_config, override
from labutils.training.data import takes_positions
from labutils.training.finetune import DTYPES, add_lora
from labutils.training.trainer import bare, has_large_vocabulary, label_loss

ATTENTION = "lab_ledger"  # 估算时用的注意力，见 _fused_attention
CPU, GPU = 1.9, 1.1  # 分配器的碎片与对齐，乘在峰值上；CPU 的由 benchmarks/memory.py 量得，GPU 的是约数
CUDA_ITSELF = 0.6 * GIB  # CUDA 运行环境与矩阵库的工作区，约数
SHORT = 128  # 再短就装不下一问一答了
# 4 位量化每个权重的字节数：半字节，每 64 个共用 1 字节的缩放系数，每 256 个系数再共用 4 字节（QLoRA）
FOUR_BIT = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Estimate:
    """一次微调要用的内存，单位字节；activations 是一步训练、evaluation 是一步评测的峰值，两者不同时出现。"""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    evaluation: int

    @property
    def total(self) -> int:
        """峰值：常驻的部分，加上训练与评测中较大的那个。"""
        return self.weights + self.adapter + self.optimizer + max(
            self.gradients + self.activations, self.evaluation)


def estimate_memory(model_config, config: Config, dtype: torch.dtype, length: int = 0,
                    slack: float = CPU) -> Estimate:
    """估算内存（字节），不读权重，只改动 model_config 的副本；length 是样本的 token 数，见 clipped。"""
    training, length = config.training_args, clipped(length, config)
    keep = min(length, config.max_output_length + 1)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(model_config, dtype=dtype, attn_implementation="eager")
    fused = base._supports_attention_backend
    if fused:  # 换不了注意力的结构（Bloom、Falcon 等）照它自己最费内存的写法算
        base.config._attn_implementation = ATTENTION
    packed = fused and has_large_vocabulary(base) and (dtype, slack) == (torch.float32, CPU)
    if packed:  # 与 make_trainer 相同：不存分数
        base.get_output_embeddings().forward = bare
    base.config.use_cache = False
    weights, scratch = _weight_bytes(base, config.quantization)
    model = add_lora(base, config, "", training.seed).train()
    trainable = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    if training.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    def peak(rows: int) -> int:
        ids = torch.zeros((rows, length), dtype=torch.long, device="meta")
        with torch.set_grad_enabled(model.training), _Ledger(model) as ledger:
            mask = ids.new_ones((1, 1, 1, 1) if fused else (rows, length))  # 四维的原样传下去，没有人看
            batch = {"input_ids": ids, "attention_mask": mask, "logits_to_keep": keep}
            batch |= {"position_ids": ids} if takes_positions(base) else {}
            loss = (label_loss(base, model(**batch).logits, ids[:, :keep]) if packed
                    else model(**batch, labels=ids[:, :keep]).loss)
            if model.training:
                loss.backward()
        return int(slack * ledger.high) + scratch

    activations = peak(training.per_device_train_batch_size)
    model.eval()
    evaluation = 0 if training.eval_strategy == "no" else peak(training.per_device_eval_batch_size)
    return Estimate(weights, trainable, trainable, 2 * trainable, activations, evaluation)


def clipped(length: int, config: Config) -> int:
    """一条样本的 token 数：0 表示按配置允许的最长算，更长的会被截断。"""
    return min(length or config.max_length, config.max_length)


def _weight_bytes(model: nn.Module, quantization: str | None) -> tuple[int, int]:
    """(全部权重与缓冲区的字节数，共用的只数一次；用到量化层时还原成半精度的那一层，同一时刻只有一层)。"""
    total = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    if quantization is None:
        return total, 0
    linears = [module.weight for name, module in model.named_modules()
               if isinstance(module, nn.Linear) and name != "lm_head"]  # 输出层不量化
    saved = sum(weight.nbytes - FOUR_BIT * weight.numel() for weight in linears)
    return int(total - saved), max(weight.nbytes for weight in linears)


class _Ledger(TorchDispatchMode):
    """账本：算子产生的每个存储块记一笔，释放时划去；now 是余额，high 是它的最大值。"""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.now = self.high = 0
        resident = [*model.parameters(), *model.buffers()]  # 已在别处计算，它们的视图不再记
        self.held = {tensor.untyped_storage()._cdata for tensor in resident}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for storage in (tensor.untyped_storage() for tensor in filter(torch.is_tensor, tree_leaves(result))):
            if storage._cdata not in self.held:
                weakref.finalize(storage, self._leave, storage._cdata, storage.nbytes())
                self.held.add(storage._cdata)
                self.now += storage.nbytes()
                self.high = max(self.high, self.now)
        return result

    def _leave(self, key: int, size: int) -> None:
        self.held.discard(key)
        self.now -= size


def _fused_attention(module, query, key, value, mask, **kwargs):
    """融合的注意力不存 (长, 长) 的概率；meta 设备不会自己选它，所以点名用 CPU 的那一种（它要三样一样宽）。"""
    groups, fused = query.shape[1] // key.shape[1], torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    same = query.shape == value.shape
    output = fused(query, key, value)[0] if same else scaled_dot_product_attention(query, key, value)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _fused_attention)


def memory_report(name: str, config_path: str | Path, length: int = 0, gpu: float = 0) -> list[Check]:
    """估算 name 这个模型按配置微调要多少内存，与这台机器（或 gpu GiB 的显卡）比较；读不懂时引发 LabError。

    length 是样本的 token 数，0 表示按配置允许的最长算。
    """
    config, model_config = load_config(config_path), loader.read_config(name)
    device, dtype, _ = loader.pick_device_dtype(
        DTYPES[config.dtype] or (torch.bfloat16 if gpu else None),
        "cpu" if config.training_args.use_cpu and not gpu else None)
    on_gpu = bool(gpu) or device.type == "cuda"
    if gpu:
        place, room = f"{gpu:g} GiB 的显卡", gpu * GIB
    elif on_gpu:
        place, room = f"GPU {torch.cuda.get_device_name(device)}", torch.cuda.mem_get_info(device)[0]
    else:
        place, room = "本机内存", psutil.virtual_memory().available
    room -= on_gpu * CUDA_ITSELF

    def estimate(changes: dict[str, Any]) -> Estimate:
        changed = override(copy.deepcopy(config), changes)
        return estimate_memory(model_config, changed, dtype, length, GPU if on_gpu else CPU)

    try:
        guess = estimate({})
    except (RuntimeError, ValueError, TypeError, KeyError) as error:  # 有的算子看内容才走得下去
        return [Check("内存估算", WARN, f"{model_config.model_type} 结构估不出（{first_line(error)}）",
                      "请直接训练一步看看：labutils finetune 时配置里写 max_steps: 1")]
    checks = [Check("内存估算", OK, _describe(guess, config, dtype, length))]
    if guess.total <= room:
        return [*checks, Check(place, OK, f"能用 {size(room)}，放得下")]
    todo = _cheaper(estimate, remedies(config, on_gpu), room)
    return [*checks, Check(place, WARN, f"只能用 {size(room)}，放不下", todo)]


def _cheaper(estimate: Callable[[dict], Estimate], ways: Iterator[dict], room: float) -> str:
    """第一种放得下的改法；都放不下就说最省的要多少。"""
    for changes in ways:
        if (need := estimate(changes).total) <= room:
            written = "、".join(f"{key}: {str(value).lower()}" for key, value in changes.items())
            return f"改成 {written}，约 {size(need)}"
    return f"最省的设置也要约 {size(need)}，请换更大的机器或更小的模型"


def remedies(config: Config, on_gpu: bool) -> Iterator[dict[str, Any]]:
    """由轻到重的改法，后一种包含前一种：先是不影响结果的，再是精度，最后是截短。"""
    training, batch = config.training_args, config.training_args.per_device_train_batch_size
    ways = [] if training.gradient_checkpointing else [{"gradient_checkpointing": True}]
    ways += [{"per_device_eval_batch_size": min(training.per_device_eval_batch_size, batch >> times),
              "per_device_train_batch_size": batch >> times,
              "gradient_accumulation_steps": training.gradient_accumulation_steps << times}
             for times in range(batch.bit_length())]
    ways += [{"quantization": "4bit"}] * on_gpu
    ways += [{"max_input_length": SHORT, "max_output_length": SHORT}]
    return itertools.accumulate(ways, operator.or_)


def _describe(guess: Estimate, config: Config, dtype: torch.dtype, length: int) -> str:
    training = config.training_args
    mode = "4 位量化" if config.quantization else str(dtype).removeprefix("torch.")
    saving = "，梯度检查点" if training.gradient_checkpointing else ""
    parts = {"模型权重": guess.weights,
             "LoRA 的权重、梯度与优化器": guess.adapter + guess.gradients + guess.optimizer,
             "训练时的激活": guess.activations,
             f"评测时（每批 {training.per_device_eval_batch_size} 条）": guess.evaluation,
             "峰值约": guess.total}
    return "\n".join([
        f"{files.rel(config.path)}，{mode}{saving}，每批 {training.per_device_train_batch_size} 条、"
        f"每条 {clipped(length, config)} 个词元",
        *(f"    {name} {size(amount)}" for name, amount in parts.items())])


def size(amount: float) -> str:
    """字节数 → 便于读的文字，例如 11.6 GiB。"""
    return f"{amount / GIB:.1f} GiB" if amount >= GIB else f"{amount / 2**20:.0f} MiB"
