"""训练循环：transformers.Trainer，只换一步怎么算、验证集损失怎么平均、存什么。讲解见 notebook 02。

CPU 上的一步（PackedTrainer）：几段对话首尾相接，分成两份在两个核上同时算。损失与梯度和左边补齐的一批
（LabTrainer）相同，只是不算用不着的：没有填充，注意力逐段算，输出层只算有标签的位置，词表大时不存分数。
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface, Trainer, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from labutils.base.errors import LabError
from labutils.models.chat import IGNORE
from labutils.models.loader import cores, swaps_weights
from labutils.models.table import differ
from labutils.training.data import LeftCollator

PACKED = "lab_packed"
LARGE = 10_000  # 词表大到这么多，才值得不存分数（见 benchmarks/speed.md）
EVEN = 32  # bf16 的矩阵乘法凑成它的倍数：torch 2.13 每遇到一种新的形状就慢几倍，还留住 1 MiB 多
CLOSE = 1e-3  # 两种拼法的损失与梯度的相对误差上限：fp32 的舍入远小于它，看见了别段远大于它

Row = dict[str, list[int]]


def split(rows: list[Row], count: int) -> list[list[Row]]:
    """词元数相近的 count 份：从长到短，头尾搭配；样本少时少几份。"""
    ranked = sorted(rows, key=lambda row: -len(row["input_ids"]))
    parts = [ranked[i :: 2 * count] + ranked[2 * count - 1 - i :: 2 * count] for i in range(count)]
    return list(filter(None, parts))


def pack(rows: list[Row]) -> dict[str, Any]:
    """几个样本首尾相接：input_ids、position_ids 形状 (1, n)，每段的位置从 0 数起，sizes 是各段的词元数；
    labels (m,) 是要学的词元，at (m,) 是它们各自的前一个位置。
    """
    sizes = [len(row["input_ids"]) for row in rows]
    labels = torch.tensor([label for row in rows for label in [IGNORE, *row["labels"][1:]]])
    learned = (labels != IGNORE).nonzero()[:, 0]
    return {"input_ids": torch.tensor([[i for row in rows for i in row["input_ids"]]]), "sizes": sizes,
            "position_ids": torch.cat(list(map(torch.arange, sizes)))[None],
            "labels": labels[learned], "at": learned - 1}


def filled(rows: list[Row], multiple: int) -> list[Row]:
    """末尾添一段不学的，词元数凑成 multiple 的倍数。"""
    short = -sum(len(row["input_ids"]) for row in rows) % multiple
    return [*rows, {"input_ids": [0] * short, "labels": [IGNORE] * short}] if short else rows


def collate(count: int, multiple: int, rows: list[Row]) -> dict[str, Any]:
    """一批样本 → {"parts": 各份 pack 的结果, "labels": 要学的词元，前面多一个}：Trainer 不数第一个。"""
    parts = [pack(filled(part, multiple)) for part in split(rows, count)]
    learned = [part["labels"] for part in parts]
    return {"parts": parts, "labels": torch.cat([learned[0][:1], *learned])}


def attention(module, query, key, value, mask, sizes, sliding_window=None, **options):
    """逐段的因果注意力，至多看 sliding_window 个；query、key、value (1, 头, n, 维)，返回 (1, n, 头, 维)。"""
    outputs = []
    with torch.autocast("cpu", enabled=False):  # CPU 上 bf16 的融合注意力，反向比 fp32 的慢一倍
        pieces = (states.float().split(sizes, 2) for states in (query, key, value))
        for q, k, v in zip(*pieces, strict=True):
            size, band = q.shape[2], None
            if sliding_window and size > sliding_window:
                band = torch.ones(1, 1, size, size, dtype=torch.bool).tril().triu(1 - sliding_window)
            outputs.append(sdpa_attention_forward(module, q, k, v, band, **options)[0])
    return torch.cat(outputs, 1), None


AttentionInterface.register(PACKED, attention)


def bare(hidden: torch.Tensor) -> torch.Tensor:
    """代替输出层：先不算分数，交出它的输入，做个记号；模型接着还要改分数的（软上限、缩放），记号就没有了。"""
    hidden.unscored = True
    return hidden


def has_large_vocabulary(base) -> bool:
    return base.config.get_text_config().vocab_size >= LARGE


class LabelLoss(torch.autograd.Function):
    """输出层的输入 (m, 维)、权重 (词表, 维)、labels (m,) → 交叉熵之和，不存 (m, 词表) 的分数。

    对输入的梯度是 softmax(输入·权重ᵀ)·权重 − 标签那几行：前一项正是一次注意力，权重既是键又是值；
    融合的注意力（Dao 等 2022，arXiv:2205.14135）一块一块地算，顺便给出损失要的 logsumexp。
    """

    @staticmethod
    def forward(ctx, hidden, weight, labels):
        fused, keys = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, weight[None, None]
        expected, total = fused(hidden[None, None], keys, keys, scale=1.0)
        wanted = weight[labels]
        ctx.save_for_backward(expected[0, 0] - wanted)
        return (total.flatten() - (hidden * wanted).sum(-1)).sum()

    @staticmethod
    def backward(ctx, scale):
        return ctx.saved_tensors[0] * scale, None, None


@contextmanager
def switched(base, pieces: bool) -> Iterator[None]:
    """在这里面，base 的注意力换成 attention，pieces 时输出层换成 bare；出来换回去。"""
    config, head = base.config.get_text_config(), base.get_output_embeddings()
    if pieces:
        head.forward = bare
    usual, config._attn_implementation = config._attn_implementation, PACKED
    try:
        yield
    finally:
        config._attn_implementation = usual
        if pieces:
            del head.forward


def total_loss(base, part: dict[str, Any]) -> torch.Tensor:
    """一份里各个要学的词元的交叉熵之和，标量。part 里有 noise (n, 维) 时加在词向量上（NEFTune）。"""
    embedded = base.get_input_embeddings()(part["input_ids"]) + part.get("noise", 0)
    logits = base(
        inputs_embeds=embedded, position_ids=part["position_ids"], sizes=part["sizes"],
        attention_mask=embedded.new_ones(1, 1, 1, 1),  # 四维的遮罩原样传下去，attention 不看它
        logits_to_keep=part["at"], use_cache=False).logits
    return label_loss(base, logits, part["labels"])


def label_loss(base, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """交叉熵之和；logits 是 base 交出的 (批, 长, 词表)，输出层换成了 bare 时是 (批, 长, 维)。"""
    states, labels = logits.flatten(0, 1), labels.flatten()
    if hasattr(logits, "unscored"):
        return LabelLoss.apply(states, base.get_output_embeddings().weight, labels)
    return cross_entropy(states, labels, reduction="sum")


def noise(sizes: list[int], width: int, alpha: float) -> torch.Tensor:
    """NEFTune（Jain 等 2023，arXiv:2310.05914）的噪声，形状 (n, width)：±α/√(长度·width) 之间均匀。

    长度是每段自己的：transformers 的钩子按整条算，拼接之后噪声会悄悄变小。
    """
    return torch.cat([(2 * torch.rand(size, width) - 1) * alpha / (size * width) ** 0.5 for size in sizes])


def gradients(base, parts: list[dict[str, Any]], weights: list[torch.Tensor], count: int,
              each: Callable[..., Iterator]) -> tuple[torch.Tensor, list[tuple[torch.Tensor | None, ...]]]:
    """(损失之和 ÷ count, 每份对各个 weights 的梯度)；没有用到的权重（没轮到的专家）是 None。"""

    def one(part):
        loss = total_loss(base, part) / count
        return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

    losses, made = zip(*each(one, parts), strict=True)
    return sum(losses), list(made)


def agrees(model: PeftModel, padded: LeftCollator, rows: list[Row], pieces: bool) -> bool:
    """rows 首尾相接与左边补齐，损失与梯度是不是相同。前一段会漏给后一段的（状态空间、卷积）就不同；
    要改分数的、输出层有偏置的、也训练的，分块算（pieces）就不同。
    """
    base, part = model.eval().get_base_model(), pack(rows)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    expected = base(**padded(rows)).loss
    wanted = torch.autograd.grad(expected, weights, allow_unused=True)
    try:
        with switched(base, pieces):
            loss, [made] = gradients(base, [part], weights, len(part["labels"]), map)
        ours, usual = (torch.cat([g.flatten() for g in one if g is not None]) for one in (made, wanted))
        near = (ours - usual).norm() <= CLOSE * usual.norm()
        return bool(near and abs(loss - expected) <= CLOSE * expected)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):  # 各家的代码报什么错都有
        return False


@torch.no_grad()
def check_padding(base, padded: LeftCollator, rows: list[Row]) -> None:
    """左边补齐的一批，各行算得与单独时不同（不看遮罩的 RWKV 等），就引发 LabError。"""
    together = base.eval()(**send_to_device(padded(rows), base.device)).logits[:, -1]
    for row, scores in zip(rows, together, strict=True):
        alone = base(**send_to_device(padded([row]), base.device)).logits[0, -1]
        if differ(scores, alone, base.dtype):
            raise LabError(f"{base.config.model_type} 结构的样本补齐以后算得不一样，不能几条一批；请把 "
                           "per_device_train_batch_size 与 per_device_eval_batch_size 都改成 1，"
                           "把 gradient_accumulation_steps 相应改大")


@torch.no_grad()
def in_one_piece(model: PeftModel, rows: list[Row]) -> bool:
    """整批要不要一份算：取随机数的（dropout、专家的抖动），同时算先后就不定了。"""
    before, base = torch.get_rng_state(), model.train().get_base_model()
    with switched(base, False):
        total_loss(base, pack(rows))
    return not torch.equal(before, torch.get_rng_state()) or swaps_weights(model)


def make_trainer(model: PeftModel, args: TrainingArguments, padded: LeftCollator, rows: list[Row],
                 mixed: bool = False, **options: Any) -> "LabTrainer":
    """CPU 上、fp32、模型又合用，就首尾相接，否则左边补齐；合不合用，拿最长与最短的两条 rows 试。

    mixed：首尾相接时矩阵乘法用 bf16；冻结的权重转成 bf16，别的与可训练的权重还是 fp32。
    """
    base = model.get_base_model()
    trial = [pick(rows, key=lambda row: len(row["input_ids"])) for pick in (max, min)]
    if (base.device.type, base.dtype) == ("cpu", torch.float32):
        known = base.config._attn_implementation == "sdpa" and not base._is_stateful
        for pieces in ([True] * has_large_vocabulary(base) + [False]) * known:
            if agrees(model, padded, trial, pieces):
                frugal = args.activation_checkpointing  # 用检查点的缺内存，两份同时算要两份的
                count = 1 if frugal or in_one_piece(model, trial) else 2
                return PackedTrainer(pieces, count, mixed, model=model, args=args,
                                     data_collator=partial(collate, count, EVEN if mixed else 1), **options)
        print(f"说明：{base.config.model_type} 结构的一批不能首尾相接，补齐了算，会慢一些")
    if max(args.per_device_train_batch_size, args.per_device_eval_batch_size) > 1:
        check_padding(base, padded, trial)
    return LabTrainer(model=model, args=args, data_collator=padded, **options)


class LabTrainer(Trainer):
    """验证集损失与训练损失一样按词元平均；保存时只留适配器，不写含机器路径的模型卡和 pickle 的训练参数。"""

    def __init__(self, **options: Any):
        super().__init__(**options, compute_metrics=lambda rows: {
            "loss": float(rows.predictions.sum() / rows.label_ids.sum())})

    @torch.no_grad()
    def prediction_step(self, model, inputs, *_, **__):
        """(None, 每行的损失之和, 每行要学的词元数)：Trainer 自己的是各批平均数的平均，随每批几条而变。"""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")[:, 1:]
        with self.compute_loss_context_manager():
            logits = model(**inputs).logits[:, :-1].float()
        losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none")
        return None, losses.view_as(labels).sum(1), (labels != IGNORE).sum(1)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            self.model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)


class PackedTrainer(LabTrainer):
    """一步、一次评测都按 collate 的 count 份算，各用一个线程，核数不同结果也一位不差。"""

    def __init__(self, pieces: bool, count: int, mixed: bool, **options: Any):
        super().__init__(**options)
        self.pieces, self.count, self.mixed = pieces, count, mixed
        self.base = self.model.get_base_model()
        for module in self.model.modules():
            if mixed and isinstance(module, LoraLinear):
                module.base_layer.to(torch.bfloat16)  # 冻结的权重只转这一次，不必步步转
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.alpha, self.neftune_noise_alpha = self.neftune_noise_alpha, None  # 噪声自己加，见 noise
        self.model_accepts_loss_kwargs = True  # 要 Trainer 数好一步里要学的词元

    def train(self, *args: Any, **options: Any):
        def prepare():  # 自动混合精度是各线程自己的
            torch.set_autocast_enabled("cpu", self.mixed)
            torch.set_autocast_cache_enabled(False)  # 转好的权重不留到更新之后

        with switched(self.base, self.pieces), cores(self.count, prepare) as self.pool:
            return super().train(*args, **options)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        model.train()
        parts = inputs["parts"]
        if self.alpha:  # 在主线程里依次取随机数，结果才是定的
            width = self.base.get_input_embeddings().embedding_dim
            parts = [part | {"noise": noise(part["sizes"], width, self.alpha)} for part in parts]
        loss, made = gradients(self.base, parts, self.weights, int(num_items_in_batch), self.pool.map)
        for gradient in made:  # 各份总按这个次序相加
            for weight, piece in zip(self.weights, gradient, strict=True):
                if piece is not None:
                    weight.grad = piece if weight.grad is None else weight.grad + piece
        return loss

    def prediction_step(self, model, inputs, *_, **__):
        """(None, 每份的损失之和, 每份要学的词元数)。"""
        work = torch.no_grad()(partial(total_loss, self.base))
        losses = torch.stack(list(self.pool.map(work, inputs["parts"])))
        return None, losses.double(), torch.tensor([len(part["labels"]) for part in inputs["parts"]])
