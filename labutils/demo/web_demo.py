"""启动、分享和关闭对话网页。讲解见 notebook 04。

网页默认只在本机打开；要让别人访问（分享链接或局域网），必须设用户名和密码，
否则任何拿到地址的人都能占用这台机器。
"""

import contextlib
import io
import os
import secrets
import threading
from dataclasses import dataclass, field

import gradio as gr
import matplotlib.pyplot  # noqa: F401  框架到第一次提问时才导入它，那个人要多等半秒
from starlette.middleware import Middleware

from labutils.base import paths
from labutils.base.errors import LabError
from labutils.demo import web_address
from labutils.demo.web_address import LOOPBACK, check_port, free_port
from labutils.demo.web_limits import CONVERSATIONS_KEPT, Guard
from labutils.demo.web_page import build
from labutils.demo.web_style import CSS, HEAD, THEME

__all__ = ["Demo", "build", "check_port", "in_jupyter", "launch", "serve"]
MAX_THREADS = 256  # 每个等着回答的人占一条线程，绝大部分时间在睡
_current: "Demo | None" = None


@dataclass
class Demo:
    """一个打开着的网页。auth 是 (用户名, 密码)，不设密码时为 None，打印时不显示。

    写成 ``with launch(…) as demo:`` 就会在离开时自己关闭。
    """

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

    def __enter__(self) -> "Demo":
        return self

    def __exit__(self, *error) -> None:
        self.close()


def launch(
    model, tokenizer, share: bool = False, port: int | None = None,
    auth: tuple[str, str] | None = None, inline: bool = False,
    server_name: str = "127.0.0.1", root_path: str | None = None, **page,
) -> Demo:
    """打开网页并立刻返回；再次调用会先关掉上一次打开的网页。

    port 为 None 或 0 时自己找空端口。share 或 server_name 让外面能访问时必须有 auth，
    没给就生成一个随机密码并打印一次。inline=True 在 notebook 里嵌入网页。
    page 是交给 build 的参数（rows、examples、adapter、feedback、stream、parallel）。
    端口被占用或地址不对时抛出 LabError。
    """
    global _current
    if _current is not None:
        _current.close()
    port = free_port(server_name) if not port else check_port(server_name, port)
    auth = _require_auth(auth, public=share or server_name not in LOOPBACK)
    root_path = web_address.outer_path(root_path, port)
    web_address.local_without_proxy()
    blocks = build(model, tokenizer, **page)
    said = _start(blocks, share, port, auth, server_name, root_path)
    demo = _current = Demo(blocks.local_url.rstrip("/"), blocks.share_url, auth, blocks)
    web_address.announce(demo.url, demo.share_url, share, server_name, port, root_path, said)
    if inline:
        _embed(demo, root_path)
    return demo


def _start(blocks, share, port, auth, server_name, root_path) -> str:
    """启动服务器，返回框架自己打印的话（只在分享失败时用来判断原因）。"""
    said = io.StringIO()
    quiet = contextlib.redirect_stdout(said) if share else contextlib.nullcontext()
    try:
        with quiet:
            blocks.launch(
                share=share, server_port=port, server_name=server_name, auth=auth,
                root_path=root_path, prevent_thread_lock=True, inline=False, quiet=True,
                theme=THEME, css=CSS, head=HEAD, footer_links=[], run_history=False,
                ssr_mode=False, enable_monitoring=False, max_file_size="1kb",
                max_threads=MAX_THREADS, state_session_capacity=CONVERSATIONS_KEPT,
                app_kwargs={"middleware": [Middleware(Guard, root_path=root_path)]},
                auth_message="请输入老师给的用户名和密码。",
            )
    except OSError as error:
        blocks.close(verbose=False)
        raise LabError(web_address.busy(server_name, port)) from error
    return said.getvalue()


def _require_auth(auth, public: bool) -> tuple[str, str] | None:
    if auth is None and not public:
        return None
    if auth is None:
        auth = ("student", secrets.token_urlsafe(9))
        print(f"网页对外开放，登录信息只显示这一次：用户名 {auth[0]}，密码 {auth[1]}")
    if len(auth) != 2 or not all(auth):
        raise LabError("登录信息不完整：auth 要写成 (用户名, 密码)，两项都不能为空。")
    return tuple(auth)


