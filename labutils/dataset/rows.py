"""问答与对话两种数据：读写、互换，去掉重复的问题，按事实划分，检查泄漏。讲解见 notebook 01。

qa.jsonl 一行一条问答，带要点、页码、证据；train.json、dev.json 是 ChatGLM3 官方微调程序要的对话格式：
``conversations`` 是消息列表，只有问答，没有工具调用。
"""

import math
import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from labutils.base.errors import LabError
from labutils.base.files import read_rows, rel, write_json_lines
from labutils.base.text import normalize

NOT_STATED = "没有写明"  # 文件答不出的问题，回答里都有这几个字
UNANSWERABLE = ("unanswerable_train.jsonl", "unanswerable_test.jsonl")  # 这些题放在问答文件旁边，可以没有


def load_qa(path: str | Path) -> list[dict]:
    """读问答文件，两条消息的 conversations 摊平成问答；哪条不是 JSON 对象，LabError 指出第几行。"""
    rows = []
    for where, item in read_rows(path):
        if not isinstance(item, dict):
            raise LabError(f"{rel(path)} {where}不是 JSON 对象，应形如 {{\"question\": …}}。")
        rows.append(flatten(item))
    if not rows:
        raise LabError(f"{rel(path)} 里一条问答也没有，请检查文件内容。")
    return rows


def load_any(path: Path) -> list[dict]:
    """同 load_qa，没有这个文件就是 []。"""
    return load_qa(path) if path.is_file() else []


def flatten(item: dict) -> dict:
    """{"conversations": [用户, 助手], …} → {"question", "answer", …}；别的样子原样返回。"""
    try:
        messages = to_messages(item) if isinstance(item.get("conversations"), list) else []
    except LabError:
        return item
    if len(messages) != 2:
        return item
    pair = item | {"question": messages[0]["content"], "answer": messages[1]["content"]}
    del pair["conversations"]
    return pair


def to_conversations(rows: list[dict]) -> list[dict]:
    """问答或对话 → 官方格式，只留 conversations：多余的键官方程序不认。"""
    return [{"conversations": row["conversations"] if "conversations" in row else [
        {"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]},
    ]} for row in rows]


def save_conversations(rows: list[dict], path: str | Path) -> Path:
    """写成官方格式的 JSON Lines；rows 可以是问答，也可以已经是对话。空的抛 LabError。"""
    if not rows:
        raise LabError(f"要写入 {rel(path)} 的数据是空的，请检查划分之前的问答数据。")
    return write_json_lines(to_conversations(rows), path)


def load_conversations(path: str | Path) -> list[dict]:
    """读官方格式（JSON Lines 或 JSON 数组）或问答，每条都过一遍 to_messages；LabError 指出文件和第几行。"""
    items = []
    for where, item in read_rows(path):
        if isinstance(item, dict) and {"question", "answer"} <= item.keys():
            [item] = to_conversations([item])
        if not isinstance(item, dict) or not isinstance(item.get("conversations"), list):
            raise LabError(f"{rel(path)} {where}缺少 conversations 列表（或 question 与 answer），"
                           "请对照 data/train.json。")
        try:
            items.append({"conversations": to_messages(item)})
        except LabError as error:
            raise LabError(f"{rel(path)} {where}：{error}。") from None
    if not items:
        raise LabError(f"{rel(path)} 里一条对话也没有，训练与验证用的文件都不能是空的。")
    return items


TOOL_ROLES = ("tool", "observation", "function")
TOOL_KEYS = ("tools", "metadata", "tool_calls", "function_call")
NO_TOOLS = "，是调用工具的写法；课程只用问答对话（system、user、assistant）训练，请去掉这些消息，或去掉这一条"


def to_messages(item: dict) -> list[dict]:
    """官方的一条数据 → ``{"role", "content"}`` 的列表，可带 ``loss``；写得不对时抛 LabError，说出第几条。"""
    messages = item["conversations"]
    if item.get("tools"):
        raise LabError("带有 tools" + NO_TOOLS)
    for number, message in enumerate(messages, 1):
        if problem := _problem(message):
            raise LabError(f"第 {number} 条消息{problem}")
    roles = [message["role"] for message in messages]
    talk = roles[roles[:1] == ["system"] :]
    if not talk or talk != ["user", "assistant"] * (len(talk) // 2):
        raise LabError("角色应是 user、assistant 轮流并以 assistant 结尾，现在是 "
                       f"{'、'.join(map(str, roles)) or '没有消息'}（system 只能在最前）")
    return [{key: message[key] for key in message if key not in TOOL_KEYS} for message in messages]


def _problem(message: object) -> str:
    """一条消息的问题，没有时是空字符串。"""
    if not isinstance(message, dict) or "role" not in message:
        return "应有 role 和 content"
    role, content, loss = message["role"], message.get("content"), message.get("loss", True)
    called = [key for key in TOOL_KEYS if message.get(key)]
    problems = {
        f"的角色是 {role}{NO_TOOLS}": role in TOOL_ROLES,
        f"带有 {'、'.join(called)}{NO_TOOLS}": called,
        "的 content 应是不空的文字": not isinstance(content, str) or not content.strip(),
        f"的 loss 应是 true 或 false，现在是 {loss!r}": not isinstance(loss, bool),
        f"的 loss 不能是 true：只学助手的回答，不学 {role}": message.get("loss") and role != "assistant"}
    return next(filter(problems.get, problems), "")


NEAR_DUPLICATE = 0.8  # 三字组重合到这个程度，只差一两个字，算同一种问法
STAGE = "去重"
LONG = 64  # 几个字组以上算很长


def similarity(left: str, right: str, n: int = 3) -> float:
    """两句话的 n 字组 Jaccard 相似度：共有的字组数 ÷ 全部字组数，0–1（Broder, 1997）。"""
    return overlap(grams(normalize(left), n), grams(normalize(right), n))


def grams(text: str, n: int = 3) -> set[str]:
    """text（统一写法之后的）的全部 n 字组。"""
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))} - {""}


