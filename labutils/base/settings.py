"""配置文件：YAML 读成字典，由 pydantic 的 dataclass 检查；写错一个字母，也用一句中文说出错在哪一项。

每一项的类型与范围写在各自的 dataclass 里（见 training/config.py）；讲解在 notebooks/02_lora_finetune.ipynb。
"""

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from labutils.base import files
from labutils.base.errors import LabError

section = dataclass(config=ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False))
# 加了引号的数也收；true 却不是数
Number = Annotated[float, BeforeValidator(lambda v: str(v) if isinstance(v, bool) else v)]
KINDS = {"int": "整数", "float": "数", "finite": "数", "bool": "true 或 false", "dataclass": "一节“键: 值”"}

BOOLS = dict.fromkeys(("true", "1", "yes", "是"), True) | dict.fromkeys(("false", "0", "no", "否"), False)


def as_bool(name: str, value: object) -> bool:
    """True、"false"、"否"、0 等 → 真或假；认不出时引发 LabError，name 是参数名。"""
    if (text := str(value).lower()) not in BOOLS:
        raise LabError(f"参数 {name} 应当是 True 或 False，给出的却是 {value}。")
    return BOOLS[text]


def build(kind: type, content: dict[str, Any], where: str) -> Any:
    """字典 → kind（用 @section 定义的）的实例；键不认识、类型或范围不对时引发 LabError。where 是哪个文件。"""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise _refusal(error, [kind()], where) from None


def change(sections: list[Any], key: str, value: Any, where: str) -> None:
    """改有 key 的那一节，检查与 build 时相同。"""
    owner = next((part for part in sections if key in _keys(part)), None)
    if owner is None:
        raise _unknown((key,), sections, where)
    try:
        setattr(owner, key, value)
    except ValidationError as error:
        raise _refusal(error, sections, where) from None


def _keys(part: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(part) if field.init]


def _refusal(error: ValidationError, sections: list[Any], where: str) -> LabError:
    """pydantic 找到的第一处错 → 一句话：where 的哪一项，应当是什么，现在是什么。"""
    first = error.errors()[0]
    kind, value, limits = first["type"], first["input"], first.get("ctx", {})
    if kind in ("unexpected_keyword_argument", "invalid_key"):
        return _unknown(first["loc"], sections, where)
    if kind == "value_error":
        reason = limits["error"]
    elif kind == "literal_error" and isinstance(value, str):
        reason = "只能是 " + "、".join(re.findall("'(.*?)'", limits["expected"]))
    elif "ge" in limits or "le" in limits:
        reason = f"应当不小于 {limits['ge']}" if "ge" in limits else f"应当不大于 {limits['le']}"
    else:
        reason = f"应当是{KINDS.get(kind.split('_')[0], '文字')}"
    return LabError(f"{where} 的 {'.'.join(first['loc'])} {reason}，现在是 {value!r}")


def _unknown(loc: tuple[Any, ...], sections: list[Any], where: str) -> LabError:
    """键不认识：最相近的键和全部可用的键。"""
    *path, key = map(str, loc)
    for step in path:
        sections = [getattr(part, step) for part in sections]
    known = sorted(".".join([*path, name]) for part in sections for name in _keys(part))
    wrong = ".".join([*path, key])
    hint = "".join(f"是不是想写 {near}？" for near in difflib.get_close_matches(wrong, known, n=1))
    return LabError(f"{where} 不认识 {wrong}。{hint}可用的键：{'、'.join(known)}")


class _Strict(yaml.SafeLoader):
    """按 YAML 1.2 读（PyYAML 里 no 是 False，0100 是 64，5e-5 却是文字）；重复的键算错，不悄悄取后一个。"""

    yaml_implicit_resolvers: ClassVar = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="以花括号、方括号开头的文字要加引号",
                                           problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"键 {key.value} 重复", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

for _tag, _pattern in (("null", "~|null|Null|NULL|"), ("bool", "true|True|TRUE|false|False|FALSE"),
                       ("int", r"[-+]?\d+"), ("float", r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?"),
                       ("merge", "<<")):
    _Strict.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z", re.A), None)
_Strict.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def read_yaml(path: Path) -> dict[str, Any]:
    """读一个 YAML 文件成字典；找不到、编码不对、语法错（带行号）、键重复时引发 LabError。"""
    name = files.rel(path)
    if not path.is_file():
        raise LabError(f"找不到配置文件 {name}；仓库自带的在 configs/ 文件夹里")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except UnicodeDecodeError:
        raise LabError(f"配置 {name} 不是 UTF-8 编码；请另存为 UTF-8") from None
    # 后几种：括号套了上千层、自己引用自己，或写错的 !!int、!!timestamp
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", "")
        raise LabError(f"配置 {name} {f'第 {mark.line + 1} 行' if mark else ''}写法有误"
                       f"（{problem or '无法解析'}）；请检查缩进、冒号后的空格和重复的键") from None
    if not isinstance(content, dict):
        raise LabError(f"配置 {name} 应当是“键: 值”的形式，可参照 configs/lora.yaml")
    return content
