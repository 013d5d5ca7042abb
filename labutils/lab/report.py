"""一次运行的摘要（summary.json，给机器读）与报告（report.html，给人读）。

两份文件里的每个数字都来自 notebook 写下的文件，这里不做任何估计。
"""

import json
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from labutils.base import files

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "gradio", "labutils")
GROUPS = {
    "train": "训练过的问法",
    "unseen": "没见过的问法",
    "general": "通用能力",
    "unanswerable": "材料没写的问题",
}
TRAINING_KEYS = (
    "steps",
    "samples_per_second",
    "final_train_loss",
    "final_dev_loss",
    "trainable_parameters",
)
_CLEAR_GAIN, _CLEAR_LOSS = 0.2, 0.1  # 判断“有明显效果”“忘了旧本领”的门槛


def summarize(
    folder: Path, model: str, seed: int, seconds: dict[str, float], failed: dict | None
) -> dict:
    """从 folder/output 里的文件汇总 summary.json 的内容。

    运行没有报错、但该有的结果文件缺了，也算失败，并写明缺哪个文件。
    """
    output = folder / "output"
    result = _read_json(output / "lora" / "result.json")
    comparison = _read_json(output / "comparison" / "comparison.json")
    if failed is None:
        failed = _missing_results(output)
    return {
        "ok": failed is None,
        "model": model,
        "seed": seed,
        "versions": versions(),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "qa": {
            "pairs": _count_lines(output / "data" / "qa.jsonl"),
            "train": _count_lines(output / "data" / "train.json"),
            "dev": _count_lines(output / "data" / "dev.json"),
        },
        "training": {key: result.get(key) for key in TRAINING_KEYS},
        "accuracy": {
            when: {
                group: {key: comparison[when].get(group, {}).get(key) for key in ("accuracy", "n")}
                for group in GROUPS
            }
            for when in ("before", "after")
            if when in comparison
        },
        "adapter": result.get("adapter"),
        "failed": failed,
    }


