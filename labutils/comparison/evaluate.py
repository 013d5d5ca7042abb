"""微调前后对比：同一个模型，关掉适配器答一遍，打开适配器再答一遍，打分、汇总。讲解见 notebook 03。

两遍的问题、提示词、贪心解码都相同。“包上 LoRA 之前的那个变量”不能当微调前：peft 会就地改动它。
"""

import hashlib
import itertools
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from labutils.base.errors import LabError
from labutils.base.files import one_sentence, read_rows, rel, write_json_lines
from labutils.comparison import results
from labutils.comparison.metrics import bleu_4, fact_correct, lexical_answers, rouge_l
from labutils.dataset.rows import UNANSWERABLE, load_any, load_conversations, load_qa
from labutils.models import generate, loader
from labutils.models.generate import Unfinished, as_messages

STAGES = {"before": "微调前", "after": "微调后"}


def load_groups(qa_file: str | Path, data_dir: str | Path, probes_dir: str | Path) -> dict[str, list[dict]]:
    """四组题：train（训练过的问法）、unseen（没见过的问法）、general、unanswerable（没有文件就是空的）

    train.json 与 dev.json 只有对话，要点和页码按问题文字去 qa_file 里找；找不到时抛出 LabError，说明哪个文件
    第几条。通用的探针文件缺失或格式不对时也抛出 LabError；题目里缺项由 compare 指出。
    """
    known = {str(row.get("question", "")).strip(): row for row in load_qa(qa_file)}
    return {"train": _rejoin(Path(data_dir) / "train.json", known, qa_file),
            "unseen": _rejoin(Path(data_dir) / "dev.json", known, qa_file),
            "general": load_qa(Path(probes_dir) / "general.jsonl"),
            "unanswerable": load_any(Path(data_dir) / UNANSWERABLE[1])}


def _rejoin(path: Path, known: dict[str, dict], qa_file: str | Path) -> list[dict]:
    rows = []
    for number, item in enumerate(load_conversations(path), 1):
        asked = [m["content"] for m in item["conversations"] if m["role"] == "user"]
        if (question := "\n".join(asked).strip()) not in known:
            raise LabError(f"{rel(path)} 第 {number} 条的问题“{asked[0]}”不在 {rel(qa_file)} 里，"
                           "请用同一次 notebook 01 的 qa.jsonl、train.json 和 dev.json。")
        rows.append(known[question])
    return rows


def _check_groups(groups: dict[str, list[dict]]) -> None:
    if not any(groups.values()):
        raise LabError("没有可以对比的问题：请检查 train.json、dev.json 和 data/probes 是否为空。")
    for group, items in groups.items():
        for number, item in enumerate(items, 1):
            if missing := _missing(item):
                raise LabError(f"问题组 {group} 的第 {number} 题缺少 {'、'.join(missing)}，"
                               "或写的不是文字，请改好再对比。")


def _missing(item: dict) -> list[str]:
    """缺了哪几项；类型不对的也算，不然要等全部答完、打分时才出错"""
    asked = item.get("messages") or [{"role": "user", "content": item.get("question")}]
    if isinstance(asked, list):
        asked = [m.get("content") if isinstance(m, dict) and "role" in m else None for m in asked]
    parts = (("answer", [item.get("answer")]), ("key_points（要点列表）", item.get("key_points")),
             ("question", asked))
    return [name for name, texts in parts
            if not (isinstance(texts, list) and texts and all(isinstance(t, str) and t for t in texts))]


# —— 答过的题：6B 模型在 CPU 上答一遍要几个小时，中途停下（断电、中断）再运行，不答第二遍 ——
NAME = "answers.partial.jsonl"
_SMALL = 1 << 16  # 基座只比元素不超过这么多的张量（各层的归一化等）：足以认出换了基座，又不必读完 12 GB


