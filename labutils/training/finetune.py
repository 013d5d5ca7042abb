"""LoRA 微调：一个函数 run() 从数据、基座和配置到适配器；中断后再调用一次就接着训练。

训练循环用 transformers.Trainer，LoRA 用 peft；这里只有把它们接起来的部分。
LoRA 的方法出自 Hu 等 2021（arXiv:2106.09685）；讲解在 notebooks/02_lora_finetune.ipynb。
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, set_seed

from labutils.base import paths, plots
from labutils.base.errors import LabError
from labutils.comparison.evaluation_inputs import find_adapter
from labutils.models.adapter_check import check_adapter_alive
from labutils.training import checkpoints
from labutils.training.finetune_config import load_config, override
from labutils.training.training_callbacks import (
    FinishWithRecord,
    LiveLossCurve,
    PrintProgress,
    StopWhenBroken,
    TrainingLog,
    read_log,
)
from labutils.training.training_data import LeftCollator
from labutils.training.training_errors import explained
from labutils.training.training_job import (
    Job,
    LabTrainer,
    add_lora,
    count_parameters,
    on_main_process,
    prepare,
)

__all__ = ["LiveLossCurve", "Result", "add_lora", "check_adapter_alive", "count_parameters",
           "find_or_train", "load_config", "run"]

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
        return (f"适配器：{paths.rel(self.adapter)}\n"
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
    folder = paths.resolve(output_dir or
                           Path(config.training_args.output_dir) / Path(config_path).stem)
    job = prepare(config, Path(paths.resolve(data_dir)), str(model_name), folder)
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
        return find_adapter(paths.resolve(adapter))
    try:
        return find_adapter(folder)
    except LabError as error:
        print(f"{error}\n现在用默认配置训练一个：")
    config = paths.CONFIGS / ("lora_tiny.yaml" if model_name == "tiny" else "lora.yaml")
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
        raise LabError(f"{paths.rel(folder)} 里没有可以接着训练的检查点；要从头训练，命令末尾写 auto，"
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
            raise LabError(f"{paths.rel(folder)} 里是另一次训练（{'；'.join(changed[:4])}）；"
                           "请换一个 output_dir，或清空后重新训练（命令末尾写 no，程序里写 resume=False）")
        checkpoints.discard_after(folder, checkpoints.step_of(last))
        step = checkpoints.step_of(last)
        if step >= job.args.max_steps:
            print(f"{paths.rel(last)} 已训练完，直接使用")
        else:
            print(f"从第 {step} 步接着训练")
            (folder / checkpoints.RESULT).unlink(missing_ok=True)  # 上次的结果，训练完会重写
    checkpoints.write_json(folder / "run.json", job.identity)
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
        raise LabError(f"{paths.rel(job.folder / LOG)} 不见了或只有一半，得不出这次训练的结果；"
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
        values[key] = checkpoints.from_root(values[key])
    checkpoints.write_json(job.folder / checkpoints.RESULT, values)
    plots.loss_curve(log, path=job.folder / "loss.png")
    return result
