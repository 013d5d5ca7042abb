"""适配器：官方的 query_key_value 写法与原生写法互换，logits 与 numpy 前向相同；共用 A 与官方是同一个模型。"""

import json
import shutil

import numpy as np
import pytest
import torch
from fakes import chatglm3_fake
from fakes.chat_fakes import write_kind
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PolyConfig,
    PrefixTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from transformers import GlmForCausalLM, LlamaConfig, LlamaForCausalLM

from labutils.base.errors import LabError
from labutils.models import adapters, chatglm3, export, generate, loader
from labutils.training import checkpoints, finetune
from labutils.training.config import Config, override
from labutils.training.finetune import add_lora

pytestmark = pytest.mark.slow

RANK, ALPHA = 4, 16
TOLERANCE = 1e-4
IDS = [5, 700, 31, 2, 9, 801, 64, 8, 333]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(官方文件夹, 官方名字的权重)。"""
    folder = tmp_path_factory.mktemp("official")
    return folder, chatglm3_fake.write(folder, seed=4)


def official_settings(folder, targets, **changes):
    """finetune_demo（peft 0.10）写出的 adapter_config.json。"""
    return {"alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": str(folder),
            "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
            "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
            "loftq_config": {}, "lora_alpha": ALPHA, "lora_dropout": 0.1, "megatron_config": None,
            "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "r": RANK,
            "rank_pattern": {}, "revision": None, "target_modules": targets, "task_type": "CAUSAL_LM",
            "use_dora": False, "use_rslora": False, **changes}


def official_adapter(folder, base, targets=("query_key_value",), kind="safetensors", **changes):
    """写一个官方格式的随机适配器，返回它的权重。"""
    torch.manual_seed(9)
    weights = {}
    for name, tensor in base[1].items():
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module.rpartition(".")[2] in targets:
            rows, columns = tensor.shape
            weights[f"base_model.model.{module}.lora_A.weight"] = torch.randn(RANK, columns) / columns ** 0.5
            weights[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, RANK) * 0.2
    folder.mkdir(exist_ok=True)
    settings = official_settings(base[0], list(targets), **changes)
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    path = folder / f"adapter_model.{kind}"
    save_file(weights, path, {"format": "pt"}) if kind == "safetensors" else torch.save(weights, path)
    return weights


def reference_logits(base, folder=None):
    """numpy 前向；给了官方格式的适配器文件夹，就先把 B·A·alpha/r 加进官方的权重里。"""
    state = {name: tensor.double() for name, tensor in base[1].items()}
    if folder:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "adapter_model.safetensors")
        for name, a in weights.items():
            if ".lora_A." in name:
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                last = module.rpartition(".")[2]
                rank = settings.get("rank_pattern", {}).get(last, settings["r"])
                alpha = settings.get("alpha_pattern", {}).get(last, settings["lora_alpha"])
                assert len(a) == rank
                b = weights[name.replace(".lora_A.", ".lora_B.")]
                state[module + ".weight"] += b.double() @ a.double() * alpha / rank
    return chatglm3_fake.logits(state, chatglm3_fake.config(), IDS)


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize("targets", [
    ("query_key_value",), ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")])
def test_official_adapter_gives_the_official_logits(base, tmp_path, targets):
    official_adapter(tmp_path / "a", base, targets)
    model, _ = loader.load(tmp_path / "a", dtype="float32", device="cpu")
    expected = reference_logits(base, tmp_path / "a")
    assert np.abs(expected - reference_logits(base)).max() > 1  # 适配器确实改变了输出
    assert np.abs(logits(model) - expected).max() <= TOLERANCE
    with model.disable_adapter():
        assert np.abs(logits(model) - reference_logits(base)).max() <= TOLERANCE


def test_official_bin_adapter_loads(base, tmp_path):
    official_adapter(tmp_path / "a", base)
    official_adapter(tmp_path / "b", base, kind="bin")
    one, two = (loader.load(tmp_path / name, dtype="float32", device="cpu")[0] for name in "ab")
    assert np.array_equal(logits(one), logits(two))


def test_there_and_back_is_bit_identical(base, tmp_path):
    config = loader.read_config(base[0])
    weights = official_adapter(tmp_path / "a", base, ("query_key_value", "dense"))
    native = adapters.to_native(weights, config)
    layer = "base_model.model.model.layers.0.self_attn."
    assert native[layer + "k_proj.lora_B.weight"].shape == (16, RANK)
    assert torch.equal(native[layer + "q_proj.lora_A.weight"], native[layer + "v_proj.lora_A.weight"])
    rows = [native[f"{layer}{name}_proj.lora_B.weight"] for name in "qkv"]
    fused = next(name for name in weights if "layers.0" in name and "query_key_value.lora_B" in name)
    assert torch.equal(torch.cat(rows), weights[fused])


def trained(base, folder, **peft):
    """按 peft_config 建一个 B 随机的原生适配器，存到 folder，返回模型。"""
    model, _ = loader.load(base[0], dtype="float32", device="cpu")
    config = Config()
    override(config, {"r": RANK, "lora_alpha": ALPHA, **peft})
    tuned = add_lora(model, config, str(base[0]), seed=3)
    torch.manual_seed(5)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    tuned.save_pretrained(folder, save_embedding_layers=False)
    return tuned.eval()


def sharing(model):
    return [module.q_proj.lora_A["default"].weight is module.k_proj.lora_A["default"].weight
            is module.v_proj.lora_A["default"].weight for module in model.modules()
            if hasattr(module, "q_proj")]


@pytest.mark.parametrize(("peft", "shared"), [
    ({}, True), ({"target_modules": ["query_key_value"]}, True),
    ({"target_modules": ["query_key_value"], "shared_a": False}, False),
    ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, False),
    ({"target_modules": ["q_proj", "k_proj", "v_proj"], "shared_a": True}, True),
    ({"target_modules": ["query_key_value", "dense"]}, True), ({"target_modules": "all-linear"}, False)])
def test_sharing_follows_the_config(base, tmp_path, peft, shared):
    tuned = trained(base, tmp_path / "a", **peft)
    assert sharing(tuned) == [shared, shared]


def test_sharing_needs_the_three_layers(base, tmp_path):
    with pytest.raises(LabError, match="q_proj、k_proj、v_proj 三层"):
        trained(base, tmp_path / "a", target_modules=["q_proj", "v_proj"], shared_a=True)


@pytest.mark.parametrize(("peft", "count"), [
    ({}, 1_949_696), ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, 3_784_704)])
def test_trainable_parameters_at_6b(tmp_path, peft, count):
    """官方 LoRA 在 6B 上是 1,949,696 个参数；不占内存的 meta 设备上数。"""
    raw = chatglm3_fake.config(layers=28, hidden=4096, heads=32, head_dim=128, ffn=13696, vocab=65024)
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    with torch.device("meta"):
        model = GlmForCausalLM(chatglm3.read_config(tmp_path))
    config = override(Config(), peft)
    trainable, _ = finetune.count_parameters(add_lora(model, config, "tiny", seed=1))
    assert trainable == count


def test_shared_step_equals_the_fused_layer(base, tmp_path):
    """一步梯度下降：共用 A 的三层与合成一层的官方做法，A、B 的梯度相同。"""
    tuned = trained(base, tmp_path / "a")
    tuned(input_ids=torch.tensor([IDS]), labels=torch.tensor([IDS])).loss.backward()
    attention = tuned.base_model.model.model.layers[0].self_attn
    a = attention.q_proj.lora_A["default"].weight
    shared = a.grad.clone()
    tuned.zero_grad()
    separate = []
    for name in adapters.QKV:  # 各用一份相同的 A，梯度之和应当等于共用时的梯度
        layer = getattr(attention, name)
        layer.lora_A["default"].weight = torch.nn.Parameter(a.detach().clone())
        separate.append(layer.lora_A["default"].weight)
    tuned(input_ids=torch.tensor([IDS]), labels=torch.tensor([IDS])).loss.backward()
    assert torch.allclose(shared, sum(p.grad for p in separate), atol=1e-6)
    assert not torch.allclose(separate[0].grad, separate[1].grad)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = [{"conversations": [{"role": "user", "content": f"第{n}题？"},
                               {"role": "assistant", "content": f"答案是{n}。"}]} for n in range(12)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for name in ("train.json", "dev.json"):
        (folder / name).write_text(lines, encoding="utf-8")
    (folder / "lora.yaml").write_text(
        "training_args: {max_steps: 4, save_steps: 2, eval_strategy: 'no', logging_steps: 1,"
        " learning_rate: 0.01, per_device_train_batch_size: 2, use_cpu: true}\n"
        "peft_config: {r: 4, lora_dropout: 0.0}\n", encoding="utf-8")
    return folder


def test_training_keeps_a_shared_also_after_resume(base, data, tmp_path):
    """官方文件夹上按官方设置训练；从第 2 步接着训练与一口气训练相同，保存的三份 A 始终相同。"""
    straight = finetune.run(data, str(base[0]), data / "lora.yaml", tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
    resumed = finetune.run(data, str(base[0]), data / "lora.yaml", tmp_path / "resumed", resume=2)
    layers, hidden, rows = 2, 32, (4 + 2 * 2) * 8
    assert straight.trainable_parameters == layers * 4 * (hidden + rows)
    one, two = (load_file(result.adapter / checkpoints.WEIGHTS) for result in (straight, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for name in one:
        if "q_proj.lora_A" in name:
            assert torch.equal(one[name], one[name.replace("q_proj", "v_proj")])
    model, tokenizer = loader.load(straight.adapter, device="cpu")
    assert len(generate.answer(model, tokenizer, ["第3题？"], max_new_tokens=4)) == 1


@pytest.mark.parametrize(("changes", "words"), [
    ({"use_dora": True}, "use_dora"), ({"modules_to_save": ["x"]}, "modules_to_save"),
    ({"bias": "all"}, "bias"), ({"peft_type": "PREFIX_TUNING"}, "peft_type")])
def test_unusual_official_adapter_is_refused(base, tmp_path, changes, words):
    official_adapter(tmp_path / "a", base, **changes)
    with pytest.raises(LabError, match=words):
        loader.load(tmp_path / "a")


def test_official_adapter_needs_a_chatglm3_base(base, tmp_path, tmp_path_factory):
    other = tmp_path / "other"
    chatglm3_fake.write(other, layers=3)
    official_adapter(tmp_path / "a", base)
    retarget(tmp_path / "a", other)
    with pytest.raises(LabError, match="对不上"):
        loader.load(tmp_path / "a")
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=832, hidden_size=32, intermediate_size=48,
                                         num_hidden_layers=2, num_attention_heads=4))
    with pytest.raises(LabError, match="却不是 ChatGLM3"):
        adapters.load(llama, tmp_path / "a")


def retarget(folder, base):
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": str(base)}
    path.write_text(json.dumps(settings), encoding="utf-8")


def test_moved_base_is_explained(base, tmp_path):
    official_adapter(tmp_path / "a", base)
    retarget(tmp_path / "a", "/root/models/chatglm3-6b")
    with pytest.raises(LabError, match="不在这台机器上.*base_model_name_or_path"):
        loader.load(tmp_path / "a")


def test_damaged_official_adapter(base, tmp_path):
    official_adapter(tmp_path / "a", base)
    path = tmp_path / "a" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(LabError, match="损坏"):
        loader.load(tmp_path / "a")


@pytest.mark.parametrize("change", [
    lambda weights: {n: t for n, t in weights.items() if ".layers.0." in n},
    lambda weights: {n.replace(".layers.1.", ".blocks.1."): t for n, t in weights.items()}])
def test_native_adapter_with_missing_layers(base, tmp_path, change):
    trained(base, tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    with pytest.raises(LabError, match=r"应有 12 个权重，少了 6 个，例如 .*layers\.1\."):
        loader.load(tmp_path / "a")


def test_surplus_weights_are_refused_not_dropped(base, tmp_path):
    """六层模型的适配器套在四层的上，peft 不说一声就只用四层。"""
    trained(base, tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    weights = load_file(path)
    more = {name.replace(".layers.1.", ".layers.2."): weight.clone() for name, weight in weights.items()}
    save_file(more | weights, path, {"format": "pt"})
    with pytest.raises(LabError, match=r"应有 12 个权重，多出 6 个，例如 .*layers\.2\."):
        loader.load(tmp_path / "a")


@pytest.mark.parametrize(("names", "official"), [
    (["transformer.encoder.layers.0.self_attention.query_key_value"], True),
    (["transformer.h.0.self_attention.query_key_value"], False),  # Falcon
    (["gpt_neox.layers.0.attention.query_key_value", "gpt_neox.layers.0.mlp.dense_h_to_4h"], False),
    (["model.layers.0.self_attn.dense"], False), (["model.layers.0.self_attn.q_proj"], False)])
def test_the_names_of_the_weights_tell_who_wrote_them(names, official):
    assert adapters.is_official(f"base_model.model.{name}.lora_A.weight" for name in names) == official


@pytest.mark.parametrize(("kind", "settings", "changed"), [
    ("qwen2", {"init_lora_weights": "pissa"}, True), ("qwen2", {"init_lora_weights": "olora"}, True),
    ("qwen2", {"bias": "lora_only"}, True), ("qwen2", {"bias": "all"}, True),
    ("qwen3", {"bias": "all"}, False),  # 没有偏置可训练
    ("qwen2", {"init_lora_weights": "gaussian"}, False), ("qwen2", {"use_rslora": True}, False),
    ("qwen2", {"use_dora": True}, False), ("qwen2", {"modules_to_save": ["norm"]}, False),
    ("llama", {"layer_replication": [[0, 3], [2, 6]]}, True)])
def test_before_is_offered_only_where_switching_off_gives_the_base(tmp_path, kind, settings, changed):
    folder = write_kind(tmp_path / "base", kind)
    plain, _ = loader.load(folder)
    peft = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], **settings)
    tuned = get_peft_model(loader.load(folder)[0], peft)
    torch.manual_seed(3)
    for weight in tuned.parameters():
        weight.data += 0.1 * torch.randn_like(weight) if weight.requires_grad else 0
    tuned.peft_config["default"].base_model_name_or_path = str(folder)
    tuned.eval().save_pretrained(tmp_path / "a")
    again, _ = loader.load(tmp_path / "a")
    assert np.abs(small_logits(again) - small_logits(tuned)).max() <= TOLERANCE
    with again.disable_adapter():
        off = np.abs(small_logits(again) - small_logits(plain)).max()
    assert (off > 100 * TOLERANCE) == changed
    if changed:
        with pytest.raises(LabError, match="关掉以后不是微调前的模型.*重新训练"):
            loader.check_before(again)
    else:
        loader.check_before(again)


def small_logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 20)[None]).logits[0].numpy()


def saved_by_peft(base, folder, config):
    """peft 自己存的适配器，可训练的权重都不是零。"""
    tuned = get_peft_model(loader.load(base)[0], config)
    torch.manual_seed(3)
    for weight in tuned.parameters():
        weight.data += 0.1 * torch.randn_like(weight) if weight.requires_grad else 0
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(folder)
    return tuned.eval()


@pytest.mark.parametrize("config", [
    LoHaConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]),
    IA3Config(task_type="CAUSAL_LM", target_modules=["v_proj"], feedforward_modules=[]),
    PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)])
def test_other_adapters_work_and_are_checked_without_b(tmp_path, config):
    base = write_kind(tmp_path / "base", "qwen3")
    tuned = saved_by_peft(base, tmp_path / "a", config)
    model, tokenizer = loader.load(tmp_path / "a")
    assert np.abs(small_logits(model) - small_logits(tuned)).max() <= TOLERANCE
    assert "适配器在工作：对“你好”" in adapters.check_adapter_alive(model, tokenizer, "你好")
    loader.check_before(model)
    path = tmp_path / "a" / "adapter_model.safetensors"
    weights = load_file(path)
    weights[min(weights)].view(-1)[0] = float("nan")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(LabError, match="适配器 .* 里有 nan"):
        loader.load(tmp_path / "a")


def test_an_adapter_that_wants_more_than_words_is_refused(tmp_path):
    base = write_kind(tmp_path / "base", "qwen3")
    poly = PolyConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], n_tasks=2)
    saved_by_peft(base, tmp_path / "a", poly)
    with pytest.raises(LabError, match="对不上：task_ids"):
        loader.load(tmp_path / "a")


@pytest.mark.parametrize("wrong", [
    {"r": "4"}, {"r": None}, {"lora_alpha": "x"}, {"rank_pattern": None}, {"rank_pattern": [1]},
    {"target_modules": ""}, {"target_modules": "q_proj,v_proj"}, {"target_modules": 5},
    {"peft_type": "NONE"}])
def test_unreadable_settings_of_an_adapter_are_one_sentence(base, tmp_path, wrong):
    trained(base, tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | wrong), encoding="utf-8")
    with pytest.raises(LabError, match="对不上：.*请用训练时的同一个基座"):
        loader.load(tmp_path / "a")


@pytest.mark.parametrize("init", ["pissa_niter_4", "corda", "lora_ga"])
def test_an_adapter_whose_residual_base_is_lost_is_refused(base, tmp_path, init):
    trained(base, tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"init_lora_weights": init}
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(LabError, match=f"用 {init} 初始化，.*再也算不出来"):
        loader.load(tmp_path / "a")


def test_broken_numbers_in_an_adapter(base, tmp_path):
    weights = official_adapter(tmp_path / "a", base)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, tmp_path / "a" / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(LabError, match="适配器 .* 里有 nan"):
        loader.load(tmp_path / "a")


def test_merged_official_adapter(base, tmp_path):
    official_adapter(tmp_path / "a", base)
    export.merge(tmp_path / "a", tmp_path / "merged")
    model, _ = loader.load(tmp_path / "merged", device="cpu")
    assert np.abs(logits(model) - reference_logits(base, tmp_path / "a")).max() <= TOLERANCE


def test_saved_keys_are_those_peft_expects(base, tmp_path):
    tuned = trained(base, tmp_path / "a")
    saved = load_file(tmp_path / "a" / "adapter_model.safetensors")
    expected = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    assert saved.keys() == expected.keys() and len(saved) == 2 * 3 * 2
