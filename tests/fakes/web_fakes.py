"""网页测试用的假模型：不用权重，回答由测试写定，一个字一个字地给出。"""

import shutil
import time

from labutils.base.errors import LabError

ANSWER = "一流本科课程分为五类：线上、线下、线上线下混合式、虚拟仿真实验教学、社会实践。"


class _Config:
    _name_or_path = "tiny"
    max_position_embeddings = 512


class PlainModel:
    """没有适配器的普通模型。"""

    config = _Config()


class AdapterModel(PlainModel):
    """带适配器的模型：有 disable_adapter 就算。"""

    def disable_adapter(self):
        raise AssertionError("开关由生成函数负责，网页不应当自己碰它")


class CharTokenizer:
    """一个字一个词元；对话模板只把各条内容连起来。"""

    added_tokens_decoder: dict = {}
    special_tokens_map: dict = {}
    eos_token = None

    def get_added_vocab(self) -> dict:
        return {}

    def get_chat_template(self, tools=None) -> str:
        return "{% for m in messages %}{{ m['content'] }}{% endfor %}"

    def encode(self, text, add_special_tokens=False) -> list[str]:
        return list(text)


class FakeStream:
    """代替真的流式生成：记下每次收到的消息和参数，逐字给出写好的回答。"""

    def __init__(self, delay: float = 0.0):
        self.delay, self.calls, self.stopped, self.closed = delay, [], 0, 0

    def __call__(self, messages, stop, adapter=True, **options):
        self.calls.append({"messages": messages, "adapter": adapter, **options})
        question = messages[-1]["content"]
        if question == "坏":
            raise LabError("生成回答时出错：假的错误。")
        if question == "崩":
            raise RuntimeError("内部细节，不该给用户看")
        text = {"说：": question[2:], "不停": "长" * 3000}.get(question[:2], ANSWER)
        try:
            for letter in ("后：" if adapter else "前：") + text:
                if stop.is_set():
                    self.stopped += 1
                    return
                time.sleep(self.delay)
                yield letter
        finally:
            self.closed += 1


def wait_for(check, seconds: float = 60.0) -> None:
    """等到 check() 成立；等得太久就算失败。"""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "等了太久"
        time.sleep(0.02)


def find_browser(environment: dict) -> str | None:
    """Chromium 系浏览器的路径；LAB_CHROMIUM 优先。"""
    names = [environment.get("LAB_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


BROWSER_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]
