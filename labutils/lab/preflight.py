"""开跑之前的检查：环境够不够用（notebook 00 与 ``labutils check``），输入对不对（``labutils run``）。"""

import os
import shutil
import socket
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from labutils.base import files
from labutils.base.errors import FAIL, GIB, OK, WARN, Check, LabError

TESTED_PYTHON, TOO_NEW_PYTHON = (3, 11), (3, 15)  # 与 pyproject.toml 的 requires-python 相同


def check_environment() -> list[Check]:
    """全部环境检查。不联网，不打印密钥，不改动任何文件。讲解见 notebook 00。"""
    return [check_python(), check_packages(), check_disk(), check_memory(), check_cores(), check_gpu(),
            check_font(), check_port(), check_api(), check_hub()]


def check_python(running: tuple[int, int] = sys.version_info[:2]) -> Check:
    name, text = "Python", f"{running[0]}.{running[1]}"
    if not TESTED_PYTHON <= running < TOO_NEW_PYTHON:
        what = "太旧" if running < TESTED_PYTHON else "太新，依赖的包还不支持"
        return Check(name, FAIL, f"{text} {what}", "请安装 Python 3.11–3.14")
    if running > TESTED_PYTHON:
        return Check(name, WARN, f"{text}，本实验在 3.11 上实测", "遇到问题时先换 Python 3.11 再试")
    return Check(name, OK, text)


def requirements() -> list[Requirement]:
    """本项目声明的依赖；在仓库里以 pyproject.toml 为准，否则用安装时的记录。"""
    project = files.ROOT / "pyproject.toml"
    if project.is_file():
        texts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        texts = requires("labutils") or []
    return [r for r in map(Requirement, texts) if r.marker is None or r.marker.evaluate({"extra": ""})]


def installed(package: str) -> str | None:
    """装着的版本；没有装时是 None。"""
    with suppress(PackageNotFoundError):
        return version(package)


def check_packages(wanted: list[Requirement] | None = None) -> Check:
    """每个依赖都装了，且在实测过的版本范围内。"""
    name, wanted = "依赖包", requirements() if wanted is None else wanted
    missing, outside = [], []
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


def check_disk(free: int | None = None) -> Check:
    free = shutil.disk_usage(files.ROOT).free if free is None else free
    text = f"仓库所在磁盘剩余 {free / GIB:.1f} GiB"
    if free < 0.2 * GIB:
        return Check("磁盘", FAIL, text, "请至少腾出 0.2 GiB")
    if free < 1 * GIB:
        return Check("磁盘", WARN, text, "够跑一两次；旧结果在 runs/ 和 output/，可以删除")
    return Check("磁盘", OK, text)


def check_memory(available: int | None = None) -> Check:
    available = psutil.virtual_memory().available if available is None else available
    text = f"可用 {available / GIB:.1f} GiB"
    if available < 1 * GIB:
        return Check("内存", FAIL, text, "请关掉一些程序，至少空出 1 GiB")
    if available < 2 * GIB:
        return Check("内存", WARN, text, "建议关掉一些程序，空出 2 GiB")
    return Check("内存", OK, text)


def check_cores(cores: int | None = None) -> Check:
    cores = (os.cpu_count() or 1) if cores is None else cores
    if cores < 2:
        return Check("CPU", WARN, "只有 1 个核", "能跑，但会慢一倍左右")
    return Check("CPU", OK, f"{cores} 个核")


def check_gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        return Check("GPU", OK, f"{device.name}，显存 {device.total_memory / GIB:.0f} GiB")
    return Check("GPU", OK, "没有，内置小模型用 CPU 就够；真实的 6B 模型才需要 GPU")


def check_font() -> Check:
    from labutils.base.figures import ENGLISH_FONT, use_chinese_font

    font = use_chinese_font()
    if font == ENGLISH_FONT:
        return Check("中文字体", WARN, "没有找到，图上改用英文标签", "python -m pip install zhplot")
    return Check("中文字体", OK, font)


def check_port(port: int = 8080) -> Check:
    """labutils demo 的默认端口是否空着。"""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return Check("端口", WARN, f"{port} 已被占用", "打开网页时用 --port 换一个")
    return Check("端口", OK, f"{port} 空闲")


def check_api() -> Check:
    """只看密钥设没设，绝不显示它的内容。"""
    if os.environ.get("OPENAI_API_KEY"):
        return Check("API 密钥", OK, "已设置（不显示内容）")
    return Check("API 密钥", OK, "未设置；默认不需要，造数据一步使用附带的样例")


def check_hub() -> Check:
    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "TRUE", "YES", "ON"}
    return Check("联网下载", OK, "离线模式；指定网上的模型时才会放开" if offline else "允许访问模型站点")


def check_inputs(model: str, config: Path, pdf: Path, qa: Path, api_model: str = "",
                 preset: str = "") -> None:
    """整套运行之前检查输入；第一处问题就抛 LabError。不请大模型出题时，还要看 qa 是否真的出自这份 PDF。"""
    from labutils.dataset.checks import validate
    from labutils.dataset.formats import read_pages
    from labutils.dataset.rows import load_qa
    from labutils.training.config import load_config

    check_model_name(model)
    load_config(config)
    pages = read_pages(pdf)
    if preset:
        from labutils.dataset.service import find_service  # 它要导入 openai，用到时才导入

        find_service(preset, api_model)
    if api_model or preset:
        return
    good, rejected = validate(load_qa(qa), pages, require_evidence=False)
    if not good:
        raise LabError(f"{files.rel(qa)} 的 {len(rejected)} 条问答在 {files.rel(pdf)} 里都找不到依据；"
                       "换了 PDF 就要同时用 --qa 给出它的问答对，或用 --api-model 指定生成问答对的模型。")


def check_model_name(model: str) -> None:
    """不是 "tiny"、模型文件夹或“组织/名称”就抛 LabError；交给 transformers 的话，它会说“连不上模型站点”。"""
    if folder := files.model_folder(model):
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise LabError(f"{files.rel(folder)} 里没有 config.json，不是模型文件夹，请检查 --model。")
    elif model != "tiny" and not files.is_hub_name(model):
        raise LabError(f"找不到模型 {model}；--model 可以是 tiny、一个模型文件夹，或网上的“组织/名称”。")
