"""问什么：文档按句子切成块，按块的长短定题数，拼成一次次请求，说明要什么样的回复。讲解见 notebook 01。

页码跟着块走，后面每条问答都能指回它出自哪一页。
"""

import hashlib
import json
import math
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from labutils.base.errors import LabError
from labutils.base.files import CONFIGS, rel
from labutils.base.settings import read_yaml
from labutils.dataset.clean import CLOSING, HAN, Page, between

MARKERS = {"system": (), "user": ("文本", "页码", "事实数", "问法数", "问答对数"),
           "unanswerable": ("文本", "页码", "问题数")}
UNANSWERABLE_PER_CALL = 3  # 一次要得太多，模型会凑数
_MARKER = re.compile(r"\{\{(.+?)\}\}")


@dataclass(frozen=True)
class Chunk:
    text: str
    pages: tuple[int, ...]  # 这块文字来自哪几页
    repeated: int = 0  # 开头有多少个字是重复前一块末尾的


# 半角的 ! ? ; . 也出现在网址、小数、缩写里，后面是空白、汉字或结尾时才算句末；
# 英文句号还要求前面不是编号（1. 总则），后面另起一句
_SENTENCE_STOP = re.compile(
    rf"[。！？；]+[{CLOSING}]*|[!?;]+[{CLOSING}]*(?=[\s{HAN}]|$)"
    rf"|(?:(?<=[a-z)\]])|(?<=\d\d\d))\.(?=\s+[A-Z{HAN}])|\n"
)
_BODY = re.compile(r"\S(?:.*\S)?", re.DOTALL)
_CLAUSE_STOP = re.compile(r"[，,、：:]")

Span = tuple[int, int]  # 整篇文字里的一段：(起点, 终点)


def chunks(pages: list[Page], size: int = 400, overlap: int = 50) -> list[Chunk]:
    """按句子装块，每块至多 size 个字；后一块重复前一块末尾至多 overlap 个字的整句。

    句末是 。！？；和换行。句子不会被切断，除非它自己就比 size 长（那时在逗号处分，再不行才硬切）。
    各块去掉开头重复的 repeated 个字再相连，除空白外与原文一字不差。大小不合适时抛 LabError。
    """
    if size < 1 or not 0 <= overlap < size:
        raise LabError(f"分块大小 {size}、重叠 {overlap} 不合适：要求 0 ≤ 重叠 < 大小。")
    text, starts = _whole(pages)
    sentences = _spans(text, [0, *(stop.end() for stop in _SENTENCE_STOP.finditer(text)), len(text)])
    pieces = [piece for sentence in sentences for piece in _cut_long(text, sentence, size)]
    result: list[Chunk] = []
    done = 0  # 已经装进块里的文字到哪里为止
    for first, last in _pack(pieces, size, overlap):
        start, end = pieces[first][0], pieces[last][1]
        result.append(Chunk(text[start:end], _pages(starts, start, end), max(0, done - start)))
        done = end
    return result


def _whole(pages: list[Page]) -> tuple[str, list[tuple[int, int]]]:
    """各页连成一篇；返回 (全文, [(这一页从第几个字开始, 页码)])。空白页不占位置。"""
    text, starts = "", []
    for page in pages:
        if body := page.text.strip():
            text = text + between(text, body) + body
            starts.append((len(text) - len(body), page.number))
    return text, starts


def _spans(text: str, cuts: list[int]) -> list[Span]:
    """在 cuts 这些位置把 text 切开，各段去掉两头的空白；只有空白的不要。"""
    return [body.span() for start, end in pairwise(cuts) if (body := _BODY.search(text, start, end))]


def _cut_long(text: str, sentence: Span, size: int) -> list[Span]:
    """不比 size 长的原样返回；太长的先在逗号处分，一个分句还太长就硬切。"""
    start, end = sentence
    stops = [m.end() for m in _CLAUSE_STOP.finditer(text, start, end)]
    cuts = [start]
    while end - cuts[-1] > size:
        furthest = cuts[-1] + size
        cuts.append(max((stop for stop in stops if cuts[-1] < stop <= furthest), default=furthest))
    return _spans(text, [*cuts, end])


def _pack(pieces: list[Span], size: int, overlap: int) -> list[tuple[int, int]]:
    """相邻的句子装成块：返回每块的 (第一句, 最后一句) 序号。"""
    packed, first = [], 0
    for i, (_, end) in enumerate(pieces):
        if i > first and end - pieces[first][0] > size:
            packed.append((first, i - 1))
            # 往回数，重复的整句合计不超过 overlap 个字，连同第 i 句不超过 size
            earliest = max(pieces[i - 1][1] - overlap, end - size)
            first = bisect_left(pieces, (earliest,), hi=i)
    return [*packed, (first, len(pieces) - 1)] if pieces else []


def _pages(starts: list[tuple[int, int]], begin: int, end: int) -> tuple[int, ...]:
    """全文第 begin 到 end 个字落在哪几页；没有空白页，中间的每一页都有字在内。"""
    first, last = (bisect_right(starts, (place, float("inf"))) - 1 for place in (begin, end - 1))
    return tuple(sorted({number for _, number in starts[first : last + 1]}))


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
    if type(value) not in (int, float):  # True 也是 int
        raise LabError(f"{where} 应是数字，现在是 {value!r}。")
    if value < 0 or (value == 0 and key not in ("temperature", "chunk_overlap")):
        raise LabError(f"{where} 应大于 0，现在是 {value}。")
    if key == "phrasings" and value != int(value):
        raise LabError(f"{where} 应是整数，现在是 {value}。")


def fill(template: str, values: dict[str, object]) -> str:
    """把 {{名字}} 换成值。只扫一遍，所以文档里自带的花括号、{{…}} 都原样保留。"""
    return _MARKER.sub(lambda m: str(values.get(m[1], m[0])), template)


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
