#!/usr/bin/env bash
# 普通的脚本里只要导入过 ipykernel，tqdm.auto 就当自己在 notebook 里：进度条改印到标准输出
#
# 【先猜】（运行之前写下）
#   tqdm.auto 看的是现在是不是在 notebook 里跑（例如 get_ipython() 是不是内核）。普通的脚本用 ipykernel 的类
#   启动内核、读写它的设置，仍是普通的脚本：进度条照常印到标准错误；disable=None 时不在终端里就一个字也不印。
#
# 【实际】tqdm 4.70.1 看的是 sys.modules 里有没有 ipykernel.zmqshell。导入 ipykernel.kernelapp 就会带进它；
#   再装着 ipywidgets，tqdm.auto 就是 tqdm_notebook：没有网页可画，就用 IPython 的 display 印一行文字到标准输出，
#   disable=None 也没有用，因为它不看标准输出是不是终端。没有装 ipywidgets 的环境里又一切照旧。
#
# 【伤到谁】在脚本、服务、测试里用 ipykernel 启动内核的人：papermill、datasets、huggingface_hub、transformers
#   都用 tqdm.auto。标准输出若要给程序读（一行一个 JSON），中间会多出“0%|          | 0/5”这样的行；
#   而且要看是先导入 tqdm.auto 还是先导入 ipykernel，换一下次序就好了，很难查。
#
# 【怎么避开】ipykernel 只在真正成为内核的那个进程里导入；主进程里先导入一次 tqdm.auto 也行。
#
# 版本：tqdm 4.70.1，ipykernel 7.4.0，ipywidgets 8.1.9，papermill 2.7.0，Python 3.11，Linux。日期：2026-11-29。
#
# 【看到的输出】
#   什么也没导入：标准输出 0 行，标准错误里 0 行进度
#   先导入 ipykernel.kernelapp：标准输出 1 行，标准错误里 0 行进度

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet tqdm==4.70.1 ipykernel==7.4.0 ipywidgets==8.1.9 papermill==2.7.0

cat > script.py <<'PY'
import sys

if sys.argv[1] == "yes":
    import ipykernel.kernelapp  # noqa: F401
import nbformat
import papermill

notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
nbformat.write(notebook, "one.ipynb")
papermill.execute_notebook("one.ipynb", "out.ipynb", progress_bar={"disable": None})
PY

lines() {
  venv/bin/python script.py "$1" > out.txt 2> err.txt || { cat err.txt; exit 1; }
  on_out="$(wc -l < out.txt)"
  on_err="$(grep -c '0/1' err.txt || true)"
  echo "$2：标准输出 $((on_out)) 行，标准错误里 $((on_err)) 行进度"
}

lines no 什么也没导入
[ "$((on_out))" = 0 ] || { echo "行为变了：普通的脚本也印到标准输出了" >&2; exit 1; }
lines yes "先导入 ipykernel.kernelapp"
grep -q '0/1' out.txt || { echo "行为变了：导入 ipykernel 以后不再当成 notebook" >&2; exit 1; }
