"""开跑之前的检查：环境够不够用（notebook 00 与 ``labutils check``），输入对不对（``labutils run``）。"""

import shutil
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from labutils.base import files
from labutils.base.errors import FAIL, GIB, OK, WARN, Check, LabError

TESTED_PYTHON, TOO_NEW_PYTHON = (3, 11), (3, 15)  # 与 pyproject.toml 的 requires-python 相同


def check_environment() -> list[Check]:
    """全部环境检查。不联网，不打印密钥，不改动任何文件。讲解见 notebook 00。"""
    disk, memory = shutil.disk_usage(files.ROOT).free, psutil.virtual_memory().available
    return [
        check_python(), check_packages(),
        check_room("磁盘", disk, 0.2, 1, "请腾出 1 GiB；旧结果在 runs/ 和 output/，可以删除"),
        check_room("内存", memory, 1, 2, "请关掉一些程序，空出 2 GiB"), check_gpu()]


def check_python(running: tuple[int, int] = sys.version_info[:2]) -> Check:
    name, text = "Python", f"{running[0]}.{running[1]}"
    if not TESTED_PYTHON <= running < TOO_NEW_PYTHON:
        what = "太旧" if running < TESTED_PYTHON else "太新，依赖的包还不支持"
        return Check(name, FAIL, f"{text} {what}", "请安装 Python 3.11–3.14")
    if running > TESTED_PYTHON:
        return Check(name, WARN, f"{text}，本实验在 3.11 上实测", "遇到问题时先换 Python 3.11 再试")
    return Check(name, OK, text)


def installed(package: str) -> str | None:
    """装着的版本；没有装时是 None。"""
    with suppress(PackageNotFoundError):
        return version(package)


def check_packages(wanted: list[Requirement] | None = None) -> Check:
    """每个依赖都装了，且在实测过的版本范围内；不给 wanted 就看 pyproject.toml 里声明的。"""
    if wanted is None:
        project = tomllib.loads((files.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = [Requirement(text) for text in project["dependencies"]]
    name, missing, outside = "依赖包", [], []
    for requirement in wanted:
        have = installed(requirement.name)
        if have is None:
            missing.append(requirement.name)
        elif not requirement.specifier.contains(have, prereleases=True):
            outside.append(f"{requirement.name} {have}（需要 {requirement.specifier}）")
    todo = "请重新安装：make lab，或 python -m pip install -c constraints.txt -e ."
    if missing:
        return Check(name, FAIL, "缺少 " + "、".join(missing), todo)
    if outside:
        return Check(name, WARN, "版本不在实测范围内：" + "；".join(outside), todo)
    return Check(name, OK, f"{len(wanted)} 个都在实测范围内")


def check_room(name: str, free: int, least: float, enough: float, todo: str) -> Check:
    """还空着多少（字节）：不到 least GiB 不能跑，不到 enough GiB 要留意。"""
    status = FAIL if free < least * GIB else WARN if free < enough * GIB else OK
    return Check(name, status, f"还有 {free / GIB:.1f} GiB", "" if status == OK else todo)


def check_gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        return Check("GPU", OK, f"{device.name}，显存 {device.total_memory / GIB:.0f} GiB")
    return Check("GPU", OK, "没有，内置小模型用 CPU 就够；真实的 6B 模型才需要 GPU")


def check_inputs(model: str, config: Path, pdf: Path, qa: Path, api_model: str = "",
                 preset: str = "") -> None:
    """整套运行之前检查输入；第一处问题就抛 LabError。不请大模型出题时，还要看 qa 是否真的出自这份 PDF。"""
    from labutils.dataset.formats import read_pages
    from labutils.models.loader import read_config
    from labutils.training.config import load_config

    read_config(model)
    load_config(config)
    pages = read_pages(pdf)
    from labutils.dataset.build import from_file  # 它们要导入 openai，用到时才导入
    from labutils.dataset.service import find_service

    if preset:
        find_service(preset, api_model)
    if api_model or preset:
        return
    made = from_file(qa, pages)
    if not made.rows:
        raise LabError(f"{files.rel(qa)} 的 {len(made.rejected)} 条问答在 {files.rel(pdf)} 里都找不到依据；"
                       "换了 PDF 就要同时用 --qa 给出它的问答对，或用 --api-model 指定生成问答对的模型。")
