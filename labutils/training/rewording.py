"""改写训练问题（数据增强）：换同义词，加客气话，漏一两个字，或由回答反过来出题。

讲解在 notebooks/02_lora_finetune.ipynb。

小模型见过的问法少；每次把同一个问题换个样子问，它学到的是意思，不是字面。
"""

from __future__ import annotations

import random
import re
from functools import cache

from labutils.training import questions

OPENINGS = ("请问，", "您好，请问", "老师，", "麻烦问一下，", "想了解一下：", "你好！")
ENDINGS = ("谢谢！", "请回答。", "请简要回答。", "麻烦说一下。", "拜托了。", "我想知道。")
SYNONYMS_SHARE = 0.4  # 多大比例的改写会换同义词
QUOTED = re.compile(r"(《[^》]*》|〔[^〕]*〕|“[^”]*”)")

SUBJECT = re.compile(r"[^，。；是]{2,20}")
ATTRIBUTE = re.compile(r"(.{2,24}?的[^，。；是]{2,16})(?:(?<![不都就])是|，材料没有写明)")
KEPT = set("一二三四五六七八九十百千不没无非未否勿免")  # 漏掉一个，意思就变了
FORMS = ("{}是什么？", "{}是多少？", "{}是啥？", "{}？", "说说{}。", "告诉我{}。", "{}怎么说的？",
         "{}，材料里怎么写？")


def augment(question: str, rng: random.Random) -> str:
    """像真人那样改写一个问题。书名号、引号里的字和数字总是照原样。"""
    if rng.random() < SYNONYMS_SHARE:
        question = swap_synonyms(question, rng)
        if rng.random() < 0.5:
            return question
    way = rng.choice(("opening", "ending", "drop"))
    if way == "opening":
        return rng.choice(OPENINGS) + question
    if way == "ending":
        return question + rng.choice(ENDINGS)
    return drop_characters(question, rng)


def swap_synonyms(question: str, rng: random.Random) -> str:
    """书名号、引号之外的词，碰到同义词表里有的，一半换掉；单个的字不换。"""
    return "".join(part if QUOTED.fullmatch(part) else questions.replace(part, rng, 0.5, shortest=2)
                   for part in QUOTED.split(question))


def drop_characters(question: str, rng: random.Random) -> str:
    """漏掉一两个汉字。数字、否定词、字母、书名号内的字和第一个字不漏：漏了就成了另一个问题。"""
    depth, droppable = 0, []
    for place, char in enumerate(question):
        depth += (char in "《〔“") - (char in "》〕”")
        plain = "一" <= char <= "龥" and char not in KEPT
        if place > 0 and depth == 0 and plain:
            droppable.append(place)
    if len(droppable) < 8:  # 太短的问题漏字就看不懂了
        return question
    gone = set(rng.sample(droppable, rng.choice((1, 2))))
    return "".join(char for place, char in enumerate(question) if place not in gone)


def question_from_answer(answer: str, rng: random.Random) -> str | None:
    """由“主语的属性是值”或“主语的属性，材料没有写明”反过来出题，只问主语的属性；别的句式返回 None。

    属性在预训练的问法文法（questions.py）里有，就用文法随机造一种问法；没有，就套 FORMS。
    """
    for middle, attribute in _answer_frames():
        subject, found, _ = answer.partition(middle)
        if found and SUBJECT.fullmatch(subject):
            return questions.ask(rng, attribute, subject)
    found = ATTRIBUTE.match(answer)
    if found is None:
        return None
    question = rng.choice(FORMS).format(found.group(1))
    return swap_synonyms(question, rng) if rng.random() < SYNONYMS_SHARE else question


@cache
def _answer_frames() -> list[tuple[str, questions.Attribute]]:
    """(标准回答里主语与值之间的字, 属性)，长的在前，免得“数量”抢了“计划数量”。"""
    frames = []
    for attribute in questions.attributes():
        restated = questions.restated(attribute, "")
        frames += [(restated + "是", attribute), (restated + "，材料没有写明", attribute)]
    return sorted(frames, key=lambda frame: -len(frame[0]))
