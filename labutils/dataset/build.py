"""一步做完整个数据集：文档 → 问答 → 检查 → 划分 → 写文件，并报告每一关还剩多少条。

notebook 01 把这里的每一步拆开讲，命令行 labutils dataset 直接调用；网页反馈的用法见 README“评价变成新的题”。
"""

import json
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

from labutils.base import files
from labutils.base.errors import LabError
from labutils.base.files import DATA, OUTPUT, one_sentence, place, read_rows, rel, resolve, write_json_lines
from labutils.base.text import normalize
from labutils.dataset import rows as qa
from labutils.dataset.checks import begins_on, document_of, free_facts, funnel, page_texts, recheck, validate
from labutils.dataset.clean import Page
from labutils.dataset.formats import read_pages
from labutils.dataset.generation import generate
from labutils.dataset.prompts import Chunk, chunks, load_prompts
from labutils.dataset.replies import parse_response, separate
from labutils.dataset.report import NAME, summary, write
from labutils.dataset.review import apply, export

COURSE_PDF = DATA / "source" / "course_document.pdf"
COURSE_SOURCE = COURSE_PDF.with_suffix(".md")
REVIEW, REVIEWED = "review.xlsx", "人工审阅之后"
FEEDBACK = OUTPUT / "feedback.jsonl"  # 网页上的评价与改正写在这里，下次造数据时读回来
UP, DOWN = "up", "down"
_VOTE = ("question", "model_answer", "vote", "correction")  # 网页写的一条反馈，都是文字
NO_UNANSWERABLE = ("这份文档没有“没有写明”的问答：“材料没写的问题”既不训练，也不测。要的话，把 "
                   f"{'、'.join(qa.UNANSWERABLE)} 放在问答文件旁边，或请大模型出题时写 --unanswerable。")


@one_sentence()
def build_dataset(
    pdf: str | Path, qa_file: str | Path | None, out_dir: str | Path, api_model: str = "", seed: int = 42,
    feedback: str | Path | None = None, **api,
) -> dict:
    """写出 out_dir/data/ 下的 qa.jsonl、train.json、dev.json、“没有写明”的题、rejected.jsonl 和数据集报告。

    api_model 或 api（generate 的其余参数）里的 preset 不空：调用大模型出题，断了接着做。
    都空：用 qa_file（见 from_file），逐条对着文档检查；没有给的，课程的文档回放样例回复，别的引发 LabError。
    feedback 是网页存下的评价与改正，合格的作为新问答接在后面。
    返回 finish 的报告：其中 funnel 是 [(关口, 剩余条数)]，summary 是摘要文字。
    """
    pdf, out_dir, qa_file = resolve(pdf), place(out_dir), resolve(qa_file) if qa_file else None
    voted = read_pairs(resolve(feedback)) if feedback else []  # 写坏了就在花钱出题之前说
    pages = read_pages(pdf)
    if api_model or api.get("preset"):
        qa_file, made = None, _asked(out_dir, {"model": api_model, **api}, pages)
    else:
        made = _given(pdf, qa_file, pages)
    rows, rejected, steps, unanswerable = made
    if not rows:
        raise LabError(_nothing_passed(qa_file, out_dir, rejected))
    if feedback:
        rows = _add_feedback(voted, rows, pages, rejected)
        steps = [*steps, ("加上网页反馈", len(rows))]
    unanswerable = unanswerable or _unanswerable_beside(qa_file or DATA / "qa.jsonl", pages)
    report = finish(out_dir / "data", rows, rejected, pages, seed, steps)
    save_unanswerable(out_dir / "data", unanswerable, rows, pages)
    print("每一关还剩：" + " → ".join(f"{name} {count}" for name, count in report["funnel"]))
    print(f"写好 {rel(out_dir / 'data')}，不合格 {len(rejected)} 条。", report["summary"], sep="\n")
    return report


