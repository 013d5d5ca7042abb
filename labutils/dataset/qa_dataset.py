"""问答数据集：读写文件、按事实划分、检查泄漏。在 notebooks/01_build_dataset.ipynb 讲解。

两种文件：qa.jsonl 一行一条问答，带要点、页码、证据，供检查和评测；
train.json、dev.json 是 ChatGLM3 官方微调程序要的对话格式，只有 conversations 一个键。
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

from labutils.base import whole_files
from labutils.base.errors import LabError
from labutils.base.paths import rel
from labutils.base.text_normalize import normalize
from labutils.dataset import conversations
from labutils.dataset.qa_checks import drop_near_duplicates, similarity, validate

__all__ = [
    "check_no_leak", "drop_near_duplicates", "flatten", "load_conversations", "load_qa",
    "read_json", "save_conversations", "similarity", "split", "to_conversations", "validate",
    "write_json_lines",
]


def read_json(path: str | Path) -> list[tuple[str, object]]:
    """读 JSON Lines 或 JSON 数组，返回 [(位置, 内容)]，位置如 “第 3 行”。

    文件不存在、不是 UTF-8、不是 JSON、没有内容时抛 LabError，说明文件和行号。
    """
    name = rel(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # 有的编辑器会在开头加 BOM
    except OSError:
        raise LabError(f"{name} 不存在或打不开，请检查路径和文件名。") from None
    except UnicodeDecodeError:
        raise LabError(
            f"{name} 不是 UTF-8 编码（可能是 GBK/ANSI），请用编辑器“另存为”，编码选 UTF-8。"
        ) from None
    if not text.strip():
        raise LabError(f"{name} 是空文件，请检查上一步有没有写出数据。")
    if text.lstrip().startswith("["):
        items = _loads(text, name, 1)
        return [(f"第 {i} 条", item) for i, item in enumerate(items, 1)]
    lines = enumerate(text.split("\n"), 1)  # 不用 splitlines：它会在字符串里的 U+2028 处断开
    return [(f"第 {i} 行", _loads(line, name, i)) for i, line in lines if line.strip()]


def _loads(text: str, name: str, first_line: int) -> object:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError:
        raise LabError(
            f"{name} 第 {first_line} 行起有残缺的字符（只有半个的 \\uD… 转义），请删掉它。"
        ) from None
    except RecursionError:
        raise LabError(f"{name} 第 {first_line} 行起括号套得太深，请检查文件内容。") from None
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise LabError(
            f"{name} 第 {line} 行第 {error.colno} 列不是合法的 JSON，"
            "每行应是一个完整的 JSON 对象，或整个文件是一个数组。"
        ) from None
    except ValueError:  # json 不是语法错的 ValueError 只有一种：整数超过几千位
        raise LabError(f"{name} 第 {first_line} 行起有一个几千位的整数，请检查文件内容。") from None


def write_json_lines(items: Iterable[object], path: str | Path) -> Path:
    """一行写一个 JSON；中途断电也不会弄坏原来的文件。"""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in items]
    whole_files.write(path, "".join(lines))
    return path


def load_qa(path: str | Path) -> list[dict]:
    """读问答文件；也认对话格式（两条消息的 conversations），摊平成 question、answer。

    内容好坏由 validate 判断；这里只要求每条是 JSON 对象，否则 LabError 指出第几行。
    """
    rows = []
    for where, item in read_json(path):
        if not isinstance(item, dict):
            raise LabError(f"{rel(path)} {where}不是 JSON 对象，应形如 {{\"question\": …}}。")
        rows.append(flatten(item))
    if not rows:
        raise LabError(f"{rel(path)} 里一条问答也没有，请检查文件内容。")
    return rows


def flatten(item: dict) -> dict:
    """{"conversations": [用户, 助手], …} → {"question", "answer", …}；别的样子原样返回。"""
    if not isinstance(item.get("conversations"), list):
        return item
    messages, problem = conversations.read(item)
    if problem or len(messages) != 2:
        return item
    rest = {k: v for k, v in item.items() if k != "conversations"}
    return {**rest, "question": messages[0]["content"], "answer": messages[1]["content"]}


def split(rows: list[dict], seed: int = 42, by: str = "fact") -> tuple[list[dict], list[dict]]:
    """按 2:1 分成 (训练集, 验证集)，同一个 seed 结果相同。

    by="fact"：每个事实的问法里约 1/3 进验证集，其余进训练集，事实都学过、问法没见过。
    by="random"：不看事实，随机抽 1/3，只用来说明为什么不该这样分。
    只有一种问法的事实全进训练集；全都只有一种问法时抽 1/10 作验证集，并打印提醒。
    """
    if by not in ("fact", "random"):
        raise LabError(f"划分方式 by={by!r} 不认识，请用 \"fact\" 或 \"random\"。")
    if len(rows) < 2:
        raise LabError(f"只有 {len(rows)} 条问答，分不出训练集和验证集，请至少准备 2 条。")
    rng = random.Random(seed)
    if by == "random":
        in_dev = set(rng.sample(range(len(rows)), max(1, len(rows) // 3)))
    else:
        in_dev = _dev_by_fact(rows, rng)
    train = [row for i, row in enumerate(rows) if i not in in_dev]
    return train, [row for i, row in enumerate(rows) if i in in_dev]


def _dev_by_fact(rows: list[dict], rng: random.Random) -> set[int]:
    facts: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        facts.setdefault(row["fact_id"], []).append(i)
    in_dev: set[int] = set()
    for members in facts.values():
        if len(members) > 1:
            in_dev.update(rng.sample(members, max(1, len(members) // 3)))
    if not in_dev:
        in_dev.update(rng.sample(range(len(rows)), max(1, len(rows) // 10)))
        print(
            f"提醒：每个事实都只有一种问法，只好抽 {len(in_dev)} 条作验证集；"
            "这些事实训练时没见过，验证集的正确率会偏低。请给每个事实多写几种问法。"
        )
    return in_dev


def check_no_leak(train: list[dict], dev: list[dict]) -> dict:
    """确认验证集的问题一条也没在训练集出现过，否则 LabError。

    返回 {"train", "dev", "dev_facts", "dev_facts_in_train"}；事实数要有 fact_id 才能数。
    """
    for name, rows in (("训练集", train), ("验证集", dev)):
        if not rows:
            raise LabError(f"{name}是空的，请检查划分之前的问答数据。")
    asked = {normalize(_question(row)) for row in train}
    leaked = [q for row in dev if normalize(q := _question(row)) in asked]
    if leaked:
        raise LabError(
            f"验证集有 {len(leaked)} 个问题在训练集里出现过，例如“{leaked[0]}”，请去重后重新划分。"
        )
    learned = {row.get("fact_id") for row in train} - {None}
    tested = {row.get("fact_id") for row in dev} - {None}
    return {
        "train": len(train), "dev": len(dev),
        "dev_facts": len(tested), "dev_facts_in_train": len(tested & learned),
    }


def _question(row: dict) -> str:
    if "question" in row:
        return row["question"]
    return "\n".join(m["content"] for m in row["conversations"] if m["role"] == "user")


def to_conversations(rows: list[dict]) -> list[dict]:
    """问答 → 官方格式，只留 conversations：多余的键官方程序不认。"""
    return [
        {"conversations": [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]}
        for row in rows
    ]


def save_conversations(rows: list[dict], path: str | Path) -> Path:
    """写成官方格式的 JSON Lines；rows 可以是问答，也可以已经是对话。空的抛 LabError。"""
    if not rows:
        raise LabError(f"要写入 {rel(path)} 的数据是空的，请检查划分之前的问答数据。")
    items = [
        {"conversations": row["conversations"]} if "conversations" in row
        else to_conversations([row])[0]
        for row in rows
    ]
    return write_json_lines(items, path)


def load_conversations(path: str | Path) -> list[dict]:
    """读官方格式（JSON Lines 或 JSON 数组），逐条检查；LabError 指出文件和第几行。

    官方的 tools 与 tool 消息换成渲染器认识的写法，见 conversations。
    """
    items = []
    for where, item in read_json(path):
        if not isinstance(item, dict) or not isinstance(item.get("conversations"), list):
            raise LabError(f"{rel(path)} {where}缺少 conversations 列表，请对照 data/train.json。")
        messages, problem = conversations.read(item)
        if problem:
            raise LabError(f"{rel(path)} {where}：{problem}。")
        items.append({"conversations": messages})
    if not items:
        raise LabError(f"{rel(path)} 里一条对话也没有，训练集和验证集都不能是空的。")
    return items
