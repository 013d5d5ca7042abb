"""一次微调要准备的东西：数据、基座加 LoRA、Trainer 的参数。由 finetune.run 调用。

讲解在 notebooks/02_lora_finetune.ipynb。


LoRA 微调：一个函数 run() 从数据、基座和配置到适配器；中断后再调用一次就接着训练。

训练循环用 transformers.Trainer，LoRA 用 peft；这里只有把它们接起来的部分。
LoRA 的方法出自 Hu 等 2021（arXiv:2106.09685）；讲解在 notebooks/02_lora_finetune.ipynb。
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from labutils.base import figures, files
from labutils.base.errors import LabError
from labutils.models import adapters, chatglm3, loader
from labutils.training import checkpoints, data
from labutils.training.callbacks import (
    FinishWithRecord,
    LiveLossCurve,
    PrintProgress,
    StopWhenBroken,
    TrainingLog,
    read_log,
)
from labutils.training.checkpoints import explained, find_adapter
from labutils.training.config import Config, load_config, lora_targets, override
from labutils.training.data import LeftCollator

DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Job:
    """一次训练要用到的东西，在 run() 的各步之间传递。"""

    config: Config
    folder: Path
    model: PeftModel
    train: data.PlannedDataset
    dev: list[dict[str, list[int]]]
    args: TrainingArguments
    pad_id: int
    batch: int
    steps_per_epoch: float
    identity: dict[str, Any]


def prepare(config: Config, data_dir: Path, model_name: str, folder: Path) -> Job:
    """读数据、载入基座、加上 LoRA、排好课程表，并打印这次训练的概况。"""
    seed = config.training_args.seed
    sources = data.read_training(config, data_dir)
    dev_source = data.read_dev(config, data_dir)
    base, tokenizer, dtype, reason = _load_base(model_name, config)
    args = training_arguments(config, folder, use_cpu=base.device.type == "cpu")
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    total = None if args.max_steps < 0 else args.max_steps * batch
    train = data.PlannedDataset(tokenizer, sources, config, total, batch, seed, data.questions(dev_source))
    args.max_steps = len(train) // batch
    _, dev, truncated = data.encode_source(tokenizer, dev_source, config.max_length)
    identity = checkpoints.identity(
        config.as_dict(), data.data_digest([*sources, dev_source]),
        checkpoints.base_reference(model_name), checkpoints.weights_digest(base), seed,
        args.max_steps, dtype)
    identity["进程数"] = args.world_size  # 换了进程数，每个进程看到的样本与随机数都不同
    model = add_lora(base, config, checkpoints.base_reference(model_name), seed)
    job = Job(config, folder, model, train, dev, args,
               tokenizer.pad_token_id or 0, batch, train.per_epoch / batch, identity)
    if args.process_index == 0:
        _describe(job, [*sources, dev_source], [*train.truncated, truncated], reason)
    return job


def _load_base(model_name: str, config: Config) -> tuple[Any, Any, str, str]:
    """载入基座；返回 (模型, 分词器, 精度名, 选设备与精度的理由)。"""
    if (files.resolve(model_name) / "adapter_config.json").is_file():
        raise LabError(f"{files.rel(files.resolve(model_name))} 是适配器，不能当基座；"
                       "要接着训练它，请用原来的基座并指定同一个 output_dir")
    device = "cpu" if config.training_args.use_cpu else _own_gpu()
    device, dtype, reason = loader.pick_device_dtype(DTYPES[config.dtype], device)
    model, tokenizer = loader.load(model_name, dtype=dtype, device=device,
                                   quantization=config.quantization)
    model.config.use_cache = False  # 训练不逐字生成，不必存键和值
    return model, tokenizer, str(dtype).removeprefix("torch."), reason


def _own_gpu() -> str | None:
    """多卡时每个进程用自己那块 GPU：启动程序（torchrun、accelerate launch）把编号写在 LOCAL_RANK 里。"""
    if "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return None
    number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= count:
        raise LabError(f"这台机器只有 {count} 块 GPU，却启动了更多进程；请把 --nproc_per_node 改成 {count}")
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def on_main_process(args: TrainingArguments, work: Callable[[], Any]) -> Any:
    """只在主进程做 work()，把它的结果或 LabError 传给所有进程；只有一个进程时就是直接调用。"""
    outcome: list[Any] = [None]
    if args.process_index == 0:
        try:
            outcome = [(work(), "")]
        except LabError as error:
            if args.world_size == 1:
                raise
            outcome = [(None, str(error))]
    if args.world_size > 1:
        torch.distributed.broadcast_object_list(outcome, src=0)
    value, message = outcome[0]
    if message:
        raise LabError(message)
    return value


def add_lora(base: torch.nn.Module, config: Config, base_name: str, seed: int) -> PeftModel:
    """给基座加 LoRA；可训练的权重总是 fp32。

    base_name 写进 adapter_config.json。target_modules 里有模型没有的层名时引发 LabError。
    按官方的 query_key_value 训练时，q、k、v 共用一个 A，参数个数与官方相同。
    """
    section = config.peft_config
    targets, shared = lora_targets(section, chatglm3.is_chatglm3(base.config))
    targets = adapters.native_targets(targets)
    _check_targets(base, targets)
    set_seed(seed)  # A 的初值只由种子决定，与之前用过多少随机数无关
    model = get_peft_model(base, LoraConfig(
        task_type=section.task_type, r=section.r, lora_alpha=_whole(section.lora_alpha),
        lora_dropout=section.lora_dropout, target_modules=targets))
    if shared:
        adapters.share_a(model)
    model.peft_config["default"].base_model_name_or_path = base_name
    return model


def _whole(alpha: float) -> int | float:
    """整数就写成整数：有的推理引擎不认 adapter_config.json 里的 64.0。"""
    return int(alpha) if alpha == int(alpha) else alpha


def _check_targets(base: torch.nn.Module, targets: str | list[str]) -> None:
    """peft 只在一个层名都对不上时报错；写错其中一个会被悄悄忽略，所以逐个查。"""
    names = {name.rsplit(".", 1)[-1] for name, module in base.named_modules()
             if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    for target in [] if targets == "all-linear" else targets:
        if target.rsplit(".", 1)[-1] not in names:
            near = difflib.get_close_matches(target, names, n=1)
            raise LabError(f"配置的 target_modules：模型里没有叫 {target} 的线性层"
                           f"{'，是不是想写 ' + near[0] if near else ''}；有的是 {sorted(names)}")


def training_arguments(config: Config, folder: Path, use_cpu: bool) -> TrainingArguments:
    """把配置换成 TrainingArguments；数据次序由课程表定，所以按顺序取（sequential）。"""
    ours = ("output_dir", "num_train_epochs", "gradient_checkpointing", "group_by_length",
            "predict_with_generate", "generation_config", "use_cpu")
    values = {f.name: getattr(config.training_args, f.name)
              for f in dataclasses.fields(config.training_args) if f.name not in ours}
    if config.training_args.gradient_checkpointing:
        values |= {"activation_checkpointing": True,
                   "activation_checkpointing_kwargs": {"use_reentrant": False}}
    args = TrainingArguments(
        output_dir=str(folder), use_cpu=use_cpu, train_sampling_strategy="sequential",
        label_names=["labels"], logging_nan_inf_filter=False, disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available() and not use_cpu,
        ddp_find_unused_parameters=False, **values)
    if args.n_gpu > 1:
        args._n_gpu = 1  # 否则 Trainer 会用过时的 DataParallel；多卡请用 accelerate launch
    return args


class LabTrainer(Trainer):
    """保存时只留适配器：不写含机器路径的模型卡，也不写 pickle 的训练参数。"""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            self.model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(可训练的参数个数, 全部参数个数)；共用的权重只数一次。"""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def _describe(job: Job, sources: list[data.Source], truncated: list[int], reason: str) -> None:
    """打印这次训练的概况：设备、每种数据多少条、截断了多少、可训练参数、步数。"""
    print(reason)
    for source, long in zip(sources, truncated, strict=True):
        note = f"，其中 {long} 条超过 {job.config.max_length} 个 token，从右边截断" if long else ""
        print(f"{source.title}：{source.file}，{len(source.conversations)} 条{note}")
    trainable, total = count_parameters(job.model)
    print(f"可训练参数 {trainable:,} / {total:,}（{trainable / total:.2%}）")
    print(f"共 {job.args.max_steps} 步，每步 {job.batch} 条，约 "
          f"{job.args.max_steps / job.steps_per_epoch:.1f} 轮")
    for note in job.config.notes:
        print(f"说明：{note}")


