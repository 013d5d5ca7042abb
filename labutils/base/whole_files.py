"""写整个文件：先写临时文件再改名，任何时刻被打断，文件要么是旧的，要么是新的。"""

from pathlib import Path


def write(path: Path, data: str | bytes) -> None:
    """把 data 写进 path；文字按 UTF-8 写，换行总是 \\n。文件夹要已经存在。"""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    part.replace(path)
