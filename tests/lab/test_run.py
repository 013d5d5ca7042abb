"""整套运行：用几个不到一秒的小 notebook 走完真实的 papermill 流程。"""

import base64
import contextlib
import errno
import io
import json
import re
import sys
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.cli import _resolve_type

from labutils import base
from labutils.base import files
from labutils.base.errors import LabError
from labutils.lab import preflight, report, run

pytestmark = pytest.mark.slow

COMMON = 'MODEL = "tiny"\nSEED = 42\nOUT = "output/lab"'
EXTRA = {
    "01_build_dataset": '\nPDF = "a.pdf"\nQA_FILE = "a.jsonl"\nAPI_MODEL = ""'
    '\nPRESET = ""\nMAX_COST = 5.0',
    "02_lora_finetune": '\nCONFIG = "a.yaml"\nDATA_DIR = ""',
    "03_before_after": '\nADAPTER = ""\nQA_FILE = ""',
    "04_web_demo": '\nSHARE = False\nPORT = 0',
}
SETUP = (
    "import json\nfrom labutils.base import files\n"
    "out = files.ROOT / OUT\n"
    "def write(name, text):\n"
    "    (out / name).parent.mkdir(parents=True, exist_ok=True)\n"
    "    (out / name).write_text(text, encoding='utf-8')\n"
)
SCORES = {"train": 0.9, "unseen": 0.8, "general": 1.0, "unanswerable": 0.9}
BEFORE = {"train": 0.1, "unseen": 0.05, "general": 1.0, "unanswerable": 0.85}
ROWS = [{"group": "unseen", "question": "<b>谁</b>批准？", "reference": "教务处", "after": "教务处",
         "before": "<script>alert(1)</script>", "before_correct": False, "after_correct": True}]


def grouped(scores: dict) -> dict:
    return {group: {"accuracy": value, "n": 20} for group, value in scores.items()}


def work(name: str) -> str:
    """每个小 notebook 写下真 notebook 会写的文件。"""
    comparison = {"before": grouped(BEFORE), "after": grouped(SCORES), "rows": ROWS}
    comparison["lexical_baseline"] = {"unseen": {"accuracy": 0.4, "n": 20}}
    result = {"steps": 30, "samples_per_second": 12.5, "final_train_loss": 0.1}
    result |= {"final_dev_loss": 0.2, "trainable_parameters": 1000, "adapter": "x/checkpoint-30"}
    return {
        "01_build_dataset": "write('data/qa.jsonl', '{}\\n' * 3)\n"
        "write('data/train.json', '{}\\n' * 2)\nwrite('data/dev.json', '{}\\n')\n"
        "write('seen.json', json.dumps([PDF, QA_FILE, SEED]))",
        "02_lora_finetune": f"write('lora/result.json', {json.dumps(result)!r})\n"
        "(out / 'lora' / 'loss.png').write_bytes(b'PNG')",
        "03_before_after": f"write('comparison/comparison.json', {json.dumps(comparison)!r})\n"
        "write('qa_file.txt', QA_FILE)",
    }.get(name, "print('你好')")


