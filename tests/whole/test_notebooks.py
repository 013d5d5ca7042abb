"""notebook 里要单独看的几件事。

notebook 02 里亲手写的几格抄进一个文件，不要 labutils 也训练得出来。
附录 90：不在整套运行里，但要被测试；命令与说明相同，文字里不写没有算过的数。
练习：真的用 nbgrader 发下去、交回来、评分，做对几个就得几分；发下去的一份里没有答案。
notebook 01 真的去问一个服务器：事件循环已经在跑也能用；密钥不出现在输出、文件和最啰嗦的调用栈里。
"""

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys

import nbformat
import pytest
from fakes import chatglm3_fake
from fakes.qa_server import KEY, long_text, serve
from nbclient import NotebookClient

from labutils import comparison, dataset, models
from labutils.base import files
from labutils.base.errors import LabError
from labutils.lab import run
from labutils.models.identify import CHATGLM3_6B
from tools.assignment import convert

# —— 附录 90 ——

PATH = files.NOTEBOOKS / "90_chatglm3_6b.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=4)
TEXTS = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown"]
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def code_with(words: str) -> str:
    (source,) = (cell.source for cell in CODE if words in cell.source)
    return source


def run_cell(source: str, **names) -> str:
    """执行一个单元，返回打印的内容。"""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(source, names)  # 仓库自己的 notebook
    return out.getvalue()


def test_it_is_beside_the_road():
    assert PATH.stem not in run.ROAD and PATH not in run.find_road(files.NOTEBOOKS)
    assert {"CONFIG", "GPU", "TFLOPS"} <= set(run.read_defaults(PATH))


