"""测试用的小模型：几个对话模型家族的结构、分词器与对话模板，权重随机，不下载任何东西。

模板是照各家族的格式另写的；每个家族有两种：带 ``{% generation %}`` 标记的和不带的。
"""

from dataclasses import dataclass, field

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import AutoConfig

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
TEXT = ["你好，早上好。有效期五年\n\n\n", "hello world, the answer is 42\n\n",
        "课程 认定\n 第三批 many words\n\n"]

GLM4 = """[gMASK]<sop>
{%- for m in messages %}
{{- '<|' + m.role + '|>' }}
{%- if m.role == 'assistant' %}{% generation %}{{ '\n' + m.content }}{% endgeneration %}
{%- else %}{{ '\n' + m.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""

QWEN3 = """{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- '<|im_start|>assistant\n' }}
{%- set parts = ['', m.content] if '</think>' not in m.content else m.content.split('</think>') %}
{%- set thought, said = parts[0].split('<think>')[-1].strip(), parts[-1].lstrip('\n') %}
{%- generation %}
{%- if loop.index0 > ns.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}
{{- said }}
{{- '<|im_end|>' }}
{%- endgeneration %}
{{- '\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}"""

LLAMA3 = """{{- bos_token }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}
{%- else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

# 标记里故意不含结束符：有的模板就是这样写的。
CHATML = """{{- bos_token }}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}
{%- else %}{{ m.content }}{% endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


@dataclass(frozen=True)
class Family:
    """一个模型家族：结构、控制符、模板、回答的结束符（None：没有）。"""

    model_type: str
    special: tuple[str, ...]
    template: str
    end: str | None
    tokens: dict[str, str]
    markup: tuple[str, ...] = ()
    sentencepiece: bool = False
    sizes: dict = field(default_factory=dict)


FAMILIES = {
    "GLM-4": Family(
        "glm4", ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
                 "<|assistant|>", "<|observation|>"),
        GLM4, None, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}),
    "Qwen3": Family(
        "qwen3", ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), QWEN3, "<|im_end|>",
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        markup=("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")),
    "Llama 3": Family(  # 没有填充符；eos 与每轮的结束符不同
        "llama", ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                  "<|eom_id|>", "<|eot_id|>"),
        LLAMA3, "<|eot_id|>", {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}),
    "InternLM3": Family(
        "internlm3", ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"), CHATML, "<|im_end|>",
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"},
        sentencepiece=True),
    "MiniCPM3": Family(
        "minicpm3", ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"), CHATML, "<|im_end|>",
        {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}, sentencepiece=True,
        sizes={"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
               "qk_rope_head_dim": 4, "v_head_dim": 8, "head_dim": 4}),
}


def _byte_level(special: list) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\s*[\r\n]+| ?\w+| ?[^\s\w]+|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(TEXT, trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return core


def _sentencepiece(special: list) -> Tokenizer:
    """SentencePiece 的样子：开头加一个空格，生字退回字节。"""
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    letters = sorted(set("".join(TEXT)) - set(" \n")) + list("▁<>|_imstardeno/")
    pieces = dict.fromkeys([*map(str, special), *bytes_, *letters, "▁h", "he", "el"])
    core = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)},
                                merges=[("h", "e"), ("e", "l"), ("▁", "h")], unk_token="<unk>",
                                byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                      decoders.Strip(" ", 1, 0)])
    return core


def build_tokenizer(name: str, marked: bool = False) -> PreTrainedTokenizerFast:
    """某个家族的小分词器；marked：对话模板是否保留 generation 标记。"""
    family = FAMILIES[name]
    special = [AddedToken(token, special=True, normalized=False) for token in family.special]
    core = (_sentencepiece if family.sentencepiece else _byte_level)(special)
    core.add_special_tokens(special)
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.markup])
    template = family.template
    if not marked:
        for word in ("generation", "endgeneration"):
            for tag in (f"{{%- {word} %}}", f"{{% {word} %}}"):
                template = template.replace(tag, "{%- if true %}" if word == "generation" else "{%- endif %}")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, chat_template=template, padding_side="left",
        model_input_names=["input_ids", "attention_mask"], **family.tokens)


def write_checkpoint(folder, name: str, marked: bool = False, seed: int = 0) -> None:
    """写一个能直接载入的模型文件夹：随机权重、分词器、对话模板。"""
    family, tokenizer = FAMILIES[name], build_tokenizer(name, marked)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family.model_type, vocab_size=len(tokenizer), **(SIZES | family.sizes), tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


MOE = {"moe_intermediate_size": 16, "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4,
       "num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1,
       "topk_group": 1}
