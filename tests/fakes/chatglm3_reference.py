"""照着结构说明用 numpy 写的 ChatGLM3 前向计算，只供测试核对：不用 torch，不看 transformers 的实现。

每层：RMSNorm → 分组查询注意力（每个头只有前一半维度旋转，相邻两维一对）→ 残差 → RMSNorm → SwiGLU → 残差。
"""

import numpy as np


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
    weights = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in state.items()}
    eps = config["layernorm_epsilon"]
    x = weights["transformer.embedding.word_embeddings.weight"][ids]
    for number in range(config["num_layers"]):
        prefix = f"transformer.encoder.layers.{number}."
        layer = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        x = x + attention(norm(x, layer["input_layernorm.weight"], eps), layer, config)
        x = x + mlp(norm(x, layer["post_attention_layernorm.weight"], eps), layer)
    x = norm(x, weights["transformer.encoder.final_layernorm.weight"], eps)
    return x @ weights["transformer.output_layer.weight"].T


def greedy(state: dict, config: dict, ids: list[int], steps: int) -> list[int]:
    """每一步都从头算一遍，取最大的一个；返回新生成的编号。"""
    ids = list(ids)
    for _ in range(steps):
        ids.append(int(logits(state, config, ids)[-1].argmax()))
    return ids[-steps:]
