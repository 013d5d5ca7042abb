"""数据集的报告：哪里有题、哪里没有、长短如何、划分干不干净。写成 JSON、HTML 和 PNG。讲解见 notebook 01。

大模型爱在开头和数字多的地方出题，没有题的段落微调时学不到，答不出来不怪模型。画图的函数返回图对象。
"""

from __future__ import annotations

import base64
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, groupby, islice, pairwise, zip_longest
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labutils.base import figures, files
from labutils.base.errors import LabError
from labutils.base.text import without_spaces
from labutils.dataset.clean import CLOSING, COUNT, NUMBERED, STOPS, Page, between, page_list

NAME = "dataset_report"
FRONT = "（开头）"
_CHAPTER = re.compile(rf"\s*(?:[一二三四五六七八九十]+、|第{COUNT}[章编部]|#\s)")
_SECTION = re.compile(rf"\s*(?:第{COUNT}节|{NUMBERED}|#{{2,}}\s)")
_HEADING_LENGTH = 30
_LONGEST_NAME, _MOST_CHAPTERS = 18, 25  # 章节名的字数、画出的章数；再多就看不清了，全部在报告的表里


def write(
    folder: Path, rows: list[dict], train: list[dict], dev: list[dict], pages: list[Page],
    funnel: Iterable[tuple[str, int]] = (),
) -> dict:
    """在 folder（要已经存在）里写 dataset_report.json、.png、.html，返回报告的内容；funnel 画进 HTML。"""
    report = describe(rows, train, dev, pages)
    files.write_json(folder / f"{NAME}.json", report | {"funnel": funnel})
    picture = folder / f"{NAME}.png"
    overview_plot(report, picture)
    # 一个文件、不引用外部资源；一切文字都由 jinja2 转义
    html = figures.template("dataset/report.html.j2").render(
        report=report, problem=split_problem(report), funnel=funnel,
        picture=base64.b64encode(picture.read_bytes()).decode())
    files.write(folder / f"{NAME}.html", html)
    return report


def describe(rows: list[dict], train: list[dict], dev: list[dict], pages: list[Page]) -> dict:
    """数出报告里的全部数字；rows、train、dev 是带 id 的问答，都不能是空的。"""
    found = paragraphs(pages)
    lost = mark(found, rows)
    bare = [paragraph for paragraph in found if not paragraph.questions]
    sizes = {key: [len(row[key]) for row in rows] for key in ("question", "answer")}
    return {
        "pairs": len(rows),
        "facts": len(_facts(rows)),
        "repaired_evidence": sum("evidence_original" in row for row in rows),
        "without_source": lost,
        "coverage": {**_counts(found),
                     "characters": round(1 - len(_text(bare)) / max(1, len(_text(found))), 3)},
        "sections": _by_section(found),
        "notes": _notes(pages),
        "uncovered": [{"page": p.page, "section": p.section, "text": p.text} for p in bare],
        "lengths": {key: {"min": min(size), "median": median(size), "max": max(size), "values": size}
                    for key, size in sizes.items()},
        "split": {"train": len(train), "dev": len(dev),
                  "dev_facts": len(_facts(dev)),
                  "dev_facts_not_in_train": sorted(_facts(dev) - _facts(train))},
    }


def _notes(pages: list[Page]) -> list[dict]:
    """读文档时发现的事，各是哪几页：只有图片、按位置重排过、去掉了页眉……"""
    where = _grouped((note, page.number) for page in pages for note in filter(None, page.note.split("；")))
    return [{"note": note, "pages": page_list(numbers)} for note, numbers in where.items()]


def _facts(rows: list[dict]) -> set[str]:
    return {row["fact_id"] for row in rows}


def _text(found: list[Paragraph]) -> str:
    return "".join(paragraph.text for paragraph in found)


def _by_section(found: list[Paragraph]) -> list[dict]:
    """各章节的段落数、有题的段落数、题数；一题的证据跨两段时只算一次。"""
    return [{"section": section, "pages": sorted({paragraph.page for paragraph in group}), **_counts(group),
             "pairs": len(set().union(*(paragraph.questions for paragraph in group)))}
            for section, group in _grouped((paragraph.section, paragraph) for paragraph in found).items()]


def _counts(found: list[Paragraph]) -> dict:
    return {"paragraphs": len(found), "covered": sum(bool(paragraph.questions) for paragraph in found)}


@dataclass
class Paragraph:
    page: int
    section: str
    text: str
    questions: list[str] = field(default_factory=list)  # 证据落在这一段的题的编号


