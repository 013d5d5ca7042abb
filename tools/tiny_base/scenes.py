"""小事：句型与词表随机拼成的话，和问它的话；读懂没见过的事，靠的是找出问的是哪一句。格式见 scenes.txt。

答案总是照抄材料里的那一句；没有的，说材料没有写明。
"""

import re
from functools import cache
from pathlib import Path
from random import Random

LONGEST = 300  # 材料至多这么多字
MISSING = "这件事材料没有写明。"
_SLOT = re.compile(r"\{(\w)(\d)\}")


@cache
def grammar() -> tuple[dict[str, list[str]], list[tuple[str, ...]]]:
    """(类 → 词, 每个句型：陈述句与它的各种问法)。"""
    words, frames = {}, []
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("="):
            kind, _, rest = line[1:].partition(" ")
            words[kind] = rest.split(" ")
        elif line and not line.startswith("#"):
            frames.append(tuple(part.strip() for part in line.split("|")))
    return words, frames


def scene(rng: Random, frame: tuple[str, ...], used: set[str]) -> tuple[str, list[str]]:
    """(一句话, 问它的各种问法)；用过的词记进 used，一段材料里不重复。"""
    words, filled = grammar()[0], {}
    for kind, number in _SLOT.findall("".join(frame)):
        if (kind, number) not in filled:
            fresh = [word for word in words[kind] if word not in used]
            filled[kind, number] = rng.choice(fresh or words[kind])
            used.add(filled[kind, number])
    sentence, *asked = (_SLOT.sub(lambda slot: filled[slot[1], slot[2]], part) for part in frame)
    return sentence, asked


def _laid_out(rng: Random, sentences: list[str]) -> str:
    """一段文章、一行一句，或几个人轮流说。"""
    form = rng.choice(["article", "article", "article", "lines", "talk"])
    if form == "talk":
        speakers = rng.sample(grammar()[0]["人"], 3)
        return rng.choice(["", "\n"]).join(f"{rng.choice(speakers)}：{sentence}" for sentence in sentences)
    return ("\n" if form == "lines" else "").join(sentences)


def reading(rng: Random, extra: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """(材料, [(问题, 答案)])；extra：掺进去的别的 (句子, 问题)。百里有三问，材料里没有。"""
    frames, used = grammar()[1], set()
    picked = rng.sample(frames, rng.randint(1, 6))
    told = [scene(rng, frame, used) for frame in picked]
    missing = [scene(rng, rng.choice([picked[0], rng.choice(frames)]), used)]
    while sum(len(sentence) for sentence, _ in told) > LONGEST:
        told.pop()
    pairs = [(rng.choice(asked), sentence) for sentence, asked in told] + [(q, s) for s, q in extra]
    rng.shuffle(pairs)
    text = _laid_out(rng, rng.sample([sentence for _, sentence in pairs], len(pairs)))
    asked = [(rng.choice(missing[0][1]), MISSING) if rng.random() < 0.03 else rng.choice(pairs)
             for _ in range(rng.choice([1, 1, 2, 3]))]
    return text, asked
