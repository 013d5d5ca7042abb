"""语料里与问法配对的句子：陈述、标准回答、规范问法、没写明时的回答。"""

from random import Random

from labutils.training.questions import NOT_STATED, Attribute, attributes, restated
from tools.tiny_base.asking import WORDS


def pick(rng: Random, count: int) -> list[Attribute]:
    """随机取 count 个属性；三成取同一取值类型的，看上去都像答案，只能靠听懂问句来分辨。"""
    if rng.random() < 0.3:
        kind = rng.choice(attributes()).kind
        alike = [a for a in attributes() if a.kind.split(":")[0] == kind.split(":")[0]]
        if len(alike) >= count:
            return rng.sample(alike, count)
    return rng.sample(attributes(), count)


def formal(attribute: Attribute, subject: str) -> str:
    """规范问法，改写任务以它为目标。"""
    counted = attribute.kind.startswith("count:")
    word = "多少" if counted else WORDS.get(f"ask:{attribute.kind}", WORDS["ask"])[0]
    return f"{subject}的{attribute.name}是{word}？"


def state(rng: Random, attribute: Attribute, subject: str, value: str) -> str:
    """材料里的一句陈述，说法随机。"""
    frames = (*attribute.statements, *attribute.statements, "S的N为V", "S明确，N是V", "S的N：V")
    text = rng.choice(frames).replace("N", rng.choice(attribute.nouns))
    return text.replace("S", subject).replace("V", value) + "。"


def answer(attribute: Attribute, subject: str, value: str) -> str:
    """标准回答：先重述主语和属性，再给值。"""
    return attribute.statements[0].replace("S", subject).replace("V", value) + "。"


def not_stated(attribute: Attribute, subject: str) -> str:
    """没写明时的开头与标准回答一字不差：先听懂问的是什么，再判断知不知道。"""
    return f"{restated(attribute, subject)}{NOT_STATED}。"