def paragraphs(pages: list[Page]) -> list[Paragraph]:
    """按出现的顺序列出段落；标题不算段落，跨页的在两页各算一段，表格、列表里不成句的几行合成一段。"""
    found: list[Paragraph] = []
    chapter = section = FRONT
    for number, lines, heading in _headed_blocks([page for page in pages if page.text.strip()]):
        if not heading:
            found.append(Paragraph(number, section, "\n".join(lines)))
        elif _SECTION.match(heading) and not _CHAPTER.match(heading):
            section = f"{chapter} › {heading}"
        else:
            chapter = section = heading
    return found


def _headed_blocks(pages: list[Page]) -> Iterator[tuple[int, list[str], str]]:
    """每一块的 (页码, 各行, 标题)，不是标题的标题是空串；页末半句话再短也不是标题。"""
    for page, following in zip_longest(pages, pages[1:]):
        *blocks, last = _blocks(page.text)
        yield from ((page.number, lines, _heading(lines)) for lines in blocks)
        unfinished = following and between(page.text.strip(), following.text.strip()) != "\n"
        yield page.number, last, "" if unfinished else _heading(last)


def _blocks(text: str) -> list[list[str]]:
    """一行一段；连着几行都不成句的（表格）合成一段，编了号的标题总是单独一行。"""
    blocks: list[list[str]] = []
    for loose, run in groupby(map(str.strip, text.split("\n")), _is_loose):
        lines = list(filter(None, run))
        blocks += [lines] if loose else [[line] for line in lines]
    return blocks


def _is_loose(line: str) -> bool:
    numbered = _is_short(line) and (_CHAPTER.match(line) or _SECTION.match(line))
    return bool(line) and not _ends_sentence(line) and not numbered


def _heading(lines: list[str]) -> str:
    """只有一行、短、末尾不是句号的是标题，返回它；不是标题返回空串。"""
    line, *more = lines
    return "" if more or "|" in line or not _is_short(line) else line.lstrip("# ")


def _is_short(line: str) -> bool:
    return len(line) <= _HEADING_LENGTH and not _ends_sentence(line)


def _ends_sentence(line: str) -> bool:
    return line.rstrip(CLOSING)[-1:] in tuple(STOPS)


def mark(found: list[Paragraph], rows: list[dict]) -> list[str]:
    """把每条问答记到证据所在的段落（跨两段、两页的都记），返回找不到出处的问答的编号。"""
    by_page, lost = _grouped((paragraph.page, paragraph) for paragraph in found), []
    following = dict(pairwise(by_page))
    for row in rows:
        page, evidence = row.get("page", 0), without_spaces(row.get("evidence", ""))
        mine, after = by_page.get(page, []), by_page.get(following.get(page), [])
        touched = _touched(mine, evidence) or _touched([*mine, *after], evidence)
        for paragraph in touched:
            paragraph.questions.append(row["id"])
        if not touched:
            lost.append(row["id"])
    return lost


def _grouped(pairs: Iterable[tuple]) -> dict[object, list]:
    groups = defaultdict(list)
    for key, item in pairs:
        groups[key].append(item)
    return groups


def _touched(mine: list[Paragraph], evidence: str) -> list[Paragraph]:
    """证据落在连着的这几段里的哪几段。"""
    flat = [without_spaces(paragraph.text) for paragraph in mine]
    start = "".join(flat).find(evidence)
    if start < 0:
        return []
    ends = list(accumulate(map(len, flat)))
    return [paragraph for paragraph, text, end in zip(mine, flat, ends, strict=True)
            if end - len(text) < start + len(evidence) and end > start]


def split_problem(report: dict) -> str:
    """考到却没有学过的事实，一句话；没有就是空串。几乎一样的题在划分时已经去掉了。"""
    unknown = report["split"]["dev_facts_not_in_train"]
    named = "、".join(unknown[:5]) + (" 等" if len(unknown) > 5 else "")
    return f"{len(unknown)} 个事实只在验证集考、训练集没学：{named}" if unknown else ""


def summary(report: dict) -> str:
    """几行文字的摘要，命令行和笔记本都可以直接打印。"""
    seen, split = report["coverage"], report["split"]
    question, answer = report["lengths"]["question"], report["lengths"]["answer"]
    lines = [f"问答 {report['pairs']} 对，{report['facts']} 个事实；"
             f"训练集 {split['train']}，验证集 {split['dev']}。",
             f"覆盖 {seen['covered']}/{seen['paragraphs']} 段（按字数 {seen['characters']:.0%}）；"
             f"问题 {question['min']}–{question['max']} 字，答案 {answer['min']}–{answer['max']} 字。"]
    if report["repaired_evidence"]:
        lines.append(f"{report['repaired_evidence']} 条证据抄错了几个字，已改成原文的原话。")
    if report["without_source"]:
        lines.append(f"{len(report['without_source'])} 条没有写证据或对不上段落，不计入覆盖。")
    problem = split_problem(report)
    return "\n".join([*lines, f"✗ {problem}。" if problem else "✓ 验证集没有训练集的题，考到的事实都学过。"])


