"""兼容 OpenAI 接口的服务器出错时，换成一句中文：哪台服务器、什么原因、怎么办。

服务器的原话可能带着密钥的一部分，所以只说自己的话。
"""

from urllib.parse import urlsplit

import openai


def explain(error: openai.APIError, model: str, client: openai.OpenAI | openai.AsyncOpenAI,
            address: str = "环境变量 OPENAI_BASE_URL", key_name: str = "OPENAI_API_KEY") -> str:
    """出错原因的一句话，以分号结尾，调用者接着写别的；address 是用户在哪里写的服务器地址。"""
    host = urlsplit(str(client.base_url)).hostname
    code = getattr(error, "status_code", "")
    if isinstance(error, openai.AuthenticationError):
        return f"{host} 不认这个密钥（401），请检查环境变量 {key_name}；"
    if out_of_money(error):
        return f"{host} 说额度用完或余额不足（{code}），请充值或换一个服务；"
    if isinstance(error, openai.PermissionDeniedError):
        return f"这个密钥没有使用 {model} 的权限（403），请换模型或在服务商处开通；"
    if isinstance(error, openai.NotFoundError):
        return f"{host} 上没有模型 {model}（404），请检查模型名和{address}；"
    if isinstance(error, openai.RateLimitError):
        return f"{host} 说请求太频繁或额度用完（429），请稍后再试或检查余额；"
    if isinstance(error, openai.APITimeoutError):
        return f"{host} 超时没有回复，请稍后再试，或加大等待时间；"
    if isinstance(error, openai.APIConnectionError):
        return f"连不上 {host}，请检查网络和{address}；"
    if code in (400, 413, 422):
        return f"{host} 不接受这次请求，出错（{code}），多半是文字太长、内容被拦下或模型名不对；"
    return f"{host} 出错（{code or type(error).__name__}），请稍后再试或检查模型是否可用；"


def out_of_money(error: openai.APIError) -> bool:
    """余额不足：402，或带着 insufficient_quota 的 429；等多久都没有用。"""
    return getattr(error, "status_code", 0) == 402 or error.code == "insufficient_quota"
