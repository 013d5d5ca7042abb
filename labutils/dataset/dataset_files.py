"""数据集的最后一步：划分、去掉泄漏、写文件、写报告。

自动流程（dataset_build）和人工审阅之后（qa_review）都走这里，所以两次的规矩一样。
在 notebooks/01_build_dataset.ipynb 讲解。
"""

from __future__ import annotations

import json
from pathlib import Path

from labutils.base.paths import rel
from labutils.base.system_errors import one_sentence
from labutils.dataset import dataset_report, qa_review
from labutils.dataset.chunking import Page
from labutils.dataset.qa_dataset import (
    check_no_leak,
    load_qa,
    read_json,
    save_conversations,
    split,
    write_json_lines,
)
from labutils.dataset.qa_duplicates import drop_leaked

REVIEW = "review.csv"


@one_sentence()
def finish(
    folder: str | Path, rows: list[dict], rejected: list[dict], pages: list[Page], seed: int,
    funnel: list[tuple[str, int]],
) -> dict:
    """划分并写出 folder 里的全部文件；和训练集几乎一样的验证题加进 rejected。

    返回 {"train", "dev", "dev_facts", "dev_facts_in_train", "pairs", "facts", "funnel",
    "summary"}：前几项是条数和事实数，summary 是几行文字的摘要。
    """
    folder = Path(folder)
    train, dev = split(rows, seed=seed)
    dev, leaked = drop_leaked(train, dev)
    if leaked:
        rejected += leaked
        gone = {id(item["row"]) for item in leaked}
        rows = [row for row in rows if id(row) not in gone]
        funnel = [*funnel, ("验证集没有训练题", funnel[-1][1] - len(leaked))]
    report = check_no_leak(train, dev)
    write_json_lines(rows, folder / "qa.jsonl")
    save_conversations(train, folder / "train.json")
    save_conversations(dev, folder / "dev.json")
    write_json_lines(rejected, folder / "rejected.jsonl")
    full = dataset_report.write(folder, rows, train, dev, pages, rejected, funnel)
    return report | {"pairs": len(rows), "facts": full["facts"], "funnel": funnel,
                     "summary": dataset_report.summary(full)}


def load(folder: str | Path) -> tuple[list[dict], list[dict]]:
    """读回 folder 里的 (合格的问答, 被拦下的)。"""
    folder = Path(folder)
    refused = folder / "rejected.jsonl"
    has_any = refused.is_file() and refused.stat().st_size > 0
    return load_qa(folder / "qa.jsonl"), [item for _, item in read_json(refused)] if has_any else []


def export_review(folder: str | Path) -> Path:
    """把 folder 里的数据集写成审阅表 folder/review.csv。"""
    rows, rejected = load(folder)
    return qa_review.export(rows, Path(folder) / REVIEW, rejected)


def apply_review(
    folder: str | Path, pages: list[Page], seed: int = 42, table: str | Path | None = None
) -> dict:
    """读回审阅表，让决定生效，重新划分并写回 folder；返回 finish 的报告，另有 counts。

    table 默认是 folder/review.csv。有错时抛 LabError，folder 里的文件一个也不动。
    """
    folder = Path(folder)
    rows, rejected = load(folder)
    review = qa_review.apply(table or folder / REVIEW, rows, pages, rejected)
    report = finish(folder, review.rows, review.rejected, pages, seed, _funnel(folder, rows, review))
    named = {name or "没看": count for name, count in review.counts.items()}
    print("审阅：" + "，".join(f"{name} {count}" for name, count in named.items())
          + f"；{rel(folder)} 现有 {report['pairs']} 对问答。")
    return report | {"counts": review.counts}


def _funnel(
    folder: Path, rows: list[dict], review: qa_review.Review
) -> list[tuple[str, int]]:
    """自动检查的漏斗后面接上“人工审阅之后”；再审一次就换掉上一次的。"""
    name = "人工审阅之后"
    record = folder / f"{dataset_report.NAME}.json"
    old = json.loads(record.read_text(encoding="utf-8"))["funnel"] if record.is_file() else []
    before = [(stage, count) for stage, count in old if stage != name] or [("审阅之前", len(rows))]
    return [*before, (name, len(review.rows))]
