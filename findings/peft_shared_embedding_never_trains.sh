#!/usr/bin/env bash
# peft：给 T5、BART、NLLB 加新词元后写 modules_to_save=["shared"]，那份词嵌入算在可训练参数里、也存进了盘，却一步也没有训练
#
# 【先猜】（运行之前写下）
#   加新词元的通行做法是 resize_token_embeddings，再让 LoRA 连词嵌入一起训练。decoder-only 写 modules_to_save=["embed_tokens"]，
#   T5、BART、NLLB 的词嵌入叫 shared，get_input_embeddings() 给出的就是它，所以写 modules_to_save=["shared"]：
#   1. 新词元的向量会动，输出会变；权重绑定的事 peft 会提醒；
#   2. 加 ensure_weight_tying=True，编码器、解码器、输出层一起跟着动；
#   3. 写 "embed_tokens" 与写 "shared" 是一回事，或者报错。
#
# 【实际】
#   1. shared 的那份梯度始终是 None，训练后一位没变；编码器收到的新词元向量也一位没变。没有任何提醒；
#      print_trainable_parameters 把它算在内，adapter_model.safetensors 里也有它，看上去一切正常。
#      ["shared", "lm_head"] 也一样：两份里只有输出层那份在训练。
#   2. 加 ensure_weight_tying=True 结果照旧，还提醒说 modules_to_save 里没有绑定的模块——不实：shared 正是绑定的源头。
#   3. 写 "embed_tokens" 才真的训练，代价是编码器、解码器各一份，不再绑定（再加 ensure_weight_tying=True 则一前向就报形状不合）。
#      它会提醒“有绑定的层”，没用的 "shared" 反倒不提醒。
#   4. 没训练过的 "shared" 合并（merge_and_unload）之后，当场的输出不变；存盘再读，BART、NLLB 的输出层成了随机数
#      （合并时 peft 提醒两头不再绑定，读的时候 transformers 的报告里列着缺 lm_head；量的时候关掉了这两样）。
#
# 【为什么】transformers 里编码器、解码器各有自己的 embed_tokens 属性，前向只走它们，shared 只是绑定的源头，从不被调用。
#   peft 的 utils/other.py 里 _set_trainable 按名字换掉 shared 这一处，换上的是一份拷贝，另外两处仍指着原来的（冻结的）权重。
#   tuners_utils.py 的 _check_tied_modules 靠名单 EMBEDDING_LAYER_NAMES 认词嵌入，名单里只有 embed_tokens 和 lm_head，没有 shared。
#   合并时 _unload_and_optionally_merge 见 shared 与 lm_head 不再是同一块内存，把 tie_word_embeddings 改成 False；存盘时
#   lm_head 与 encoder.embed_tokens 仍是同一块，只写了一个名字，读回来就缺 lm_head。（T5 写的恰好是 lm_head。）
#
# 【伤到谁】给翻译、摘要模型加新语言、新标记的人：新词元一直停在扩表时的初值上，损失照样因为别的 LoRA 往下降，看不出来。
#   transformers 4.57.6 上也量过（同一版 peft）：三种结构的 shared 同样没有梯度，不是 5 才有的。
#   公开代码里就有写 ["shared", "lm_head"] 并注明“新词元要训练”的。
#
# 【怎么避开】用 trainable_token_indices=[新词元的编号]：三处一起动，重新载入、合并存盘都对（脚本里的对照）。
#   训练前跑一次反向，看每个 requires_grad 的参数是不是都有梯度。
#
# 【怎么量】两层的随机小模型，加两个新词元，训练 5 步。“梯度”“动了”只看 modules_to_save 或新词元的那几份参数；
#   “编码器收到的新词元”是前后两次调用 encoder.embed_tokens 的结果。
# 版本：peft 0.21.2，transformers 5.23.0，torch 2.13.0，Python 3.11，CPU。日期：2026-11-29。
#
# 【看到的输出】
#   peft 0.21.2，transformers 5.23.0
#   t5：get_input_embeddings() 是 shared
#     "shared"：提醒没有；算作可训练 2112，存盘 1 份；有梯度 0/1，动了 0/1；编码器收到的新词元没动；重新载入一致，合并一致，合并存盘再读一致
#     "shared"，ensure_weight_tying：提醒“没有绑定的模块”；算作可训练 2112，存盘 1 份；有梯度 0/1，动了 0/1；编码器收到的新词元没动；重新载入一致，合并一致，合并存盘再读一致
#     "shared", "lm_head"：提醒“有绑定的层”；算作可训练 4224，存盘 2 份；有梯度 1/2，动了 1/2；编码器收到的新词元没动；重新载入一致，合并一致，合并存盘再读一致
#     "embed_tokens"：提醒“有绑定的层”；算作可训练 4224，存盘 2 份；有梯度 2/2，动了 2/2；编码器收到的新词元动了；重新载入一致，合并一致，合并存盘再读一致
#     trainable_token_indices：提醒没有；算作可训练 64，存盘 1 份；有梯度 1/1，动了 1/1；编码器收到的新词元动了；重新载入一致，合并一致，合并存盘再读一致
#     "embed_tokens"，ensure_weight_tying：mat1 and mat2 shapes cannot be multiplied
#   bart：get_input_embeddings() 是 model.shared
#     "shared"：提醒没有；算作可训练 2112，存盘 1 份；有梯度 0/1，动了 0/1；编码器收到的新词元没动；重新载入一致，合并一致，合并存盘再读不一致
#     "shared"，ensure_weight_tying：提醒“没有绑定的模块”；算作可训练 2112，存盘 1 份；有梯度 0/1，动了 0/1；编码器收到的新词元没动；重新载入一致，合并一致，合并存盘再读不一致
#     "shared", "lm_head"：提醒“有绑定的层”；算作可训练 4224，存盘 2 份；有梯度 1/2，动了 1/2；编码器收到的新词元没动；重新载入一致，合并一致，合并存盘再读不一致
#     "embed_tokens"：提醒“有绑定的层”；算作可训练 4224，存盘 2 份；有梯度 2/2，动了 2/2；编码器收到的新词元动了；重新载入一致，合并一致，合并存盘再读一致
#     trainable_token_indices：提醒没有；算作可训练 64，存盘 1 份；有梯度 1/1，动了 1/1；编码器收到的新词元动了；重新载入一致，合并一致，合并存盘再读一致
#     "embed_tokens"，ensure_weight_tying：mat1 and mat2 shapes cannot be multiplied
#   m2m_100：get_input_embeddings() 是 model.shared
#     "shared"：提醒没有；算作可训练 2112，存盘 1 份；有梯度 0/1，动了 0/1；编码器收到的新词元没动；重新载入一致，合并一致，合并存盘再读不一致
#     "shared"，ensure_weight_tying：提醒“没有绑定的模块”；算作可训练 2112，存盘 1 份；有梯度 0/1，动了 0/1；编码器收到的新词元没动；重新载入一致，合并一致，合并存盘再读不一致
#     "shared", "lm_head"：提醒“有绑定的层”；算作可训练 4224，存盘 2 份；有梯度 1/2，动了 1/2；编码器收到的新词元没动；重新载入一致，合并一致，合并存盘再读不一致
#     "embed_tokens"：提醒“有绑定的层”；算作可训练 4224，存盘 2 份；有梯度 2/2，动了 2/2；编码器收到的新词元动了；重新载入一致，合并一致，合并存盘再读一致
#     trainable_token_indices：提醒没有；算作可训练 64，存盘 1 份；有梯度 1/1，动了 1/1；编码器收到的新词元动了；重新载入一致，合并一致，合并存盘再读一致
#     "embed_tokens"，ensure_weight_tying：mat1 and mat2 shapes cannot be multiplied
#   对照：decoder-only 的 qwen3
#     "embed_tokens"，ensure_weight_tying：提醒没有；算作可训练 2112，存盘 2 份；有梯度 1/1，动了 1/1；编码器收到的新词元动了；重新载入一致，合并一致，合并存盘再读一致

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0

HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error venv/bin/python -I -W ignore - <<'PY'
import sys
import tempfile
import warnings

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

torch.set_num_threads(1)
NEW = [64, 65]  # 加词以后新词元的编号
IDS = torch.tensor([[5, 6, *NEW]])
HALF = dict(encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=48, decoder_ffn_dim=48, d_model=32, max_position_embeddings=64)
SMALL = {
    "t5": dict(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    "bart": HALF,
    "m2m_100": HALF,  # NLLB 用的结构
    "qwen3": dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, head_dim=8, tie_word_embeddings=True),
}
WAYS = {
    '"shared"': dict(modules_to_save=["shared"]),
    '"shared"，ensure_weight_tying': dict(modules_to_save=["shared"], ensure_weight_tying=True),
    '"shared", "lm_head"': dict(modules_to_save=["shared", "lm_head"]),
    '"embed_tokens"': dict(modules_to_save=["embed_tokens"]),
    "trainable_token_indices": dict(trainable_token_indices=NEW),
}
UNUSED = [way for way in WAYS if '"shared"' in way]


def auto(kind):
    return AutoModelForCausalLM if kind == "qwen3" else AutoModelForSeq2SeqLM


def base(kind):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SMALL[kind])
    config.decoder_start_token_id = 1
    model = auto(kind).from_config(config)
    model.resize_token_embeddings(66)
    return model.eval()


def entry(model):
    """真正接收词元的那个词嵌入，对新词元给出的向量。"""
    inner = model.get_base_model()
    inner = inner.model if inner.config.model_type == "qwen3" else inner.get_encoder()
    return inner.embed_tokens(torch.tensor(NEW)).detach().clone()


def same(a, b):
    return torch.allclose(a, b, atol=1e-5)


