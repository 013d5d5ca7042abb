"""CSV 的一格：表格软件打开时不执行、不改写，读回来还是原来的文字。

Excel 会把 “=…” 当公式执行，把 “2023-12-05”“1/2”“0012” 改成日期和数字。
这样的文字前面加一个单引号；读回时去掉它，所以写出再读回，一个字也不差。
"""

from __future__ import annotations

import re

FORMULA_STARTS = "=+-@＝＋－＠\t\r\n"
# 会被认成数字、日期、时间、真假值的文字
_REWRITTEN = re.compile(
    r"[\d\s.,:/%¥$()eE年月日时分秒+-]*\d[\d\s.,:/%¥$()eE年月日时分秒+-]*"
    r"|[A-Za-z]{3,9}[ -]?\d{1,4}|\d{1,2}[ -]?[A-Za-z]{3,9}|true|false",
    re.IGNORECASE,
)


def is_formula(text: str) -> bool:
    """表格软件会不会把它当公式；开头的空格（含全角）不算。"""
    return text.lstrip(" \u3000").startswith(tuple(FORMULA_STARTS))


def protect(text: str) -> str:
    """要写进 CSV 的文字：会被执行或改写的，前面加单引号。"""
    return "'" + text if _risky(text.lstrip("'")) else text


def unprotect(cell: str) -> str:
    """从 CSV 读到的文字：去掉 protect 加的单引号。"""
    return cell[1:] if cell.startswith("'") and _risky(cell.lstrip("'")) else cell


def _risky(text: str) -> bool:
    return is_formula(text) or _REWRITTEN.fullmatch(text) is not None
