"""真的 JupyterLab：打开 notebook 04，全部运行，网页嵌在里面、能回答；再运行一次也一样。

再是学生自己的网页：notebook 04 写出的 my_app.py，它不靠 labutils。
"""

import ast
import html
import os
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise

import httpx
import nbformat
import pytest
import torch
from fakes.browser_page import BOX, wait_for
from fakes.web_fakes import free_port
from gradio_client import Client
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from labutils import models
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
        cell.source = cell.source.replace("PORT = 0 ", f"PORT = {free_port()} ")
        cell.source = cell.source.replace('ADAPTER = ""', f"ADAPTER = {str(folder / 'adapter')!r}")
        cell.source = cell.source.replace('"output/lab"', repr(str(folder / "out")))
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / NAME)
    return folder


@pytest.fixture(scope="module")
def jupyter(folder):
    """JupyterLab 的网址；设置和临时文件都放在 folder 里，不碰用户自己的。"""
    port = free_port()
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
    wait_for(lambda: "网页保持打开" in _outputs(page), 300)
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


# —— 学生自己的网页 ——


TINY = files.ROOT / "labutils" / "models" / "tiny"
BOLD = "你好<b>粗</b> <script>window.hacked=1</script> &lt; **星**"
SEEN = """() => { window.seen = []; new MutationObserver(() => {
    const said = [...document.querySelectorAll("[data-testid=bot]")].map(one => one.innerText).join("|");
    if (seen.at(-1) !== said) seen.push(said);
}).observe(document.body, {subtree: true, childList: true, characterData: true}) }"""


def own_source() -> str:
    cells = nbformat.read(files.NOTEBOOKS / "04_web_demo.ipynb", as_version=4).cells
    (source,) = (cell.source for cell in cells if cell.source.startswith("%%writefile"))
    return source.partition("\n")[2]


@contextmanager
def own_page(folder, **environment):
    """在 folder 里运行 my_app.py，给出网址。"""
    (folder / "my_app.py").write_text(own_source(), encoding="utf-8")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "my_app.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PORT": str(port), **environment}, encoding="utf-8")
    try:
        assert any("Running on" in line for line in process.stdout)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def save_adapter(folder, base_name=None):
    """一个什么也没学过、但确实改变了回答的适配器；base_name 代替它记着的基座。"""
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=32, target_modules="all-linear",
                        init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32), config)
    if base_name:
        model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """只给一个适配器文件夹：基座照它记的去找。"""
    folder = tmp_path_factory.mktemp("own")
    with own_page(folder, MODEL_PATH=save_adapter(folder / "adapter")) as url:
        yield url, folder / "adapter"


def own_answer(url, question) -> list[str]:
    """像浏览器那样问一句，返回每次刷新的回答。"""
    client = Client(url, verbose=False)
    _, history = client.predict(question, [], api_name="/add")
    job = client.submit(history, api_name="/reply")
    assert job.result()[0]["content"][0]["text"] == html.escape(question)
    return [html.unescape(step[-1]["content"][0]["text"]) for step in job.outputs()]


def test_own_page_needs_no_labutils():
    tree = ast.walk(ast.parse(own_source()))
    assert not [node for node in tree if "labutils" in ast.dump(node) and isinstance(
        node, ast.Import | ast.ImportFrom)]
    assert len(own_source().splitlines()) <= 60


def test_own_page_answers_with_the_adapter(own):
    url, adapter = own
    question = "怎么理解大模型？"
    said = own_answer(url, question)
    expected, plain = (models.answer(*models.load(source), [question], max_new_tokens=256)[0]
                       for source in (adapter, "tiny"))
    assert said[-1] == expected != plain and len(set(said)) > 5


def test_own_page_in_a_browser(browser, own):
    """流式，回车也行；用户写的只当文字；清空以后不再冒出来。"""
    page = browser.new_page(locale="zh-CN")
    page.goto(own[0])
    page.get_by_role("heading", name="我的课程问答").wait_for()
    assert page.title() == "我的课程问答"
    box, send, clear = (page.get_by_label("问题"), page.get_by_role("button", name="发送"),
                        page.get_by_role("button", name="清空历史对话"))
    page.evaluate(SEEN)
    box.fill(BOLD)
    send.click()
    bots, users = page.locator("[data-testid=bot]"), page.locator("[data-testid=user]")
    expected = own_answer(own[0], BOLD)[-1]
    wait_for(lambda: bots.all_inner_texts() == [expected])
    assert users.all_inner_texts() == [BOLD] and box.input_value() == ""
    assert users.locator("b, strong, script").count() == 0 and page.evaluate("window.hacked") is None
    seen = [text for text in page.evaluate("seen") if text]
    assert len(seen) > 3 and all(after.startswith(before) for before, after in pairwise(seen))
    for _ in range(5):  # 正说着就清空：迟到的刷新不会把旧对话带回来
        box.fill("再问一句")
        box.press("Enter")
        wait_for(lambda: users.count() == bots.count() and users.last.inner_text() == "再问一句")
        clear.click()
        wait_for(lambda: not users.count())
        page.wait_for_timeout(1000)
        assert not bots.count() and not users.count()
    page.close()


@pytest.mark.parametrize("adapter", [True, False])
def test_own_page_with_a_base_given_apart_and_an_outer_path(tmp_path, adapter):
    """课程的检查点记的是 tiny，基座另给；完整的模型文件夹；外面套着一个路径。"""
    model = save_adapter(tmp_path / "adapter", "tiny") if adapter else str(TINY)
    given = {"TOKENIZER_PATH": str(TINY)} if adapter else {}
    with own_page(tmp_path, MODEL_PATH=model, CG_APP_ROUTE_PATH="/course/demo", **given) as url:
        assert httpx.get(f"{url}/config").json()["root"] == f"{url}/course/demo"
        expected = models.answer(*models.load(model), ["一年有几个季节？"], max_new_tokens=256)
        assert own_answer(url, "一年有几个季节？")[-1:] == expected
