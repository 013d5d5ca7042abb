"""LoRA 微调：一个函数 run() 从数据、基座和配置到适配器；中断后再调用一次就接着训练。

训练循环用 transformers.Trainer，LoRA（Hu 等 2021，arXiv:2106.09685）用 peft。讲解在 notebook 02。
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed
from transformers.pytorch_utils import Conv1D

from labutils.base import files
from labutils.base.errors import LabError, first_line
from labutils.models import adapters, chatglm3, loader
from labutils.training import checkpoints, data
from labutils.training.callbacks import TrainingLog, read_log, watchers
from labutils.training.checkpoints import explained, find_adapter
from labutils.training.config import Config, load_config, lora_targets, override
from labutils.training.data import LeftCollator
from labutils.training.trainer import make_trainer

MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")  # peft 不给它们的 out_proj 加
MIXED = "fp32+bf16"
DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


def run(data_dir: str | Path, model_name: str, config_path: str | Path, output_dir: str | Path | None = None,
        resume: str | int = "auto", seed: int | None = None,
        callbacks: Iterable[TrainerCallback] = (), **overrides: Any) -> Result:
    """按配置微调，返回 Result。

    output_dir 缺省为 <配置的 output_dir>/<配置文件名>。resume 的取值：
    "auto" 从最后一个可用的检查点接着训练，已训练完就直接返回，没有就从头开始；
    整数 N 从 checkpoint-N 接着训练；False 清空后从头训练。
    文件夹里的训练与这次的配置、数据、基座或种子不同时引发 LabError（resume=False 除外），
    只有 max_steps 可以改，改成还没有训练到的步数就接着训练。
    overrides 按名字改配置项，例如 max_steps=20。
    """
    config = override(load_config(config_path), overrides if seed is None else overrides | {"seed": seed})
    seed = config.training_args.seed
    folder = files.place(output_dir or Path(config.training_args.output_dir) / Path(config_path).stem)

    sources = data.read_training(config, files.resolve(data_dir))
    dev_source = data.read_dev(config, files.resolve(data_dir))
    base, tokenizer, dtype, reason = _load_base(str(model_name), config)

    args = training_arguments(config, folder, use_cpu=base.device.type == "cpu")
    batch = args.train_batch_size * args.gradient_accumulation_steps
    total = None if args.max_steps < 0 else args.max_steps * batch
    train = data.PlannedDataset(tokenizer, sources, config, total, batch, seed, data.questions(dev_source))
    args.max_steps = len(train) // batch
    _, dev, truncated = data.encode_source(tokenizer, dev_source, config.max_length)

    identity = {"数据内容": data.data_digest([*sources, dev_source]),
                "基座": checkpoints.base_reference(str(model_name)),
                "基座权重": checkpoints.weights_digest(base), "seed": seed, "dtype": dtype,
                **checkpoints.decisive(config), "max_steps": args.max_steps}
    model = add_lora(base, config, identity["基座"], seed)
    print(reason)
    _describe([*sources, dev_source], [*train.truncated, truncated], config, model)
    print(f"共 {args.max_steps} 步，每步 {batch} 条，约 {len(train) / train.per_epoch:.1f} 轮")
    for note in config.notes:
        print(f"说明：{note}")

    with explained(folder):
        start = _starting_point(folder, resume, identity)
        done = checkpoints.step_of(start) if start else 0
        if done < args.max_steps:
            log = TrainingLog(folder / checkpoints.LOG, done)
            args.eval_on_start = args.eval_strategy != "no" and start is None
            padded = LeftCollator(tokenizer.pad_token_id or 0, data.takes_positions(base))
            trainer = make_trainer(model, args, padded, [*dev, *itertools.chain(*train.encoded)],
                                   dtype == MIXED, train_dataset=train, eval_dataset=dev,
                                   callbacks=watchers(log, callbacks))
            trainer.remove_callback(PrinterCallback)  # 它打印英文字典；进度由 PrintProgress 打印
            set_seed(seed)
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        return _result(folder, model, args.max_steps, batch)


def find_or_train(adapter: str, folder: str | Path, data_dir: str | Path, model_name: str, seed: int) -> Path:
    """可用的适配器文件夹：点名的 adapter（不能用就引发 LabError），或 folder 里最新的；都没有就现在训练。"""
    if adapter:
        return find_adapter(files.resolve(adapter))
    try:
        return find_adapter(folder)
    except LabError as error:
        print(f"{error}\n现在用默认配置训练一个：")
    config = files.CONFIGS / ("lora_tiny.yaml" if model_name == "tiny" else "lora.yaml")
    return run(data_dir, model_name, config, output_dir=folder, seed=seed).adapter


def _load_base(model_name: str, config: Config) -> tuple[Any, Any, str, str]:
    """载入基座；返回 (模型, 分词器, 精度名, 选设备与精度的理由)。"""
    if (files.resolve(model_name) / "adapter_config.json").is_file():
        raise LabError(f"{files.rel(files.resolve(model_name))} 是适配器，不能当基座；"
                       "要接着训练它，请用原来的基座并指定同一个 output_dir")
    device = "cpu" if config.training_args.use_cpu else None
    device, dtype, reason = loader.pick_device_dtype(DTYPES[config.dtype], device)
    name, capabilities = str(dtype).removeprefix("torch."), torch.cpu.get_capabilities()
    if config.dtype == "auto" and device.type == "cpu" and capabilities.get("avx512_bf16"):
        name, reason = MIXED, f"{reason}；这个 CPU 有 bf16 的指令，训练时矩阵乘法用它"
    model, tokenizer = loader.load(model_name, dtype=dtype, device=device, quantization=config.quantization)
    if config.training_args.gradient_checkpointing and not model.supports_gradient_checkpointing:
        config.training_args.gradient_checkpointing = False
        config.notes.append(f"{model.config.model_type} 结构没有梯度检查点，"
                            "gradient_checkpointing 按 false 训练")
    model.config.use_cache = False  # 训练不逐字生成，不必存键和值
    return model, tokenizer, name, reason


def training_arguments(config: Config, folder: Path, use_cpu: bool) -> TrainingArguments:
    """把配置换成 TrainingArguments；数据次序由课程表定，所以按顺序取（sequential）。"""
    ours = ("output_dir", "num_train_epochs", "gradient_checkpointing", "predict_with_generate",
            "generation_config", "use_cpu", "torch_compile")
    written = dataclasses.asdict(config.training_args)
    values = {key: value for key, value in written.items() if key not in ours}
    args = TrainingArguments(
        output_dir=str(folder), use_cpu=use_cpu, train_sampling_strategy="sequential",
        label_names=["labels"], logging_nan_inf_filter=False, disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available() and not use_cpu,
        torch_compile=config.training_args.torch_compile and not use_cpu,
        activation_checkpointing=config.training_args.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False}, remove_unused_columns=False, **values)
    if args.n_gpu > 1:
        args._n_gpu = 1  # 否则 Trainer 会用过时的 DataParallel
    return args


def add_lora(base: torch.nn.Module, config: Config, base_name: str, seed: int) -> PeftModel:
    """给基座加 LoRA；可训练的权重总是 fp32。

    base_name 写进 adapter_config.json。target_modules 里有模型没有的层名、peft 加不了时引发 LabError。
    按官方的 query_key_value 训练时，q、k、v 共用一个 A，参数个数与官方相同。
    """
    section, (layers, left_out) = config.peft_config, _linear_layers(base)
    own = {name.rpartition(".")[2] for name in layers}
    targets, shared = lora_targets(section, chatglm3.is_chatglm3(base.config))
    shared &= section.shared_a is not None or "query_key_value" not in own  # 自己就有的层不换成三层
    if targets != "all-linear":
        targets, left_out = adapters.native_targets(targets, own), None
        _check_targets(layers, targets)
    alpha = section.lora_alpha
    lora = LoraConfig(
        task_type=section.task_type, r=section.r, target_modules=targets, exclude_modules=left_out or None,
        lora_dropout=section.lora_dropout,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha)  # 有的推理引擎不认 64.0
    set_seed(seed)  # A 的初值只由种子决定，与之前用过多少随机数无关
    try:
        convert_peft_config_for_transformers(lora, base, None)
        if lora.target_parameters:
            lora.lora_dropout = 0.0  # peft 给专家加 LoRA 时不能有 dropout
        model = get_peft_model(base, lora)
    except ValueError as error:
        raise LabError(f"给 {base.config.model_type} 结构加不了 LoRA：{first_line(error)}。请在配置里把 "
                       f"target_modules 改成其中几种线性层：{sorted(own)}") from error
    if shared:
        adapters.share_a(model)
    model.peft_config["default"].base_model_name_or_path = base_name
    return model


def _linear_layers(base: torch.nn.Module) -> tuple[list[str], list[str]]:
    """(能加 LoRA 的线性层, 加不了的)，输出层不算。"""
    head, mamba = base.get_output_embeddings(), base.config.model_type in MAMBA
    names: tuple[list[str], list[str]] = ([], [])
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head:
            names[mamba and name.endswith(".out_proj") or not _is_ordinary(module)].append(name)
    return names


@torch.no_grad()
def _is_ordinary(module: torch.nn.Module) -> bool:
    """有的结构借 Linear 写路由（返回好几样）、分组的投影（要多一维）：真的算两行，看是不是得到两行。"""
    if not type(module).__module__.startswith("transformers.models."):
        return True
    try:
        rows = module(module.weight.new_zeros(2, module.in_features))
    except RuntimeError:
        return False
    return getattr(rows, "shape", None) == (2, module.out_features)


def _check_targets(layers: list[str], targets: list[str]) -> None:
    """peft 只在一个层名都对不上时报错；写错其中一个会被悄悄忽略，所以按它的规矩（后缀）逐个查。"""
    names = {name.rpartition(".")[2] for name in layers}
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            near = difflib.get_close_matches(target, names, n=1)
            raise LabError(f"配置的 target_modules：模型里没有叫 {target} 的线性层"
                           f"{'，是不是想写 ' + near[0] if near else ''}；有的是 {sorted(names)}")


def coverage(model: PeftModel) -> tuple[list[str], list[str]]:
    """(加了 LoRA 的, 没有加的) 权重矩阵，各按“所在模块.名字”归并；词嵌入与输出层不算。"""
    base, tuner = model.get_base_model(), model.base_model
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    outside = [id(getattr(module, "weight", None)) for module in ends]
    targeted = {*tuner.targeted_module_names, *tuner.targeted_parameter_names}
    kinds: tuple[dict, dict] = ({}, {})
    for name, weight in base.named_parameters():
        if weight.dim() > 1 and id(weight) not in outside and ".lora_" not in name:
            whole = name.replace(".base_layer", "")
            place = [part for part in whole.removesuffix(".weight").split(".") if not part.isdigit()][-2:]
            kinds[not {whole, whole.removesuffix(".weight")} & targeted][".".join(place)] = None
    return list(kinds[0]), list(kinds[1])


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(可训练的参数个数, 全部参数个数)；共用的权重只数一次。"""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def _describe(sources: list[data.Source], truncated: list[int], config: Config, model: PeftModel) -> None:
    """打印每种数据多少条、截断了多少，以及可训练的参数。"""
    for source, long in zip(sources, truncated, strict=True):
        note = f"，其中 {long} 条超过 {config.max_length} 个 token，从右边截断" if long else ""
        print(f"{source.title}：{source.file}，{len(source.conversations)} 条{note}")
    trainable, total = count_parameters(model)
    print(f"可训练参数 {trainable:,} / {total:,}（{trainable / total:.2%}）")
    for words, kinds in zip(("LoRA 加在", "没有加 LoRA"), coverage(model), strict=True):
        if kinds:
            print(f"{words}：{'、'.join(kinds)}")
    if model.peft_config["default"].lora_dropout != config.peft_config.lora_dropout:
        print("说明：专家的 LoRA 不能有 dropout，lora_dropout 按 0 训练")


