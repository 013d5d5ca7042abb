#!/usr/bin/env bash
# nbgrader：打分时跳过的检查单元（nbclient 的 skip_cells_with_tag）不算没做，算全对
#
# 【先猜】（运行之前写下）
#   为了打分快，老师给很慢的单元贴上标签，让 nbclient 跳过（c.ExecutePreprocessor.skip_cells_with_tag = "slow"）。
#   一个检查单元也贴了这个标签，打分时没有执行，没有“通过”的证据：nbgrader 应当给 0 分，或者留给人工打分。
#
# 【实际】没有执行的检查单元，人人得满分，空白的作业也是。没有提醒。
#
# 【为什么】nbgrader 的 determine_grade 只看检查单元的输出里有没有 error（和 stderr），没有输出就是没有错，给满分；
#   它不看 execution_count。
#
# 【伤到谁】用标签略过训练那样很慢的单元、又想自动打分的课程：连检查单元一起略过的作业，分数不说明做没做。
#
# 【怎么避开】检查单元不贴会被跳过的标签（本项目 tools/assignment 在打分前去掉检查单元的标签），
#   或在打分之后看 execution_count。
#
# 版本：nbgrader 0.9.6，nbconvert 7.17.2，nbclient 0.11.0，SQLAlchemy 2.1.9，Python 3.11。日期：2026-11-28。
#
# 【看到的输出】
#   nbgrader 0.9.6
#   空白的作业，检查单元执行了：0.0 / 2.0 分
#   空白的作业，检查单元跳过了：2.0 / 2.0 分，execution_count 是 None

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet nbgrader==0.9.6 nbconvert==7.17.2 nbclient==0.11.0 sqlalchemy==2.1.9 ipykernel==7.4.0
export PATH="$work/venv/bin:$PATH" HOME="$work" JUPYTER_PATH="$work/venv/share/jupyter"

venv/bin/python -I -W ignore - <<'PY'
import logging
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

print("nbgrader", version("nbgrader"))


def cell(source, name, **kind):
    about = {"grade_id": name, "schema_version": 3, "task": False, "locked": False, "grade": False,
             "solution": False} | kind
    return new_code_cell(source, metadata={"nbgrader": about})


def homework(tags):
    cells = [cell("### BEGIN SOLUTION\nx = 2\n### END SOLUTION", "x", solution=True),
             cell("assert x == 2", "x-check", grade=True, locked=True, points=2)]
    cells[1].metadata["tags"] = tags
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def put(notebook, *folder):
    path = Path(*folder, f"{folder[-1]}.ipynb")
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)


config = Config()
config.CourseDirectory.root = str(Path.cwd())
config.CourseDirectory.db_url = f"sqlite:///{Path.cwd()}/gradebook.db"
config.ExecutePreprocessor.skip_cells_with_tag = "slow"
Gradebook(config.CourseDirectory.db_url).close()
api = NbGraderAPI(config=config)
api.log_level = logging.ERROR
scores = {}
for name, tags in (("run", []), ("skipped", ["slow"])):
    put(homework(tags), "source", name)
    assert api.generate_assignment(name)["success"]
    notebook = nbformat.read(Path("release", name, f"{name}.ipynb"), as_version=4)
    notebook.cells[0].source = "pass"  # 空白的作业
    put(notebook, "submitted", "someone", name)
    done = api.autograde(name, "someone")
    assert done["success"], done["error"]
    with Gradebook(config.CourseDirectory.db_url) as book:
        found = book.find_submission(name, "someone")
        scores[name] = found.score, found.max_score
graded = nbformat.read(Path("autograded", "someone", "skipped", "skipped.ipynb"), as_version=4)
count = graded.cells[1].execution_count
print("空白的作业，检查单元执行了：{} / {} 分".format(*scores["run"]))
print("空白的作业，检查单元跳过了：{} / {} 分，execution_count 是 {}".format(*scores["skipped"], count))
if scores["run"] != (0.0, 2.0):
    sys.exit("行为变了：空白作业不再是 0 分，别的地方也变了。")
if scores["skipped"] != (2.0, 2.0) or count is not None:
    sys.exit("行为变了：跳过的检查单元不再是满分。")
PY
