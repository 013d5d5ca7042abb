#!/usr/bin/env bash
# Trainer 训练 MoE：梯度累积 8 步，路由器的均衡损失（aux loss）的分量就是 8 倍；两个进程再乘 2
#
# 【先猜】（照常理的猜测；读源码时起了疑，再运行证实）
#   output_router_logits=True、router_aux_loss_coef=0.1 时，总损失 = 语言模型损失 + 0.1 × 均衡损失。
#   显存不够，把“一批 8 条”换成“一批 1 条、累积 8 步”：语言模型损失按词元平均，不变；
#   均衡损失按累积步数平均，分量仍是 0.1（每个微批里的词元少了，数值会略有出入；样本全一样时应当分毫不差）。
#
# 【实际】8 条一模一样的样本：语言模型那一半不变，均衡损失的分量却正好等于“微批的总个数”：
#   累积 2 步是 2 倍，8 步是 8 倍，两个进程各一个微批也是 2 倍。损失的数与路由器得到的梯度都是这样，没有提醒。
#   不打开均衡损失时，怎么换都一样。
#
# 【为什么】Trainer 把整个大批的词元数 num_items_in_batch 交给模型，认为模型的损失已经按它除过，就不再除以累积步数
#   （training_step 里的 loss_is_scaled_for_ga）；多个进程时 compute_loss 还乘回进程数。语言模型损失确实按它除了；
#   但各 MoE 的 forward 在后面加的 router_aux_loss_coef × aux_loss 是每个微批自己的平均数，没有除，于是一份份累加。
#
# 【伤到谁】微调 MoE 又打开均衡损失的人。同一份系数，累积 32 步就是 32 倍的均衡压力，路由器被推向平均分配，
#   语言模型损失让了位；把累积步数、卡数换一换（总的批大小不变），训练的就是另一个目标，训练损失也不能互相比。
#
# 【怎么避开】建好 Trainer 之后 model.router_aux_loss_coef /= 累积步数 × 进程数（forward 读的是模型上的这个数，
#   不是 config 里的）；脚本最后一段验证这样与一批 8 条相同。注意 evaluate 时也读它。
#
# 版本：transformers 5.23.0，torch 2.13.0（CPU 版），accelerate 1.15.0，Python 3.11。日期：2026-11-29。
#
# 【看到的输出】
#   transformers 5.23.0
#   mixtral
#     一批 8 条，不累积：损失 4.358，均衡损失的分量按损失是 1.00 倍，按路由器的梯度是 1.00 倍
#     一批 4 条，累积 2：损失 4.560，均衡损失的分量按损失是 2.00 倍，按路由器的梯度是 2.00 倍
#     一批 1 条，累积 8：损失 5.773，均衡损失的分量按损失是 8.00 倍，按路由器的梯度是 8.00 倍
#   qwen3_moe
#     一批 8 条，不累积：损失 4.388，均衡损失的分量按损失是 1.00 倍，按路由器的梯度是 1.00 倍
#     一批 4 条，累积 2：损失 4.589，均衡损失的分量按损失是 2.00 倍，按路由器的梯度是 2.00 倍
#     一批 1 条，累积 8：损失 5.789，均衡损失的分量按损失是 8.00 倍，按路由器的梯度是 8.00 倍
#   gpt_oss
#     一批 8 条，不累积：损失 4.363，均衡损失的分量按损失是 1.00 倍，按路由器的梯度是 1.00 倍
#     一批 4 条，累积 2：损失 4.563，均衡损失的分量按损失是 2.00 倍，按路由器的梯度是 2.00 倍
#     一批 1 条，累积 8：损失 5.766，均衡损失的分量按损失是 8.00 倍，按路由器的梯度是 8.00 倍
#   对照，mixtral 不打开均衡损失
#     一批 8 条，不累积：损失 4.155，均衡损失的分量按损失是 0.00 倍，按路由器的梯度是 0.00 倍
#     一批 1 条，累积 8：损失 4.155，均衡损失的分量按损失是 0.00 倍，按路由器的梯度是 0.00 倍
#   避开，mixtral 的系数先除以 8
#     一批 1 条，累积 8：损失 4.358，均衡损失的分量按损失是 1.00 倍，按路由器的梯度是 1.00 倍
#   mixtral，两个进程
#     每个一批 4 条，不累积：损失 4.560，均衡损失的分量按损失是 2.00 倍，按路由器的梯度是 2.00 倍

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0