def make_notebook(folder: Path, name: str, code: str | None = None) -> Path:
    cells = [
        new_markdown_cell("# 小实验"),
        new_code_cell(COMMON + EXTRA.get(name, ""), metadata={"tags": ["parameters"]}),
        new_code_cell(SETUP),
        new_code_cell(work(name) if code is None else code),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def make_road(folder: Path) -> Path:
    folder.mkdir()
    for name in run.ROAD:
        make_notebook(folder, name)
    return folder


@pytest.fixture
def road(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(preflight, "check_inputs", lambda *args: None)
    return make_road(tmp_path / "notebooks")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """跑完一次；返回 (摘要, 运行文件夹, 打印的)。"""
    place, said = tmp_path_factory.mktemp("lab"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(preflight, "check_inputs", lambda *args: None)
        summary = run.run(notebooks=make_road(place / "notebooks"), out=place / "runs", seed=7)
    (folder,) = (place / "runs").iterdir()
    return summary, folder, said.getvalue()


def test_full_run_writes_everything(finished):
    summary, folder, said = finished
    assert summary["ok"] and summary["failed"] is None
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == summary
    for name in run.ROAD:
        assert (folder / f"{name}.ipynb").is_file() and (folder / f"{name}.html").is_file()
    assert [line.split("  ")[0] for line in said.splitlines()] == [
        f"{mark} {name}" for name in run.ROAD for mark in "▶✓"]
    assert set(summary["seconds"]) == {*run.ROAD, "total"} and summary["seed"] == 7


def test_numbers_come_from_the_files_of_the_notebooks(finished):
    summary, folder, _ = finished
    assert summary["qa"] == {"pairs": 3, "train": 2, "dev": 1}
    assert summary["training"]["steps"] == 30 and summary["adapter"] == "x/checkpoint-30"
    assert summary["accuracy"]["after"]["unseen"] == {"accuracy": 0.8, "n": 20} and summary["baseline"] == 0.4
    assert drawn(folder / "report.html").startswith("损失随训练步数的变化")


def test_parameters_reach_the_notebooks(finished):
    output = finished[1] / "output"
    seen = json.loads((output / "seen.json").read_text(encoding="utf-8"))
    assert seen == ["data/source/course_document.pdf", "data/qa.jsonl", 7]
    assert (output / "qa_file.txt").read_text(encoding="utf-8") == ""  # QA_FILE 只给 01


def test_the_notebooks_know_which_document_the_run_is_on():
    """00 从问答文件里取题来问，03 看是不是课程的文档；01 之后读 01 写出的题，不给原来的文件。"""
    given = {"PDF": "my.pdf", "QA_FILE": "my.jsonl"}
    plan = run.plan_parameters(run.find_road(files.NOTEBOOKS), given, {})
    values = {path.name[:2]: names for path, names in plan.items()}
    assert values["00"] == values["01"] == given and values["03"] == {"PDF": "my.pdf"}


def test_summary_has_exactly_the_fixed_keys(tmp_path):
    summary = report.summarize(tmp_path, "tiny", 1, {}, None)
    assert list(summary) == ["ok", "model", "seed", "versions", "seconds", "qa", "training", "accuracy",
                             "baseline", "notes", "adapter", "failed"]
    assert set(summary["failed"]) == {"notebook", "cell", "error"}


def test_line_separators_inside_an_answer_do_not_break_the_report(tmp_path):
    folder = tmp_path / "output" / "data"
    folder.mkdir(parents=True)
    row = json.dumps({"answer": "一\u2028二\u2029三\x85四"}, ensure_ascii=False)
    (folder / "qa.jsonl").write_text(row + "\n" + row + "\n", encoding="utf-8")
    assert report.summarize(tmp_path, "tiny", 1, {}, None)["qa"]["pairs"] == 2


def test_half_a_line_in_the_data_still_gives_a_report(tmp_path):
    """磁盘写满，最后一行只有一半：正是老师最需要报告的时候。"""
    data = tmp_path / "output" / "data" / "qa.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text('{"question": "一"}\n{"question": "二"}\n{"question": "三', encoding="utf-8")
    summary = report.summarize(tmp_path, "tiny", 1, {}, None)
    report.write(tmp_path, summary, {}, [])
    assert summary["qa"]["pairs"] == 2 and "损失" not in drawn(tmp_path / "report.html")


def drawn(page: Path) -> str:
    """报告里图的说明文字。"""
    found = re.findall(r'<img alt="(.*?)" src="data:image/png;base64,', page.read_text(encoding="utf-8"))
    return "".join(found)


def test_interrupted_summary_keeps_the_old_one(tmp_path, interrupted):
    report.write(tmp_path, report.summarize(tmp_path, "tiny", 1, {}, None), {}, [])
    with interrupted(tmp_path / "summary.json"):
        report.write(tmp_path, report.summarize(tmp_path, "tiny", 2, {}, None), {}, [])


def test_failing_cell_is_named_and_reported(road, tmp_path):
    code = "from labutils.base.errors import LabError\nraise LabError('第 3 行少了答案，请补上。')"
    make_notebook(road, "01_build_dataset", code)
    summary = run.run(notebooks=road, out=tmp_path / "runs")
    assert summary["ok"] is False
    failed = summary["failed"]
    assert failed["notebook"] == "01_build_dataset" and failed["cell"] == 4
    assert failed["error"] == "第 3 行少了答案，请补上。"  # LabError 不带类型名与调用栈
    (folder,) = (tmp_path / "runs").iterdir()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "第 3 行少了答案" in page and "未运行" in page and "失败" in page
    assert (folder / "01_build_dataset.ipynb").is_file()  # 留下做了一半的 notebook
    assert not (folder / "02_lora_finetune.ipynb").exists()


def test_other_errors_keep_their_type(road, tmp_path):
    path = make_notebook(road, "00_start_here", "1 / 0")
    failed = run.execute(path, tmp_path / "x.ipynb", {})
    assert failed["error"] == "ZeroDivisionError: division by zero"


@pytest.mark.skipif(sys.platform != "linux", reason="别处是普通的内核")
def test_kernels_are_warm_and_share_nothing(road, tmp_path, monkeypatch):
    code = "import os, sys\nassert 'torch' in sys.modules and 'mine' not in globals()\nmine = 1\n"
    monkeypatch.setenv("LAB_WORD", "甲")
    path = make_notebook(road, "00_start_here", code + "assert os.environ['LAB_WORD'] == '甲'")
    assert run.execute(path, tmp_path / "1.ipynb", {}) is None
    monkeypatch.delenv("LAB_WORD")
    path = make_notebook(road, "00_start_here", code + "assert 'LAB_WORD' not in os.environ")
    assert run.execute(path, tmp_path / "2.ipynb", {}) is None


def test_dead_kernel_is_explained(road, tmp_path):
    path = make_notebook(road, "00_start_here", "import os\nos._exit(9)")
    failed = run.execute(path, tmp_path / "x.ipynb", {})
    assert failed["notebook"] == "00_start_here" and "意外退出" in failed["error"]


def test_full_disk_is_in_the_report(road, tmp_path, monkeypatch):
    def full(source, target, **options):
        target.write_text('{"cells": [', encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("papermill.execute_notebook", full)
    summary = run.run(notebooks=road, out=tmp_path / "runs")
    assert summary["failed"]["error"].startswith("磁盘满了，不能读写 ")
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "summary.json").is_file() and (folder / "report.html").is_file()


def test_page_that_cannot_be_written_is_a_failure(road, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = make_notebook(road, "00_start_here")
    monkeypatch.setattr(files, "write", full)
    assert "磁盘满了" in run._publish(path)["error"]
    path.write_text("", encoding="utf-8")
    assert "只写了一半" in run._publish(path)["error"]


def test_missing_result_file_is_a_failure(tmp_path):
    for name in ("output/data/train.json", report.RESULT):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    failed = report.summarize(tmp_path, "tiny", 1, {}, None)["failed"]
    assert failed["notebook"] == "03_before_after" and "comparison.json" in failed["error"]


def test_executed_html_is_self_contained(finished):
    page = (finished[1] / "00_start_here.html").read_text(encoding="utf-8")
    assert "你好" in page and 'lang="zh"' in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?https?:", page)


def test_pictures_of_the_repository_are_inside_the_html(tmp_path):
    source = tmp_path / "04_web_demo.ipynb"
    text = "![网页](../images/demo.png)、![两路相加](../images/lora.svg) 与 ![没有](../images/none.png)"
    nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), source)
    before = source.read_bytes()
    page = run.to_html(source).read_text(encoding="utf-8")
    data = base64.b64encode((files.ROOT / "images" / "demo.png").read_bytes()).decode()
    assert f"data:image/png;base64,{data[:200]}" in page and "../images/demo.png" not in page
    assert 'src="data:image/svg+xml;base64,' in page and 'alt="两路相加"' in page
    assert "<title>04_web_demo</title>" in page and source.read_bytes() == before


def test_a_line_printed_in_pieces_stays_one_line(tmp_path):
    """papermill 把每次 print 各存一份；网页里要接成一行，被别的输出隔开的不接。"""
    pieces = [new_output("stream", name="stdout", text=text) for text in ("边说", "边显示")]
    between = new_output("display_data", data={"text/plain": "图"})
    cell = new_code_cell("talk()", outputs=[*pieces, between, pieces[0]])
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "talk.ipynb")
    page = run.to_html(tmp_path / "talk.ipynb").read_text(encoding="utf-8")
    assert re.findall(r"<pre>(.*?)\s*</pre>", page)[-3:] == ["边说边显示", "图", "边说"]


def test_a_run_never_uses_the_folder_of_another(tmp_path, monkeypatch):
    class Still(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2)

    monkeypatch.setattr(run, "datetime", Still)
    assert run.make_run_folder(tmp_path).is_dir()
    with pytest.raises(LabError, match="已经有同名的文件"):
        run.make_run_folder(tmp_path)


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LabError, match="路径中间有一段不是文件夹，不能读写 .*file"):
        run.make_run_folder(tmp_path / "file")


