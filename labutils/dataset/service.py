"""问哪台服务器、密钥在哪、出错怎么说、要花多少钱。讲解见 notebooks/01_build_dataset.ipynb。

密钥只从环境变量取，只交给 openai 的客户端；服务器的原话可能带着密钥的一部分，所以出错时只说自己的话。
"""

import math
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import openai

from labutils.base.errors import LabError
from labutils.base.files import CONFIGS, rel
from labutils.base.settings import read_yaml
from labutils.dataset.prompts import Request

PRESETS = CONFIGS / "api_presets.yaml"
DEFAULTS = {"title": "", "base_url": "", "key_env": "", "model": "", "extra_body": {}, "currency": "元",
            "priced_on": "", "prices": {}}
VARIABLE = re.compile(r"(?!.*[A-Za-z0-9]{20})[A-Za-z_]\w*", re.ASCII)  # 连着二十个字母数字的多半是密钥


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
    """读预设，没有写的项补上 DEFAULTS；写错的地方抛 LabError，说明是哪一条的哪一项。"""
    return {str(name): _preset(f"{rel(path)} 的 {name}", values)
            for name, values in read_yaml(Path(path)).items()}


def _preset(where: str, values: object) -> dict:
    _check_group(where, values)
    if unknown := values.keys() - DEFAULTS.keys():
        raise LabError(f"{where} 有不认识的键 {'、'.join(map(str, unknown))}，请检查拼写。")
    values = DEFAULTS | {key: value for key, value in values.items() if value}
    check_url(str(values["base_url"]), f"{where} 的 base_url ")
    if not VARIABLE.fullmatch(str(values["key_env"] or "none")):  # 写的可能是密钥，所以不照说一遍
        raise LabError(f"{where} 的 key_env 应是环境变量的名字，例如 OPENAI_API_KEY；密钥不要写进文件。")
    for key in ("prices", "extra_body"):
        _check_group(f"{where} 的 {key}", values[key])
    for model, price in values["prices"].items():
        if not (isinstance(price, dict) and price.keys() == {"input", "output"} and all(
                type(number) in (int, float) and number >= 0 for number in price.values())):
            raise LabError(f"{where} 的 prices 里 {model} 的价格应写成 {{input: 数, output: 数}}，"
                           "是每百万 token 的价格。")
    return values


def _check_group(where: str, values: object) -> None:
    if not isinstance(values, dict):
        raise LabError(f"{where} 应是一组“键: 值”，请照着文件里别的写。")


def check_url(url: str, where: str) -> httpx2.URL:
    """分好各部分的地址；不是 http(s) 地址、端口或主机名写错时引发 LabError。where：写在哪里。"""
    with suppress(httpx2.InvalidURL, ValueError):
        parts = httpx2.URL(url)
        parts.host.encode("idna")  # 主机名里连着两个点，到连接时才出错
        if parts.scheme in ("http", "https") and parts.host and (parts.port or 1) < 65536:
            return parts
    raise LabError(f"{where}写得不对，应当像 http://127.0.0.1:8000/v1。")


def find_service(preset: str = "", model: str = "", path: str | Path = PRESETS) -> Service:
    """预设名与模型名 → Service；没有预设时用 OPENAI_BASE_URL，再没有就是 OpenAI。

    模型没有写又没有缺省、预设名不认识时抛 LabError。
    """
    presets = load_presets(path)
    if preset and preset not in presets:
        raise LabError(f"{rel(path)} 里没有预设 {preset}，有的是 {'、'.join(presets)}；可以照样子加一条。")
    if preset:
        return _service(presets[preset], preset, model, f"{rel(path)} 里 {preset} 的 base_url")
    url = os.environ.get("OPENAI_BASE_URL", "").strip() or "https://api.openai.com/v1"
    host = check_url(url, f"{Service.where} ").host
    return _service(DEFAULTS | {"base_url": url, "key_env": "OPENAI_API_KEY"}, host, model, Service.where)


def _service(values: dict, name: str, model: str, where: str) -> Service:
    model = model or values["model"]
    if not model:
        raise LabError(f"没有说用 {name} 的哪个模型，请用 --api-model（notebook 里是 API_MODEL）写上。")
    price = values["prices"].get(model) or values["prices"].get("*")
    price = price and Price(**price, currency=values["currency"], date=str(values["priced_on"]))
    return Service(values["title"] or name, values["base_url"], values["key_env"], model, price,
                   values["extra_body"], where)


def read_key(variable: str) -> str:
    """环境变量里的密钥，没有设就是空的；混进了请求头里不能有的字时引发 LabError。"""
    key = os.environ.get(variable, "").strip()
    if not all(32 < ord(letter) < 127 for letter in key):
        raise LabError(f"环境变量 {variable} 里的密钥含有中文、空格或换行，请重新复制一遍。")
    return key