cat > measure.py <<'PY'
import os
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
WORLD, RANK = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
         "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 64,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
COEF = 0.1
ids = torch.randint(5, 60, (16,), generator=torch.Generator().manual_seed(0))
rows = [{"input_ids": ids, "labels": ids}] * 8  # 八条一模一样：怎么切，每个微批的均衡损失都相同


def build(kind, aux=True):
    default = AutoConfig.for_model(kind)
    config = AutoConfig.for_model(kind, **{name: value for name, value in SMALL.items() if hasattr(default, name)})
    config.output_router_logits, config.router_aux_loss_coef = aux, COEF
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def router(model):
    return next(weight for name, weight in model.named_parameters()
                if name.endswith(("mlp.gate.weight", "mlp.router.weight")))


class Keep(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.grad = router(model).grad.clone()


def train(kind, size, accumulation, aux=True, divide=1):
    """一次更新：(记下的损失, 路由器的梯度)。"""
    keep = Keep()
    options = TrainingArguments(
        output_dir="out", per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, max_steps=1,
        logging_steps=1, learning_rate=0.0, max_grad_norm=0.0, report_to=[], save_strategy="no", disable_tqdm=True,
        use_cpu=True)
    trainer = Trainer(build(kind, aux), options, train_dataset=rows, callbacks=[keep])
    trainer.remove_callback(transformers.PrinterCallback)
    if divide != 1:
        trainer.model.router_aux_loss_coef /= divide
    trainer.train()
    return trainer.state.log_history[0]["loss"], keep.grad


def truth(kind):
    """不经过 Trainer：语言模型损失、均衡损失，以及它们给路由器的梯度。"""
    model = build(kind)
    output = model(input_ids=ids[None], labels=ids[None], output_router_logits=True)
    text = output.loss - COEF * output.aux_loss
    grads = [torch.autograd.grad(loss, router(model), retain_graph=True)[0] for loss in (text, COEF * output.aux_loss)]
    return text.item(), COEF * output.aux_loss.item(), grads


def must(holds, words):
    if not holds:
        sys.exit(f"行为变了：{words}")


def report(kind, name, size, accumulation, expected, **options):
    text, aux, (text_grad, aux_grad) = truth(kind)
    loss, grad = train(kind, size, accumulation, **options)
    by_loss = (loss - text) / aux
    by_grad = float(((grad - text_grad) * aux_grad).sum() / (aux_grad * aux_grad).sum())
    if RANK == 0:
        print(f"  {name}：损失 {loss:.3f}，均衡损失的分量按损失是 {by_loss:.2f} 倍，按路由器的梯度是 {by_grad:.2f} 倍",
              flush=True)
    must(abs(by_loss - expected) < 0.02 and abs(by_grad - expected) < 0.05,
         f"{kind} {name}：分量是 {by_loss:.2f}、{by_grad:.2f} 倍，原来是 {expected} 倍")


if WORLD > 1:
    if RANK == 0:
        print("mixtral，两个进程", flush=True)
    report("mixtral", "每个一批 4 条，不累积", 4, 1, 2)
    torch.distributed.destroy_process_group()
    sys.exit()
print("transformers", transformers.__version__)
for kind in ("mixtral", "qwen3_moe", "gpt_oss"):
    print(kind)
    report(kind, "一批 8 条，不累积", 8, 1, 1)
    report(kind, "一批 4 条，累积 2", 4, 2, 2)
    report(kind, "一批 1 条，累积 8", 1, 8, 8)
print("对照，mixtral 不打开均衡损失")
report("mixtral", "一批 8 条，不累积", 8, 1, 0, aux=False)
report("mixtral", "一批 1 条，累积 8", 1, 8, 0, aux=False)
print("避开，mixtral 的系数先除以 8")
report("mixtral", "一批 1 条，累积 8", 1, 8, 1, divide=8)
PY

venv/bin/python -I -W ignore measure.py
OMP_NUM_THREADS=1 venv/bin/python -m torch.distributed.run --standalone --nproc-per-node 2 measure.py 2> errors || {
  grep -m 1 行为变了 errors >&2 || cat errors >&2
  exit 1
}
