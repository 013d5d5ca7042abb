"""仓库里各个文件夹的位置,与当前工作目录无关。"""

import os
from pathlib import Path

ROOT = Path(os.environ.get("LAB_ROOT") or Path(__file__).resolve().parents[2])
DATA = ROOT / "data"
CONFIGS = ROOT / "configs"
NOTEBOOKS = ROOT / "notebooks"
OUTPUT = ROOT / "output"
RUNS = ROOT / "runs"


def resolve(path: str | Path) -> Path:
    """相对路径先按仓库根目录解释;根目录下没有而当前目录有时,用当前目录的。"""
    path = Path(path).expanduser()
    if path.is_absolute():
        return path
    if not (ROOT / path).exists() and path.exists():
        return path.resolve()
    return ROOT / path


def rel(path: str | Path) -> str:
    """打印用的短路径:在仓库内就相对仓库根目录,否则只留最后两级,不暴露机器路径。"""
    path = Path(path).resolve()
    if path.is_relative_to(ROOT.resolve()):
        return path.relative_to(ROOT.resolve()).as_posix()
    return "/".join(path.parts[-2:])
