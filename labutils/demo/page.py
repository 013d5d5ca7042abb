"""对话网页的样子：主题、标题、组件，以及按下去叫哪个函数（events）。讲解见 notebook 04。"""

import html
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr

from labutils.base import files
from labutils.dataset.build import DOWN, FEEDBACK, UP
from labutils.demo.engine import AFTER, BEFORE, DEFAULTS, MAX_CHARACTERS, ChatEngine, Streams
from labutils.demo.events import EMPTY, Feedback, Page, Sources, examples

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
    button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_hover_dark="*primary_700",
    checkbox_label_background_fill_selected="*primary_600",
    button_secondary_background_fill_hover_dark="*neutral_700",
    input_border_width="1px", input_border_color="*neutral_300",
    input_border_color_dark="*neutral_600", block_border_width="1px",
    block_border_color="*neutral_200", block_border_color_dark="*neutral_700",
)

CSS = Path(__file__).with_name("page.css").read_text("utf-8")
HEAD = f"<script>{Path(__file__).with_name('page.js').read_text('utf-8')}</script>"
# 读屏软件会把状态的变化读出来
STATUS = '<p role="status" aria-live="polite">${value}</p>'
SETTINGS = (  # 参数名、最小、最大、一格、标签、说明
    ("max_new_tokens", 16, 512, 16, "最多生成词元数", "说到这么长就停"),
    ("temperature", 0, 1.5, 0.1, "温度", "0 每步取最可能的词元，越大越随机"),
    ("top_p", 0.1, 1, 0.05, "核采样比例", "只从概率之和达到它的词元里抽，温度大于 0 时有效"),
    ("repetition_penalty", 1, 2, 0.05, "重复惩罚", "1 不惩罚，越大越不爱重复"))
MAX_EVENTS = 256  # 框架自己的队：所有人的点击加起来最多排这么多


def build(
    model, tokenizer, rows: Sequence[dict] = (), stream: Callable | None = None, parallel: int = 1,
    adapter: str = "", feedback=FEEDBACK,
) -> gr.Blocks:
    """搭好网页，返回还没有启动的 ``gr.Blocks``。

    model 是带 LoRA 适配器的 PeftModel（可切换微调前后），或普通模型（不显示开关，并说明原因）。
    rows 是问答数据：给出处，也给例子。adapter 是标题下的适配器名，feedback 是存评价与改正的 JSONL。
    stream 代替本机的模型来回答，形状见 engine.Streams，这时一次答 parallel 个。
    """
    if stream is None:
        from labutils.demo import batching  # 用到时才导入：转给服务器时不必等 torch 加载

    line = Streams(stream, parallel) if stream else batching.local(model, tokenizer)
    engine = ChatEngine(model, tokenizer, line)
    page = Page(engine, Sources(rows), Feedback(feedback))
    with gr.Blocks(title="教育行业大模型课程实验", analytics_enabled=False) as blocks:
        gr.HTML(title_block(model, engine.has_adapter, adapter), elem_id="lab-title")
        _lay_out(engine, examples(rows))
        _wire(page, gr.State(EMPTY), {block.elem_id: block for block in blocks.blocks.values()})
        blocks.unload(page.stop)
        # 谁先谁后由 engine 里的队管，框架不必再限制
        gr.api(page.chat, api_name="chat", concurrency_limit=None)
    return blocks.queue(max_size=MAX_EVENTS, api_open=False)  # 要排队的不能绕过队直接调用


