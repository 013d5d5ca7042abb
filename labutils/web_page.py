"""对话网页：标题、模式开关、聊天框、按钮与事件。讲解见 notebook 04。"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import gradio as gr

from labutils import web_chat
from labutils.errors import LabError
from labutils.web_chat import AFTER, BEFORE, DEFAULTS, ChatEngine
from labutils.web_style import CSS, EXAMPLES, THEME, title_block
from labutils.web_text import complete_turns, plain_messages, show

__all__ = ["CSS", "EXAMPLES", "THEME", "build"]
_log = logging.getLogger(__name__)
SIDES = (BEFORE, AFTER)


class Running:
    """正在生成的回答：每个浏览器页面最多一个，用停止信号代表。"""

    def __init__(self):
        self._signals: dict[str, threading.Event] = {}

    def start(self, session: str) -> None:
        if session in self._signals:
            raise LabError("上一个回答还没有结束，请等它说完，或先点“停止”。")
        self._signals[session] = threading.Event()

    def signal(self, session: str) -> threading.Event:
        """这个页面的停止信号；已经被停止时返回一个设置好的信号。"""
        stopped = threading.Event()
        stopped.set()
        return self._signals.get(session, stopped)

    def busy(self, session: str) -> bool:
        return session in self._signals

    def stop(self, session: str) -> None:
        if session in self._signals:
            self._signals.pop(session).set()

    def finish(self, session: str, signal: threading.Event) -> None:
        signal.set()
        if self._signals.get(session) is signal:
            del self._signals[session]


class Page:
    """页面的事件处理。conversations 为 ``{"微调前": 消息列表, "微调后": 消息列表}``。"""

    def __init__(self, engine: ChatEngine):
        self.engine, self.running = engine, Running()

    def ask(self, text: str, mode: str, conversations: dict, request: gr.Request):
        """把问题放进对话并清空输入框；不合要求的问题留在输入框里。"""
        with _told():
            question = web_chat.check_question(text)
            sides = self.engine.sides(mode)
            self.running.start(request.session_hash)
        kept = {side: complete_turns(conversations[side]) for side in SIDES}
        for side in sides:
            kept[side] = kept[side] + [{"role": "user", "content": question}]
        return "", kept, *_boxes(kept)

    def answer(self, conversations: dict, max_new_tokens, temperature, top_p, repetition_penalty,
               request: gr.Request):
        """依次回答还没有回答的几边，每来一段文字就刷新页面。"""
        options = web_chat.generation_options(
            max_new_tokens, temperature, top_p, repetition_penalty)
        signal = self.running.signal(request.session_hash)
        try:
            with _told():
                for side in SIDES:
                    for told in self._answer_side(conversations[side], side, signal, options):
                        conversations = conversations | {side: told}
                        yield conversations, *_boxes(conversations)
        finally:
            self.running.finish(request.session_hash, signal)

    def _answer_side(self, messages: list[dict], side: str, signal, options) -> Iterator[list]:
        """这一边等着回答时，每来一段文字就给出加上回答的消息列表。"""
        if not messages or messages[-1]["role"] != "user":
            return
        fitted, dropped = self.engine.fit(messages, options["max_new_tokens"])
        if dropped:
            gr.Info(f"对话太长，这次没有把最早的 {dropped} 轮送给模型。")
        text = ""
        for piece in self.engine.reply(fitted, side, signal, **options):
            if signal.is_set():
                return
            text += piece
            yield messages + [{"role": "assistant", "content": text}]
        if not text and not signal.is_set():
            gr.Warning(f"{side}的模型没有输出任何文字，请换个问法再试。")

    def stop(self, request: gr.Request) -> None:
        self.running.stop(request.session_hash)

    def clear(self, request: gr.Request):
        self.running.stop(request.session_hash)
        return _empty(), [], []

    def clear_leftovers(self, request: gr.Request):
        """清空的那一刻可能还有一小段回答在路上，会在清空之后到达；再清一次。

        这时又问了新问题的话，不能清。
        """
        if self.running.busy(request.session_hash):
            return gr.skip(), gr.skip(), gr.skip()
        return _empty(), [], []

    def switch(self, mode: str):
        """只显示这个模式用到的聊天框。"""
        return [gr.update(visible=side in self.engine.sides(mode)) for side in SIDES]

    def chat(self, message: str, mode: str = AFTER, history: list | None = None) -> Iterator[str]:
        """程序接口 /chat：每次给出到目前为止的回答；mode 为 微调前、微调后 或 并排对比。"""
        with _told():
            question = {"role": "user", "content": web_chat.check_question(message)}
            messages = complete_turns(plain_messages(history)) + [question]
            sides, said = self.engine.sides(mode), ""
            for side in sides:
                prefix = said + (f"【{side}】" if len(sides) > 1 else "")
                for said in self._grow(prefix, messages, side):
                    yield said
                said += "\n"
            yield said.rstrip("\n")

    def _grow(self, text: str, messages: list[dict], side: str) -> Iterator[str]:
        options = web_chat.generation_options(**DEFAULTS)
        fitted, _ = self.engine.fit(messages, options["max_new_tokens"])
        for piece in self.engine.reply(fitted, side, threading.Event(), **options):
            text += piece
            yield text


@contextmanager
def _told():
    """把错误变成用户看得到的一句中文；没料到的错误另记日志，不把内部细节给用户。"""
    try:
        yield
    except LabError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        _log.error("网页生成回答时出错", exc_info=error)
        raise gr.Error(f"生成回答时出错（{type(error).__name__}），请换个问题再试；"
                       "原因写在启动网页的窗口里。", print_exception=False) from error


def _empty() -> dict:
    return {side: [] for side in SIDES}


def _boxes(conversations: dict) -> list:
    return [show(conversations[side]) for side in SIDES]


def build(
    model, tokenizer, examples: Sequence[str] = EXAMPLES, stream: Callable | None = None,
    parallel: int = 1,
) -> gr.Blocks:
    """搭好网页，返回还没有启动的 ``gr.Blocks``。

    model 是带 LoRA 适配器的 PeftModel（可切换微调前后），或普通模型（不显示开关，并说明原因）。
    stream 替换生成函数（转给服务器，或测试）。生成任务排一个队，一次只生成 parallel 个回答。
    """
    engine = ChatEngine(model, tokenizer, stream, parallel)
    page = Page(engine)
    with gr.Blocks(title="教育行业大模型课程实验", analytics_enabled=False) as blocks:
        gr.HTML(title_block(model, engine.has_adapter), elem_id="lab-title")
        conversations = gr.State(_empty())
        mode = gr.Radio(engine.modes, value=AFTER, label="用哪个模型回答", elem_id="lab-mode",
                        show_label=False, container=False, visible=engine.has_adapter)
        with gr.Row():
            boxes = [_chatbot(side, engine.has_adapter) for side in SIDES]
        box, send, stop, clear = _controls()
        gr.Examples([[e] for e in examples], box, label="试试这些问题", elem_id="lab-examples",
                    api_visibility="private")
        settings = _settings()
        _wire(page, conversations, mode, boxes, box, (send, stop, clear), settings)
        gr.api(page.chat, api_name="chat", concurrency_id="model", concurrency_limit=parallel)
    return blocks.queue(max_size=64)


def _chatbot(side: str, has_adapter: bool) -> gr.Chatbot:
    label = side if has_adapter else "对话"
    return gr.Chatbot(
        label=label, visible=side == AFTER, height="min(48vh, 520px)", min_width=280,
        buttons=["copy"], latex_delimiters=[], sanitize_html=True, feedback_options=None,
        placeholder="在下面输入问题，或点一个例子", elem_classes="lab-chat",
        elem_id="lab-before" if side == BEFORE else "lab-after",
    )


def _controls():
    with gr.Row(equal_height=True):
        box = gr.Textbox(placeholder="输入问题，按回车发送", show_label=False, label="问题",
                         lines=1, max_lines=5, scale=6, min_width=220, autofocus=True,
                         elem_id="lab-box")
        send = gr.Button("发送", variant="primary", scale=1, min_width=80, elem_id="lab-send")
        stop = gr.Button("停止", variant="stop", scale=1, min_width=80, elem_id="lab-stop")
        clear = gr.Button("清空历史对话", scale=1, min_width=120, elem_id="lab-clear")
    return box, send, stop, clear


def _settings() -> list[gr.Slider]:
    with gr.Accordion("生成设置", open=False):
        with gr.Row():
            tokens = gr.Slider(16, 512, DEFAULTS["max_new_tokens"], step=16,
                               label="最多生成词元数", info="max_new_tokens：说到这么长就停")
            heat = gr.Slider(0, 1.5, DEFAULTS["temperature"], step=0.1, label="温度",
                             info="temperature：0 每步取最可能的词元，越大越随机")
        with gr.Row():
            top = gr.Slider(0.1, 1, DEFAULTS["top_p"], step=0.05, label="核采样比例",
                            info="top_p：只从概率之和达到它的词元里抽，温度大于 0 时有效")
            again = gr.Slider(1, 2, DEFAULTS["repetition_penalty"], step=0.05, label="重复惩罚",
                              info="repetition_penalty：1 不惩罚，越大越不爱重复")
    return [tokens, heat, top, again]


def _wire(page: Page, conversations, mode, boxes, box, buttons, settings) -> None:
    """接好事件。程序接口只公开 /chat，其余都是页面自己用的。"""
    send, stop, clear = buttons
    private = {"api_visibility": "private"}
    shown = [conversations, *boxes]
    asked = gr.on([send.click, box.submit], page.ask, [box, mode, conversations], [box, *shown],
                  concurrency_limit=None, show_progress="hidden", **private)
    answered = asked.success(page.answer, [conversations, *settings], shown,
                             concurrency_id="model", concurrency_limit=page.engine.parallel,
                             show_progress="minimal", **private)
    stop.click(page.stop, cancels=[answered], queue=False, **private)
    # 聊天框右上角自带的清空图标也要清掉历史，否则模型还记得。
    cleared = gr.on([clear.click, *[chatbot.clear for chatbot in boxes]], page.clear, None, shown,
                    cancels=[answered], queue=False, **private)
    cleared.then(page.clear_leftovers, None, shown, concurrency_limit=None,
                 show_progress="hidden", **private)
    mode.change(page.switch, mode, boxes, queue=False, show_progress="hidden", **private)
