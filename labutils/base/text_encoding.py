"""字节 → 文字：UTF-8、UTF-16、GB18030 都认得，认不出就说清楚，绝不猜成乱码。

在 notebooks/01_build_dataset.ipynb 用到（文档和审阅表都可能是别的软件另存的）。
"""

from __future__ import annotations

from labutils.base.errors import LabError


def decode(data: bytes, name: str, advice: str) -> str:
    """按 UTF-8（有无 BOM 都行）、带 BOM 的 UTF-16、GB18030 依次试，换行统一成 \\n。

    都不像时抛 LabError，里面有文件名 name 和该怎么办 advice。
    GB18030 几乎什么字节都解得开，所以解出来还要看：九成以上的非 ASCII 字应是 GB2312 里的常用字。
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    else:
        encodings = ["utf-8-sig", "gb18030"]  # 后一种是中文版 Windows 默认存的
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text and (encoding != "gb18030" or _looks_chinese(text)):
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise LabError(f"{name} 的编码认不出（试过 UTF-8、UTF-16 和 GB18030），{advice}。")


def _looks_chinese(text: str) -> bool:
    wide = [c for c in text if not c.isascii()]
    common = sum(bool(c.encode("gb2312", "ignore")) for c in wide)
    return common >= 0.9 * len(wide)
