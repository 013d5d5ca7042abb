"""换一种说法，意思不变：同义词替换（同 EDA，Wei 与 Zou，2019，arXiv:1901.11196），由回答反过来出题。

小模型见过的说法少，微调时每次把同一个问题换个样子问。词都在旁边的文本文件里；预训练语料（tools/tiny_base）
也用其中的同义词与虚构的名称。讲解见 notebook 02。
"""

import re
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, filterfalse
from pathlib import Path
from random import Random

from labutils.base.files import place, write, write_json_lines
from labutils.dataset.checks import outside_reference
from labutils.dataset.rows import UNANSWERABLE

HERE = Path(__file__).parent
NOT_STATED = "，材料没有写明"  # 语料里的拒答都这样收尾


def _lines(path: Path) -> list[str]:
    """一份文本文件里，不是注释也不空的行。"""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@cache
def synonym_table() -> dict[str, tuple[str, ...]]:
    """词 → 可以换成的词；一个词出现在几组里时合在一起。"""
    found: dict[str, dict[str, None]] = {}
    for words in map(str.split, _lines(HERE / "synonyms.txt")):
        for word in words:
            found.setdefault(word, {}).update(dict.fromkeys(other for other in words if other != word))
    return {word: tuple(others) for word, others in found.items()}


@cache
def _any_word(shortest: int) -> re.Pattern[str]:
    """匹配表里至少 shortest 个字的词，长的优先。"""
    words = sorted(synonym_table(), key=len, reverse=True)
    return re.compile("|".join(re.escape(word) for word in words if len(word) >= shortest))


def replace(text: str, rng: Random, probability: float = 0.4, shortest: int = 1) -> str:
    """从左到右找表里的词（先找长的），每个以 probability 的概率换成同组的另一个。

    少于 shortest 个字的词不换：单字常是别的词的一部分，如“创新”里的“新”。
    """
    return _any_word(shortest).sub(lambda word: rng.choice(synonym_table()[word[0]])
                                   if rng.random() < probability else word[0], text)


def read_words(path: Path) -> dict[str, list[str]]:
    """类名 → 词，_ 是空串；每一类是什么，见文件里的注释。"""
    return {name: ["" if word == "_" else word for word in words.split(" ")]
            for name, words in (line.split(": ") for line in _lines(path))}


WORDS = read_words(HERE / "wordings.txt")


def draw(rng: Random, name: str) -> str:
    """name 一类里随机的一个词。"""
    return rng.choice(WORDS[name])


@dataclass(frozen=True)
class Attribute:
    """一种可以问的属性：规范名称、取值类型、同义名词、动词性问法、陈述句（首句是标准回答）。"""

    name: str
    kind: str
    nouns: tuple[str, ...]
    questions: tuple[str, ...]
    statements: tuple[str, ...]


@cache
def attributes() -> tuple[Attribute, ...]:
    """读 attributes_*.txt；一行一个属性，字段用竖线分隔。"""
    files = sorted(HERE.glob("attributes_*.txt"))
    rows = [line.split("|") for path in files for line in _lines(path)]
    return tuple(Attribute(name, kind, (name, *nouns.split()), *(tuple(part.split("；")) for part in said))
                 for name, kind, nouns, *said in rows)


def restated(attribute: Attribute, subject: str) -> str:
    """回答的开头，到“是”为止：重述主语和属性。"""
    return attribute.statements[0].removesuffix("是V").replace("S", subject)


def regular_subject(rng: Random) -> str:
    """由词库拼成的主体名称，例如“第二批晨光计划”“星河省写作课程教师组”。"""
    topic = draw(rng, "topics")
    form = draw(rng, "subject_forms").replace("T", topic)
    return re.sub(r"<(\w+)>", lambda blank: draw(rng, blank[1]), form)


# 改写训练问题：小模型见过的问法少，每次把同一个问题换个样子问，它学到的是意思，不是字面
SYNONYMS_SHARE = 0.4  # 多大比例的改写会换同义词
QUOTED = re.compile(r"(《[^》]*》|〔[^〕]*〕|“[^”]*”)")

ATTRIBUTE = re.compile(r"(.{2,24}?的[^，。；是]{2,16})(?:(?<![不都就])是|" + NOT_STATED + ")")
DROPPABLE = re.compile("(?![一二三四五六七八九十百千不没无非未否勿免])[一-龥]")  # 漏掉排除的字，意思就变了


def augment(question: str, rng: Random) -> str:
    """像真人那样改写一个问题。书名号、引号里的字和数字总是照原样。"""
    if rng.random() < SYNONYMS_SHARE:
        question = swap_synonyms(question, rng)
        if rng.random() < 0.5:
            return question
    way = rng.choice(("opening", "ending", "drop"))
    if way == "opening":
        return draw(rng, "polite_openings") + question
    return question + draw(rng, "endings") if way == "ending" else drop_characters(question, rng)


