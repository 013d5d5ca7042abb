"""用一种读法读一份文档：``python benchmarks/read_one.py 读法 文件``，在标准输出写一行 JSON。

labutils 以外的几种装在别的环境里，所以这里除了被点名的那一个，什么也不导入。
"""

import contextlib
import importlib
import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path


def labutils(path: str) -> list[tuple[int, str]]:
    from labutils.dataset.formats import read_pages

    return [(page.number, page.text) for page in read_pages(path)]


def pypdfium2(path: str) -> list[tuple[int, str]]:
    import pypdfium2

    document = pypdfium2.PdfDocument(path)
    return list(enumerate((page.get_textpage().get_text_bounded() for page in document), 1))


def pymupdf(path: str) -> list[tuple[int, str]]:
    import pymupdf

    return list(enumerate((page.get_text() for page in pymupdf.open(path)), 1))


def pdftotext(path: str, *options: str) -> list[tuple[int, str]]:
    done = subprocess.run(["pdftotext", *options, path, "-"], check=True, capture_output=True)
    return list(enumerate(done.stdout.decode().split("\f")[:-1], 1))


READERS = {"labutils": (labutils, "labutils.dataset.formats"), "pypdfium2": (pypdfium2, "pypdfium2"),
           "PyMuPDF": (pymupdf, "pymupdf"), "pdftotext": (pdftotext, "subprocess")}


def peak() -> float:
    """这个进程用过的最多内存，MiB。"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def version(name: str) -> str:
    if name == "pdftotext":
        said = subprocess.run(["pdftotext", "-v"], capture_output=True, text=True).stderr
        return said.split("\n")[0].removeprefix("pdftotext version ")
    return importlib.metadata.version(name)


def main(name: str, path: str) -> None:
    read, module = READERS[name]
    with contextlib.redirect_stdout(sys.stderr):  # 读的时候打印的提醒
        importlib.import_module(module)
        began = time.perf_counter()
        try:
            result = {"pages": read(path)}
        except Exception as error:  # 读不了也是一种结果，写进表里
            result = {"error": f"{type(error).__name__}: {error}"}
        result |= {"seconds": time.perf_counter() - began, "mib": peak(), "version": version(name)}
    json.dump(result, sys.stdout, ensure_ascii=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
