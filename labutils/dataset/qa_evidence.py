"""证据在不在原文：先找一字不差的，再找只差几个字的，后一种改回原文的原话。

在 notebooks/01_build_dataset.ipynb 讲解。大模型抄原文常会漏个“的”、换个标点；
但“线上”抄成“线下”、“不得”抄成“应当”不是小错，这样的不能当作找到了。
"""

from __future__ import annotations

import re
from itertools import product

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from labutils.base.text_normalize import contains, normalize, without_spaces
from labutils.dataset.chunking import glue

SIMILAR = 85  # 统一写法之后的相似度（0–100），到这个程度才可能是抄错了几个字
SHORTEST = 8  # 短于这么多字的话，差一个字就可能是另一句话
_ROUGH, _MARGIN = 50, 3  # 先粗找位置（数字写法还没统一，所以放宽），再把两头各挪几个字对齐
# 差在这些字上，意思多半就变了
_DECISIVE = set("不没无未非否免勿除上下内外前后左右大小多少高低长短早晚增减升降入出男女新旧首末初终"
                "仅只最每各全半必须可应省市校国")  # fmt: skip


def on_page(evidence: str, text: str) -> bool:
    """证据是不是一字不差地在这页文字里；空白和换行不算，它们是排版留下的。"""
    return without_spaces(evidence) in without_spaces(text)


def begins_on(evidence: str, page: int, page_text: dict[int, str]) -> bool:
    """证据是不是从第 page 页开始：全在这一页，或从这一页跨到下一页（页末的句子常被分页截断）。"""
    text = page_text.get(page, "")
    if on_page(evidence, text):
        return True
    wanted, length = without_spaces(evidence), len(without_spaces(text))
    both = without_spaces(with_next_page(page, page_text))
    return 0 <= both.find(wanted, max(0, length - len(wanted) + 1)) < length


def with_next_page(page: int, page_text: dict[int, str]) -> str:
    """第 page 页连着下一页的文字；空白页、只有图的页跳过。"""
    text = page_text.get(page, "").rstrip()
    following = min((n for n in page_text if n > page and page_text[n].strip()), default=None)
    after = page_text[following].lstrip() if following else ""
    return text + glue(text[-1:], after[:1]) + after if text and after else text


def nearest_span(evidence: str, text: str) -> str | None:
    """text 里与 evidence 说同一件事的那段原话；没有就是 None。

    只差空白、标点、全半角、数字写法的一定算；另差几个字的，相似度要够，
    数字要全同，差的字里不能有会改变意思的（见 _DECISIVE）。
    """
    places = [i for i, char in enumerate(text) if not char.isspace()]
    flat = "".join(text[i] for i in places)
    wanted = without_spaces(evidence)
    if len(wanted) < SHORTEST or len(flat) < SHORTEST:
        return None
    rough = fuzz.partial_ratio_alignment(wanted, flat, score_cutoff=_ROUGH)
    if rough is None:
        return None
    start, end = _align(wanted, flat, rough.dest_start, rough.dest_end)
    if not _same_meaning(normalize(wanted), normalize(flat[start:end])):
        return None
    return text[places[start] : places[end - 1] + 1]


def _align(wanted: str, flat: str, start: int, end: int) -> tuple[int, int]:
    """粗找的位置两头可能多几个字或少几个字，逐一试过，取最像的。"""
    target = normalize(wanted)
    moves = range(-_MARGIN, _MARGIN + 1)
    spans = [(start + a, end + b) for a, b in product(moves, moves)]
    inside = [(a, b) for a, b in spans if 0 <= a < b <= len(flat)]

    def score(span: tuple[int, int]) -> tuple[float, float]:
        piece = flat[span[0] : span[1]]
        return fuzz.ratio(target, normalize(piece)), fuzz.ratio(wanted, piece)

    return max(inside, key=score)


def _same_meaning(left: str, right: str) -> bool:
    if numbers(left) != numbers(right) or fuzz.ratio(left, right) < SIMILAR:
        return False
    edits = Levenshtein.opcodes(left, right)
    changed = "".join(
        left[e.src_start : e.src_end] + right[e.dest_start : e.dest_end]
        for e in edits if e.tag != "equal"
    )
    return not _DECISIVE & set(changed)


def numbers(text: str) -> list[str]:
    """文字里的数，按出现的顺序；“五年”和“5年”是同一个数。"""
    return re.findall(r"\d+(?:\.\d+)?", normalize(text))


def point_problem(row: dict, page_text: str) -> str:
    """要点在证据里吗？返回原因；没有问题是空串。几种写法（“|”隔开）有一种在就行。

    page_text 是证据所在那一页（跨页的是两页）的文字。

    要点就是整个答案的（用户没有写要点），措辞可以和原文不同，只核对数字。
    """
    known = set(numbers(page_text))
    whole_answer = row["key_points"] == [row["answer"]]
    for point in row["key_points"]:
        if not any(known.issuperset(numbers(part)) for part in point.split("|")):
            return f"要点“{point}”里的数字在第 {row['page']} 页找不到"
        if not whole_answer and not contains(row["evidence"], point):
            return f"证据里没有要点“{point}”"
    return ""
