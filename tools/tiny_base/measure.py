"""小模型的几项硬指标:照抄、读材料回答、闲聊常识。讲解见 notebook 00 与模型卡。"""

from random import Random

from labutils.base.text import contains
from labutils.models.generate import answer
from labutils.training import questions
from tools.tiny_base import corpus


def echo_accuracy(model, tokenizer, count: int = 200, seed: int = 1) -> float:
    """照抄 8 个随机字的正确率,0–1。"""
    rng = Random(f"echo-{seed}")
    texts = [corpus.random_characters(rng, 8) for _ in range(count)]
    asked = [rng.choice(corpus.ECHO_PROMPTS).replace("X", text) for text in texts]
    replies = answer(model, tokenizer, asked, max_new_tokens=32)
    return sum(a.strip() == b.strip() for a, b in zip(texts, replies, strict=True)) / count


def reading_set(count: int, seed: int) -> list[tuple[list[dict], str]]:
    """新造的虚构通知:(只含提问的消息, 标准回答)。"""
    rng = Random(f"reading-{seed}")
    talks = [corpus.reading_task(rng)[:2] for _ in range(count)]
    return [(talk[:1], talk[1]["content"]) for talk in talks]


def reading_accuracy(model, tokenizer, count: int = 500, seed: int = 1) -> float:
    """读一段没见过的虚构通知,回答其中一问(两成是材料没写的);整句一致才算对。"""
    items = reading_set(count, seed)
    replies = answer(model, tokenizer, [messages for messages, _ in items], max_new_tokens=96)
    return sum(a == b for (_, a), b in zip(items, replies, strict=True)) / count


def world_accuracy(model, tokenizer, count: int = 200, seed: int = 1) -> float:
    """固定虚构世界里的事实,随机问法;背熟并认得换了说法的问题才能答对。"""
    rng = Random(f"world-{seed}")
    talks = [corpus.world_task(rng) for _ in range(count)]
    replies = answer(model, tokenizer, [talk[0]["content"] for talk in talks], max_new_tokens=96)
    return sum(t[1]["content"] == r for t, r in zip(talks, replies, strict=True)) / count


def talk_accuracy(model, tokenizer) -> float:
    """闲聊与常识:每个话题用语料里没有的那一种问法。"""
    asked = [topic["questions"][-1] for topic in corpus.talk()]
    replies = answer(model, tokenizer, asked, max_new_tokens=64)
    right = [all(contains(reply, key) for key in topic["key_points"])
             for topic, reply in zip(corpus.talk(), replies, strict=True)]
    return sum(right) / len(right)


def quick(model, tokenizer) -> dict[str, float]:
    """训练途中的快速抽查。"""
    return {
        "echo": echo_accuracy(model, tokenizer, 40),
        "reading": reading_accuracy(model, tokenizer, 60),
        "world": world_accuracy(model, tokenizer, 60),
        "talk": talk_accuracy(model, tokenizer),
        "attributes": len(questions.attributes()),
    }


def full(model, tokenizer) -> dict[str, float]:
    """模型卡里的数字。"""
    return {
        "echo_8_characters": echo_accuracy(model, tokenizer, 500),
        "reading_500_questions": reading_accuracy(model, tokenizer, 500),
        "fictional_world_closed_book": world_accuracy(model, tokenizer, 500),
        "general_talk_unseen_wording": talk_accuracy(model, tokenizer),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