def make_client(service: Service, timeout: float = 120.0) -> openai.OpenAI:
    """建客户端；重试由 ask 做，所以这里不重试。没有密钥、密钥写坏了时抛 LabError。"""
    key = read_key(service.key_env)
    by_environment = service.where == Service.where and os.environ.get("OPENAI_BASE_URL")
    if not key and service.key_env and not by_environment:  # 自己架的服务可以不设密钥
        raise LabError(f"没有设置环境变量 {service.key_env}，请先设置 {service.name} 的密钥，"
                       "或不指定服务和模型，改用现成的问答。")
    return openai.OpenAI(base_url=service.base_url, api_key=key or "none", max_retries=0,
                         timeout=openai.Timeout(timeout, connect=10.0))


# 原因 → (服务器会提到的字眼, 状态码, 怎么说)。先看字眼：状态码靠不住，欠费有给 400、429 的，也有给 200 的
_CAUSES = {
    "long": (r"context.?(?:length|window)|too (?:long|large)|input length|maximum.{0,30}tokens"
             r"|model token limit|max_seq_len|超长|过长",
             413, "{host} 说文字太长（{code}），请缩短：出题时减小 chunk_size，网页上清空历史对话"),
    "rate": (r"rate.?limit|(?:try again|retry) in \d|retrydelay|too many requests|overloaded"
             r"|频繁|限流|请求过多|并发|繁忙",
             None, "{host} 说请求太频繁（{code}），请稍后再试，或少同时问几个"),
    "money": (r"arrear|overdue|good standing|suspended|current.?quota|balance.{0,20}insufficient"
              r"|(?:insufficient|not enough).{0,20}(?:quota|balance|credit|fund)|free tier.{0,40}exhausted"
              r"|budget has been exceeded|余额|欠费|充值|资源包",
              402, "{host} 说额度用完或余额不足（{code}），请充值或换一个服务"),
    "content": (r"content.?(?:filter|management|polic|exists risk)|data.?inspection|(?<!case.)sensitive"
                r"|inappropriate|prohibited|moderation|high risk|safety|违规|敏感|审核",
                451, "{host} 的内容审核拦下了这次请求（{code}），请去掉有关的文字或换一个服务"),
    "region": (r"(?:region|country|territory|location).{0,30}not.{0,20}(?:supported|available)"
               r"|unsupported.{0,30}(?:region|country)",
               None, "{host} 不为这个地区服务（{code}），请换一个服务"),
    "permission": (r"permission.?denied|data policy", 403,
                   "这个密钥没有使用 {model} 的权限（{code}），请换模型或在服务商处开通"),
    "model": (r"model.{0,80}not.{0,3}(?:exist|found)|not a valid model"
              r"|(?:no such|unknown|invalid) model|模型.{0,20}不存在",
              404, "{host} 上没有模型 {model}（{code}），请检查模型名和{address}"),
    "key": (r"api.?key.{0,3}(?:not valid|invalid)|invalid.?api.?key|log.?in fail"
            r"|auth(?:entication)? failed|not authenticated",
            401, "{host} 不认这个密钥（{code}），请检查环境变量 {key_name}"),
    "timeout": ("request timed out", None, "{host} 超时没有回复，请稍后再试，或加大等待时间"),
    "connection": ("connection error", None, "连不上 {host}，请检查网络和{address}")}
_BY_STATUS = {429: "{host} 说请求太频繁或额度用完（429），请稍后再试或检查余额", **dict.fromkeys(
    (400, 422), "{host} 不接受这次请求，出错（{code}），多半是文字或对话太长、内容被拦下或模型名不对")}


def words(error: openai.APIError) -> str:
    """服务器的原话，小写，只用来认原因；{"detail": …} 这类正文 openai 不放进 error.message。"""
    response = getattr(error, "response", None)
    told = [error.code, error.type, error.param, error.message, response.text[:600] if response else ""]
    return " ".join(map(str, told)).lower()


def status(error: openai.APIError) -> int:
    """HTTP 状态码；错误装在 HTTP 200 里时是它写的 code，没有就是 0。"""
    return getattr(error, "status_code", 0) or int(re.sub(r"\D", "", str(error.code))[:6] or 0)


def retry_after(error: openai.APIError) -> float | None:
    """服务器要求等几秒（Retry-After 是秒数或日期，RFC 9110 §10.2.3；也有写毫秒的）；没有、看不懂是 None。"""
    headers = getattr(getattr(error, "response", None), "headers", {})
    told = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(headers.get("retry-after-ms", "")) / 1000)
    with suppress(ValueError):
        return max(0.0, float(told))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    return None


def cause(error: openai.APIError) -> str:
    """_CAUSES 里的哪一种；看不出来是空的。"""
    told, code = words(error), status(error)
    kinds = [kind for kind, (pattern, _, _) in _CAUSES.items() if re.search(pattern, told)]
    kinds += [kind for kind, (_, known, _) in _CAUSES.items() if known == code]
    return next(iter(kinds), "")


