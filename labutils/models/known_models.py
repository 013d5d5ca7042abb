"""课程所说的 ChatGLM3-6B 的已知数字：大小、张量与参数的个数、分词器的指纹、一句话的编号。

参数与张量个数出自官方的权重索引，tokenizer.model 的指纹出自官方仓库的 git-lfs 记录，
编号由官方的 build_chat_input 得到。没有分片内容的指纹，所以只能证明“该有的都在”，不能证明一字不差。
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Known:
    """一个认得的模型。sizes 是 GlmConfig 的键；tensors 不含旋转位置表，它由配置算得出来。

    sources：网站 → 在那里的名字；licence：权重的许可。
    """

    title: str
    sizes: dict[str, int]
    tensors: int
    parameters: int
    tokenizer_sha256: str
    sources: dict[str, str]
    licence: str
    prompts: dict[str, list[int]] = field(default_factory=dict)


CHATGLM3_6B = Known(
    title="ChatGLM3-6B",
    sizes={"vocab_size": 65024, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 28,
           "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128},
    tensors=199,
    parameters=6_243_584_000,
    tokenizer_sha256="e7dc4c393423b76e4373e5157ddc34803a0189ba96b21ddbb40269d31468a6f2",
    sources={"ModelScope": "ZhipuAI/chatglm3-6b", "Hugging Face": "zai-org/chatglm3-6b"},
    licence="ChatGLM3 的模型许可，不是 Apache",
    prompts={"你好": [64790, 64792, 64795, 30910, 13, 36474, 54591, 64796]},
)
# 大小相同、用途不同的几个：官方 config.json 的 _name_or_path 以此结尾 → 说明
VARIANTS = {
    "base": "没有经过对话训练的版本，直接提问会接着写下去",
    "32k": "能读更长的文字，显存也用得更多",
    "128k": "能读更长的文字，显存也用得更多",
}
