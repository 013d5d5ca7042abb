#!/usr/bin/env bash
# 内核启动器（kernel provisioner）没有登记，jupyter_client 却说没有 python3 这个内核
#
# 【先猜】（运行之前写下）
#   kernel.json 或环境变量 JUPYTER_DEFAULT_PROVISIONER_NAME 里写的启动器没有装，启动内核时报的是启动器的名字：
#   create_provisioner_instance 的说明写着 ModuleNotFoundError，信息是“Kernel provisioner 'x' has not been registered”。
#   列出内核的 jupyter kernelspec list 照常列出，或者说明哪个少了启动器。
#
# 【实际】jupyter_client 8.10.0：启动时是 NoSuchKernel: No such kernel named python3，一个字也不提启动器；
#   启动器的名字只在一条日志警告里，不在异常里，nbclient、papermill 抛给人看的只有异常。
#   find_kernel_specs() 照样有 python3，get_all_specs() 与 jupyter kernelspec list 却说一个内核也没有
#   （list 会印出那条警告，这一点猜对了）：文件好好的，照着异常去重装内核没有用。说明里写的 ModuleNotFoundError 要绕过 get_kernel_spec 才遇得到。
#
# 【为什么】get_kernel_spec 找到了 kernel.json，接着 is_provisioner_available 为假，就与没有找到报同一个错。
#
# 【伤到谁】用远程、容器或自己写的启动器的人：换了虚拟环境、编辑安装之后没有重装（入口点是安装时写下的），
#   看到的却是“没有 python3 内核”，会去重装 ipykernel、改 kernelspec，都无济于事。
#
# 【怎么避开】见到 NoSuchKernel，先看 find_kernel_specs()：里面有，就查启动器的入口点。程序里用的，直接把 EntryPoint
#   放进 KernelProvisionerFactory.instance().provisioners，不靠安装。
#
# 版本：jupyter_client 8.10.0，ipykernel 7.4.0，Python 3.11，Linux。日期：2026-11-29。
#
# 【看到的输出】
#   find_kernel_specs() 有 python3：是；get_all_specs() 有 python3：否
#   get_kernel_spec：NoSuchKernel: No such kernel named python3
#   create_provisioner_instance：ModuleNotFoundError: Kernel provisioner 'remote-room' has not been registered.

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH JUPYTER_PATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet jupyter_client==8.10.0 ipykernel==7.4.0

cat > ask.py <<'PY'
import os
import sys

os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = "remote-room"
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.provisioning import KernelProvisionerFactory

manager = KernelSpecManager()
found, listed = "python3" in manager.find_kernel_specs(), "python3" in manager.get_all_specs()
print(f"find_kernel_specs() 有 python3：{'是' if found else '否'}；get_all_specs() 有 python3：{'是' if listed else '否'}")
try:
    manager.get_kernel_spec("python3")
except NoSuchKernel as error:
    said = f"NoSuchKernel: {error}"
else:
    said = "没有报错"
print(f"get_kernel_spec：{said}")
try:
    KernelProvisionerFactory.instance().create_provisioner_instance("1", KernelSpec(), None)
except ModuleNotFoundError as error:
    print(f"create_provisioner_instance：ModuleNotFoundError: {error}")
sys.exit(not (found and not listed and said == "NoSuchKernel: No such kernel named python3"))
PY

venv/bin/python ask.py 2> err.txt || { cat err.txt; echo "行为变了：见上面几行" >&2; exit 1; }
