"""LoRA 适配器在官方写法与原生写法之间换算，两边算出的 logits 相同。

官方 ChatGLM3 把 q、k、v 合成一层 query_key_value，适配器也只有一对 A、B；原生 GLM 是三层。
拆开：三层各拿一份同样的 A，B 按行切成三段。合上：A 相同就只留一份，不同就把 A 上下叠起来、B 摆成分块对角。
由此也得出：训练时让三层共用一个 A，就与官方的 LoRA 是同一个模型，参数个数也相同。讲解见 notebook 90。
"""

import json
from collections.abc import Set
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from labutils.base.errors import LabError
from labutils.base.paths import rel
from labutils.models import chatglm3, weight_files

# 官方线性层 → 原生线性层
OFFICIAL_LAYERS = {"query_key_value": ["q_proj", "k_proj", "v_proj"], "dense": ["o_proj"],
                   "dense_h_to_4h": ["gate_up_proj"], "dense_4h_to_h": ["down_proj"]}
QKV = OFFICIAL_LAYERS["query_key_value"]
# 官方用的 peft 0.10 遇到不认识的键就报错，所以只写这几个
KEPT = ("base_model_name_or_path", "peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias",
        "inference_mode")
PREFIX = "base_model.model."  # peft 写在每个名字前面


def native_targets(targets: str | list[str]) -> str | list[str]:
    """target_modules 里的官方层名换成原生层名，其余照旧；query_key_value 变成三个。"""
    if isinstance(targets, str):
        return OFFICIAL_LAYERS.get(targets, targets)
    return list(dict.fromkeys(native for name in targets for native in OFFICIAL_LAYERS.get(name, [name])))


def share_a(model: PeftModel) -> None:
    """让每层注意力的 q、k、v 共用同一个 A（同一个 Parameter），与官方的 query_key_value 相同。

    要在建立优化器之前调用。保存时写成三份相同的 A；接着训练时读进同一块内存，仍然共用。
    没有这三层时引发 LabError。
    """
    shared = False
    for module in model.modules():
        layers = [getattr(module, name, None) for name in QKV]
        if all(hasattr(layer, "lora_A") for layer in layers):
            for layer in layers[1:]:
                layer.lora_A["default"].weight = layers[0].lora_A["default"].weight
            shared = True
    if not shared:
        raise LabError("共用 A（shared_a）要求 q_proj、k_proj、v_proj 三层都加 LoRA；"
                       "请把它们写进 target_modules，或去掉 shared_a")


def read_settings(folder: Path) -> dict:
    """adapter_config.json 的内容；读不懂时引发 LabError。"""
    path = folder / "adapter_config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise LabError(f"{rel(path)} 读不懂（{error}），请换一个完整的 checkpoint-N。") from error


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """适配器的全部权重；文件损坏或没有时引发 LabError。"""
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            return dict(weight_files.tensors(folder / name))
    raise LabError(f"适配器文件夹 {rel(folder)} 里没有 adapter_model.safetensors，"
                   "请换一个完整的 checkpoint-N。")


def is_official(settings: dict) -> bool:
    """是不是官方 finetune_demo 训练出来的适配器（加在 query_key_value 等官方层上）。"""
    return bool(set(settings.get("target_modules") or []) & set(OFFICIAL_LAYERS))


def _refuse_unusual(settings: dict, weights: dict[str, torch.Tensor], folder: Path) -> None:
    unusual = [key for key in ("use_dora", "use_rslora", "modules_to_save") if settings.get(key)]
    if settings.get("bias", "none") != "none":
        unusual.append("bias")
    if settings.get("peft_type") != "LORA":
        unusual.append("peft_type")
    unusual += [name for name in weights if not name.endswith((".lora_A.weight", ".lora_B.weight"))][:1]
    if unusual:
        raise LabError(f"{rel(folder)} 不是普通的 LoRA（{'、'.join(unusual)}），没法在官方与原生写法之间"
                       "换算；请用 peft_type: LORA 重新训练。")


def load(model, folder: Path) -> PeftModel:
    """把适配器套在模型上；官方写法的先换成原生写法。与基座对不上时引发 LabError。"""
    settings = read_settings(folder)
    if not is_official(settings):
        tuned = PeftModel.from_pretrained(model, str(folder))
        _refuse_gaps(tuned, read_weights(folder).keys(), folder)
        return tuned
    if not chatglm3.is_chatglm3(model.config):
        raise LabError(f"适配器 {rel(folder)} 是在官方 ChatGLM3 上训练的，"
                       f"基座 {model.name_or_path} 却不是 ChatGLM3，请换基座。")
    official = read_weights(folder)
    _refuse_unusual(settings, official, folder)
    weights = to_native(official, model.config)
    tuned = PeftModel(model, native_settings(LoraConfig.from_pretrained(str(folder))))
    # 不写 False，peft 会拿官方 config.json 猜词表改过大小，把词向量也算进来
    if weights.keys() != get_peft_model_state_dict(tuned, save_embedding_layers=False).keys():
        raise LabError(f"适配器 {rel(folder)} 的层与基座 {model.name_or_path} 对不上，"
                       "请用训练时的同一个基座。")
    set_peft_model_state_dict(tuned, weights)
    return tuned