# 结构 → 它自己的大小；没有写的照 SIZES，None 是没有这一项
KINDS = {
    "phi": {"num_key_value_heads": 4}, "gpt_neox": {}, "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {"alibi": False, "head_dim": None}, "bloom": {"n_layer": 6, "n_head": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "qwen2": {}, "qwen3": {}, "qwen2_moe": MOE | {"shared_expert_intermediate_size": 16}, "qwen3_moe": MOE,
    "glm4_moe": MOE, "phimoe": MOE, "llama4_text": MOE | {"intermediate_size_mlp": 48},
    "llama": {}, "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gemma4_text": {"vocab_size_per_layer_input": 400, "hidden_size_per_layer_input": 8},
    "deepseek_v4": MOE | {"q_lora_rank": 16, "o_lora_rank": 8, "o_groups": 4},
    "rwkv": {"attention_hidden_size": 32, "context_length": 256},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
                  "mamba_n_groups": 1, "mamba_expand": 1, "mamba_chunk_size": 16}}


def write_kind(folder, kind: str, **sizes):
    """写一个随机权重的小模型：结构任选（KINDS 里的），分词器与对话模板总是 Qwen3 家族的。"""
    tokenizer = build_tokenizer("Qwen3")
    torch.manual_seed(0)
    sizes = SIZES | {"num_hidden_layers": 6, "vocab_size": len(tokenizer)} | KINDS[kind] | sizes
    config = AutoConfig.for_model(
        kind, **{key: size for key, size in sizes.items() if size is not None},
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ---- 各有一处古怪的对话模板：只写出那一处，其余照最普通的样子 ----

_TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}"
_TURNS = "{% for m in messages %}" + _TURN + "{% endfor %}"
_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def _answers(before: str, after: str = "<|im_end|>", prompt: str = "") -> str:
    """回答前写 before、后面写 after，生成提示后面接 prompt 的模板。"""
    own = _TURN.replace("+ m.content + '<|im_end|>'", f"+ {before!r} + m.content + {after!r}")
    return ("{% for m in messages %}{% if m.role == 'assistant' %}" + own + "{% else %}" + _TURN
            + "{% endif %}{% endfor %}" + _PROMPT.replace("nt\n'", f"nt\n' + {prompt!r}"))


ODD = {
    # 回答前的字由模型自己写（gpt-oss、Kimi-K2-Thinking、Step-3.5、functionary）
    "频道": _answers("<|channel|>final<|message|>"),
    "空思考": _answers("<think></think>"),
    "结束思考": _answers("<think>\n</think>\n", prompt="<think>\n"),
    "收件人": _answers("all\n"),
    # 不思考时生成提示里有一段空的思考过程，历史里没有（Gemma 4、Hunyuan-A13B）；日期写在提示词里（Llama 3.1）
    "提示里的空思考": _answers("", prompt="<think>\n\n</think>\n\n"),
    "日期": "{{ strftime_now('%Y年%m月%d日 %A') }}" + _TURNS + _PROMPT,
    # system 写在最后一条用户消息里（Mistral）；只在最后一问后面加开关
    "系统在问题里": "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' }}"
             "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content + '\n' }}{% endif %}"
             "{{ m.content + '[/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}"
             "{% endif %}{% endfor %}",
    "问题后的开关": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
             "{% if loop.last and m.role == 'user' %}{{ '/no_think' }}{% endif %}{{ '<|im_end|>' }}"
             "{% endfor %}" + _PROMPT,
    # 回答后面什么也不写，下一问以角色符开头（MiniCPM）
    "不写结束": "{% for m in messages %}{{ ('<用户>' if m.role == 'user' else '<AI>') + m.content }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<AI>' }}{% endif %}",
    # 中间的回答与最后一个的结束符不同（Apertus）
    "结束不同": _TURNS.replace("'<|im_end|>'", "('<|eot|>' if loop.last else '<|im_end|>')") + _PROMPT,
    # 不认生成提示，问题后面的结束符要模型自己写
    "没有生成提示": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
            "{% if not loop.last or m.role == 'assistant' %}{{ '<|im_end|>' }}{% endif %}{% endfor %}",
    "漏写系统": _TURNS.replace("{{", "{% if m.role != 'system' or loop.first %}{{").replace(
        "}}", "}}{% endif %}") + _PROMPT,
    # 不照原话写的几种
    "改写小写": _TURNS.replace("m.content", "m.content|lower") + _PROMPT,
    "改写开头": _TURNS.replace("m.content", "m.content[-9:]") + _PROMPT,
    "改写尖括号": _TURNS.replace("m.content", "m.content|replace('<', '&lt;')") + _PROMPT,
    "改写字": _TURNS.replace("m.content", "m.content|replace('有效期', '期限')") + _PROMPT,
    "改写删去": _TURNS.replace("m.content", "m.content|replace('A < B', '')") + _PROMPT,
}


def build_odd(name: str) -> PreTrainedTokenizerFast:
    """一种古怪的模板，词表里有它用到的控制符。"""
    words = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|channel|>", "<|message|>", "<|eot|>", "<用户>",
             "<AI>", "[INST]", "[/INST]"]
    special = [AddedToken(word, special=True, normalized=False) for word in words]
    core = _byte_level(special)
    core.add_special_tokens(special)
    core.add_tokens([AddedToken(word, normalized=False) for word in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=ODD[name], padding_side="left",
                                   bos_token="<s>", eos_token="</s>", pad_token="</s>")
