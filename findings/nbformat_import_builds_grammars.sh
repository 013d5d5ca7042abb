#!/usr/bin/env bash
# 装了 JupyterLab 以后，同一个环境里 import nbformat 慢了十倍：每个进程都要现造 39 个语法分析器
#
# 【先猜】（在别的程序的剖析里见到 lark 之后、运行之前写下）
#   import nbformat 只要零点几秒，装不装 JupyterLab 都一样：JupyterLab 是另一个程序，不会因为装了它，读 notebook
#   的库就去导入别的东西。
#
# 【实际】只装 nbformat：import 约 0.1 秒 CPU，没有 lark。再装 jupyter_events（jupyter_server、JupyterLab 都带着它）：
#   约 1 秒，其中造了 39 个 lark.Lark（Earley），文法每次从头读；一个也没有用到。
#   导入 jsonschema 的都一样：nbclient、nbconvert、papermill、jupyter_server、nbval（pytest 一启动就导入它）。
#
# 【为什么】jupyter_events 依赖 jsonschema[format-nongpl]，它带来 rfc3987-syntax。jsonschema 4.26 的 _format.py 一导入就
#   试着导入它，用来查 iri 两种格式；rfc3987_syntax 1.1.0 一导入就给每条规则各造一个分析器，不等到用的时候。
#   nbformat 查 notebook 用的是 fastjsonschema，也照样先导入 jsonschema。
#
# 【伤到谁】一次开许多进程的人：每份作业一个进程的评分、CI 里的几十个小测试、命令行工具的 --help；
#   慢的是别人的库，看自己的代码找不到。
#
# 【怎么避开】用到时才导入 nbformat；或者开一个进程做许多份（fork 出来的不必再导入）。不要去卸 rfc3987-syntax：
#   pip check 会说缺依赖。
#
# 版本：nbformat 5.11.1，jsonschema 4.26.0，jupyter_events 0.12.1，rfc3987-syntax 1.1.0，lark 1.3.1，Python 3.11，Linux。
# 日期：2026-11-29。
#
# 【看到的输出】
#   只装 nbformat：import 用 0.09 CPU 秒，造了 0 个语法分析器
#   再装 jupyter_events：import 用 0.99 CPU 秒，造了 39 个语法分析器

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

cat > ask.py <<'PY'
import importlib.util
import sys
import time

built = 0
if importlib.util.find_spec("lark"):
    import lark

    make = lark.Lark.__init__

    def counted(self, *args, **options):
        global built
        built += 1
        make(self, *args, **options)

    lark.Lark.__init__ = counted
began = time.process_time()
import nbformat

print(built, f"{time.process_time() - began:.2f}")
PY

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet nbformat==5.11.1 jsonschema==4.26.0
measure() { for _ in 1 2 3; do venv/bin/python -I ask.py; done | sort -k2 -n | head -1; }
read -r before_built before < <(measure)
venv/bin/python -m pip install --quiet jupyter_events==0.12.1 rfc3987-syntax==1.1.0 lark==1.3.1
read -r after_built after < <(measure)
echo "只装 nbformat：import 用 ${before} CPU 秒，造了 ${before_built} 个语法分析器"
echo "再装 jupyter_events：import 用 ${after} CPU 秒，造了 ${after_built} 个语法分析器"
venv/bin/python -c "import sys; a, b, n, m = map(float, sys.argv[1:]); sys.exit(not (n == 0 and m > 30 and b > 3 * a))" \
  "$before" "$after" "$before_built" "$after_built" || { echo "行为变了：见上面两行" >&2; exit 1; }
