"""notebook + 参考答案 → nbgrader 的教师版；三种提交（全对、没做、做一半）也从这里来。

solutions/<notebook 名>.py 是 percent 格式：`# %% solution 编号` 后面的代码是作答格的参考答案，
`# %% hidden 编号` 后面的是检查格末尾的隐藏测试。
"""

import re
from pathlib import Path

import nbformat

from labutils.base.errors import LabError
from labutils.base.files import NOTEBOOKS

SOLUTIONS = Path(__file__).parent / "solutions"
_BLOCK = re.compile(r"^# %% (solution|hidden) (\S+)$", re.MULTILINE)
_REGION = {"solution": "SOLUTION", "hidden": "HIDDEN TESTS"}


def names() -> list[str]:
    """有参考答案的 notebook，不带 .ipynb。"""
    return sorted(path.stem for path in SOLUTIONS.glob("*.py"))


def read_solutions(name: str) -> dict[tuple[str, str], str]:
    """("solution" 或 "hidden", 编号) → 代码。"""
    _, *parts = _BLOCK.split((SOLUTIONS / f"{name}.py").read_text(encoding="utf-8"))
    return {(kind, which): code.strip() for kind, which, code in zip(*[iter(parts)] * 3, strict=True)}


def _kinds(notebook: nbformat.NotebookNode) -> dict[tuple[str, str], nbformat.NotebookNode]:
    """("solution" 或 "hidden", 编号) → 要配上这一段代码的格。"""
    cells = ((cell, cell.metadata.get("nbgrader", {})) for cell in notebook.cells)
    return {("solution" if mark["solution"] else "hidden", mark["grade_id"]): cell
            for cell, mark in cells if mark.get("solution") or mark.get("grade")}


def teacher_version(name: str) -> nbformat.NotebookNode:
    """notebook 里原来的代码（作答格的空架子、检查格的提示）不动，后面接上参考答案与隐藏测试。

    两边的编号对不上时引发 LabError。
    """
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    cells, blocks = _kinds(notebook), read_solutions(name)
    if alone := sorted({*cells} ^ {*blocks}):
        raise LabError(f"{name}：{'、'.join(map(' '.join, alone))} 只在 notebook 与 solutions/{name}.py "
                       "的一边有，请补上另一边。")
    for key, cell in cells.items():
        begin, end = (f"### {word} {_REGION[key[0]]}" for word in ("BEGIN", "END"))
        cell.source += f"\n{begin}\n{blocks[key]}\n{end}"
    return notebook


def answered(released: nbformat.NotebookNode, name: str, which: set[str]) -> nbformat.NotebookNode:
    """发下去的 notebook，编号在 which 里的作答格换成参考答案：用来试评分。"""
    cells, blocks = _kinds(released), read_solutions(name)
    for number in which:
        cells["solution", number].source = blocks["solution", number]
    return released
