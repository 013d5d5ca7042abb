"""预训练语料:全部由程序现造的虚构教育通知和对话,与课程文档无关。讲解见 notebook 00。

每个 ``*_task`` 函数返回一段对话(消息列表)。``"loss": False`` 的回答只作上文,不计损失。
"""

import json
from functools import cache
from pathlib import Path
from random import Random

from labutils.training import questions
from tools.tiny_base import asking, everyday, lexicon, sentences, vocab
from tools.tiny_base.everyday import assistant, user

WORLD_SEED = 2031
WORLD_SUBJECTS = 96
WORLD_ATTRIBUTES = 86  # 以后再加属性也不改变这个世界
READING_PROMPTS = ("阅读材料：P\n问题：Q", "P\n根据上面的材料回答：Q", "材料：P\n问：Q", "P\nQ",
                   "请根据材料回答问题。\nP\nQ", "已知：P\n请问：Q")
ECHO_PROMPTS = ("请原样重复：X", "重复：X", "跟我念：X", "请重复这几个字：X", "把这些字写一遍：X", "照抄：X")
REWRITE_PROMPTS = ("换成规范的问法：Q", "这句话问的是什么？Q", "把问题改得正式些：Q", "用书面语重问：Q")
SAME_PROMPTS = ("“A”和“B”问的是同一件事吗？", "这两个问题意思一样吗：A / B", "A 与 B 是不是同一个问题？")


@cache
def talk() -> tuple[dict, ...]:
    """闲聊与常识。每个话题的最后一种问法留作探针,语料里不出现。"""
    with Path(__file__).with_name("general_talk.jsonl").open(encoding="utf-8") as file:
        return tuple(map(json.loads, file))


@cache
def world() -> tuple[tuple[str, dict, tuple], ...]:
    """固定的虚构世界:(主体, {属性: 值}, 没写明的属性)。模型要背下来,并认得同一事实的各种问法。"""
    rng = Random(WORLD_SEED)
    found: dict[str, tuple] = {}
    while len(found) < WORLD_SUBJECTS:
        picked = rng.sample(questions.attributes()[:WORLD_ATTRIBUTES], 11)
        facts = {attribute: lexicon.value(rng, attribute.kind) for attribute in picked[:8]}
        name = questions.regular_subject(rng)
        found[name] = (name, facts, tuple(picked[8:]))
    return tuple(found.values())


def _notice(rng: Random) -> tuple[str, dict, list, list[str]]:
    """随机通知:(主体, 写明的事实, 没写明的属性, 陈述句)。"""
    name = lexicon.subject(rng)
    picked = sentences.pick(rng, rng.choice([1, 2, 2, 3, 3, 4, 5]) + 1)
    facts = {attribute: lexicon.novel_value(rng, attribute.kind) for attribute in picked[:-1]}
    lines = []
    for index, (attribute, value) in enumerate(facts.items()):
        shown = name if index == 0 or rng.random() < 0.5 else rng.choice(["该项目", "它", "这里"])
        lines.append(sentences.state(rng, attribute, shown, value))
    return name, facts, picked[-1:], lines


def other_name(name: str) -> str:
    """固定世界里每个主体还有一个字面上毫不相干的别名,同一主体总是同一个。"""
    return questions.regular_subject(Random(f"别名-{name}"))


def _pair(rng: Random, name: str, facts: dict, missing: list, pronoun: bool = False,
          called: str | None = None) -> list[dict]:
    """一问一答;两成问材料没写的。called:问句里怎么称呼主体,缺省就用 name。"""
    if rng.random() < 0.2:
        attribute = rng.choice(missing)
        reply = sentences.not_stated(attribute, name)
    else:
        attribute = rng.choice(list(facts))
        reply = sentences.answer(attribute, name, facts[attribute])
    return [user(asking.ask(rng, attribute, called or name, pronoun)), assistant(reply)]


def reading_task(rng: Random) -> list[dict]:
    """读一段通知再回答,可能追问几轮。"""
    name, facts, missing, lines = _notice(rng)
    turns: list[dict] = []
    for turn in range(rng.choice([1, 1, 2, 3])):
        turns += _pair(rng, name, facts, missing, pronoun=turn > 0 and rng.random() < 0.5)
    prompt = rng.choice(READING_PROMPTS).replace("P", "".join(lines))
    turns[0] = user(prompt.replace("Q", turns[0]["content"]))
    return turns


