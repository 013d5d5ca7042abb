"""快不快：``python benchmarks/speed.py 项目… [--rounds 3] [--write]``。

项目：startup（多久说出第一句话）、training（微调）、loss（微调以后的验证集损失，一轮一个种子）、
answering（一次答很多题）、growth（造数据时，条数、页数变多怎样变慢）、lab（整个实验）。同一项里的几种做法轮流各跑几遍，
每遍一个新的进程，取中位数，括号里是最小到最大；别的程序在跑时只看 CPU 秒。
--write 把表写进 benchmarks/speed.md 里那一项的下面。

微调还可以同别的工具比，要给出它们各自环境里的 Python：``--llamafactory PYTHON``；官方的
``--official PYTHON finetune_demo文件夹 chatglm3-6b的代码文件夹``（后者是官方模型里的几个 .py）。
"""

import argparse
import json
import math
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "speed.md"
ROOT = HERE.parent


def measure(code: str, threads: int = 1) -> dict:
    """在新的进程里跑 code；它最后一行打印的 JSON，另加 wall、cpu（秒）与 rss（MiB）。"""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1",
                                "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True,
                          encoding="utf-8")
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    last = done.stdout.strip().rpartition("\n")[2]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu} | (json.loads(last) if last.startswith("{") else {})


def side_by_side(ways: dict[str, tuple], rounds: int) -> dict[str, list[dict]]:
    """几种做法轮流各跑 rounds 遍；做法是 measure 的参数。"""
    results: dict[str, list[dict]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, arguments in ways.items():
            results[name].append(measure(*arguments))
            print(f"  第 {number + 1} 遍 {name}：{results[name][-1]}", flush=True)
    return results


def middle(values: list[float], digits: int = 2) -> str:
    """中位数（最小–最大）。"""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f}（{low:.{digits}f}–{high:.{digits}f}）"


