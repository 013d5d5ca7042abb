#!/usr/bin/env bash
# nbgrader：检查单元里冒出一条警告就是零分；而同样的答案，自己先试跑过一遍的人是满分
#
# 【先猜】（照常理的猜测；读源码时起了疑，再运行证实）
#   检查单元里的 assert 都过了，就是满分。学生的函数触发了 numpy 的 RuntimeWarning（答案是对的），分数不变；
#   学生在前面自己多试跑一遍，更不会影响分数。
#
# 【实际】同一个正确的函数：没有试跑的 0 分，在自己的单元里先试跑过一遍的满分。assert 都过了，没有 traceback。
#
# 【为什么】determine_grade 把检查单元输出里任何一段 stderr 都当成出错，给 0 分（用户指南《What is nbgrader?》的后半有
#   一句，编写检查的那几页没有提）。警告、logging、tqdm 的进度条都写在 stderr。
#   而 Python 的警告默认每处只印一次：np.corrcoef 的警告算在 numpy 的文件里，第一次调用印在学生自己的单元，
#   到检查单元就不印了。（算在 __main__ 里的警告没有这回事：IPython 每个单元之前清掉这份记录。）
#
# 【伤到谁】答案正确、只多一条警告的学生得零分；两份一字不差的函数一个满分一个零分，老师很难看出差在哪里。
#   换一台机器、升级一个库，检查单元里多一条弃用警告，全班的分数都会变。
#
# 【怎么避开】检查单元第一行写 import warnings; warnings.simplefilter("ignore")（脚本验证这样是满分），
#   进度条关掉。已经发下去的作业可以看 nbgrader 的 IgnorePattern（默认关着；这里没有试）。
#
# 版本：nbgrader 0.9.6，nbconvert 7.17.2，nbclient 0.11.0，ipykernel 7.4.0，numpy 2.4.6，SQLAlchemy 2.1.9，Python 3.11。
# 日期：2026-11-29。
#
# 【看到的输出】
#   nbgrader 0.9.6
#   普通的检查单元
#     先判断、不触发警告：2.0 / 2.0 分（检查单元的输出：没有输出）
#     正确、触发警告，没有试跑：0.0 / 2.0 分（检查单元的输出：stderr）
#     同一个函数，自己先试跑过：2.0 / 2.0 分（检查单元的输出：没有输出）
#     错的：0.0 / 2.0 分（检查单元的输出：error、stderr）
#   检查单元先关掉警告
#     先判断、不触发警告：2.0 / 2.0 分（检查单元的输出：没有输出）
#     正确、触发警告，没有试跑：2.0 / 2.0 分（检查单元的输出：没有输出）
#     同一个函数，自己先试跑过：2.0 / 2.0 分（检查单元的输出：没有输出）
#     错的：0.0 / 2.0 分（检查单元的输出：error）

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet nbgrader==0.9.6 nbconvert==7.17.2 nbclient==0.11.0 sqlalchemy==2.1.9 \
  ipykernel==7.4.0 numpy==2.4.6
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
CHECK = "assert related([1, 2, 3], [2, 4, 6]) > 0.99\nassert related([1, 1, 1], [1, 2, 3]) == 0"
SOLVED = """import numpy as np


def related(x, y):
    r = np.corrcoef(x, y)[0, 1]
    return 0.0 if np.isnan(r) else r
"""
QUIET = SOLVED.replace("    r =", "    if np.ptp(x) == 0 or np.ptp(y) == 0:\n        return 0.0\n    r =")
ANSWERS = {"quiet": ("先判断、不触发警告", QUIET), "plain": ("正确、触发警告，没有试跑", SOLVED),
           "tried": ("同一个函数，自己先试跑过", SOLVED + "\n\nrelated([1, 1, 1], [1, 2, 3])"),
           "wrong": ("错的", SOLVED.replace("0.0 if np.isnan(r) else r", "r"))}


def cell(source, name, **kind):
    about = {"grade_id": name, "schema_version": 3, "task": False, "locked": False, "grade": False,
             "solution": False} | kind
    return new_code_cell(source, metadata={"nbgrader": about})


def put(notebook, *folder):
    path = Path(*folder, f"{folder[-1]}.ipynb")
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)


config = Config()
config.CourseDirectory.root = str(Path.cwd())
config.CourseDirectory.db_url = f"sqlite:///{Path.cwd()}/gradebook.db"
Gradebook(config.CourseDirectory.db_url).close()
api = NbGraderAPI(config=config)
api.log_level = logging.ERROR


def marks(assignment, check):
    cells = [cell(f"### BEGIN SOLUTION\n{SOLVED}### END SOLUTION", "related", solution=True),
             cell(check, "related-check", grade=True, locked=True, points=2)]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    put(new_notebook(cells=cells, metadata=about), "source", assignment)
    assert api.generate_assignment(assignment)["success"]
    scores = {}
    for student, (words, answer) in ANSWERS.items():
        notebook = nbformat.read(Path("release", assignment, f"{assignment}.ipynb"), as_version=4)
        notebook.cells[0].source = answer
        put(notebook, "submitted", student, assignment)
        done = api.autograde(assignment, student)
        assert done["success"], done["error"]
        with Gradebook(config.CourseDirectory.db_url) as book:
            scores[student] = book.find_submission(assignment, student).score
        graded = Path("autograded", student, assignment, f"{assignment}.ipynb")
        outputs = nbformat.read(graded, as_version=4).cells[1].outputs
        found = "、".join(sorted({output.get("name", output.output_type) for output in outputs})) or "没有输出"
        print(f"  {words}：{scores[student]} / 2.0 分（检查单元的输出：{found}）")
    return list(scores.values())


print("普通的检查单元")
if marks("usual", CHECK) != [2.0, 0.0, 2.0, 0.0]:
    sys.exit("行为变了：四份作业不再是 2、0、2、0 分。")
print("检查单元先关掉警告")
if marks("silenced", 'import warnings\nwarnings.simplefilter("ignore")\n' + CHECK) != [2.0, 2.0, 2.0, 0.0]:
    sys.exit("行为变了：关掉警告以后，四份作业不再是 2、2、2、0 分。")
PY
