"""对话网页的外观：主题、样式、标题和例子。讲解见 notebook 04。

网页上有哪些组件、怎么摆。按下去做什么见 web_events，接线见 web_page。讲解见 notebook 04。

把网页的组件与事件接起来。讲解见 notebook 04。
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from labutils.base import files
from labutils.dataset.build import DOWN, FEEDBACK, UP
from labutils.demo.engine import AFTER, BEFORE, DEFAULTS, MAX_CHARACTERS, ChatEngine, Streams
from labutils.demo.events import Page, empty
from labutils.demo.sources import MAX_CHARACTERS as MAX_CORRECTION
from labutils.demo.sources import Feedback, Sources
from labutils.demo.sources import examples as pick_examples

# 各系统自带的中文字体；网页不从外网下载字体，断网也能用。
_FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans SC", "Noto Sans CJK SC",
          "WenQuanYi Micro Hei", "sans-serif"]
THEME = gr.themes.Soft(
    primary_hue="blue", neutral_hue="slate", font=_FONTS,
    font_mono=["ui-monospace", "Consolas", "Menlo", "monospace"],
).set(  # 主题自带的浅灰和浅蓝太淡：投影看不清，也过不了无障碍检查（对比度至少 4.5）
    body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
    input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_300",
    block_label_text_color="*primary_700", block_title_text_color="*primary_700",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_hover_dark="*primary_700",
    checkbox_label_background_fill_selected="*primary_600",
    button_secondary_background_fill_hover_dark="*neutral_700",
    input_border_width="1px", input_border_color="*neutral_300",
    input_border_color_dark="*neutral_600", block_border_width="1px",
    block_border_color="*neutral_200", block_border_color_dark="*neutral_700",
)

_HERE = Path(__file__).parent
CSS = (_HERE / "page.css").read_text("utf-8")
HEAD = f"<script>{(_HERE / 'page.js').read_text('utf-8')}</script>"


def title_block(model, has_adapter: bool, adapter: str = "") -> str:
    """标题区的 HTML：课程名、这是什么、用的哪个模型、适配器与设备。名字一律转义。"""
    note = "微调前与微调后是同一个模型：关掉适配器是微调前，打开是微调后。"
    if not has_adapter:
        note = getattr(model, "about",
                       "没有加载 LoRA 适配器，只有一个模型可用，所以不显示“微调前 / 微调后”开关。")
    facts = "".join(f"<li>{fact}</li>" for fact in _facts(model, adapter))
    return (
        "<h1>《教育行业大模型及应用开发实战》</h1>"
        f"<p>问一问用课程文件微调过的对话模型。它会答错，请以文件原文为准。{note}</p>"
        f"<ul>{facts}</ul>"
    )


def _facts(model, adapter: str) -> list[str]:
    """模型名、参数量、适配器、设备；只写名字，不写机器上的完整路径。"""
    facts = [f"模型 {html.escape(_base_name(model))}"]
    if hasattr(model, "num_parameters"):
        facts.append(f"{model.num_parameters() / 1e6:.1f} M 参数")
    for config in getattr(model, "peft_config", {}).values():
        kind = str(getattr(config.peft_type, "value", config.peft_type)).replace("LORA", "LoRA")
        rank = f"（r={config.r}，alpha={config.lora_alpha}）" if hasattr(config, "r") else ""
        facts.append(f"适配器 {html.escape(adapter)} {html.escape(kind)}{rank}")
    if hasattr(model, "device"):
        facts.append(f"设备 {html.escape(device_name(model.device))}")
    return facts


def device_name(device) -> str:
    """设备的叫法：CPU、显卡的型号，或原样（如 mps）。"""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return "CPU" if device.type == "cpu" else str(device)


def _base_name(model) -> str:
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "未命名")
    folder = files.model_folder(name)
    return files.rel(folder) if folder else name


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


MAX_EVENTS = 256  # 框架自己的队：所有人的点击加起来最多排这么多


def build(
    model, tokenizer, examples: Sequence[str] | None = None, rows: Sequence[dict] = (),
    stream: Callable | None = None, parallel: int = 1, adapter: str = "", feedback=FEEDBACK,
) -> gr.Blocks:
    """搭好网页，返回还没有启动的 ``gr.Blocks``。

    model 是带 LoRA 适配器的 PeftModel（可切换微调前后），或普通模型（不显示开关，并说明原因）。
    rows 是问答数据：给出处，也给例子；examples 另外指定例子。adapter 是显示在标题下的适配器名。
    feedback 是存评价与改正的 JSONL。stream 替换生成函数（转给服务器，或测试），这时一次生成
    parallel 个回答。
    """
    if stream is None:
        from labutils.demo import batching  # 用到时才导入：转给服务器时不必等 torch 加载

        line = batching.local(model, tokenizer)
    else:
        line = Streams(stream, parallel)
    engine = ChatEngine(model, tokenizer, line)
    page = Page(engine, Sources(rows), Feedback(feedback))
    examples = pick_examples(rows) if examples is None else list(examples)
    with gr.Blocks(title="教育行业大模型课程实验", analytics_enabled=False) as blocks:
        widgets = lay_out(engine, examples, adapter)
        _wire(page, gr.State(empty()), widgets)
        blocks.unload(page.stop)
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
        widgets.buttons[name].click(page.vote, [gr.State(kind), *where], widgets.panel, **quiet)
    widgets.buttons["save"].click(page.correct, [widgets.correction, *where], widgets.correction,
                                  **quiet)