class KeptAnswers:
    """一个文件，一行一个回答；模型、适配器或生成参数变了，旧的回答就作废"""

    @one_sentence()
    def __init__(self, folder: Path, model: Any, generation: dict):
        self.path = folder / NAME
        head = {"made_by": fingerprint(model, generation)}
        rows = [row for _, row in read_rows(self.path, torn="skip")]
        kept = rows[1:] if rows[:1] == [head] else []
        self._known = {(row["stage"], row["prompt"]): (Unfinished if row.get("cut") else str)(row["reply"])
                       for row in kept}
        write_json_lines([head, *kept], self.path)  # 断在半行上的，从这里起不在文件里了

    def __len__(self) -> int:
        return len(self._known)

    def get(self, stage: str, prompt: str | list[dict]) -> str | None:
        """这道题答过就给出回答，没有答过是 None"""
        return self._known.get((stage, _key(prompt)))

    @one_sentence()
    def add(self, stage: str, prompt: str | list[dict], reply: str) -> None:
        """记下一个回答；磁盘满了等抛出 LabError"""
        self._known[stage, _key(prompt)] = reply
        row = {"stage": stage, "prompt": _key(prompt), "reply": reply, "cut": isinstance(reply, Unfinished)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _key(prompt: str | list[dict]) -> str:
    return json.dumps(as_messages(prompt), ensure_ascii=False)


def fingerprint(model: Any, generation: dict) -> str:
    """模型（基座的小张量、全部 LoRA 张量）与生成参数的摘要；batch_size 不算：改小了再来，答过的仍然有效"""
    options = sorted((key, value) for key, value in generation.items() if key != "batch_size")
    digest = hashlib.sha256(repr(options).encode())
    for name, tensor in model.named_parameters():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if "lora_" in name or tensor.numel() <= _SMALL:
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class Comparison:
    """一次对比的全部结果

    before、after：{组: {"accuracy", "interval", "rouge_l", "bleu_4", "n"}}，分数都是 0–1，空组的是 None。
    lexical_baseline：{"unseen": {"accuracy", "interval", "n", "method", "all"}}，最强的一条字面基线与各条
    （all：{拿什么比: 正确率}）；rows：逐题结果；files：写出的 {名字: 路径}。
    """

    before: dict[str, dict]
    after: dict[str, dict]
    lexical_baseline: dict[str, dict]
    rows: list[dict]
    notes: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def worse(self) -> list[dict]:
        """微调前答对、微调后答错的题"""
        return [row for row in self.rows if results.change(row) == "worse"]

    def table(self) -> pd.DataFrame:
        """每组一行的汇总表，给人看的"""
        lines = []
        for group, old in self.before.items():
            new, copied = self.after[group], self.lexical_baseline.get(group)
            head = {"问题组": results.group_name(group), "题数": new["n"]}
            lines.append(head | dict.fromkeys(("微调前", "微调后"), "没有测") if not new["n"] else head | {
                "微调前": f"{old['accuracy']:.0%}", "微调后": f"{new['accuracy']:.0%}",
                "95% 区间（后）": "–".join(f"{edge:.0%}" for edge in new["interval"]),
                "不用模型": f"{copied['accuracy']:.0%}" if copied else "",
                "ROUGE-L": f"{old['rouge_l']:.2f} → {new['rouge_l']:.2f}",
                "BLEU-4": f"{old['bleu_4']:.2f} → {new['bleu_4']:.2f}"})
        return pd.DataFrame(lines).set_index("问题组").fillna("")

    def changes(self) -> pd.DataFrame:
        """每组里一直对、错变对、对变错、一直错各几题"""
        names = results.CHANGES
        pairs = [(results.group_name(row["group"]), names[results.change(row)]) for row in self.rows]
        frame = pd.DataFrame(pairs, columns=["问题组", "变化"])
        counts = pd.crosstab(frame["问题组"], frame["变化"])
        return counts.reindex(index=frame["问题组"].unique(), columns=list(names.values()), fill_value=0)


def compare(model: Any, tokenizer: Any, groups: dict[str, list[dict]], out_dir: str | Path,
            **generation: Any) -> Comparison:
    """让 groups 里的每道题在微调前后各答一次，打分，并把结果写进 out_dir

    groups：{组: 题}，每题有 question 或 messages（多轮，以 user 结尾）、answer、key_points。每答完一成
    打印一行进度；答完一题存一题，中途停下再运行，答过的题不再答。
    模型没有适配器、关掉适配器不是基座、题目缺项、out_dir 写不进去时，在回答之前抛出 LabError。
    """
    if not hasattr(model, "disable_adapter"):
        raise LabError("这个模型没有适配器，没法对比：请用 models.load(适配器文件夹) 载入。")
    loader.check_before(model)
    _check_groups(groups)
    model.eval()  # 训练状态下的 dropout 会让两遍回答随机不同
    kept = KeptAnswers(Path(out_dir), model, generation)
    if kept:
        print(f"接着上次没有做完的对比：已有 {len(kept)} 个回答")
    with model.disable_adapter():
        before = _ask_all(model, tokenizer, groups, "before", kept, generation)
    after = _ask_all(model, tokenizer, groups, "after", kept, generation)
    rows = [_score_row(group, *answered) for group, items in groups.items()
            for answered in zip(items, before[group], after[group], strict=True)]
    result = Comparison(*({group: _scores(rows, group, stage) for group in groups} for stage in STAGES),
                        _add_baseline(rows, groups), rows, _notes(rows, groups))
    result.files = results.write_all(result, Path(out_dir))
    kept.path.unlink()
    return result


def _ask_all(model, tokenizer, groups, stage, kept: KeptAnswers, generation) -> dict[str, list[str]]:
    """{组: 每题的回答}。各组的题一起答；答过的从 kept 取，没答过的答完一题记一题，每答完一成报一行"""
    prompts = {group: [item.get("messages") or item["question"] for item in items]
               for group, items in groups.items()}
    new = [prompt for prompt in itertools.chain(*prompts.values()) if kept.get(stage, prompt) is None]
    started, count = time.perf_counter(), itertools.count(1)

    def keep(number: int, reply: str) -> None:
        kept.add(stage, new[number], reply)
        done = next(count)
        if done % math.ceil(len(new) / 10) == 0 or done == len(new):
            spent = time.perf_counter() - started
            print(f"{STAGES[stage]}：{done}/{len(new)} 题，{spent:.1f} 秒，"
                  f"约还要 {spent / done * (len(new) - done):.0f} 秒", flush=True)

    generate.answer(model, tokenizer, new, **generation, on_answer=keep)
    return {group: [kept.get(stage, prompt) for prompt in asked] for group, asked in prompts.items()}


def _score_row(group: str, item: dict, before: str, after: str) -> dict:
    turns = [m["content"] for m in item.get("messages", []) if m["role"] != "system"]
    row = {
        "id": item.get("id", ""), "fact_id": item.get("fact_id"), "group": group,
        "question": item.get("question") or " / ".join(turns), "reference": item["answer"],
        "key_points": item["key_points"], "page": item.get("page"), "kind": item.get("kind"),
    }
    for stage, reply in zip(STAGES, (before, after), strict=True):
        row |= {stage: reply, f"{stage}_cut": isinstance(reply, Unfinished)}
        row[f"{stage}_correct"] = fact_correct(reply, item["key_points"])
        row[f"{stage}_rouge_l"] = round(rouge_l(reply, item["answer"]), 4)
        row[f"{stage}_bleu_4"] = round(bleu_4(reply, item["answer"]), 4)
    return row


def _add_baseline(rows: list[dict], groups: dict[str, list[dict]]) -> dict[str, dict]:
    """给没见过的问法添上字面基线的答案，返回它的分数；几条里取在这些题上最强的，胜过它才算数"""
    unseen = [row for row in rows if row["group"] == "unseen"]
    if not unseen or not groups.get("train"):
        return {}
    copied = lexical_answers(groups["train"], [row["question"] for row in unseen])
    points = [row["key_points"] for row in unseen]
    marks = {method: list(map(fact_correct, replies, points)) for method, replies in copied.items()}
    best = max(marks, key=lambda method: sum(marks[method]))
    for row, reply, correct in zip(unseen, copied[best], marks[best], strict=True):
        row |= {"baseline": reply, "baseline_correct": correct}
    shares = {method: sum(right) / len(unseen) for method, right in marks.items()}
    return {"unseen": _accuracy(marks[best]) | {"method": best, "all": shares}}


def _scores(rows: list[dict], group: str, stage: str) -> dict:
    """一组题的正确率与两个指标的平均"""
    chosen = [row for row in rows if row["group"] == group]
    means = {metric: round(sum(row[f"{stage}_{metric}"] for row in chosen) / len(chosen), 4)
             if chosen else None for metric in ("rouge_l", "bleu_4")}
    return _accuracy([row[f"{stage}_correct"] for row in chosen]) | means


def _accuracy(marks: list[bool]) -> dict:
    right, n = sum(marks), len(marks)
    return {"accuracy": right / n if n else None, "n": n, "interval": wilson_interval(right, n)}


def wilson_interval(right: int, n: int) -> list[float]:
    """正确率的 95% 置信区间（Wilson 1927），题少的时候也可靠；没有题时是 [0, 1]"""
    if not n:
        return [0.0, 1.0]
    z, share = 1.96, right / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [round(min(max(0.0, edge / (1 + z * z / n)), 1.0), 4) for edge in (centre - half, centre + half)]


def _notes(rows: list[dict], groups: dict[str, list[dict]]) -> list[str]:
    notes = []
    if groups.get("unanswerable") == []:
        notes.append(f"材料没写的问题：没有测。要测就把 {UNANSWERABLE[1]} 放在问答文件旁边，再从 01 做起。")
    if all(row["before"] == row["after"] for row in rows):
        notes.append("微调前后的回答一字不差，适配器没有起作用：请检查训练步数、学习率，"
                     "以及适配器是不是对着这个基座训练的。")
    if empty := sum(not row["after"].strip() for row in rows):
        notes.append(f"微调后有 {empty} 题是空回答。")
    for stage, name in STAGES.items():
        if cut := sum(row[f"{stage}_cut"] for row in rows):
            notes.append(f"{name}有 {cut} 题到了词元数的上限，没有说完；要说完请加大 max_new_tokens。")
    return notes