def _lay_out(engine: ChatEngine, questions: list[str]) -> None:
    """从上到下摆好组件；样式、接线、测试都按 elem_id 认它们。"""
    gr.Radio(engine.modes, value=AFTER, label="用哪个模型回答", elem_id="lab-mode",
             show_label=False, container=False, visible=engine.has_adapter)
    with gr.Row(elem_id="lab-chats"):
        for side, name in ((BEFORE, "lab-before"), (AFTER, "lab-after")):
            gr.Chatbot(label=side if engine.has_adapter else "对话", visible=side == AFTER,
                       height="min(44vh, 520px)", min_width=280, buttons=["copy"], latex_delimiters=[],
                       sanitize_html=True, feedback_options=None, elem_classes="lab-chat", elem_id=name,
                       placeholder="在下面输入问题，或点一个例子")
    gr.HTML("", html_template=STATUS, elem_id="lab-status")
    gr.HTML("", elem_id="lab-source")
    with gr.Row(elem_id="lab-tools"):  # 看完回答以后用的
        for text, name in (("👍 答对了", "lab-up"), ("👎 答错了", "lab-down"), ("重试", "lab-retry"),
                           ("清空历史对话", "lab-clear")):
            gr.Button(text, elem_id=name, size="sm", min_width=140)
    with gr.Row(equal_height=True, elem_id="lab-ask"):
        box = gr.Textbox(placeholder="输入问题，按回车发送", show_label=False, label="问题",
                         container=False, lines=1, max_lines=5, max_length=MAX_CHARACTERS, scale=8,
                         min_width=150, autofocus=True, elem_id="lab-box")
        gr.Button("发送", variant="primary", scale=1, min_width=64, elem_id="lab-send")
        gr.Button("停止", variant="stop", scale=1, min_width=64, elem_id="lab-stop")
    if questions:
        gr.Examples([[text] for text in questions], box, label="试试这些问题", elem_id="lab-examples",
                    api_visibility="private")
    with gr.Accordion("改正", open=False, elem_id="lab-panel"):
        gr.Textbox(label="正确答案", info="存下来给老师看，以后可以变成新的训练数据；请不要写个人信息",
                   lines=2, max_lines=6, max_length=MAX_CHARACTERS, elem_id="lab-correction")
        gr.Button("保存改正", size="sm", elem_id="lab-save")
    with gr.Accordion("生成设置", open=False, elem_id="lab-settings"):
        for pair in (SETTINGS[:2], SETTINGS[2:]):
            with gr.Row():
                for name, low, high, step, label, info in pair:
                    gr.Slider(low, high, DEFAULTS[name], step=step, label=label, info=f"{name}：{info}",
                              elem_id=f"lab-{name}")


def _wire(page: Page, talk: gr.State, ui: dict) -> None:
    """接好事件。程序接口只公开 /chat，其余都是页面自己用的。"""
    private = {"api_visibility": "private"}
    quiet = {"concurrency_limit": None, "show_progress": "hidden", **private}
    boxes, mode, box = [ui["lab-before"], ui["lab-after"]], ui["lab-mode"], ui["lab-box"]
    shown = [talk, *boxes, ui["lab-status"], ui["lab-source"]]
    asked = gr.on([ui["lab-send"].click, box.submit], page.ask, [box, mode, talk], [box, *shown], **quiet)
    again = ui["lab-retry"].click(page.retry, [mode, talk], shown, **quiet)
    settings = [ui[f"lab-{name}"] for name, *_ in SETTINGS]
    answered = [step.success(page.answer, [talk, *settings], shown, **quiet) for step in (asked, again)]
    for step in answered:
        step.failure(lambda: "", None, ui["lab-status"], **quiet)
    ui["lab-stop"].click(page.stop, None, None, queue=False, show_progress="hidden", **private)
    # 聊天框右上角自带的清空图标也要清掉历史，否则模型还记得
    cleared = gr.on([ui["lab-clear"].click, *[chatbot.clear for chatbot in boxes]], page.clear, None, shown,
                    cancels=answered, queue=False, **private)
    cleared.then(page.clear_leftovers, None, shown, **quiet)
    mode.change(page.switch, mode, boxes, queue=False, show_progress="hidden", **private)
    for name, kind in (("lab-up", UP), ("lab-down", DOWN)):
        ui[name].click(page.vote, [gr.State(kind), mode, talk], ui["lab-panel"], **quiet)
    ui["lab-save"].click(page.correct, [ui["lab-correction"], mode, talk], ui["lab-correction"], **quiet)


def title_block(model, has_adapter: bool, adapter: str = "") -> str:
    """标题区的 HTML：课程名、这是什么、用的哪个模型、适配器与设备。名字一律转义。"""
    note = "微调前与微调后是同一个模型：关掉适配器是微调前，打开是微调后。"
    if not has_adapter:
        note = getattr(model, "about",
                       "没有加载 LoRA 适配器，只有一个模型可用，所以不显示“微调前 / 微调后”开关。")
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in _facts(model, adapter))
    return ("<h1>《教育行业大模型及应用开发实战》</h1>"
            f"<p>问一问用课程文件微调过的对话模型。它会答错，请以文件原文为准。{note}</p><ul>{facts}</ul>")


def _facts(model, adapter: str) -> list[str]:
    """模型名、参数量、适配器、设备；只写名字，不写机器上的完整路径。"""
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "未命名")
    folder = files.model_folder(name)
    facts = [f"模型 {files.rel(folder) if folder else name}"]
    if hasattr(model, "num_parameters"):
        facts.append(f"{model.num_parameters() / 1e6:.1f} M 参数")
    for config in getattr(model, "peft_config", {}).values():
        kind = str(getattr(config.peft_type, "value", config.peft_type)).replace("LORA", "LoRA")
        rank = f"（r={config.r}，alpha={config.lora_alpha}）" if hasattr(config, "r") else ""
        facts.append(f"适配器 {adapter} {kind}{rank}")
    if hasattr(model, "device"):
        facts.append(f"设备 {str(model.device).upper()}")
    return facts
