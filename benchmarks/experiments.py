"""改一处，其余不动，各训练一遍，看四组题答对多少：``python benchmarks/experiments.py --write``。

notebook 05 画的就是这些结果。每跑完一次就写进 benchmarks/experiments.json，停下再运行，跑完的不再跑；
基座、数据或配置变了，旧的结果就作废。``--only course qa_only`` 只跑名字这样开头的，
``--jobs 2`` 两个进程同时跑；``--questions 5`` 每组只问前五题，用来试一试。
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import labutils  # noqa: F401  先设好环境变量
from labutils.base import files
from labutils.comparison import evaluate
from labutils.comparison.metrics import GROUPS, fact_correct
from labutils.dataset import build
from labutils.dataset.rows import UNANSWERABLE
from labutils.models import chat, generate, loader
from labutils.training import data, finetune
from labutils.training.config import load_config, override

CONFIG = files.CONFIGS / "lora_tiny.yaml"
OUT = Path(__file__).with_suffix(".json")
SEED = 42


@dataclass
class Run:
    """一次训练：在课程的做法上改了什么。full：训练全部参数，不用 LoRA；unmasked：问题也算损失。"""

    name: str
    title: str
    changes: dict = field(default_factory=dict)
    seed: int = SEED
    full: bool = False
    unmasked: bool = False
    trained: bool = True


def planned() -> list[Run]:
    """全部要跑的，要紧的在前。"""
    course = load_config(CONFIG)
    rate, rank = course.training_args.learning_rate, course.peft_config.r
    no_mix = {"general_ratio": 0.0, "unanswerable_ratio": 0.0}
    gentle = {"learning_rate": 5e-4}

    def seeds(name: str, title: str, changes: dict, *values: int) -> list[Run]:
        return [Run(f"{name}-{seed}", title, changes, seed) for seed in values]

    def ranks(*values: int) -> list[Run]:
        return [Run(f"rank-{r}", f"秩 {r}", {"r": r, "lora_alpha": 2.0 * r}) for r in values]

    def rates(*values: float) -> list[Run]:
        return [Run(f"rate-{factor:.2g}", f"学习率 ×{factor:.2g}", {"learning_rate": rate * factor})
                for factor in values]

    def scaled(*values: float) -> list[Run]:
        return [Run(f"alpha-{ratio}", f"α/r = {ratio}", {"lora_alpha": ratio * rank}) for ratio in values]

    return [
        Run("base", "不训练", trained=False), *seeds("course", "课程的做法", {}, *range(SEED, SEED + 5)),
        *seeds("qa_only", "只学问答", no_mix, SEED), *rates(3, 1 / 10), *ranks(1, 4),
        Run("full", "全量微调", gentle, full=True), Run("unmasked", "问题也算损失", unmasked=True),
        *seeds("qa_only", "只学问答", no_mix, SEED + 1), *scaled(8, 0.5), *rates(1 / 3), *ranks(16),
        *seeds("qa_only", "只学问答", no_mix, SEED + 2), *scaled(1, 4), *ranks(2, 8),
        Run("full-qa_only", "全量微调，只学问答", gentle | no_mix, full=True),
        Run("full-same_rate", "全量微调，学习率与 LoRA 相同", full=True),
    ]


def measure(run: Run, extra: dict, count: int | None) -> dict:
    """训练一次，四组题各答一遍：答对几题、可训练的参数、要存的字节数、损失、秒数。"""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder, began = Path(name), time.perf_counter()
        build.build_dataset(build.COURSE_PDF, files.DATA / "qa.jsonl", folder, seed=run.seed)
        model, tokenizer, figures = loader.load("tiny") + ({},) if not run.trained else (
            full if run.full else lora)(run, folder, run.changes | extra)
        seconds = time.perf_counter() - began
        loaded = evaluate.load_groups(folder / "data" / "qa.jsonl", folder / "data", files.DATA / "probes")
        groups = {group: items[:count] for group, items in loaded.items()}
        return {"title": run.title, "seed": run.seed, "changes": run.changes, "full": run.full,
                "unmasked": run.unmasked, "seconds": round(seconds), **figures,
                "right": {group: right(model, tokenizer, items) for group, items in groups.items()},
                "asked": {group: len(items) for group, items in groups.items()}}


def right(model, tokenizer, items: list[dict]) -> int:
    """答对几题：与 comparison 同样的提示词、贪心解码与要点。"""
    replies = generate.answer(model, tokenizer, [row.get("messages") or row["question"] for row in items])
    return sum(fact_correct(reply, row["key_points"]) for reply, row in zip(replies, items, strict=True))


def lora(run: Run, folder: Path, changes: dict) -> tuple:
    """课程的 LoRA 微调；unmasked 时每个词元都是标签。"""
    def everything(*args, **options):
        sample = encode(*args, **options)
        return sample | {"labels": list(sample["input_ids"])}

    encode = chat.encode
    with mock.patch.object(chat, "encode", everything if run.unmasked else encode):
        result = finetune.run(folder / "data", "tiny", CONFIG, folder / "lora", seed=run.seed, **changes)
    saved = (result.adapter / "adapter_model.safetensors").stat().st_size
    return *loader.load(result.adapter), {"trainable": result.trainable_parameters, "bytes": saved,
                                          "losses": losses(result.log)}


def full(run: Run, folder: Path, changes: dict) -> tuple:
    """全量微调：同样的样本与次序，transformers 自己的 Trainer，不加 LoRA。"""
    from transformers import PrinterCallback, Trainer, set_seed

    config = override(load_config(CONFIG), changes | {"eval_strategy": "no", "save_steps": 10**6})
    model, tokenizer = loader.load("tiny")
    args = finetune.training_arguments(config, folder / "full", use_cpu=True)
    batch, source = args.train_batch_size, data.read_dev(config, folder / "data")
    samples = data.PlannedDataset(tokenizer, data.read_training(config, folder / "data"), config,
                                  args.max_steps * batch, batch, run.seed, data.questions(source))
    set_seed(run.seed)
    trainer = Trainer(model=model.train(), args=args, train_dataset=samples,
                      data_collator=data.LeftCollator(tokenizer.pad_token_id))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval().save_pretrained(folder / "saved")
    saved = sum(path.stat().st_size for path in (folder / "saved").glob("*.safetensors"))
    return model, tokenizer, {"trainable": finetune.count_parameters(model)[0], "bytes": saved,
                              "losses": losses(trainer.state.log_history)}


def losses(log: list[dict]) -> list[list]:
    """[[步数, 训练损失], …]"""
    return [[row["step"], round(row["loss"], 4)] for row in log if "loss" in row]


def made_by(run: Run, extra: dict, count: int | None) -> str:
    """基座、数据、配置、问几题与这次改动的摘要：有一样变了，旧的结果就不算数。"""
    config = override(load_config(CONFIG), run.changes | extra)
    settings = dataclasses.asdict(config) | {"path": None}
    del settings["training_args"]["torch_compile"]  # 只管快慢，不管结果
    known = [run.seed, run.full, run.unmasked, run.trained, settings] + [count] * (count is not None)
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    read = ["qa.jsonl", "probes/general.jsonl", UNANSWERABLE[1], "general_train.jsonl", UNANSWERABLE[0]]
    for path in [loader.WEIGHTS / "model.safetensors", build.COURSE_PDF, *map(files.DATA.joinpath, read)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def table(rows: list[dict]) -> str:
    """Markdown 表，一行一次训练。"""
    lines = [f"| 做法 | 种子 | {' | '.join(GROUPS.values())} | 可训练的参数 | 秒 |",
             "|---|---|" + "---|" * (len(GROUPS) + 2)]
    for row in rows:
        shares = " | ".join(f"{row['right'][group] / row['asked'][group]:.0%}" for group in GROUPS)
        lines.append(f"| {row['title']} | {row['seed']} | {shares} | {row.get('trainable', 0):,} | "
                     f"{row['seconds']} |")
    return "\n".join(lines) + "\n"


def work(job: tuple[Run, dict, int | None]) -> tuple[str, dict]:
    return job[0].name, {"made_by": made_by(*job), **measure(*job)}


def save(out: Path, rows: dict[str, dict]) -> None:
    """结果文件，一行一次训练；旁边一份给人看的表。"""
    lines = (f"{json.dumps(name)}: {json.dumps(row, ensure_ascii=False)}" for name, row in rows.items())
    files.write(out, "{\n" + ",\n".join(lines) + "\n}\n")
    files.write(out.with_suffix(".md"), table(list(rows.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="跑没有跑过的；不写就只看已有的")
    parser.add_argument("--only", nargs="+", default=[""], metavar="名字", help="只跑名字这样开头的")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--questions", type=int, metavar="题数", help="每组只问前几题")
    parser.add_argument("--out", type=Path, default=OUT, help="结果文件")
    parser.add_argument("--set", nargs="*", default=[], metavar="键=值", help="改配置，例如 max_steps=3")
    arguments = parser.parse_args()
    extra = {key: json.loads(value) for key, value in (text.split("=") for text in arguments.set)}
    kept = json.loads(arguments.out.read_text("utf-8")) if arguments.out.is_file() else {}
    runs = planned()
    known = {run.name: kept[run.name] for run in runs
             if kept.get(run.name, {}).get("made_by") == made_by(run, extra, arguments.questions)}
    todo = [run for run in runs if run.name not in known and run.name.startswith(tuple(arguments.only))]
    if arguments.write:
        with multiprocessing.get_context("spawn").Pool(arguments.jobs, maxtasksperchild=1) as pool:
            for name, row in pool.imap_unordered(work, [(run, extra, arguments.questions) for run in todo]):
                known[name] = row
                save(arguments.out, {run.name: known[run.name] for run in runs if run.name in known})
                print(table([row]).splitlines()[-1], flush=True)
    print(table(list(known.values())))


if __name__ == "__main__":
    main()
