"""现造官方格式的 ChatGLM3 小模型文件夹，以及核对用的另一份前向计算。不下载任何东西。

文件夹有官方的张量名、config.json、分片与 tokenizer.model，权重随机；里面的 .py 文件一导入就报错，用来证明
从不执行下载来的代码。前向计算照结构说明用 numpy 另写，不用 torch，不看 transformers 的实现。
"""

import io
import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file

LINES = (Path(__file__).parents[2] / "data" / "qa.jsonl").read_text(encoding="utf-8").splitlines()
CODE = ["def main(x):\n    return x + 1", "for i in range(10): print(i)", "SELECT * FROM t WHERE id = 3;",
        "The quick brown fox jumps over the lazy dog.", "people and philosophers eop sop"]
SPECIALS = 9  # 词表之后的控制符


@cache
def tokenizer_bytes(pieces: int = 800) -> bytes:
    """训练一个与官方同一种设置的 SentencePiece BPE 模型，返回 tokenizer.model 的内容。"""
    rows = [json.loads(line) for line in LINES]
    text = [row[key] for row in rows for key in ("question", "answer")]
    text += [line for code in CODE * 20 for line in code.split("\n")]  # 官方的词元里没有换行
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=out, model_type="bpe", vocab_size=pieces,
        byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, max_sentencepiece_length=16,
        character_coverage=0.98, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2)
    return out.getvalue()


def config(layers=2, hidden=32, heads=4, groups=2, head_dim=8, ffn=48, vocab=832, **changes) -> dict:
    """官方 config.json 的全部键；changes 改写其中几项。"""
    return {
        "_name_or_path": "THUDM/chatglm3-6b", "model_type": "chatglm", "architectures": ["ChatGLMModel"],
        "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig",
                     "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration"},
        "add_bias_linear": False, "add_qkv_bias": True, "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "ffn_hidden_size": ffn,
        "fp32_residual_connection": False, "hidden_dropout": 0.0, "hidden_size": hidden,
        "kv_channels": head_dim, "layernorm_epsilon": 1e-05, "multi_query_attention": True,
        "multi_query_group_num": groups, "num_attention_heads": heads, "num_layers": layers,
        "original_rope": True, "padded_vocab_size": vocab, "post_layer_norm": True, "rmsnorm": True,
        "seq_length": 512, "use_cache": True, "torch_dtype": "float32", "transformers_version": "4.27.1",
        "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0, **changes}


