"""自带小模型的词表:一个汉字一个词元,生僻字退回到字节。讲解见 notebook 00。

词表事先定好,不从语料里学:GB2312 一级汉字、ASCII、中文标点、256 个字节和对话用的控制符。
控制符的名字与用法同 ChatGLM3。
"""

from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

PUNCTUATION = "，。、；：？！“”‘’（）《》〈〉【】〔〕「」—…·％～－＋×÷＝≥≤°①②③④⑤⑥⑦⑧⑨⑩→✓✗"
# 教育类文件常用、但不在一级字表里的字。
EXTRA_CHARACTERS = "遴甄圳喆镕芯"
CONTROL = ["<unk>", "<s>", "</s>"]
ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
SPECIAL = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *ROLES]
# 只用于展示;训练与推理的编号由 chat_format 逐条消息拼出,用户写的控制符只会是普通文字。
CHAT_TEMPLATE = (
    "{{ '[gMASK]<sop>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@cache
def level1_characters() -> tuple[str, ...]:
    """GB2312 一级汉字,共 3755 个,按区位码排列。"""
    pairs = (bytes([high, low]) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    return tuple(text for text in (pair.decode("gb2312", "ignore") for pair in pairs) if text)


def vocabulary() -> dict[str, int]:
    """词元 → 编号。前三个与 ChatGLM3 相同:0 是 <unk>(兼作填充),2 是结束符。"""
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    ascii_ = ["\n", *(chr(code) for code in range(32, 127))]
    characters = [*ascii_, *PUNCTUATION, *level1_characters(), *EXTRA_CHARACTERS]
    tokens = dict.fromkeys([*CONTROL, *bytes_, *characters, *SPECIAL])
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """造出快速分词器;没有合并规则的 BPE 就是逐字切分。"""
    core = Tokenizer(
        models.BPE(vocab=vocabulary(), merges=[], unk_token="<unk>", byte_fallback=True)
    )
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens([*CONTROL, *SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="<unk>", additional_special_tokens=SPECIAL, chat_template=CHAT_TEMPLATE,
        padding_side="left", model_max_length=1024, clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def save_tokenizer(folder: str | Path) -> None:
    """存成 AutoTokenizer 能直接读的文件夹。"""
    build_tokenizer().save_pretrained(folder)
