"""真的把五个 notebook 用 papermill 跑一遍：换一份文档、换模型、换种子、换配置，命令行入口。"""

import contextlib
import io
import json
import re

import pytest
from fakes import chatglm3_fake

from labutils.base.files import CONFIGS, DATA, NOTEBOOKS, read_rows
from labutils.lab.run import execute
from tools import make_pdf

pytestmark = pytest.mark.slow

MARKDOWN = """# 校图书馆借阅办法

## 一、开放

图书馆的开放时间是每天八点到二十二点。图书馆的咨询电话是5521036。

## 二、借书

本科生的借书上限是二十册。本科生的借书期限是四十天。逾期的收费标准是每天一角。
"""
FACTS = [
    ("图书馆的开放时间是每天八点到二十二点。", "每天八点到二十二点",
     "图书馆几点开门几点关门？", "图书馆的开放时间是什么？"),
    ("图书馆的咨询电话是5521036。", "5521036", "图书馆的电话是多少？", "想问图书馆打哪个号码？"),
    ("本科生的借书上限是二十册。", "二十册", "本科生最多借几册？", "本科生借书的上限是多少？"),
    ("本科生的借书期限是四十天。", "四十天", "本科生的书能借多久？", "本科生借书的期限是几天？"),
    ("逾期的收费标准是每天一角。", "每天一角", "书逾期了怎么收费？", "逾期的收费标准是什么？"),
]


def run_lab(call, folder, config, steps, *options):
    """用另一份文档和它自己的问答文件跑完整个实验；返回 (退出码, 印出来的, 运行文件夹)。"""
    (folder / "other.md").write_text(MARKDOWN, encoding="utf-8")
    make_pdf.make_pdf(folder / "other.md", folder / "other.pdf")
    rows = [{"id": f"L{i}-{k}", "fact_id": f"L{i}", "question": question, "answer": answer,
             "key_points": [key], "page": 1, "evidence": answer.removesuffix("。")}
            for i, (answer, key, *asked) in enumerate(FACTS) for k, question in enumerate(asked)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "other.jsonl").write_text(lines, encoding="utf-8")
    config = (CONFIGS / config).read_text(encoding="utf-8")
    short = re.sub(r"max_steps: \d+", f"max_steps: {steps}", config)
    (folder / "short.yaml").write_text(short, encoding="utf-8")
    words = ["run", "--pdf", folder / "other.pdf", "--qa", folder / "other.jsonl", "--config",
             folder / "short.yaml", "--seed", "7", "--out", folder / "runs", *options]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        code = call(*words)
    return code, said.getvalue(), next((folder / "runs").iterdir(), None)


@pytest.fixture(scope="module")
def run(call, tmp_path_factory):
    """官方格式的 ChatGLM3 文件夹（随机权重）与大模型的配置。"""
    folder = tmp_path_factory.mktemp("other")
    chatglm3_fake.write(folder / "model", shards=3, pieces=2000, vocab=2048, seq_length=2048)
    return run_lab(call, folder, "lora.yaml", 4, "--model", folder / "model")


def test_another_document_and_model_run_through(run):
    code, said, folder = run
    assert code == 0, said[-4000:]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["ok"] and summary["failed"] is None and summary["seed"] == 7
    assert summary["training"]["steps"] == 4
    layers, hidden, rows, rank = 2, 32, (4 + 2 * 2) * 8, 8  # q、k、v 共用 A，与官方的 LoRA 相同
    assert summary["training"]["trainable_parameters"] == layers * rank * (hidden + rows)
    assert summary["qa"]["pairs"] == 10 and summary["qa"]["dev"] >= 1
    assert set(summary["accuracy"]["after"]) == {"train", "unseen", "general", "unanswerable"}
    assert summary["accuracy"]["after"]["unanswerable"] == {"accuracy": None, "n": 0}  # 不是课程的题
    assert any("材料没写的问题：没有测" in note for note in summary["notes"]) and "没有测" in said


def test_every_notebook_and_the_report_are_left(run):
    *_, folder = run
    for number in range(5):
        assert len(list(folder.glob(f"0{number}_*.ipynb"))) == 1
        assert len(list(folder.glob(f"0{number}_*.html"))) == 1
    assert "损失曲线" in (folder / "report.html").read_text(encoding="utf-8")


def test_nothing_of_the_course_document_is_shown(run):
    """题、回答、文档里的句子，一句也没有印出来；训练与对比也没有用。"""
    *_, folder = run
    rows = [row for name in ("qa", "unanswerable_train", "unanswerable_test")
            for _, row in read_rows(DATA / f"{name}.jsonl")]
    lines = (DATA / "source" / "course_document.md").read_text(encoding="utf-8").splitlines()
    course = {row[key] for row in rows for key in ("question", "answer")}
    course |= {line for line in lines if len(line) > 12}
    written = (folder / "report.html", folder / "output/comparison/comparison.json")
    for path in [*folder.glob("*.ipynb"), *written]:
        shown = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(shown)["cells"]
            shown = json.dumps([cell.get("outputs") for cell in cells], ensure_ascii=False)
        assert [text for text in course if text in shown] == [], path.name
    assert not list((folder / "output" / "data").glob("unanswerable*"))


def test_retrieval_or_lora_measures_the_named_model(run, tmp_path):
    """有它的适配器就量两种，没有就只量基座；别的基座的适配器不会被当成它的。"""
    *_, folder = run
    base = folder.parent.parent
    source, model = NOTEBOOKS / "06_rag_or_lora.ipynb", str(base / "model")
    own = {"MODEL": model, "OUT": str(folder / "output"), "PDF": str(base / "other.pdf")}
    alone = {"MODEL": model, "OUT": str(tmp_path), "TOP_K": 3}
    for name, values, stages in (("own", own, ["基座", "微调后"]), ("alone", alone, ["基座"])):
        assert execute(source, tmp_path / f"{name}.ipynb", values) is None
        cells = json.loads((tmp_path / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        (table,) = (cell["outputs"][-1] for cell in cells if cell["id"] == "n06-28")
        header = "".join(table["data"]["text/plain"]).splitlines()[0].split()
        assert header == [*stages, "不用模型"]
    failed = execute(source, tmp_path / "tiny.ipynb", own | {"MODEL": "tiny"})
    assert "，不是 tiny：请给 tiny 换一个 OUT" in failed["error"]