def funnel_plot(counts: list[tuple[str, int]], path: str | Path | None = None) -> Figure:
    """数据每过一关还剩多少（蓝）、拦下多少（红）；给了 path 就另存为 PNG。

    counts 是 build_dataset 报告里的 funnel，即 [(关口, 剩余条数)]；为空时抛出 LabError。
    """
    if not counts:
        raise LabError("画不出数据漏斗：没有任何关口的条数。")
    figure, axes = figures.new_axes(7.0, 0.42 * len(counts) + 0.9)
    stages, left = zip(*counts, strict=True)
    lost = [0, *(before - after for before, after in pairwise(left))]
    places = range(len(counts))
    axes.barh(places, left, color=figures.AFTER, height=0.62)
    axes.barh(places, lost, left=left, color=figures.WRONG, height=0.62)
    axes.set_yticks(places, list(map(figures.plain, stages)))
    for place, (count, gone) in enumerate(zip(left, lost, strict=True)):
        text = f"{count}（−{gone}）" if gone else str(count)
        axes.text(count + gone + max(left) * 0.01, place, text, va="center", fontsize=9)
    axes.set(xlim=(0, max(1, *left) * 1.16), xlabel="条数")
    axes.invert_yaxis()
    figure.alt = "每过一关还剩多少条：" + "，".join(f"{name} {left}" for name, left in counts)
    return figures.save(figure, path)


def overview_plot(report: dict, path: str | Path | None = None) -> Figure:
    """各章的覆盖、问题与答案的长短；report 是 describe 的结果，给了 path 就另存为 PNG。"""
    chapters = _chapters(report["sections"])
    figures.use_chinese_font()
    height = max(5.2, 0.32 * min(len(chapters), _MOST_CHAPTERS) + 1.6)
    figure = figures.LabFigure(figsize=(10.5, height), dpi=100, layout="constrained")
    wide, narrow = figure.subplots(1, 2, width_ratios=[1.2, 1])
    _coverage_bars(wide, chapters)
    _length_bars(narrow, report["lengths"])
    return figures.save(figure, path)


def _chapters(sections: list[dict]) -> dict[str, Counter]:
    """小节并到所在的章：章名 → 段落数、出过题的段落数、题数。"""
    totals: dict[str, Counter] = defaultdict(Counter)
    for section in sections:
        chapter = totals[section["section"].split(" › ")[0]]
        chapter.update({key: section[key] for key in ("paragraphs", "covered", "pairs")})
    return totals


def _coverage_bars(axes: Axes, chapters: dict[str, Counter]) -> None:
    shown = dict(islice(chapters.items(), _MOST_CHAPTERS))
    places, covered = range(len(shown)), [chapter["covered"] for chapter in shown.values()]
    bare = [chapter["paragraphs"] - chapter["covered"] for chapter in shown.values()]
    axes.barh(places, covered, color=figures.RIGHT, height=0.66, label="出过题")
    axes.barh(places, bare, left=covered, color=figures.WRONG, height=0.66, label="没有题")
    for place, chapter in enumerate(shown.values()):
        axes.text(chapter["paragraphs"], place, f" {chapter['pairs']} 题", va="center", fontsize=8)
    names = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in shown]
    axes.set_yticks(places, list(map(figures.plain, names)), fontsize=8)
    more = f"（前 {len(shown)} 章，共 {len(chapters)} 章）"
    title = "各章的段落" + (more if len(shown) < len(chapters) else "")
    axes.margins(x=0.12, y=0.02)
    axes.invert_yaxis()
    _dress(axes, title, "段落数")


def _length_bars(axes: Axes, lengths: dict[str, dict]) -> None:
    values = [lengths["question"]["values"], lengths["answer"]["values"]]
    longest = max(map(max, values))
    width = max(1, -(-longest // 16))
    axes.hist(values, bins=range(0, longest + 2 * width, width), color=[figures.AFTER, figures.BEFORE],
              label=["问题", "答案"])
    _dress(axes, "问题与答案的长短", "字数", "条数")


def _dress(axes: Axes, title: str, xlabel: str, ylabel: str = "") -> None:
    """标题和轴名；图例放在标题和图之间，柱子多高都遮不住。"""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, pad=24)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
