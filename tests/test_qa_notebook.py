"""在真的 Jupyter 内核里出题：事件循环已经在跑也能用；密钥不出现在输出、文件和最啰嗦的调用栈里。"""

import nbformat
from nbclient import NotebookClient
from qa_server import KEY, serve

SETUP = """
%xmode Verbose
import logging
logging.basicConfig(level=logging.DEBUG)
from labutils.chunking import Chunk
from labutils.qa_generation import Prompts, generate
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
    "import labutils.qa_requests as module\nmodule.explain = None\ngenerate(chunks, 'm', out, prompts)",
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
