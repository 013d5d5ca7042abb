"""官方 ChatGLM3 文件夹直接读进 transformers 自带的 GlmForCausalLM：不改写 12 GB 权重，不执行下载来的代码。

两者是同一个结构：同样的分组查询、只转一半维度的旋转位置、SwiGLU 与 RMSNorm，只是配置键与张量的名字不同，
而且官方把 q、k、v 的权重上下叠成一个 query_key_value。这里写着两张对照表。讲解见 notebook 90。
"""

import json
import re
from pathlib import Path

import torch
from transformers import GenerationConfig, GlmConfig, GlmForCausalLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

from labutils.base.errors import LabError
from labutils.base.paths import rel
from labutils.models import chatglm3_tokenizer, weight_files

# 官方键 → GlmConfig 的键，值照抄
SIZES = {
    "padded_vocab_size": "vocab_size", "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size", "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads", "multi_query_group_num": "num_key_value_heads",
    "kv_channels": "head_dim", "seq_length": "max_position_embeddings",
}
# 官方键 → (原生结构唯一能照办的值, 官方代码的缺省值)
FIXED = {
    "rmsnorm": (True, True), "post_layer_norm": (True, True), "multi_query_attention": (True, False),
    "add_bias_linear": (False, False), "apply_residual_connection_post_layernorm": (False, False),
    "fp32_residual_connection": (False, False), "interleaved_qkv": (False, False),
    "tie_word_embeddings": (False, False), "hidden_dropout": (0.0, 0.0),
    "quantization_bit": (0, 0), "pre_seq_len": (None, None),
}
REASONS = {"quantization_bit": "int4、int8 的量化权重换不过来，请下载未量化的版本",
           "pre_seq_len": "P-Tuning v2 的前缀没有对应的结构，请改用 LoRA",
           "multi_query_attention": "只支持 ChatGLM2、ChatGLM3 的分组查询"}
# 官方张量名的一段 → 原生的一段；query_key_value 另外拆成三份
NAMES = {
    "transformer.embedding.word_embeddings": "model.embed_tokens",
    "transformer.encoder.final_layernorm": "model.norm",
    "transformer.output_layer": "lm_head",
    "transformer.encoder.layers": "model.layers",
    ".self_attention.dense": ".self_attn.o_proj",
    ".mlp.dense_h_to_4h": ".mlp.gate_up_proj",
    ".mlp.dense_4h_to_h": ".mlp.down_proj",
}
FUSED = ".self_attention.query_key_value"
SPLIT = [".self_attn.q_proj", ".self_attn.k_proj", ".self_attn.v_proj"]
ROTARY = "transformer.rotary_pos_emb.inv_freq"  # 由 rope_theta 算得出来，不必读


class ChatGLM3ForCausalLM(GlmForCausalLM):
    """只为读官方文件夹而有的名字：transformers 按类名查权重对照表，普通的 GLM 不受影响。"""

    _keys_to_ignore_on_load_unexpected = [re.escape(ROTARY)]


register_checkpoint_conversion_mapping("ChatGLM3ForCausalLM", [
    *(WeightRenaming(re.escape(old), new) for old, new in NAMES.items()),
    WeightConverter(FUSED, SPLIT, operations=[Split(dim=0)]),
], overwrite=True)


def is_official(folder: Path) -> bool:
    """文件夹的 config.json 是不是官方 ChatGLM 的写法（model_type 为 chatglm）。"""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "chatglm"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_chatglm3(config) -> bool:
    """已载入的模型是不是 ChatGLM3 一族（含自带小模型）：GLM-4 同样是 glm，结束符却是另外三个。"""
    return config.model_type == "glm" and config.eos_token_id == 2


def read_config(folder: Path) -> GlmConfig:
    """官方 config.json → GlmConfig；有不支持的设置、缺键或值不合理时引发 LabError，并说出键名。"""
    where = rel(folder / "config.json")
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key, (wanted, default) in FIXED.items():
        if (value := raw.get(key, default)) != wanted:
            raise LabError(f"{where} 的 {key} 是 {value}，原生 GLM 只支持 {wanted}"
                           f"：{REASONS.get(key, '结构不同，结果会不对')}。")
    sizes = {new: _positive(raw, old, where, int) for old, new in SIZES.items()}
    defaults = {"rope_ratio": 1, "layernorm_epsilon": 1e-5}
    ratio, epsilon = (_positive(defaults | raw, key, where, int | float) for key in defaults)
    if sizes["num_attention_heads"] % sizes["num_key_value_heads"]:
        raise LabError(f"{where} 的 num_attention_heads 不是 multi_query_group_num 的整数倍，请重新下载。")
    return GlmConfig(
        **sizes, rms_norm_eps=epsilon, rope_theta=10000.0 * ratio, partial_rotary_factor=0.5,
        attention_bias=raw.get("add_qkv_bias", False), hidden_act="silu",
        attention_dropout=raw.get("attention_dropout", 0.0), tie_word_embeddings=False,
        # 不写 eos，GlmConfig 会填上 GLM-4 的编号
        pad_token_id=0, eos_token_id=2, bos_token_id=None,
        dtype=raw.get("torch_dtype") or raw.get("dtype") or "float16",
        architectures=["GlmForCausalLM"])


