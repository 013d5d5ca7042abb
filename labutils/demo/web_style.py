"""对话网页的外观：主题、样式、标题和例子。讲解见 notebook 04。"""

import html
from pathlib import Path

import gradio as gr

from labutils.base import paths

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
    folder = paths.resolve(name)
    return paths.rel(folder) if name != "tiny" and folder.is_dir() else name
