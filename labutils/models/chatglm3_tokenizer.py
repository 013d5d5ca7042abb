"""由官方的 tokenizer.model 造出快速分词器，编号与官方逐个相同。讲解见 notebook 90。

tokenizer.model 是 SentencePiece 的 BPE 模型，一份 protobuf；只需要其中几个字段，所以自己读，不装别的包。
字段编号出自 google/sentencepiece 的 sentencepiece_model.proto。
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import GlmConfig, PreTrainedTokenizerFast

from labutils.base.errors import LabError
from labutils.base.paths import rel

CONTROL = ["<unk>", "<s>", "</s>"]
# 官方把 <sop>、<eop> 写作 sop、eop，但从不由文字读出；照写的话 people、philosopher 会被切开
SPECIAL = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>",
           "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
# 供 vLLM 等使用；训练与推理的编号由 chat_format 逐条消息拼出，用户写的控制符只会是普通文字。
# 内容前的空格就是官方单独编码内容时加的那个空格。
CHAT_TEMPLATE = (
    "{{ '[gMASK]<sop>' }}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>' + (m['metadata'] or '' if m['metadata'] is defined else '') + '\n' }}"
    "{% set tools = '\n' + m['tools'] | tojson(indent=4) if m['tools'] else '' %}"
    "{% if m['content'] or tools %}{{ ' ' + m['content'] + tools }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
NORMAL, UNKNOWN, CONTROL_PIECE, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
OFFICIAL_VOCAB, OFFICIAL_PIECES = 65024, 64789
SPACE = "\u2581"  # SentencePiece 用它代表空格


class Piece(NamedTuple):
    """词表的一项；type 是 NORMAL、BYTE 等。分数高的先合并。"""

    text: str
    score: float
    type: int


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """逐个产出 protobuf 消息的 (字段编号, 值)：整数、4 字节的浮点数或字节串。"""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position)
        elif kind in (1, 2, 5):
            size, position = _varint(data, position) if kind == 2 else ({1: 8, 5: 4}[kind], position)
            value, position = data[position:position + size], position + size
            if position > len(data):
                raise ValueError("文件不完整")
            value = struct.unpack("<f", value)[0] if kind == 5 else value
        else:
            raise ValueError("不是 protobuf")
        yield number, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def read_pieces(path: Path) -> list[Piece]:
    """读 tokenizer.model 的词表，下标就是编号；读不懂或不是 ChatGLM3 那种模型时引发 LabError。"""
    try:
        top = list(_fields(path.read_bytes()))
        pieces = [_piece(dict(_fields(value))) for number, value in top if number == 1]
        parts = dict(top)  # trainer_spec 是 2，normalizer_spec 是 3
        trainer, normalizer = dict(_fields(parts[2])), dict(_fields(parts[3]))
    except FileNotFoundError:
        raise LabError(f"模型文件夹里没有 {rel(path)}，请重新下载 tokenizer.model。") from None
    except (OSError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise LabError(f"{rel(path)} 不是 SentencePiece 模型，或没有下载完"
                       f"（{error or type(error).__name__}），请重新下载 tokenizer.model。") from error
    # 编号见 proto：model_type 3（2 为 BPE）、byte_fallback 35；precompiled_charsmap 2（改写文字的表）、
    # add_dummy_prefix 3、remove_extra_whitespaces 4、escape_whitespaces 5，后三个缺省为真
    kinds = {piece.type for piece in pieces}
    matches = (trainer.get(3, 1) == 2 and trainer.get(35, 0) == 1 and not normalizer.get(2)
               and normalizer.get(3, 1) == 1 and normalizer.get(4, 1) == 0 and normalizer.get(5, 1) == 1
               and kinds <= {NORMAL, UNKNOWN, CONTROL_PIECE, BYTE}
               and [piece.text for piece in pieces[:3]] == CONTROL)
    if not matches:
        raise LabError(f"{rel(path)} 与 ChatGLM3 的分词器不是一种（应为带字节回退、不改写文字的 BPE），"
                       "请换成同一个模型文件夹里的 tokenizer.model。")
    return pieces


def _piece(values: dict[int, Any]) -> Piece:
    return Piece(values[1].decode("utf-8"), values.get(2, 0.0), values.get(3, NORMAL))


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """BPE 的合并次序：每个普通词元拆成两个普通词元的所有拆法，按词元的分数从高到低。"""
    ids = {piece.text: index for index, piece in enumerate(pieces) if piece.type == NORMAL}
    found = []
    for text, index in ids.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                found.append((-pieces[index].score, ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def build(pieces: list[Piece], max_length: int) -> PreTrainedTokenizerFast:
    """词表 → 快速分词器；九个控制符的编号接在词表后面。"""
    core = Tokenizer(models.BPE(
        vocab={piece.text: index for index, piece in enumerate(pieces)}, merges=_merges(pieces),
        unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(),
                                      decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    core.add_special_tokens([*CONTROL, *SPECIAL])
    prefix = [("[gMASK]", core.token_to_id("[gMASK]")), ("<sop>", core.token_to_id("<sop>"))]
    core.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B", special_tokens=prefix)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>",
        additional_special_tokens=SPECIAL, chat_template=CHAT_TEMPLATE, padding_side="left",
        model_max_length=max_length, clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"])


def load(folder: Path, config: GlmConfig) -> PreTrainedTokenizerFast:
    """官方文件夹的分词器；它与模型的词表对不上时引发 LabError。"""
    pieces = read_pieces(folder / "tokenizer.model")
    tokenizer = build(pieces, config.max_position_embeddings)
    where = rel(folder / "tokenizer.model")
    if len(tokenizer) > config.vocab_size:
        raise LabError(f"{where} 有 {len(tokenizer)} 个词元，超过模型词表的 {config.vocab_size}，"
                       "不是同一个模型的分词器，请重新下载。")
    # 6B 的词表补齐到 65024；换成别的小词表，编号都在范围里，却全对不上
    official = (config.vocab_size, config.hidden_size) == (OFFICIAL_VOCAB, 4096)
    if official and len(pieces) != OFFICIAL_PIECES:
        raise LabError(f"{where} 有 {len(pieces)} 个词元，ChatGLM3-6B 的是 {OFFICIAL_PIECES} 个，"
                       "不是同一个模型的分词器，请重新下载。")
    _check_recorded(folder, tokenizer)
    return tokenizer


def _check_recorded(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """tokenizer_config.json 若记着控制符的编号，就与造出来的核对。"""
    path = folder / "tokenizer_config.json"
    try:
        recorded = json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder", {})
        named = {int(number): token["content"] for number, token in recorded.items()}
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise LabError(f"{rel(path)} 读不懂（{error}），请重新下载这个文件。") from error
    for number, name in named.items():
        ours = tokenizer.convert_tokens_to_ids({"sop": "<sop>", "eop": "<eop>"}.get(name, name))
        if ours != number and name in {*SPECIAL, "sop", "eop"}:
            raise LabError(f"{rel(path)} 里 {name} 的编号是 {number}，由 tokenizer.model 得到的却是 {ours}，"
                           "两个文件不是同一个模型的，请重新下载。")
