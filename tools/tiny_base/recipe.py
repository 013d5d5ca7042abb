"""预训练自带小模型:``python -m tools.tiny_base train OUT``。讲解见 notebook 00 与模型卡。

每一步的数据只由 (种子, 步数, 进程号) 决定,所以随时可以中断,再次运行从最近的检查点接着练。
多个 CPU 进程时用 ``python -m torch.distributed.run --standalone --nproc_per_node 2 -m
tools.tiny_base train OUT``,梯度逐步平均。
优化器:矩阵用 Muon(Jordan 等,2024,torch.optim.Muon),词向量与一维参数用 AdamW。
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
from transformers import GlmConfig, GlmForCausalLM

from labutils.models.chat import IGNORE, encode, turns
from tools.tiny_base import corpus, measure, vocab


@dataclass(frozen=True)
class Recipe:
    """预训练的全部设置。length 与 rows 决定每步词元数:length × rows × 进程数。"""

    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    length: int = 256
    rows: int = 16
    steps: int = 4000
    warmup: int = 100
    decay_share: float = 0.3
    learning_rate: float = 3e-3
    context_share: float = 0.15
    seed: int = 7
    save_every: int = 100
    init_from: str = ""  # 从这个文件夹已有的权重接着练(步数也接着数),空着就从随机权重开始


def build_model(recipe: Recipe, tokenizer) -> GlmForCausalLM:
    """随机初始化的模型:结构与 ChatGLM3 相同,只是尺寸小。"""
    torch.manual_seed(recipe.seed)
    return GlmForCausalLM(GlmConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size, num_hidden_layers=recipe.num_hidden_layers,
        num_attention_heads=recipe.num_attention_heads,
        num_key_value_heads=recipe.num_key_value_heads,
        head_dim=recipe.hidden_size // recipe.num_attention_heads, attention_bias=True,
        rms_norm_eps=1e-5, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=2, use_cache=True,
    ))


def _pack(tokenizer, rng: Random, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """把若干段对话首尾相接填满 rows 行;返回编号与标签,形状都是 (rows, length)。"""
    ids, labels = [], []
    row_ids: list[int] = []
    row_labels: list[int] = []
    while len(ids) < recipe.rows:
        for sample in [encode(tokenizer, part) for part in turns(corpus.conversation(rng))]:
            if len(sample["input_ids"]) > recipe.length:
                continue
            if len(row_ids) + len(sample["input_ids"]) > recipe.length:
                pad = recipe.length - len(row_ids)
                ids.append(row_ids + [0] * pad)
                labels.append(row_labels + [IGNORE] * pad)
                row_ids, row_labels = [], []
            row_ids += sample["input_ids"]
            row_labels += sample["labels"]
    return torch.tensor(ids[:recipe.rows]), torch.tensor(labels[:recipe.rows])


def _loss(model, ids, labels, generator, context_share: float) -> torch.Tensor:
    """回答词元全算,其余词元随机抽一小部分算:省下大半输出层的计算。"""
    sampled = torch.rand(ids.shape, generator=generator) < context_share
    targets = torch.where(sampled & (ids != 0), ids, labels)[:, 1:]
    keep = targets != IGNORE
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[keep])
    return torch.nn.functional.cross_entropy(logits.float(), targets[keep])


def _optimizers(model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    chosen = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(inner, lr=recipe.learning_rate, weight_decay=0.01,
                         adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0,
                          fused=True),
    ]


@cache
def _steps_before(recipe: Recipe) -> int:
    """init_from 里的权重已经练过多少步;没有 init_from 时是 0。"""
    if not recipe.init_from:
        return 0
    return json.loads((Path(recipe.init_from) / "recipe.json").read_text("utf-8"))["trained_steps"]


def _learning_rate(recipe: Recipe, step: int, begin: int = 0) -> float:
    """先升、后平、末尾线性降到零;begin 是从第几步开始练的。"""
    down = (recipe.steps - step) / max((recipe.steps - begin) * recipe.decay_share, 1)
    return recipe.learning_rate * min((step - begin + 1) / recipe.warmup, down, 1.0)


def _average_gradients(model, world_size: int) -> None:
    if world_size == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    dist.all_reduce(flat)
    flat /= world_size
    offset = 0
    for p in model.parameters():
        p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
        offset += p.numel()


def _save(folder: Path, model, optimizers, step: int) -> None:
    state = {"model": model.state_dict(), "step": step,
             "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
    partial = folder / "training_state.partial"
    torch.save(state, partial)
    partial.replace(folder / "training_state.pt")


def _restore(folder: Path, model, optimizers, recipe: Recipe) -> int:
    """读回检查点,返回已练的步数;没有检查点就从 recipe.init_from 的权重(或随机权重)开始。"""
    path = folder / "training_state.pt"
    if not path.exists():
        if recipe.init_from:
            model.load_state_dict(GlmForCausalLM.from_pretrained(recipe.init_from).state_dict())
        return _steps_before(recipe)
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


def _step(model, optimizers, tokenizer, recipe, step, rank, world_size) -> float:
    rng = Random(f"{recipe.seed}-{step}-{rank}")
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    rate = _learning_rate(recipe, step, _steps_before(recipe))
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
    ids, labels = _pack(tokenizer, rng, recipe)
    loss = _loss(model, ids, labels, generator, recipe.context_share)
    loss.backward()
    _average_gradients(model, world_size)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def _report(folder: Path, recipe: Recipe, model, tokenizer, step: int, loss: float, began) -> None:
    """打印并记下一行进度;每次存盘时顺带测照抄与阅读。"""
    row = {"step": step, "loss": round(loss, 4), "seconds": round(time.time() - began)}
    if step % (recipe.save_every * 4) == 0:
        model.eval()
        row |= measure.quick(model, tokenizer)
        model.train()
    print(json.dumps(row, ensure_ascii=False), flush=True)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def export(folder: Path, model, tokenizer, recipe: Recipe, step: int) -> None:
    """存成随包发布的样子:bf16 safetensors + 分词器 + 配方。"""
    model.generation_config.eos_token_id = [
        2, *tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"])]
    model.generation_config.pad_token_id = 0
    copy = GlmForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = model.generation_config
    copy.save_pretrained(folder)
    vocab.save_tokenizer(folder)
    text = json.dumps(asdict(recipe) | {
        "trained_steps": step, "processes": int(os.environ.get("WORLD_SIZE", 1))}, indent=2)
    (folder / "recipe.json").write_text(text + "\n", encoding="utf-8")


def train(folder: str | Path, recipe: Recipe) -> Path:
    """练到 recipe.steps 步;已有检查点就接着练。返回可直接加载的模型文件夹。"""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    world_size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    tokenizer = vocab.build_tokenizer()
    model = build_model(recipe, tokenizer)
    optimizers = _optimizers(model, recipe)
    first, began = _restore(folder, model, optimizers, recipe), time.time()
    running = 0.0
    for step in range(first + 1, recipe.steps + 1):
        loss = _step(model, optimizers, tokenizer, recipe, step - 1, rank, world_size)
        running = loss if step == first + 1 else 0.95 * running + 0.05 * loss
        if rank == 0 and (step % recipe.save_every == 0 or step == recipe.steps):
            _save(folder, model, optimizers, step)
            _report(folder, recipe, model, tokenizer, step, running, began)
    if rank == 0:
        export(folder, model, tokenizer, recipe, recipe.steps)
    if world_size > 1:
        dist.barrier()
        dist.destroy_process_group()
    return folder
