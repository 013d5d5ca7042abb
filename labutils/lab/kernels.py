"""预热的内核：由一个已经导入好 torch 等库的进程 fork 出来，每个 notebook 少等几秒。

变量、环境变量、工作目录仍各是各的。只用于整套运行与测试；学生在 JupyterLab 里用的是普通的内核。
"""

import multiprocessing
import os
import sys
from importlib.metadata import EntryPoint

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

PRELOAD = ["labutils", __name__, "ipykernel.kernelapp", "labutils.demo.server", "labutils.dataset.build",
           "labutils.training.finetune", "labutils.comparison.evaluate"]  # 第一个设好环境变量
LINUX = sys.platform == "linux"  # 别处 fork 用过线程的进程不安全，或根本没有
START = multiprocessing.get_context("forkserver" if LINUX else None)


def warm_up() -> None:
    """此后本进程启动的内核都是预热的；不是 Linux 就什么也不做。"""
    if LINUX:
        factory = KernelProvisionerFactory.instance()
        factory.default_provisioner_name = "warm"
        factory.provisioners["warm"] = EntryPoint("warm", f"{__name__}:WarmProvisioner", factory.GROUP_NAME)
        START.set_forkserver_preload(PRELOAD)


class Kernel(START.Process):
    """一个内核；jupyter_client 照 subprocess.Popen 的叫法使唤它。"""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return self.exitcode

    wait = poll  # 总在 poll 说它已经退出之后才叫

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class WarmProvisioner(LocalProvisioner):
    """除了启动的办法，都与普通的内核相同。"""

    async def launch_kernel(self, cmd, **options):
        self.cwd = options.get("cwd") or os.getcwd()
        self.process = Kernel(target=_serve, args=(cmd[cmd.index("-f"):], options["env"], self.cwd))
        self.process.start()
        self.pid = self.pgid = self.process.pid
        return self.connection_info


def _serve(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """在 fork 出来的进程里：自成一组，打断由 jupyter_client 转达；父进程没了就退出。"""
    from ipykernel.kernelapp import IPKernelApp  # 在别处导入，tqdm 会以为自己在 notebook 里

    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    IPKernelApp.launch_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
