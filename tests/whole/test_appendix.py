"""附录 90：不在整套运行里，但要被测试；命令与说明相同，文字里不写没有算过的数，练习有正确答案。"""

import contextlib
import io
import re

import nbformat
import pytest
import torch
from fakes import chatglm3_fake

from labutils import models
from labutils.base import files
from labutils.lab import run
from labutils.models.identify import CHATGLM3_6B

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
    assert 25 <= len(NOTEBOOK.cells) <= 45 and PATH.stat().st_size < 150_000
    lengths = sorted(sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in CODE)
    assert 4 <= lengths[len(lengths) // 2] <= 8 and lengths[-1] <= 20


def test_text_holds_no_number_that_no_cell_computed():
    """去掉代码、标题和列表的编号之后，数字只能出现在名字里（6B、fp16、Qwen3-0.6B……）。"""
    for text in TEXTS:
        plain = re.sub(r"```.*?```|`[^`]*`|^#+ .*$|^\d+\. ", "", text, flags=re.DOTALL | re.MULTILINE)
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


def test_first_exercise_accepts_the_right_answer_only():
    fused, rows = torch.nn.Linear(4, 6), [2, 2, 2]
    source, names = code_with("练习 1"), {"torch": torch, "fused": fused, "rows": rows}
    assert "还没有" in run_cell(source, **names)
    right = source.replace("return q_weight", "return torch.cat([q_weight, k_weight, v_weight])")
    assert "✓" in run_cell(right, **names)
