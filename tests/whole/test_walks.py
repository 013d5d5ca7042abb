"""三条路各经过几个文件：真的走一遍，数有函数执行过的 labutils 文件（导入时执行的不算）。

数变大了，多半是新写了一层转手的代码：先想想能不能不写。
"""

import os
import subprocess
import sys

import pytest

from labutils.base import files

pytestmark = pytest.mark.slow

TRACER = """
import importlib, pkgutil, sys, threading
import labutils
for module in pkgutil.walk_packages(labutils.__path__, "labutils."):
    if module.name != "labutils.__main__":
        importlib.import_module(module.name)
root, seen = labutils.__path__[0], set()
def watch(frame, event, arg):
    if event == "call" and frame.f_code.co_filename.startswith(root) and frame.f_code.co_name != "<module>":
        seen.add(frame.f_code.co_filename[len(root) + 1:])
def start():
    seen.clear()
    sys.setprofile(watch)
    threading.setprofile(watch)
def stop():
    sys.setprofile(None)
    threading.setprofile(None)
    print("\\nSEEN", *sorted(name for name in seen if name.endswith(".py")))
"""
FINETUNE = """
from labutils.lab import cli
sys.argv = ["labutils", "finetune", "data", "tiny", "CONFIG", "--out", "OUT/lora"]
start()
try:
    cli.main()
except SystemExit as end:
    assert not end.code
stop()
"""
MESSAGE = """
from gradio_client import Client
from labutils import demo, models
threading.setprofile(watch)
with demo.launch(*models.load("tiny")) as page:
    client = Client(page.url, verbose=False)
    client.predict("你好", api_name="/chat")
    seen.clear()
    assert client.predict("你是谁？", api_name="/chat")
    stop()
"""
PAIR = """
from pathlib import Path
from labutils import base, dataset, models, training
from labutils.training.data import LeftCollator
tokenizer, out = models.load("tiny")[1], Path("OUT") / "pair"
config = training.load_config("CONFIG")
start()
dataset.build_dataset(base.DATA / "source" / "course_document.pdf", None, out)
sources = training.read_training(config, out / "data")
planned = training.PlannedDataset(tokenizer, sources, config, total=8, batch=8, seed=42)
LeftCollator(0)([planned[index] for index in range(8)])
stop()
"""


MOST = {"finetune": 18, "message": 8, "pair": 16}


def test_a_walk_passes_few_files(tmp_path):
    config = (files.CONFIGS / "lora_tiny.yaml").read_text(encoding="utf-8")
    for key, value in (("max_steps", 400), ("save_steps", 100), ("eval_steps", 100)):
        config = config.replace(f"{key}: {value}", f"{key}: 4")
    (tmp_path / "four.yaml").write_text(config, encoding="utf-8")
    code = "".join([TRACER, PAIR, MESSAGE, FINETUNE]).replace("CONFIG", str(tmp_path / "four.yaml"))
    done = subprocess.run([sys.executable, "-c", code.replace("OUT", str(tmp_path / "out"))], cwd=files.ROOT,
                          capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    seen = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    for name, passed in zip(("pair", "message", "finetune"), seen, strict=True):
        assert 3 <= len(passed) <= MOST[name], f"{name}: {' '.join(passed)}"
