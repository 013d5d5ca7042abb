"""要花多少钱：发请求之前估算，超过上限先停下；之后按服务器报的用量结算。

估算很简单，宁可偏高：一个汉字（含全角标点）算 1 个 token，别的字符算 0.3 个；
每条问答的回复算 150 个 token（随仓库的 150 条平均 65 个汉字、163 个别的字符，合 114 个，另留缩进）。
会思考的模型把思考也算进输出，可能是估算的几倍。
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from labutils.base.errors import LabError
from labutils.base.paths import rel
from labutils.dataset.api_presets import PRESETS, Price, Service
from labutils.dataset.qa_prompts import Request

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
        return (self.input_tokens * self.price.input
                + self.output_tokens * self.price.output) / 1_000_000

    def add(self, usage: dict | None, request: Request, text: str) -> None:
        """记一次调用；服务器没有报用量就按字数估。"""
        self.calls += 1
        self.guessed += usage is None
        usage = usage or {"input": _input_tokens(request), "output": count_tokens(text)}
        self.input_tokens += usage["input"]
        self.output_tokens += usage["output"]

    def __str__(self) -> str:
        text = f"{self.calls} 次调用，输入 {self.input_tokens}、输出 {self.output_tokens} 个 token"
        if self.guessed:
            text += f"（其中 {self.guessed} 次服务器没有报用量，按字数估）"
        return f"{text}，{describe_money(self.money, self.price)}"


def describe_money(money: float | None, price: Price | None) -> str:
    if money is None or price is None:
        return f"价格没有填，算不出多少钱（在 {rel(PRESETS)} 的 prices 里填）"
    if price.input == price.output == 0:
        return "不花钱"
    date = f"（{price.date} 的价格）" if price.date else ""
    return f"约 {money:.4g} {price.currency}{date}"


def count_tokens(text: str) -> int:
    """一段文字大约几个 token；规则见本文件开头。"""
    wide = len(_WIDE.findall(text))
    return math.ceil(wide + 0.3 * (len(text) - wide))


def _input_tokens(request: Request) -> int:
    return sum(count_tokens(message["content"]) for message in request.messages)


def estimate(requests: Iterable[Request], price: Price | None) -> Bill:
    """全部一次成功时的账单；重试、重问不在内。"""
    bill = Bill(price)
    for request in requests:
        usage = {"input": _input_tokens(request), "output": request.pairs * OUTPUT_TOKENS_PER_PAIR}
        bill.add(usage, request, "")
    return bill


def spending_cap(
    service: Service, expected: Bill, max_cost: float | None,
    confirm: Callable[[str], bool] | None = None,
) -> float | None:
    """这次运行最多花多少（与价格同一币种）；None 表示不设上限。

    估算超过 max_cost 时：给了 confirm 就问用户，没有给、或用户不同意就抛 LabError，一次也不调用。
    """
    if max_cost is None:
        return None
    if expected.money is None:
        problem = f"{service.model} 的价格没有填，没法按金额控制"
        advice = (f"请在 {rel(PRESETS)} 的 prices 里填上价格，或不设上限"
                  "（notebook 里 MAX_COST = 0，labutils run 用 --max-cost 0，labutils dataset 加 --yes）")
    elif expected.money <= max_cost:
        return max_cost
    else:
        problem = f"估算 {describe_money(expected.money, expected.price)}，超过上限 {max_cost:g}"
        advice = "请加大上限、减少题数或换便宜的模型"
    if confirm is None or not confirm(f"{problem}。继续吗？"):
        raise LabError(f"{problem}，还没有调用，没有花钱；{advice}。")
    return None if expected.money is None else OVERRUN * expected.money
