"""适配器是不是真的在起作用：“微调后没有效果”时先做这个检查。

讲解在 notebooks/02_lora_finetune.ipynb。
"""

from __future__ import annotations

import torch
from peft import PeftModel

from labutils.base.errors import LabError
from labutils.models import chat_format


def check_adapter_alive(model, tokenizer, question: str) -> str:
    """检查适配器：B 矩阵不全为零，而且开与关适配器时下一个词元的预测不同。

    两项都通过就返回一段中文说明（含非零的层数与预测的变化）；否则引发 LabError，
    说出最可能的原因。不改变模型。
    """
    if not isinstance(model, PeftModel):
        raise LabError("模型没有挂适配器；请用 models.load(检查点文件夹) 载入，而不是只载入基座")
    matrices = [p for name, p in model.named_parameters() if "lora_B" in name]
    alive = sum(bool(p.detach().abs().max() > 0) for p in matrices)
    if alive == 0:
        raise LabError(f"适配器没有起作用：{len(matrices)} 个 B 矩阵全是零，等于没有训练；"
                       "多半是步数为 0、学习率为 0，或载入了训练之前的检查点")
    with_adapter, without = _next_token(model, tokenizer, question)
    change = float((with_adapter - without).abs().sum()) / 2
    if change < 1e-6:
        raise LabError("适配器没有起作用：开与关的预测完全一样；请检查适配器与基座是否配套，"
                       "以及是否已经合并或被关掉")
    old, new = _text(tokenizer, without), _text(tokenizer, with_adapter)
    top = f"最可能的仍是“{new}”" if old == new else f"最可能的由“{old}”变为“{new}”"
    return (f"适配器在工作：{len(matrices)} 个 B 矩阵中 {alive} 个不为零；对“{question}”，"
            f"下一个词元的概率分布变化了 {change * 100:.2g}%，{top}")


@torch.no_grad()
def _next_token(model: PeftModel, tokenizer, question: str) -> tuple[torch.Tensor, torch.Tensor]:
    """开、关适配器时，回答第一个字的概率分布（各是一维，长为词表大小）。"""
    ids = chat_format.prompt_ids(tokenizer, [{"role": "user", "content": question}])
    if chat_format.is_glm_format(tokenizer):
        ids += tokenizer.encode("\n", add_special_tokens=False)  # 角色符之后总是换行，再后才是答案
    batch = torch.tensor([ids], device=model.device)
    was_training = model.training
    model.eval()
    with_adapter = model(input_ids=batch).logits[0, -1].float().softmax(-1)
    with model.disable_adapter():
        without = model(input_ids=batch).logits[0, -1].float().softmax(-1)
    model.train(was_training)
    return with_adapter, without


def _text(tokenizer, distribution: torch.Tensor) -> str:
    return tokenizer.decode([int(distribution.argmax())]).replace("\n", "换行")
