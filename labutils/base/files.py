"""路径与文件：仓库在哪里，一个路径指哪里，怎么读写才不留下半个文件，系统出错怎么说。

路径只有一条规则。要读的（resolve）：当前文件夹里有就用它，没有就从仓库根目录算起；要写的（place）：
在仓库里执行就从仓库根目录算起，在别处执行就从当前文件夹算起。界面上打印 rel，别处都写 from_root。
讲解在 notebooks/00_start_here.ipynb（结果放在哪里）与 01_build_dataset.ipynb（编码）。
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from labutils.base.errors import LabError, first_line

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
CONFIGS = ROOT / "configs"
NOTEBOOKS = ROOT / "notebooks"
OUTPUT = ROOT / "output"
_FOLDERS = ("models", "model", "output", "outputs", "runs", "checkpoints", "data")  # 惯用的文件夹名
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)


def resolve(path: str | Path) -> Path:
    """要读的文件或文件夹在哪里：当前文件夹里有就是它，否则从仓库根目录算起（不管有没有）。"""
    path = Path(path).expanduser()
    return path.resolve() if not path.is_absolute() and path.exists() else ROOT / path


def place(path: str | Path) -> Path:
    """要写的文件或文件夹放哪里：在仓库里执行就从仓库根目录算起，在别处执行就从当前文件夹算起。"""
    path = Path(path).expanduser()
    return ROOT / path if Path.cwd().resolve().is_relative_to(ROOT.resolve()) else path.resolve()


def model_folder(name: str) -> Path | None:
    """模型名是本机的文件夹时，它在哪里；自带的 "tiny"、网上的名字、不存在的都是 None。"""
    folder = resolve(name)
    return folder if name != "tiny" and folder.is_dir() else None


def existing(path: str) -> str:
    """原样返回；写了却没有这个文件或文件夹时引发 LabError。"""
    if path and not resolve(path).exists():
        raise LabError(f"{rel(resolve(path))} 不存在，请检查路径和名字。")
    return path


def existing_model(name: str) -> str:
    """原样返回；不是本机的文件夹、自带的 "tiny"，又不像网上名字的，引发 LabError。"""
    if name and name != "tiny" and not model_folder(name) and not is_hub_name(name):
        raise LabError(f"找不到模型文件夹 {name}，请检查路径；自带的小模型写作 tiny。")
    return name


def is_hub_name(name: str) -> bool:
    """像不像网上的“组织/名称”；前一半是现成的文件夹、或惯用的文件夹名时，那是一个写错了的路径。"""
    first = name.partition("/")[0]
    return bool(_HUB_NAME.fullmatch(name)) and first not in _FOLDERS and not resolve(first).is_dir()


def rel(path: str | Path) -> str:
    """打印用的短路径：仓库里的相对仓库根目录，仓库外的只留最后两级，不暴露机器路径。"""
    path, root = Path(path).resolve(), ROOT.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else "/".join(path.parts[-2:])


def from_root(path: Path) -> str:
    """写进文件的路径：一律相对仓库根目录（仓库外的以 ../ 开头），两边一起搬走后照样找得到。"""
    path = path.resolve()
    try:
        return Path(os.path.relpath(path, ROOT.resolve())).as_posix()
    except ValueError:  # Windows 上仓库与模型不在同一个盘，没有相对路径
        return path.as_posix()


def write(path: Path, data: str | bytes) -> None:
    """把 data 写进 path；文字按 UTF-8 写，换行总是 \\n。文件夹要已经存在。"""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """写一个 JSON 文件；被打断也不会留下半个。"""
    write(path, json.dumps(value, ensure_ascii=False, indent=1))


def write_json_lines(items: Iterable[object], path: str | Path) -> Path:
    """一行写一个 JSON；中途断电也不会弄坏原来的文件。"""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
    return path


def read_rows(path: str | Path, torn: str = "error") -> list[tuple[str, Any]]:
    """读一行一个 JSON 的文件（JSON Lines），返回 [(位置, 内容)]，位置如 “第 3 行”。坏行只有两种处理：

    torn="error"，用户给的数据：文件不存在、不是 UTF-8、没有内容、哪一行不是 JSON，都抛 LabError，说明
    文件和行号；整个文件是一个 JSON 数组也行。torn="skip"，本程序自己逐行追加的记录：断电、磁盘满、
    进程被杀会留下半行，略过它，完整的行都要；文件还没有就是 []，打不开照常抛 OSError。
    """
    path, name = Path(path), rel(path)
    if torn == "skip":
        return _whole_rows(path, name)
    text = _given_text(path, name)
    if text.lstrip().startswith("["):
        return [(f"第 {i} 条", item) for i, item in enumerate(_loads(text, name, 1), 1)]
    return [(f"第 {i} 行", _loads(line, name, i)) for i, line in _lines(text)]


def _given_text(path: Path, name: str) -> str:
    """用户给的文件里的文字；打不开、不是 UTF-8、是空的都引发 LabError。"""
    try:
        text = path.read_text("utf-8-sig")  # 有的编辑器会在开头加 BOM
    except UnicodeDecodeError:
        raise LabError(f"{name} 不是 UTF-8 编码（多半是 GBK），请用编辑器“另存为”，编码选 UTF-8。") from None
    except OSError:
        raise LabError(f"{name} 不存在或打不开，请检查路径和文件名。") from None
    if not text.strip():
        raise LabError(f"{name} 是空文件，请检查上一步有没有写出数据。")
    return text


def _whole_rows(path: Path, name: str) -> list[tuple[str, Any]]:
    """自己追加的记录里完整的行；解不开的字节变成残缺字符，那一行就成了坏行。"""
    rows = []
    for i, line in _lines(path.read_text("utf-8-sig", "surrogateescape") if path.exists() else ""):
        with suppress(LabError):
            rows.append((f"第 {i} 行", _loads(line, name, i)))
    return rows


def _lines(text: str) -> list[tuple[int, str]]:
    """有内容的行和行号；不用 splitlines：它会在字符串里的 U+2028 处断开。"""
    return [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]


def _loads(text: str, name: str, first_line: int) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise LabError(f"{name} 第 {line} 行第 {error.colno} 列不是合法的 JSON，"
                       "每行应是一个完整的 JSON 对象，或整个文件是一个数组。") from None
    except (ValueError, RecursionError):
        raise LabError(f"{name} 第 {first_line} 行起有读不了的内容：残缺的字符（只有半个的 \\uD… 转义）、"
                       "几千位的整数，或套了几千层的括号，请改掉它。") from None


def decode(data: bytes, name: str, advice: str) -> str:
    """按 UTF-8（有无 BOM 都行）、带 BOM 的 UTF-16、GB18030 依次试，换行统一成 \\n。

    都不像时抛 LabError，里面有文件名 name 和该怎么办 advice。
    GB18030 几乎什么字节都解得开，所以解出来还要看：九成以上的非 ASCII 字应是 GB2312 里的常用字。
    """
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ["utf-16"] if wide else ["utf-8-sig", "gb18030"]:  # 中文版 Windows 默认存 gb18030
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text and (encoding != "gb18030" or _looks_chinese(text)):
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise LabError(f"{name} 的编码认不出（试过 UTF-8、UTF-16 和 GB18030），{advice}。")


def _looks_chinese(text: str) -> bool:
    wide = "".join(c for c in text if not c.isascii())
    return len(wide.encode("gb2312", "ignore")) / 2 >= 0.9 * len(wide)  # 一个汉字两个字节


FULL = (errno.ENOSPC, errno.EDQUOT)  # 课程的服务器常给每人一个限额，用完了与磁盘满一样
LITTLE = 64 * 2**20  # 剩余空间少于 64 MiB 时，写文件失败就当作磁盘满
_CHECK = "请检查路径，或换一个文件夹"
_DENIED = ("没有权限", "请关掉正开着它的程序（例如 Excel），或换一个文件夹")
_REASONS = {
    errno.ENOSPC: ("磁盘满了", "请腾出空间后再运行"), errno.EDQUOT: ("磁盘限额用完了", "请腾出空间后再运行"),
    errno.EACCES: _DENIED, errno.EPERM: _DENIED, errno.EROFS: ("磁盘是只读的", "请换一个文件夹"),
    errno.ENOENT: ("路径不存在", _CHECK), errno.ENOTDIR: ("路径中间有一段不是文件夹", _CHECK),
    errno.EEXIST: ("已经有同名的文件", _CHECK)}


def sentence(error: OSError, path: str | Path = "", note: str = "") -> str:
    """一句话说明 error；它没有说是哪个文件时用 path。note 接在建议后面。"""
    reason, advice = _REASONS.get(error.errno, (error.strerror or first_line(error), _CHECK))
    given = error.filename if isinstance(error.filename, str | os.PathLike) else path
    where = f"，不能读写 {rel(str(given).removesuffix('.part'))}" if given else ""  # write 的临时文件
    return f"{reason}{where}；{advice}{note}。"


@contextmanager
def one_sentence(path: str | Path = "", note: str = "") -> Iterator[None]:
    """在这个范围里（也可以当装饰器），OSError 变成 LabError。"""
    try:
        yield
    except OSError as error:
        raise LabError(sentence(error, path, note)) from None


def as_system_error(error: Exception, folder: Path) -> OSError | None:
    """error 若是系统错误就返回它；别的库报的磁盘满换成系统错误；都不是就返回 None。"""
    if isinstance(error, OSError) and error.errno:
        return error
    code = next((code for code in FULL if os.strerror(code) in str(error)), None)
    signs = ("PytorchStreamWriter", "inline_container", "file write failed")  # torch.save 写到一半
    if any(sign in str(error) for sign in signs) and shutil.disk_usage(folder).free < LITTLE:
        code = errno.ENOSPC
    return OSError(code, os.strerror(code)) if code else None
