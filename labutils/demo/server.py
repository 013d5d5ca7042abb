"""启动、分享和关闭对话网页。讲解见 notebook 04。

网页默认只在本机打开；要让别人访问（分享链接或局域网），必须设用户名和密码，
否则任何拿到地址的人都能占用这台机器。
"""

import contextlib
import io
import os
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import gradio as gr
import matplotlib.pyplot  # noqa: F401  框架到第一次提问时才导入它，那个人要多等半秒
from gradio import tunneling
from starlette.middleware import Middleware

from labutils.base import files
from labutils.base.errors import LabError
from labutils.demo.guard import LOOPBACK, Guard
from labutils.demo.page import CSS, HEAD, THEME, build

NOTEBOOK_PORTS = range(7860, 7960)  # notebook 里打开时从这里找空的
SHELL_PORTS = range(8080, 8180)     # 命令行里从课程原来的 8080 开始找
CONVERSATIONS_KEPT = 512            # 服务器最多记着多少个标签页的对话
MAX_THREADS = 256                   # 每个等着回答的人占一条线程，绝大部分时间在睡
_current: "Demo | None" = None


@dataclass
class Demo(contextlib.AbstractContextManager):
    """一个打开着的网页；写成 ``with launch(…) as demo:`` 就会在离开时自己关闭。auth 打印时不显示。"""

    url: str
    share_url: str | None = None
    auth: tuple[str, str] | None = field(default=None, repr=False)
    blocks: gr.Blocks | None = field(default=None, repr=False)

    def close(self) -> None:
        """关闭网页、放开端口；可以重复调用。"""
        global _current
        if self.blocks is not None:
            self.blocks.close(verbose=False)
            self.blocks = None
        if _current is self:
            _current = None

    def __exit__(self, *error) -> None:
        self.close()


def launch(
    model, tokenizer, share: bool = False, port: int | None = None,
    auth: tuple[str, str] | None = None, inline: bool = False,
    server_name: str = "127.0.0.1", root_path: str | None = None, ports: range = NOTEBOOK_PORTS, **page,
) -> Demo:
    """打开网页并立刻返回；再次调用会先关掉上一次打开的网页。

    port 为 None 或 0 时从 ports 里找空端口。share 或 server_name 让外面能访问时必须有 auth，
    没给就生成一个随机密码并打印一次。inline=True 在 notebook 里嵌入网页。
    root_path 是网页外面套着的路径，不写时在 JupyterHub 里经 jupyter-server-proxy 转发。
    page 是交给 build 的参数（rows、adapter、feedback、stream、parallel）。
    端口被占用或地址不对时抛出 LabError。
    """
    global _current
    if _current is not None:
        _current.close()
    auth = _require_auth(auth, public=share or server_name not in LOOPBACK)
    ports = [check_port(server_name, port)] if port else free_ports(server_name, ports)
    local_without_proxy()
    blocks, said = build(model, tokenizer, **page), io.StringIO()
    with contextlib.redirect_stdout(said) if share else contextlib.nullcontext():
        port = _start(blocks, ports, root_path, share=share, server_name=server_name, auth=auth)
    demo = _current = Demo(blocks.local_url.rstrip("/"), blocks.share_url, auth, blocks)
    forwarded = blocks.root_path if blocks.root_path.startswith("/user/") else ""
    print(f"网页已打开：{demo.url}")
    if server_name not in LOOPBACK:
        print(f"同一局域网里的人访问：http://这台机器的IP地址:{port}")
    if forwarded:
        print(f"远程 Jupyter 里访问：{forwarded}/（服务器上要装 jupyter-server-proxy）")
    if share:
        print(f"分享链接（最长一周有效）：{demo.share_url}" if demo.share_url
              else _share_failed(said.getvalue(), port))
    if inline:
        from IPython.display import IFrame, display

        # 远程 Jupyter 里 127.0.0.1 是学生自己的电脑，要走转发路径
        display(IFrame(f"{forwarded}/" if forwarded else demo.url, width="100%", height=720))
    return demo


def _start(blocks: gr.Blocks, ports: Iterable[int], root_path: str | None, **options) -> int:
    """在 ports 里第一个打得开的端口上打开网页，返回端口；都打不开时引发 Busy。"""
    hub = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "").strip("/")
    for port in ports:
        outside = f"/{hub}/proxy/{port}" if root_path is None and hub else root_path or ""
        # 同一台机器上几个人同时打开时，刚才还空着的端口可能已被占去
        with contextlib.suppress(OSError):
            blocks.launch(
                server_port=port, root_path=outside, **options, prevent_thread_lock=True, inline=False,
                quiet=True, theme=THEME, css=CSS, head=HEAD, footer_links=[], run_history=False,
                ssr_mode=False, enable_monitoring=False, max_file_size="1kb", max_threads=MAX_THREADS,
                state_session_capacity=CONVERSATIONS_KEPT, auth_message="请输入老师给的用户名和密码。",
                app_kwargs={"middleware": [Middleware(Guard, root_path=outside)]})
            return port
    blocks.close(verbose=False)
    raise Busy(options["server_name"], port)


