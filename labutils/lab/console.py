"""命令行的外观：多轮对话、找最近的检查点、写错命令时的提示。"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.exceptions import TyperException

from labutils.base import files
from labutils.base.errors import LabError


def print_anything() -> None:
    """编码里没有的字印成问号：中文 Windows 上重定向到文件时是 GBK，没有“✓”，不能因此出错。"""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def converse(reply: Callable[[list[dict]], str]) -> None:
    """一问一答，直到用户退出；reply 由全部对话得到回答，并自己打印它。"""
    print("多轮对话：直接输入问题；输入 清空 重新开始，输入 退出 或按 Ctrl+D 结束。")
    messages: list[dict] = []
    while True:
        try:
            text = input("\n你：").strip()
        except EOFError:
            return print()
        if text in {"退出", "exit", "quit"}:
            return None
        if text == "清空":
            messages = []
        elif text:
            messages.append({"role": "user", "content": text})
            print("模型：", end="", flush=True)
            messages.append({"role": "assistant", "content": reply(messages)})


def newest_checkpoint() -> str | None:
    """output/ 与 runs/ 里最近一次微调的最后一个检查点；没有时返回 None。"""
    places = {files.ROOT, files.place(".")}  # 在别处执行的结果写在别处
    found = [path for place in places for text in ("output/*", "output/*/lora", "runs/*/output/lora")
             for path in place.glob(f"{text}/checkpoint-*/adapter_model.safetensors")]
    return str(max(found, key=lambda path: path.stat().st_mtime).parent) if found else None


def checkpoint_or_newest(checkpoint: str) -> str:
    """用户指定的位置；没有指定时是最近一次微调的检查点，一个也没有就抛 LabError。"""
    if checkpoint:
        return files.existing_model(checkpoint)
    if (newest := newest_checkpoint()) is None:
        raise LabError("还没有微调过的模型：请先运行 make lab，或指明用哪个，例如 tiny。")
    print(f"使用最近一次微调的结果：{files.rel(newest)}")
    return newest


def data_beside(source: str) -> Path:
    """训练这个适配器用的数据：output/甲/lora/checkpoint-N 用 output/甲/data；没有就用仓库自带的 data。"""
    folder = files.resolve(source)
    run = folder.parent if folder.name.startswith("checkpoint-") else folder
    beside = run.parent / "data"
    trained = (folder / "adapter_config.json").is_file() and (beside / "train.json").is_file()
    return beside if trained else files.DATA


# 只能由英文认出的错误：它的写法 → 中文
_ENGLISH = {r".*valid integer": "应当是整数", r".*valid number": "应当是数",
            r"No such command '(.*?)'": "没有 {} 这个命令。",
            r"Got unexpected extra arguments?.*\((.*)\)": "多出了参数 {}。"}


def usage_sentence(error: TyperException) -> str:
    """命令写错时的一句中文；认不出的情形保留原文。"""
    kind, message = type(error).__name__, error.format_message()
    if kind == "NoSuchOption":
        near = "、".join(error.possibilities or [])
        message = f"没有 {error.option_name} 这个选项" + (f"，是不是想写 {near}？" if near else "。")
    elif kind == "MissingParameter":
        message = f"缺少参数 {error.param.name.upper()}。"
    elif kind == "BadParameter" and error.param is not None:
        message = f"{error.param.opts[0]} 的值不对：{_translated(error.message)}。"
    else:
        message = _translated(message)
    context = getattr(error, "ctx", None)  # 不是每种错误都有
    return f"{message}用法见 {context.command_path if context else 'labutils'} --help"


def _translated(message: str) -> str:
    found = ((said, re.match(pattern, message)) for pattern, said in _ENGLISH.items())
    return next((said.format(*match.groups()) for said, match in found if match), message)


def let_help_wrap(command: Any) -> Any:
    """标点后面加一个空格：帮助的表格只在空格处换行，排不下的中文会变成省略号。"""
    for part in (command, *command.commands.values()):
        for text in (part, *part.params):
            if text.help:
                text.help = re.sub(r"(?<=[，；、）：])(?=\S)", " ", text.help)
    return command