def _starting_point(folder: Path, resume: str | int, identity: dict[str, Any]) -> Path | None:
    """决定从哪个检查点开始（None：从头），并写好 run.json，内容是 identity。"""
    if checkpoints.checkpoints(folder) and not (folder / checkpoints.RUN).is_file():  # 绝不去删别人的
        raise LabError(f"{files.rel(folder)} 里有别的程序训练的检查点（没有 {checkpoints.RUN}）；"
                       "请换一个 output_dir")
    last = None
    if resume == "auto":
        last = checkpoints.last_valid(folder, identity["max_steps"])
    elif resume is not False:
        last = checkpoints.at_step(folder, resume)
    if last:
        _continue_from(last, identity)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.clear(folder)
    files.write_json(folder / checkpoints.RUN, identity)
    return last


def _continue_from(last: Path, identity: dict[str, Any]) -> None:
    """从 last 接着训练之前：另一次训练的引发 LabError；last 之后的检查点与上次的结果删去。"""
    folder, step, steps = last.parent, checkpoints.step_of(last), identity["max_steps"]
    changed = checkpoints.differences(folder, identity)
    planned = changed.pop("max_steps", None) if step < steps else None
    if changed:
        shown = [f"{key}：{old} → {new}" for key, (old, new) in changed.items()]
        raise LabError(f"{files.rel(folder)} 里是另一次训练（{'；'.join(shown[:4])}）；"
                       "请换一个 output_dir，或清空后重新训练（命令末尾写 no，程序里写 resume=False）")
    checkpoints.discard_after(folder, step)
    if step >= steps:
        print(f"{files.rel(last)} 已训练完，直接使用")
    else:
        print(f"从第 {step} 步接着训练")
        if planned:
            print("max_steps 由 {} 改成 {}：学习率从这里起按新的总步数安排".format(*planned))
        (folder / checkpoints.RESULT).unlink(missing_ok=True)  # 上次的结果，训练完会重写


