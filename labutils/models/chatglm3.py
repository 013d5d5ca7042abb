"""官方 ChatGLM3 文件夹直接读进 transformers 自带的 GlmForCausalLM。讲解见 notebook 90。

不改写 12 GB 权重，不执行下载来的代码。两者是同一个结构（分组查询、只转一半维度的旋转位置、SwiGLU、RMSNorm），
只是配置键与张量的名字不同，而且官方把 q、k、v 的权重上下叠成一个 query_key_value：对照表在这里。
tokenizer.model 是 SentencePiece 的 BPE 模型，由它造出编号与官方逐个相同的快速分词器。
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import GlmConfig, GlmForCausalLM, PreTrainedTokenizerFast
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

from labutils.base.errors import LabError
from labutils.base.files import rel
from labutils.models import weights

# 官方键 → GlmConfig 的键，值照抄
SIZES = {"padded_vocab_size": "vocab_size", "hidden_size": "hidden_size",
         "ffn_hidden_size": "intermediate_size", "num_layers": "num_hidden_layers",
         "num_attention_heads": "num_attention_heads", "multi_query_group_num": "num_key_value_heads",
         "kv_channels": "head_dim", "seq_length": "max_position_embeddings"}
# 官方键 → (原生结构唯一能照办的值, 官方代码的缺省值)
FIXED = {"rmsnorm": (True, True), "post_layer_norm": (True, True), "multi_query_attention": (True, False),
         "add_bias_linear": (False, False), "apply_residual_connection_post_layernorm": (False, False),
         "fp32_residual_connection": (False, False), "interleaved_qkv": (False, False),
         "tie_word_embeddings": (False, False), "hidden_dropout": (0.0, 0.0),
         "quantization_bit": (0, 0), "pre_seq_len": (None, None)}
REASONS = {"quantization_bit": "int4、int8 的量化权重换不过来，请下载未量化的版本",
           "pre_seq_len": "P-Tuning v2 的前缀没有对应的结构，请改用 LoRA",
           "multi_query_attention": "只支持 ChatGLM2、ChatGLM3 的分组查询"}
# 官方张量名的一段 → 原生的一段；query_key_value 另外拆成三份
NAMES = {"transformer.embedding.word_embeddings": "model.embed_tokens",
         "transformer.encoder.final_layernorm": "model.norm", "transformer.output_layer": "lm_head",
         "transformer.encoder.layers": "model.layers", ".self_attention.dense": ".self_attn.o_proj",
         ".mlp.dense_h_to_4h": ".mlp.gate_up_proj", ".mlp.dense_4h_to_h": ".mlp.down_proj"}
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
    """文件夹的 config.json 是不是官方 ChatGLM 的写法（model_type 为 chatglm）；读不懂时引发 LabError。"""
    path = folder / "config.json"
    return path.is_file() and weights.read_json(path).get("model_type") == "chatglm"


def is_chatglm3(config) -> bool:
    """已载入的模型是不是 ChatGLM3 一族（含自带小模型）：GLM-4 同样是 glm，结束符却是另外三个。"""
    return config.model_type == "glm" and config.eos_token_id == 2


def load(folder: Path, config: GlmConfig, dtype: torch.dtype, **options) -> GlmForCausalLM:
    """官方 ChatGLM3 文件夹 → 普通的 GLM；对不上时引发 LabError。options 交给 from_pretrained。"""
    check_weights(folder, config)
    model = ChatGLM3ForCausalLM.from_pretrained(folder, config=config, dtype=dtype, **options)
    # 读完就是普通的 GLM：save_pretrained 从此写原生的名字，peft 也不会再去换名字
    model.__class__, model._weight_conversions = GlmForCausalLM, None
    return model


def read_config(folder: Path) -> GlmConfig:
    """官方 config.json → GlmConfig；有不支持的设置、缺键或值不合理时引发 LabError，并说出键名。"""
    raw, where = weights.read_json(folder / "config.json"), rel(folder / "config.json")
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
        pad_token_id=0, eos_token_id=2, bos_token_id=None,  # 不写 eos，GlmConfig 会填上 GLM-4 的编号
        dtype=raw.get("torch_dtype") or raw.get("dtype") or "float16", architectures=["GlmForCausalLM"])


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


def check_weights(folder: Path, config: GlmConfig) -> dict[str, tuple[int, ...]]:
    """权重文件里的张量（名字 → 形状，不含旋转位置表）；与配置对不上，多一个少一个，都引发 LabError。

    transformers 遇到缺少的张量只是提醒一句，然后随机初始化，模型就成了胡说的。
    """
    wanted, found = expected_tensors(config), weights.shapes(weights.shards(folder))
    found.pop(ROTARY, None)
    if wrong := [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]:
        name = wrong[0]
        problem = (f"缺少张量 {name}" if name not in found else f"多出张量 {name}" if name not in wanted else
                   f"张量 {name} 的形状是 {list(found[name])}，应为 {list(wanted[name])}")
        raise LabError(f"模型文件夹 {rel(folder)} 的权重与 config.json 对不上：{problem}"
                       f"（共 {len(wrong)} 处），请确认是同一个 ChatGLM3 的完整文件。")
    return found


def native_tensors(name: str, tensor: torch.Tensor, rows: list[int]) -> dict[str, torch.Tensor]:
    """一个官方张量 → 原生的 {名字: 张量}：多数只换名字，旋转位置表丢掉，query_key_value 按 rows 拆成三份。"""
    if name == ROTARY:
        return {}
    for old, new in NAMES.items():
        name = name.replace(old, new)
    if FUSED not in name:
        return {name: tensor}
    return {name.replace(FUSED, new): part.clone()
            for new, part in zip(SPLIT, tensor.split(rows), strict=True)}


# ---- 分词器 ----

CONTROL = ["<unk>", "<s>", "</s>"]
# 官方把 <sop>、<eop> 写作 sop、eop，但从不由文字读出；照写的话 people、philosopher 会被切开
SPECIAL = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>",
           "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
# 供 vLLM 等使用；训练与推理的编号由 chat 逐条消息拼出，用户写的控制符只会是普通文字。
# 内容前的空格就是官方单独编码内容时加的那个空格。
CHAT_TEMPLATE = (
    "{{ '[gMASK]<sop>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}"
    "{% if m['content'] %}{{ ' ' + m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")
NORMAL, KINDS = 1, {1, 2, 3, 6}  # 词元的种类：普通、<unk>、控制符、字节
OFFICIAL_VOCAB, OFFICIAL_PIECES = 65024, 64789
SPACE = "\u2581"  # SentencePiece 用它代表空格


def load_tokenizer(folder: Path, config: GlmConfig) -> PreTrainedTokenizerFast:
    """官方文件夹的分词器；它与模型的词表对不上时引发 LabError。"""
    pieces = read_pieces(folder / "tokenizer.model")
    tokenizer = build(pieces, config.max_position_embeddings)
    where = rel(folder / "tokenizer.model")
    # 6B 的词表补齐到 65024；换成别的小词表，编号都在范围里，却全对不上
    official = (config.vocab_size, config.hidden_size) == (OFFICIAL_VOCAB, 4096)
    if official and len(pieces) != OFFICIAL_PIECES:
        raise LabError(f"{where} 有 {len(pieces)} 个词元，ChatGLM3-6B 的是 {OFFICIAL_PIECES} 个，"
                       "不是同一个模型的分词器，请重新下载。")
    path = folder / "tokenizer_config.json"  # 新版官方文件夹在这里记着控制符的编号
    recorded = weights.read_json(path).get("added_tokens_decoder", {}) if path.is_file() else {}
    for number, token in recorded.items():
        name = {"sop": "<sop>", "eop": "<eop>"}.get(token["content"], token["content"])
        if name in SPECIAL and (ours := tokenizer.convert_tokens_to_ids(name)) != int(number):
            raise LabError(f"{rel(path)} 里 {token['content']} 的编号是 {number}，由 tokenizer.model 得到的"
                           f"却是 {ours}，两个文件不是同一个模型的，请重新下载。")
    return tokenizer


class Piece(NamedTuple):
    """词表的一项；type 是 KINDS 之一。分数高的先合并。"""

    text: str
    score: float
    type: int


def read_pieces(path: Path) -> list[Piece]:
    """读 tokenizer.model 的词表，下标就是编号；读不懂或不是 ChatGLM3 那种模型时引发 LabError。

    它是一份 protobuf，只要几个字段，所以自己读；字段编号出自 sentencepiece_model.proto。
    """
    try:
        pieces, trainer, normalizer = _parsed(path.read_bytes())
    except FileNotFoundError:
        raise LabError(f"模型文件夹里没有 {rel(path)}，请重新下载 tokenizer.model。") from None
    except (OSError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise LabError(f"{rel(path)} 不是 SentencePiece 模型，或没有下载完"
                       f"（{error or type(error).__name__}），请重新下载 tokenizer.model。") from error
    if not _is_known_kind(pieces, trainer, normalizer):
        raise LabError(f"{rel(path)} 与 ChatGLM3 的分词器不是一种（应为带字节回退、不改写文字的 BPE），"
                       "请换成同一个模型文件夹里的 tokenizer.model。")
    return pieces


def _parsed(data: bytes) -> tuple[list[Piece], dict[int, Any], dict[int, Any]]:
    """文件内容 → 词表、trainer_spec、normalizer_spec，后两个是 {字段编号: 值}。"""
    top = list(_fields(data))
    rows = (dict(_fields(value)) for number, value in top if number == 1)
    pieces = [Piece(row[1].decode("utf-8"), row.get(2, 0.0), row.get(3, NORMAL)) for row in rows]
    return pieces, dict(_fields(dict(top)[2])), dict(_fields(dict(top)[3]))


def _is_known_kind(pieces: list[Piece], trainer: dict[int, Any], normalizer: dict[int, Any]) -> bool:
    """是不是 ChatGLM3 那种带字节回退、不改写文字的 BPE。"""
    # model_type 3（2 为 BPE）、byte_fallback 35；precompiled_charsmap 2（改写文字的表）、
    # add_dummy_prefix 3、remove_extra_whitespaces 4、escape_whitespaces 5，后三个缺省为真
    found = (trainer.get(3, 1), trainer.get(35, 0), *(normalizer.get(key, 1) for key in (3, 4, 5)),
             bool(normalizer.get(2)), [piece.text for piece in pieces[:3]] == CONTROL)
    return found == (2, 1, 1, 0, 1, False, True) and {piece.type for piece in pieces} <= KINDS


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """逐个产出 protobuf 消息的 (字段编号, 值)：整数、4 字节的浮点数或字节串。"""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind not in (0, 1, 2, 5):
            raise ValueError("不是 protobuf")
        value, position = _varint(data, position) if kind in (0, 2) else ({1: 8, 5: 4}[kind], position)
        if kind:  # 刚才读到的是长度
            value, position = data[position:position + value], position + value
            if position > len(data):
                raise ValueError("文件不完整")
        yield number, struct.unpack("<f", value)[0] if kind == 5 else value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def build(pieces: list[Piece], max_length: int) -> PreTrainedTokenizerFast:
    """词表 → 快速分词器；九个控制符的编号接在词表后面。"""
    core = Tokenizer(models.BPE(
        vocab={piece.text: index for index, piece in enumerate(pieces)}, merges=_merges(pieces),
        unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(),
                                      decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    core.add_special_tokens([*CONTROL, *SPECIAL])
    core.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B",
        special_tokens=[(name, core.token_to_id(name)) for name in ("[gMASK]", "<sop>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>",
        additional_special_tokens=SPECIAL, chat_template=CHAT_TEMPLATE, padding_side="left",
        model_max_length=max_length, clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"])


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """BPE 的合并次序：每个普通词元拆成两个普通词元的所有拆法，按词元的分数从高到低。"""
    ids = {piece.text: index for index, piece in enumerate(pieces) if piece.type == NORMAL}
    cuts = ((index, text[:cut], text[cut:]) for text, index in ids.items() for cut in range(1, len(text)))
    found = sorted((-pieces[index].score, ids[left], ids[right], left, right)
                   for index, left, right in cuts if left in ids and right in ids)
    return [(left, right) for *_, left, right in found]
