"""从大模型的原始回复里取出问答对：丢得有理由，修得有分寸。

回复常见的毛病：思考过程、客套话、代码块、多余的逗号、最后一条写到一半。
小毛病用 json_repair 修；写到一半的一律丢掉，不能让程序替模型把话编完。
在 notebooks/01_build_dataset.ipynb 讲解。
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise

import json_repair

from labutils.dataset.qa_dataset import flatten

Problem = dict  # {"reason": 原因, "text": 原文片段, "fixed": 是否已修好}

_THINK = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THINK_END = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THINK_START = re.compile(r"<think(?:ing)?>.*\Z", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
# 一条问答的开头。消息以 "role" 开头，外层包装以别的键开头，都不会认错；
# 以页码、证据等开头的，要同一层后面有问题才算，不然外层的 {"page": 1, "pairs": [{… 也成了一条
_ITEM = re.compile(
    r'\{\s*["\'“]?(?:(?:conversations|question|fact_id|id)["\'”]?\s*[:：]|'
    r'(?:page|evidence|key_points|answer)["\'”]?\s*[:：]'
    r'(?=[^{}]*["\'“](?:conversations|question)["\'”]\s*[:：]))')
_KEYS = {"conversations", "role", "content", "question", "answer", "id", "fact_id", "key_points",
         "page", "evidence"}


def parse_response(text: str) -> tuple[list[dict], list[Problem]]:
    """模型的原始回复 → (问答, 问题清单)。

    问答是 {"question", "answer", 以及 fact_id、key_points、page、evidence 中写了的}。
    problems 里 fixed 为真的已经修好并收下，其余的都丢掉了。
    """
    body = strip_wrapping(text)
    pairs: list[dict] = []
    problems: list[Problem] = []
    for segment in _segments(body):
        pair, problem = _parse_item(segment)
        if problem:
            problems.append(problem)
        if pair is not None:
            pairs.append(pair)
    if rest := _unfinished_start(body):
        problems.append(_problem("写到一半断了，丢掉", rest))
    says_none = re.search(r"\[\s*\]", body)  # 空数组：模型认为这一块没有可出的题
    if not pairs and not problems and not says_none:
        reason = "回复是空的" if not body.strip() else "回复里没有问答（找不到 conversations）"
        problems.append(_problem(reason, text))
    return pairs, problems


def strip_wrapping(text: str) -> str:
    """去掉思考过程和代码块标记，正文原样留下。"""
    text = _THINK.sub("", text)
    text = _THINK_END.sub("", text)  # 有的服务会漏掉开头的 <think>
    text = _THINK_START.sub("", text)  # 想到一半就到了长度上限
    return _FENCE.sub("", text)


def _unfinished_start(body: str) -> str:
    """最后一条问答之后又开了一个 {，连第一个键都没写完。"""
    last = list(_segments(body))[-1:]
    end = last and _closing_brace(last[0], skip_strings=True)
    rest = last[0][end:].strip(" \n\t\r,，") if end else ""
    return rest if rest.startswith("{") else ""


def _segments(body: str) -> Iterator[str]:
    starts = [m.start() for m in _ITEM.finditer(body)]
    for start, end in pairwise([*starts, len(body)]):
        yield body[start:end]


def _parse_item(segment: str) -> tuple[dict | None, Problem | None]:
    end = _closing_brace(segment, skip_strings=True) or _closing_brace(segment, skip_strings=False)
    if end is None:
        return None, _problem("写到一半断了，丢掉", segment)
    source = segment[:end]
    try:
        item, fixed = _load_or_repair(source)
        json.dumps(item, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        return None, _problem("括号套得太深，丢掉", source)
    except UnicodeEncodeError:
        return None, _problem("含有残缺的字符（如半个表情符号），丢掉", source)
    if not isinstance(item, dict):
        return None, _problem("不是一个 JSON 对象，丢掉", source)
    if fixed and not _faithful(item, source):
        return None, _problem("JSON 坏得太厉害，修出来的和原文对不上，丢掉", source)
    pair = flatten(item)
    if "question" not in pair:
        return None, _problem("不是一问一答（应是 user、assistant 各一条），丢掉", source)
    return pair, _problem("JSON 有小毛病，已修好", source, fixed=True) if fixed else None


def _load_or_repair(source: str) -> tuple[object, bool]:
    try:
        return json.loads(source, strict=False), False
    except ValueError:  # 不合法的 JSON，或长得离谱的整数
        return json_repair.loads(source), True


def _problem(reason: str, text: str, fixed: bool = False) -> Problem:
    return {"reason": reason, "text": text.strip(), "fixed": fixed}


def _closing_brace(text: str, skip_strings: bool) -> int | None:
    """和开头的 { 配对的 } 之后的位置；没有就是 None。

    引号乱了的时候，“跳过字符串”的数法会数丢，所以再给一次不管引号的机会。
    """
    depth, in_string, escaped = 0, False, False
    for i, char in enumerate(text):
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"' and skip_strings:
            in_string = True
        elif char in "{}":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return i + 1
    return None


def _faithful(item: dict, source: str) -> bool:
    """修理可以动标点和括号，不能增删一个字，也不能把一句话劈成几个键。"""
    messages = item.get("conversations")
    parts = messages if isinstance(messages, list) else []
    keys = set(item).union(*(part for part in parts if isinstance(part, dict)))
    return keys <= _KEYS and _letters(source) == _letters(json.dumps(item, ensure_ascii=False))


def _letters(text: str) -> str:
    """只留下字母、汉字和数字。"""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(r"\\[nrtbf]", "", text)
    return "".join(char for char in text if char.isalnum())
