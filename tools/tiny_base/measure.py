"""小模型的几项硬指标：照抄、读材料回答、闭卷、没学过的关系、闲聊常识。讲解见 notebook 00 与模型卡。"""

from collections.abc import Callable
from random import Random

from labutils.base.text import contains
from labutils.models.generate import answer
from labutils.training import questions
from tools.tiny_base import corpus, everyday, relations


def echo_accuracy(model, tokenizer, count: int = 200, seed: int = 1) -> float:
    """照抄 8 个随机字的正确率，0–1。"""
    rng = Random(f"echo-{seed}")
    texts = [corpus.random_characters(rng, 8) for _ in range(count)]
    asked = [rng.choice(corpus.ECHO_PROMPTS).replace("X", text) for text in texts]
    replies = answer(model, tokenizer, asked, max_new_tokens=32)
    return sum(a.strip() == b.strip() for a, b in zip(texts, replies, strict=True)) / count


def task_accuracy(model, tokenizer, task: Callable[[Random], list[dict]], seed: str, count: int) -> float:
    """语料的一种任务，新造 count 段，只问每段的第一问；整句一致才算对。阅读是新材料，闭卷是随机的问法。"""
    rng = Random(seed)
    talks = [task(rng)[:2] for _ in range(count)]
    replies = answer(model, tokenizer, [talk[:1] for talk in talks], max_new_tokens=96)
    return sum(t[1]["content"] == r for t, r in zip(talks, replies, strict=True)) / count


def relation_set(held_out: bool, count: int, seed: int = 1) -> list[tuple[str, str]]:
    """写明一个学过的（held_out：没学过的）关系和另外一到三件事的材料，三种问法都有：(材料与问句, 取值)。"""
    rng, items = Random(f"relations-{seed}"), []
    topics = [topic for topic in relations.topics() if any(r.held_out == held_out for r in topic.relations)]
    while len(items) < count:
        topic = rng.choice(topics)
        asked = rng.choice([r for r in topic.relations if r.held_out == held_out])
        others = [r for r in topic.relations if not r.held_out and r != asked]
        stated = [asked, *rng.sample(others, rng.randint(1, 3))]
        rng.shuffle(stated)
        subject = relations.subject(rng, topic)
        facts = {relation: relations.value(rng, relation.kind) for relation in stated}
        question = relations.ask(rng, asked, rng.choice([subject.full, subject.short, subject.described]))
        text = rng.choice(everyday.READING).replace("P", everyday.passage(rng, subject, facts))
        items.append((text.replace("Q", question), facts[asked]))
    return items


def relation_accuracy(model, tokenizer, held_out: bool, count: int) -> float:
    """读 relation_set 的材料回答；没学过的关系没有标准说法，所以回答里有那个取值就算对。"""
    items = relation_set(held_out, count)
    replies = answer(model, tokenizer, [text for text, _ in items], max_new_tokens=96)
    return sum(contains(r, value) for (_, value), r in zip(items, replies, strict=True)) / count


def talk_accuracy(model, tokenizer) -> float:
    """闲聊与常识：每个话题用语料里没有的那一种问法。"""
    asked = [topic["questions"][-1] for topic in corpus.talk()]
    replies = answer(model, tokenizer, asked, max_new_tokens=64)
    right = [all(contains(reply, key) for key in topic["key_points"])
             for topic, reply in zip(corpus.talk(), replies, strict=True)]
    return sum(right) / len(right)


def quick(model, tokenizer) -> dict[str, float]:
    """训练途中的快速抽查。"""
    return {
        "echo": echo_accuracy(model, tokenizer, 40),
        "reading": task_accuracy(model, tokenizer, corpus.reading_task, "reading-1", 60),
        "world": task_accuracy(model, tokenizer, corpus.world_task, "world-1", 60),
        "everyday": task_accuracy(model, tokenizer, everyday.reading_task, "everyday-1", 60),
        "held_out": relation_accuracy(model, tokenizer, True, 60),
        "talk": talk_accuracy(model, tokenizer),
        "attributes": len(questions.attributes()),
    }


def full(model, tokenizer) -> dict[str, float]:
    """模型卡里的数字。"""
    return {
        "echo_8_characters": echo_accuracy(model, tokenizer, 500),
        "reading_500_questions": task_accuracy(model, tokenizer, corpus.reading_task, "reading-1", 500),
        "fictional_world_closed_book": task_accuracy(model, tokenizer, corpus.world_task, "world-1", 500),
        "everyday_reading": task_accuracy(model, tokenizer, everyday.reading_task, "everyday-1", 500),
        "everyday_world_closed_book": task_accuracy(
            model, tokenizer, everyday.world_task, "everyday-world-1", 500),
        "learned_relations_reading": relation_accuracy(model, tokenizer, False, 500),
        "held_out_relations_reading": relation_accuracy(model, tokenizer, True, 500),
        "general_talk_unseen_wording": talk_accuracy(model, tokenizer),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
