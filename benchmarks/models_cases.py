"""models.py 的小模型：每种结构、每种适配器各造一个，走完训练、载入、回答、网页、合并。

每一步都与 transformers、peft 自己算的相比。
"""

import dataclasses
import json
import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from fakes.chat_fakes import KINDS, MOE, SIZES, build_tokenizer
from peft import PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from labutils.base.errors import LabError, first_line
from labutils.base.files import CONFIGS
from labutils.base.text import Cut
from labutils.demo import batching
from labutils.demo.engine import Prompt, Stop
from labutils.lab import cli
from labutils.models import adapters, chat, export, generate, loader
from labutils.training import finetune

LIMIT = 8_000_000  # 参数再多就不是小模型了：有的结构不认这里的大小
TOLERANCE = 1e-4   # fp32 的 logits 相对差多少算相同
QUESTIONS = ["问？", "第二个问题长一些，问的是有效期？"]
TRAINING = {"max_steps": 2, "save_steps": 2, "eval_steps": 2, "warmup_steps": 0, "learning_rate": 1e-2,
            "per_device_train_batch_size": 2, "max_input_length": 64, "max_output_length": 32,
            "general_ratio": 0, "unanswerable_ratio": 0, "use_cpu": True, "dtype": "fp32"}
# 各家结构给同样的东西起的名字；不认识的名字没有坏处
SHAPE = SIZES | MOE | {
    "num_hidden_layers": 4, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512, "d_model": 32,
    "n_heads": 4, "n_layers": 4, "ffn_dim": 48, "d_ff": 48, "word_embed_proj_dim": 32, "rotary_dim": 4,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "shared_expert_intermediate_size": 16, "intermediate_size_mlp": 48, "state_size": 8, "mamba_d_state": 8,
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_expand": 2, "mamba_d_ssm": 64,
    "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1,
    "attention_hidden_size": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "vocab_size_per_layer_input": 400, "hidden_size_per_layer_input": 8}
OWN = {"mamba2": {"num_heads": 4, "head_dim": 16}, "zaya": {"num_experts_per_tok": 1},
       "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
       "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
       "gemma3n_text": {"num_kv_shared_layers": 0,
                        "layer_types": ["sliding_attention", "full_attention"] * 2},
       "bamba": {"attn_layer_indices": [1]}, "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
       "xlstm": {"v_head_dim": None, "num_heads": 4}, "zamba2": {"layer_types": None}}
# 还不行就再试这几种
OTHER = ({"num_key_value_heads": 4, "head_dim": 4}, {"num_hidden_layers": 8}, {"num_hidden_layers": 10})
# 编码器、语音、图像、从前一个词元生成不了后一个的：不是对话模型
NOT_CHAT = ("bert", "roberta", "megatron-bert", "electra", "ernie", "rembert", "roformer", "xmod",
            "data2vec-text", "big_bird", "camembert", "trocr", "moshi", "xlm", "reformer",
            "blenderbot-small", "roc_bert", "fuyu", "whisper", "bart", "bigbird_pegasus",
            "marian", "mbart", "mvp", "pegasus", "plbart", "prophetnet", "blenderbot")


class Wrong(AssertionError):
    """结果不对，而且没有人说一声。"""


class Steps(dict):
    """步骤 → 正确、拒绝、错或崩溃，后面写着原因。"""

    @contextmanager
    def __call__(self, name: str):
        try:
            yield
            self[name] = "正确"
        except LabError as error:
            failed = re.search("生成.*出错", str(error))  # 别的库的错误，到了页面上才包成一句话
            self[name] = f"{'崩溃' if failed else '拒绝'}：{error}"
        except Wrong as error:
            self[name] = f"错：{error}"
        except Exception as error:
            self[name] = f"崩溃：{type(error).__name__}：{first_line(error)}"


def same(what: torch.Tensor, wanted: torch.Tensor, words: str) -> None:
    difference = float((what - wanted).norm() / wanted.norm())
    if not difference <= TOLERANCE:
        raise Wrong(f"{words}，相对差 {difference:.2g}")


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=torch.arange(300, 318).view(1, -1)).logits[0, -18:].float()


