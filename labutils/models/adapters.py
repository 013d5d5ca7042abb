"""LoRA 适配器：在官方写法与原生写法之间换算，两边的 logits 相同；检查它是不是真的在起作用。

官方 ChatGLM3 把 q、k、v 合成一层 query_key_value，适配器也只有一对 A、B；原生 GLM 是三层。
拆开：三层各拿一份同样的 A，B 按行切成三段。合上：A 相同就只留一份，不同就把 A 上下叠起来、B 摆成分块对角。
由此也得出：训练时让三层共用一个 A，就与官方的 LoRA 是同一个模型，参数个数也相同。
讲解见 notebook 90（换算）与 notebook 02（检查）。
"""

from collections.abc import Container, Iterable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from labutils.base.errors import LabError
from labutils.base.files import rel
from labutils.models import chat, chatglm3
from labutils.models.weights import MOVES_BASE, adapter_settings, refuse_nan, tensors

# 官方线性层 → 原生线性层
OFFICIAL_LAYERS = {"query_key_value": ["q_proj", "k_proj", "v_proj"], "dense": ["o_proj"],
                   "dense_h_to_4h": ["gate_up_proj"], "dense_4h_to_h": ["down_proj"]}
QKV = OFFICIAL_LAYERS["query_key_value"]
PREFIX = "base_model.model."  # peft 写在每个名字前面


def load(model, folder: Path) -> PeftModel:
    """把适配器套在模型上；官方写法的先换成原生写法。与基座对不上时引发 LabError。"""
    settings, saved = adapter_settings(folder), read_weights(folder)
    refuse_nan(saved.items(), f"适配器 {rel(folder)}")
    official = is_official(saved)
    init = str(settings.get("init_lora_weights"))
    if init.startswith(MOVES_BASE) and init not in ("pissa", "olora"):
        raise LabError(f"适配器 {rel(folder)} 用 {init} 初始化，训练时改动过的基座再也算不出来；"
                       "请在训练它的地方另存成普通的 LoRA（path_initial_model_for_weight_conversion）。")
    if official:
        if not chatglm3.is_chatglm3(model.config):
            raise LabError(f"适配器 {rel(folder)} 是在官方 ChatGLM3 上训练的，"
                           f"基座 {model.name_or_path} 却不是 ChatGLM3，请换基座。")
        _refuse_unusual(settings, saved, folder)
        saved = to_native(saved, model.config)
        tuned = PeftModel(model, native_settings(LoraConfig.from_pretrained(str(folder))))
    else:
        tuned = PeftModel.from_pretrained(model, str(folder))
    # 不写 False，peft 会拿官方 config.json 猜词表改过大小，把词向量也算进来
    wanted = get_peft_model_state_dict(tuned, save_embedding_layers=False).keys()
    missing = wanted - saved.keys()  # peft 照样套上，那几层等于没有微调
    surplus = saved.keys() - wanted - tuned.state_dict().keys()  # peft 不说一声就丢掉
    if wrong := sorted(missing or surplus):
        raise LabError(f"适配器 {rel(folder)} 与基座 {model.name_or_path} 对不上：应有 {len(wanted)} 个权重，"
                       f"{'少了' if missing else '多出'} {len(wrong)} 个，例如 {wrong[0]}；"
                       "请换一个完整的 checkpoint-N，或用训练时的同一个基座。")
    if official:
        set_peft_model_state_dict(tuned, saved)
    return tuned


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """适配器的全部权重；文件损坏或没有时引发 LabError。"""
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            return tensors(folder / name)
    raise LabError(f"适配器文件夹 {rel(folder)} 里没有 adapter_model.safetensors，请换完整的 checkpoint-N。")


def is_official(names: Iterable[str]) -> bool:
    """权重的名字是不是官方代码的：层名不作数，Falcon、GPT-NeoX、Phi 也有叫 query_key_value、dense 的层。"""
    return any(name.startswith(PREFIX + "transformer.encoder.layers.") for name in names)


