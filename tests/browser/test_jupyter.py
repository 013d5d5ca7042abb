"""真的 JupyterLab：打开 notebook 04，全部运行，网页嵌在里面、能回答；再运行一次也一样。"""

import os
import socket
import subprocess
import sys

import httpx
import nbformat
import pytest
from fakes.browser_page import BOX, wait_for
from peft import LoraConfig, get_peft_model

from labutils.base import files
from labutils.models import loader

NAME = "04_web_demo.ipynb"
FRAME = "iframe[src^='http://127.0.0.1:']"
CLEAR = "window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')"
RUN_ALL = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
RUN_AGAIN = """() => {
    const content = window.jupyterapp.shell.currentWidget.content;
    content.activeCellIndex = content.widgets.findIndex(
        cell => cell.model.sharedModel.source.includes("inline=watched"));
    return window.jupyterapp.commands.execute("notebook:run-cell");
}"""
SHOW = """() => { const frame = document.querySelector("iframe[src^='http://127.0.0.1:']");
                  if (frame) frame.scrollIntoView({block: "center"}); return !!frame }"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """一份 notebook 04，用一个没训练过的小适配器：这里看的是网页，不是答得对不对。"""
    folder = tmp_path_factory.mktemp("jupyter")
    model, _ = loader.load("tiny")
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    get_peft_model(model, config).save_pretrained(folder / "adapter")
    notebook = nbformat.read(files.NOTEBOOKS / NAME, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('ADAPTER = ""', f"ADAPTER = {str(folder / 'adapter')!r}")
        cell.source = cell.source.replace('"output/lab"', repr(str(folder / "out")))
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / NAME)
    return folder


@pytest.fixture(scope="module")
def jupyter(folder):
    """JupyterLab 的网址；设置和临时文件都放在 folder 里，不碰用户自己的。"""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    private = {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    private |= {f"JUPYTERLAB_{kind}_DIR": str(folder / kind) for kind in ("SETTINGS", "WORKSPACES")}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}",
               f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=test",
               "--LabApp.expose_app_in_browser=True"]
    with (folder / "jupyter.log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | private, stdout=log, stderr=log)
    try:
        wait_for(lambda: _alive(f"http://127.0.0.1:{port}/api?token=test"))
        yield f"http://127.0.0.1:{port}/lab/tree/{NAME}?token=test"
    finally:
        server.terminate()  # 它会先关掉自己开的内核
        server.wait(30)


def _alive(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def test_run_all_shows_the_page_and_it_answers(browser, jupyter):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(jupyter)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
                           "?.connectionStatus === 'connected'")
    page.evaluate(RUN_ALL)
    wait_for(lambda: "网页保持打开" in _outputs(page), 180)
    assert "Traceback" not in _outputs(page) and "端口已经放开" in _outputs(page)
    first = _answers(page)
    page.evaluate(CLEAR)
    page.evaluate(RUN_AGAIN)  # 先前的网页自己关掉，同一个端口再打开
    assert _answers(page) == first
    page.close()


def _answers(page):
    """嵌着的网页的地址；确认它能回答。"""
    wait_for(lambda: page.evaluate(SHOW))
    inside = page.frame_locator(FRAME)
    inside.locator(BOX).fill("你好")
    inside.locator("#lab-send").click()
    answer = inside.locator("#lab-after [data-testid=bot] .message-content")
    wait_for(lambda: answer.count() and answer.first.inner_text().strip())
    return page.locator(FRAME).get_attribute("src")


def _outputs(page):
    """所有单元的输出；不看画面，因为 JupyterLab 不画窗口以外的单元。"""
    return page.evaluate("JSON.stringify(window.jupyterapp.shell.currentWidget.content.model"
                         ".toJSON().cells.map(cell => cell.outputs || []))")