def swap_synonyms(question: str, rng: Random) -> str:
    """书名号、引号之外的词，碰到同义词表里有的，一半换掉；单个的字不换。"""
    return "".join(part if QUOTED.fullmatch(part) else replace(part, rng, 0.5, shortest=2)
                   for part in QUOTED.split(question))


def drop_characters(question: str, rng: Random) -> str:
    """漏掉一两个汉字。数字、否定词、字母、书名号内的字和第一个字不漏：漏了就成了另一个问题。"""
    depths = list(accumulate((char in "《〔“") - (char in "》〕”") for char in question))
    droppable = [found.start() for found in DROPPABLE.finditer(question, 1) if depths[found.start()] == 0]
    if len(droppable) < 8:  # 太短的问题漏字就看不懂了
        return question
    gone = set(rng.sample(droppable, rng.choice((1, 2))))
    return "".join(char for place, char in enumerate(question) if place not in gone)


def question_from_answer(answer: str, rng: Random) -> str | None:
    """由“主语的属性是值”或“主语的属性，材料没有写明”反过来出题，只问主语的属性；别的句式返回 None。"""
    found = ATTRIBUTE.match(answer)
    if found is None:
        return None
    question = draw(rng, "forms").format(found.group(1))
    return swap_synonyms(question, rng) if rng.random() < SYNONYMS_SHARE else question


# 每个学生自己的一份文档与问答：照学号编，抄别人的答案就答不对
SUBJECTS, FACTS, WORDINGS = 10, 4, 3  # 几个主语，每个几条事实，每条几种问法
_NOTE = "这份文件里的名称、日期、数字都是程序按学号编出来的，只用来做练习，请不要当真。"


def write_student(student: str, out_dir: str | Path) -> tuple[Path, Path]:
    """写出 out_dir/document.md 与 data/qa.jsonl（旁边还有没写明的题），返回这两个文件，给 build_dataset。"""
    rng, rows, text = Random(f"student {student}"), [], f"# 练习文件（学号 {student}）\n\n{_NOTE}\n"
    train, test = [], []
    usable = [attribute for attribute in attributes() if _value(rng, attribute.kind)]
    subjects = dict.fromkeys(regular_subject(rng) for _ in range(3 * SUBJECTS))  # 多取几个，重名的只留一个
    for page, subject in enumerate([*subjects][:SUBJECTS], 2):  # 一节是一“页”，开头的说明是第一页
        *used, first, second, third = rng.sample(usable, FACTS + 3)
        made = [_fact(rng, subject, attribute, page) for attribute in used]
        text += f"\n## {subject}\n\n" + "".join(f"{same[0]['evidence']}。" for same in made) + "\n"
        rows += sum(made, [])
        train += [_unstated(rng, subject, first), _unstated(rng, subject, second)]
        test += [_unstated(rng, subject, third)]
    document, qa = place(out_dir) / "document.md", place(out_dir) / "data" / "qa.jsonl"
    for path, part in zip((qa, *map(qa.with_name, UNANSWERABLE)), (rows, train, test), strict=True):
        write_json_lines(part, path)
    write(document, text)
    return document, qa


def _fact(rng: Random, subject: str, attribute: Attribute, page: int) -> list[dict]:
    """一条事实的几种问法；离开原文就看不懂的问法不用。"""
    value = _value(rng, attribute.kind)
    said = [text.replace("S", subject).replace("V", value) for text in attribute.statements]
    fact = {"answer": f"{said[0]}。", "key_points": [value], "evidence": rng.choice(said), "page": page}
    return [{"question": question, **fact} for question in rng.sample(_clear(attribute, subject), WORDINGS)]


def _unstated(rng: Random, subject: str, attribute: Attribute) -> dict:
    """问一种没有写明的属性。"""
    answer = restated(attribute, subject) + NOT_STATED + "。"
    return {"question": rng.choice(_clear(attribute, subject)), "answer": answer}


def _clear(attribute: Attribute, subject: str) -> list[str]:
    asked = (text.replace("S", subject) + "？" for text in attribute.questions)
    return list(filterfalse(outside_reference, asked))


def _value(rng: Random, kind: str) -> str:
    """这一类取值的一个，例如 "count:人" 的 “37人”；编不出的类是空串。"""
    number, day = rng.randint(11, 99), f"{rng.randint(1, 12)}月{rng.randint(1, 28)}日"
    kind, _, unit = kind.partition(":")
    unit = {"days": "天", "months": "个月", "pct": "%", "money": "元", "score": "分"}.get(kind, unit)
    made = {"date": f"{draw(rng, 'years')}年{day}", "docno": f"教函〔{draw(rng, 'years')}〕{number}号",
            "org": draw(rng, "first") + draw(rng, "second") + draw(rng, "places")}
    return made.get(kind, unit and f"{number}{unit}")
