"""训练数据：读对话，按固定的“课程表”混合、改写、编码、拼成批。讲解见 notebook 02。

课程表在训练前一次排好：第 n 个样本是哪一条、怎么改写，只由种子和 n 决定，与进程里别的随机数无关。
所以训练被打断后从第 n 个样本接着来，结果一位不差。
"""

import hashlib
import inspect
import itertools
import json
import math
import random
from array import array
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from labutils.base import files
from labutils.base.errors import LabError
from labutils.base.text import normalize
from labutils.dataset.rows import UNANSWERABLE, Asked, load_conversations
from labutils.models import chat
from labutils.training.config import Config
from labutils.training.questions import augment, question_from_answer


@dataclass
class Source:
    """一种来源的对话。name：qa、unanswerable、general 或 dev；file：打印用的文件名。"""

    name: str
    file: str
    conversations: list[list[dict]]

    @property
    def title(self) -> str:
        """打印用的中文名。"""
        return {"qa": "训练问答", "unanswerable": "“没有写明”的问答", "general": "通用对话",
                "dev": "验证集"}[self.name]


def find_file(name: str, data_dir: Path) -> Path:
    """数据文件先在数据文件夹里找，再从仓库根目录找；都没有则引发 LabError。"""
    for path in (data_dir / name, files.ROOT / name):
        if path.is_file():
            return path
    raise LabError(f"找不到数据文件 {name}：{files.rel(data_dir)} 和仓库根目录下都没有；"
                   "请先运行 notebook 01，或改配置里的 data_config")


def read_training(config: Config, data_dir: Path) -> list[Source]:
    """读训练用的各个来源，问答在最前面；比例为 0 的、这份文档没有的不读。空文件引发 LabError。"""
    data = config.data_config
    wanted = [("qa", data.train_file, 1), ("unanswerable", data.unanswerable_file, data.unanswerable_ratio),
              ("general", data.general_file, data.general_ratio)]
    own = data_dir / UNANSWERABLE[0]
    if data.unanswerable_file == own.name and not own.is_file():
        print(f"没有 {files.rel(own)}：这次不训练“没有写明”的问答。")
        del wanted[1]
    return [_source(name, find_file(file, data_dir)) for name, file, ratio in wanted if ratio > 0]


def read_dev(config: Config, data_dir: Path) -> Source:
    """读验证集；空的验证集引发 LabError。"""
    return _source("dev", find_file(config.data_config.val_file, data_dir))


def _source(name: str, path: Path) -> Source:
    return Source(name, files.rel(path), [row["conversations"] for row in load_conversations(path)])


def questions(source: Source) -> frozenset[str]:
    """一个来源里用户说过的全部话，统一写法之后。"""
    return frozenset(normalize(message["content"]) for messages in source.conversations
                     for message in messages if message["role"] == "user")


