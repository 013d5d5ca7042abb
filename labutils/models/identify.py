"""labutils check MODEL：不用 GPU，看一个模型文件夹是否完整、是不是课程所说的那个模型。讲解见 notebook 90。

只读配置、权重文件的头和分词器，不载入权重（.bin 格式要读一遍核对校验和）。
ChatGLM3-6B 的参数与张量个数出自官方的权重索引，tokenizer.model 的指纹出自官方仓库的 git-lfs 记录，
编号由官方的 build_chat_input 得到。没有分片内容的指纹，所以只能证明“该有的都在”，不能证明一字不差。
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from labutils.base.errors import FAIL, OK, WARN, Check, LabError
from labutils.base.files import rel, resolve
from labutils.models import chat, chatglm3, loader, weights


@dataclass(frozen=True)
class Known:
    """一个认得的模型。sizes 是 GlmConfig 的键；tensors 不含旋转位置表；sources：网站 → 在那里的名字。"""

    title: str
    sizes: dict[str, int]
    tensors: int
    parameters: int
    tokenizer_sha256: str
    sources: dict[str, str]
    licence: str
    prompts: dict[str, list[int]]


CHATGLM3_6B = Known(
    title="ChatGLM3-6B",
    sizes={"vocab_size": 65024, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 28,
           "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128},
    tensors=199, parameters=6_243_584_000,
    tokenizer_sha256="e7dc4c393423b76e4373e5157ddc34803a0189ba96b21ddbb40269d31468a6f2",
    sources={"ModelScope": "ZhipuAI/chatglm3-6b", "Hugging Face": "zai-org/chatglm3-6b"},
    licence="ChatGLM3 的模型许可，不是 Apache",
    prompts={"你好": [64790, 64792, 64795, 30910, 13, 36474, 54591, 64796]})
# 大小相同、用途不同的几个：官方 config.json 的 _name_or_path 以此结尾 → 说明
LONGER = "能读更长的文字，显存也用得更多"
VARIANTS = {"base": "没有经过对话训练的版本，直接提问会接着写下去", "32k": LONGER, "128k": LONGER}
VERDICT = "这是什么模型"
PROBE = "一流本科课程的有效期多久？\nGLM 3-6B，2023 年。"


def check_folder(name: str, known: Known = CHATGLM3_6B) -> list[Check]:
    """逐项核对 tiny 或本机的模型文件夹，最后一项说这是什么模型；别的 name 引发 LabError。"""
    folder = _local_folder(name)
    checks: list[Check] = []
    config = _attempt(checks, "配置", lambda: _config(name))
    if config is None:
        return checks
    count = _attempt(checks, "权重", lambda: _weights(folder, config))
    tokenizer = _attempt(checks, "分词器", lambda: _tokenizer(name, folder, config))
    if any(check.status == FAIL for check in checks):
        return checks
    values = config.to_dict()  # 各层不同的大小（Gemma 4），用属性来问会出错
    sizes = {key: values.get(key) for key in known.sizes}
    if (count, sizes) != (known.parameters, known.sizes):
        return [*checks, Check(VERDICT, OK, _other_model(folder, config, count, known))]
    prompts = _known_prompts(folder, tokenizer, known)
    return [*checks, prompts, _verdict(folder, prompts.status == OK, known)]


def _other_model(folder: Path, config, count: int, known: Known) -> str:
    """大小与已知的模型不同时，说它是什么。"""
    size = f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.2f} M"
    if folder == loader.WEIGHTS:
        return f"自带的小模型，{size} 参数"
    return (f"不是课程所说的 {known.title}，而是 {size} 参数的 {config.model_type} 结构；"
            "transformers 自带这种结构，可以用同样的命令微调")


def _local_folder(name: str) -> Path:
    if name == loader.TINY:
        return loader.WEIGHTS
    folder = resolve(name)
    if not folder.is_dir():
        raise LabError(f"{name} 不是本机的文件夹；核对文件之前请先把模型下载下来。")
    if loader.is_adapter(folder):
        raise LabError(f"{rel(folder)} 是适配器，请给出它的基座模型的文件夹。")
    return folder


def _attempt(checks: list[Check], name: str, look):
    """做一项检查：look() 返回 (说明, 值)；它引发的 LabError 记为不通过，值为 None。"""
    try:
        message, value = look()
    except LabError as error:
        message, value = str(error), None
    checks.append(Check(name, FAIL if value is None else OK, message))
    return value


def _config(name: str):
    config = loader.read_config(name)
    return (f"{config.model_type} 结构，{config.num_hidden_layers} 层，宽 {config.hidden_size}，"
            f"词表 {config.vocab_size}"), config


def _weights(folder: Path, config) -> tuple[str, int]:
    """权重文件齐全、大小对、张量与配置一致；返回参数个数。"""
    files = weights.shards(folder)
    official = chatglm3.is_official(folder)
    found = chatglm3.check_weights(folder, config) if official else weights.shapes(files)
    count = sum(torch.Size(shape).numel() for shape in found.values())
    if not official and not getattr(config, "quantization_config", None):  # 量化过的按字节打包，个数不可比
        with torch.device("meta"):
            expected = AutoModelForCausalLM.from_config(config).num_parameters()
        # 可以多：有的文件把共用的词嵌入与输出层各存一份，有的还存着旋转位置表
        if count < expected:
            raise LabError(f"{rel(folder)} 的权重只有 {count:,} 个参数，按 config.json 应有 "
                           f"{expected:,} 个，请确认下载完整、没有混入别的模型的文件。")
    size = sum(path.stat().st_size for path in files)
    return (f"{len(files)} 个文件共 {size / 1e9:.2f} GB，{len(found)} 个张量，{count:,} 个参数，"
            "都与配置相符"), count


def _tokenizer(name: str, folder: Path, config):
    """分词器读得出、与词表对得上、知道怎样提问。"""
    tokenizer = loader.read_tokenizer(name, str(folder), config)
    if not chat.is_glm_format(tokenizer) and not tokenizer.chat_template:
        raise LabError("分词器没有对话模板，不知道怎样提问；请换成对话（chat、instruct）版的模型。")
    back = tokenizer.decode(tokenizer.encode(PROBE, add_special_tokens=False)).strip()
    note = "编码再解码与原文一致" if back == PROBE else f"编码再解码得到“{back}”，它会改写文字"
    return f"{len(tokenizer)} 个词元，{note}", tokenizer


def _known_prompts(folder: Path, tokenizer, known: Known) -> Check:
    name, todo = "已知句子", "请从同一个来源重新下载分词器的文件"
    for text, wanted in known.prompts.items():
        ids = chat.prompt_ids(tokenizer, [{"role": "user", "content": text}])
        if ids != wanted:
            return Check(name, WARN, f"“{text}”的编号是 {ids}，{known.title} 的是 {wanted}", todo)
    path = folder / "tokenizer.model"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != known.tokenizer_sha256:
        return Check(name, WARN, "编号与官方相同，但 tokenizer.model 的指纹不同", todo)
    return Check(name, OK, "编号与官方相同")


def _verdict(folder: Path, prompts_match: bool, known: Known) -> Check:
    """大小与已知的模型相同时，用一句话说是不是它。"""
    if not prompts_match:
        return Check(VERDICT, WARN, f"权重是 {known.title} 的大小，分词器却不是它的",
                     f"要用 {known.title}，请重新下载")
    if not chatglm3.is_official(folder):
        return Check(VERDICT, OK, f"{known.title} 的原生格式（由 labutils merge 写出）")
    recorded = str(weights.read_json(folder / "config.json").get("_name_or_path", "")).lower()
    for suffix, note in VARIANTS.items():
        if recorded.endswith(f"-{suffix}"):
            return Check(VERDICT, WARN, f"{known.title}-{suffix}：{note}", f"课程用的是 {known.title}")
    return Check(VERDICT, OK, f"就是课程所说的 {known.title}：{known.tensors} 个张量、"
                              f"{known.parameters:,} 个参数、已知句子的编号都对得上")
