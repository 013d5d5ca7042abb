"""各测试共用的夹具:用自带配方现造一个很小的随机模型,不下载任何东西。"""

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import labutils  # noqa: F401  先设好环境变量
from labutils.lab import kernels

kernels.warm_up()  # 几十个 notebook 的内核，各少等几秒导入
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # 放在后台跑的测试不理 Ctrl-C，它启动的进程也跟着不理
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # 没有装 pytest-xdist 时没有这个钩子
def pytest_xdist_make_scheduler(config, log):
    """几个进程怎样分工：一个文件不拆开；notebook 要按顺序，后面的用前面的结果，所以全归一个进程。"""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "notebooks" if file.endswith(".ipynb") else file

    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """费时的文件先跑，免得最后只剩一个进程在忙：notebook，tests/whole，有 slow 的与网页的，其余。"""
    slow = {item.path for item in items if item.get_closest_marker("slow") or "browser" in item.path.parts}

    items.sort(key=lambda item: (
        item.path.suffix != ".ipynb", "whole" not in item.path.parts, item.path not in slow))


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory):
    """随机权重的玩具底座(文件夹路径):结构、分词器、对话格式与自带小模型相同。"""
    from tools.tiny_base.recipe import Recipe, build_model, export
    from tools.tiny_base.vocab import build_tokenizer

    folder = tmp_path_factory.mktemp("toy_base")
    recipe = Recipe(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                    num_attention_heads=2, num_key_value_heads=1, steps=0)
    tokenizer = build_tokenizer()
    export(folder, build_model(recipe, tokenizer), tokenizer, recipe, 0)
    return folder


@pytest.fixture(scope="session")
def call():
    """像在命令行里那样执行 labutils 的一条命令,返回退出码。"""
    from labutils.lab import cli

    def execute(*arguments):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
            patch.setattr(sys, "argv", ["labutils", *map(str, arguments)])
            cli.main()
        return caught.value.code

    return execute


@pytest.fixture
def interrupted(monkeypatch):
    """with interrupted(文件)：写到一半被打断，文件应当还是原来的。"""

    @contextmanager
    def check(path):
        def stop(*args):
            raise KeyboardInterrupt

        before = path.read_bytes()
        monkeypatch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            yield
        assert path.read_bytes() == before

    return check


@pytest.fixture(scope="module")  # 开着时别的测试不能用 asyncio.run，所以用完就关
def browser():
    """真的浏览器；没有装 playwright 或 Chromium 时跳过并说明。"""
    from fakes.web_fakes import BROWSER_FLAGS, find_browser

    playwright = pytest.importorskip("playwright.sync_api", reason="没有安装 playwright")
    path = find_browser(os.environ)
    if path is None:
        pytest.skip("找不到 chromium 或 google-chrome，可用 LAB_CHROMIUM 指定路径")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, demo):
    """打开测试文件自己的那个 demo。"""
    from fakes.browser_page import open_page

    page = open_page(browser, demo.url)
    yield page
    page.close()


@pytest.fixture(scope="module")
def unlimited():
    """想问多少次就问多少次：有的测试文件要问几十、几百次。"""
    from labutils.demo.guard import Visitors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Visitors, "check", lambda *a: None)
        yield
