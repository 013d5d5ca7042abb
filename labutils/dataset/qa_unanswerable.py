"""“文件没有写明”的问答：从回复里取出、检查，写成与 data/unanswerable_train.jsonl 同样的文件。

它们教模型不知道就说不知道，所以不进 qa.jsonl，也不参加划分。讲解见 notebooks/01_build_dataset.ipynb。
"""

from __future__ import annotations

from pathlib import Path

from labutils.base.paths import rel
from labutils.dataset.qa_checks import NEAR_DUPLICATE, recheck, similarity
from labutils.dataset.qa_dataset import write_json_lines
from labutils.dataset.qa_parse import parse_response

NOT_STATED = "没有写明"


def unanswerable_rows(
    texts: list[str], answerable: list[dict], limit: int, chinese: bool
) -> tuple[list[dict], list[dict]]:
    """一批回复 → (至多 limit 条 {"id", "question", "answer"}，不合格的 [{"reason", "row"}])。

    没有证据可对，别的检查（格式、长度、语言、指代）与问答相同；另外，答案里没有“没有写明”、
    与前面的问题重复，或与 answerable（文件里答得出的）问的是一回事，都不合格。
    chinese：文件是不是中文。模型只看得到一块文字，所以别处也许有答案：用之前请人看一遍。
    """
    good: list[dict] = []
    bad: list[dict] = []
    for pair in [pair for text in texts for pair in parse_response(text)[0]]:
        reason = _problem(pair, good, answerable, chinese)
        if reason:
            bad.append({"reason": reason, "row": pair})
        elif len(good) < limit:
            good.append({"id": f"N{len(good) + 1:02d}", "question": pair["question"].strip(),
                         "answer": pair["answer"].strip()})
    return good, bad


def _problem(pair: dict, good: list[dict], answerable: list[dict], chinese: bool) -> str:
    bare = {key: pair.get(key) for key in ("question", "answer")}
    row, problem = recheck(bare, None, False, chinese)
    if problem:
        return problem.reason
    question = row["question"]
    if NOT_STATED not in row["answer"]:
        return f"答案里没有“{NOT_STATED}”"
    for rows, reason in ((good, "与前面的问题重复"), (answerable, "文件里答得出")):
        if any(similarity(question, row["question"]) >= NEAR_DUPLICATE for row in rows):
            return reason
    return ""


def save_unanswerable(
    files: list[Path], answerable: list[dict], folder: Path, limit: int, chinese: bool
) -> int:
    """写出 folder/unanswerable_train.jsonl 与 unanswerable_rejected.jsonl，返回合格的条数。"""
    texts = [path.read_text(encoding="utf-8") for path in files]
    good, bad = unanswerable_rows(texts, answerable, limit, chinese)
    path = write_json_lines(good, folder / "unanswerable_train.jsonl")
    write_json_lines(bad, folder / "unanswerable_rejected.jsonl")
    print(f"“没有写明”的问答 {len(good)} 条（要 {limit} 条，不合格 {len(bad)} 条）在 {rel(path)}；"
          "模型只看得到一块文字，请人看一遍再用。")
    return len(good)
