"""用 nbgrader 生成发给学生的 notebook，给交回来的评分。

一本 notebook 是一次作业。评分时：参数单元恢复成默认值，结果写进这一份自己的文件夹；标着 long 的格
（训练等费时的）不执行，练习不依赖它们；检查格换回教师手里的一份，所以改了它也没有用。
"""

import multiprocessing
import os
import re
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
import pandas as pd
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import is_grade
from sqlalchemy.exc import SAWarning
from traitlets import Unicode
from traitlets.config import Config

from labutils.base.errors import LabError
from labutils.base.files import rel
from labutils.lab import kernels
from labutils.lab.run import parameter_cells
from tools.assignment import convert

POINTS = "points.csv"
_WORKERS = 4  # 一个内核约占 1 GB 内存


class DefaultParameters(NbGraderPreprocessor):
    """参数单元换回默认值，结果写进这一份自己的文件夹；检查格的标签去掉：标成 long 就逃过了检查。"""

    course = Unicode().tag(config=True)

    def preprocess(self, nb, resources):
        course, names = Path(self.course), resources["nbgrader"]
        source = course / "source" / names["assignment"] / f"{names['notebook']}.ipynb"
        defaults = parameter_cells(nbformat.read(source, as_version=4))[0].source
        for cell in parameter_cells(nb):
            cell.source = f"{defaults}\nOUT = {str(course / 'work' / names['student'] / names['notebook'])!r}"
        for cell in filter(is_grade, nb.cells):
            cell.metadata.tags = []
        return nb, resources


def _api(course: Path) -> NbGraderAPI:
    config = Config()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.db_url = f"sqlite:///{course / 'gradebook.db'}?timeout=120"  # 几个进程轮流写
    config.ClearSolutions.code_stub = {"python": ""}  # 作答格里原来就有空架子
    config.DefaultParameters.course = str(course)
    config.Autograde.sanitize_preprocessors.append(DefaultParameters)
    config.IgnorePattern.enabled, config.IgnorePattern.pattern = True, r"\A"  # 不然检查格里有一条警告就是零分
    config.Execute.skip_cells_with_tag = "long"
    config.Execute.timeout = 120
    config.Execute.extra_arguments = ["--IPKernelApp.log_level=ERROR"]
    config.NbGraderAPI.log_level = "ERROR"
    warnings.filterwarnings("ignore", category=SAWarning)  # nbgrader 用法旧，SQLAlchemy 2 每次都提醒
    # 新建成绩册时它要运行 alembic，不激活虚拟环境就找不到
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return NbGraderAPI(config=config)


def _problem(result: dict) -> str:
    """nbgrader 为什么没有做成：日志里最后一条错误；做成了就是空的。"""
    told = re.findall(r"^\s*([\w.]*(?:Error|Exception)\b.*)", result.get("log", ""), re.MULTILINE)
    return "" if result["success"] else (told or result["error"].splitlines())[-1]


def release(course: Path, names: list[str]) -> list[Path]:
    """写出 course/source（教师版）与 course/release（发给学生的），返回后者的各个文件。"""
    api, released = _api(course), []
    for name in names:
        folder = course / "source" / name
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(convert.teacher_version(name), folder / f"{name}.ipynb")
        if problem := _problem(api.generate_assignment(name)):
            raise LabError(f"{name} 没有生成：{problem}。")
        released.append(course / "release" / name / f"{name}.ipynb")
    return released


def grade(course: Path) -> pd.DataFrame:
    """给 course/submitted/<学生>/<作业>/<作业>.ipynb 评分；一行一个学生，得分也存进 points.csv。

    没有交的是空的；跑不完的（例如把内核退出了）得 0 分，并印出是谁的哪一本。
    """
    folders = sorted(path for path in course.glob("submitted/*/*") if path.is_dir())
    if not folders:
        raise LabError(f"{rel(course)}/submitted 里没有交上来的作业，"
                       "应放成 submitted/学生/作业名/作业名.ipynb。")
    with Gradebook(_api(course).coursedir.db_url) as book:
        for student in {path.parent.name for path in folders}:
            book.update_or_create_student(student)
    with ProcessPoolExecutor(min(_WORKERS, os.cpu_count() or 1), multiprocessing.get_context("spawn"),
                             kernels.warm_up) as pool:  # fork 出来的进程不能再用原来那个预热的
        rows = list(pool.map(_grade_one, folders))
    points = pd.DataFrame(rows).pivot(index="学生", columns="作业", values="得分")
    points.insert(len(points.columns), "合计", points.sum(axis=1))
    points.to_csv(course / POINTS, encoding="utf-8-sig")  # Excel 靠开头的标记认出 UTF-8
    return points


def _grade_one(folder: Path) -> dict:
    """folder 是 course/submitted/<学生>/<作业>。"""
    course, student, name = folder.parents[2], folder.parent.name, folder.name
    api = _api(course)
    if problem := _problem(api.autograde(name, student)):
        print(f"{student} 的 {name} 没有跑完，记 0 分：{problem}")
        return {"学生": student, "作业": name, "得分": 0.0}
    with api.gradebook as book:
        return {"学生": student, "作业": name, "得分": book.find_submission(name, student).score}