def data_digest(sources: list[Source]) -> str:
    """全部对话内容的指纹，续训时用来发现数据换过了。"""
    text = json.dumps([s.conversations for s in sources], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def encode_source(tokenizer, source: Source, max_length: int) -> tuple[list[list[dict]], list[dict], int]:
    """一个来源的全部样本：(各自到回答为止的消息, 编成的 {"input_ids", "labels"}, 多少段对话被截断)；
    编号存成紧凑的 array，内存是列表的几分之一。

    每个要学的回答是一个样本；超过 max_length 的从右边截断，回答整个在外面的不要。
    编不了的、一个样本也没有的，引发 LabError，说出是哪个文件第几条。
    """
    messages, encoded, truncated = [], [], 0
    for number, conversation in enumerate(source.conversations, 1):
        parts = chat.turns(conversation)
        try:
            whole = [chat.encode(tokenizer, part) for part in parts]
        except LabError as error:
            raise LabError(f"{source.file} 第 {number} 条：{error}") from None
        cut = [chat.truncate(sample, max_length) for sample in whole]
        if not any(cut):
            raise LabError(f"{source.file} 第 {number} 条：{chat.NOTHING}")
        messages += [part for part, sample in zip(parts, cut, strict=True) if sample]
        encoded += [{key: array("i", ids) for key, ids in sample.items()} for sample in filter(None, cut)]
        truncated += cut != whole
    return messages, encoded, truncated


def schedule(sizes: list[int], counts: list[int], total: int, seed: int) -> list[tuple[int, int, int]]:
    """排课程表：total 个 (轮次, 来源号, 行号)；sizes 是各来源的行数。

    来源 k 每轮取 counts[k] 行，取完一遍重新洗牌，因此各行出现的次数最多差一；每一轮内部打乱。
    """
    streams = [_endless(size, f"{seed}-{k}") for k, size in enumerate(sizes)]
    plan: list[tuple[int, int, int]] = []
    for epoch in itertools.count():
        if len(plan) >= total:
            return plan[:total]
        rows = [(epoch, k, next(streams[k])) for k, n in enumerate(counts) for _ in range(n)]
        random.Random(f"{seed}-epoch-{epoch}").shuffle(rows)
        plan += rows


def _endless(size: int, seed: str):
    rng, order = random.Random(seed), list(range(size))
    while True:
        rng.shuffle(order)
        yield from order


class Sample(NamedTuple):
    """课程表的一项：第几轮、第几个来源、来源的第几个样本；question 是新问法，不改写时是 None。"""

    epoch: int
    source: int
    row: int
    question: str | None


class PlannedDataset(torch.utils.data.Dataset):
    """按课程表取样本：第 n 项 → {"input_ids", "labels"}，两个等长的列表（不改写的是 array）。

    total：一共多少个样本，None 表示按配置的 num_train_epochs 轮，凑成整批；per_epoch 是一轮的样本数。
    truncated 是各来源被截断的对话数。改写出来与 held_out（验证集的问题）相同或只差一两个字的不用，免得泄漏。
    """

    def __init__(self, tokenizer, sources: list[Source], config: Config, total: int | None,
                 batch: int, seed: int, held_out: frozenset[str] = frozenset()):
        self.tokenizer, self.sources, self.max_length = tokenizer, sources, config.max_length
        self.data_config = config.data_config
        self.held_out = Asked(held_out)
        self.messages, self.encoded, self.truncated = zip(
            *(encode_source(tokenizer, source, config.max_length) for source in sources), strict=True)
        sizes = list(map(len, self.encoded))
        ratios = (getattr(self.data_config, f"{source.name}_ratio", 1.0) for source in sources)  # 问答总是 1
        counts = [round(ratio * sizes[0]) for ratio in ratios]
        self.per_epoch = sum(counts)
        if total is None:
            total = math.ceil(config.training_args.num_train_epochs * self.per_epoch / batch) * batch
        entries = schedule(sizes, counts, total, seed)
        self.plan = [Sample(*entry, self._new_question(*entry, seed)) for entry in entries]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        _, source, row, question = self.plan[index]
        if question is None:
            return self.encoded[source][row]
        messages = list(self.messages[source][row])
        asked = _first_question(messages)
        messages[asked] = messages[asked] | {"content": question}
        reworded = chat.truncate(chat.encode(self.tokenizer, messages), self.max_length)
        return reworded or self.encoded[source][row]  # 新问法太长，放不下回答的，仍用原来的

    def _new_question(self, epoch: int, source: int, row: int, seed: int) -> str | None:
        """这个样本的新问法；这一次不改写，或与验证问题太像，返回 None。"""
        if self.sources[source].name == "general":
            return None  # 通用对话里有“照着念”一类任务，改动一个字答案就错了
        messages = self.messages[source][row]
        question, answer = messages[_first_question(messages):][:2]
        rng, new = random.Random(f"{seed}/{epoch}/{source}/{row}"), None
        if rng.random() < self.data_config.question_from_answer:
            new = question_from_answer(answer["content"], rng)
        if new is None and rng.random() < self.data_config.question_augmentation:
            new = augment(question["content"], rng)
        return None if new is None or [*self.held_out.alike(normalize(new))] else new


def _first_question(messages: list[dict]) -> int:
    """用户的第一句话是第几条消息：前面至多有一条 system。"""
    return int(messages[0]["role"] == "system")


def takes_positions(model) -> bool:
    """要不要告诉模型每个词元是第几个：学来的位置（GPT-2）要；旋转位置只看相对的距离，不要。"""
    return getattr(model.config, "rope_parameters", None) is None and (
        "position_ids" in inspect.signature(model.forward).parameters)


class LeftCollator:
    """把样本拼成一批，左边填充，使回答都靠右；只在最后 keep 个位置（从最靠前的标签到末尾，再加一）算 logits：
    词表很大时输出层最费时间和显存，问题部分的又没有用。positions 为真时还给出位置，填充不算。
    """

    def __init__(self, pad_id: int, positions: bool = False):
        self.pad_id, self.positions = pad_id, positions

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict:
        padded = partial(pad_sequence, batch_first=True, padding_side="left")
        ids, labels = ([torch.tensor(row[key]) for row in rows] for key in ("input_ids", "labels"))
        mask = padded(list(map(torch.ones_like, ids)))
        ids, labels = padded(ids, padding_value=self.pad_id), padded(labels, padding_value=chat.IGNORE)
        first = int((labels != chat.IGNORE).any(dim=0).nonzero()[0])
        keep = min(labels.shape[1], labels.shape[1] - first + 1)
        labels = labels[:, -keep:].contiguous()  # CPM-Ant 把它摊平时要连着的内存
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "logits_to_keep": keep}
        if self.positions:
            batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return batch
