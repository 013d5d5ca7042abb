#!/usr/bin/env bash
# nbconvert：写好的替代文字（alt），默认的 lab 模板导出时丢掉，换成英文的“没有说明”；classic 模板才用它
#
# 【先猜】（运行之前写下）
#   图的输出的元数据里写了 {"image/png": {"alt": "损失曲线"}}，导出 HTML，<img> 的 alt 就是这几个字，用哪个模板都一样；
#   没有写的，alt 是一句“没有说明”，并提醒。
#
# 【实际】classic、basic 模板如猜想。默认的 lab 模板：写了的也丢掉，alt 是 No description has been provided for this image。
#
# 【为什么】三个模板各有自己的 data_png 一段；lab 的那一段不看元数据里的 alt。
#
# 【伤到谁】照着“给图写 alt”的提醒写好了替代文字的人：用默认设置导出的网页里，读屏软件念的全是同一句英文。
#
# 【怎么避开】输出里另给一份 text/html 的 <img alt=…>（本项目 base/figures.py 的 LabFigure 就这样做），
#   或用 --template classic 导出。
#
# 版本：nbconvert 7.17.2，nbformat 5.11.1，Python 3.11。日期：2026-11-28。
#
# 【看到的输出】
#   nbconvert 7.17.2
#   写了 alt，lab      No description has been provided for this image
#   写了 alt，classic  损失曲线
#   写了 alt，basic    损失曲线

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet nbconvert==7.17.2 nbformat==5.11.1

venv/bin/python -I -W ignore - <<'PY'
import re
import sys

import nbconvert
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output

DOT = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
print("nbconvert", nbconvert.__version__)


def alt(template):
    output = new_output("display_data", {"image/png": DOT}, metadata={"image/png": {"alt": "损失曲线"}})
    notebook = new_notebook(cells=[new_code_cell("figure", outputs=[output])])
    page, _ = HTMLExporter(template_name=template).from_notebook_node(notebook)
    return re.findall(r'<img alt="(.*?)"', page, re.DOTALL)[-1]


found = {name: alt(name) for name in ("lab", "classic", "basic")}
for name, text in found.items():
    print(f"写了 alt，{name:8} {text}")
if {found["classic"], found["basic"]} != {"损失曲线"}:
    sys.exit("行为变了：classic、basic 也不用写好的 alt 了。")
if "No description" not in found["lab"]:
    sys.exit("行为变了：lab 模板用上了写好的 alt。")
PY