def test_missing_notebook_is_named(tmp_path):
    with pytest.raises(LabError, match="02_lora_finetune.ipynb"):
        run.find_road(tmp_path)


@pytest.mark.parametrize(("everything", "names"), [(False, run.ROAD), (True, run.ROAD + run.MORE)])
def test_optional_notebooks_run_when_asked_for(road, tmp_path, monkeypatch, everything, names):
    for name in run.MORE:
        make_notebook(road, name)
    done = []
    monkeypatch.setattr(run, "execute", lambda source, *_: done.append(source.stem))
    monkeypatch.setattr(run, "_publish", lambda path: None)
    run.run(notebooks=road, out=tmp_path / "runs", everything=everything)
    assert done == list(names)


@pytest.mark.parametrize("name", ["OUT", "KEEP_OPEN"])
def test_reserved_parameters_are_refused_before_anything_runs(road, tmp_path, name):
    with pytest.raises(LabError, match=name):
        run.run(notebooks=road, out=tmp_path / "runs", parameters={name: "True"})
    assert not (tmp_path / "runs").exists()


def test_seed_out_of_range_stops_before_any_folder_is_made(road, tmp_path):
    with pytest.raises(LabError, match="seed 应当不大于"):
        run.run(notebooks=road, out=tmp_path / "runs", seed=2**32)
    assert not (tmp_path / "runs").exists()


