"""一个打开网页的人：和浏览器里的页面一样提问、读流式回答，但不需要浏览器。

走的是页面自己用的地址（queue/join、queue/data），不是程序接口，所以量到的就是页面的速度。
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx


class Refused(Exception):
    """网页没有回答：拒绝、排满、出错。文字是给用户看的那句话。"""


@dataclass
class Reply:
    text: str = ""
    first: float | None = None  # 从发送到看见第一个字的秒数
    waited: str = ""            # 排队时状态栏说的第一句话


class Visitor:
    """一个标签页。settings 是 [max_new_tokens, temperature, top_p, repetition_penalty]。"""

    def __init__(self, client: httpx.AsyncClient, functions: dict[str, int],
                 settings=(128, 0.0, 0.9, 1.0)):
        self.client, self.functions, self.settings = client, functions, list(settings)
        self.session = uuid.uuid4().hex

    async def ask(self, question: str, mode: str = "微调后", pause: float = 0.0) -> Reply:
        """问一次，读到结束；pause 是每读一条歇几秒。没有回答时引发 Refused。"""
        reply, began = Reply(), time.perf_counter()
        await self.send(question, mode)
        async for line, done in self.read(pause):
            if reply.first is None and '"assistant"' in line:
                reply.first = time.perf_counter() - began
            if not reply.waited and "排队中" in line:
                reply.waited = line[line.index("排队中"):].split('"')[0]
            if done:
                _, before, after, *_ = done
                chat = after or before
                if isinstance(chat, list):  # 叫停之后最后一次不改对话，给的不是列表
                    reply.text = chat[-1]["content"][0]["text"]
        return reply

    async def send(self, question: str, mode: str = "微调后") -> None:
        """把问题放进对话，并且开始回答；还没有读。"""
        await self.join("ask", [question, mode, None])
        async for _ in self.read():
            pass
        await self.join("answer", [None, *self.settings])

    async def read(self, pause: float = 0.0) -> AsyncIterator[tuple[str, list | None]]:
        """逐条给出 (收到的一行, 结束时的全部输出或 None)。"""
        where = {"session_hash": self.session}
        async with self.client.stream("GET", "gradio_api/queue/data", params=where) as lines:
            async for line in _lines(lines):
                message = json.loads(line[5:]) if "process_completed" in line else {}
                if message and not message["success"]:
                    raise Refused(message["output"].get("error") or "出错，没有说明")
                yield line, message["output"].get("data") if message else None
                if message:
                    return
                await asyncio.sleep(pause)
        raise Refused("没有等到结束")

    async def press(self, button: str) -> None:
        """不排队的按钮：stop、clear。"""
        await self._post("gradio_api/run/predict", button, [])

    async def join(self, action: str, data: list) -> str:
        """交上去，返回编号。"""
        return (await self._post("gradio_api/queue/join", action, data))["event_id"]

    async def _post(self, path: str, action: str, data: list) -> dict:
        body = {"data": data, "fn_index": self.functions[action], "session_hash": self.session}
        # 用 \\u 转义发：半个代理字符之类的怪字符也要能发出去
        sent = await self.client.post(path, content=json.dumps(body),
                                      headers={"content-type": "application/json"})
        if sent.status_code != 200:
            raise Refused(f"{sent.status_code} {sent.text[:200]}")
        return sent.json()


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """按换行符断行；httpx 自己的断法会在文字里的 U+2028 处断开。"""
    rest = b""
    async for piece in response.aiter_bytes():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode("utf-8")


async def functions(client: httpx.AsyncClient) -> dict[str, int]:
    """页面上每个动作的编号：{"ask": 0, …}。"""
    config = (await client.get("config")).json()
    return {item["api_name"]: item["id"] for item in config["dependencies"]}