LOG = "training_log.jsonl"


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


def run(data_dir: str | Path, model_name: str, config_path: str | Path,
        output_dir: str | Path | None = None, resume: str | bool | int = "auto",
        seed: int | None = None, callbacks: Iterable[TrainerCallback] = (),
        **overrides: Any) -> Result:
    """按配置微调，返回 Result。

    output_dir 缺省为 <配置的 output_dir>/<配置文件名>。resume 的取值：
    "auto" 有可用的检查点就接着训练，已训练完就直接返回，没有就从头开始；
    "yes" 相同，只是允许把 max_steps 改大；True 必须接着训练；整数 N 从 checkpoint-N 接着训练；
    False 清空后从头训练。True 与整数也允许把 max_steps 改大。
    文件夹里的训练与这次的配置、数据、基座或种子不同时引发 LabError（resume=False 除外）。
    overrides 按名字改配置项，例如 max_steps=20。
    """
    if seed is not None:
        overrides["seed"] = seed
    config = override(load_config(config_path), overrides)
    folder = files.place(output_dir or
                         Path(config.training_args.output_dir) / Path(config_path).stem)
    job = prepare(config, files.resolve(data_dir), str(model_name), folder)
    start = on_main_process(
        job.args, explained(folder)(lambda: _starting_point(folder, resume, job)))
    if start is None or checkpoints.step_of(start) < job.args.max_steps:
        with explained(folder):
            _train(job, start, list(callbacks))
    return on_main_process(job.args, explained(folder)(lambda: _result(job)))


