"""在真的 Jupyter 内核里出题：事件循环已经在跑也能用；密钥不出现在输出、文件和最啰嗦的调用栈里。"""

import logging

import nbformat
import pytest
from fakes.qa_server import KEY, long_text, serve
from nbclient import NotebookClient

from labutils.base import files
from labutils.lab import run

pytestmark = pytest.mark.slow

SETUP = """
%xmode Verbose
import logging
logging.basicConfig(level=logging.DEBUG)
from labutils.dataset.prompts import Chunk
from labutils.dataset.generation import generate
from labutils.dataset.prompts import Prompts
chunks = [Chunk(f"第{{i}}号事项的办理期限是{{i + 10}}天。", (i,)) for i in range(1, 7)]
prompts = Prompts("JSON", "：\\n{{{{文本}}}}")
out = {out!r}
"""
CELLS = [
    "import asyncio\nasyncio.get_running_loop().is_running()",
    "result = generate(chunks[:3], 'm', out, prompts)\nlen(result.files)",
    "result = generate(chunks, 'm', out, prompts, concurrency=1)",  # 服务器答 401，并把密钥说出来
    "result = generate(chunks, 'm', out, prompts, max_cost=1)",
    # 程序自己在处理这个 401 时出错：调用栈最长，还会打印每一层的变量
    "import labutils.dataset.ask as module\nmodule.explain = None\n"
    "generate(chunks, 'm', out, prompts)",
]


def test_in_a_notebook(tmp_path, monkeypatch):
    sources = [SETUP.format(out=str(tmp_path / "out")), *CELLS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in sources])
    with serve(monkeypatch, script=["ok"] * 3 + [401] * 99) as server:
        NotebookClient(notebook, timeout=300, allow_errors=True, kernel_name="python3").execute()
    texts = ["".join(map(str, cell.outputs)) for cell in notebook.cells]
    assert "True" in texts[1] and "问成 3 次" in texts[2] and "error" not in texts[2].replace("stderr", "")
    assert len(server.calls) >= 4 and "不认这个密钥（401）" in texts[3]
    assert "价格没有填" in texts[4] and "TypeError" in texts[5]
    assert KEY not in nbformat.writes(notebook)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) >= 5 and not [p for p in written if KEY.encode() in p.read_bytes()]


BUILD = files.NOTEBOOKS / "01_build_dataset.ipynb"
UNFILLED = "m 的价格没有填，没法按金额控制，还没有调用，没有花钱；请在 configs/api_presets.yaml 的"


@pytest.mark.parametrize(("replies", "max_cost", "failure", "asked"), [
    ([], 0.0, "", True),  # 0：不设上限
    ([401] * 99, 0.0, "127.0.0.1 不认这个密钥（401），请检查环境变量 OPENAI_API_KEY", True),
    ([], 5.0, UNFILLED, False),
], ids=["good", "wrong key", "no price"])
def test_notebook_01_with_a_key(tmp_path, monkeypatch, caplog, capfd, replies, max_cost, failure, asked):
    """真的用 papermill 执行 notebook 01，服务器出错时会把密钥说出来：哪个文件、哪行日志里都不能有它。"""
    document = tmp_path / "guide.md"
    document.write_text("\n".join(long_text(3, 12)).replace("\n", "\n\n"), encoding="utf-8")
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    values = {"OUT": str(tmp_path / "out"), "PDF": str(document), "API_MODEL": "m", "MAX_COST": max_cost}
    with serve(monkeypatch, script=replies) as server:
        failed = run.execute(BUILD, tmp_path / "done.ipynb", values)
        assert run.to_html(tmp_path / "done.ipynb")
    assert bool(server.calls) == asked
    if failure:
        assert failed["error"].startswith(failure) and "\n" not in failed["error"]
    else:
        assert failed is None and (tmp_path / "out" / "data" / "train.json").is_file()
    assert KEY.encode() not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY not in caplog.text + "".join(capfd.readouterr())
