"""多个种子各跑一遍“划分 → 微调 → 对比”,给出均值与范围:``python benchmarks/seeds.py``。

种子同时决定划分(哪种问法留给验证集)、LoRA 初值和数据顺序,所以范围就是“换一次运气”的差别。
结果写进 benchmarks/seeds.json 与 seeds.md,README 引用后者,不手抄数字。
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import labutils  # noqa: F401  先设好环境变量
from labutils.base import files
from labutils.comparison import evaluate
from labutils.dataset import build
from labutils.models import loader
from labutils.training import finetune

GROUPS = {
    "train": "训练过的问法", "unseen": "没见过的问法",
    "general": "一般能力", "unanswerable": "材料没写的问题",
}


def one_seed(seed: int, model: str, config: str, folder: Path, overrides: dict) -> dict:
    """一个种子的全部数字。"""
    build.build_dataset(build.COURSE_PDF, files.DATA / "qa.jsonl", folder, seed=seed)
    began = time.perf_counter()
    result = finetune.run(folder / "data", model, config, folder / "lora", seed=seed, **overrides)
    seconds = time.perf_counter() - began
    tuned, tokenizer = loader.load(result.adapter)
    groups = evaluate.load_groups(folder / "data" / "qa.jsonl", folder / "data",
                                    files.DATA / "probes")
    compared = evaluate.compare(tuned, tokenizer, groups, folder / "comparison")
    figures = {f"{stage}_{group}": getattr(compared, stage)[group]["accuracy"]
               for stage in ("before", "after") for group in GROUPS}
    figures["lexical_unseen"] = compared.lexical_baseline["unseen"]["accuracy"]
    return {"seed": seed, "finetune_seconds": round(seconds, 1), **figures}


def table(rows: list[dict]) -> str:
    """Markdown 表:均值(最小–最大)。"""
    def cell(key: str) -> str:
        values = [row[key] for row in rows]
        return f"{statistics.mean(values):.0%}({min(values):.0%}–{max(values):.0%})"

    seeds = "、".join(str(row["seed"]) for row in rows)
    lines = [f"种子 {seeds} 的均值(最小–最大):", "", "| 问题组 | 微调前 | 微调后 |", "|---|---|---|"]
    lines += [f"| {name} | {cell('before_' + key)} | {cell('after_' + key)} |"
              for key, name in GROUPS.items()]
    lines += [f"| 没见过的问法,最强的字面基线 | {cell('lexical_unseen')} | |", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--config", default=str(files.CONFIGS / "lora_tiny.yaml"))
    parser.add_argument("--out", default=str(Path(__file__).with_name("seeds")))
    parser.add_argument("--set", nargs="*", default=[], metavar="键=值", help="改配置,例如 max_steps=200")
    arguments = parser.parse_args()
    overrides = {key: json.loads(value) for key, value in (s.split("=") for s in arguments.set)}
    rows = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one_seed(seed, arguments.model, arguments.config, Path(folder), overrides))
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    text = json.dumps(rows, ensure_ascii=False, indent=2)
    Path(arguments.out + ".json").write_text(text + "\n", encoding="utf-8")
    Path(arguments.out + ".md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
