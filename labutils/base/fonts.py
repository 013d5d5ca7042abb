"""给 matplotlib 找一款真的有汉字的字体，保证图上不会出现方框

导入本模块不会改变 matplotlib 的后端。讲解见 notebooks/00_start_here。
"""

import importlib.util
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager, rcParams
from matplotlib.ft2font import FT2Font

FONT_CANDIDATES = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback",
    "PingFang SC", "Hiragino Sans GB", "Heiti SC", "STHeiti", "Songti SC", "Arial Unicode MS",
    "Microsoft YaHei", "DengXian", "SimHei", "SimSun",
)  # fmt: skip
PROBE = "微调职教损失〔〕，。"
ENGLISH_FONT = "DejaVu Sans"  # matplotlib 自带，一定存在，但没有汉字


def _covers(path: str, face_index: int = 0) -> bool:
    """字体文件里真的有探测文字的每个字才算数：名字像中文字体的不一定能用"""
    try:
        charmap = FT2Font(path, face_index=face_index).get_charmap()
    except (OSError, RuntimeError):  # 文件刚被删掉，或不是 FreeType 认识的格式
        return False
    return all(ord(char) in charmap for char in PROBE)


def _system_font() -> str | None:
    """系统字体里第一个能用的名字；没有时返回 None"""
    entries = font_manager.fontManager.ttflist
    for name in FONT_CANDIDATES:
        if any(e.name == name and _covers(e.fname, getattr(e, "index", 0)) for e in entries):
            return name
    return None


def _packaged_font() -> str | None:
    """登记 zhplot 包里的 TTF，返回字体名；只找文件，不导入那个包（导入会改全局设置）"""
    spec = importlib.util.find_spec("zhplot")
    folders = (spec.submodule_search_locations if spec else None) or []
    for path in (p for folder in folders for p in sorted(Path(folder).rglob("*.ttf"))):
        if _covers(str(path)):
            font_manager.fontManager.addfont(path)
            return FT2Font(str(path)).family_name
    return None


@lru_cache(maxsize=1)
def _pick_font() -> str:
    return _system_font() or _packaged_font() or ENGLISH_FONT


def use_chinese_font() -> str:
    """让 matplotlib 用一款确实有汉字的字体，返回它的名字；找不到时返回 "DejaVu Sans"，标签改用英文

    先用系统字体，再用 zhplot 包里的 Noto Sans SC。不打印任何东西。讲解见 notebooks/00_start_here。
    """
    name = _pick_font()
    rcParams["font.family"] = ["sans-serif"]
    rcParams["font.sans-serif"] = list(dict.fromkeys([name, ENGLISH_FONT]))
    rcParams["axes.unicode_minus"] = False  # 不少中文字体没有 U+2212 减号
    return name


def label(zh: str, en: str) -> str:
    """有中文字体时用中文标签，否则用英文标签；$ 要转义，不然会被当成公式"""
    text = en if use_chinese_font() == ENGLISH_FONT else zh
    return text.replace("$", r"\$")


def data_label(text: str, fallback: str) -> str:
    """数据里带来的文字（步骤名、事实号）：画不出汉字时换成 fallback"""
    return label(text, text if text.isascii() else fallback)