def _positive(raw: dict, key: str, where: str, kind: type) -> int | float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, kind) or value <= 0:
        raise LabError(f"{where} 的 {key} 是 {value}，应当是正{'整' if kind is int else ''}数；"
                       "这不像官方 ChatGLM3 的配置（第一代 ChatGLM-6B 结构不同，不支持）。")
    return value


def qkv_rows(config: GlmConfig) -> list[int]:
    """query_key_value 的行里 q、k、v 各占多少行：6B 是 [4096, 256, 256]。"""
    groups = config.num_key_value_heads * config.head_dim
    return [config.num_attention_heads * config.head_dim, groups, groups]


def expected_tensors(config: GlmConfig) -> dict[str, tuple[int, ...]]:
    """官方文件夹里应有的张量：名字 → 形状，不含旋转位置表；6B 是 199 个。"""
    width, inner, fused = config.hidden_size, config.intermediate_size, sum(qkv_rows(config))
    layer = {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,),
             "self_attention.query_key_value.weight": (fused, width),
             "self_attention.dense.weight": (width, config.num_attention_heads * config.head_dim),
             "mlp.dense_h_to_4h.weight": (2 * inner, width), "mlp.dense_4h_to_h.weight": (width, inner)}
    if config.attention_bias:
        layer["self_attention.query_key_value.bias"] = (fused,)
    names = {f"transformer.encoder.layers.{number}.{name}": shape
             for number in range(config.num_hidden_layers) for name, shape in layer.items()}
    return names | {"transformer.embedding.word_embeddings.weight": (config.vocab_size, width),
                    "transformer.encoder.final_layernorm.weight": (width,),
                    "transformer.output_layer.weight": (config.vocab_size, width)}


def check_weights(folder: Path, config: GlmConfig) -> None:
    """核对权重文件：分片齐全、读得出、张量的名字与形状和配置一致；否则引发 LabError。

    transformers 遇到缺少的张量只是提醒一句，然后随机初始化，模型就成了胡说的。
    """
    wanted, found = expected_tensors(config), {}
    for path in weight_files.shards(folder):
        found |= weight_files.shapes(path)
    found.pop(ROTARY, None)
    problems = [f"缺少张量 {name}" for name in wanted if name not in found]
    problems += [f"多出张量 {name}" for name in found if name not in wanted]
    problems += [f"张量 {name} 的形状是 {list(found[name])}，应为 {list(shape)}"
                 for name, shape in wanted.items() if name in found and found[name] != shape]
    if problems:
        raise LabError(f"模型文件夹 {rel(folder)} 的权重与 config.json 对不上：{problems[0]}"
                       f"（共 {len(problems)} 处），请确认是同一个 ChatGLM3 的完整文件。")


def native_tensors(name: str, tensor: torch.Tensor, rows: list[int]) -> dict[str, torch.Tensor]:
    """一个官方张量 → 原生的 {名字: 张量}：多数只换名字，旋转位置表丢掉，query_key_value 按 rows 拆成三份。"""
    if name == ROTARY:
        return {}
    for old, new in NAMES.items():
        name = name.replace(old, new)
    if FUSED not in name:
        return {name: tensor}
    parts = tensor.split(rows)
    return {name.replace(FUSED, new): part.clone() for new, part in zip(SPLIT, parts, strict=True)}


def generation_config(tokenizer) -> GenerationConfig:
    """贪心解码；遇到结束符、用户或工具结果的角色符就停，与官方相同。"""
    stops = tokenizer.convert_tokens_to_ids(["</s>", "<|user|>", "<|observation|>"])
    return GenerationConfig(eos_token_id=stops, pad_token_id=0)


def load(folder: Path, dtype: torch.dtype, **options):
    """官方 ChatGLM3 文件夹 → (GlmForCausalLM, 分词器)；文件夹有任何不对之处都引发 LabError。

    options 交给 from_pretrained（例如 quantization_config、device_map）。
    """
    config = read_config(folder)
    tokenizer = chatglm3_tokenizer.load(folder, config)
    check_weights(folder, config)
    model = ChatGLM3ForCausalLM.from_pretrained(folder, config=config, dtype=dtype, **options)
    # 读完就是普通的 GLM：save_pretrained 从此写原生的名字，peft 也不会再去换名字
    model.__class__, model._weight_conversions = GlmForCausalLM, None
    model.generation_config = generation_config(tokenizer)
    return model, tokenizer