def plain(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def architectures() -> dict[str, tuple[str, dict]]:
    """结构 → 它的小配置；transformers 自己造不出小的、或训练不了的不在里面。"""
    kinds = sorted(kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if not kind.startswith(NOT_CHAT))
    return {kind: (kind, sizes) for kind in kinds
            if (sizes := next((sizes for sizes in (OWN.get(kind, {}), *OTHER) if _works(kind, sizes)), None))
            is not None}


def _works(kind: str, sizes: dict) -> bool:
    """这样的大小造得出来，transformers 自己算得了、训练得了。"""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(_config(kind, sizes))
        if sum(weight.numel() for weight in model.parameters()) > LIMIT:
            return False
        model = AutoModelForCausalLM.from_config(_config(kind, sizes))
        ids = torch.arange(300, 318).view(1, -1)
        model(input_ids=ids, labels=ids).loss.backward()
        return model.generate(ids, max_new_tokens=2, do_sample=False).shape[1] > 18
    except Exception:  # 各有各的报错
        return False


def _config(kind: str, sizes: dict):
    tokenizer = build_tokenizer("Qwen3")
    sizes = SHAPE | KINDS.get(kind, {}) | sizes | {"vocab_size": len(tokenizer)}
    return AutoConfig.for_model(
        kind, **{key: size for key, size in sizes.items() if size is not None},
        pad_token_id=0, bos_token_id=0, eos_token_id=tokenizer.eos_token_id)


def write_model(folder: Path, kind: str, sizes: dict) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(kind, sizes))
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):  # 填充符的一行，真的模型里不是零
            module.weight.data[0] = module.weight.data[1]
    model.save_pretrained(folder)
    build_tokenizer("Qwen3").save_pretrained(folder)
    return folder


def write_data(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"conversations": [{"role": "user", "content": "问" * n},
                               {"role": "assistant", "content": f"答{n}。"}]} for n in (1, 9, 4, 20)]
    for name in ("train.json", "dev.json"):
        (folder / name).write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return folder


def check_architecture(case: tuple[str, dict], folder: Path) -> Steps:
    steps, base, data = Steps(), write_model(folder / "base", *case), write_data(folder / "data")

    def train(batch: int):
        return finetune.run(data, str(base), CONFIGS / "lora.yaml", folder / f"out{batch}", resume=False,
                            seed=1, per_device_eval_batch_size=batch, **TRAINING)

    with steps("估算"):
        cli.check(str(base), str(CONFIGS / "lora.yaml"), 64, 0)
    with steps("训练"):
        trained = train(4)
    if steps["训练"] != "正确":
        return steps
    with steps("验证损失"):
        alone = train(1).final_dev_loss
        if abs(alone - trained.final_dev_loss) > 1e-3:
            raise Wrong(f"每批 4 条 {trained.final_dev_loss:.4f}，每批 1 条 {alone:.4f}")
    tuned = PeftModel.from_pretrained(plain(base), trained.adapter)
    return check_use(steps, trained.adapter, plain(base), tuned)


def check_use(steps: Steps, adapter: Path, base, tuned) -> Steps:
    """一个适配器的各种用法；base、tuned 是 transformers 与 peft 自己载入的。"""
    true = logits(base)
    try:
        wanted = logits(tuned.eval())
    except Exception:  # 还要别的输入（任务的编号），或 peft 自己就算不了
        with steps("载入"):
            refused(lambda: loader.load(adapter))
        return steps
    with steps("载入"):
        model, tokenizer = loader.load(adapter)
        same(logits(model), wanted, "与 peft 载入的不同")
    if steps["载入"] != "正确":
        return steps
    with steps("微调前"):
        loader.check_before(model)
        with model.disable_adapter():
            same(logits(model), true, "关掉适配器不是基座")
    with steps("起作用"):
        adapters.check_adapter_alive(model, tokenizer, QUESTIONS[0])
    with steps("回答"):
        check_answers(model, tokenizer)
    with steps("网页"):
        check_page(model, tokenizer)
    with steps("合并"):
        export.merge(adapter, adapter.parent / "merged")
        same(logits(plain(adapter.parent / "merged")), wanted, "合并后不同")
    return steps


def check_answers(model, tokenizer) -> None:
    """一起答、一个一个答、逐段答，都一样。"""
    alone = generate.answer(model, tokenizer, QUESTIONS, max_new_tokens=8, batch_size=1)
    together = generate.answer(model, tokenizer, QUESTIONS, max_new_tokens=8, batch_size=2)
    streamed = [_streamed(model, tokenizer, question) for question in QUESTIONS]
    if not alone == together == streamed:
        raise Wrong(f"单独 {alone}，一起 {together}，逐段 {streamed}")


def _streamed(model, tokenizer, question: str, **options) -> str:
    pieces = generate.stream(model, tokenizer, question, max_new_tokens=8, **options)
    return "".join(piece for piece in pieces if not isinstance(piece, Cut))