def find_or_train(adapter: str, folder: str | Path, data_dir: str | Path, model_name: str,
                  seed: int) -> Path:
    """可用的适配器文件夹：点名的 adapter，或 folder 里最新的检查点；都没有就现在训练一个。

    点名要的适配器不能用时引发 LabError，不悄悄换成别的。notebook 03、04 单独运行时用它。
    """
    if adapter:
        return find_adapter(files.resolve(adapter))
    try:
        return find_adapter(folder)
    except LabError as error:
        print(f"{error}\n现在用默认配置训练一个：")
    config = files.CONFIGS / ("lora_tiny.yaml" if model_name == "tiny" else "lora.yaml")
    return run(data_dir, model_name, config, output_dir=folder, seed=seed).adapter


def _starting_point(folder: Path, resume: str | bool | int, job: Job) -> Path | None:
    """决定从哪个检查点开始（None：从头），并写好 run.json。"""
    last = None
    checkpoints.refuse_foreign(folder)
    if resume is not False and folder.is_dir():
        exact = isinstance(resume, int) and not isinstance(resume, bool)
        last = checkpoints.at_step(folder, resume) if exact else checkpoints.last_valid(
            folder, job.args.max_steps)
    if last is None and resume not in ("auto", "yes", False):
        raise LabError(f"{files.rel(folder)} 里没有可以接着训练的检查点；要从头训练，命令末尾写 auto，"
                       "程序里写 resume=\"auto\"")
    if last is None:
        if resume == "yes":
            print("还没有检查点，从头训练")
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.clear(folder)
    else:
        changed = checkpoints.differences(folder, job.identity)
        if resume != "auto" and job.args.max_steps > checkpoints.step_of(last):
            changed = [item for item in changed if not item.startswith("max_steps：")]
        if changed:
            raise LabError(f"{files.rel(folder)} 里是另一次训练（{'；'.join(changed[:4])}）；"
                           "请换一个 output_dir，或清空后重新训练（命令末尾写 no，程序里写 resume=False）")
        checkpoints.discard_after(folder, checkpoints.step_of(last))
        step = checkpoints.step_of(last)
        if step >= job.args.max_steps:
            print(f"{files.rel(last)} 已训练完，直接使用")
        else:
            print(f"从第 {step} 步接着训练")
            (folder / checkpoints.RESULT).unlink(missing_ok=True)  # 上次的结果，训练完会重写
    files.write_json(folder / "run.json", job.identity)
    return last


def _train(job: Job, start: Path | None, callbacks: list[TrainerCallback]) -> None:
    evaluate = job.config.training_args.eval_strategy != "no"
    job.args.eval_on_start = evaluate and start is None
    step = checkpoints.step_of(start) if start else 0
    quiet = any(isinstance(c, LiveLossCurve) for c in callbacks) and LiveLossCurve.in_notebook()
    log = TrainingLog(job.folder / LOG, step, job.steps_per_epoch, write=job.args.process_index == 0)
    watchers = [StopWhenBroken(), log, FinishWithRecord(evaluate),
                *([] if quiet else [PrintProgress()]), *callbacks]
    trainer = LabTrainer(model=job.model, args=job.args, train_dataset=job.train,
                         eval_dataset=job.dev, data_collator=LeftCollator(job.pad_id),
                         callbacks=watchers)
    trainer.remove_callback(PrinterCallback)  # 它打印英文字典；进度由 PrintProgress 打印
    set_seed(job.args.seed)
    trainer.train(resume_from_checkpoint=str(start) if start else None)


def _result(job: Job) -> Result:
    """由日志和最后的检查点得出结果，写 result.json 与 loss.png。"""
    log = read_log(job.folder / LOG)
    last = {key: row[key] for row in log for key in ("loss", "eval_loss", "seconds") if key in row}
    if not {"loss", "seconds"} <= last.keys():
        raise LabError(f"{files.rel(job.folder / LOG)} 不见了或只有一半，得不出这次训练的结果；"
                       "请从头训练（命令末尾写 no，程序里写 resume=False）")
    trainable, total = count_parameters(job.model)
    steps = job.args.max_steps
    result = Result(
        output_dir=job.folder, adapter=job.folder / f"checkpoint-{steps}", log=log, steps=steps,
        samples_per_second=round(steps * job.batch / max(last["seconds"], 1e-9), 2),
        final_train_loss=last["loss"], final_dev_loss=last.get("eval_loss"),
        trainable_parameters=trainable, total_parameters=total)
    values = dataclasses.asdict(result)
    for key in ("output_dir", "adapter"):
        values[key] = files.from_root(values[key])
    files.write_json(job.folder / checkpoints.RESULT, values)
    figures.loss_curve(log, path=job.folder / "loss.png")
    return result
