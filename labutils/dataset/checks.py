"""问答对的质检：格式、长度、语言、指代、答案、证据，每条不合格的都写明关口和原因。讲解见 notebook 01。"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from functools import partial
from itertools import accumulate, count, filterfalse, product
from typing import NamedTuple

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from labutils.base.text import contains, normalize, without_spaces
from labutils.dataset.clean import Page, glue

# 关口的顺序，以及通过之后的说法；“解析”由 replies 把关，“去重”由 rows 把关
STAGES = {"解析": "读得出来", "格式": "格式正确", "长度": "长短合适", "语言": "语言一致",
          "指代": "单独看得懂", "答案": "答案自洽", "证据": "原文有依据", "去重": "去重之后"}
LENGTHS = {"question": ("问题", 4, 200), "answer": ("答案", 1, 500), "evidence": ("证据", 1, 500)}
_PAGE = re.compile(r"(?:第|p|page)?(\d{1,9})页?")  # 几千位的 int() 会引发异常
_MOST_PAGES = 10**9  # 大得离谱的页码
CHINESE_SHARE = 0.5  # 一个汉字、一个外文单词各算一个，汉字占到一半就算中文
_UNIT = re.compile(r"[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+")
Rejected = dict  # {"stage": 关口, "reason": 原因, "row": 原来的那条}
Found = tuple[str, str] | None  # 一道关口的结果：(出问题的键, 原因)，没有问题是 None


class Problem(NamedTuple):
    stage: str
    field: str  # 出问题的键，如 answer；审阅表由它指出是哪一列
    reason: str


class Document(NamedTuple):
    pages: dict[int, tuple[str, str]] | None  # page_texts 的结果；None：没有文档可对
    chinese: bool


def document_of(pages: list[Page] | None) -> Document:
    """文档的各页 → 用来核对的样子；pages 是 None 就不核对语言和证据。"""
    if pages is None:
        return Document(None, False)
    return Document(page_texts(pages), is_chinese("".join(page.text for page in pages)))


def page_texts(pages: list[Page]) -> dict[int, tuple[str, str]]:
    """页码 → (那一页的文字, 它连着下一个有字的页的文字)。"""
    found, after = {}, ""
    for page in reversed(pages):
        text = page.text.rstrip()
        found[page.number] = page.text, text + (glue(text[-1], after[:1]) + after if text else "")
        after = page.text.strip() or after
    return dict(reversed(found.items()))


def validate(
    rows: Iterable[dict], pages: list[Page] | None = None, require_evidence: bool = True
) -> tuple[list[dict], list[Rejected]]:
    """逐条检查，返回 (合格的, 不合格的)；不合格的是 {"stage", "reason", "row"}。

    给了 pages 就核对语言和证据：evidence 要在第 page 页（可以跨到下一页），抄错几个字的改回原话，
    原来写的留在 evidence_original；require_evidence=False：没写页码和证据也收，写了仍要对得上。
    缺 key_points 时用整个答案代替；缺 fact_id 时，答案相同的算同一个事实。
    """
    good: list[dict] = []
    rejected: list[Rejected] = []
    seen_ids: set[str | None] = set()
    document = document_of(pages)
    for row in rows:
        clean, problem = recheck(row, document, require_evidence)
        if problem is None and "id" in clean and clean["id"] in seen_ids:
            problem = Problem("格式", "id", f"id {clean['id']} 与前面的重复")
        if problem:
            rejected.append({"stage": problem.stage, "reason": problem.reason, "row": row})
        else:
            seen_ids.add(clean.get("id"))
            good.append(clean)
    return name_rows(good), rejected


def recheck(row: object, document: Document, require_evidence: bool) -> tuple[dict, Problem | None]:
    """整理一条、修正证据，再按 STAGES 的顺序检查：(整理后的, 第一个问题或 None)。"""
    clean = tidy(row)
    if problem := _format_problem(clean):
        return clean, Problem("格式", *problem)
    if document.pages is not None:
        clean = _repair_evidence(clean, document.pages)
    found = _later_problems(clean, document, require_evidence)
    return clean, next((Problem(stage, *problem) for stage, problem in found if problem), None)


def _later_problems(row: dict, document: Document, require_evidence: bool) -> Iterator[tuple[str, Found]]:
    yield "长度", _length_problem(row)
    if document.chinese:
        yield "语言", _language_problem(row)
    yield "指代", _reference_problem(row)
    yield "答案", _answer_problem(row)
    if document.pages is not None:
        yield "证据", _evidence_problem(row, document.pages, require_evidence)


def tidy(row: object) -> object:
    """去掉首尾空白、把写成数的编号等变成文字、补上默认要点；不改动传进来的那条。"""
    if not isinstance(row, dict):
        return row
    clean = row | {key: _as_text(row[key]) for key in row.keys() & {"id", "fact_id", *LENGTHS}}
    clean = {key: value for key, value in clean.items() if value not in (None, "", [])}
    points = clean.get("key_points", clean.get("answer"))
    clean["key_points"] = [_as_text(p) for p in (points if isinstance(points, list) else [points])]
    found = _PAGE.fullmatch(normalize(page := str(clean.get("page"))))
    if found and "-" not in page:
        clean["page"] = int(found[1])  # 3.0、"3"、"第三页" 都是 3；认不出的原样
    return clean


def _as_text(value: object) -> object:
    """"id": 7 与 "id": "7" 一样；true 不是数。"""
    if type(value) in (int, float):
        return str(value)
    return value.strip() if isinstance(value, str) else value


def name_rows(rows: list[dict]) -> list[dict]:
    """没有 fact_id、id 的补上：答案相同的问法归到同一个事实。"""
    free = free_facts({row.get("fact_id") for row in rows})
    known = {normalize(row["answer"]): row["fact_id"] for row in rows if "fact_id" in row}
    by_answer = defaultdict(free.__next__, known)
    for row in rows:
        row.setdefault("fact_id", by_answer[normalize(row["answer"])])
    used, numbers = {row.get("id") for row in rows}, defaultdict(partial(count, 1))
    for row in rows:
        if "id" not in row:
            names = (f"{row['fact_id']}-{i}" for i in numbers[row["fact_id"]])
            row["id"] = next(filterfalse(used.__contains__, names))
            used.add(row["id"])
    return rows


def free_facts(used: Container[str]) -> Iterator[str]:
    """还没用过的事实编号：F01、F02……"""
    return filterfalse(used.__contains__, map("F{:02d}".format, count(1)))


def funnel(first: str, total: int, rejected: list[Rejected]) -> list[tuple[str, int]]:
    """每过一道关口还剩多少条：[(first, total), (通过之后的说法, 条数), …]；没有经过“解析”的不列那一关。"""
    lost = Counter(item["stage"] for item in rejected)
    names = [first, *STAGES.values()]
    left = accumulate(map(lost.__getitem__, STAGES), int.__sub__, initial=total)
    return [(name, count) for name, count in zip(names, left, strict=True)
            if name != STAGES["解析"] or lost["解析"]]


def _format_problem(row: object) -> Found:
    if not isinstance(row, dict):
        return "", "不是一个 JSON 对象"
    for field, name in (("question", "问题"), ("answer", "答案")):
        if field not in row:
            return field, f"缺少{name}（{field}）"
        if not isinstance(row[field], str):
            return field, f"{name}（{field}）不是文字"
    if not all(isinstance(point, str) and point for point in row["key_points"]):
        return "key_points", "要点（key_points）应是一组不空的文字"
    return _optional_format_problem(row)


def _optional_format_problem(row: dict) -> Found:
    for field in ("id", "fact_id", "evidence"):
        if not isinstance(row.get(field, ""), str):
            return field, f"{field} 不是文字"
    page = row.get("page", 1)
    if type(page) is not int or not 1 <= page < _MOST_PAGES:  # True 也是 int，不能用 isinstance
        return "page", f"页码（page）{page!r:.20} 不是正整数，或大得离谱"
    return None


def _length_problem(row: dict) -> Found:
    for field, (name, low, high) in LENGTHS.items():
        if field in row and not low <= len(row[field]) <= high:
            return field, f"{name}长 {len(row[field])} 字，应在 {low}–{high} 字之间"
    return None


def _language_problem(row: dict) -> Found:
    if not is_chinese(row["question"]):
        return "question", "文档是中文，问题不是中文"
    # 问英文名称的题，答案就是原文里的外文，不算错
    quoted = foreign_words(row["answer"]) <= foreign_words(row.get("evidence", ""))
    return None if quoted or is_chinese(row["answer"]) else ("answer", "文档是中文，答案不是中文")


def is_chinese(text: str) -> bool:
    """这段文字是不是中文；一个字母、汉字都没有（如“4000”）时算是。"""
    units = _UNIT.findall(text)
    han = sum("\u3400" <= unit <= "\u9fff" for unit in units)
    return han >= CHINESE_SHARE * len(units)


def foreign_words(text: str) -> set[str]:
    """外文单词的集合，不分大小写和全半角。"""
    units = _UNIT.findall(unicodedata.normalize("NFKC", text).casefold())
    return {unit for unit in units if not "\u3400" <= unit <= "\u9fff"}


# “资本文化”“日本文学”里也有“本文”两个字，前后要看一眼
_SELF = re.compile(
    r"(?<![基版副样脚剧课读成资日根标原抄])本(?:文件|文档|文(?![化字学明艺书本])|段|章|节|条|页|表"
    r"|通知|办法|规定|意见|材料)"
    r"|[上下前后]文(?!化|件|字|学)|[上前下]述|如[上下]所[述示]|文[中内里](?=[提说写列所的，])|(?<=[据从在])文[中内里]"
    r"|以上(?:内容|材料|文字|文件|规定|各项|所述)|上面(?:的|提到|所)"
    r"|(?:以下|下列)(?:哪|选项|各项|内容|说法)|第[一二三四五六七八九十\d]+页"
)
_POINTING = re.compile(
    r"(?:(?<!应)该|此|这[一份个篇段条项]?)"
    r"(文件|文档|文章|通知|材料|办法|规定|意见|政策|段落|内容|条款|条|段话|表格|句话)"
)


def _reference_problem(row: dict) -> Found:
    for field, name, known in (("question", "问题", ""), ("answer", "答案", row["question"])):
        if word := outside_reference(row[field], known):
            return field, f"{name}里的“{word}”离开原文就不知所指"
    return None


def outside_reference(text: str, known: str = "") -> str:
    """离开原文就不知所指的词，如“本文”“上述”，没有就是空串；“该通知”在前文或 known 里说过是哪个的不算。"""
    if found := _SELF.search(text):
        return found[0]
    pointing = (one[0] for one in _POINTING.finditer(text) if one[1] not in known + text[: one.start()])
    return next(pointing, "")


def _answer_problem(row: dict) -> Found:
    for point in row["key_points"]:
        if not contains(row["answer"], point):
            return "key_points", f"答案里没有要点“{point}”"
    told = all(contains(row["question"], point) for point in row["key_points"])
    if told or contains(row["question"], row["answer"].replace("|", "")):
        return "question", "问题里已经说出了答案"
    return None


def _evidence_problem(row: dict, pages: dict[int, tuple[str, str]], required: bool) -> Found:
    for field, name in (("evidence", "证据"), ("page", "页码")):
        if field not in row:
            return (field, f"缺少{name}（{field}）") if required else None
    evidence, page = row["evidence"], row["page"]
    if page not in pages:
        return "page", f"页码 {page} 超出文档（共 {max(pages, default=0)} 页）"
    if not begins_on(evidence, pages[page]):
        return _misplaced(evidence, page, pages)
    alone, both = pages[page]
    return _point_problem(row, alone if begins_on(evidence, (alone, "")) else both)


def _misplaced(evidence: str, page: int, pages: dict[int, tuple[str, str]]) -> Found:
    """证据不在第 page 页：页码写错了，还是文档里没有？"""
    elsewhere = next((number for number, texts in pages.items() if begins_on(evidence, texts)), None)
    if elsewhere is None:
        return "evidence", f"证据不在第 {page} 页，文档里没有这句话"
    return "page", f"证据不在第 {page} 页，它在第 {elsewhere} 页"


def _point_problem(row: dict, text: str) -> Found:
    """要点在证据里吗，数字在证据所在那一页（跨页的是两页）的文字 text 里吗？"""
    known = set(numbers(text))
    whole_answer = row["key_points"] == [row["answer"]]  # 用户没有写要点：措辞可以不同，只核对数字
    for point in row["key_points"]:  # 几种写法（“|”隔开）有一种对就行
        if not any(known.issuperset(numbers(part)) for part in point.split("|")):
            return "key_points", f"要点“{point}”里的数字在第 {row['page']} 页找不到"
        if not whole_answer and not contains(row["evidence"], point):
            return "key_points", f"证据里没有要点“{point}”"
    return None


def begins_on(evidence: str, texts: tuple[str, str]) -> bool:
    """证据是不是从这一页开始：全在这一页，或从这一页跨到下一页（页末的句子常被分页截断）。

    排版留下的空白和换行不算。texts 见 page_texts。
    """
    alone, both = map(without_spaces, texts)
    wanted = without_spaces(evidence)
    return wanted in alone or 0 <= both.find(wanted, max(0, len(alone) - len(wanted) + 1)) < len(alone)


def _repair_evidence(row: dict, pages: dict[int, tuple[str, str]]) -> dict:
    """证据抄错了几个字就换成那一页的原话，原来的留在 evidence_original；其余原样返回。"""
    evidence, texts = row.get("evidence", ""), pages.get(row.get("page", 0), ("", ""))
    if begins_on(evidence, texts):  # 没有证据的也算
        return row
    span = nearest_span(evidence, texts[0]) or nearest_span(evidence, texts[1])
    found = span and begins_on(span, texts)
    return {**row, "evidence": span, "evidence_original": evidence} if found else row


SIMILAR = 85  # 统一写法之后的相似度（0–100），到这个程度才可能是抄错了几个字
SHORTEST = 8  # 短于这么多字的话，差一个字就可能是另一句话
_ROUGH, _MARGIN = 50, 3  # 先粗找位置（数字写法还没统一，所以放宽），再把两头各挪几个字对齐
# 差在这些字上，意思多半就变了
_DECISIVE = set("不没无未非否免勿除上下内外前后左右大小多少高低长短早晚增减升降入出男女新旧首末初终"
                "仅只最每各全半必须可应省市校国")


def nearest_span(evidence: str, text: str) -> str | None:
    """text 里与 evidence 说同一件事的那段原话；没有就是 None。

    只差空白、标点、全半角、数字写法的一定算；另差几个字的，相似度要够，数字要全同，不差在 _DECISIVE 的字上。
    """
    places = [i for i, char in enumerate(text) if not char.isspace()]
    wanted, flat = without_spaces(evidence), without_spaces(text)
    if min(len(wanted), len(flat)) < SHORTEST:
        return None
    rough = fuzz.partial_ratio_alignment(wanted, flat, score_cutoff=_ROUGH)
    if rough is None:
        return None
    start, end = _align(wanted, flat, rough.dest_start, rough.dest_end)
    same = _same_meaning(normalize(wanted), normalize(flat[start:end]))
    return text[places[start] : places[end - 1] + 1] if same else None


def _align(wanted: str, flat: str, start: int, end: int) -> tuple[int, int]:
    """粗找的位置两头可能多几个字或少几个字，逐一试过，取最像的。"""
    target, moves = normalize(wanted), range(-_MARGIN, _MARGIN + 1)

    def score(span: tuple[int, int]) -> tuple[float, float]:
        piece = flat[slice(*span)]
        return fuzz.ratio(target, normalize(piece)), fuzz.ratio(wanted, piece)

    spans = ((start + a, end + b) for a, b in product(moves, moves))
    return max(((a, b) for a, b in spans if 0 <= a < b <= len(flat)), key=score)


def _same_meaning(left: str, right: str) -> bool:
    if numbers(left) != numbers(right) or fuzz.ratio(left, right) < SIMILAR:
        return False
    changed = "".join(left[e.src_start : e.src_end] + right[e.dest_start : e.dest_end]
                      for e in Levenshtein.opcodes(left, right) if e.tag != "equal")
    return not _DECISIVE & set(changed)


def numbers(text: str) -> list[str]:
    """文字里的数，按出现的顺序；“五年”和“5年”是同一个数。"""
    return re.findall(r"\d+(?:\.\d+)?", normalize(text))