def check_page(model, tokenizer) -> None:
    """网页上两个人同时问，微调前后都要，与各答各的相同。"""
    asked = [(question, adapter) for question in QUESTIONS for adapter in (True, False)]
    line, prompts = batching.local(model, tokenizer), {}
    for question in QUESTIONS:
        messages = generate.as_messages(question)
        prompts[question] = Prompt(messages, chat.prompt_ids(tokenizer, messages))
    replies = [line.start(prompts[question], adapter, Stop(), {"max_new_tokens": 8})
               for question, adapter in asked]
    for reply in replies:
        reply.over.wait(60)
    for reply, (question, adapter) in zip(replies, asked, strict=True):
        said, alone = reply.read(), _streamed(model, tokenizer, question, adapter=adapter)
        if said != alone:
            raise Wrong(f"{'微调后' if adapter else '微调前'}的回答 {said!r}，单独是 {alone!r}")


# ---- 适配器 ----

COMMON = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj", "down_proj"], "r": 4,
          "num_virtual_tokens": 4}
TOKENS = list(range(200, 330))
MORE = {
    "IA3": {"feedforward_modules": ["down_proj"]}, "ADALORA": {"total_step": 10, "init_r": 4, "target_r": 4},
    "BOFT": {"boft_block_size": 4}, "OFT": {"oft_block_size": 4, "r": 0}, "C3A": {"block_size": 8},
    "VBLORA": {"num_vectors": 16, "vector_length": 8}, "FOURIERFT": {"n_frequency": 50},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]}, "P_TUNING": {"encoder_hidden_size": 16},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": TOKENS},
    "PREFIX_TUNING": {"prefix_projection": False}, "CPT": {"cpt_token_ids": [300, 301], "cpt_mask": [1, 1],
                                                           "cpt_tokens_type_mask": [1, 2]},
    "ADAPTION_PROMPT": {"adapter_len": 4, "target_modules": None, "adapter_layers": 2},
    "ROAD": {"group_size": 8}, "WAVEFT": {"n_frequency": 50},
    "MULTITASK_PROMPT_TUNING": {"num_tasks": 1}}
# 第一项设置 → 要用的结构，不写的是 qwen3
BASES = {"bias": "qwen2", "layer_replication": "llama", "target_parameters": "qwen3_moe",
         "adapter_len": "llama"}
LORA = {
    "rslora": {"use_rslora": True}, "dora": {"use_dora": True}, "gaussian": {"init_lora_weights": "gaussian"},
    "pissa": {"init_lora_weights": "pissa"}, "pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"}, "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"}, "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True}, "modules_to_save norm": {"modules_to_save": ["norm"]},
    "modules_to_save embed 与 head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "trainable_token_indices": {"trainable_token_indices": {"embed_tokens": TOKENS}},
    "embed 与 head": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "rank_pattern": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    "layers_to_transform": {"layers_to_transform": [1]},
    "layer_replication": {"layer_replication": [[0, 3], [1, 4]]},
    "target_parameters": {"target_parameters": ["mlp.experts.gate_up_proj"], "target_modules": ["q_proj"]},
    "all-linear": {"target_modules": "all-linear"}, "正则": {"target_modules": ".*(q|v)_proj"},
    "alora": {"alora_invocation_tokens": [300]},
    "exclude_modules": {"exclude_modules": ["layers.0.self_attn.q_proj"]}}
ADAPTERS = {f"lora {name}": ("LORA", given) for name, given in LORA.items()} | {
    kind.value.lower(): (kind.value, MORE.get(kind.value, {})) for kind in PEFT_TYPE_TO_CONFIG_MAPPING
    if kind.value not in ("XLORA", "ADAMSS")}  # 要先有几个 LoRA；要 scikit-learn


def adapter_config(kind: str, given: dict) -> PeftConfig:
    made = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    names = {field.name for field in dataclasses.fields(made)}
    return made(**{key: value for key, value in (COMMON | given).items() if key in names})


def check_adapter(case: tuple[str, dict], folder: Path) -> Steps:
    """用 peft 造一个适配器，可训练的都加上噪声，存下来；再看本实验载入的是不是它。"""
    kind, given = case
    steps, base = Steps(), write_model(folder / "base", BASES.get(next(iter(given), ""), "qwen3"), {})
    tuned, adapter = get_peft_model(plain(base), adapter_config(kind, given)).eval(), folder / "a"
    torch.manual_seed(3)
    for weight in tuned.parameters():
        weight.data += 0.1 * torch.randn_like(weight) if weight.requires_grad else 0
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(adapter)
    check_use(steps, adapter, plain(base), tuned)
    if "合并" in steps:
        saved = load_file(adapter / "adapter_model.safetensors")
        name = max(saved)
        with steps("少一个"):
            refused_with({key: saved[key] for key in saved if key != name}, adapter)
        with steps("多一个"):
            refused_with(saved | {name.replace(".0.", ".9.") + ".more": saved[name].clone()}, adapter)
    return steps


