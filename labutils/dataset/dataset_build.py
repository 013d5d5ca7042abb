"""一步做完整个数据集：PDF → 问答 → 检查 → 划分 → 写文件，并报告每一关还剩多少条。

notebooks/01_build_dataset.ipynb 把这里的每一步拆开讲，命令行 labutils dataset 直接调用。
"""

from __future__ import annotations

from pathlib import Path

from labutils.base.errors import LabError
from labutils.base.paths import DATA, rel, resolve
from labutils.base.system_errors import one_sentence
from labutils.base.text_normalize import normalize
from labutils.dataset import feedback_pairs
from labutils.dataset.dataset_files import finish
from labutils.dataset.document import Chunk, Page, chunks, read_pages
from labutils.dataset.qa_checks import funnel, text_of
from labutils.dataset.qa_dataset import drop_near_duplicates, load_qa, validate, write_json_lines
from labutils.dataset.qa_evidence import begins_on
from labutils.dataset.qa_generation import generate, load_prompts, parse_response, replay
from labutils.dataset.qa_unanswerable import save_unanswerable
from labutils.demo.web_feedback import read_pairs

COURSE_PDF = DATA / "source" / "course_document.pdf"
COURSE_SOURCE = COURSE_PDF.with_suffix(".md")


@one_sentence()
def build(
    pdf: str | Path,
    qa_file: str | Path | None,
    out_dir: str | Path,
    api_model: str = "",
    seed: int = 42,
    feedback: str | Path | None = None,
    **api,
) -> dict:
    """写出 out_dir/data/ 下的 qa.jsonl、train.json、dev.json、rejected.jsonl 和数据集报告。

    api_model 或 api 里的 preset 不空：调用大模型出题（回复存 out_dir/responses/，断了接着做）；
    api 是 generate 的其余参数：preset、concurrency、max_cost、retry_failed、unanswerable……
    为空且是课程 PDF：回放样例回复；给了 qa_file 就用它，并说明两者一致的条数。
    为空且是别的 PDF：必须给 qa_file，逐条对着这份 PDF 检查后使用。
    feedback 是网页存下的评价与改正，合格的作为新问答接在后面。
    返回的 funnel 是 [(关口, 剩余条数)]，summary 是摘要文字。
    """
    pdf, out_dir = resolve(pdf), resolve(out_dir)
    qa_file = resolve(qa_file) if qa_file else None
    voted = read_pairs(resolve(feedback)) if feedback else []  # 写坏了就在花钱出题之前说
    pages = read_pages(pdf)
    report: dict = {"pages": len(pages), "seed": seed}
    rejected: list[dict] = []
    api |= {"model": api_model}
    rows = _generated_rows(pdf, qa_file, out_dir, api, pages, report, rejected)
    if qa_file and report.get("source") != "api":
        rows = _rows_from_file(qa_file, pages, rows, report, rejected)
    if not rows:
        raise LabError(_nothing_passed(qa_file, out_dir, report["source"], rejected))
    if feedback:
        rows = feedback_pairs.merge(resolve(feedback), voted, rows, pages, rejected)
        report["funnel"] = [*report["funnel"], ("加上网页反馈", len(rows))]
    folder = Path(out_dir) / "data"
    report |= finish(folder, rows, rejected, pages, seed, report["funnel"])
    print("每一关还剩：" + " → ".join(f"{name} {count}" for name, count in report["funnel"]))
    print(f"写好 {rel(folder)}，不合格 {len(rejected)} 条。", report["summary"], sep="\n")
    return report


def _nothing_passed(qa_file: Path | None, out_dir: Path, source: str, rejected: list[dict]) -> str:
    """一条也没通过：留下全部原因，说清楚接下来做什么。"""
    record = write_json_lines(rejected, out_dir / "rejected.jsonl")
    first = f"，例如：{rejected[0]['reason']}" if rejected else ""
    if source == "api" or qa_file is None:
        what, advice = "回复里", "请换一个模型，或照着原因改 configs/qa_prompt.yaml"
    else:
        what = f"{rel(qa_file)} 里"
        advice = ("换了文档就用 --qa 给出它的问答对，或用 --preset、--api-model 请大模型出题"
                  "（notebook 里是 QA_FILE、PRESET、API_MODEL）")
    return f"{what}没有一条问答通过检查{first}；全部原因见 {rel(record)}。{advice}。"


def _generated_rows(
    pdf: Path, qa_file: Path | None, out_dir: Path, api: dict, pages: list[Page],
    report: dict, rejected: list[dict],
) -> list[dict]:
    """调用 API 或回放；两样都不该做时返回空列表。"""
    if api["model"] or api.get("preset"):
        report["source"] = "api"
        return _asked_rows(out_dir, api, pages, report, rejected)
    if is_course_document(pages):
        report["source"] = "replay"
        texts = [path.read_text(encoding="utf-8") for path in replay()]
        return collect(texts, pages, report, rejected)
    if qa_file:
        return []
    raise LabError(
        f"{rel(pdf)} 没有配套的问答：请用 --preset 或 --api-model 请大模型出题（要先设置它的密钥），"
        "或用 --qa 给出现成的问答文件（notebook 里是 PRESET、API_MODEL、QA_FILE）。"
    )