def weights(settings: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """随机权重，官方的名字；层里的幅度大，logits 才相差明显；词向量的幅度小，归一化的 eps 才看得出。"""
    source = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=None):
        return torch.randn(*shape, generator=source) * (scale or 1.5 / shape[-1] ** 0.5)

    hidden, vocab = settings["hidden_size"], settings["padded_vocab_size"]
    heads, width = settings["num_attention_heads"], settings["kv_channels"]
    fused = (heads + 2 * settings["multi_query_group_num"]) * width
    state = {"transformer.embedding.word_embeddings.weight": normal(vocab, hidden, scale=0.03),
             "transformer.rotary_pos_emb.inv_freq": 1e4 ** (-torch.arange(0, width // 2, 2) / (width // 2))}
    for number in range(settings["num_layers"]):
        layer = f"transformer.encoder.layers.{number}."
        state |= {
            layer + "input_layernorm.weight": 1 + normal(hidden, scale=0.2),
            layer + "self_attention.query_key_value.weight": normal(fused, hidden),
            layer + "self_attention.query_key_value.bias": normal(fused, scale=0.5),
            layer + "self_attention.dense.weight": normal(hidden, heads * width),
            layer + "post_attention_layernorm.weight": 1 + normal(hidden, scale=0.2),
            layer + "mlp.dense_h_to_4h.weight": normal(2 * settings["ffn_hidden_size"], hidden),
            layer + "mlp.dense_4h_to_h.weight": normal(hidden, settings["ffn_hidden_size"])}
    return state | {"transformer.encoder.final_layernorm.weight": 1 + normal(hidden, scale=0.2),
                    "transformer.output_layer.weight": normal(vocab, hidden)}


def write(folder: Path, seed: int = 0, shards: int = 2, kind: str = "safetensors", pieces: int = 800,
          dtype: torch.dtype = torch.float32, **changes) -> dict[str, torch.Tensor]:
    """写一个完整的官方文件夹，返回写进去的权重。kind：safetensors 或 bin；shards 为 1 时不分片。"""
    folder.mkdir(parents=True, exist_ok=True)
    settings = config(**changes)
    state = {name: tensor.to(dtype) for name, tensor in weights(settings, seed).items()}
    settings["torch_dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(tokenizer_bytes(pieces))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"name_or_path": "THUDM/chatglm3-6b", "tokenizer_class": "ChatGLMTokenizer",
         "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]}}), encoding="utf-8")
    for name in ("configuration_chatglm", "modeling_chatglm", "tokenization_chatglm"):
        (folder / f"{name}.py").write_text("raise SystemExit('下载来的代码被执行了')\n", encoding="utf-8")
    _write_weights(folder, state, shards, kind)
    return state


def _write_weights(folder: Path, state: dict, shards: int, kind: str) -> None:
    stem, index = (("model", "model.safetensors.index.json") if kind == "safetensors"
                   else ("pytorch_model", "pytorch_model.bin.index.json"))
    names, weight_map = list(state), {}
    for number in range(shards):
        suffix = "" if shards == 1 else f"-{number + 1:05d}-of-{shards:05d}"
        part = {name: state[name] for name in names[number * len(names) // shards:
                                                    (number + 1) * len(names) // shards]}
        weight_map |= dict.fromkeys(part, f"{stem}{suffix}.{kind}")
        path = folder / f"{stem}{suffix}.{kind}"
        save_file(part, path, {"format": "pt"}) if kind == "safetensors" else torch.save(part, path)
    if shards > 1:
        size = sum(tensor.nbytes for tensor in state.values())
        (folder / index).write_text(json.dumps(
            {"metadata": {"total_size": size}, "weight_map": weight_map}), encoding="utf-8")


def varied_texts(count: int, seed: int = 0) -> list[str]:
    """各种各样的文字：汉字、英文、代码、空白、表情、全角、生僻字、写出来的角色符，随机拼接。"""
    rng = random.Random(seed)
    common = [chr(code) for code in range(0x4E00, 0x9FA5, 7)]
    pools = [
        lambda: "".join(rng.choices(common, k=rng.randint(1, 12))),
        lambda: rng.choice(rng.choice(LINES).split('"')),
        lambda: " " * rng.randint(1, 20),
        lambda: rng.choice(["\n", "\t", "\r\n", "\n\n  ", "\u3000", "\xa0"]),
        lambda: rng.choice(CODE), lambda: str(rng.randint(0, 10**9)),
        lambda: rng.choice(["👨‍👩‍👧‍👦", "🇨🇳", "😀", "e\u0301", "ＡＢＣ１２３", "①②", "▁",
                            "▁▁", "𠀀𪚥", "ﷺ", "\u200b"]),
        lambda: rng.choice(["<|user|>", "<|assistant|>", "[gMASK]", "sop", "eop", "</s>", "<unk>", "<0x0A>",
                            "<|system|>\n", "[MASK]", "<s>"]),
        lambda: "".join(chr(rng.choice([rng.randint(32, 0xD7FF), rng.randint(0xE000, 0x2FFFF)]))
                        for _ in range(rng.randint(1, 6)))]
    return ["".join(rng.choice(pools)() for _ in range(rng.randint(1, 8))) for _ in range(count)]


# ---- 前向计算：每层 RMSNorm → 分组查询注意力（每个头只有前一半维度旋转，相邻两维一对）→ 残差
# → RMSNorm → SwiGLU → 残差 ----

def norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotate(x, theta):
    """x 形状 (长度, 头, 维)；第 t 行的第 i 对维度转过 t · theta^(-2i / (维/2)) 弧度。"""
    half = x.shape[-1] // 2
    pairs = np.arange(half // 2)
    angle = np.arange(len(x))[:, None, None] * theta ** (-2.0 * pairs / half)
    even, odd = x[..., 0:half:2], x[..., 1:half:2]
    out = x.copy()
    out[..., 0:half:2] = even * np.cos(angle) - odd * np.sin(angle)
    out[..., 1:half:2] = odd * np.cos(angle) + even * np.sin(angle)
    return out


def attention(x, layer, config):
    heads, groups, width = (config[key] for key in (
        "num_attention_heads", "multi_query_group_num", "kv_channels"))
    qkv = x @ layer["self_attention.query_key_value.weight"].T + layer["self_attention.query_key_value.bias"]
    q, k, v = np.split(qkv, [heads * width, (heads + groups) * width], axis=-1)
    theta = 10000.0 * config.get("rope_ratio", 1)
    q = rotate(q.reshape(len(x), heads, width), theta)
    k = rotate(k.reshape(len(x), groups, width), theta)
    v = v.reshape(len(x), groups, width)
    k, v = (np.repeat(t, heads // groups, axis=1) for t in (k, v))
    score = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width)
    score[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
    score = np.exp(score - score.max(-1, keepdims=True))
    mixed = np.einsum("hqk,khd->qhd", score / score.sum(-1, keepdims=True), v)
    return mixed.reshape(len(x), -1) @ layer["self_attention.dense.weight"].T


def mlp(x, layer):
    gate, up = np.split(x @ layer["mlp.dense_h_to_4h.weight"].T, 2, axis=-1)
    return (gate / (1 + np.exp(-gate)) * up) @ layer["mlp.dense_4h_to_h.weight"].T


def logits(state: dict, config: dict, ids: list[int]) -> np.ndarray:
    """官方名字的权重、官方的配置、一维编号 → 双精度 logits，形状 (长度, 词表)。"""
    state = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in state.items()}
    eps = config["layernorm_epsilon"]
    x = state["transformer.embedding.word_embeddings.weight"][ids]
    for number in range(config["num_layers"]):
        prefix = f"transformer.encoder.layers.{number}."
        layer = {name.removeprefix(prefix): w for name, w in state.items() if name.startswith(prefix)}
        x = x + attention(norm(x, layer["input_layernorm.weight"], eps), layer, config)
        x = x + mlp(norm(x, layer["post_attention_layernorm.weight"], eps), layer)
    x = norm(x, state["transformer.encoder.final_layernorm.weight"], eps)
    return x @ state["transformer.output_layer.weight"].T


def greedy(state: dict, config: dict, ids: list[int], steps: int) -> list[int]:
    """每一步都从头算一遍，取最大的一个；返回新生成的编号。"""
    ids = list(ids)
    for _ in range(steps):
        ids.append(int(logits(state, config, ids)[-1].argmax()))
    return ids[-steps:]