def _embed(demo: Demo, root_path: str) -> None:
    from IPython.display import IFrame, display

    # 远程 Jupyter 里 127.0.0.1 是学生自己的电脑，要走转发路径。
    address = f"{root_path}/" if root_path.startswith("/user/") else demo.url
    display(IFrame(address, width="100%", height=720))


def in_jupyter() -> bool:
    """有没有人在 Jupyter 里看着：Jupyter 的服务器会告诉内核它打开的是哪个 notebook，papermill 不会。"""
    return "JPY_SESSION_NAME" in os.environ


def serve(
    model_path: str | None = None, tokenizer_path: str | None = None, host: str = "127.0.0.1",
    port: int | None = None, root_path: str | None = None, share: bool = False,
    auth: tuple[str, str] | None = None, endpoint=None, qa: str = "data/qa.jsonl",
    feedback: str = "output/feedback.jsonl",
) -> None:
    """命令行 ``labutils demo``：载入模型，打开网页，一直运行到按 Ctrl+C。

    port 不写就用 8080，被占用就用下一个空的；写了却被占用时抛出 LabError。
    给了 endpoint（labutils.endpoint.Endpoint）就不载入模型，问题转给那台服务器。
    qa 是给出处和例子的问答数据，没有这个文件就不显示；feedback 是存评价与改正的文件。

    没给的参数从环境变量取：MODEL_PATH、TOKENIZER_PATH、CG_APP_ROUTE_PATH（外层路径）、
    LAB_DEMO_AUTH（形如 ``用户名:密码``）。先查端口再载入模型，免得白等。
    """
    auth = auth or parse_auth(os.environ.get("LAB_DEMO_AUTH", ""), "环境变量 LAB_DEMO_AUTH")
    port = check_port(host, port) if port else free_port(host, web_address.SHELL_PORTS)
    page = {"rows": _rows(qa), "feedback": paths.resolve(feedback)}
    if endpoint is None:
        name = model_path or os.environ.get("MODEL_PATH") or "tiny"
        model, tokenizer = _load(name, tokenizer_path or os.environ.get("TOKENIZER_PATH"))
        page["adapter"] = paths.rel(paths.resolve(name))
    else:
        endpoint.check()
        model, tokenizer = endpoint, None
        page |= {"stream": endpoint.stream, "parallel": endpoint.parallel}
    root_path = root_path if root_path is not None else os.environ.get("CG_APP_ROUTE_PATH")
    with launch(model, tokenizer, share=share, port=port, auth=auth, server_name=host,
                root_path=root_path, **page):
        print("按 Ctrl+C 关闭网页。", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("网页已关闭。")


def parse_auth(text: str, where: str) -> tuple[str, str] | None:
    """``用户名:密码`` → (用户名, 密码)；空的是 None，写得不对时抛出 LabError。"""
    if not text:
        return None
    user, _, password = text.partition(":")
    if not user or not password:
        raise LabError(f"{where} 要写成 用户名:密码，请改好后再运行。")
    return user, password


def _rows(qa: str) -> list[dict]:
    """问答数据；没有这个文件时是空的，不是 JSON 照样报错，不合格的那几条不用。"""
    from labutils.dataset import qa_dataset

    path = paths.resolve(qa)
    if not path.is_file():
        return []
    print(f"出处和例子：{paths.rel(path)}")
    good, bad = qa_dataset.validate(qa_dataset.load_qa(path), require_evidence=False)
    if bad:
        print(f"其中 {len(bad)} 条不合格，没有用，例如：{bad[0]['reason']}。")
    return good


def _load(model_path: str, tokenizer_path: str | None):
    from labutils.models import models

    model, tokenizer = models.load(model_path)
    if tokenizer_path and tokenizer_path != model_path:
        _, tokenizer = models.load(tokenizer_path)
    return model, tokenizer


# 导入时就设好：notebook 里的小网页不经过 launch，也要避开代理。
web_address.local_without_proxy()