def _refuse_gaps(tuned: PeftModel, saved: Set[str], folder: Path) -> None:
    """peft 缺了权重也照样套上，那几层等于没有微调；这里引发 LabError，说出少几个和一个例子。"""
    wanted = get_peft_model_state_dict(tuned, save_embedding_layers=False).keys()
    if missing := sorted(wanted - saved):
        raise LabError(f"适配器 {rel(folder)} 的 {len(wanted)} 个权重少了 {len(missing)} 个，"
                       f"例如 {missing[0]}，请换一个完整的 checkpoint-N，或用训练时的同一个基座。")


def native_settings(config: LoraConfig) -> LoraConfig:
    """官方适配器的设置换成原生层名；r、alpha 不变。"""
    config.target_modules = native_targets(sorted(config.target_modules))
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = getattr(config, name)
        setattr(config, name, {native: value for key, value in pattern.items()
                               for native in OFFICIAL_LAYERS.get(key, [key])})
    return config


def to_native(weights: dict[str, torch.Tensor], config) -> dict[str, torch.Tensor]:
    """官方适配器的权重 → 原生的：A 形状 (r, 输入) 复制三份，B 形状 (输出, r) 按 q、k、v 的行数切开。"""
    native = {}
    for name, tensor in weights.items():
        if chatglm3.FUSED in name and ".lora_A." in name:
            tensor = tensor.repeat(3, 1)  # 之后同样切成三段，每段正好是一份 A
            rows = [len(tensor) // 3] * 3
        else:
            rows = chatglm3.qkv_rows(config)
        for new, part in chatglm3.native_tensors(name.removeprefix(PREFIX), tensor, rows).items():
            native[PREFIX + new] = part
    return native


def to_official(weights: dict[str, torch.Tensor], config) -> dict[str, torch.Tensor]:
    """原生适配器的权重 → 官方的，to_native 的逆运算；三层的 A 不同时得到的 r 是三者之和。"""
    official, attention = {}, {}
    for name, tensor in weights.items():
        layer, _, kind = name.removesuffix(".weight").rpartition(".")
        block, _, module = layer.rpartition(".")
        if module in QKV:
            attention.setdefault(block, {}).setdefault(module, {})[kind] = tensor
        else:
            official[_official_name(name)] = tensor
    for block, pairs in attention.items():
        a, b = _fuse(pairs, chatglm3.qkv_rows(config))
        where = _official_name(f"{block}.query_key_value")
        official |= {f"{where}.lora_A.weight": a, f"{where}.lora_B.weight": b}
    return official


def _official_name(name: str) -> str:
    name = name.removeprefix(PREFIX).replace(".self_attn.query_key_value", chatglm3.FUSED)
    for old, new in chatglm3.NAMES.items():
        name = name.replace(new, old)
    return PREFIX + name


def _fuse(pairs: dict[str, dict[str, torch.Tensor]], rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """一层注意力的 {q_proj: {lora_A, lora_B}, …} → 合成的 (A, B)；没有加 LoRA 的层，B 的行填零。"""
    present = [pairs[name]["lora_A"] for name in QKV if name in pairs]
    same = all(torch.equal(a, present[0]) for a in present)
    a = present[0] if same else torch.cat(present)
    b, column = a.new_zeros(sum(rows), len(a)), 0
    for start, size, name in zip([0, rows[0], rows[0] + rows[1]], rows, QKV, strict=True):
        if name in pairs:
            part = pairs[name]["lora_B"]
            b[start:start + size, column:column + part.shape[1]] = part
            column += 0 if same else part.shape[1]
    return a, b


def official_settings(settings: dict, weights: dict[str, torch.Tensor], folder: Path) -> dict:
    """原生适配器的设置换成官方层名；合成后的 r 变大时 alpha 按比例变大，缩放不变。

    weights 是 to_official 的结果。不是普通 LoRA 时引发 LabError。
    """
    _refuse_unusual(settings, weights, folder)
    if settings.get("rank_pattern") or settings.get("alpha_pattern"):
        raise LabError(f"{rel(folder)} 各层的 r 不同（rank_pattern），没法换成官方写法。")
    modules = {name.split(".lora_")[0].rpartition(".")[2] for name in weights}
    rank = next((len(t) for n, t in weights.items() if "query_key_value.lora_A" in n), settings["r"])
    larger = rank // settings["r"]
    patterns = {} if larger == 1 else {
        "rank_pattern": {"query_key_value": rank},
        "alpha_pattern": {"query_key_value": settings["lora_alpha"] * larger}}
    return {key: settings[key] for key in KEPT} | {"target_modules": sorted(modules)} | patterns