def test_bad_input_stops_before_any_folder_is_made(road, tmp_path, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(LabError, match="没有这份.pdf"):
        run.run(pdf="没有这份.pdf", notebooks=road, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_unknown_parameter_lists_the_allowed_names(road):
    with pytest.raises(LabError) as caught:
        run.plan_parameters(run.find_road(road), {}, {"EPOCHS": "3"})
    message = str(caught.value)
    assert "EPOCHS" in message and "SEED" in message and "CONFIG" in message and "OUT" not in message


def test_parameter_goes_to_every_notebook_that_has_it(road):
    plan = run.plan_parameters(run.find_road(road), {}, {"SEED": "9", "PORT": "7000"})
    assert all(values["SEED"] == 9 for values in plan.values())
    assert [p.stem for p, values in plan.items() if "PORT" in values] == ["04_web_demo"]


def test_pairs_from_outside_go_to_the_first_notebook_only(road):
    def having(given):
        plan = run.plan_parameters(run.find_road(road), {"QA_FILE": "mine.jsonl"}, given)
        return [path.stem for path, values in plan.items() if "QA_FILE" in values]

    assert having({}) == ["01_build_dataset"]
    assert having({"QA_FILE": "other.jsonl"}) == ["01_build_dataset", "03_before_after"]


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [("7", 42, 7), ("0.5", 0.1, 0.5), ("true", False, True), ("否", True, False), ("7", "x", "7")],
)
def test_values_take_the_type_of_the_default(value, default, expected):
    got = run.convert("X", value, default)
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize("word", ["false", "False", "no", "0", "否"])
def test_bool_from_plain_papermill_is_a_bool_in_the_notebook(word):
    """papermill -p SHARE false 交给 notebook 的是文字 "false"，直接用就成了“要分享”。"""
    path = files.NOTEBOOKS / "04_web_demo.ipynb"
    values = {name: value for name, value in run.read_defaults(path).items() if isinstance(value, bool)}
    given = {"base": base} | {name: _resolve_type(word) for name in values}
    code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    exec("\n".join(line for line in code.splitlines() if "base.as_bool(" in line), given)
    assert values and all(given[name] is False for name in values)


@pytest.mark.parametrize(("value", "default"), [("七", 42), ("maybe", False), ("1.5", 3), ("None", False)])
def test_wrong_type_says_what_is_expected(value, default):
    with pytest.raises(LabError, match=f"X.*{value}"):
        run.convert("X", value, default)


def test_assignment_without_equals_sign():
    assert run.split_assignments(["A=1", "B=x=y"]) == {"A": "1", "B": "x=y"}
    with pytest.raises(LabError, match="SEED"):
        run.split_assignments(["SEED"])


def test_notebook_without_parameters_cell(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "n.ipynb")
    with pytest.raises(LabError, match="0 个"):
        run.read_defaults(tmp_path / "n.ipynb")


def full_summary(**accuracy) -> dict:
    after = SCORES | accuracy
    summary = report.summarize(Path("没有"), "tiny", 1, {"00_start_here": 1.0}, None)
    scores = {"before": grouped(BEFORE), "after": grouped(after)}
    return summary | {"ok": True, "failed": None, "accuracy": scores, "baseline": 0.4}


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({}, "good", "5% → 80%，不用模型、照抄最像的训练题答对 40%"),
        ({"unseen": 0.4}, "warn", "没有胜过不用模型的办法"),
        ({"unseen": 0.1}, "warn", "没有明显效果"),
        ({"general": 0.5}, "warn", "通用能力"),
    ],
)
def test_verdict_follows_the_numbers(changed, level, words):
    got, sentence = report.verdict(full_summary(**changed))
    assert got == level and words in sentence


def test_report_escapes_model_output_and_loads_nothing(tmp_path):
    folder = tmp_path / "output" / "comparison"
    folder.mkdir(parents=True)
    text = json.dumps({"rows": ROWS, "lexical_baseline": {"unseen": {"accuracy": 0.4, "n": 20}}})
    (folder / "comparison.json").write_text(text, encoding="utf-8")
    page = report.render(tmp_path, full_summary(), {"PDF": "<i>"}, ["00_start_here"])
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page
    assert "&lt;b&gt;谁" in page and "&lt;i&gt;" in page
    assert "http://" not in page and "https://" not in page
    assert "答对 40%" in page and "80%" in page


def test_examples_show_failures_too():
    rows = [
        {"group": "unseen", "question": str(k), "before_correct": False, "after_correct": k != 5}
        for k in range(8)
    ]
    picked = report.pick_examples(rows)
    assert len(picked) == 4 and sum(not row["after_correct"] for row in picked) == 1
