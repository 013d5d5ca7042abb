"""把网页的组件与事件接起来。讲解见 notebook 04。"""

from collections.abc import Callable, Sequence

import gradio as gr

from labutils.demo.web_chat import ChatEngine
from labutils.demo.web_events import Page, empty
from labutils.demo.web_feedback import DOWN, FILE, UP, Feedback
from labutils.demo.web_layout import Widgets, lay_out
from labutils.demo.web_source import Sources
from labutils.demo.web_source import examples as pick_examples

__all__ = ["build"]
MAX_EVENTS = 256  # 框架自己的队：所有人的点击加起来最多排这么多


def build(
    model, tokenizer, examples: Sequence[str] | None = None, rows: Sequence[dict] = (),
    stream: Callable | None = None, parallel: int = 1, adapter: str = "", feedback=FILE,
) -> gr.Blocks:
    """搭好网页，返回还没有启动的 ``gr.Blocks``。

    model 是带 LoRA 适配器的 PeftModel（可切换微调前后），或普通模型（不显示开关，并说明原因）。
    rows 是问答数据：给出处，也给例子；examples 另外指定例子。adapter 是显示在标题下的适配器名。
    feedback 是存评价与改正的 JSONL。stream 替换生成函数（转给服务器，或测试），这时一次生成
    parallel 个回答。
    """
    engine = ChatEngine(model, tokenizer, stream, parallel)
    page = Page(engine, Sources(rows), Feedback(feedback))
    examples = pick_examples(rows) if examples is None else list(examples)
    with gr.Blocks(title="教育行业大模型课程实验", analytics_enabled=False) as blocks:
        widgets = lay_out(engine, examples, adapter)
        _wire(page, gr.State(empty()), widgets)
        blocks.unload(page.leave)
        # 谁先谁后由 engine 里的队管，框架不必再限制
        gr.api(page.chat, api_name="chat", concurrency_limit=None)
    return blocks.queue(max_size=MAX_EVENTS, api_open=False)  # 要排队的不能绕过队直接调用


def _wire(page: Page, conversations: gr.State, widgets: Widgets) -> None:
    """接好事件。程序接口只公开 /chat，其余都是页面自己用的。"""
    button, private = widgets.buttons, {"api_visibility": "private"}
    quiet = {"concurrency_limit": None, "show_progress": "hidden", **private}
    shown = [conversations, *widgets.boxes, widgets.status, widgets.source]
    asked = gr.on([button["send"].click, widgets.box.submit], page.ask,
                  [widgets.box, widgets.mode, conversations], [widgets.box, *shown], **quiet)
    again = button["retry"].click(page.retry, [widgets.mode, conversations], shown, **quiet)
    answered = [step.success(page.answer, [conversations, *widgets.settings], shown, **quiet)
                for step in (asked, again)]
    for step in answered:
        step.failure(lambda: "", None, widgets.status, **quiet)
    button["stop"].click(page.stop, None, None, queue=False, show_progress="hidden", **private)
    # 聊天框右上角自带的清空图标也要清掉历史，否则模型还记得。
    cleared = gr.on([button["clear"].click, *[chatbot.clear for chatbot in widgets.boxes]],
                    page.clear, None, shown, cancels=answered, queue=False, **private)
    cleared.then(page.clear_leftovers, None, shown, **quiet)
    widgets.mode.change(page.switch, widgets.mode, widgets.boxes, queue=False,
                        show_progress="hidden", **private)
    _wire_feedback(page, conversations, widgets, quiet)


def _wire_feedback(page: Page, conversations: gr.State, widgets: Widgets, quiet: dict) -> None:
    where = [widgets.mode, conversations]
    for name, kind in (("up", UP), ("down", DOWN)):
        widgets.buttons[name].click(_vote(page, kind), where, widgets.panel, **quiet)
    widgets.buttons["save"].click(page.correct, [widgets.correction, *where], widgets.correction,
                                  **quiet)


def _vote(page: Page, kind: str) -> Callable:
    def vote(mode, conversations, request: gr.Request):
        return page.vote(kind, mode, conversations, request)

    return vote