class Made(NamedTuple):
    rows: list[dict]  # 合格的
    rejected: list[dict]  # 不合格的
    funnel: list[tuple[str, int]]  # checks.funnel 的结果
    unanswerable: list[dict] = []  # 模型出的“没有写明”的问答，还没有检查


def _nothing_passed(qa_file: Path | None, out_dir: Path, rejected: list[dict]) -> str:
    """一条也没通过：留下全部原因，说清楚接下来做什么。"""
    record = write_json_lines(rejected, out_dir / "rejected.jsonl")
    first = f"，例如：{rejected[0]['reason']}" if rejected else ""
    what, advice = "回复里", "请换一个模型，或照着原因改 configs/qa_prompt.yaml"
    if qa_file:
        what = f"{rel(qa_file)} 里"
        advice = ("换了文档就用 --qa 给出它的问答对，或用 --preset、--api-model 请大模型出题"
                  "（notebook 里是 QA_FILE、PRESET、API_MODEL）")
    return f"{what}没有一条问答通过检查{first}；全部原因见 {rel(record)}。{advice}。"


def is_course_document(pages: list[Page]) -> bool:
    """按标题认，不按文件名认：样例回复只配得上那一份文档，别的文档可能顶替了它的位置。"""
    title = COURSE_SOURCE.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
    return pages[0].text.startswith(title + "\n")


def _given(pdf: Path, qa_file: Path | None, pages: list[Page]) -> Made:
    """不花钱的两种来源：现成的问答文件；课程的文档可以回放样例回复，与课程的问答文件比一比。"""
    given = from_file(qa_file, pages) if qa_file else None
    replayable = qa_file in (None, DATA / "qa.jsonl") and is_course_document(pages)
    if not (given or replayable):
        raise LabError(
            f"{rel(pdf)} 没有配套的问答：请用 --preset 或 --api-model 请大模型出题（要先设置它的密钥），"
            "或用 --qa 给出现成的问答文件（notebook 里是 PRESET、API_MODEL、QA_FILE）。")
    if not replayable:
        return given
    samples = sorted((DATA / "sample_responses").glob("*.txt"))
    print(f"没有调用 API：回放 data/sample_responses 里的 {len(samples)} 份样例回复。")
    replayed = collect(_texts(samples), pages)
    if not given:
        return replayed
    ours, theirs = ({(normalize(row["question"]), normalize(row["answer"])) for row in made.rows}
                    for made in (replayed, given))
    print(f"回放得到 {len(replayed.rows)} 对，{len(ours & theirs)} 对与 {rel(qa_file)} 的 "
          f"{len(given.rows)} 对一致。")
    return Made(given.rows, [*replayed.rejected, *given.rejected], replayed.funnel)


def _asked(out_dir: Path, api: dict, pages: list[Page]) -> Made:
    prompts = load_prompts()
    pieces = chunks(pages, prompts.chunk_size, prompts.chunk_overlap)
    result = generate(pieces, out_dir=out_dir, prompts=prompts, **api)
    found = chain.from_iterable(_parsed(_texts(result.unanswerable_files))[0])
    extra = [{"id": f"N{number:02d}", **{key: pair.get(key) for key in ("question", "answer")}}
             for number, pair in enumerate(found, 1)]
    return collect(_texts(result.files), pages, result.chunks)._replace(unanswerable=extra)


def _texts(paths: list[Path]) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in paths]


def collect(responses: list[str], pages: list[Page], pieces: list[Chunk] | None = None) -> Made:
    """一批原始回复 → 问答；给了每份的文本块就由证据定页码。"""
    pairs, lost = _parsed(responses)
    if pieces is not None:
        texts = {page.number: page for page in pages}
        pairs = [locate_pages(found, list(map(texts.__getitem__, piece.pages)))
                 for found, piece in zip(pairs, pieces, strict=True)]
    return _checked("回复里的条目", name_facts(pairs), lost, pages)


