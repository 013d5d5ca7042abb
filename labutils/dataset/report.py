"""文档的哪些段落出过题：认出标题和段落，再看每条证据落在哪一段。

在 notebooks/01_build_dataset.ipynb 讲解。大模型爱在开头和数字多的地方出题，
没有题的段落微调时学不到，答不出来不怪模型。


数据集的图：每一关还剩多少条的漏斗，以及覆盖、长短、划分的概览

每个函数都返回一个图对象：在笔记本里把它写在格子的最后一行就会显示，给了 path 就另存为 PNG。
画法与 plots 相同，不改变 matplotlib 的后端。讲解见 notebooks/01_build_dataset。


数据集的报告：哪里有题、哪里没有、长短如何、划分干不干净。写成 JSON、HTML 和 PNG。

在 notebooks/01_build_dataset.ipynb 讲解。报告里的数字都由问答和文档现数，没有估计。
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labutils.base import files
from labutils.base.errors import LabError
from labutils.base.figures import (
    AFTER,
    BASELINE,
    BEFORE,
    RIGHT,
    WRONG,
    LabFigure,
    data_label,
    label,
    save,
    use_chinese_font,
)
from labutils.base.text import without_spaces
from labutils.dataset.clean import CLOSING, COUNT, NUMBERED, STOPS, Page, between
from labutils.dataset.rows import leaked

FRONT = "（开头）"
_CHAPTER = re.compile(rf"\s*(?:[一二三四五六七八九十]+、|第{COUNT}[章编部]|#\s)")
_SECTION = re.compile(rf"\s*(?:第{COUNT}节|{NUMBERED}|#{{2,}}\s)")
_HEADING_LENGTH = 30


@dataclass
class Paragraph:
    page: int
    section: str
    text: str
    questions: list[str] = field(default_factory=list)  # 证据落在这一段的题的编号


def paragraphs(pages: list[Page]) -> list[Paragraph]:
    """按出现的顺序列出段落；标题不算段落，表格、列表里不成句的几行合成一段。

    跨页的段落在两页各算一段。
    """
    found: list[Paragraph] = []
    chapter, part = FRONT, ""
    pages = [page for page in pages if page.text.strip()]
    for page, following in zip_longest(pages, pages[1:]):
        blocks = _blocks(page.text)
        unfinished = following and between(page.text.strip(), following.text.strip()) != "\n"
        for place, lines in enumerate(blocks, 1):
            # 页末半句话再短也不是标题
            heading = "" if unfinished and place == len(blocks) else _heading(lines)
            if heading and _CHAPTER.match(heading):
                chapter, part = heading, ""
            elif heading and _SECTION.match(heading):
                part = heading
            elif heading:
                chapter, part = heading, ""
            else:
                section = f"{chapter} › {part}" if part else chapter
                found.append(Paragraph(page.number, section, "\n".join(lines)))
    return found


def _blocks(text: str) -> list[list[str]]:
    """一行一段；连着几行都不成句的（表格）合成一段，编了号的标题总是单独一行。"""
    blocks: list[list[str]] = []
    open_run = False
    for line in (line.strip() for line in text.split("\n")):
        if not line:
            open_run = False
            continue
        loose = not _ends_sentence(line) and not _is_numbered(line)
        if loose and open_run:
            blocks[-1].append(line)
        else:
            blocks.append([line])
        open_run = loose
    return blocks


def _ends_sentence(line: str) -> bool:
    return line.rstrip(CLOSING)[-1:] in tuple(STOPS)


def _is_numbered(line: str) -> bool:
    short = len(line) <= _HEADING_LENGTH and not _ends_sentence(line)
    return short and bool(_CHAPTER.match(line) or _SECTION.match(line))


def _heading(lines: list[str]) -> str:
    """只有一行、短、末尾不是句号的是标题，返回它；不是标题返回空串。"""
    alone = len(lines) == 1 and len(lines[0]) <= _HEADING_LENGTH and not _ends_sentence(lines[0])
    return lines[0].lstrip("# ") if alone and "|" not in lines[0] else ""


def mark(found: list[Paragraph], rows: list[dict]) -> list[dict]:
    """把每条问答记到证据所在的段落（跨两段、两页的都记），返回找不到出处的问答。"""
    by_page: dict[int, list[Paragraph]] = {}
    for paragraph in found:
        by_page.setdefault(paragraph.page, []).append(paragraph)
    lost = []
    for row in rows:
        page, evidence = row.get("page", 0), without_spaces(row.get("evidence", ""))
        mine, after = by_page.get(page, []), min((n for n in by_page if n > page), default=page)
        touched = _touched(mine, evidence) or _touched([*mine, *by_page.get(after, [])], evidence)
        for paragraph in touched:
            paragraph.questions.append(row["id"])
        if not touched:
            lost.append(row)
    return lost


def _touched(mine: list[Paragraph], evidence: str) -> list[Paragraph]:
    flat = [without_spaces(paragraph.text) for paragraph in mine]
    start = "".join(flat).find(evidence) if evidence else -1
    if start < 0:
        return []
    end, place, touched = start + len(evidence), 0, []
    for paragraph, text in zip(mine, flat, strict=True):
        if place < end and place + len(text) > start:
            touched.append(paragraph)
        place += len(text)
    return touched


_LONGEST_NAME = 18  # 坐标轴上的章节名最多这么多字
_MOST_CHAPTERS = 25  # 再多就看不清了；全部章节在报告的表里


def funnel_plot(counts: list[tuple[str, int]], path: str | Path | None = None) -> Figure:
    """数据每过一关还剩多少：蓝色是剩下的，红色是这一关拦下的

    counts 是 build_dataset 报告里的 funnel，即 [(关口, 剩余条数)]；为空时抛出 LabError。
    """
    if not counts:
        raise LabError("画不出数据漏斗：没有任何关口的条数。")
    figure = _figure(7.0, 0.42 * len(counts) + 0.9)
    axes = figure.subplots()
    _bare(axes)
    names = [data_label(name, f"step {i}") for i, (name, _) in enumerate(counts, 1)]
    left = [count for _, count in counts]
    lost = [0, *(before - after for before, after in zip(left, left[1:], strict=False))]
    places = range(len(counts))
    axes.barh(places, left, color=AFTER, height=0.62)
    axes.barh(places, lost, left=left, color=WRONG, height=0.62)
    axes.set_yticks(places, names)
    for place, (count, gone) in enumerate(zip(left, lost, strict=True)):
        text = label(f"{count}（−{gone}）", f"{count} (−{gone})") if gone else str(count)
        axes.text(count + gone + max(left) * 0.01, place, text, va="center", fontsize=9)
    axes.set(xlim=(0, max(1, *left) * 1.16), xlabel=label("条数", "rows"))
    axes.invert_yaxis()
    return save(figure, path)


def overview_plot(report: dict, path: str | Path | None = None) -> Figure:
    """一张图看数据集：各章的覆盖、每页的题数、问题与答案的长短

    report 是 dataset_report.describe 的结果。
    """
    chapters = _chapters(report["sections"])
    figure = _figure(10.5, max(5.2, 0.32 * min(len(chapters), _MOST_CHAPTERS) + 1.6))
    wide, narrow = figure.subfigures(1, 2, width_ratios=[1.2, 1])
    _coverage_bars(wide.subplots(), chapters)
    top, bottom = narrow.subplots(2, 1)
    _page_bars(top, report["by_page"])
    _length_bars(bottom, report["lengths"])
    return save(figure, path)


def _figure(width: float, height: float) -> LabFigure:
    use_chinese_font()
    return LabFigure(figsize=(width, height), dpi=100, layout="constrained")


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _chapters(sections: list[dict]) -> list[tuple[str, int, int, int]]:
    """小节并到所在的章：[(章名, 段落数, 出过题的段落数, 题数)]。"""
    totals: dict[str, list[int]] = {}
    for section in sections:
        total = totals.setdefault(section["section"].split(" › ")[0], [0, 0, 0])
        for i, key in enumerate(("paragraphs", "covered", "pairs")):
            total[i] += section[key]
    return [(name, *total) for name, total in totals.items()]


def _coverage_bars(axes: Axes, chapters: list[tuple[str, int, int, int]]) -> None:
    _bare(axes)
    shown = chapters[:_MOST_CHAPTERS]
    covered = [asked for _, _, asked, _ in shown]
    bare = [total - asked for _, total, asked, _ in shown]
    axes.barh(range(len(shown)), covered, color=RIGHT, height=0.66, label=label("出过题", "asked"))
    axes.barh(range(len(shown)), bare, left=covered, color=WRONG, height=0.66,
              label=label("没有题", "not asked"))  # fmt: skip
    for place, (_, total, _, pairs) in enumerate(shown):
        axes.text(total, place, label(f" {pairs} 题", f" {pairs}"), va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [_short(row[0], i) for i, row in enumerate(shown, 1)],
                    fontsize=8)  # fmt: skip
    more = label(f"（前 {len(shown)} 章，共 {len(chapters)} 章）", f" ({len(shown)} of {len(chapters)})")
    axes.set_title(label("各章的段落", "paragraphs by chapter")
                   + (more if len(shown) < len(chapters) else ""), pad=24)  # fmt: skip
    axes.set_xlabel(label("段落数", "paragraphs"))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(x=0.12, y=0.02)
    axes.invert_yaxis()
    _legend_above(axes)


def _short(name: str, number: int) -> str:
    text = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return data_label(text, f"chapter {number}")


def _page_bars(axes: Axes, pages: list[dict]) -> None:
    _bare(axes)
    numbers = [page["page"] for page in pages]
    train = [page["train"] for page in pages]
    axes.bar(numbers, train, color=AFTER, label=label("训练集", "train"))
    axes.bar(numbers, [page["dev"] for page in pages], bottom=train, color=BASELINE,
             label=label("验证集", "dev"))  # fmt: skip
    axes.set(xlabel=label("页", "page"), ylabel=label("题数", "pairs"))
    axes.set_title(label("每页的题数", "pairs by page"), pad=24)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend_above(axes)


def _length_bars(axes: Axes, lengths: dict[str, dict]) -> None:
    _bare(axes)
    values = [lengths["question"]["values"], lengths["answer"]["values"]]
    names = [label("问题", "question"), label("答案", "answer")]
    longest = max(max(part) for part in values)
    width = max(1, -(-longest // 16))
    bins = range(0, longest + 2 * width, width)
    axes.hist(values, bins=bins, color=[AFTER, BEFORE], label=names)
    axes.set(xlabel=label("字数", "characters"), ylabel=label("条数", "rows"))
    axes.set_title(label("问题与答案的长短", "lengths"), pad=24)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    """图例放在标题和图之间，柱子多高都遮不住。"""
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))


NAME = "dataset_report"
_EXCERPT = 60  # 没有题的段落在摘要里显示的字数


def describe(
    rows: list[dict], train: list[dict], dev: list[dict], pages: list[Page],
    rejected: list[dict] | None = None,
) -> dict:
    """数出报告里的全部数字；rows、train、dev 是带 id 的问答，都不能是空的。"""
    found = paragraphs(pages)
    lost = mark(found, rows)
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


def _by_section(found: list[Paragraph]) -> list[dict]:
    """各章节的段落数、有题的段落数、题数；一题的证据跨两段时只算一次。"""
    groups: dict[str, list[Paragraph]] = {}
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
    found: list[Paragraph], pages: list[Page], train: list[dict], dev: list[dict]
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

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report = describe(rows, train, dev, pages, rejected)
    text = json.dumps(report | {"funnel": funnel or []}, ensure_ascii=False, indent=1)
    files.write(folder / f"{NAME}.json", text + "\n")
    picture = folder / f"{NAME}.png"
    overview_plot(report, picture)
    files.write(folder / f"{NAME}.html", render(report, picture.read_bytes(), funnel or []))
    return report


def render(report: dict, picture: bytes, funnel: list[tuple[str, int]]) -> str:
    """报告的 HTML：一个文件、不引用外部资源；一切文字都转义。"""
    from labutils.base.figures import template

    return template("dataset/report.html.j2").render(
        report=report, problems=split_problems(report), funnel=funnel,
        picture=base64.b64encode(picture).decode())
