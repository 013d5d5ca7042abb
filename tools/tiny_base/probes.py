"""一般能力的探针与混入训练的一般对话:``python -m tools.tiny_base probes``。讲解见 notebook 03。

探针问小模型本来就会的事(闲聊常识、照抄、读材料),微调后再问一遍,看忘了多少。
闲聊探针用语料里从未出现的问法;混入训练的对话用另一个随机种子,与探针不重样。
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from labutils.base.files import DATA
from tools.tiny_base import corpus, everyday

TALK_PROBES, ECHO_PROBES, READING_PROBES = 24, 12, 12
LONGEST_READING = 90


def _short_reading(rng: Random, make: Callable = corpus.reading_task) -> list[dict]:
    """一问一答、字数不多的阅读。"""
    while True:
        talk = make(rng)[:2]
        if len(talk[0]["content"]) <= LONGEST_READING:
            return talk


def _plain_echo(rng: Random) -> list[dict]:
    text = "".join(rng.choices(corpus.vocab.level1_characters(), k=8))
    return [corpus.user(rng.choice(corpus.ECHO_PROMPTS).replace("X", text)), corpus.assistant(text)]


def general_probes(seed: int = 11) -> list[dict]:
    """48 道探针:id、question、answer、key_points、kind。"""
    rng = Random(f"probes-{seed}")
    rows = [("闲聊常识", topic["questions"][-1], topic["answer"], topic["key_points"])
            for topic in rng.sample(corpus.talk(), TALK_PROBES)]
    for kind, make, count in (("照抄", _plain_echo, ECHO_PROBES), ("阅读", _short_reading, READING_PROBES)):
        for _ in range(count):
            asked, reply = make(rng)
            key = reply["content"].removesuffix("。")
            rows.append((kind, asked["content"], reply["content"], [key]))
    return [{"id": f"G{i:02d}", "kind": kind, "question": q, "answer": a, "key_points": keys}
            for i, (kind, q, a, keys) in enumerate(rows, 1)]


def general_conversations(count: int = 1500, seed: int = 12) -> list[dict]:
    """混入 LoRA 训练的一般对话,每条都短,省训练时间。"""
    rng = Random(f"mix-{seed}")
    everyday_reading = partial(_short_reading, make=everyday.reading_task)
    scene_reading = partial(_short_reading, make=everyday.scene_task)
    makers = {corpus.talk_task: 0.3, _plain_echo: 0.1, _short_reading: 0.08, everyday_reading: 0.08,
              scene_reading: 0.06, corpus.world_task: 0.06, everyday.world_task: 0.06,
              corpus.unknown_task: 0.08, everyday.unknown_task: 0.1, corpus.rewrite_task: 0.04,
              everyday.rewrite_task: 0.04}
    forbidden = {row["question"] for row in general_probes()}
    rows = []
    while len(rows) < count:
        talk = rng.choices(list(makers), weights=makers.values())[0](rng)[:2]
        if talk[0]["content"] not in forbidden:
            rows.append({"conversations": [{"role": m["role"], "content": m["content"]} for m in talk]})
    return rows


def _write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def write(data: Path = DATA) -> None:
    """重写 data/probes/general.jsonl 与 data/general_train.jsonl。"""
    _write(data / "probes" / "general.jsonl", general_probes())
    _write(data / "general_train.jsonl", general_conversations())
