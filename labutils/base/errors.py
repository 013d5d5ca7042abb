"""给用户看的错误与检查结果。"""

from typing import NamedTuple


class LabError(Exception):
    """一句话说清楚：哪里错了、在哪个文件（行、页）、下一步做什么。命令行只打印它，不显示调用栈。"""


def first_line(error: Exception) -> str:
    """别的库的错误文字往往很长，只取第一行；没有文字就用错误的类型名。"""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


OK, WARN, FAIL = "ok", "warn", "fail"
MARKS = {OK: "✓", WARN: "!", FAIL: "✗"}
GIB = 1024**3


class Check(NamedTuple):
    """一项检查：名称、状态（ok | warn | fail）、看到了什么、该怎么办（不用办则为空）。"""

    name: str
    status: str
    message: str
    todo: str = ""

    def __str__(self) -> str:
        todo = f" → {self.todo}" if self.todo else ""
        return f"{MARKS[self.status]} {self.name}：{self.message}{todo}"