def refused_with(weights: dict[str, torch.Tensor], adapter: Path) -> None:
    save_file(weights, adapter / "adapter_model.safetensors", {"format": "pt"})
    refused(lambda: loader.load(adapter))


def refused(work: Callable, *words: str) -> None:
    """work 应当引发写着 words 的 LabError。"""
    try:
        work()
    except LabError as error:
        if missing := [word for word in words if word not in str(error)]:
            raise Wrong(f"没有说到 {missing}：{error}") from error
        return
    raise Wrong("没有拒绝")


# ---- 设置 ----

def _lora(folder: Path, **changes) -> Path:
    """一个普通的 LoRA，adapter_config.json 里改几项。"""
    base = write_model(folder / "base", "qwen3", {})
    tuned = get_peft_model(plain(base), adapter_config("LORA", {"target_modules": ["q_proj", "v_proj"]}))
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(folder / "a")
    path = folder / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    return folder / "a"


def _refuses(*words: str, **changes) -> Callable[[Path], Steps]:
    def case(folder: Path) -> Steps:
        steps = Steps()
        adapter = _lora(folder, **changes)
        with steps("载入"):
            refused(lambda: loader.load(adapter), *words)
        return steps
    return case


def _ends(value, taken: list[int] | None) -> Callable[[Path], Steps]:
    """基座的 generation_config.json 这样写结束符；taken 是应当认的，None 是应当拒绝。"""
    def case(folder: Path) -> Steps:
        steps, base = Steps(), write_model(folder / "base", "qwen3", {})
        (base / "generation_config.json").write_text(json.dumps({"eos_token_id": value}), "utf-8")
        with steps("载入"):
            if taken is None:
                refused(lambda: loader.load(base))
            elif not set(taken) <= set(loader.load(base)[0].generation_config.eos_token_id):
                raise Wrong("没有认基座的结束符")
        return steps
    return case


def _own_template(folder: Path) -> Steps:
    steps, adapter, tokenizer = Steps(), _lora(folder), build_tokenizer("Qwen3")
    tokenizer.chat_template = "{% for m in messages %}{{ '<|own|>' + m.content }}{% endfor %}"
    tokenizer.save_pretrained(adapter)
    with steps("载入"):
        model, used = loader.load(adapter)
        if "<|own|>" not in used.decode(chat.prompt_ids(used, generate.as_messages("问"))):
            raise Wrong("用的是基座的对话模板")
    return steps


def _merged_ends(folder: Path) -> Steps:
    steps, adapter = Steps(), _lora(folder)
    with steps("合并"):
        export.merge(adapter, folder / "m")
        if loader.load(adapter)[0].generation_config.eos_token_id != GenerationConfig.from_pretrained(
                folder / "m").eos_token_id:
            raise Wrong("合并后的结束符不同")
    return steps


SETTINGS = {
    "generation_config 列出几个结束符": _ends([7, 9], [7, 9]), "generation_config 一个结束符": _ends(7, [7]),
    "generation_config 的结束符写成文字": _ends("x", None),
    "结束符写成文字的列表": _ends(["<|im_end|>"], None), "结束符写成小数": _ends(1.5, None),
    "结束符写成 true": _ends(True, None),
    "适配器带自己的对话模板": _own_template, "合并后的结束符": _merged_ends,
    "基座是网上的名字": _refuses("base_model_name_or_path", base_model_name_or_path="nobody/none-bnb-4bit"),
    "基座不在这里": _refuses("base_model_name_or_path", base_model_name_or_path="/nowhere/base"),
    "target_modules 是空的文字": _refuses(target_modules=""), "是空的列表": _refuses(target_modules=[]),
    "target_modules 用逗号连起来": _refuses(target_modules="q_proj,v_proj"),
    "target_modules 少一层": _refuses(target_modules=["q_proj"]),
    "target_modules 多一层": _refuses(target_modules=["q_proj", "k_proj", "v_proj"]),
    "lora_alpha 是文字": _refuses(lora_alpha="x"), "rank_pattern 是 null": _refuses(rank_pattern=None),
    "r 不同": _refuses(r=8),
    "r 是文字": _refuses(r="4"), "peft_type 不认识": _refuses(peft_type="NONE"),
    "init_lora_weights 是 corda": _refuses("corda", init_lora_weights="corda")}
