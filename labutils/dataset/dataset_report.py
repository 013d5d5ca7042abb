"""数据集的报告：哪里有题、哪里没有、长短如何、划分干不干净。写成 JSON、HTML 和 PNG。

在 notebooks/01_build_dataset.ipynb 讲解。报告里的数字都由问答和文档现数，没有估计。
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path
from statistics import median

from labutils.base import whole_files
from labutils.dataset import coverage
from labutils.dataset.chunking import Page
from labutils.dataset.qa_duplicates import leaked

NAME = "dataset_report"
_EXCERPT = 60  # 没有题的段落在摘要里显示的字数


def describe(
    rows: list[dict], train: list[dict], dev: list[dict], pages: list[Page],
    rejected: list[dict] | None = None,
) -> dict:
    """数出报告里的全部数字；rows、train、dev 是带 id 的问答，都不能是空的。"""
    found = coverage.paragraphs(pages)
    lost = coverage.mark(found, rows)
    bare = [paragraph for paragraph in found if not paragraph.questions]
    characters = sum(len(paragraph.text) for paragraph in found)
    facts, learned = _facts(rows), _facts(train)
    return {
        "pairs": len(rows),
        "facts": len(facts),
        "pages": len(pages),
        "repaired_evidence": sum("evidence_original" in row for row in rows),
        "without_source": [row["id"] for row in lost],
        "coverage": {
            "paragraphs": len(found),
            "covered": len(found) - len(bare),
            "characters": round(1 - sum(len(p.text) for p in bare) / max(1, characters), 3),
        },
        "sections": _by_section(found),
        "by_page": _by_page(found, pages, train, dev),
        "uncovered": [{"page": p.page, "section": p.section, "text": p.text} for p in bare],
        "lengths": {key: _lengths([len(row[key]) for row in rows]) for key in ("question", "answer")},
        "split": {
            "train": len(train), "dev": len(dev), "train_facts": len(learned),
            "dev_facts": len(_facts(dev)),
            "dev_facts_not_in_train": sorted(_facts(dev) - learned),
        },
        "leaks": [{"dev": row["id"], "train": twin["id"], "question": row["question"]}
                  for row, twin in leaked(train, dev)],
        "rejected": dict(Counter(item["stage"] for item in rejected or [])),
    }


def _facts(rows: list[dict]) -> set[str]:
    return {row["fact_id"] for row in rows}


def _lengths(values: list[int]) -> dict:
    return {"min": min(values), "median": median(values), "max": max(values), "values": values}


def _by_section(found: list[coverage.Paragraph]) -> list[dict]:
    """各章节的段落数、有题的段落数、题数；一题的证据跨两段时只算一次。"""
    groups: dict[str, list[coverage.Paragraph]] = {}
    for paragraph in found:
        groups.setdefault(paragraph.section, []).append(paragraph)
    return [
        {
            "section": section,
            "pages": sorted({paragraph.page for paragraph in group}),
            "paragraphs": len(group),
            "covered": sum(bool(paragraph.questions) for paragraph in group),
            "pairs": len({name for paragraph in group for name in paragraph.questions}),
        }
        for section, group in groups.items()
    ]


def _by_page(
    found: list[coverage.Paragraph], pages: list[Page], train: list[dict], dev: list[dict]
) -> list[dict]:
    in_train = Counter(row.get("page") for row in train)
    in_dev = Counter(row.get("page") for row in dev)
    total = Counter(paragraph.page for paragraph in found)
    covered = Counter(paragraph.page for paragraph in found if paragraph.questions)
    return [
        {"page": p.number, "paragraphs": total[p.number], "covered": covered[p.number],
         "train": in_train[p.number], "dev": in_dev[p.number]}
        for p in pages
    ]


def split_problems(report: dict) -> list[str]:
    """划分里不该有的事，一条一句；没有就是空列表。"""
    problems = []
    if report["leaks"]:
        first = report["leaks"][0]
        problems.append(f"验证集有 {len(report['leaks'])} 题和训练集几乎一样，"
                        f"例如 {first['dev']} 与 {first['train']}：“{first['question']}”")
    if unknown := report["split"]["dev_facts_not_in_train"]:
        problems.append(f"{len(unknown)} 个事实只在验证集考、训练集没学：{'、'.join(unknown[:5])}"
                        f"{' 等' if len(unknown) > 5 else ''}")
    return problems


def summary(report: dict) -> str:
    """几行文字的摘要，命令行和笔记本都可以直接打印。"""
    seen, split = report["coverage"], report["split"]
    question, answer = report["lengths"]["question"], report["lengths"]["answer"]
    lines = [
        f"问答 {report['pairs']} 对，{report['facts']} 个事实；"
        f"训练集 {split['train']}，验证集 {split['dev']}。",
        f"覆盖 {seen['covered']}/{seen['paragraphs']} 段（按字数 {seen['characters']:.0%}）；"
        f"问题 {question['min']}–{question['max']} 字，答案 {answer['min']}–{answer['max']} 字。",
    ]
    if report["repaired_evidence"]:
        lines.append(f"{report['repaired_evidence']} 条证据抄错了几个字，已改成原文的原话。")
    if report["without_source"]:
        lines.append(f"{len(report['without_source'])} 条没有写证据或对不上段落，不计入覆盖。")
    problems = split_problems(report)
    lines += [f"✗ {problem}。" for problem in problems]
    lines += [] if problems else ["✓ 验证集没有训练集的题，考到的事实都学过。"]
    return "\n".join(lines)


def uncovered_text(report: dict, limit: int = 10) -> str:
    """没有出过题的段落，一段一行，至多 limit 行。"""
    lines = [f"第 {p['page']} 页 {p['section']}：{p['text'][:_EXCERPT]}" for p in report["uncovered"]]
    more = [f"……还有 {len(lines) - limit} 段，见 {NAME}.html。"] if len(lines) > limit else []
    return "\n".join([*lines[:limit], *more]) or "每一段都出过题。"


def write(
    folder: str | Path, rows: list[dict], train: list[dict], dev: list[dict], pages: list[Page],
    rejected: list[dict] | None = None, funnel: list[tuple[str, int]] | None = None,
) -> dict:
    """在 folder 里写 dataset_report.json、.png、.html，返回报告的内容。

    funnel 是每一关剩余的条数（qa_checks.funnel 的结果），给了就画进 HTML。
    """
    from labutils.dataset import dataset_plots

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report = describe(rows, train, dev, pages, rejected)
    text = json.dumps(report | {"funnel": funnel or []}, ensure_ascii=False, indent=1)
    whole_files.write(folder / f"{NAME}.json", text + "\n")
    picture = folder / f"{NAME}.png"
    dataset_plots.overview(report, picture)
    whole_files.write(folder / f"{NAME}.html", render(report, picture.read_bytes(), funnel or []))
    return report


def render(report: dict, picture: bytes, funnel: list[tuple[str, int]]) -> str:
    """报告的 HTML：一个文件、不引用外部资源；一切文字都转义。"""
    from labutils.base.html_templates import template

    return template("dataset/report.html.j2").render(
        report=report, problems=split_problems(report), funnel=funnel,
        picture=base64.b64encode(picture).decode())
