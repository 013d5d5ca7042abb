"""唯一的模型加载处：自带小模型、本地文件夹、网上的模型名、适配器；设备与核也在这里。见 notebook 00、02。"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from labutils.base.errors import LabError, first_line
from labutils.base.files import ROOT, existing_model, is_hub_name, model_folder, rel, resolve
from labutils.models import chat, chatglm3, weights

TINY = "tiny"
WEIGHTS = Path(__file__).parent / "tiny"  # 自带小模型的权重与分词器
OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)


def pick_device_dtype(dtype=None, device=None) -> tuple[torch.device, torch.dtype, str]:
    """选设备与精度，返回 (设备, 精度, 一句话理由)。

    有加速卡就用，支持 bf16 的用 bf16（fp16 训练容易出现 loss 为 0 或 nan），其余用 fp32。
    """
    has_gpu, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    device = torch.device(device or ("cuda" if has_gpu else "mps" if has_mps else "cpu"))
    if dtype is not None:
        dtype = _named_dtype(dtype)
        return device, dtype, f"设备 {device}、精度 {dtype}：由参数指定"
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return device, torch.bfloat16, f"设备 {device}、精度 bf16：这块 GPU 支持 bf16，省一半显存"
    reason = "没有可用的 GPU" if device.type == "cpu" else "这块 GPU 不支持 bf16"
    return device, torch.float32, f"设备 {device}、精度 fp32：{reason}，fp32 最稳"


def _named_dtype(dtype: str | torch.dtype) -> torch.dtype:
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype):
        raise LabError(f"没有叫 {dtype} 的精度，请写 float32、bfloat16 或 float16。")
    return chosen


def swaps_weights(model) -> bool:
    """peft 加在专家上的 LoRA 计算时换权重：不能有两个线程同时算。"""
    from peft.tuners.lora.layer import ParamWrapper

    return any(isinstance(module, ParamWrapper) for module in model.modules())


@contextmanager
def cores(count: int, prepare: Callable[[], None] = lambda: None) -> Iterator[ThreadPoolExecutor]:
    """count 个线程，平分 torch 的线程数，各自先 prepare；等待时不空转。"""
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    try:
        with ThreadPoolExecutor(count, "lab", lambda: (torch.set_num_threads(share), prepare())) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # 线程里设的也是以后新线程的缺省值


def is_adapter(folder: str | Path) -> bool:
    """文件夹里是不是 LoRA 适配器（而不是完整模型）；残缺的 checkpoint-N 也算，adapter_base 说少了什么。"""
    folder = resolve(folder)
    named = folder.name.startswith("checkpoint-") or any(folder.glob("adapter_model.*"))
    return (folder / "adapter_config.json").is_file() or named and not (folder / "config.json").is_file()


def _base_folder(name: str) -> str:
    """把用户写的名字变成 from_pretrained 能用的位置；本地没有又不像网上名字时报错。"""
    if name == TINY:
        if not (WEIGHTS / "config.json").is_file():
            raise LabError("自带小模型的权重不在 labutils/models/tiny，请重新克隆仓库，"
                           "或运行 python -m tools.tiny_base train 重建。")
        return str(WEIGHTS)
    if folder := model_folder(name):
        if not (folder / "config.json").is_file():
            raise LabError(f"模型文件夹 {rel(folder)} 里没有 config.json，请确认下载完整、路径没有多一层。")
        return str(folder)
    existing_model(name)
    _go_online()
    return _chatglm3_snapshot(name)


def _chatglm3_snapshot(name: str) -> str:
    """网上的官方 ChatGLM3 整个下载到缓存，返回缓存文件夹；别的模型原样返回，由 transformers 下载。"""
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if not chatglm3.is_official(Path(hf_hub_download(name, "config.json")).parent):
            return name
        folder = snapshot_download(name, allow_patterns=["*.json", "tokenizer.model", "*.safetensors"])
        if not any(Path(folder).glob("*.safetensors")):  # 只有 .bin 的版本
            folder = snapshot_download(name, allow_patterns=["*.bin"])
        return folder
    except (OSError, ValueError) as error:
        raise _failed(name, error) from error


def _go_online() -> None:
    """用户点名要网上的模型时，才放开默认的离线设置。"""
    import huggingface_hub.constants as hub

    os.environ["HF_HUB_OFFLINE"] = "0"
    hub.HF_HUB_OFFLINE = False


def adapter_base(folder: Path) -> str:
    """读适配器记录的基座；adapter_config.json 缺失或损坏时报错。"""
    path = folder / "adapter_config.json"
    if not any(folder.glob("adapter_model.*")):
        raise LabError(f"适配器文件夹 {rel(folder)} 里没有 adapter_model.safetensors，"
                       "请换一个完整的 checkpoint-N，或重新训练。")
    base = weights.adapter_settings(folder).get("base_model_name_or_path")
    if not base:
        raise LabError(f"{rel(path)} 没有记录基座，请在 base_model_name_or_path 里补上 tiny 或模型文件夹。")
    if base == TINY:
        return base
    if (ROOT / base).is_dir():  # 记录的路径相对仓库根目录
        return str(ROOT / base)
    if not is_hub_name(base):
        raise LabError(f"适配器 {rel(folder)} 记录的基座 {base} 不在这台机器上，"
                       f"请把 {rel(path)} 的 base_model_name_or_path 改成模型现在的文件夹。")
    return base


@contextmanager
def _told(sentence: Callable[[Exception], LabError]) -> Iterator[None]:
    """别的库读不懂文件时什么都可能引发（tokenizers 连 Exception 本身也用），都换成一句话。"""
    try:
        yield
    except LabError:
        raise
    except Exception as error:
        raise sentence(error) from error


def _failed(name: str, error: Exception) -> LabError:
    if isinstance(error, OUT_OF_MEMORY):
        return LabError(f"显存或内存放不下 {name}；请先用 labutils check 估一估要多少，"
                        "再换小一号的模型、bf16 精度或 4-bit 加载。")
    advice = "请检查文件夹是否完整、网络是否可用"
    if is_hub_name(name):
        advice = ("本机没有这个文件夹，所以当作网上的名字；请检查名字与网络，或换成本机的文件夹"
                  "（适配器的基座写在 adapter_config.json 的 base_model_name_or_path 里）")
    return LabError(f"加载模型 {name} 失败：{first_line(error)}。{advice}。")


def read_config(name_or_path: str | Path, source: str | None = None) -> PreTrainedConfig:
    """只读配置，不读权重：返回 transformers 的配置，官方 ChatGLM3 的已换成 GlmConfig。

    source 是 from_pretrained 能用的位置，不给就由名字得出。
    结构不在 transformers 里、或不是语言模型时引发 LabError。
    """
    name, source = str(name_or_path), source or _base_folder(str(name_or_path))
    if chatglm3.is_official(Path(source)):
        return chatglm3.read_config(Path(source))
    with _told(partial(_failed, name)):
        kind = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
        if kind not in CONFIG_MAPPING:
            raise LabError(f"模型 {name} 的结构 {kind} 不是 transformers 自带的，"
                           "而本实验从不执行下载来的代码，请换一个模型（例如同系列的 -hf 版本）。")
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise LabError(f"模型 {name} 的结构是 {config.model_type}，不是能对话的语言模型，请换一个模型。")
    return config


def read_tokenizer(name: str, source: str, config: PreTrainedConfig):
    """分词器，左侧补齐；读不出来、词元比模型的词表多时引发 LabError。source 同 read_config。"""
    with _told(lambda error: LabError(f"模型 {name} 的分词器读不出来（{first_line(error)}），"
                                      "请重新下载分词器的文件。")):
        tokenizer = (chatglm3.load_tokenizer(Path(source), config) if chatglm3.is_official(Path(source)) else
                     AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False))
    if len(tokenizer) > (rows := config.get_text_config().vocab_size):
        raise LabError(f"模型 {name} 的分词器有 {len(tokenizer)} 个词元，超过模型词表的 {rows}，"
                       "不是同一个模型的分词器（或训练时加了词元，要先把它们加进基座），请重新下载。")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise LabError(f"模型 {name} 的分词器没有结束符，不知道回答在哪里停，请换一个对话模型。")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _own_tokenizer(folder: Path, model, tokenizer):
    """适配器用的分词器：有的训练工具加了词元或换了对话模板，连分词器一起存在适配器里，那就用它的。"""
    if chatglm3.is_chatglm3(model.config) or not (folder / "tokenizer.json").is_file():
        return tokenizer
    own = read_tokenizer(rel(folder), str(folder), model.config)
    if not own.chat_template:
        own.chat_template = tokenizer.chat_template
    if (own.chat_template, own.get_vocab()) != (tokenizer.chat_template, tokenizer.get_vocab()):
        print(f"适配器 {rel(folder)} 带着自己的分词器，对话模板或词表与基座的不同，按它的来")
    return own


def _quantization(kind: str | None, dtype: torch.dtype, device: torch.device) -> dict:
    """4-bit 加载要给 from_pretrained 的参数：NF4，连缩放系数也量化（QLoRA，arXiv:2305.14314）。"""
    if kind is None:
        return {}
    if kind != "4bit":
        raise LabError(f"quantization 只能是 4bit 或不写，不能是 {kind}。")
    if device.type != "cuda":
        raise LabError(f"4-bit 加载要有 NVIDIA 显卡，这里用的是 {device}；请去掉 quantization。")
    if find_spec("bitsandbytes") is None:
        raise LabError("4-bit 加载要用 bitsandbytes，请运行 pip install -e '.[quant]'，或去掉 quantization。")
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                  bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": settings, "device_map": {"": device}}


def _load_base(name: str, dtype, options: dict):
    """任何语言模型；缺张量、分词器的词元比词表多都要报错，而不是将就着用。"""
    source = _base_folder(name)
    config = read_config(name, source)
    tokenizer = read_tokenizer(name, source, config)
    with _told(partial(_failed, name)):
        model = (chatglm3.load(Path(source), config, dtype, **options) if chatglm3.is_official(Path(source))
                 else _load_native(name, source, config=config, dtype=dtype, **options))
    weights.refuse_nan(model.named_parameters(), f"模型 {name}")
    model.config.name_or_path = model.name_or_path = name
    return model, tokenizer


def _load_native(name: str, source: str, **options):
    """transformers 自带的结构；权重文件不全、缺张量时引发 LabError。"""
    if Path(source).is_dir():
        weights.shards(Path(source))
        if (settings := Path(source, "generation_config.json")).is_file():
            weights.read_json(settings)  # 读不懂时 transformers 不说一声，结束符就少了
    model, report = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    if missing := report["missing_keys"]:
        raise LabError(f"模型 {name} 的权重里缺少 {len(missing)} 个张量，例如 {min(missing)}，请重新下载。")
    return model


def _load_adapter(model, folder: Path):
    """套上适配器；与基座对不上时引发 LabError。"""
    from labutils.models import adapters  # 用到适配器才导入：peft 要几秒

    def mismatch(error: Exception) -> LabError:
        if isinstance(error, OUT_OF_MEMORY):
            return _failed(rel(folder), error)
        return LabError(f"适配器 {rel(folder)} 与基座 {model.name_or_path} 对不上："
                        f"{first_line(error)}。请用训练时的同一个基座。")

    with _told(mismatch), torch.no_grad():
        true = _scores(model)
        tuned = adapters.load(model, folder).eval()
        _scores(tuned)  # 真的算一遍：有的适配器还要别的输入（任务的编号）
        with tuned.disable_adapter():
            off = _scores(tuned)
    tuned.off_is_base = bool((off - true).norm() <= 4 * torch.finfo(model.dtype).eps * true.norm())
    return tuned


def _scores(model) -> torch.Tensor:
    """三个词元之后的分数，一维，float32。"""
    return model(input_ids=torch.tensor([[1, 2, 3]], device=model.device)).logits[0, -1].float()


def check_before(model) -> None:
    """关掉适配器得不到原来的基座时引发 LabError：说“微调前”之前先查。没有适配器、不是 load 载入的不管。"""
    if not getattr(model, "off_is_base", True):
        config = next(iter(model.peft_config.values()))
        settings = "，".join(f"{key}: {getattr(config, key, None)}"
                            for key in ("init_lora_weights", "bias", "layer_replication"))
        raise LabError(f"这个适配器（{settings}）也改动了基座，关掉以后不是微调前的模型，没法对比；"
                       "请在训练它的地方另存成普通的 LoRA（peft 的 path_initial_model_for_weight_conversion）"
                       "，或用 bias: none 重新训练。")


def load(name_or_path: str | Path, dtype=None, device=None, quantization: str | None = None):
    """加载模型与分词器，返回 ``(model, tokenizer)``，model 处于 eval 状态。

    name_or_path：``"tiny"``、模型文件夹（官方 ChatGLM3 的也行）、网上的模型名，或适配器文件夹
    (此时返回套着适配器的 PeftModel，基座由 adapter_config.json 指明；官方训练的适配器也行）。
    dtype 如 ``"float32"``、``torch.bfloat16``，不写则由 pick_device_dtype 决定。
    quantization 为 ``"4bit"`` 时基座以 4-bit 加载。
    文件夹不存在、不完整、读不懂时抛出 LabError。从不执行下载来的代码。
    """
    name, folder = str(name_or_path), model_folder(str(name_or_path))
    folder = folder if folder and is_adapter(folder) else None
    device, dtype, _ = pick_device_dtype(dtype, device)
    options = _quantization(quantization, dtype, device)
    model, tokenizer = _load_base(adapter_base(folder) if folder else name, dtype, options)
    if folder:
        tokenizer = _own_tokenizer(folder, model, tokenizer)
    model.generation_config = chat.generation_config(tokenizer, model.generation_config)
    with _told(partial(_failed, rel(folder) if folder else name)):
        model = (model if options else model.to(device)).eval()
        return _load_adapter(model, folder) if folder else model, tokenizer
