"""对话网页的另一种后端：把问题转给兼容 OpenAI 接口的服务器，逐段取回回答。讲解见 notebook 90。

vLLM、SGLang、transformers serve 都是这种服务器；模型不在这个进程里，也没有“微调前后”的开关。
"""

from collections.abc import Iterator
from threading import Event
from types import SimpleNamespace

import httpx2
import openai

from labutils.base.errors import LabError
from labutils.base.text import Cut
from labutils.dataset.replies import Said, bodies, decoded
from labutils.dataset.service import cause, check_url, explain, read_key

ADDRESS = "--endpoint 的地址"
BROKEN = (httpx2.HTTPError, ValueError, AttributeError, TypeError)  # 断线，或答的不是约定的格式
# 没有说完的话怎么说
CUTS = {"length": "（到了上限 {limit} 个词元，没有说完）",
        "filter": "（服务器的内容审核拦下了后面的话，没有说完）",
        "broken": "（服务器中途断了，没有说完）"}


class Endpoint:
    """一台服务器上的一个模型。stream 与 parallel 交给 page.build。

    url 可以省去 http:// 和 /v1；不是 http(s) 地址时引发 LabError。
    密钥只从环境变量 OPENAI_API_KEY 取，本地的服务器可以不设；从不打印。
    """

    parallel = 32  # 服务器自己会排队、拼批；与本机的模型同样多（batching.MAX_ROWS）
    about = "问题转给另一台服务器上的模型回答，所以不显示“微调前 / 微调后”开关。"

    def __init__(self, url: str, model: str, timeout: float = 120.0):
        self.name, self.config = model, SimpleNamespace(_name_or_path=model)
        address = check_url(url if "://" in url else f"http://{url}", ADDRESS)
        self.host = address.netloc.decode()
        self.client = openai.OpenAI(
            base_url=str(address.copy_with(path=address.path.rstrip("/") or "/v1")),
            api_key=read_key("OPENAI_API_KEY") or "none", timeout=httpx2.Timeout(timeout, connect=5.0),
            max_retries=0)  # 服务器可能要求等一两分钟，网页不干等

    def check(self) -> None:
        """打开网页之前问一次服务器有哪些模型；连不上、密钥不对时引发 LabError，单子上没有这个模型只提醒。"""
        try:
            names = [item.id for item in self.client.models.list()]
        except openai.NotFoundError:
            return  # 有的服务器不提供这张单子
        except (openai.APIError, *BROKEN) as error:
            raise self._failure(error) from None
        if names and not {self.name, f"{self.name}:latest"} & {*names}:  # 有的服务器列的是路径，叫什么都答
            print(f"提醒：{self.host} 列出的模型里没有 {self.name}，有的是 {'、'.join(names[:5])}；"
                  "要是它不肯回答，请检查 --model。")

    def stream(self, messages: list[dict], stop: Event, **options) -> Iterator[str]:
        """逐段产出回答；stop 被设置后尽快断开。出错时引发 LabError。"""
        said, penalty = Said(), options.get("repetition_penalty", 1.0)
        limit = options.get("max_new_tokens", 128)
        try:
            with self.client.chat.completions.with_streaming_response.create(
                    model=self.name, messages=messages, stream=True, max_tokens=limit,
                    temperature=options.get("temperature", 0.0), top_p=options.get("top_p", openai.omit),
                    # 重复惩罚不在接口里，只在设了的时候另外带上
                    extra_body={"repetition_penalty": penalty} if penalty != 1 else None) as response:
                for body in bodies(decoded(response.iter_bytes())):
                    if stop.is_set():
                        return
                    before, piece = said.text.strip(), said.add(body)
                    if piece := piece if before else piece.lstrip():
                        yield piece
            if not (said.best or said.ended):
                raise ValueError  # 什么也没有发来
        except (openai.APIError, *BROKEN) as error:
            raise self._failure(error, bool(said.text.strip())) from None
        if said.best and not said.text.strip():
            yield said.best
        if cut := CUTS.get(said.why, "" if said.best else "（模型什么也没有回答）"):
            yield Cut(cut.format(limit=limit))

    def _failure(self, error: Exception, begun: bool = False) -> LabError:
        if isinstance(error, openai.APIError) and (cause(error) or not begun):
            return LabError(f"{explain(error, self.name, self.client, ADDRESS)}。")
        if begun or isinstance(error, httpx2.HTTPError):
            return LabError(f"{self.host} 的回答中途断了，请再问一次；总是这样就检查服务器的日志。")
        return LabError(f"{self.host} 没有按 OpenAI 的格式回答，请检查{ADDRESS}，"
                        "例如 http://127.0.0.1:8000/v1。")