def _checked(first: str, rows: list[dict], lost: list[dict], pages: list[Page], strict: bool = True) -> Made:
    """逐条检查、去重；lost 是读不出来的，first 是漏斗里第一关的说法。"""
    good, bad = validate(rows, pages, require_evidence=strict)
    kept, repeated = qa.drop_near_duplicates(good)
    rejected = [*lost, *bad, *repeated]
    return Made(kept, rejected, funnel(first, len(rows) + len(lost), rejected))


def _parsed(responses: list[str]) -> tuple[list[list[dict]], list[dict]]:
    """(每份回复的问答, 读不出来的)。"""
    parsed = list(map(parse_response, responses))
    return [found for found, _ in parsed], [
        {"stage": "解析", "reason": problem["reason"], "text": problem["text"]}
        for _, problems in parsed for problem in problems if not problem["fixed"]]


def locate_pages(pairs: list[dict], pages: list[Page]) -> list[dict]:
    """一块文字跨几页（pages）时，模型分不清哪句在哪页；按证据所在改成其中的那一页（跨页的是开头那页）。"""
    inside, located = page_texts(pages), []
    for pair in pairs:
        evidence = str(pair.get("evidence") or "")  # 还没有检查：模型可能写了别的类型
        found = (number for number, texts in inside.items() if evidence and begins_on(evidence, texts))
        located.append({**pair, "page": next(found, pair.get("page"))})
    return located


def name_facts(responses: list[list[dict]]) -> list[dict]:
    """统一事实的编号：各次回复都从 F01 编起，同号不一定同事；相邻块重叠，同事不一定同号。没有编号的不动。"""
    names: dict[tuple, str] = {}  # 认得出事实的键 → 统一的编号
    named, used = [], set()
    free = free_facts(used)
    for number, pair in ((number, pair) for number, pairs in enumerate(responses) for pair in pairs):
        if keys := _fact_keys(number, pair):
            given, known = str(pair["fact_id"]), next(filter(None, map(names.get, keys)), None)
            pair = {**pair, "fact_id": known or (next(free) if given in used else given)}
            used.add(pair["fact_id"])
            for key in keys:
                names.setdefault(key, pair["fact_id"])
        named.append(pair)
    return named


def _fact_keys(number: int, pair: dict) -> list[tuple]:
    """凭什么认出是同一个事实：第 number 份回复里的编号；页码、证据和要点。没有编号的是空列表。"""
    given, points, evidence = map(pair.get, ("fact_id", "key_points", "evidence"))
    if not isinstance(given, str | int) or given == "":
        return []
    if not isinstance(points, list) or not points:
        points = [pair.get("answer")]
    told = [normalize(str(evidence or "")), *sorted(normalize(str(point)) for point in points)]
    return [(number, str(given)), (str(pair.get("page")), *told)]


@one_sentence()
def from_file(qa_file: Path, pages: list[Page]) -> Made:
    """检查现成的问答文件；.json、.jsonl 以外的，或不以括号开头的，当作从对话窗口复制来的回复。"""
    pasted = qa_file.suffix.lower() not in (".json", ".jsonl") or (
        qa_file.read_bytes().lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in b"[{")
    loaded, lost = _pasted(qa_file) if pasted else (qa.load_qa(qa_file), [])
    made = _checked("文件里的条目", loaded, lost, pages, strict=False)
    if bare := sum(not {"evidence", "page"} <= row.keys() for row in made.rows):
        print(f"提醒：{rel(qa_file)} 有 {bare} 条没写页码或证据，没法核对出处，照收。")
    if made.rows and made.rejected:
        print(f"提醒：{rel(qa_file)} 的 {len(loaded) + len(lost)} 条里有 {len(made.rejected)} 条不合格，"
              "原因见 rejected.jsonl。")
    return made


