"""系统错误（OSError）换成一句中文：什么原因、哪个文件、下一步做什么。"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labutils.base.errors import LabError, first_line
from labutils.base.paths import rel

FULL = (errno.ENOSPC, errno.EDQUOT)  # 课程的服务器常给每人一个限额，用完了与磁盘满一样
_ROOM, _CHECK = "请腾出空间后再运行", "请检查路径，或换一个文件夹"
_PERMISSION = ("没有权限", "请关掉正开着它的程序（例如 Excel），或换一个文件夹")
_REASONS = {
    errno.ENOSPC: ("磁盘满了", _ROOM),
    errno.EDQUOT: ("磁盘限额用完了", _ROOM),
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: ("磁盘是只读的", "请换一个文件夹"),
    errno.ENOENT: ("路径不存在", _CHECK),
    errno.ENOTDIR: ("路径中间有一段不是文件夹", _CHECK),
    errno.EEXIST: ("已经有同名的文件", _CHECK),
}


def sentence(error: OSError, path: str | Path = "", note: str = "") -> str:
    """一句话说明 error；它没有说是哪个文件时用 path。note 接在建议后面。"""
    reason, advice = _REASONS.get(error.errno, (error.strerror or first_line(error), _CHECK))
    given = error.filename if isinstance(error.filename, str | os.PathLike) else path
    where = f"，不能读写 {rel(str(given).removesuffix('.part'))}" if given else ""  # 见 whole_files
    return f"{reason}{where}；{advice}{note}。"


@contextmanager
def one_sentence(path: str | Path = "", note: str = "") -> Iterator[None]:
    """在这个范围里（也可以当装饰器），OSError 变成 LabError。"""
    try:
        yield
    except OSError as error:
        raise LabError(sentence(error, path, note)) from None