def _refuse_unusual(settings: dict, weights: dict[str, torch.Tensor], folder: Path) -> None:
    usual = {"use_dora": False, "use_rslora": False, "modules_to_save": None, "bias": "none"}
    unusual = [key for key, value in usual.items() if (settings.get(key) or value) != value]
    if settings.get("peft_type") != "LORA":
        unusual.append("peft_type")
    unusual += [name for name in weights if not name.endswith((".lora_A.weight", ".lora_B.weight"))][:1]
    if unusual:
        raise LabError(f"{rel(folder)} 不是普通的 LoRA（{'、'.join(unusual)}），没法在官方与原生写法之间"
                       "换算；请用 peft_type: LORA 重新训练。")


def native_targets(targets: list[str], own: Container[str] = ()) -> list[str]:
    """target_modules 里的官方层名换成原生层名，query_key_value 变成三个；模型自己就有的层（own）照旧。"""
    return list(dict.fromkeys(native for name in targets for native in (
        [name] if name in own else OFFICIAL_LAYERS.get(name, [name]))))


def native_settings(config: LoraConfig) -> LoraConfig:
    """官方适配器的设置换成原生层名；r、alpha 不变。"""
    config.target_modules = native_targets(sorted(config.target_modules))
    for pattern in (config.rank_pattern, config.alpha_pattern):
        for key in list(pattern):
            pattern |= dict.fromkeys(native_targets([key]), pattern.pop(key))
    return config


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


def check_adapter_alive(model, tokenizer, question: str) -> str:
    """B 矩阵不全为零、开与关的预测不同，就返回一段说明，否则引发 LabError；模型变成 eval 状态。"""
    if not isinstance(model, PeftModel):
        raise LabError("模型没有挂适配器；请用 models.load(检查点文件夹) 载入，而不是只载入基座")
    matrices = [p for name, p in model.named_parameters() if "lora_B" in name]
    alive, total = sum(bool(p.detach().abs().max() > 0) for p in matrices), len(matrices)
    if total and not alive:
        raise LabError(f"适配器没有起作用：{total} 个 B 矩阵全是零，等于没有训练；"
                       "多半是步数为 0、学习率为 0，或载入了训练之前的检查点")
    with_adapter, without = _next_token(model, tokenizer, question)
    change = float((with_adapter - without).abs().sum()) / 2
    if change < 1e-6:
        raise LabError("适配器没有起作用：开与关的预测完全一样；请检查适配器与基座是否配套，"
                       "以及是否已经合并或被关掉")
    new, old = (tokenizer.decode([int(p.argmax())]).replace("\n", "换行") for p in (with_adapter, without))
    top = f"最可能的仍是“{new}”" if old == new else f"最可能的由“{old}”变为“{new}”"
    counted = f"{total} 个 B 矩阵中 {alive} 个不为零；" if total else ""  # 别的适配器没有 B
    return f"适配器在工作：{counted}对“{question}”，下一个词元的概率分布变化了 {change * 100:.2g}%，{top}"


@torch.no_grad()
def _next_token(model: PeftModel, tokenizer, question: str) -> tuple[torch.Tensor, torch.Tensor]:
    """开、关适配器时，回答第一个字的概率分布（各是一维，长为词表大小）。"""
    ids = chat.prompt_ids(tokenizer, [{"role": "user", "content": question}])
    if chat.is_glm_format(tokenizer):
        ids += tokenizer.encode("\n", add_special_tokens=False)  # 角色符之后总是换行，再后才是答案
    batch = torch.tensor([ids], device=model.device)
    model.eval()  # 训练状态下的 dropout 会让两次不同
    with_adapter = model(input_ids=batch).logits[0, -1].float().softmax(-1)
    with model.disable_adapter():
        without = model(input_ids=batch).logits[0, -1].float().softmax(-1)
    return with_adapter, without