def _pasted(path: Path) -> tuple[list[dict], list[dict]]:
    """从对话窗口复制来的一份或几份回复 → (问答, 读不出来的)。"""
    pairs, lost = _parsed(separate(files.decode(path.read_bytes(), rel(path), "请另存为 UTF-8")))
    if not any(pairs):
        reason = lost[0]["reason"] if lost else "模型说没有可出的题"
        raise LabError(f"{rel(path)} 里没有找到问答（{reason}）：请复制对话窗口里带着花括号的整个回复。")
    # 各份回复都从 F01 编起，同一个事实的几条总是挨着
    runs = groupby(chain.from_iterable(pairs), lambda pair: pair.get("fact_id"))
    return name_facts([list(run) for _, run in runs]), lost


def save_unanswerable(folder: Path, given: list[dict], answerable: list[dict], pages: list[Page]) -> None:
    """“没有写明”的问答：合格的写进 folder 里的 qa.UNANSWERABLE，不合格的写进 unanswerable_rejected.jsonl。

    given 的 file 说各条属于哪个文件；模型出的没有说，每三条留一条测试，另做与问答相同的检查。answerable 里
    有的不合格。哪个文件一条也没有，以前别的文档留下的就删掉。
    """
    good, bad, known = [], [], qa.Asked(row["question"] for row in answerable)
    document = document_of(pages)._replace(pages=None)  # 只看文档是不是中文
    for item in given:
        row, problem = recheck({**item, "key_points": None}, document, require_evidence=False)
        refused = problem and (problem.stage == "格式" or "file" not in item)  # 人写的只看格式
        if reason := problem.reason if refused else _unfit(row, known):
            bad.append({"reason": reason, "row": item})
        else:
            good.append(row)
    kept, repeated = qa.drop_near_duplicates(good)
    rows_of = {qa.UNANSWERABLE[0]: [], qa.UNANSWERABLE[1]: [], "unanswerable_rejected.jsonl": bad + repeated}
    for number, row in enumerate(kept):
        name = row.pop("file", qa.UNANSWERABLE[number % 3 == 2])
        rows_of[name].append(row | {"key_points": [qa.NOT_STATED]})
    for name, rows in rows_of.items():
        if rows:
            write_json_lines(rows, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    counts = "训练 {} 条，测试 {} 条，不合格 {} 条".format(*map(len, rows_of.values()))
    advice = "" if all("file" in item for item in given) else "模型只看得到一块文字，请人看一遍再用。"
    print(f"“没有写明”的问答：{counts}。{advice}" if given else NO_UNANSWERABLE)


def _unfit(row: dict, known: qa.Asked) -> str:
    if qa.NOT_STATED not in row["answer"]:
        return f"答案里没有“{qa.NOT_STATED}”"
    return "文件里答得出" if [*known.alike(normalize(row["question"]))] else ""


def _unanswerable_beside(qa_file: Path, pages: list[Page]) -> list[dict]:
    """问答文件旁边的“没有写明”的问答，课程的文档还可以用 data 里的；别的文档不用 data 里的。"""
    for folder in (qa_file.parent, DATA):
        found = [row | {"file": name} for name in qa.UNANSWERABLE for row in qa.load_any(folder / name)]
        if found and (folder.resolve() != DATA or is_course_document(pages)):
            return found
    return []


def read_pairs(path: str | Path) -> list[dict]:
    """反馈文件 → 可以直接交给 validate 的问答 {"question", "answer", "source": 哪个文件第几行}。

    有改正的用改正；只点了 👍 的用模型的回答；只点了 👎 的不用。同一个问题以最后一条为准，
    后来的 👎 也会撤掉先前的 👍。文件不存在、某行不对时引发 LabError，说明第几行。
    """
    answers: dict[str, dict] = {}
    for where, row in read_rows(path):
        if not isinstance(row, dict) or not all(isinstance(row.get(field), str) for field in _VOTE):
            raise LabError(f"{rel(path)} {where}不是网页写的反馈，"
                           "应有 question、model_answer、vote、correction，请删掉这一行。")
        question, model_answer, vote, correction = map(row.get, _VOTE)
        answer = correction or (model_answer if vote == UP else "")
        answers.pop(normalize(question), None)
        if answer:
            source = f"{rel(path)} {where}"
            answers[normalize(question)] = {"question": question, "answer": answer, "source": source}
    return list(answers.values())


def _add_feedback(voted: list[dict], rows: list[dict], pages: list[Page], rejected: list[dict]) -> list[dict]:
    """rows 后面接上反馈（read_pairs 的结果）里合格的新问答，不合格的加进 rejected 并打印行号。

    写反馈的可能是任何人，所以和自己的问答文件一样逐条检查；与原有问答矛盾的以原有的为准。
    """
    kept, refused, *_ = _checked("", [*rows, *voted], [], pages, strict=False)
    rejected += refused
    for item in refused:
        print(f"{item['row']['source']}不合格：{item['reason']}。")
    added = kept[len(rows) :]  # rows 早就合格，也去过重，都留下了
    print(f"网页反馈：收下 {len(added)} 条新问答，{len(refused)} 条没有收。")
    for row in added:
        del row["source"]
    return kept


@one_sentence()
def finish(
    folder: str | Path, rows: list[dict], rejected: list[dict], pages: list[Page], seed: int,
    funnel: list[tuple[str, int]],
) -> dict:
    """划分并写出 folder 里的全部文件；和训练集几乎一样的验证题加进 rejected。

    返回 check_no_leak 的条数，另有 {"pairs", "facts", "funnel", "summary"}；summary 是几行文字的摘要。
    """
    folder = Path(folder)
    train, dev = qa.split(rows, seed=seed)
    dev, leaked = qa.drop_leaked(train, dev)
    if leaked:
        rejected += leaked
        gone = {id(item["row"]) for item in leaked}
        rows = [row for row in rows if id(row) not in gone]
        funnel = [*funnel, ("验证集没有训练题", funnel[-1][1] - len(leaked))]
    report = qa.check_no_leak(train, dev)
    write_json_lines(rows, folder / "qa.jsonl")
    qa.save_conversations(train, folder / "train.json")
    qa.save_conversations(dev, folder / "dev.json")
    write_json_lines(rejected, folder / "rejected.jsonl")
    full = write(folder, rows, train, dev, pages, funnel)
    return report | {"pairs": len(rows), "facts": full["facts"], "funnel": funnel, "summary": summary(full)}


def load_rows(folder: str | Path) -> tuple[list[dict], list[dict]]:
    """读回 folder 里的 (合格的问答, 被拦下的)。"""
    refused = read_rows(Path(folder) / "rejected.jsonl", torn="skip")
    return qa.load_qa(Path(folder) / "qa.jsonl"), [item for _, item in refused]


def export_review(folder: str | Path) -> Path:
    """把 folder 里的数据集写成审阅表 folder/review.xlsx。"""
    rows, rejected = load_rows(folder)
    return export(rows, Path(folder) / REVIEW, rejected)


def apply_review(
    folder: str | Path, pages: list[Page], seed: int = 42, table: str | Path | None = None
) -> dict:
    """读回审阅表，让决定生效，重新划分并写回 folder；返回 finish 的报告，另有 counts。

    table 默认是 folder/review.xlsx。有错时抛 LabError，folder 里的文件一个也不动。
    """
    folder = Path(folder)
    rows, rejected = load_rows(folder)
    review = apply(table or folder / REVIEW, rows, pages, rejected)
    record = folder / f"{NAME}.json"  # 里面有自动检查的漏斗；上一次审阅的不算，再审一次就换掉它
    old = json.loads(record.read_text(encoding="utf-8"))["funnel"] if record.is_file() else []
    steps = [tuple(step) for step in old if step[0] != REVIEWED] or [("审阅之前", len(rows))]
    steps.append((REVIEWED, len(review.rows)))
    report = finish(folder, review.rows, review.rejected, pages, seed, steps)
    print("审阅：" + "，".join(f"{name or '没看'} {count}" for name, count in review.counts.items())
          + f"；{rel(folder)} 现有 {report['pairs']} 对问答。")
    return report | {"counts": review.counts}
