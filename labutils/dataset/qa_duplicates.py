"""重复的问题：同一批里的，以及训练集和验证集之间的。

在 notebooks/01_build_dataset.ipynb 讲解。来源：Broder (1997),
On the resemblance and containment of documents。
"""

from __future__ import annotations

from labutils.base.text_normalize import normalize

NEAR_DUPLICATE = 0.8  # 三字组重合到这个程度，只差一两个字，算同一种问法
STAGE = "去重"


def similarity(left: str, right: str, n: int = 3) -> float:
    """两句话的 n 字组 Jaccard 相似度：共有的字组数 ÷ 全部字组数，0–1。"""
    return overlap(grams(left, n), grams(right, n))


def grams(text: str, n: int = 3) -> set[str]:
    """统一写法之后的全部 n 字组；同一句话要比很多次时，先算好它。"""
    text = normalize(text)
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))} - {""}


def overlap(a: set[str], b: set[str]) -> float:
    """两组字组的 Jaccard 相似度，0–1。"""
    return len(a & b) / len(a | b) if a | b else 1.0


def drop_near_duplicates(
    rows: list[dict], threshold: float = NEAR_DUPLICATE
) -> tuple[list[dict], list[dict]]:
    """去掉重复的问题，保留先出现的；返回 (留下的, 去掉的)，去掉的是 {"stage", "reason", "row"}。

    问题完全相同（标点、全半角不算）就算重复；答案要点不同的另报“矛盾”。
    差一两个字的，只有要点也相同才算重复：“线上”和“线下”只差一字，问的却是两件事。
    """
    kept: list[dict] = []
    dropped: list[dict] = []
    by_question: dict[str, dict] = {}
    by_points: dict[frozenset, list[dict]] = {}
    for row in rows:
        points = _points(row)
        same = by_question.get(normalize(row["question"]))
        close = same or _closest(row, by_points.get(points, []), threshold)
        if close is None:
            kept.append(row)
            by_question[normalize(row["question"])] = row
            by_points.setdefault(points, []).append(row)
            continue
        what = "与 {} 的问题重复" if points == _points(close) else "与 {} 问题相同、答案矛盾"
        reason = what.format(close.get("id", close["question"]))
        dropped.append({"stage": STAGE, "reason": reason, "row": row})
    return kept, dropped


def _points(row: dict) -> frozenset:
    return frozenset(normalize(point) for point in row["key_points"])


def _closest(row: dict, others: list[dict], threshold: float) -> dict | None:
    close = (old for old in others if similarity(old["question"], row["question"]) >= threshold)
    return next(close, None)


def leaked(train: list[dict], dev: list[dict]) -> list[tuple[dict, dict]]:
    """验证集里和训练集几乎一样的题：[(验证集的, 训练集的)]。

    问题相同就算；同一个事实（编号、要点或答案相同）里只差一两个字的也算，
    比 drop_near_duplicates 严：多留一道相近的训练题无妨，考学过的原题就不公平了。
    """
    by_key: dict[object, list[dict]] = {}
    for row in train:
        for key in _leak_keys(row):
            by_key.setdefault(key, []).append(row)
    found = []
    for row in dev:
        asked = normalize(row["question"])
        alike = [old for key in _leak_keys(row) for old in by_key.get(key, [])]
        twin = next((old for old in alike if normalize(old["question"]) == asked), None)
        twin = twin or _closest(row, alike, NEAR_DUPLICATE)
        if twin is not None:
            found.append((row, twin))
    return found


def _leak_keys(row: dict) -> list[object]:
    question, answer = normalize(row["question"]), normalize(row["answer"])
    return [_points(row), ("答案", answer), ("问题", question), ("事实", row.get("fact_id", question))]


def drop_leaked(train: list[dict], dev: list[dict]) -> tuple[list[dict], list[dict]]:
    """从验证集去掉和训练集几乎一样的题；返回 (留下的验证集, 去掉的)。"""
    pairs = leaked(train, dev)
    twins = {id(row) for row, _ in pairs}
    dropped = [
        {"stage": STAGE, "reason": f"与训练集的 {twin.get('id', twin['question'])} 几乎一样，"
         "留在验证集会让分数虚高", "row": row}
        for row, twin in pairs
    ]
    return [row for row in dev if id(row) not in twins], dropped
