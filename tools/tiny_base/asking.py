"""问法的组合文法：同一种属性，许多种问法。只用来造预训练语料；微调时不用。"""

from pathlib import Path
from random import Random

from labutils.training import questions
from labutils.training.questions import Attribute, attributes, regular_subject, replace

WORDS = questions.WORDS | questions.read_words(Path(__file__).with_suffix(".txt"))


def draw(rng: Random, name: str) -> str:
    """name 一类里随机的一个词。"""
    return rng.choice(WORDS[name])


def _sometimes(rng: Random, share: float, name: str) -> str:
    """以 share 的概率取 name 一类里的一个词，否则是空串。"""
    return draw(rng, name) if rng.random() < share else ""


def _question_word(rng: Random, kind: str) -> str:
    if kind.startswith("count:"):
        unit = kind.removeprefix("count:")
        return rng.choice(["多少", "多少" + unit, "几" + unit])
    if kind[:-1] in ("phr", "words") and rng.random() < 0.4:
        return "哪" + "一两三四"[int(kind[-1]) - 1] + draw(rng, "list_units")
    return rng.choice(WORDS.get(f"ask:{kind}", WORDS["ask"]))


def _shown(rng: Random, subject: str, nickname: bool) -> str:
    """问句里的主语：全称、简称，有时前面带一个不影响意思的修饰。"""
    shown = draw(rng, "subjects").replace("S", subject)
    if nickname and rng.random() < 0.35:  # 人们提到同一份文件时很少用全称：去掉后缀，加“那个”“那份文件”
        short = subject[:-2] if len(subject) > 4 else subject
        shown = rng.choice([subject, short]) + draw(rng, "alias_tails")
    if rng.random() < 0.12:
        shown = draw(rng, "modifiers").replace("Y", draw(rng, "years")) + shown
    return shown


def _core(rng: Random, attribute: Attribute) -> str:
    """还没有填主语的问句。"""
    if rng.random() < 0.4:
        frame = draw(rng, "frames").replace("W", _question_word(rng, attribute.kind))
        return frame.replace("N", rng.choice(attribute.nouns))
    core = rng.choice(attribute.questions)
    if rng.random() < 0.25:
        core = "S，" + (core.removeprefix("S") if core.startswith("S") else core.replace("S", "它"))
    return core


def ask(rng: Random, attribute: Attribute, subject: str, pronoun: bool = False, nickname: bool = True) -> str:
    """随机的一种问法。pronoun=True 时用代词或省略主语（只能用在已经说清主语的对话里）；
    nickname=False 时不用简称（只看问句猜不出全称）。"""
    core = _core(rng, attribute)
    if rng.random() < 0.3:
        core = replace(core, rng)
    if pronoun:
        text = core.replace("S，", "").replace("S的", rng.choice(["它的", "这个的", ""]))
        text = text.replace("S", rng.choice(["它", "这个", "该" + subject[-2:], ""]))
    else:
        text = core.replace("S", _shown(rng, subject, nickname), 1)
    if rng.random() < 0.12:
        text = draw(rng, "fillers") + rng.choice(["", "，"]) + text
    elif not pronoun and rng.random() < 0.1:  # 顺口提到另一份文件，问的还是原来的主语
        text = draw(rng, "asides").replace("O", regular_subject(rng)) + text
    elif rng.random() < 0.06:  # 顺口提到另一个属性，问的还是原来的属性
        other = rng.choice(attributes())
        if other != attribute:
            text = draw(rng, "distractions").replace("N", other.name) + text
    text = _sometimes(rng, 0.3, "openings") + text + _sometimes(rng, 0.2, "closings")
    return text + rng.choice(["？", "？", "？", "?", ""])
