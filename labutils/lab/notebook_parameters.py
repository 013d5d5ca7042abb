"""读懂并检查 notebook 的参数单元。

papermill 遇到不认识的参数名只提醒一句就照跑，结果是"改了参数却没有生效"。
这里在运行之前就检查：名字不认识、类型不对，都是错误。
"""

import ast
from pathlib import Path

import nbformat

from labutils.base.errors import LabError
from labutils.base.paths import rel

Value = str | int | float | bool
_TYPE_NAMES = {bool: "True 或 False", int: "整数", float: "小数", str: "文字"}
_TRUE, _FALSE = {"true", "1", "yes", "是"}, {"false", "0", "no", "否"}


def parameter_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """带 parameters 标签的代码单元（规范要求每个 notebook 恰好一个）。"""
    return [
        c
        for c in notebook.cells
        if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])
    ]


def read_defaults(path: Path) -> dict[str, Value]:
    """一个 notebook 的参数名与默认值。

    参数单元不是恰好一个，或默认值不是字面量时抛 LabError。
    """
    cells = parameter_cells(nbformat.read(path, as_version=4))
    if len(cells) != 1:
        raise LabError(f"{rel(path)} 应当有一个带 parameters 标签的单元，实际有 {len(cells)} 个。")
    try:
        pairs = [
            (node.targets[0].id, ast.literal_eval(node.value))
            for node in ast.parse(cells[0].source).body
            if isinstance(node, ast.Assign)
        ]
    except (ValueError, SyntaxError, AttributeError) as error:
        raise LabError(
            f"{rel(path)} 的参数单元只能写「名字 = 字面量」，现在读不懂：{error}。"
        ) from None
    return dict(pairs)


def split_assignments(texts: list[str]) -> dict[str, str]:
    """命令行的 -p NAME=VALUE 列表 → 字典；没有等号时抛 LabError。"""
    result = {}
    for text in texts:
        name, sep, value = text.partition("=")
        if not sep or not name.strip():
            raise LabError(f"参数 {text} 写法不对，应写成 -p 名字=值，例如 -p SEED=7。")
        result[name.strip()] = value.strip()
    return result


def convert(name: str, value: Value, default: Value) -> Value:
    """把给出的值变成默认值的类型；变不了时抛 LabError。"""
    kind = type(default)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    try:
        if kind is bool:
            return _to_bool(str(value))
        return kind(str(value))
    except ValueError:
        raise LabError(
            f"参数 {name} 应当是{_TYPE_NAMES.get(kind, kind.__name__)}"
            f"(默认 {default!r}),给出的却是 {value}。"
        ) from None


def _to_bool(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError(text)


def assign(notebooks: list[Path], common: dict[str, Value], extra: dict[str, Value]) -> dict:
    """给每个 notebook 分配它认识的参数。

    common 里 notebook 没有的名字直接略过；extra（用户写的）里的名字至少要有一个
    notebook 认识，否则抛 LabError 并列出可用的名字。
    返回 {notebook 路径： {参数名： 值}}。
    """
    defaults = {path: read_defaults(path) for path in notebooks}
    for name in extra:
        if not any(name in known for known in defaults.values()):
            raise LabError(f"没有名为 {name} 的参数。{_allowed(defaults)}")
    return {
        path: {
            name: convert(name, value, known[name])
            for name, value in {**common, **extra}.items()
            if name in known
        }
        for path, known in defaults.items()
    }


def _allowed(defaults: dict[Path, dict]) -> str:
    shared = set.intersection(*(set(known) for known in defaults.values())) if defaults else set()
    parts = ["各 notebook 都有的：" + "、".join(sorted(shared))] if shared else []
    parts += [
        f"{path.stem}：" + "、".join(name for name in known if name not in shared)
        for path, known in defaults.items()
        if set(known) - shared
    ]
    return "可用的参数——" + "；".join(parts) + "。"