def rows_of(results: dict[str, list[dict]], columns: dict[str, str], base: str = "") -> list[str]:
    """Markdown 表：一种做法一行，columns 是 {量: 表头}；给了 base 就另有一列“是它的几倍”，按第一个量算。"""
    first = next(iter(columns))
    heads = [*columns.values(), *([f"{base}是它的几倍"] if base else [])]
    lines = ["| 做法 | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, runs in results.items():
        cells = [middle([run[key] for run in runs]) for key in columns]
        if base:
            slow, fast = (statistics.median(run[first] for run in results[n]) for n in (base, name))
            cells.append(f"{slow / fast:.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


# ---- 启动 ----

def startup(rounds: int) -> list[str]:
    wanted = ("--help", "infer --help", "finetune 没有 tiny configs/lora_tiny.yaml",
              "finetune data 没有 configs/lora_tiny.yaml", "finetune data tiny configs/没有.yaml",
              "check 没有", "compare 没有", "demo 没有", "infer 没有", "merge 没有 输出",
              "dataset 没有.pdf", "run --model 没有", "run --pdf 没有.pdf", "check",
              "check tiny configs/lora_tiny.yaml")
    ways = {f"labutils {words}": (f"""
import sys
sys.argv = ["labutils", *{words.split()!r}]
from labutils.lab import cli
try:
    cli.main()
except SystemExit:
    pass
""",) for words in wanted}
    return rows_of(side_by_side(ways, rounds), {"wall": "秒", "cpu": "CPU 秒"})


# ---- 回答 ----

ANSWERS = """
import hashlib, json, time
import torch
from labutils.base import files
from labutils.comparison import evaluate
from labutils.lab import console
from labutils.models import chat, generate, loader
adapter = console.newest_checkpoint()
data = console.data_beside(str(adapter))
groups = evaluate.load_groups(data / "qa.jsonl", data, files.DATA / "probes")
asked = [item.get("messages") or item["question"] for items in groups.values() for item in items]
model, tokenizer = loader.load(adapter, device="cpu", dtype="float32")
cpu, wall = time.process_time(), time.perf_counter()
WORK
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
digest = hashlib.sha256(json.dumps(replies).encode()).hexdigest()[:8]
print(json.dumps({"wall": wall, "cpu": cpu, "n": len(replies), "text": digest}))
"""
ONE_BY_ONE = """
replies = []
for question in asked:
    ids = torch.tensor([chat.prompt_ids(tokenizer, generate.as_messages(question))])
    said = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=128,
                          do_sample=False)[0, ids.shape[1]:]
    replies.append(generate.clean(tokenizer, said.tolist()))
"""


def answering(rounds: int) -> list[str]:
    together = "replies = generate.answer(model, tokenizer, asked)"
    alone = {f"一题一次 model.generate，{name}": (ANSWERS.replace("WORK", ONE_BY_ONE), threads)
             for threads, name in enumerate(("一个线程", "两个线程"), 1)}
    results = side_by_side(alone | {"generate.answer": (ANSWERS.replace("WORK", together),)}, rounds)
    runs = [run for way in results.values() for run in way]
    fastest = min(alone, key=lambda name: statistics.median(run["wall"] for run in results[name]))
    same = "一字不差" if len({run["text"] for run in runs}) == 1 else "不全相同"
    return [f"最近一次微调的适配器，四组共 {runs[0]['n']} 题，贪心，至多 128 个词元；回答{same}。", "",
            *rows_of(results, {"wall": "秒", "cpu": "CPU 秒"}, fastest)]


# ---- 微调 ----

TRAINING = """
import json, os, random, resource, shutil, subprocess, sys, tempfile, time
from pathlib import Path
from collections import Counter
import torch
from peft import LoraConfig, get_peft_model
from transformers import (AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, GlmConfig, Trainer,
                          TrainerCallback, TrainingArguments, set_seed)
from labutils.base import files
from labutils.models import chat, loader
from labutils.training import config, data, finetune
(vocabulary, lengths, batch, steps, rank, targets), seed, peer, way = CASE, SEED, PEER, "WAY"
folder, rng = Path(tempfile.mkdtemp()), random.Random(seed)
source, name = files.DATA, str(loader.WEIGHTS)
if vocabulary:
    source, name = folder, str(folder / "model")
    if way == "official":  # 同样大小，官方的写法与官方的分词器
        sys.path.insert(0, "tests")
        from fakes import chatglm3_fake
        chatglm3_fake.write(Path(name), layers=3, hidden=64, heads=4, groups=2, head_dim=16, ffn=128,
                            vocab=vocabulary, seq_length=1024)
        for code in Path(peer[2]).glob("*.py"):
            shutil.copy(code, name)
    else:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(GlmConfig(
            vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=3, head_dim=16,
            num_attention_heads=4, num_key_value_heads=2, attention_bias=True, tie_word_embeddings=False,
            pad_token_id=0, eos_token_id=2)).save_pretrained(name)
        AutoTokenizer.from_pretrained(loader.WEIGHTS).save_pretrained(name)
    letters = (files.DATA / "qa.jsonl").read_text(encoding="utf-8")
    letters = Counter(letter for letter in letters if letter.isalpha() and not letter.isascii())
    letters = [letter for letter, _ in letters.most_common(200)]
    for file, count in (("train.json", 64), ("dev.json", 8)):
        talks = [[{"role": role, "content": "".join(rng.choices(letters, k=size))}
                  for role, size in zip(("user", "assistant"), lengths)] for _ in range(count)]
        (folder / file).write_text("".join(json.dumps({"conversations": talk}) + chr(10) for talk in talks))
def rows(file):
    lines = map(json.loads, (source / file).read_text(encoding="utf-8").splitlines())
    return [chat.truncate(chat.encode(tokenizer, line["conversations"]), 1024) for line in lines]
class Watch(TrainerCallback):
    def on_train_begin(self, *_, **__):
        self.began = time.process_time()
    def on_train_end(self, *_, **__):
        self.cpu = time.process_time() - self.began
recipe, settings = files.CONFIGS / "lora_tiny.yaml", dict(
    seed=seed, max_steps=steps, per_device_train_batch_size=batch, eval_strategy="no", save_steps=steps,
    logging_steps=steps, general_ratio=0, unanswerable_ratio=0, question_augmentation=0,
    question_from_answer=0, neftune_noise_alpha=None, r=rank, lora_alpha=2 * rank, target_modules=targets,
    max_input_length=511, max_output_length=512)
def train_ours(dtype="auto"):
    finetune.run(source, name, recipe, folder / "out", callbacks=[watch], dtype=dtype, **settings)
    return loader.load(folder / "out" / f"checkpoint-{steps}", dtype="float32", device="cpu")[0]
def train_fp32():
    return train_ours("fp32")
def planned_rows():
    plan = config.override(config.load_config(recipe), settings)
    sources = data.read_training(plan, source)
    return data.PlannedDataset(tokenizer, sources, plan, steps * batch, batch, seed)
def train_plain():
    model, _ = loader.load(name, dtype="float32", device="cpu")
    model.config.use_cache = False
    planned = planned_rows()
    ordered = [{key: list(ids) for key, ids in planned[i].items()} for i in range(len(planned))]
    set_seed(seed)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank,
                                             target_modules=targets))
    args = TrainingArguments(
        str(folder / "out"), max_steps=steps, per_device_train_batch_size=batch, learning_rate=1.8e-3,
        lr_scheduler_type="cosine", warmup_steps=0.05, use_cpu=True, save_strategy="no", seed=seed,
        train_sampling_strategy="sequential", logging_steps=steps, report_to=[], disable_tqdm=True)
    Trainer(model, args, train_dataset=ordered, callbacks=[watch],
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True)).train()
    return model
def train_peer():
    planned, out = planned_rows(), folder / "out"
    talks = [{"conversations": planned.messages[entry.source][entry.row]} for entry in planned.plan]
    (folder / "rows.json").write_text("".join(json.dumps(talk) + chr(10) for talk in talks))
    job = {"data": str(folder), "model": name, "out": str(out), "steps": steps, "batch": batch, "rank": rank,
           "targets": targets, "seed": seed, "peer": peer}
    (folder / "job.json").write_text(json.dumps(job))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([peer[0], f"benchmarks/peers/train_{way}.py", folder / "job.json"], env=environment,
                          stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        sys.exit(done.stdout)
    told = next(line for line in done.stdout.splitlines() if line.startswith('{"cpu"'))
    watch.cpu = json.loads(told)["cpu"]
    return loader.load(out, dtype="float32", device="cpu")[0]
train_llamafactory = train_official = train_peer
tokenizer, watch = loader.load(name)[1], Watch()
model = train_WAY().eval()
peak = resource.getrusage(resource.RUSAGE_CHILDREN if peer else resource.RUSAGE_SELF).ru_maxrss / 1024
lost = count = 0
with torch.no_grad():
    for row in rows("dev.json"):
        labels = torch.tensor(row["labels"][1:])
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        lost += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
step, given, ends = watch.cpu / steps, rows("train.json"), ("embed_tokens", "lm_head")
sizes = [(name, weight.numel()) for name, weight in model.named_parameters() if weight.dim() == 2]
lora = sum(size for name, size in sizes if "lora_" in name)
frozen = sum(size for name, size in sizes if "lora_" not in name and not any(end in name for end in ends))
tokens, learned = (sum(label != skip for row in given for label in row["labels"]) / len(given)
                   for skip in (None, -100))
head = model.get_base_model().get_output_embeddings().weight.numel()
work = batch * (tokens * (4 * frozen + 6 * lora) + learned * 4 * head)  # 前向 2，对输入的梯度 2，对权重的 2
square, began = torch.randn(1024, 1024), time.process_time()
for _ in range(20):
    square @ square
floor = work * (time.process_time() - began) / (20 * 2 * 1024**3)
print(json.dumps({"rate": batch / step, "step": step, "rss": peak, "dev": lost / count,
                  "share": 100 * floor / step}))
"""
CASES = {  # 名字: (词表，0 是自带小模型；问与答的字数；每批；步数；秩；层)
    "自带小模型": (0, (), 16, 40, 32, "all-linear"),
    "词表 65,024，短": (65_024, (45, 25), 4, 60, 8, ["q_proj", "k_proj", "v_proj"]),
    "词表 65,024，长": (65_024, (480, 95), 4, 16, 8, ["q_proj", "k_proj", "v_proj"])}


WAYS = {"Trainer + peft": "plain", "labutils，fp32": "fp32", "labutils，dtype: auto": "ours"}
OTHERS = {"LLaMA-Factory": "llamafactory", "官方 finetune_demo": "official"}
PEERS: dict[str, list[str]] = {}  # llamafactory、official 的环境，见文件开头


def trained(case: tuple, way: str, seed: int) -> str:
    code = TRAINING.replace("CASE", repr(case)).replace("PEER", repr(PEERS.get(way, [])))
    return code.replace("WAY", way).replace("SEED", str(seed))


def training(rounds: int) -> list[str]:
    titles = WAYS | {title: way for title, way in OTHERS.items() if way in PEERS}
    ways = {f"{name}：{title}": (trained(case, way, 42),)
            for name, case in CASES.items() for title, way in titles.items()
            if case[0] or way != "official"}  # 官方的脚本只认官方格式的文件夹
    columns = {"rate": "每 CPU 秒几条", "step": "一步的 CPU 秒", "rss": "峰值内存 MiB", "dev": "验证集损失",
               "share": "矩阵乘法的下限占百分之几"}
    return ["条数、词元、步数都相同，一个线程；下限：一步必需的乘加 ÷ 同时量的 1024 阶方阵相乘的速度。"
            "LLaMA-Factory、官方的用它们的缺省（都打开了梯度检查点）；官方的另有一份官方格式的随机权重，"
            "验证集损失不能与别的比。", "",
            *rows_of(side_by_side(ways, rounds), columns)]


def loss(rounds: int) -> list[str]:
    """每轮换一个种子。"""
    seeds, case = range(42, 42 + rounds), (*CASES["自带小模型"][:3], 300, *CASES["自带小模型"][4:])
    lines = ["自带小模型，300 步，几种做法的样本、次序与初值都相同。", "",
             "| 做法 | " + " | ".join(f"种子 {seed}" for seed in seeds) + " | 平均 |",
             "|---" * (rounds + 2) + "|"]
    for title, way in WAYS.items():
        ends = [measure(trained(case, way, seed))["dev"] for seed in seeds]
        cells = [f"{end:.3f}" for end in [*ends, statistics.mean(ends)]]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


# ---- 增长 ----

GROWTH = """
import json, random, sys, time
from labutils.dataset import build, checks, prompts, report, rows
from labutils.dataset.clean import Page, clean_pages
rng, n = random.Random(1), SIZE
def asked(count, point="可以"):
    return [{"question": f"编号{rng.randrange(10**6):06d}的{rng.choice('甲乙丙丁戊')}类课程能在"
             f"{rng.choice(['周末', '假期', '线上'])}补考吗？", "answer": "可以。", "key_points": [point],
             "page": 1 + i % 50, "evidence": f"第{i % 50}类课程都可以补考"} for i in range(count)]
def lines(count):
    body = "这一行是第{}页的正文第{}行，写到一行的末尾还没有说完的"
    return ["\\n".join([f"第{p}页的标题", *(body.format(p, i) for i in range(25)), f"— {p} —"])
            for p in range(1, count + 1)]
text = "\\n".join(f"第{p}类课程都可以补考。" for p in range(50))
pages = [Page(p, text) for p in range(1, 51)]
PREPARE
began = time.process_time()
WORK
print(json.dumps({"cpu": time.process_time() - began}))
"""
STAGES = {  # 名字: (准备, 要量的, 各种大小)
    "去重（要点全相同）": ("given = asked(n)", "rows.drop_near_duplicates(given)", (1_000, 10_000, 100_000)),
    "检查问答": ("given = asked(n)", "checks.validate(given, pages)", (1_000, 10_000, 100_000)),
    "查泄漏": ("given = checks.name_rows(asked(n)); train, dev = rows.split(given)",
            "rows.drop_leaked(train, dev)", (1_000, 10_000, 100_000)),
    "统一事实的编号": ("given = [[p | {'fact_id': f'F{i:02d}'} for i, p in enumerate(asked(10))]"
                " for _ in range(n // 10)]", "build.name_facts(given)", (1_000, 10_000, 100_000)),
    "报告": ("given = checks.name_rows(asked(n)); train, dev = rows.split(given)",
           "report.describe(given, train, dev, pages)", (1_000, 10_000, 100_000)),
    "清理页面": ("given = lines(n)", "clean_pages(given)", (10, 100, 1_000)),
    "切块": ("given = [Page(p, text) for p, text in enumerate(clean_pages(lines(n)), 1)]",
           "prompts.chunks(given)", (10, 100, 1_000)),
}


def growth(rounds: int) -> list[str]:
    lines = ["| 做什么 | 各种大小的 CPU 秒 | 指数 |", "|---|---|---|"]
    for name, (prepare, work, sizes) in STAGES.items():
        spent = []
        for size in sizes:
            code = GROWTH.replace("SIZE", str(size)).replace("PREPARE", prepare).replace("WORK", work)
            spent.append(min(measure(code)["cpu"] for _ in range(rounds)))
        slope = math.log(spent[-1] / spent[0]) / math.log(sizes[-1] / sizes[0])
        cells = "，".join(f"{size:,}：{seconds:.2f}" for size, seconds in zip(sizes, spent, strict=True))
        lines.append(f"| {name} | {cells} | {slope:.2f} |")
        print(lines[-1], flush=True)
    return lines


# ---- 整个实验 ----

LAB = """
import json, tempfile
from labutils.lab import run
with tempfile.TemporaryDirectory() as folder:
    print(json.dumps(run.run(out=folder)["seconds"]))
"""


def lab(rounds: int) -> list[str]:
    runs = [measure(LAB) for _ in range(rounds)]
    names = [name for name in runs[0] if name not in ("wall", "cpu")]
    return ["| notebook | 秒 |", "|---|---|",
            *(f"| {name} | {middle([run[name] for run in runs], 1)} |" for name in names)]


PARTS = {"startup": ("启动", startup), "training": ("微调", training), "loss": ("微调以后的验证集损失", loss),
         "answering": ("回答", answering), "growth": ("增长", growth),
         "lab": ("整个实验", lab)}


def machine() -> str:
    model = platform.processor()
    if (cpu := Path("/proc/cpuinfo")).exists():
        model = re.search("model name\\s*: (.+)", cpu.read_text())[1]
    return f"{model}，{os.cpu_count()} 核；Python {platform.python_version()}，{time.strftime('%Y-%m-%d')}"


def write(part: str, lines: list[str]) -> None:
    """换掉 speed.md 里这一项的一节。"""
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else f"# {__doc__.split('：')[0]}\n"
    sections = dict(re.findall("^## (.+)\n((?:(?!## ).*\n?)*)", old, re.MULTILINE))
    sections[PARTS[part][0]] = "\n".join(["", machine(), "", *lines, "", ""])
    whole = [old.split("\n## ")[0], *(f"## {name}\n{text}" for name, text in sections.items())]
    PAGE.write_text("\n\n".join(map(str.strip, whole)) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="写进 benchmarks/speed.md")
    parser.add_argument("--llamafactory", nargs=1, metavar="PYTHON")
    parser.add_argument("--official", nargs=3, metavar=("PYTHON", "finetune_demo", "模型代码"))
    given = parser.parse_args()
    PEERS.update({way: paths for way in OTHERS.values() if (paths := getattr(given, way))})
    for part in given.parts:
        print(f"{PARTS[part][0]}：", flush=True)
        lines = PARTS[part][1](given.rounds)
        print("\n".join(lines))
        if given.write:
            write(part, lines)


if __name__ == "__main__":
    main()
