"""没为它准备的，懂多少：三份文档各用几个种子跑一遍“划分 → 微调 → 对比”，另有不经微调的阅读。

``python -m benchmarks.unseen --write`` 把结果写进 benchmarks/unseen.json 与 unseen.md；每跑完一次就写，停下
再运行，跑完的不再跑；基座、数据或配置变了，旧的作废。``--documents library --seeds 42`` 只跑点名的，
``--set max_steps=300`` 改配置，``--answers 文件`` 另存每道题的回答，给人读。

三份文档：课程的；unseen/library 用来选设置；unseen/laboratory 不参加任何选择。后两份与日常短文
由没见过语料的人写。种子决定划分（哪种问法留给验证集）、LoRA 初值和次序；缺省的几个不参加选择。
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import labutils  # noqa: F401  先设好环境变量
from labutils.base import files
from labutils.comparison import evaluate
from labutils.comparison.metrics import GROUPS, fact_correct
from labutils.dataset import build
from labutils.dataset.rows import load_qa
from labutils.models import generate, loader
from labutils.training import finetune
from labutils.training.config import load_config, override
from tools import make_pdf

OUT, PLACE = Path(__file__).with_suffix(".json"), Path(__file__).with_suffix("")
CONFIG = files.CONFIGS / "lora_tiny.yaml"
DOCUMENTS = {"course": "课程的文档", "library": "图书馆规则", "laboratory": "实验室规则"}
WORDINGS = {"1": "正式", "2": "口语", "3": "换个角度"}  # 问答编号的最后一位
SEEDS = range(60, 65)
READING = {"日常短文，写语料时看过答得怎样": "development.jsonl",
           "日常短文，语料定了以后才写": "everyday.jsonl"}


def prepare(document: str, folder: Path) -> tuple[Path, Path]:
    """(文档, 问答文件)；没有写明的问题放在问答文件旁边，一半训练，一半测验。"""
    if document == "course":
        return build.COURSE_PDF, files.DATA / "qa.jsonl"
    source = PLACE / document
    make_pdf.make_pdf(source / "document.md", folder / "document.pdf")
    (folder / "qa.jsonl").write_bytes((source / "qa.jsonl").read_bytes())
    missing = [row for _, row in files.read_rows(source / "unanswerable.jsonl")]
    for name, rows in (("train", missing[::2]), ("test", missing[1::2])):
        files.write_json_lines(rows, folder / f"unanswerable_{name}.jsonl")
    return folder / "document.pdf", folder / "qa.jsonl"


def tune(document: str, seed: int, changes: dict) -> tuple[dict, list[dict]]:
    """一份文档、一个种子：(数字, 逐题结果)。"""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        build.build_dataset(*prepare(document, folder), folder / "out", seed=seed)
        data, began = folder / "out" / "data", time.perf_counter()
        result = finetune.run(data, "tiny", CONFIG, folder / "lora", seed=seed, **changes)
        seconds = time.perf_counter() - began
        groups = evaluate.load_groups(data / "qa.jsonl", data, files.DATA / "probes")
        compared = evaluate.compare(*loader.load(result.adapter), groups, folder / "comparison")
    shares = {stage: {group: getattr(compared, stage)[group]["accuracy"] for group in GROUPS}
              for stage in ("before", "after")}
    asked = [row for row in compared.rows if row["group"] == "unseen"]
    wordings = {name: [row["after_correct"] for row in asked if row["id"].endswith(f"-{end}")]
                for end, name in WORDINGS.items()}
    return {"seconds": round(seconds, 1), **shares,
            "wording": {name: [sum(marks), len(marks)] for name, marks in wordings.items()},
            "baseline": compared.lexical_baseline["unseen"]["all"]}, compared.rows


def read() -> dict[str, list[int]]:
    """不经微调，读一段话再回答：{哪一类: [答对, 题数]}；有没有答对看要点，与对比相同。"""
    course = [row | {"passage": row["evidence"] + "。"} for row in load_qa(files.DATA / "qa.jsonl")]
    written = {kind: [row for _, row in files.read_rows(PLACE / name)] for kind, name in READING.items()}
    asked = [(kind, row) for kind, rows in (written | {"课程文档的原句": course}).items() for row in rows]
    prompts = [f"{row['passage']}\n{row['question']}" for _, row in asked]
    replies = generate.answer(*loader.load("tiny"), prompts)
    marks: dict[str, list[bool]] = {}
    for (kind, row), reply in zip(asked, replies, strict=True):
        marks.setdefault(kind, []).append(fact_correct(reply, row["key_points"]))
    return {kind: [sum(right), len(right)] for kind, right in marks.items()}


def made_by(document: str, changes: dict) -> str:
    """基座、数据、配置的摘要：有一样变了，旧的结果就不算数。"""
    settings = dataclasses.asdict(override(load_config(CONFIG), changes)) | {"path": None}
    digest = hashlib.sha256(json.dumps([document, settings], sort_keys=True).encode())
    read = [loader.WEIGHTS / "model.safetensors", files.DATA / "qa.jsonl", files.DATA / "general_train.jsonl",
            *sorted(files.DATA.glob("unanswerable*")), *sorted((files.DATA / "probes").iterdir()),
            *sorted(PLACE.rglob("*.*"))]
    for path in read:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def table(results: dict) -> str:
    """Markdown：每份文档一行均值（最小–最大），各种问法，阅读。"""
    def cell(values: list[float]) -> str:
        return f"{statistics.mean(values):.0%}（{min(values):.0%}–{max(values):.0%}）"

    shares, wordings = [], []
    for document, title in DOCUMENTS.items():
        if rows := [row for row in results["rows"] if row["document"] == document]:
            cells = [cell([row["after"][group] for row in rows]) for group in GROUPS]
            shares.append([title, *cells, cell([max(row["baseline"].values()) for row in rows])])
            sums = [[sum(row["wording"][name][k] for row in rows) for k in (0, 1)]
                    for name in WORDINGS.values()]
            before = max(row["before"][group] for row in rows for group in ("train", "unseen"))
            wordings.append([title, *(f"{a / b:.0%}（{b} 题）" for a, b in sums), f"{before:.0%}"])
    reading = [[kind, f"{right / count:.0%}", count] for kind, (right, count) in results["reading"].items()]
    seeds = "、".join(map(str, results["seeds"]))
    return "\n".join([
        f"微调后，均值（最小–最大）；种子 {seeds}。", "",
        *markdown(["文档", *GROUPS.values(), "没见过的问法，不用模型"], shares), "",
        "没见过的问法，按写法；最后一列是微调前答对的（训练过的与没见过的问法里高的一组）。", "",
        *markdown(["文档", *WORDINGS.values(), "微调前"], wordings), "",
        "不经微调，读一段话再回答：", "", *markdown(["材料", "答对", "题数"], reading), ""])


def markdown(heads: list[str], rows: list[list]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="跑没有跑过的；不写就只看已有的")
    parser.add_argument("--documents", nargs="+", default=list(DOCUMENTS), choices=list(DOCUMENTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=OUT, help="结果文件")
    parser.add_argument("--answers", type=Path, help="逐题的回答另存在这里")
    parser.add_argument("--set", nargs="*", default=[], metavar="键=值", help="改配置，例如 max_steps=300")
    arguments = parser.parse_args()
    changes = {key: json.loads(value) for key, value in (text.split("=") for text in arguments.set)}
    results = json.loads(arguments.out.read_text("utf-8")) if arguments.out.is_file() else {}
    made = {document: made_by(document, changes) for document in DOCUMENTS}
    rows = [row for row in results.get("rows", []) if row["made_by"] == made[row["document"]]]
    known = {(row["document"], row["seed"]) for row in rows}
    results = {"seeds": arguments.seeds, "rows": rows, "reading": results["reading"] if rows else None}
    wanted = [(document, seed) for document in arguments.documents for seed in arguments.seeds]
    for document, seed in (job for job in wanted if arguments.write and job not in known):
        figures, answers = tune(document, seed, changes)
        rows.append({"document": document, "seed": seed, "made_by": made[document], **figures})
        results["reading"] = results["reading"] or read()
        files.write(arguments.out, json.dumps(results, ensure_ascii=False, indent=1) + "\n")
        files.write(arguments.out.with_suffix(".md"), table(results))
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
        if arguments.answers:
            with arguments.answers.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"document": document, "seed": seed, **answer}, ensure_ascii=False)
                                + "\n" for answer in answers)
    if rows:
        print(table(results))


if __name__ == "__main__":
    main()
