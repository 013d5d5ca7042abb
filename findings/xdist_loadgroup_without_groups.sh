#!/usr/bin/env bash
# pytest-xdist 的 --dist loadgroup 在 pytest 9.2 上悄悄不再分组
#
# 【先猜】（运行之前写下）
#   同一个 @pytest.mark.xdist_group("甲") 的测试一定在同一个进程里，按次序一个接一个：文档这样写，
#   要按次序跑的测试（例如后一个 notebook 用前一个写下的文件）正靠它。换 pytest 的小版本不会改变这一点；
#   要是合不来，pip 装不上，或者运行时报错。
#
# 【实际】pytest 9.0.2 加 pytest-xdist 3.8.0：六个测试全在一个进程里，猜对了。
#   只把 pytest 换成 9.2.0（pip 没有意见）：六个测试分给两个进程，退出码 0，没有一句提醒。
#   分组不再起作用，次序也就没有了；碰巧互不依赖的测试照样通过，所以看不出来。
#
# 【为什么】xdist 的工作进程给 item._nodeid 加上“@组名”，主进程按 nodeid 末尾的“@组名”分派；
#   pytest 9.2 的 nodeid 改由另一个属性算出，写进 _nodeid 的后缀谁也不读。
#
# 【伤到谁】用 loadgroup 让几个测试共用一个昂贵的夹具、一个端口、一个文件夹，或要求先后次序的人：
#   夹具在每个进程里各建一遍（变慢），次序乱了（偶尔失败，换一台机器又好了）。
#
# 【怎么避开】--dist loadfile（按文件分）不受影响：它看 nodeid 里的文件名。要自己的分法，用文档里的
#   pytest_xdist_make_scheduler 钩子返回一个改写了 _split_scope 的 LoadScopeScheduling。
#
# 版本：pytest 9.0.2 与 9.2.0，pytest-xdist 3.8.0，Python 3.11，Linux。日期：2026-11-28。
#
# 【看到的输出】
#   pytest 9.0.2：一组六个测试用了 1 个进程
#   pytest 9.2.0：一组六个测试用了 2 个进程

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTEST_ADDOPTS

cat > test_group.py <<'PY'
import time

import pytest


@pytest.mark.xdist_group("甲")
@pytest.mark.parametrize("i", range(6))
def test_in_one_process(i, worker_id):
    time.sleep(0.3)
    with open("seen.txt", "a", encoding="utf-8") as file:
        file.write(worker_id + "\n")
PY

"${PYTHON:-python3}" -m venv venv
count() {
  venv/bin/python -m pip install --quiet "pytest==$1" pytest-xdist==3.8.0
  rm -f seen.txt
  venv/bin/python -m pytest -q -n 2 --dist loadgroup -p no:cacheprovider test_group.py > log.txt ||
    { cat log.txt; echo "行为变了：pytest $1 上测试不再通过" >&2; exit 1; }
  workers="$(sort -u seen.txt | wc -l)"
  echo "pytest $1：一组六个测试用了 $((workers)) 个进程"
}

count 9.0.2
[ "$((workers))" = 1 ] || { echo "行为变了：pytest 9.0.2 上也不分组了" >&2; exit 1; }
count 9.2.0
[ "$((workers))" = 2 ] || { echo "行为变了：pytest 9.2.0 上又分组了" >&2; exit 1; }
