"""问什么、答了什么：读提示词，按块的长短定题数，拼成一次次请求；再从大模型的原始回复里取出问答对。

回复常见的毛病：思考过程、客套话、代码块、多余的逗号、最后一条写到一半。
小毛病用 json_repair 修；写到一半的一律丢掉，不能让程序替模型把话编完。
讲解见 notebooks/01_build_dataset.ipynb；怎么发出去见 ask，怎么记账见 service。
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import json_repair

from labutils.base.errors import LabError
from labutils.base.files import CONFIGS, rel
from labutils.base.settings import read_yaml
from labutils.dataset.clean import Chunk
from labutils.dataset.rows import flatten

MARKERS = {"system": (), "user": ("文本", "页码", "事实数", "问法数", "问答对数"),
           "unanswerable": ("文本", "页码", "问题数")}
UNANSWERABLE_PER_CALL = 3  # 一次要得太多，模型会凑数
_MARKER = re.compile(r"\{\{(.+?)\}\}")


@dataclass(frozen=True)
class Prompts:
    """configs/qa_prompt.yaml 的内容。"""

    system: str
    user: str
    unanswerable: str = ""
    chars_per_fact: float = 95
    phrasings: int = 3
    chunk_size: int = 400
    chunk_overlap: int = 50
    temperature: float = 0.3
    timeout_seconds: float = 120.0


@dataclass(frozen=True)
class Request:
    """一次要问的话。chunk_hash、prompt_hash 合起来认得它：块或提示词一变，旧回复就不算数。"""

    kind: str  # "qa" 出题；"unanswerable" 要“没有写明”的问题
    number: int  # 第几块，从 1 开始
    chunk: Chunk
    messages: list[dict]
    pairs: int  # 要几条
    temperature: float

    @property
    def chunk_hash(self) -> str:
        return _hash([self.chunk.text, list(self.chunk.pages)])

    @property
    def prompt_hash(self) -> str:
        return _hash([self.kind, self.messages, self.temperature])


def load_prompts(path: str | Path = CONFIGS / "qa_prompt.yaml") -> Prompts:
    """读提示词；缺 system、user、{{文本}}，或有不认识的键、占位符时抛 LabError。"""
    name, values = rel(path), read_yaml(Path(path))
    if unknown := values.keys() - Prompts.__dataclass_fields__.keys():
        raise LabError(f"{name} 有不认识的键 {'、'.join(map(str, unknown))}，请检查拼写。")
    for key in ("system", "user"):
        if not isinstance(values.get(key), str):
            raise LabError(f"{name} 缺少文字 {key}，请补上。")
    for key, value in values.items():
        check = _check_template if key in MARKERS else _check_number
        check(f"{name} 的 {key}", value, key)
    return Prompts(**values)


def _check_template(where: str, text: object, key: str) -> None:
    if not isinstance(text, str):
        raise LabError(f"{where} 应是文字。")
    for marker in set(_MARKER.findall(text)) - set(MARKERS[key]):
        known = "、".join(MARKERS[key]) or "（这里没有）"
        raise LabError(f"{where} 里有不认识的占位符 {marker}，可用的是：{known}。")
    if key != "system" and "{{文本}}" not in text:
        raise LabError(f"{where} 里没有 {{{{文本}}}}，模型会看不到文档，请补上。")


def _check_number(where: str, value: object, key: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LabError(f"{where} 应是数字，现在是 {value!r}。")
    if value < 0 or (value == 0 and key not in ("temperature", "chunk_overlap")):
        raise LabError(f"{where} 应大于 0，现在是 {value}。")
    if key == "phrasings" and value != int(value):
        raise LabError(f"{where} 应是整数，现在是 {value}。")


def fill(template: str, values: dict[str, object]) -> str:
    """把 {{名字}} 换成值。只扫一遍，所以文档里自带的花括号、{{…}} 都原样保留。"""
    return _MARKER.sub(lambda m: str(values[m[1]]) if m[1] in values else m[0], template)


def fact_count(chunk: Chunk, prompts: Prompts) -> int:
    """这一块问几个事实：按字数算，至少一个。"""
    return max(1, round(len(chunk.text) / prompts.chars_per_fact))


def messages_for(chunk: Chunk, prompts: Prompts) -> list[dict]:
    """一块文本的两条消息（system 与 user）。"""
    facts = fact_count(chunk, prompts)
    numbers = {"事实数": facts, "问法数": prompts.phrasings, "问答对数": facts * prompts.phrasings}
    return _messages(prompts, prompts.user, chunk, numbers)


def _messages(prompts: Prompts, template: str, chunk: Chunk, numbers: dict) -> list[dict]:
    values = {"文本": chunk.text, "页码": "、".join(map(str, chunk.pages)), **numbers}
    return [{"role": "system", "content": prompts.system},
            {"role": "user", "content": fill(template, values)}]


def qa_requests(chunks: list[Chunk], prompts: Prompts) -> list[Request]:
    """每块一次出题的请求。"""
    return [Request("qa", number, chunk, messages_for(chunk, prompts),
                    fact_count(chunk, prompts) * prompts.phrasings, prompts.temperature)
            for number, chunk in enumerate(chunks, 1)]


def unanswerable_requests(chunks: list[Chunk], count: int, prompts: Prompts) -> list[Request]:
    """要 count 个“没有写明”的问题：均匀地挑几块，每块要几个。"""
    if not count or not chunks:
        return []
    if not prompts.unanswerable:
        raise LabError("提示词文件里没有 unanswerable，请补上，或不要“没有写明”的问题。")
    calls = min(len(chunks), math.ceil(count / UNANSWERABLE_PER_CALL))
    each = math.ceil(count / calls)
    return [Request("unanswerable", i + 1, chunks[i],
                    _messages(prompts, prompts.unanswerable, chunks[i], {"问题数": each}),
                    each, prompts.temperature)
            for i in (n * len(chunks) // calls for n in range(calls))]


def _hash(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:16]


def _object(fields: dict[str, dict]) -> dict:
    """有这些字段的对象的 JSON Schema；严格模式要求列出全部字段。"""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


_TEXT = {"type": "string"}
_MESSAGE = _object({"role": {"type": "string", "enum": ["user", "assistant"]}, "content": _TEXT})
# 每种请求要的回复：{"pairs": [一项有这些字段的对象]}
SCHEMAS = {kind: _object({"pairs": {"type": "array", "items": _object(fields)}}) for kind, fields in {
    "qa": {"conversations": {"type": "array", "items": _MESSAGE}, "fact_id": _TEXT,
           "key_points": {"type": "array", "items": _TEXT}, "page": {"type": "integer"}, "evidence": _TEXT},
    "unanswerable": {"question": _TEXT, "answer": _TEXT}}.items()}

_WRAPPING = [re.compile(pattern) for pattern in (  # 思考过程和代码块标记，依次去掉
    r"(?si)<think(?:ing)?>.*?</think(?:ing)?>",
    r"(?si)\A.*</think(?:ing)?>",  # 有的服务会漏掉开头的 <think>
    r"(?si)<think(?:ing)?>.*\Z",  # 想到一半就到了长度上限
    r"(?m)^[ \t]*```.*$")]
# 一条问答的开头。消息以 "role" 开头，外层包装以别的键开头，都不会认错；
# 以页码、证据等开头的，要同一层后面有问题才算，不然外层的 {"page": 1, "pairs": [{… 也成了一条
_ITEM = re.compile(
    r'\{\s*["\'“]?(?:(?:conversations|question|fact_id|id)["\'”]?\s*[:：]|'
    r'(?:page|evidence|key_points|answer)["\'”]?\s*[:：]'
    r'(?=[^{}]*["\'“](?:conversations|question)["\'”]\s*[:：]))')
_BRACE, _STRING_OR_BRACE = re.compile(r"[{}]"), re.compile(r'(?s)"(?:[^"\\]|\\.)*+"?|[{}]')
_KEYS = {"conversations", "role", "content", "question", "answer", "id", "fact_id", "key_points",
         "page", "evidence"}


def parse_response(text: str) -> tuple[list[dict], list[dict]]:
    """模型的原始回复 → (问答, 问题清单)。

    问答是 {"question", "answer", 以及 fact_id、key_points、page、evidence 中写了的}。
    问题是 {"kind": 哪一种, "reason": 原因, "text": 原文片段, "fixed": 是否已修好}；修好的收下，其余的都丢掉。
    kind 有 cut（写到一半断了）、empty（没有问答）、nested、broken、shape、unfaithful 和 fixed。
    """
    body = text
    for pattern in _WRAPPING:
        body = pattern.sub("", body)
    starts = [match.start() for match in _ITEM.finditer(body)]
    segments = [body[start:end] for start, end in pairwise([*starts, len(body)])]
    parsed = [_parse_item(segment) for segment in segments]
    pairs = [pair for pair, _ in parsed if pair is not None]
    problems = [problem for _, problem in parsed if problem]
    if rest := _unfinished(segments):
        problems.append(_problem("cut", "写到一半断了，丢掉", rest))
    if not (pairs or problems or re.search(r"\[\s*\]", body)):  # 空数组：模型认为这一块没有可出的题
        reason = "回复是空的" if not body.strip() else "回复里没有问答（找不到 conversations）"
        problems.append(_problem("empty", reason, text))
    return pairs, problems


def _unfinished(segments: list[str]) -> str:
    """最后一条问答之后又开了一个 {，连第一个键都没写完：写出来的那点；没有就是空的。"""
    end = _closing_brace(segments[-1], skip_strings=True) if segments else None
    rest = segments[-1][end:].strip(" \n\t\r,，") if end else ""
    return rest if rest.startswith("{") else ""


def _parse_item(segment: str) -> tuple[dict | None, dict | None]:
    end = _closing_brace(segment, skip_strings=True) or _closing_brace(segment, skip_strings=False)
    if end is None:
        return None, _problem("cut", "写到一半断了，丢掉", segment)
    source = segment[:end]
    try:
        item, fixed = _load_or_repair(source)
        json.dumps(item, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        return None, _problem("nested", "括号套得太深，丢掉", source)
    except UnicodeEncodeError:
        return None, _problem("broken", "含有残缺的字符（如半个表情符号），丢掉", source)
    if not isinstance(item, dict):
        return None, _problem("shape", "不是一个 JSON 对象，丢掉", source)
    if fixed and not _faithful(item, source):
        return None, _problem("unfaithful", "JSON 坏得太厉害，修出来的和原文对不上，丢掉", source)
    pair = flatten(item)
    if "question" not in pair:
        return None, _problem("shape", "不是一问一答（应是 user、assistant 各一条），丢掉", source)
    return pair, _problem("fixed", "JSON 有小毛病，已修好", source) if fixed else None


def _load_or_repair(source: str) -> tuple[object, bool]:
    try:
        return json.loads(source, strict=False), False
    except ValueError:  # 不合法的 JSON，或长得离谱的整数
        return json_repair.loads(source), True


def _problem(kind: str, reason: str, text: str) -> dict:
    return {"kind": kind, "reason": reason, "text": text.strip(), "fixed": kind == "fixed"}


def _closing_brace(text: str, skip_strings: bool) -> int | None:
    """和开头的 { 配对的 } 之后的位置；没有就是 None。

    引号乱了的时候，“跳过字符串”的数法会数丢，所以再给一次不管引号的机会。
    """
    depth = 0
    for match in (_STRING_OR_BRACE if skip_strings else _BRACE).finditer(text):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return None


def _faithful(item: dict, source: str) -> bool:
    """修理可以动标点和括号，不能增删一个字，也不能把一句话劈成几个键。"""
    parts = item["conversations"] if isinstance(item.get("conversations"), list) else []
    keys = set(item).union(*(part for part in parts if isinstance(part, dict)))
    return keys <= _KEYS and _letters(source) == _letters(json.dumps(item, ensure_ascii=False))


def _letters(text: str) -> str:
    """只留下字母、汉字和数字。"""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(r"\\[nrtbf]", "", text)
    return "".join(char for char in text if char.isalnum())
