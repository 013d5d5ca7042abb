"""把适配器合并进基座，写出 transformers 和 vLLM 都能直接读的模型文件夹。讲解见 notebook 90。"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from labutils.base.errors import LabError, first_line
from labutils.base.files import as_system_error, rel, resolve, sentence, write_json
from labutils.models import chat, loader, weights

PROBE = "你好，请介绍一下自己。"
SHARD = "4GB"
# 合并前后 logits 的均方根相对误差上限：半精度的权重本身就只有 3 位有效数字
LIMITS = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.05}


def merge(checkpoint: str | Path, out: str | Path, dtype: str | None = None) -> str:
    """把适配器合并进基座，写成普通的模型文件夹；重新读回来，核对 logits 与合并前相同。返回一句结果说明。

    dtype 不写时与基座的权重文件相同。logits 对不上、磁盘不够、out 已有内容时引发 LabError，不留下半个结果。
    """
    folder, out = resolve(checkpoint), Path(out).expanduser()
    if not folder.is_dir() or not loader.is_adapter(folder):
        raise LabError(f"{checkpoint} 不是适配器文件夹，请指向训练输出里的 checkpoint-N。")
    wanted = dtype or loader.read_config(loader.adapter_base(folder)).dtype or torch.float32
    model, tokenizer = loader.load(folder, dtype=wanted)
    ids = torch.tensor([chat.prompt_ids(tokenizer, [{"role": "user", "content": PROBE}])])
    before = _logits(model, ids)
    try:
        if getattr(model.active_peft_config, "layer_replication", None):
            raise ValueError("layer_replication 的几层共用权重")
        model = model.merge_and_unload()
    except (AttributeError, RuntimeError, ValueError) as error:  # 前缀微调、aLoRA、带偏置的 LoRA
        raise LabError(f"{rel(folder)} 是 {model.active_peft_config.peft_type.value} 适配器，"
                       f"合并不进基座（{first_line(error)}）；请直接用适配器文件夹。") from error
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    with new_folder(out, size) as part:
        model.save_pretrained(part, max_shard_size=SHARD)
        _write_plain(model.config, tokenizer, part)
        device, precision = model.device, model.dtype
        del model  # 大模型在内存里只能有一份
        again = AutoModelForCausalLM.from_pretrained(part, dtype=precision).to(device).eval()
        difference = _compare(before, _logits(again, ids), precision)
        if AutoTokenizer.from_pretrained(part).get_vocab() != tokenizer.get_vocab():
            raise LabError("写出的分词器读回来与原来的不同，没有保存；请升级 transformers 后再试。")
    return f"合并后的模型写在 {rel(out)}；读回来核对过，logits 最多相差 {difference:.2g}。"


@torch.no_grad()
def _logits(model, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids.to(model.device)).logits[0].float().cpu()


def _compare(before: torch.Tensor, after: torch.Tensor, dtype: torch.dtype) -> float:
    """logits 的最大差；相对误差超过这种精度该有的，就引发 LabError。"""
    error = float((after - before).square().mean().sqrt() / before.square().mean().sqrt())
    if not error <= LIMITS.get(dtype, LIMITS[torch.bfloat16]):
        raise LabError(f"合并后的 logits 与合并前不同（相对误差 {error:.2%}），没有保存；"
                       "请用 --dtype float32 再试。")
    return float((after - before).abs().max())


@contextmanager
def new_folder(out: Path, needed: int) -> Iterator[Path]:
    """给出 <out>.partial 供写入，正常结束才改名为 out；出任何错都删掉它。

    out 已有内容、剩余空间不足 needed 字节、写的时候磁盘满了，都引发 LabError。
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LabError(f"{rel(out)} 已经有内容，请换一个输出文件夹，或先删掉它。")
    part = out.with_name(out.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        if (free := shutil.disk_usage(part).free) < needed * 1.02:
            raise LabError(f"磁盘空间不够：写 {rel(out)} 要 {needed / 2**30:.1f} GiB，"
                           f"只剩 {free / 2**30:.1f} GiB，请腾出空间或换一个磁盘。")
        yield part
        for path in part.iterdir():
            path.chmod(0o644)  # safetensors 写出的文件只有自己能读，推理服务常用别的用户运行
        if out.exists():
            out.rmdir()
        part.rename(out)
    except Exception as error:
        if system := as_system_error(error, out.parent):
            raise LabError(sentence(system, out)) from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_plain(config, tokenizer, part: Path) -> None:
    """写配置与分词器，让 transformers 4.57 与旧的推理引擎也认得。"""
    config.save_pretrained(part)
    values = weights.read_json(part / "config.json")
    if values["model_type"] == "glm":  # 旋转位置另写成平铺的键：它们不认 rope_parameters
        values |= {key: values["rope_parameters"][key] for key in ("rope_theta", "partial_rotary_factor")}
    write_json(part / "config.json", values)
    tokenizer.save_pretrained(part)
    values = weights.read_json(part / "tokenizer_config.json")
    if values.get("tokenizer_class") == "TokenizersBackend":  # 5.x 的类名和特殊词元的写法，换成两边都认的
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(values.get("extra_special_tokens"), list):
        values["additional_special_tokens"] = values.pop("extra_special_tokens")
    write_json(part / "tokenizer_config.json", values)