class Busy(LabError):
    def __init__(self, host: str, port: int):
        super().__init__(f"{host} 的端口 {port} 打不开（多半是别的程序正在用）："
                         f"请换一个端口，例如 {port + 1}，或先关掉占用它的程序。")


def check_port(host: str, port: int) -> int:
    """端口可用就原样返回，否则抛出 LabError，说明是哪个端口、怎么办。"""
    if not 1 <= port <= 65535:
        raise LabError(f"端口 {port} 不对：请用 1024 到 65535 之间的数，例如 --port 8080。")
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except (socket.gaierror, UnicodeError) as error:  # 连着两个点时是后一种
        raise LabError(f"地址 {host} 不对：只给本机写 127.0.0.1，给局域网写 0.0.0.0。") from error
    except PermissionError as error:
        raise LabError(f"没有权限使用端口 {port}，请换成 1024 以上的端口，例如 8080。") from error
    except OSError as error:
        raise Busy(host, port) from error
    return port


def free_ports(host: str, ports: range) -> Iterator[int]:
    """ports 里现在能用的端口，从小到大；一个也没有、地址不对时抛出 LabError。

    框架自己也会找，但只从 7860 找起，而且外层路径要先知道端口。
    """
    for port in ports:
        with contextlib.suppress(Busy):
            yield check_port(host, port)
    raise LabError(f"{host} 的端口 {ports[0]} 到 {ports[-1]} 都打不开：请关掉一些网页，或指定 port。")


def local_without_proxy() -> None:
    """开着网络代理的机器上，访问本机的请求不走代理，否则网页启动时的检查会失败。"""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))


def _require_auth(auth, public: bool) -> tuple[str, str] | None:
    if auth is None:
        if not public:
            return None
        auth = ("student", secrets.token_urlsafe(9))
        print(f"网页对外开放，登录信息只显示这一次：用户名 {auth[0]}，密码 {auth[1]}")
    if len(auth) != 2 or not all(auth):
        raise LabError("登录信息不完整：auth 要写成 (用户名, 密码)，两项都不能为空。")
    return tuple(auth)


def _share_failed(said: str, port: int) -> str:
    reason, remedy = "连不上提供分享服务的外网服务器", "等网络好了再运行一次"
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


def in_jupyter() -> bool:
    """有没有人在 Jupyter 里看着：Jupyter 的服务器会告诉内核它打开的是哪个 notebook，papermill 不会。"""
    return "JPY_SESSION_NAME" in os.environ


def serve(
    model_path: str | None, tokenizer_path: str | None = None, host: str = "127.0.0.1",
    port: int | None = None, root_path: str | None = None, share: bool = False,
    auth: tuple[str, str] | None = None, endpoint=None, qa: str = "data/qa.jsonl",
    feedback: str = "output/feedback.jsonl",
) -> None:
    """命令行 ``labutils demo``：载入模型，打开网页，一直运行到按 Ctrl+C。

    port 不写就用 8080，被占用就用下一个空的；写了却被占用时抛出 LabError。auth 不写就看环境变量
    LAB_DEMO_AUTH（``用户名:密码``）。给了 endpoint（一个 Endpoint）就不载入模型。qa 是给出处和例子的
    问答数据，没有就不显示；feedback 存评价与改正。先查端口再载入模型，免得白等。
    """
    auth = auth or parse_auth(os.environ.get("LAB_DEMO_AUTH", ""), "环境变量 LAB_DEMO_AUTH")
    _ = check_port(host, port) if port else next(free_ports(host, SHELL_PORTS))
    page = {"rows": _rows(qa), "feedback": files.place(feedback)}
    if endpoint is None:
        from labutils.models import loader

        model, tokenizer = loader.load(model_path)
        if tokenizer_path not in (None, "", model_path):
            _, tokenizer = loader.load(tokenizer_path)
        page["adapter"] = files.rel(files.resolve(model_path))
    else:
        endpoint.check()
        model, tokenizer = endpoint, None
        page |= {"stream": endpoint.stream, "parallel": endpoint.parallel}
    with launch(model, tokenizer, share=share, port=port, auth=auth, server_name=host,
                root_path=root_path, ports=SHELL_PORTS, **page):
        print("按 Ctrl+C 关闭网页。", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("网页已关闭。")


def parse_auth(text: str, where: str) -> tuple[str, str] | None:
    """``用户名:密码`` → (用户名, 密码)；空的是 None，写得不对时抛出 LabError。"""
    user, _, password = text.partition(":")
    if text and not (user and password):
        raise LabError(f"{where} 要写成 用户名:密码，请改好后再运行。")
    return (user, password) if text else None


def _rows(qa: str) -> list[dict]:
    """问答数据；没有这个文件时是空的，不是 JSON 照样报错，不合格的那几条不用。"""
    from labutils.dataset import checks, rows

    path = files.resolve(qa)
    if not path.is_file():
        return []
    print(f"出处和例子：{files.rel(path)}")
    good, bad = checks.validate(rows.load_qa(path), require_evidence=False)
    if bad:
        print(f"其中 {len(bad)} 条不合格，没有用，例如：{bad[0]['reason']}。")
    return good