def overlap(a: set[str], b: set[str]) -> float:
    """两组字组的 Jaccard 相似度，0–1。"""
    return len(a & b) / len(a | b) if a | b else 1.0


def drop_near_duplicates(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """去掉重复的问题，保留先出现的；返回 (留下的, 去掉的)，去掉的是 {"stage", "reason", "row"}。

    问题相同就算重复，答案要点不同的另报“矛盾”；只差一两个字的，要点也相同才算：“线上”和“线下”问的是两件事。
    """
    kept: list[dict] = []
    dropped: list[dict] = []
    by_question: dict[str, int] = {}
    asked, points, stays = Asked(map(_question, rows)), list(map(_points, rows)), set()
    for i, (row, question) in enumerate(zip(rows, asked.texts, strict=True)):
        same = (n for n in asked.alike(question, i) if n in stays and points[n] == points[i])
        first = by_question[question] if question in by_question else next(same, None)
        if first is None:
            kept.append(row)
            by_question[question] = i
            stays.add(i)
        else:
            what = "的问题重复" if points[i] == points[first] else "问题相同、答案矛盾"
            dropped.append({"stage": STAGE, "reason": f"与 {_name(rows[first])} {what}", "row": row})
    return kept, dropped


def _name(row: dict) -> str:
    return row.get("id", row["question"])


def _points(row: dict) -> frozenset:
    return frozenset(normalize(point) for point in row["key_points"])


class Asked:
    """问过的问题，texts 是统一写法之后的：几万条里也能很快找出只差一两个字的。

    相似度到 t 的两组字组，各按同一次序（少见的在前）排好，开头 n − ⌈t·n⌉ + k 个里至少有 k 个相同（前缀过滤，
    Bayardo 等，WWW 2007；Wang 等，SIGMOD 2012）：只和开头有三个字组、也就是三对字组相同的比。
    """

    def __init__(self, questions: Iterable[str]):
        self.texts = list(map(normalize, questions))
        self._often = Counter(chain.from_iterable(map(grams, self.texts)))
        marks, numbers = array("q"), array("i")  # 各对字组，它们是哪一条的
        for number, text in enumerate(self.texts):
            marks.extend(found := self._marks(grams(text), NEAR_DUPLICATE))
            numbers.extend([number] * len(found))
        order = np.argsort(marks, kind="stable")
        self._sorted, self._numbers = np.asarray(marks)[order], np.asarray(numbers)[order]

    def alike(self, text: str, before: float = math.inf) -> Iterator[int]:
        """与 text（统一写法之后的）只差一两个字的是第几条（从 0 数），从小到大，只找 before 之前的。"""
        parts = grams(text)
        marks = np.array(self._marks(parts), dtype=np.int64)
        ends = (np.searchsorted(self._sorted, marks, side).tolist() for side in ("left", "right"))
        same = np.concatenate([self._numbers[:0], *(self._numbers[i:j] for i, j in zip(*ends, strict=True))])
        found, counts = np.unique(same[same < before], return_counts=True)
        for number in found[counts >= (3 if len(parts) > 2 else 1)].tolist():
            shared = sum(map(self.texts[number].__contains__, parts))  # 先数一数：比把它拆开快得多
            near = shared >= NEAR_DUPLICATE * len(parts)
            if near and overlap(parts, grams(self.texts[number])) >= NEAR_DUPLICATE:
                yield number

    def _marks(self, parts: set[str], margin: float = 1.0) -> list[int]:
        """开头的字组，两个一对；很长的有太多对，一个一个地用。margin：索引里长短两可的，两种都有。"""
        size, ordered = len(parts), sorted(parts, key=lambda part: (self._often[part], part))
        start = ordered[: size - math.ceil(NEAR_DUPLICATE * size - 1e-9) + 3]
        pairs = combinations(start, 2) if size <= LONG / margin else ()
        singles = zip(start, strict=True) if size == 1 or size > LONG * margin else ()
        return list(map(hash, chain(pairs, singles)))


def drop_leaked(train: list[dict], dev: list[dict]) -> tuple[list[dict], list[dict]]:
    """从验证集去掉和训练集几乎一样的题；返回 (留下的验证集, 去掉的)，去掉的是 {"stage", "reason", "row"}。

    问题相同就算；同一个事实（编号、要点或答案相同）里只差一两个字的也算，比 drop_near_duplicates 严。
    """
    kept: list[dict] = []
    dropped: list[dict] = []
    asked, keys = Asked(map(_question, train)), list(map(_leak_keys, train))
    for row in dev:
        own, alike = _leak_keys(row), asked.alike(normalize(row["question"]))
        if twin := next((train[n] for n in alike if keys[n] & own), None):
            reason = f"与训练集的 {_name(twin)} 几乎一样，留在验证集会让分数虚高"
            dropped.append({"stage": STAGE, "reason": reason, "row": row})
        else:
            kept.append(row)
    return kept, dropped


def _leak_keys(row: dict) -> set[Hashable]:
    return {("问题", normalize(row["question"])), _points(row), ("答案", normalize(row["answer"])),
            ("事实", row.get("fact_id", row["question"]))}


def split(rows: list[dict], seed: int = 42) -> tuple[list[dict], list[dict]]:
    """按 2:1 分成 (训练集, 验证集)，同一个 seed 结果相同。

    每个事实的问法里约 1/3 进验证集，只有一种问法的全进训练集；全都只有一种时抽 1/10，并打印提醒。
    """
    if len(rows) < 2:
        raise LabError(f"只有 {len(rows)} 条问答，分不出训练集和验证集，请至少准备 2 条。")
    facts: dict[object, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        facts[row["fact_id"]].append(i)
    dev = _drawn(list(facts.values()), len(rows), random.Random(seed))
    train = {*range(len(rows))} - dev
    return [rows[i] for i in sorted(train)], [rows[i] for i in sorted(dev)]


def _drawn(groups: list[list[int]], total: int, rng: random.Random) -> set[int]:
    """抽进验证集的行号；groups 是各个事实的行号，total 是总行数。"""
    in_dev = {i for group in groups if len(group) > 1 for i in rng.sample(group, max(1, len(group) // 3))}
    if not in_dev:
        in_dev = set(rng.sample(range(total), max(1, total // 10)))
        print(f"提醒：每个事实都只有一种问法，只好抽 {len(in_dev)} 条作验证集；"
              "这些事实训练时没见过，验证集的正确率会偏低。请给每个事实多写几种问法。")
    return in_dev


def check_no_leak(train: list[dict], dev: list[dict]) -> dict:
    """确认验证集的问题一条也没在训练集出现过，否则 LabError。两边都可以是问答或对话。

    返回 {"train", "dev", "dev_facts", "dev_facts_in_train"}；事实数要有 fact_id 才能数。
    """
    for name, rows in (("训练集", train), ("验证集", dev)):
        if not rows:
            raise LabError(f"{name}是空的，请检查划分之前的问答数据。")
    asked = set(map(normalize, map(_question, train)))
    if repeated := [q for q in map(_question, dev) if normalize(q) in asked]:
        raise LabError(f"验证集有 {len(repeated)} 个问题训练集里也有，例如“{repeated[0]}”，请去重再划分。")
    learned, tested = ({row.get("fact_id") for row in rows} - {None} for rows in (train, dev))
    return {"train": len(train), "dev": len(dev), "dev_facts": len(tested),
            "dev_facts_in_train": len(tested & learned)}


def _question(row: dict) -> str:
    if "question" in row:
        return row["question"]
    return "\n".join(m["content"] for m in row["conversations"] if m["role"] == "user")
