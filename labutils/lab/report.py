"""一次运行的摘要（summary.json，给机器读）与报告（report.html，给人读）。

两份文件里的每个数字都来自 notebook 写下的文件，这里不做任何估计。
"""

import base64
import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from platform import python_version

from labutils.base import files
from labutils.comparison.metrics import GROUPS
from labutils.lab.preflight import installed

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "gradio", "labutils")
TRAINING_KEYS = ("steps", "samples_per_second", "final_train_loss", "final_dev_loss", "trainable_parameters")
RESULT, COMPARISON = "output/lora/result.json", "output/comparison/comparison.json"  # 在运行文件夹里
_EXPECTED = {"01_build_dataset": "output/data/train.json", "02_lora_finetune": RESULT,
             "03_before_after": COMPARISON}
_CLEAR_GAIN, _CLEAR_LOSS = 0.2, 0.1  # 判断“有明显效果”“忘了旧本领”的门槛


def summarize(folder: Path, model: str, seed: int, seconds: dict[str, float], failed: dict | None) -> dict:
    """从 folder/output 里的文件汇总 summary.json 的内容；seconds 是 {notebook: 秒}。

    运行没有报错、但该有的结果文件缺了，也算失败，并写明缺哪个文件。
    """
    result, comparison = _read_json(folder / RESULT), _read_json(folder / COMPARISON)
    data = {key: folder / "output" / "data" / name
            for key, name in (("pairs", "qa.jsonl"), ("train", "train.json"), ("dev", "dev.json"))}
    failed = failed or next(({"notebook": name, "cell": None, "error": f"运行完了，却没有写出 {path}。"}
                             for name, path in _EXPECTED.items() if not (folder / path).is_file()), None)
    return {
        "ok": failed is None, "model": model, "seed": seed, "versions": versions(),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "qa": {key: len(files.read_rows(path, torn="skip")) if path.is_file() else None
               for key, path in data.items()},
        "training": {key: result.get(key) for key in TRAINING_KEYS},
        "accuracy": {when: _accuracy(comparison[when]) for when in ("before", "after") if when in comparison},
        "baseline": comparison.get("lexical_baseline", {}).get("unseen", {}).get("accuracy"),
        "notes": comparison.get("notes", []), "adapter": result.get("adapter"), "failed": failed}


def _accuracy(scores: dict[str, dict]) -> dict[str, dict]:
    return {group: {key: scores.get(group, {}).get(key) for key in ("accuracy", "n")} for group in GROUPS}


def versions() -> dict[str, str]:
    """Python 与主要依赖的版本。"""
    return {"python": python_version()} | {name: installed(name) or "未安装" for name in PACKAGES}


def _read_json(path: Path) -> dict:
    """读 JSON；文件不存在（前面的步骤失败了）时返回空字典。"""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def verdict(summary: dict) -> tuple[str, str]:
    """给人看的结论：（"good" | "warn" | "bad"，一句话）。"""
    if not summary["ok"]:
        return "bad", "运行没有完成：" + describe_failure(summary["failed"])
    before, after = ({group: item["accuracy"] for group, item in summary["accuracy"][when].items()}
                     for when in ("before", "after"))
    rival, learned = summary["baseline"], f"{percent(before['unseen'])} → {percent(after['unseen'])}"
    change = f"没见过的问法答对率 {learned}，不用模型、照抄最像的训练题答对 {percent(rival)}"
    if after["unseen"] - before["unseen"] < _CLEAR_GAIN:
        return "warn", f"微调没有明显效果：{change}。可以加大步数、学习率或秩，再跑一次。"
    forgot = [GROUPS[group] for group in ("general", "unanswerable")
              if after[group] is not None and before[group] - after[group] > _CLEAR_LOSS]
    if forgot:
        return "warn", f"学会了文档（{change}），但「{'」「'.join(forgot)}」明显变差。"
    if rival is not None and after["unseen"] <= rival:
        return "warn", f"没有胜过不用模型的办法：{change}。可以多写几种问法，或换大一些的模型。"
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
    files.write(folder / "summary.json", json.dumps(summary, ensure_ascii=False, indent=2) + "\n")
    target = folder / "report.html"
    files.write(target, render(folder, summary, options, road))
    return target


def render(folder: Path, summary: dict, options: dict, road: list[str]) -> str:
    """报告的 HTML：一个文件、不引用外部资源；一切文字都转义，模型的输出不会变成标记。"""
    from labutils.base.figures import template

    comparison = _read_json(folder / COMPARISON)
    level, sentence = verdict(summary)
    curve = folder / "output/lora/loss.png"  # notebook 02 画的
    return template("lab/report.html.j2", percent=percent).render(
        summary=summary, level=level, verdict=sentence, groups=GROUPS, options=options,
        baseline=comparison.get("lexical_baseline", {}).get("unseen"),
        examples=pick_examples(comparison.get("rows", [])),
        curve=base64.b64encode(curve.read_bytes()).decode() if curve.is_file() else None,
        steps=_steps(folder, road, summary), written=datetime.now().strftime("%Y-%m-%d %H:%M"),
        folder=files.rel(folder))


def _steps(folder: Path, road: list[str], summary: dict) -> list[dict]:
    bad, seconds = (summary["failed"] or {}).get("notebook"), summary["seconds"]
    return [{"name": name, "seconds": seconds.get(name),
             "state": "失败" if name == bad else "完成" if name in seconds else "未运行",
             "link": f"{name}.html" if (folder / f"{name}.html").is_file() else None} for name in road]


def pick_examples(rows: list[dict], per_group: int = 4) -> list[dict]:
    """并排例子：每组先取“由错变对”的，再取“仍然错”的，各组数量相同，好坏都看得到。"""
    kinds, chosen = defaultdict(list), []
    for row in rows:
        kind = "wrong" if not row["after_correct"] else "rest" if row["before_correct"] else "fixed"
        kinds[row["group"], kind].append(row)
    for group in GROUPS:
        fixed, wrong, rest = (kinds[group, kind] for kind in ("fixed", "wrong", "rest"))
        chosen += (fixed[: per_group - 1] + wrong[:1] + rest + fixed[per_group - 1 :])[:per_group]
    return chosen