def _asked_rows(
    out_dir: Path, api: dict, pages: list[Page], report: dict, rejected: list[dict]
) -> list[dict]:
    """调用大模型出题；要了“没有写明”的问题就另写一个文件，不混进问答。"""
    prompts = load_prompts()
    pieces = chunks(pages, prompts.chunk_size, prompts.chunk_overlap)
    result = generate(pieces, out_dir=out_dir, prompts=prompts, **api)
    report["failed_chunks"] = len(result.failures)
    texts = [path.read_text(encoding="utf-8") for path in result.files]
    rows = collect(texts, pages, report, rejected, result.chunks)
    if count := api.get("unanswerable"):
        report["unanswerable"] = save_unanswerable(
            result.unanswerable_files, rows, out_dir / "data", count, text_of(pages)[1])
    return rows


def is_course_document(pages: list[Page]) -> bool:
    """按标题认，不按文件名认：样例回复只配得上那一份文档，别的文档可能顶替了它的位置。"""
    title = COURSE_SOURCE.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
    return pages[0].text.startswith(title + "\n")


def locate_pages(pairs: list[dict], chunk: Chunk, pages: list[Page]) -> list[dict]:
    """一块文字跨两页时，模型分不清哪句在哪页；按证据所在改成这块里的那一页（跨页的是开头那页）。"""
    inside = {page.number: page.text for page in pages if page.number in chunk.pages}

    def page_of(pair: dict) -> object:
        evidence = str(pair.get("evidence") or "")
        found = [number for number in inside if evidence and begins_on(evidence, number, inside)]
        return found[0] if found else pair.get("page")

    return [{**pair, "page": page_of(pair)} for pair in pairs]


def collect(
    responses: list[str], pages: list[Page], report: dict | None = None,
    rejected: list[dict] | None = None, pieces: list[Chunk] | None = None,
) -> list[dict]:
    """一批原始回复 → 解析、检查、去重后的问答；数目记进 report，不合格的加进 rejected。

    pieces 是每份回复对应的文本块，给了就由证据定页码（见 locate_pages）。
    """
    report = {} if report is None else report
    rejected = [] if rejected is None else rejected
    parsed = [parse_response(text) for text in responses]
    lost = [p for _, problems in parsed for p in problems if not p["fixed"]]
    fixed = sum(p["fixed"] for _, problems in parsed for p in problems)
    responses_pairs = [pairs for pairs, _ in parsed]
    if pieces is not None:
        responses_pairs = [
            locate_pages(pairs, piece, pages)
            for pairs, piece in zip(responses_pairs, pieces, strict=True)
        ]
    rows = name_facts(responses_pairs)
    good, bad = validate(rows, pages)
    kept, repeated = drop_near_duplicates(good)
    rejected += [{"stage": "解析", **{k: p[k] for k in ("reason", "text")}} for p in lost]
    rejected += [*bad, *repeated]
    report |= {"responses": len(responses), "repaired": fixed}
    report["funnel"] = funnel("回复里的条目", len(rows) + len(lost), rejected)
    return kept


def name_facts(responses: list[list[dict]]) -> list[dict]:
    """统一事实的编号：各次回复都从 F01 编起，同号不一定同事；相邻块重叠，同事不一定同号。

    同一份回复里同号的算一个事实；页码、证据、要点都相同的也算一个。没有编号的交给 validate 补。
    """
    names: dict[tuple, str] = {}
    used: set[str] = set()
    rows = []
    for number, pairs in enumerate(responses):
        for pair in pairs:
            given = pair.get("fact_id")
            if not isinstance(given, str) or not given:
                rows.append(pair)
                continue
            keys = [(number, given)]
            points = pair.get("key_points")
            if isinstance(points, list) and points:
                place = str(pair.get("page")), normalize(str(pair.get("evidence") or ""))
                keys.append((*place, *sorted(normalize(str(p)) for p in points)))
            name = next((names[key] for key in keys if key in names), None) or _new(given, used)
            used.add(name)
            for key in keys:
                names.setdefault(key, name)
            rows.append({**pair, "fact_id": name})
    return rows


def _new(given: str, used: set[str]) -> str:
    if given not in used:
        return given
    return next(f"F{i:02d}" for i in range(1, len(used) + 2) if f"F{i:02d}" not in used)


def _rows_from_file(
    qa_file: Path, pages: list[Page], generated: list[dict], report: dict, rejected: list[dict]
) -> list[dict]:
    """检查现成的问答文件；有回放结果时说明两者一致多少条。"""
    loaded = load_qa(qa_file)
    good, bad = validate(loaded, pages, require_evidence=False)
    kept, repeated = drop_near_duplicates(good)
    rejected += [*bad, *repeated]
    bare = sum("evidence" not in row or "page" not in row for row in kept)
    if bare:
        print(f"提醒：{rel(qa_file)} 有 {bare} 条没写页码或证据，没法核对出处，照收。")
    if 0 < len(kept) < len(loaded):
        print(f"提醒：{rel(qa_file)} 的 {len(loaded)} 条里有 {len(loaded) - len(kept)} 条不合格，"
              "原因见 rejected.jsonl。")
    if report.get("source") == "replay":
        same = len({_pair_key(row) for row in kept} & {_pair_key(row) for row in generated})
        report["agree"] = same
        print(f"回放得到 {len(generated)} 对，{same} 对与 {rel(qa_file)} 的 {len(kept)} 对一致。")
    else:
        report["source"] = "file"
        report["funnel"] = funnel("文件里的条目", len(loaded), [*bad, *repeated])
    return kept


def _pair_key(row: dict) -> tuple[str, str]:
    return normalize(row["question"]), normalize(row["answer"])
