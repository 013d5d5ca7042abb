"""预训练自带小模型:``python -m tools.tiny_base train OUT``。讲解见 notebook 00 与模型卡。

每一步的数据只由 (种子, 步数, 进程号) 决定,所以随时可以中断,再次运行从最近的检查点接着练。
多个 CPU 进程时用 ``python -m torch.distributed.run --standalone --nproc_per_node 2 -m
tools.tiny_base train OUT``,梯度逐步平均。有 GPU 时不加前一半,同一条命令就用它:其余的核都造语料,模型编译过。
优化器:矩阵用 Muon(Jordan 等,2024,torch.optim.Muon),词向量与一维参数用 AdamW。
"""

import copy
import json
import os
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset
from transformers import AttentionInterface, GlmConfig, GlmForCausalLM

from labutils.models.chat import IGNORE, encode, turns
from tools.tiny_base import corpus, measure, vocab

PACKED = "tiny_base_packed"


@dataclass(frozen=True)
class Recipe:
    """预训练的全部设置。每步约 tokens × 进程数个词元;一段对话至多 longest 个词元,更长的不用。"""

    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    tokens: int = 4096
    longest: int = 448
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
    model = GlmForCausalLM(GlmConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size, num_hidden_layers=recipe.num_hidden_layers,
        num_attention_heads=recipe.num_attention_heads,
        num_key_value_heads=recipe.num_key_value_heads,
        head_dim=recipe.hidden_size // recipe.num_attention_heads, attention_bias=True,
        rms_norm_eps=1e-5, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=2, use_cache=True,
    ))
    model.generation_config.eos_token_id = [
        2, *tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"])]
    model.generation_config.pad_token_id = 0
    return model


def _pack(tokenizer, rng: Random, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """若干段对话首尾相接,共约 tokens 个词元;返回编号、标签(形状都是 (n,))与各段的词元数。"""
    samples: list[dict] = []
    while sum(len(sample["input_ids"]) for sample in samples) < recipe.tokens:
        made = (encode(tokenizer, part) for part in turns(corpus.conversation(rng)))
        samples += [sample for sample in made if len(sample["input_ids"]) <= recipe.longest]
    ids, labels = (torch.tensor([i for sample in samples for i in sample[key]])
                   for key in ("input_ids", "labels"))
    return ids, labels, [len(sample["input_ids"]) for sample in samples]


class Packs(Dataset):
    """第几步 → (抽词元用的种子, *_pack 的结果);只由 (种子, 步数, 进程号) 决定,所以可以由别的进程先造好。"""

    def __init__(self, tokenizer, recipe: Recipe, rank: int):
        self.tokenizer, self.recipe, self.rank = tokenizer, recipe, rank

    def __getitem__(self, step: int) -> tuple:
        rng = Random(f"{self.recipe.seed}-{step}-{self.rank}")
        return rng.randrange(2**31), *_pack(self.tokenizer, rng, self.recipe)


def attention(module, query, key, value, mask, sizes, **options):
    """逐段的因果注意力，形状同 trainer.attention；bf16 的短段，几个矩阵乘法比融合的注意力快两三倍。"""
    outputs = []
    for q, k, v in zip(*(states[0].split(sizes, 1) for states in (query, key, value)), strict=True):
        heads, size, width = k.shape
        hidden = torch.full((size, size), -torch.inf, dtype=q.dtype).triu(1)
        scores = (q * width**-0.5).reshape(heads, -1, width) @ k.mT
        shares = (scores.view(heads, -1, size, size) + hidden).softmax(-1)
        outputs.append((shares.view(heads, -1, size) @ v).view(-1, size, width).transpose(0, 1))
    return torch.cat(outputs)[None], None


AttentionInterface.register(PACKED, attention)


def own_segment(sizes: list[int], device) -> torch.Tensor:
    """一段只看得见自己前面的遮罩,形状 (1, 1, n, n):GPU 上整块一起算,比逐段启动许多小的计算快。"""
    segment = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(device)
    return (segment[:, None] == segment).tril()[None, None]


def _loss(model, ids, labels, sizes, generator, context_share: float) -> torch.Tensor:
    """回答词元全算,其余词元随机抽一小部分算:省下大半输出层的计算。一段看不见别段。"""
    sampled = torch.rand(ids.shape, generator=generator) < context_share
    targets = torch.where(sampled, ids, labels).roll(-1)
    ends = torch.tensor(sizes).cumsum(0) - 1
    targets[ends] = IGNORE  # 一段的末尾不预测下一段的开头
    keep = targets != IGNORE
    device, positions = model.device, torch.cat(list(map(torch.arange, sizes)))
    if model.config._attn_implementation == PACKED:  # 逐段算,不看遮罩
        how = {"sizes": sizes, "attention_mask": torch.ones(1, 1, 1, 1)}
    else:
        how = {"attention_mask": own_segment(sizes, device)}
    with torch.autocast(device.type, torch.bfloat16):
        hidden = model.model(input_ids=ids[None].to(device), position_ids=positions[None].to(device),
                             use_cache=False, **how).last_hidden_state[0]
        logits = model.lm_head(hidden[keep.to(device)])
    return torch.nn.functional.cross_entropy(logits.float(), targets[keep].to(device))


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


def _deepened(old: GlmForCausalLM, config: GlmConfig) -> dict[str, torch.Tensor]:
    """old 的权重加深到 config 的层数:添的层照抄它前面的一层,两个输出矩阵归零,所以算出来的一点不变。"""
    layers, wanted = list(old.model.layers), config.num_hidden_layers
    every = len(layers) // (wanted - len(layers)) if wanted > len(layers) else 0
    for place in range(len(layers), 0, -every) if every else ():
        if len(layers) < wanted:
            added = copy.deepcopy(layers[place - 1])
            for output in (added.self_attn.o_proj, added.mlp.down_proj):
                torch.nn.init.zeros_(output.weight)
            layers.insert(place, added)
    old.model.layers = torch.nn.ModuleList(layers)
    return old.state_dict()


def _restore(folder: Path, model, optimizers, recipe: Recipe) -> int:
    """读回检查点,返回已练的步数;没有检查点就从 recipe.init_from 的权重(或随机权重)开始。"""
    path = folder / "training_state.pt"
    if not path.exists():
        if recipe.init_from:
            model.load_state_dict(_deepened(GlmForCausalLM.from_pretrained(recipe.init_from), model.config))
        return _steps_before(recipe)
    state = torch.load(path, "cpu", weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


def _step(model, optimizers, recipe, step, given, world_size) -> float:
    rate = _learning_rate(recipe, step, _steps_before(recipe))
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
    model.config._attn_implementation = PACKED if model.device.type == "cpu" else "sdpa"
    seed, *pack = given
    loss = _loss(model, *pack, torch.Generator().manual_seed(seed), recipe.context_share)
    loss.backward()
    _average_gradients(model, world_size)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def _report(folder: Path, recipe: Recipe, model, tokenizer, step: int, loss: float, pace: float) -> None:
    """打印并记下一行进度;每隔几次顺带测照抄与阅读。pace 是这次开始以来一步几秒;每秒的词元数是一个进程的。"""
    row = {"step": step, "loss": round(loss, 4), "tokens_per_second": round(recipe.tokens / pace),
           "seconds_left": round(pace * (recipe.steps - step))}
    if step % (recipe.save_every * 4) == 0:
        model.eval()
        model.config._attn_implementation = "sdpa"
        row |= measure.quick(model, tokenizer)
        model.train()
    print(json.dumps(row, ensure_ascii=False), flush=True)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def export(folder: Path, model, tokenizer, recipe: Recipe, step: int) -> None:
    """存成随包发布的样子:bf16 safetensors + 分词器 + 配方。"""
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
    on_gpu = torch.cuda.is_available()
    model = build_model(recipe, tokenizer).to("cuda" if on_gpu else "cpu")
    if on_gpu:
        model.model.compile(dynamic=True)  # 每步的词元数略有不同
    optimizers = _optimizers(model, recipe)
    first, began = _restore(folder, model, optimizers, recipe), time.time()
    packs = DataLoader(Packs(tokenizer, recipe, rank), None, sampler=range(first, recipe.steps),
                       num_workers=(os.cpu_count() - 1) * on_gpu)
    running = 0.0
    for step, given in enumerate(packs, first + 1):
        loss = _step(model, optimizers, recipe, step - 1, given, world_size)
        running = loss if step == first + 1 else 0.95 * running + 0.05 * loss
        if rank == 0 and (step % recipe.save_every == 0 or step == recipe.steps):
            _save(folder, model, optimizers, step)
            _report(folder, recipe, model, tokenizer, step, running, (time.time() - began) / (step - first))
    if rank == 0:
        export(folder, model, tokenizer, recipe, recipe.steps)
    if world_size > 1:
        dist.barrier()
        dist.destroy_process_group()
    return folder
