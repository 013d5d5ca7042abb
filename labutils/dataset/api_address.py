"""模型服务的地址与密钥：用之前先查一遍，写错了用一句话说清楚。网页与造问答对都用。

密钥只从环境变量取，报错时也不说出来。
"""

import os

import httpx

from labutils.base.errors import LabError


def check_url(url: str, where: str) -> httpx.URL:
    """分好各部分的地址；不是 http(s) 地址、端口或主机名写错时引发 LabError。where：写在哪里。"""
    try:
        parts = httpx.URL(url)
        parts.host.encode("idna")  # 主机名里连着两个点，到连接时才出错
        good = parts.scheme in ("http", "https") and parts.host and (parts.port or 1) < 65536
    except (httpx.InvalidURL, ValueError):
        good = False
    if not good:
        raise LabError(f"{where}写得不对，应当像 http://127.0.0.1:8000/v1。")
    return parts


def read_key(variable: str) -> str:
    """环境变量里的密钥，没有设就是空的；混进了请求头里不能有的字时引发 LabError。"""
    key = os.environ.get(variable, "").strip()
    if not all(32 < ord(letter) < 127 for letter in key):
        raise LabError(f"环境变量 {variable} 里的密钥含有中文、空格或换行，请重新复制一遍。")
    return key
