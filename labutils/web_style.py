"""对话网页的外观：主题、样式、标题和例子。讲解见 notebook 04。"""

import html

import gradio as gr

from labutils import paths

# 各系统自带的中文字体；网页不从外网下载字体，断网也能用。
_FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans SC", "Noto Sans CJK SC",
          "WenQuanYi Micro Hei", "sans-serif"]
THEME = gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=_FONTS,
                       font_mono=["ui-monospace", "Consolas", "Menlo", "monospace"])

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
#lab-title h1 { font-size: 1.4rem; font-weight: 700; line-height: 1.4; margin: 0 0 .25rem; }
#lab-title p { margin: .1rem 0; line-height: 1.6; color: var(--body-text-color-subdued); }
#lab-title code { padding: .05rem .35rem; border-radius: 4px; font-size: .9em;
                  background: var(--background-fill-secondary); }
#lab-mode { padding: 0 .2rem; }
.lab-chat .message { line-height: 1.7; overflow-wrap: anywhere; }
.lab-chat pre { overflow-x: auto; }
/* 问题里的标点带着反斜杠，复制出来不是原文，所以只给回答留复制按钮 */
.lab-chat .message-buttons-right { display: none; }
#lab-status p { min-height: 1.6em; margin: 0; color: var(--body-text-color-subdued); }
#lab-source p { margin: 0; padding: .5rem .8rem; line-height: 1.7; border-radius: 8px;
                overflow-wrap: anywhere; background: var(--background-fill-secondary); }
#lab-source small { color: var(--body-text-color-subdued); }
/* 出错时右上角已有提示，不要再用“错误”二字盖住整段对话 */
:is(.lab-chat, #lab-box) [data-testid="status-tracker"]:has(.error) { display: none; }
/* 弹窗标题在框架里写死成英文 */
.toast-title:is(.error, .warning, .info) { font-size: 0 !important; }
.toast-title:is(.error, .warning, .info)::after { content: "提示"; font-size: 1rem; }
@media (max-width: 640px) {
  .gradio-container { padding: 6px !important; }
  #lab-title h1 { font-size: 1.1rem; }
  #lab-title p { font-size: .85rem; }
  .lab-chat { height: 42vh !important; }
}
"""


# 浏览器读屏要知道这是中文；框架的网页写死成 en。
HEAD = '<script>document.documentElement.lang = "zh-CN";</script>'


def title_block(model, has_adapter: bool, adapter: str = "") -> str:
    """标题区的 HTML：课程名、这是什么、用的哪个模型、适配器与设备。名字一律转义。"""
    note = "下面的开关切换同一个模型：关掉适配器是微调前，打开是微调后。"
    if not has_adapter:
        note = getattr(model, "about",
                       "没有加载 LoRA 适配器，只有一个模型可用，所以不显示“微调前 / 微调后”开关。")
    return (
        "<h1>《教育行业大模型及应用开发实战》</h1>"
        "<p>问一问用课程文件微调过的对话模型。它会答错，请以文件原文为准。</p>"
        f"<p>{_describe(model, adapter)}。{note}</p>"
    )


def _describe(model, adapter: str) -> str:
    """模型名、参数量、适配器、设备；只写名字，不写机器上的完整路径。"""
    facts = [f"模型 <code>{html.escape(_base_name(model))}</code>"]
    if hasattr(model, "num_parameters"):
        facts.append(f"{model.num_parameters() / 1e6:.1f} M 参数")
    for config in getattr(model, "peft_config", {}).values():
        kind = getattr(config.peft_type, "value", config.peft_type)
        rank = f"（r={config.r}，alpha={config.lora_alpha}）" if hasattr(config, "r") else ""
        name = f" <code>{html.escape(adapter)}</code>" if adapter else ""
        facts.append(f"适配器 {html.escape(str(kind))}{name}{rank}")
    if hasattr(model, "device"):
        facts.append(f"设备 {html.escape(device_name(model.device))}")
    return " · ".join(facts)


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