def explain(error: openai.APIError, model: str, client: openai.OpenAI,
            address: str = "环境变量 OPENAI_BASE_URL", key_name: str = "OPENAI_API_KEY") -> str:
    """出错原因的一句话，不带句号；address 是用户在哪里写的服务器地址。"""
    code, wait = status(error), retry_after(error)
    other = _BY_STATUS.get(code, "{host} 出错（{code}），请稍后再试或检查模型是否可用")
    sentence = _CAUSES[why][2] if (why := cause(error)) else other
    sentence += f"；服务器要求过 {wait:.0f} 秒再问" if wait else ""
    return sentence.format(host=urlsplit(str(client.base_url)).hostname, code=code or type(error).__name__,
                           model=model, address=address, key_name=key_name)


# 估算宁可偏高：一个汉字（含全角标点）算 1 个 token，别的字符算 0.3 个；一条问答的回复算 150 个
# （随仓库的 150 条平均 65 个汉字、163 个别的字符，合 114 个，另留缩进）。会思考的模型可能是估算的几倍
OUTPUT_TOKENS_PER_PAIR = 150
OVERRUN = 2  # 用户同意了估算的花费，实际到了它的两倍还是要停下
_WIDE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u2010-\u2027]")


@dataclass
class Bill:
    """一笔账：调用次数与 token 数；price 为 None 时算不出钱。"""

    price: Price | None
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    guessed: int = 0  # 有几次服务器没有报用量，是估算的

    @property
    def money(self) -> float | None:
        if self.price is None:
            return None
        return (self.input_tokens * self.price.input + self.output_tokens * self.price.output) / 1_000_000

    @property
    def cost(self) -> str:
        """多少钱，写成一句话里能用的几个字。"""
        if self.price is None:
            return f"价格没有填，算不出多少钱（在 {rel(PRESETS)} 的 prices 里填）"
        if self.price.input == self.price.output == 0:
            return "不花钱"
        date = f"（{self.price.date} 的价格）" if self.price.date else ""
        return f"约 {self.money:.4g} {self.price.currency}{date}"

    def add(self, usage: dict | None, request: Request, text: str) -> None:
        """记一次调用；服务器没有报用量就按字数估。"""
        self.calls += 1
        self.guessed += usage is None
        usage = usage or {"input": _input_tokens(request), "output": count_tokens(text)}
        self.input_tokens += usage["input"]
        self.output_tokens += usage["output"]

    def __str__(self) -> str:
        guessed = f"（其中 {self.guessed} 次服务器没有报用量，按字数估）" if self.guessed else ""
        tokens = f"输入 {self.input_tokens}、输出 {self.output_tokens} 个 token{guessed}"
        return f"{self.calls} 次调用，{tokens}，{self.cost}"


def count_tokens(text: str) -> int:
    """一段文字大约几个 token；规则见上面。"""
    wide = len(_WIDE.findall(text))
    return math.ceil(wide + 0.3 * (len(text) - wide))


def _input_tokens(request: Request) -> int:
    return sum(count_tokens(message["content"]) for message in request.messages)


def room(request: Request) -> int:
    """长度上限平时不写；回复被服务器的缺省上限截断了才写，写多少个 token：估算的两倍，至少 4096。"""
    return max(4096, 2 * OUTPUT_TOKENS_PER_PAIR * request.pairs)


def estimate_cost(requests: list[Request], price: Price | None) -> Bill:
    """全部一次成功时的账单；重试、重问不在内。"""
    output = OUTPUT_TOKENS_PER_PAIR * sum(request.pairs for request in requests)
    return Bill(price, len(requests), sum(map(_input_tokens, requests)), output)


def spending_cap(service: Service, expected: Bill, max_cost: float | None,
                 confirm: Callable[[str], bool] | None = None) -> float | None:
    """这次运行最多花多少（与价格同一币种），None 表示不设上限；估算超了、confirm 也不同意就抛 LabError。"""
    if max_cost is None or (expected.money is not None and expected.money <= max_cost):
        return max_cost
    problem, advice = f"估算 {expected.cost}，超过上限 {max_cost:g}", "请加大上限、减少题数或换便宜的模型"
    if expected.money is None:
        problem = f"{service.model} 的价格没有填，没法按金额控制"
        advice = (f"请在 {rel(PRESETS)} 的 prices 里填上价格，或不设上限"
                  "（notebook 里 MAX_COST = 0，labutils run 用 --max-cost 0，labutils dataset 加 --yes）")
    if confirm is None or not confirm(f"{problem}。"):
        raise LabError(f"{problem}，还没有调用，没有花钱；{advice}。")
    return None if expected.money is None else OVERRUN * expected.money
