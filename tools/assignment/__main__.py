"""命令行：``python -m tools.assignment release|grade``，文件都在 grading/ 里。"""

import sys
from pathlib import Path

from labutils.base.errors import LabError
from labutils.base.files import ROOT, rel

COURSE = ROOT / "grading"


def main(command: str = "", folder: str | Path = COURSE) -> None:
    from tools.assignment import convert, grading

    course = Path(folder).resolve()
    if command == "release":
        print("发给学生的：", *map(rel, grading.release(course, convert.names())), sep="\n")
    elif command == "grade":
        print(grading.grade(course).to_string(), f"存在 {rel(course / grading.POINTS)}", sep="\n")
    else:
        raise LabError(f"没有 {command or '空'} 这个命令，请写 release 或 grade。")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except LabError as error:
        sys.exit(str(error))
