"""网页上有哪些组件、怎么摆。按下去做什么见 web_events，接线见 web_page。讲解见 notebook 04。"""

from dataclasses import dataclass

import gradio as gr

from labutils.demo.web_chat import AFTER, BEFORE, DEFAULTS, MAX_CHARACTERS, ChatEngine
from labutils.demo.web_feedback import MAX_CHARACTERS as MAX_CORRECTION
from labutils.demo.web_style import title_block

# 读屏软件会把状态的变化读出来
STATUS = '<p role="status" aria-live="polite">${value}</p>'


@dataclass
class Widgets:
    """页面上要接线的组件。"""

    mode: gr.Radio
    boxes: list[gr.Chatbot]
    status: gr.HTML
    source: gr.HTML
    box: gr.Textbox
    buttons: dict[str, gr.Button]
    settings: list[gr.Slider]
    panel: gr.Accordion
    correction: gr.Textbox


def lay_out(engine: ChatEngine, examples: list[str], adapter: str) -> Widgets:
    """从上到下摆好组件；要在 ``gr.Blocks`` 里面调用。"""
    gr.HTML(title_block(engine.model, engine.has_adapter, adapter), elem_id="lab-title")
    mode = gr.Radio(engine.modes, value=AFTER, label="用哪个模型回答", elem_id="lab-mode",
                    show_label=False, container=False, visible=engine.has_adapter)
    with gr.Row(elem_id="lab-chats"):
        boxes = [_chatbot(BEFORE, engine.has_adapter), _chatbot(AFTER, engine.has_adapter)]
    status = gr.HTML("", html_template=STATUS, elem_id="lab-status")
    source = gr.HTML("", elem_id="lab-source")
    buttons = _after_the_answer()
    box, senders = _question()
    if examples:
        gr.Examples([[e] for e in examples], box, label="试试这些问题", elem_id="lab-examples",
                    api_visibility="private")
    panel, correction, save = _correction()
    return Widgets(mode, boxes, status, source, box, {**buttons, **senders, "save": save},
                   _settings(), panel, correction)


def _chatbot(side: str, has_adapter: bool) -> gr.Chatbot:
    label = side if has_adapter else "对话"
    return gr.Chatbot(
        label=label, visible=side == AFTER, height="min(44vh, 520px)", min_width=280,
        buttons=["copy"], latex_delimiters=[], sanitize_html=True, feedback_options=None,
        placeholder="在下面输入问题，或点一个例子", elem_classes="lab-chat",
        elem_id="lab-before" if side == BEFORE else "lab-after",
    )


def _after_the_answer() -> dict[str, gr.Button]:
    """看完回答以后用的按钮。"""
    size = {"size": "sm", "min_width": 140}
    with gr.Row(elem_id="lab-tools"):
        return {
            "up": gr.Button("👍 答对了", elem_id="lab-up", **size),
            "down": gr.Button("👎 答错了", elem_id="lab-down", **size),
            "retry": gr.Button("重试", elem_id="lab-retry", **size),
            "clear": gr.Button("清空历史对话", elem_id="lab-clear", **size),
        }


def _question() -> tuple[gr.Textbox, dict[str, gr.Button]]:
    with gr.Row(equal_height=True, elem_id="lab-ask"):
        box = gr.Textbox(placeholder="输入问题，按回车发送", show_label=False, label="问题",
                         container=False, lines=1, max_lines=5, max_length=MAX_CHARACTERS, scale=8,
                         min_width=150, autofocus=True, elem_id="lab-box")
        return box, {
            "send": gr.Button("发送", variant="primary", scale=1, min_width=64, elem_id="lab-send"),
            "stop": gr.Button("停止", variant="stop", scale=1, min_width=64, elem_id="lab-stop"),
        }


def _correction() -> tuple[gr.Accordion, gr.Textbox, gr.Button]:
    with gr.Accordion("改正", open=False, elem_id="lab-panel") as panel:
        text = gr.Textbox(
            label="正确答案", info="存下来给老师看，以后可以变成新的训练数据；请不要写个人信息",
            lines=2, max_lines=6, max_length=MAX_CORRECTION, elem_id="lab-correction")
        save = gr.Button("保存改正", size="sm", elem_id="lab-save")
    return panel, text, save


def _settings() -> list[gr.Slider]:
    with gr.Accordion("生成设置", open=False, elem_id="lab-settings"):
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