def survey(kind, options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        targets = ["q"] if kind == "t5" else ["q_proj"]
        model = get_peft_model(base(kind), LoraConfig(r=2, target_modules=targets, **options)).eval()
    hints = [str(w.message) for w in caught if "weight_tying" in str(w.message)]
    hint = "没有" if not hints else "“没有绑定的模块”" if "no tied modules are added" in hints[0] else "“有绑定的层”"
    extra = {n: p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}
    before, vectors = {n: p.detach().clone() for n, p in extra.items()}, entry(model)
    feed = dict(input_ids=IDS, labels=IDS)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(**feed).loss.backward()
        optimizer.step()
    row = {
        "提醒": hint,
        "算作可训练": sum(p.numel() for p in extra.values()),
        "有梯度": sum(p.grad is not None for p in extra.values()),
        "动了": sum(not torch.equal(p, before[n]) for n, p in extra.items()),
        "份数": len(extra),
        "新词元动了": not same(entry(model), vectors),
    }
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        tuned = model(**feed).logits
        model.save_pretrained(folder + "/adapter", save_embedding_layers=False)
        with safe_open(folder + "/adapter/adapter_model.safetensors", "pt") as file:
            row["存了几份"] = sum("lora_" not in name for name in file.keys())
        row["重新载入"] = same(PeftModel.from_pretrained(base(kind), folder + "/adapter").eval()(**feed).logits, tuned)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            merged = model.merge_and_unload()
        row["合并"] = same(merged(**feed).logits, tuned)
        merged.save_pretrained(folder + "/merged")
        again = auto(kind).from_pretrained(folder + "/merged").eval()
        row["合并存盘再读"] = same(again(**feed).logits, tuned)
    return row


def yes(flag):
    return "一致" if flag else "不一致"


def show(name, row):
    print(f"  {name}：提醒{row['提醒']}；算作可训练 {row['算作可训练']}，存盘 {row['存了几份']} 份；"
          f"有梯度 {row['有梯度']}/{row['份数']}，动了 {row['动了']}/{row['份数']}；"
          f"编码器收到的新词元{'动了' if row['新词元动了'] else '没动'}；"
          f"重新载入{yes(row['重新载入'])}，合并{yes(row['合并'])}，合并存盘再读{yes(row['合并存盘再读'])}")


def expect(condition, sentence):
    if not condition:
        sys.exit(f"行为变了：{sentence}")


print(f"peft {peft.__version__}，transformers {transformers.__version__}")
for kind in ("t5", "bart", "m2m_100"):
    plain = base(kind)
    name = next(name for name, module in plain.named_modules() if module is plain.get_input_embeddings())
    print(f"{kind}：get_input_embeddings() 是 {name}")
    expect(name.endswith("shared"), f"{kind} 的 get_input_embeddings() 不再是 shared。")
    rows = {way: survey(kind, options) for way, options in WAYS.items()}
    for way, row in rows.items():
        show(way, row)
    for way in UNUSED:
        row, head = rows[way], int("lm_head" in way)
        expect(row["有梯度"] == row["动了"] == head and row["份数"] == 1 + head, f"{kind} 的 {way} 有梯度了。")
        expect(not row["新词元动了"], f"{kind} 的 {way} 里，编码器收到的新词元动了。")
        expect(row["算作可训练"] == 66 * 32 * (1 + head) and row["存了几份"] == 1 + head, f"{kind} 的 {way} 不再算数或存盘。")
    expect(rows['"shared"']["提醒"] == "没有", f"{kind} 写 shared 有提醒了。")
    expect("没有绑定" in rows['"shared"，ensure_weight_tying']["提醒"], f"{kind} 的 ensure_weight_tying 认得 shared 了。")
    expect(rows['"shared"']["合并"] and rows['"shared"']["合并存盘再读"] == (kind == "t5"), f"{kind} 合并存盘的结果变了。")
    for way in ('"embed_tokens"', "trainable_token_indices"):
        row = rows[way]
        expect(row["有梯度"] == row["动了"] == row["份数"] and row["新词元动了"], f"{kind} 的对照 {way} 没有训练。")
        expect(row["重新载入"], f"{kind} 的对照 {way} 重新载入不一致。")
    try:
        survey(kind, dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True))
        refused = ""
    except RuntimeError as error:
        refused = str(error).split(" (")[0]
    print(f'  "embed_tokens"，ensure_weight_tying：{refused}')
    expect("shapes cannot be multiplied" in refused, f"{kind} 的 embed_tokens 加 ensure_weight_tying 不再报错。")
    expect(rows["trainable_token_indices"]["合并存盘再读"], f"{kind} 的对照 trainable_token_indices 合并存盘不一致。")

print("对照：decoder-only 的 qwen3")
row = survey("qwen3", dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True))
show('"embed_tokens"，ensure_weight_tying', row)
expect(row["动了"] == row["份数"] and row["新词元动了"] and row["重新载入"] and row["合并存盘再读"], "qwen3 的对照没有训练。")
PY
