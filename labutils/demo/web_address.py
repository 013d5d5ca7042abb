"""网页的地址：哪个端口能用、外层路径、代理、打开之后说什么。讲解见 notebook 04。"""

import contextlib
import os
import socket

from gradio import tunneling

from labutils.base.errors import LabError

NOTEBOOK_PORTS = range(7860, 7960)  # notebook 里打开时从这里找空的
SHELL_PORTS = range(8080, 8180)     # 命令行里从课程原来的 8080 开始找
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_port(host: str, port: int) -> int:
    """端口可用就原样返回，否则抛出 LabError，说明是哪个端口、怎么办。"""
    if not 1 <= port <= 65535:
        raise LabError(f"端口 {port} 不对：请用 1024 到 65535 之间的数，例如 --port 8080。")
    return _try_port(host, port, _family(host))


def _family(host: str) -> int:
    """地址是 IPv4 还是 IPv6；不是地址时抛出 LabError。"""
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except (socket.gaierror, UnicodeError) as error:  # 连着两个点时是后一种
        raise LabError(f"地址 {host} 不对：只给本机写 127.0.0.1，给局域网写 0.0.0.0。") from error


def _try_port(host: str, port: int, family: int) -> int:
    try:
        socket.create_server((host, port), family=family).close()
    except PermissionError as error:
        raise LabError(f"没有权限使用端口 {port}，请换成 1024 以上的端口，例如 8080。") from error
    except OSError as error:
        raise LabError(busy(host, port)) from error
    return port


def busy(host: str, port: int) -> str:
    """端口打不开时说的话。"""
    return (f"{host} 的端口 {port} 打不开（多半是别的程序正在用）："
            f"请换一个端口，例如 {port + 1}，或先关掉占用它的程序。")


def free_port(host: str, ports: range = NOTEBOOK_PORTS) -> int:
    """ports 里第一个能用的端口；一个也没有、地址不对时抛出 LabError。"""
    family = _family(host)
    for port in ports:
        with contextlib.suppress(LabError):
            return _try_port(host, port, family)
    raise LabError(f"{host} 的端口 {ports[0]} 到 {ports[-1]} 都打不开："
                   "请关掉一些网页，或指定 port。")


def outer_path(root_path: str | None, port: int) -> str:
    """网页外面套着的路径；在 JupyterHub 里经 jupyter-server-proxy 转发。"""
    hub = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if root_path is None and hub:
        return f"/{hub.strip('/')}/proxy/{port}"
    return root_path or ""


def local_without_proxy() -> None:
    """开着网络代理的机器上，访问本机的请求不能走代理，否则网页启动检查会失败。"""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))


def announce(url: str, share_url: str | None, share: bool, host: str, port: int, root_path: str,
             said: str) -> None:
    """打印网页的各个地址；said 是框架打印的话，分享失败时从里面找原因。"""
    print(f"网页已打开：{url}")
    if host not in LOOPBACK:
        print(f"同一局域网里的人访问：http://这台机器的IP地址:{port}")
    if root_path.startswith("/user/"):
        print(f"远程 Jupyter 里访问：{root_path}/（服务器上要装 jupyter-server-proxy）")
    if share_url:
        print(f"分享链接（最长一周有效）：{share_url}")
    elif share:
        print(_share_failed(said, port))


def _share_failed(said: str, port: int) -> str:
    reason = "连不上提供分享服务的外网服务器"
    remedy = "等网络好了再运行一次"
    if "Missing file" in said:
        reason = "分享要用的小程序 frpc 没有下载成功（外网不通，或被杀毒软件拦下）"
        remedy = (f"用别的办法下载 {tunneling.BINARY_URL}，改名为 {tunneling.BINARY_FILENAME}，"
                  "放进 Hugging Face 缓存文件夹下的 gradio/frpc 里，再运行一次")
    elif "Checksum" in said:
        reason = "分享要用的小程序 frpc 下载得不完整"
        remedy = "删掉 Hugging Face 缓存文件夹下的 gradio/frpc，再运行一次"
    return (f"没有得到分享链接：{reason}。网页在本机照常可用。要给别人看，可以：\n"
            "  1. 同一局域网：让网页监听 0.0.0.0（notebook 里设 server_name，命令行写 --host），"
            f"对方访问这台机器的 IP 和端口 {port}；\n"
            f"  2. SSH 转发：对方运行 ssh -L {port}:127.0.0.1:{port} 用户名@这台机器，"
            f"再打开 http://127.0.0.1:{port}；\n"
            f"  3. {remedy}。")
