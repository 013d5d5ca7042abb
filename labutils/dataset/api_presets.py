"""问哪台服务器：按名字取 configs/api_presets.yaml 里的地址、密钥变量、模型和价格。

密钥只从环境变量取，只交给 openai 的客户端，不存进这里的任何对象。讲解见 notebooks/01_build_dataset.ipynb。
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import openai

from labutils.base.config_reader import read_yaml
from labutils.base.errors import LabError
from labutils.base.paths import CONFIGS, rel
from labutils.dataset.api_address import check_url, read_key

PRESETS = CONFIGS / "api_presets.yaml"
OPENAI_URL = "https://api.openai.com/v1"
KEYS = {"title", "base_url", "key_env", "model", "extra_body", "currency", "priced_on", "prices"}
# 连着二十个字母数字、中间没有下划线的，多半是密钥本身
VARIABLE = re.compile(r"(?!.*[A-Za-z0-9]{20})[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Price:
    """每百万 token 的价格。"""

    input: float
    output: float
    currency: str
    date: str = ""


@dataclass(frozen=True)
class Service:
    """一台服务器上的一个模型。"""

    name: str
    base_url: str
    key_env: str  # 环境变量的名字，不是密钥；空：不要密钥
    model: str
    price: Price | None = None  # None：价格没有填
    extra_body: dict = field(default_factory=dict)
    where: str = "环境变量 OPENAI_BASE_URL"  # 地址写在哪里，出错时告诉用户


def load_presets(path: str | Path = PRESETS) -> dict[str, dict]:
    """读预设；写错的地方抛 LabError，说明是哪一条的哪一项。"""
    presets = {str(name): values for name, values in read_yaml(Path(path)).items()}
    for name, values in presets.items():
        _check_preset(f"{rel(path)} 的 {name}", values)
    return presets


def _check_preset(where: str, values: object) -> None:
    _check_group(where, values)
    if unknown := values.keys() - KEYS:
        raise LabError(f"{where} 有不认识的键 {'、'.join(map(str, unknown))}，请检查拼写。")
    check_url(str(values.get("base_url") or ""), f"{where} 的 base_url ")
    if not VARIABLE.fullmatch(str(values.get("key_env") or "none")):  # 写的可能是密钥，所以不照说一遍
        raise LabError(f"{where} 的 key_env 应是环境变量的名字，例如 OPENAI_API_KEY；密钥不要写进文件。")
    for key in ("prices", "extra_body"):
        _check_group(f"{where} 的 {key}", values.get(key) or {})
    for model, price in (values.get("prices") or {}).items():
        _check_price(f"{where} 的 prices 里 {model} 的价格", price)


def _check_group(where: str, values: object) -> None:
    if not isinstance(values, dict):
        raise LabError(f"{where} 应是一组“键: 值”，请照着文件里别的写。")


def _check_price(where: str, price: object) -> None:
    good = isinstance(price, dict) and price.keys() == {"input", "output"} and all(
        isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in price.values())
    if not good:
        raise LabError(f"{where}应写成 {{input: 数, output: 数}}，是每百万 token 的价格。")


def find_service(preset: str = "", model: str = "", path: str | Path = PRESETS) -> Service:
    """预设名（或它的中文名）与模型名 → Service；没有预设时用 OPENAI_BASE_URL，再没有就是 OpenAI。

    模型没有写又没有缺省、预设名不认识时抛 LabError。
    """
    presets = load_presets(path)
    if preset:
        name = next((key for key, values in presets.items() if preset.strip().lower() in
                     (key.lower(), str(values.get("title", "")).lower())), None)
        if name is None:
            known = "、".join(presets)
            raise LabError(f"{rel(path)} 里没有预设 {preset}，有的是 {known}；可以照样子加一条。")
        return _service(presets[name], name, model, f"{rel(path)} 里 {name} 的 base_url")
    url = os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL
    host = check_url(url, f"{Service.where} ").host
    known = next((v for v in presets.values() if v["base_url"].rstrip("/") == url.rstrip("/")), {})
    values = {"prices": known.get("prices"), "currency": known.get("currency"),
              "priced_on": known.get("priced_on"), "base_url": url, "key_env": "OPENAI_API_KEY"}
    return _service(values, host, model, Service.where)


def _service(values: dict, name: str, model: str, where: str) -> Service:
    model = model or values.get("model") or ""
    if not model:
        raise LabError(f"没有说用 {name} 的哪个模型，请用 --api-model（notebook 里是 API_MODEL）写上。")
    prices = values.get("prices") or {}
    price = prices.get(model) or prices.get("*")
    if price is not None:
        date = str(values.get("priced_on") or "")
        price = Price(price["input"], price["output"], values.get("currency") or "元", date)
    return Service(values.get("title") or name, values["base_url"], values.get("key_env") or "",
                   model, price, values.get("extra_body") or {}, where)


def make_client(service: Service, timeout: float = 120.0) -> openai.AsyncOpenAI:
    """建客户端；重试由 qa_requests 做，所以这里不重试。没有密钥、密钥写坏了时抛 LabError。"""
    key = read_key(service.key_env)
    by_environment = service.where == Service.where and os.environ.get("OPENAI_BASE_URL")
    if not key and service.key_env and not by_environment:  # 自己架的服务可以不设密钥
        raise LabError(f"没有设置环境变量 {service.key_env}，请先设置 {service.name} 的密钥，"
                       "或不指定服务和模型，改用现成的问答。")
    return openai.AsyncOpenAI(base_url=service.base_url, api_key=key or "none", max_retries=0,
                              timeout=openai.Timeout(timeout, connect=10.0))