def test_size_of_the_lesson():
    assert 25 <= len(NOTEBOOK.cells) <= 60 and PATH.stat().st_size < 150_000
    lengths = sorted(sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in CODE)
    assert 4 <= lengths[len(lengths) // 2] <= 8 and lengths[-1] <= 20


def test_text_holds_no_number_that_no_cell_computed():
    """去掉代码、标题、列表的编号和练习的题目之后，数字只能出现在名字里（6B、fp16、Qwen3-0.6B……）。"""
    for text in TEXTS:
        given = r"```.*?```|`[^`]*`|^#+ .*$|^\d+\. |^\*\*练习.*$"
        plain = re.sub(given, "", text, flags=re.DOTALL | re.MULTILINE)
        assert re.findall(r"(?<![\w.-])\d[\d.,]*(?!B)\b", plain) == [], text


def test_commands_are_those_of_the_readme():
    shown = {line.strip() for cell in CODE for line in printed(cell).splitlines()}
    readme = (files.ROOT / "README.md").read_text(encoding="utf-8")
    block = readme[readme.index("modelscope download"):].partition("```")[0]
    lines = [line.partition("  #")[0].strip() for line in block.splitlines()]
    assert len(lines) >= 8 and [line for line in lines if line not in shown] == []
    assert any("Qwen3-0.6B" in line for line in shown)


def test_nothing_is_downloaded_and_no_remote_code_is_allowed():
    source = "\n".join(cell.source for cell in CODE)
    assert "trust_remote_code" not in source and "AutoTokenizer" not in source
    assert "CHATGLM3_6B.sources" in source and CHATGLM3_6B.licence in "".join(map(printed, CODE))


@pytest.mark.parametrize("official", [False, True])
def test_check_cell_says_what_the_folder_is(tmp_path, official):
    """默认是自带的小模型；写一个官方格式的文件夹，就说它是不是课程的模型。"""
    if official:
        chatglm3_fake.write(tmp_path)
    model = str(tmp_path) if official else run.read_defaults(PATH)["MODEL"]
    said = run_cell(code_with("check_folder(MODEL)"), models=models, MODEL=model)
    assert ("不是课程所说的 ChatGLM3-6B" if official else "自带的小模型") in said
    if not official:
        assert said == next(printed(cell) for cell in CODE if "check_folder(MODEL)" in cell.source)


# —— 练习 ——


def exercises(name: str) -> dict[str, dict]:
    """编号 → (格里的代码, nbgrader 的标记)。"""
    cells = nbformat.read(files.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    return {cell.metadata.nbgrader.grade_id: (cell.source, cell.metadata.nbgrader)
            for cell in cells if "nbgrader" in cell.metadata}


def test_every_exercise_has_a_solution_and_a_check():
    with_exercises = {path.stem for path in files.NOTEBOOKS.glob("*.ipynb") if exercises(path.stem)}
    assert with_exercises == set(convert.names()) and PATH.stem in with_exercises
    for name in with_exercises:
        convert.teacher_version(name)  # 两边的编号对得上
        answers = {number for kind, number in convert.read_solutions(name) if kind == "solution"}
        marks = {number: mark for number, (_, mark) in exercises(name).items() if mark.grade}
        assert {f"{number}-check" for number in answers} == set(marks), name
        assert all(mark.locked and 1 <= mark.points <= 3 for mark in marks.values()), name


def test_a_solution_without_its_cell_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "SOLUTIONS", tmp_path)
    (tmp_path / f"{PATH.stem}.py").write_text("# %% solution 90-lost\nx = 1\n", encoding="utf-8")
    with pytest.raises(LabError, match="solution 90-lost.*solutions/90_chatglm3_6b.py"):
        convert.teacher_version(PATH.stem)


def grading_or_skip():
    pytest.importorskip("nbgrader", reason="没有装 nbgrader，请再执行一次 make test，或装上 .[teach]")
    from tools.assignment import grading

    return grading


WARN_IN_EVERY_CELL = """import sys
get_ipython().events.register("pre_run_cell", lambda _: print("提醒：旧的写法", file=sys.stderr))"""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """发下去，再交回两份：甲做了前一半，还改了参数，每一格都冒出一条警告；乙做了后一半，没做的几题把检查格
    改了、标成不执行的。
    """
    grading, folder = grading_or_skip(), tmp_path_factory.mktemp("course")
    for path in grading.release(folder, convert.names()):
        for student, done in halves(path.stem).items():
            notebook = convert.answered(nbformat.read(path, as_version=4), path.stem, set(done))
            for cell in notebook.cells if student == "乙" else []:
                mark = cell.metadata.get("nbgrader", {})
                if mark.get("grade") and mark.grade_id.removesuffix("-check") not in done:
                    cell.source, cell.metadata.tags = "pass", ["long"]
            for cell in run.parameter_cells(notebook) if student == "甲" else []:
                cell.source = cell.source.replace('"tiny"', '"没有的模型"')
            if student == "甲":
                notebook.cells.insert(0, nbformat.v4.new_code_cell(WARN_IN_EVERY_CELL))
            target = folder / "submitted" / student / path.stem / path.name
            target.parent.mkdir(parents=True)
            nbformat.write(notebook, target)
    return folder


def halves(name: str) -> dict[str, list[str]]:
    """每一题都有一份做了、另一份没做：做了的得满分，没做的得零分，从总分就看得出。"""
    answers = [number for kind, number in convert.read_solutions(name) if kind == "solution"]
    middle = len(answers) // 2
    return {"甲": answers[:middle], "乙": answers[middle:]}


@pytest.mark.slow
def test_released_notebooks_hold_the_stubs_and_no_solution(course):
    for name in convert.names():
        released = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
        everything = "\n".join(cell.source for cell in released.cells)
        assert "BEGIN " not in everything
        assert [code for code in convert.read_solutions(name).values() if code in everything] == [], name
        given = {cell.metadata.nbgrader.grade_id: cell.source.strip() for cell in released.cells
                 if "nbgrader" in cell.metadata}
        assert given == {number: source.strip() for number, (source, _) in exercises(name).items()}, name


@pytest.mark.slow
def test_points_are_those_of_the_exercises_done(course):
    grading = grading_or_skip()
    points = grading.grade(course)
    for name in convert.names():
        marks = {number: mark.points for number, (_, mark) in exercises(name).items() if mark.grade}
        right = {student: sum(marks[f"{number}-check"] for number in done)
                 for student, done in halves(name).items()}
        assert points[name].to_dict() == right and sum(right.values()) == sum(marks.values()), name
    assert (course / grading.POINTS).read_text(encoding="utf-8-sig").startswith("学生,")


@pytest.mark.slow
def test_a_broken_submission_gets_nothing_and_is_named(tmp_path, capfd):
    grading = grading_or_skip()
    with pytest.raises(LabError, match="submitted/学生/作业名/作业名.ipynb"):
        grading.grade(tmp_path)
    grading.release(tmp_path, [PATH.stem])
    broken = tmp_path / "submitted" / "甲" / PATH.stem / PATH.name
    broken.parent.mkdir(parents=True)
    broken.write_text("{", encoding="utf-8")
    assert grading.grade(tmp_path).loc["甲", "合计"] == 0
    assert f"甲 的 {PATH.stem} 没有跑完，记 0 分" in capfd.readouterr().out


# —— notebook 02 亲手写的微调 ——


@pytest.mark.slow
def test_cells_copied_from_notebook_02_train_without_labutils(tmp_path):
    """by_hand 的几格抄进一个文件就是完整的微调程序：几乎全部训练问题都要答对。"""
    notebook = nbformat.read(files.NOTEBOOKS / "02_lora_finetune.ipynb", as_version=4)
    lines = (files.DATA / "train.json").read_text(encoding="utf-8").splitlines(keepends=True)[:20]
    (tmp_path / "few.json").write_text("".join(lines), encoding="utf-8")
    head = (f"model_dir = {str(files.ROOT / 'labutils/models/tiny')!r}\n"
            "train_file, save_dir = 'few.json', 'adapter'\nsteps, batch_size = 70, 8")
    cells = [cell.source for cell in notebook.cells if "by_hand" in cell.metadata.get("tags", ())]
    (tmp_path / "my_train.py").write_text("\n".join([head, *cells]), encoding="utf-8")
    (tmp_path / "labutils.py").write_text("raise ImportError('只许用 transformers 与 peft')", "utf-8")
    done = subprocess.run([sys.executable, "my_train.py"], cwd=tmp_path, capture_output=True,
                          encoding="utf-8", env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    model, tokenizer = models.load(tmp_path / "adapter")
    asked = {json.loads(line)["conversations"][0]["content"] for line in lines}
    rows = [row for row in dataset.load_qa(files.DATA / "qa.jsonl") if row["question"] in asked]
    replies = models.answer(model, tokenizer, [row["question"] for row in rows])
    right = [comparison.fact_correct(reply, row["key_points"])
             for reply, row in zip(replies, rows, strict=True)]
    assert len(right) == len(lines) and sum(right) >= 0.95 * len(right)


# —— 问一个服务器 ——

SETUP = """
%xmode Verbose
import logging
logging.basicConfig(level=logging.DEBUG)
from labutils.dataset.prompts import Chunk
from labutils.dataset.generation import generate
from labutils.dataset.prompts import Prompts
chunks = [Chunk(f"第{{i}}号事项的办理期限是{{i + 10}}天。", (i,)) for i in range(1, 7)]
prompts = Prompts("JSON", "：\\n{{{{文本}}}}")
out = {out!r}
"""
CELLS = [
    "import asyncio\nasyncio.get_running_loop().is_running()",
    "result = generate(chunks[:3], 'm', out, prompts)\nlen(result.files)",
    "result = generate(chunks, 'm', out, prompts, concurrency=1)",  # 服务器答 401，并把密钥说出来
    "result = generate(chunks, 'm', out, prompts, max_cost=1)",
    # 程序自己在处理这个 401 时出错：调用栈最长，还会打印每一层的变量
    "import labutils.dataset.ask as module\nmodule.explain = None\n"
    "generate(chunks, 'm', out, prompts)",
]


@pytest.mark.slow
def test_in_a_notebook(tmp_path, monkeypatch):
    sources = [SETUP.format(out=str(tmp_path / "out")), *CELLS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in sources])
    with serve(monkeypatch, script=["ok"] * 3 + [401] * 99) as server:
        NotebookClient(notebook, timeout=300, allow_errors=True, kernel_name="python3").execute()
    texts = ["".join(map(str, cell.outputs)) for cell in notebook.cells]
    assert "True" in texts[1] and "问成 3 次" in texts[2] and "error" not in texts[2].replace("stderr", "")
    assert len(server.calls) >= 4 and "不认这个密钥（401）" in texts[3]
    assert "价格没有填" in texts[4] and "TypeError" in texts[5]
    assert KEY not in nbformat.writes(notebook)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) >= 5 and not [p for p in written if KEY.encode() in p.read_bytes()]