def versions() -> dict[str, str]:
    """Python 与主要依赖的版本。"""
    found = {"python": python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # 没有安装、直接从源码文件夹运行时
            found[name] = "未安装"
    return found


def _missing_results(output: Path) -> dict | None:
    expected = {
        "01_build_dataset": output / "data" / "train.json",
        "02_lora_finetune": output / "lora" / "result.json",
        "03_before_after": output / "comparison" / "comparison.json",
    }
    for notebook, path in expected.items():
        if not path.is_file():
            error = f"运行完了，却没有写出 {path.relative_to(output.parent).as_posix()}。"
            return {"notebook": notebook, "cell": None, "error": error}
    return None


def _read_json(path: Path) -> dict:
    """读 JSON；文件不存在（前面的步骤失败了）时返回空字典。"""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _count_lines(path: Path) -> int | None:
    return len(files.read_rows(path, torn="skip")) if path.is_file() else None


def verdict(summary: dict) -> tuple[str, str]:
    """给人看的结论：（"good" | "warn" | "bad"，一句话）。"""
    if not summary["ok"]:
        return "bad", "运行没有完成：" + describe_failure(summary["failed"])
    before, after = (
        {group: item["accuracy"] for group, item in summary["accuracy"][when].items()}
        for when in ("before", "after")
    )
    change = f"没见过的问法答对率 {percent(before['unseen'])} → {percent(after['unseen'])}"
    if after["unseen"] - before["unseen"] < _CLEAR_GAIN:
        return "warn", f"微调没有明显效果：{change}。可以加大步数、学习率或秩，再跑一次。"
    forgot = [
        GROUPS[group]
        for group in ("general", "unanswerable")
        if after[group] is not None and before[group] - after[group] > _CLEAR_LOSS
    ]
    if forgot:
        return "warn", f"学会了文档（{change}），但「{'」「'.join(forgot)}」明显变差。"
    kept = f"通用能力 {percent(before['general'])} → {percent(after['general'])}"
    return "good", f"微调起作用了：{change}；{kept}。"


def describe_failure(failed: dict) -> str:
    """失败记录 → 一句话：哪个 notebook、第几个单元、什么原因。"""
    cell = f" 的单元 [{failed['cell']}]" if failed["cell"] is not None else ""
    return f"{failed['notebook']}{cell}：{failed['error']}"


def percent(value: float | None) -> str:
    return "—" if value is None else f"{value:.0%}"


def write(folder: Path, summary: dict, options: dict, road: list[str]) -> Path:
    """写 folder/summary.json 与 folder/report.html，返回报告的路径。"""
    text = json.dumps(summary, ensure_ascii=False, indent=2)
    files.write(folder / "summary.json", text + "\n")
    target = folder / "report.html"
    files.write(target, render(folder, summary, options, road))
    return target


def render(folder: Path, summary: dict, options: dict, road: list[str]) -> str:
    """报告的 HTML：一个文件、不引用外部资源；一切文字都转义，模型的输出不会变成标记。"""
    from labutils.base.figures import template

    comparison = _read_json(folder / "output" / "comparison" / "comparison.json")
    level, sentence = verdict(summary)
    log = files.read_rows(folder / "output" / "lora" / "training_log.jsonl", torn="skip")
    return template("lab/report.html.j2", percent=percent).render(
        summary=summary,
        level=level,
        verdict=sentence,
        groups=GROUPS,
        baseline=comparison.get("lexical_baseline", {}).get("unseen"),
        examples=pick_examples(comparison.get("rows", [])),
        chart=loss_chart([row for _, row in log]),
        options=options,
        steps=_steps(folder, road, summary),
        written=datetime.now().strftime("%Y-%m-%d %H:%M"),
        folder=files.rel(folder),
    )


def _steps(folder: Path, road: list[str], summary: dict) -> list[dict]:
    bad = (summary["failed"] or {}).get("notebook")
    return [
        {
            "name": name,
            "seconds": summary["seconds"].get(name),
            "state": "失败" if name == bad else "完成" if name in summary["seconds"] else "未运行",
            "link": f"{name}.html" if (folder / f"{name}.html").is_file() else None,
        }
        for name in road
    ]


def pick_examples(rows: list[dict], per_group: int = 4) -> list[dict]:
    """并排例子：每组先取“由错变对”的，再取“仍然错”的，各组数量相同，好坏都看得到。"""
    chosen = []
    for group in GROUPS:
        mine = [row for row in rows if row.get("group") == group]
        fixed = [r for r in mine if r.get("after_correct") and not r.get("before_correct")]
        wrong = [r for r in mine if not r.get("after_correct")]
        rest = [r for r in mine if r not in fixed and r not in wrong]
        order = fixed[: per_group - 1] + wrong[:1] + rest + fixed[per_group - 1 :]
        chosen += order[:per_group]
    return chosen


def loss_chart(log: list[dict], width: int = 640, height: int = 240) -> dict | None:
    """损失曲线的 SVG 坐标：{"train": 点串，"dev": 点串，刻度…}；记录不到两点时返回 None。"""
    series = {
        "train": [(row["step"], row["loss"]) for row in log if "loss" in row],
        "dev": [(row["step"], row["eval_loss"]) for row in log if "eval_loss" in row],
    }
    points = [p for line in series.values() for p in line]
    if len(series["train"]) < 2:
        return None
    last, top = max(s for s, _ in points), max(v for _, v in points) or 1.0

    def place(step: float, loss: float) -> str:
        return f"{46 + step / last * (width - 62):.1f},{12 + (1 - loss / top) * (height - 44):.1f}"

    return {
        "width": width,
        "height": height,
        "last": last,
        "lines": {name: " ".join(place(*p) for p in line) for name, line in series.items()},
        "dots": [place(*p).split(",") for p in series["dev"]],
        "ticks": [(place(0, top * k / 4).split(",")[1], f"{top * k / 4:.2f}") for k in range(5)],
    }