def reasking_task(rng: Random) -> list[dict]:
    """先给出几组问答,再用别的问法问同样的事:学会认出“换了说法的同一个问题”。"""
    picked = sentences.pick(rng, rng.choice([2, 3, 4]))
    if rng.random() < 0.3:
        picked = picked[:1] * len(picked)  # 同一属性、几个主体:只能靠主体分辨
    names = [lexicon.subject(rng) for _ in picked]
    if rng.random() < 0.5:
        names = [rng.choice(names[:2]) for _ in picked]
    facts = {(name, attribute.name): (name, attribute, lexicon.novel_value(rng, attribute.kind))
             for name, attribute in zip(names, picked, strict=True)}.values()
    turns = []
    for name, attribute, value in facts:
        reply = sentences.answer(attribute, name, value)
        turns += [user(asking.ask(rng, attribute, name)), assistant(reply, loss=False)]
    for name, attribute, value in rng.sample(list(facts), len(facts)):
        reply = sentences.answer(attribute, name, value)
        turns += [user(asking.ask(rng, attribute, name)), assistant(reply)]
    return turns


def world_task(rng: Random) -> list[dict]:
    """不给材料,问固定世界里的事实,或它没有的属性:认识这个主体,也不编造它没有的事。

    四分之一的问句用主体的别名,回答仍用本名:回答里的主体不总是照抄问句。
    """
    name, facts, _ = rng.choice(world())
    missing = [attribute for attribute in questions.attributes() if attribute not in facts]
    called = other_name(name) if rng.random() < 0.25 else name
    return _pair(rng, name, facts, missing, called=called)


def unknown_task(rng: Random) -> list[dict]:
    """不给材料,问一个从没听说过的主体:说没有写明,不编造。"""
    attribute, name = rng.choice(questions.attributes()), lexicon.subject(rng)
    asked = asking.ask(rng, attribute, name, nickname=False)
    return [user(asked), assistant(sentences.not_stated(attribute, name))]


def rewrite_task(rng: Random) -> list[dict]:
    """口语问法改写成规范问法。"""
    attribute, name = rng.choice(questions.attributes()), lexicon.subject(rng)
    prompt = rng.choice(REWRITE_PROMPTS).replace(
        "Q", asking.ask(rng, attribute, name, nickname=False))
    return [user(prompt), assistant(sentences.formal(attribute, name))]


def same_task(rng: Random) -> list[dict]:
    """两个问题问的是不是同一件事。"""
    name = lexicon.subject(rng)
    first, second = rng.sample(questions.attributes(), 2)
    if rng.random() < 0.5:
        second = first
    asked = [asking.ask(rng, attribute, name, nickname=False) for attribute in (first, second)]
    prompt = rng.choice(SAME_PROMPTS).replace("A", asked[0]).replace("B", asked[1])
    same = f"是，都在问{name}的{first.name}。"
    differ = f"不是，前一个问{first.name}，后一个问{second.name}。"
    return [user(prompt), assistant(same if first == second else differ)]


def random_characters(rng: Random, count: int) -> str:
    return "".join(rng.choices(_ECHO_CHARACTERS, k=count))


def echo_task(rng: Random) -> list[dict]:
    """照抄随机的字:让每个字都得到训练,也学会复制。"""
    text = random_characters(rng, rng.randint(2, 14))
    return [user(rng.choice(ECHO_PROMPTS).replace("X", text)), assistant(text)]


def talk_task(rng: Random) -> list[dict]:
    """一到两轮闲聊或常识问答。"""
    turns = []
    for topic in rng.sample(talk(), rng.choice([1, 1, 2])):
        asked = rng.choice(topic["questions"][:-1])
        if rng.random() < 0.2:
            asked = asking.draw(rng, "openings") + asked
        turns += [user(asked), assistant(topic["answer"])]
    return turns


_ECHO_CHARACTERS = [*vocab.level1_characters(), *vocab.EXTRA_CHARACTERS, *"0123456789〔〕—%、"]
TASKS = {reading_task: 0.26, reasking_task: 0.18, world_task: 0.21, unknown_task: 0.16,
         rewrite_task: 0.05, same_task: 0.03, echo_task: 0.04, talk_task: 0.07}


EVERYDAY_SHARE = 0.6


def conversation(rng: Random) -> list[dict]:
    """按比例随机取一种任务,造一段对话;六成是日常事务。"""
    if rng.random() < EVERYDAY_SHARE:
        return everyday.conversation(rng)
    task = rng.choices(list(TASKS), weights=TASKS.values())[0]
    return task(rng)