BUILD = files.NOTEBOOKS / "01_build_dataset.ipynb"
UNFILLED = "m 的价格没有填，没法按金额控制，还没有调用，没有花钱；请在 configs/api_presets.yaml 的"


@pytest.mark.slow
@pytest.mark.parametrize(("replies", "max_cost", "failure", "asked"), [
    ([], 0.0, "", True),  # 0：不设上限
    ([401] * 99, 0.0, "127.0.0.1 不认这个密钥（401），请检查环境变量 OPENAI_API_KEY", True),
    ([], 5.0, UNFILLED, False),
], ids=["good", "wrong key", "no price"])
def test_notebook_01_with_a_key(tmp_path, monkeypatch, caplog, capfd, replies, max_cost, failure, asked):
    """真的用 papermill 执行 notebook 01，服务器出错时会把密钥说出来：哪个文件、哪行日志里都不能有它。"""
    document = tmp_path / "guide.md"
    document.write_text("\n".join(long_text(3, 12)).replace("\n", "\n\n"), encoding="utf-8")
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    values = {"OUT": str(tmp_path / "out"), "PDF": str(document), "API_MODEL": "m", "MAX_COST": max_cost}
    with serve(monkeypatch, script=replies) as server:
        failed = run.execute(BUILD, tmp_path / "done.ipynb", values)
        assert run.to_html(tmp_path / "done.ipynb")
    assert bool(server.calls) == asked
    if failure:
        assert failed["error"].startswith(failure) and "\n" not in failed["error"]
    else:
        assert failed is None and (tmp_path / "out" / "data" / "train.json").is_file()
    assert KEY.encode() not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY not in caplog.text + "".join(capfd.readouterr())
