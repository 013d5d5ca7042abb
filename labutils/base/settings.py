"""把 YAML 填进 dataclass：类型、范围、拼写都检查，写错一个字母也说得出来。

每一项的规则写在 dataclass 的字段里（`item`）；这里只有通用的读法，不含任何具体的配置项。
用法见 finetune_config；讲解在 notebooks/02_lora_finetune.ipynb。
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from labutils.base import files
from labutils.base.errors import LabError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
KIND_NAMES = {int: "整数", float: "数", bool: "true 或 false", str: "文字"}


def item(default: Any, kind: type, low: float | None = None, high: float | None = None,
         choices: tuple[str, ...] = (), note: str = "",
         convert: Callable[[Any, str], Any] | None = None) -> Any:
    """一个配置项的缺省值与规则。

    low、high：数的范围（含两端）；choices：文字的取值；缺省为 None 的项可以写 null；
    note：不空表示“可以写，但在这里不起作用”，并说明原因；convert(值, 位置)：特别的检查。
    """
    rule = {"kind": kind, "low": low, "high": high, "choices": choices, "note": note,
            "optional": default is None, "convert": convert}
    return dataclasses.field(default=default, metadata=rule)


@dataclass
class Reader:
    """按规则把字典填进 dataclass。

    where：出错时说的位置（哪个文件）；aliases：旧键名 → 现键名；refused：键 → 不支持的原因；
    notes：收集“写了但不起作用”的说明。
    """

    where: str
    aliases: dict[str, str]
    refused: dict[str, str]
    notes: list[str] = field(default_factory=list)

    def fill(self, section: Any, values: Any, prefix: str = "") -> None:
        """逐项填写 section；键不认识、类型或范围不对时引发 LabError。"""
        if not isinstance(values, dict):
            raise LabError(f"{self.where} 的 {prefix.rstrip('.')} 应当是一节“键: 值”")
        rules = rules_of(section)
        for written, value in values.items():
            if written in self.refused:
                self._refuse(prefix + written, self.refused[written], value)
                continue
            key = self.aliases.get(written, written)
            if key not in rules:
                raise LabError(self.unknown(f"{prefix}{written}", [prefix + k for k in rules]))
            if dataclasses.is_dataclass(getattr(section, key)):
                self.fill(getattr(section, key), value, f"{prefix}{key}.")
                continue
            rule = rules[key].metadata
            setattr(section, key, checked(value, rule, f"{self.where} 的 {prefix}{written}"))
            if rule["note"] and (value is True or value not in (None, False, 1)):
                self.notes.append(f"{prefix}{written} 不起作用：{rule['note']}")

    def _refuse(self, key: str, reason: str, value: Any) -> None:
        if value not in (None, False, "", "none", "no", []):  # 写了“不用”等于没写
            raise LabError(f"{self.where} 的 {key} 不被支持：{reason}")

    def unknown(self, key: str, known: list[str]) -> str:
        """键不认识时的一句话：最相近的键和全部可用的键。"""
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
        hint = f"是不是想写 {near[0]}？" if near else ""
        return f"{self.where} 不认识 {key}。{hint}可用的键：{'、'.join(sorted(known))}"


def rules_of(section: Any) -> dict[str, dataclasses.Field]:
    """section 里可以写进配置的字段：带规则的，以及本身是一节的。"""
    return {f.name: f for f in dataclasses.fields(section)
            if f.metadata or dataclasses.is_dataclass(getattr(section, f.name))}


def checked(value: Any, rule: Any, where: str) -> Any:
    """把 YAML 的值换成规定的类型并检查范围；不合规定就引发 LabError，说明应当是什么。"""
    kind = rule["kind"]
    if value is None and rule["optional"]:
        return None
    if rule["convert"]:
        return rule["convert"](value, where)
    if kind is float and isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)  # PyYAML 按 YAML 1.1 把 5e-5（没有小数点）读成文字，1.2 里它是数
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and value is False and "no" in rule["choices"]:
        value = "no"  # YAML 1.1 还把没加引号的 no 读成 False
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise LabError(f"{where} 应当是{KIND_NAMES[kind]}，现在是 {value!r}")
    if rule["choices"] and value not in rule["choices"]:
        raise LabError(f"{where} 只能是 {'、'.join(rule['choices'])}，现在是 {value!r}")
    low, high = rule["low"], rule["high"]
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        limits = f"不小于 {low}" + (f"、不大于 {high}" if high is not None else "")
        raise LabError(f"{where} 应当{limits}，现在是 {value}")
    return value


class _Strict(yaml.SafeLoader):
    """PyYAML 遇到重复的键会悄悄取后一个，遇到不存在的日期会抛别的异常；这里都改成带行号的语法错误。"""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _problem("以花括号、方括号开头的文字要加引号", key_node)
            if key_node.value in seen:
                raise _problem(f"键 {key_node.value} 重复", key_node)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # 2025-02-30、!!int 甲、!!timestamp 甲
            raise _problem("不是正确的日期或数", node) from None


def _problem(text: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def read_yaml(path: Path) -> dict[str, Any]:
    """读一个 YAML 文件成字典；找不到、编码不对、语法错（带行号）、键重复时引发 LabError。"""
    name = files.rel(path)
    if not path.is_file():
        raise LabError(f"找不到配置文件 {name}；仓库自带的在 configs/ 文件夹里")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except UnicodeDecodeError:
        raise LabError(f"配置 {name} 不是 UTF-8 编码；请另存为 UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"第 {mark.line + 1} 行" if mark else ""
        problem = getattr(error, "problem", "") or "无法解析"
        raise LabError(f"配置 {name} {where}写法有误（{problem}）；"
                       "请检查缩进、冒号后的空格和重复的键") from None
    if not isinstance(content, dict):
        raise LabError(f"配置 {name} 应当是“键: 值”的形式，可参照 configs/lora.yaml")
    return content