@dataclass
class Result:
    """一次训练的结果；同样的内容写在 result.json（路径相对仓库根目录）。

    adapter 是最后一个检查点：小数据上验证集损失最低的那个往往还没记住知识。
    samples_per_second 只算训练本身的时间，不含评测与保存。损失是最后一次记录的值。
    """

    output_dir: Path
    adapter: Path
    log: list[dict[str, Any]]
    steps: int
    samples_per_second: float
    final_train_loss: float
    final_dev_loss: float | None
    trainable_parameters: int
    total_parameters: int

    def __str__(self) -> str:
        dev = "没有评测" if self.final_dev_loss is None else f"{self.final_dev_loss:.4f}"
        return (f"适配器：{files.rel(self.adapter)}\n"
                f"步数 {self.steps}，每秒 {self.samples_per_second:.1f} 条样本\n"
                f"训练损失 {self.final_train_loss:.4f}，验证集损失 {dev}\n"
                f"可训练参数 {self.trainable_parameters:,} / {self.total_parameters:,}"
                f"（{self.trainable_parameters / self.total_parameters:.2%}）")


def _result(folder: Path, model: PeftModel, steps: int, batch: int) -> Result:
    """由日志和最后的检查点得出结果，写 result.json 与 loss.png。"""
    log = read_log(folder / checkpoints.LOG)
    last = {key: row[key] for row in log for key in ("loss", "eval_loss", "seconds") if key in row}
    if not {"loss", "seconds"} <= last.keys():
        raise LabError(f"{files.rel(folder / checkpoints.LOG)} 不见了或只有一半，得不出这次训练的结果；"
                       "请从头训练（命令末尾写 no，程序里写 resume=False）")
    trainable, total = count_parameters(model)
    result = Result(
        output_dir=folder, adapter=folder / f"checkpoint-{steps}", log=log, steps=steps,
        samples_per_second=round(steps * batch / max(last["seconds"], 1e-9), 2),
        final_train_loss=last["loss"], final_dev_loss=last.get("eval_loss"),
        trainable_parameters=trainable, total_parameters=total)
    values = dataclasses.asdict(result)
    values |= {key: files.from_root(values[key]) for key in ("output_dir", "adapter")}
    files.write_json(folder / checkpoints.RESULT, values)
    from labutils.base import figures  # 画图才导入：matplotlib 要半秒

    figures.loss_curve(log, path=folder / checkpoints.CURVE)
    return result
