#!/usr/bin/env bash
# TextStreamer、TextIteratorStreamer 用在 Llama-2 式的分词器上：换行以后，每行开头的空格少一个
#
# 【先猜】（运行之前写下，当时读源码已经起疑）
#   流式一段段拿到的文字接起来，与 generate 结束后一次 decode 得到的一模一样（半个汉字、半个词它都会攒着）。
#
# 【实际】GPT-2、Qwen 那样的 ByteLevel 分词器一模一样；LlamaTokenizer（Llama-2、Mistral-7B、TinyLlama 那一类）的：
#   从第二行起，凡是空格开头的行都少一个空格。代码的缩进 4、8 变成 3、7；Markdown 里缩进 2 格的子列表变成 1 格；
#   统一格式的补丁（diff）里没有改动的行开头那个空格没了，就不再是合法的补丁。没有提醒。
#
# 【为什么】streamers.py 的 put：文字以换行结尾时清空 token_cache，下一行单独 decode；
#   这类分词器的解码规定去掉整段文字最前面的一个空格（编码时补的那个，decoder 里的 Strip），于是每一行都被当成“整段的开头”。
#
# 【伤到谁】用 TextIteratorStreamer 给网页（gradio 教程里的写法）送字的人：存下来的代码、补丁、YAML、Markdown
#   与模型写的不一样；离线评测用 decode 一切正常，上线后才坏。自动套用流式得到的补丁会失败。
#
# 【怎么避开】只拿流式的文字显示，要用的内容等结束后 decode 全部词元；或者自己写一个 streamer，
#   每次 decode 全部词元、只送多出来的部分（脚本最后一行验证，末尾不完整的字等下一个词元）。
#
# 版本：transformers 5.23.0，tokenizers 0.23.3，torch 2.13.0（CPU 版），Python 3.11。日期：2026-11-29。
#
# 【看到的输出】
#   transformers 5.23.0
#   补丁，ByteLevel：流式与一次 decode 相同
#   补丁，LlamaTokenizer：流式与一次 decode 不同
#     原文 '--- a\n+++ b\n@@ -1,4 +1,4 @@\n def f(x):\n-    return 1\n+    return 2\n \n def g(x):\n'
#     流式 '--- a\n+++ b\n@@ -1,4 +1,4 @@\ndef f(x):\n-    return 1\n+    return 2\n\ndef g(x):\n'
#   代码，ByteLevel：流式与一次 decode 相同
#   代码，LlamaTokenizer：流式与一次 decode 不同
#     原文 'def f(x):\n    if x:\n        return 1\n    return 0\n'
#     流式 'def f(x):\n   if x:\n       return 1\n   return 0\n'
#   列表，ByteLevel：流式与一次 decode 相同
#   列表，LlamaTokenizer：流式与一次 decode 不同
#     原文 '- 菜\n  - 青菜\n  - 萝卜\n'
#     流式 '- 菜\n - 青菜\n - 萝卜\n'
#   没有缩进，ByteLevel：流式与一次 decode 相同
#   没有缩进，LlamaTokenizer：流式与一次 decode 相同
#   每次解码全部词元、只送多出来的部分：四段都相同

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 tokenizers==0.23.3

venv/bin/python -I -W ignore - <<'PY'
import sys
from queue import Queue
from threading import Thread

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, PreTrainedTokenizerFast, TextIteratorStreamer

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
print("transformers", transformers.__version__)
PATCH = "--- a\n+++ b\n@@ -1,4 +1,4 @@\n def f(x):\n-    return 1\n+    return 2\n \n def g(x):\n"
CODE = "def f(x):\n    if x:\n        return 1\n    return 0\n"
LIST = "- 菜\n  - 青菜\n  - 萝卜\n"
FLAT = "第一行，没有缩进。\n第二行 也没有。\n"


def llama():
    """LlamaTokenizer，词表是字节、单字和几种连着的空格；换行是字节 <0x0A>，与 Llama-2 的一样。"""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", "▁▁▁▁"]
    words += sorted(set(PATCH + CODE + LIST + FLAT) - {" ", "\n"})
    return LlamaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[("▁", "▁"), ("▁▁", "▁▁")])


def byte_level():
    words = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


class WholeText(TextIteratorStreamer):
    """避开的写法：每次解码全部词元，只送多出来的部分。"""

    def put(self, value):
        if self.skip_prompt and self.next_tokens_are_prompt:
            self.next_tokens_are_prompt = False
            return
        self.token_cache.extend(value.flatten().tolist())
        text = self.tokenizer.decode(self.token_cache, **self.decode_kwargs)
        if not text.endswith("\ufffd"):
            self.on_finalized_text(text[self.print_len:])
            self.print_len = len(text)


def generated(tokenizer, text, kind):
    """让随机的小模型照着 text 生成：(流式接起来的文字, 一次 decode 的文字)。"""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=2, bos_token_id=1, eos_token_id=2)).eval()
    wanted = [1, *tokenizer(text, add_special_tokens=False).input_ids, 2]
    streamer = kind(tokenizer, skip_prompt=True, skip_special_tokens=True)
    result = Queue()

    def work():
        result.put(model.generate(
            torch.tensor([[1]]), attention_mask=torch.ones(1, 1, dtype=torch.long), streamer=streamer,
            do_sample=False, max_new_tokens=len(wanted), prefix_allowed_tokens_fn=lambda _, seen: [wanted[len(seen)]]))

    Thread(target=work, daemon=True).start()
    streamed = "".join(streamer)
    return streamed, tokenizer.decode(result.get(timeout=60)[0, 1:], skip_special_tokens=True)


def must(holds, words):
    if not holds:
        sys.exit(f"行为变了：{words}")


def eaten(text):
    """从第二行起，空格开头的行少一个空格。"""
    first, *rest = text.split("\n")
    return "\n".join([first, *(line.removeprefix(" ") for line in rest)])


for name, text in (("补丁", PATCH), ("代码", CODE), ("列表", LIST), ("没有缩进", FLAT)):
    for words, tokenizer in (("ByteLevel", byte_level()), ("LlamaTokenizer", llama())):
        streamed, whole = generated(tokenizer, text, TextIteratorStreamer)
        same = "相同" if streamed == whole else "不同"
        print(f"{name}，{words}：流式与一次 decode {same}")
        must(whole == text, f"{words} 一次 decode 得到的不是原文")
        expected = eaten(text) if words == "LlamaTokenizer" else text
        must(streamed == expected, f"{name} {words} 流式得到 {streamed!r}")
    if streamed != whole:
        print(f"  原文 {whole!r}\n  流式 {streamed!r}")
    must(generated(llama(), text, WholeText) == (text, text), f"{name}：每次解码全部词元也不对")
print("每次解码全部词元、只送多出来的部分：四段都相同")
PY
