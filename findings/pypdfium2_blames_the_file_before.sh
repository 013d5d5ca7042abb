#!/usr/bin/env bash
# pypdfium2：一页也没有的 PDF 打不开，报的却是上一份文件的错（“密码不对”），上一份没事就报“Success”
#
# 【先猜】（运行之前写下）
#   一页也没有的 PDF 是合法的（pypdf 写得出、也读得进，len(reader.pages) 是 0）。PdfDocument 打开它应当成功、
#   len(document) 是 0；要是不收，PdfiumError 里会说是因为没有页，err_code 说的至少是这一份文件。
#
# 【实际】pypdfium2 5.15.2 不收，文字和 err_code 说的是“上一次”的错，与这份文件无关：
#   刚启动时是“PDFium: Success”；先打开过一份要密码的，就是“Incorrect password error”；先打开过一份不是 PDF 的，
#   就是“Data format error”，中间成功打开过别的 PDF 也不清除。
#
# 【为什么】_helpers/document.py 用“FPDF_GetPageCount(pdf) < 1”判断打开失败（句柄为空时它也是 0），
#   然后取 FPDF_GetLastError；零页的文件其实打开成功了，PDFium 没有记下新的错，留着的是从前的。
#
# 【伤到谁】成批读 PDF、按 err_code 说明原因的程序：一份坏在别处的文件被说成“设了密码”，用户去要密码；
#   次序一换，说法也换，重现不了。
#
# 【怎么避开】自己调用 pypdfium2.raw.FPDF_LoadDocument / FPDF_LoadMemDocument64，句柄为空才取 FPDF_GetLastError，
#   再交给 PdfDocument(句柄)；零页由 len(document) 判断。脚本末尾验证这样做得到 0 页。
#
# 版本：pypdfium2 5.15.2，pypdf 7.1.0（只用来写出测试的 PDF），Python 3.11，Linux。日期：2026-11-28。
#
# 【看到的输出】
#   pypdfium2 5.15.2；零页的 PDF，pypdf 读出 0 页
#     刚启动         Failed to load document (PDFium: Success).
#     打开过要密码的     Failed to load document (PDFium: Incorrect password error).
#     又打开过正常的     Failed to load document (PDFium: Incorrect password error).
#     打开过不是 PDF 的 Failed to load document (PDFium: Data format error).
#     经 raw 打开：0 页

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet pypdfium2==5.15.2 pypdf==7.1.0

venv/bin/python -I - <<'PY'
import io
import sys
from importlib.metadata import version

import pypdf
import pypdfium2 as pdfium
import pypdfium2.raw as api


def written(pages, password=""):
    writer, target = pypdf.PdfWriter(), io.BytesIO()
    for _ in range(pages):
        writer.add_blank_page(200, 200)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(target)
    return target.getvalue()


def said(data):
    try:
        with pdfium.PdfDocument(data) as document:
            return f"{len(document)} 页"
    except pdfium.PdfiumError as error:
        return str(error)


empty, usual, locked = written(0), written(1), written(1, "word")
print(f"pypdfium2 {version('pypdfium2')}；零页的 PDF，pypdf 读出 {len(pypdf.PdfReader(io.BytesIO(empty)).pages)} 页")
seen = []
for before, what in ((None, "刚启动"), (locked, "打开过要密码的"), (usual, "又打开过正常的"), (b"plain", "打开过不是 PDF 的")):
    if before:
        said(before)
    seen.append(said(empty))
    print(f"  {what:<12}{seen[-1]}")
handle = api.FPDF_LoadMemDocument64(empty, len(empty), None)
count = len(pdfium.PdfDocument(handle)) if handle else None
print(f"  经 raw 打开：{count} 页")
expected = ["Success", "Incorrect password error", "Incorrect password error", "Data format error"]
if [text.partition("PDFium: ")[2].rstrip(").") for text in seen] != expected or count != 0:
    sys.exit(f"行为变了：{seen}，经 raw {count} 页")
PY
