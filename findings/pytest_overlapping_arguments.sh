#!/usr/bin/env bash
# pytest tests/slow tests：先跑 tests/slow，再跑其余的吗？
#
# 【先猜】（运行之前写下）
#   参数按写的次序收集，后面重复的去掉：先 slow，再 fast；两个测试都跑，各跑一次。
#   把最费时的文件夹写在前面，是几个进程分工时常用的办法。
#
# 【实际】两个版本都不是。
#   pytest 8.4.2：只跑 slow，fast 一个也没有跑，照样退出码 0，没有提醒。
#   pytest 9.2.0：两个都跑，可是 slow 排到了 fast 后面：含在另一个参数里面的那个被去掉，哪怕它写在前面。
#   写成 tests/slow tests/fast tests/slow（谁也不含谁，只有一个重复），9.2.0 就是猜的那样。
#
# 【伤到谁】8.4.2 上，以为全跑了的人；9.2.0 上，靠参数的次序让慢的先跑的人（pytest-xdist 加
#   --no-loadscope-reorder）：慢的排到最后，别的进程跑完了闲着等，测试都通过，只是总时间变长。
#
# 【怎么避开】只写 tests，次序在 conftest.py 的 pytest_collection_modifyitems 里排。
#
# 版本：pytest 9.2.0 与 8.4.2，Python 3.11。日期：2026-11-29。
#
# 【看到的输出】
#   pytest 8.4.2：slow
#   pytest 9.2.0：fast slow

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

mkdir -p tests/fast tests/slow
echo "def test_one(): pass" | tee tests/fast/test_fast.py > tests/slow/test_slow.py

for case in "8.4.2=slow" "9.2.0=fast slow"; do
  version="${case%%=*}"
  "${PYTHON:-python3}" -m venv "venv-$version"
  "venv-$version/bin/python" -m pip install --quiet "pytest==$version"
  ran="$("venv-$version/bin/python" -I -m pytest -v tests/slow tests | sed -n 's|^tests/\([a-z]*\)/.* PASSED.*|\1|p' | xargs)"
  echo "pytest $version：$ran"
  [ "$ran" = "${case#*=}" ] || { echo "行为变了：pytest $version 跑的是 $ran。" >&2; exit 1; }
done
