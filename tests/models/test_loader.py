"""加载:设备与精度的选择、各种坏文件夹的一句话说明、适配器。"""

import json
import shutil

import pytest
import torch
from fakes.chat_fakes import write_kind
from peft import LoraConfig, get_peft_model

from labutils.base.errors import LabError
from labutils.models import loader


@pytest.fixture(scope="module")
def adapter(toy_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoint-1"
    model, _ = loader.load(toy_base)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    tuned.save_pretrained(folder)
    return folder


def test_loads_a_folder_in_eval_mode_and_requested_dtype(toy_base):
    model, tokenizer = loader.load(toy_base, dtype="bfloat16")
    assert model.dtype == torch.bfloat16 and not model.training
    assert tokenizer.padding_side == "left" and tokenizer.pad_token_id == 0


def test_default_dtype_on_cpu_is_fp32_even_for_bf16_weights(toy_base):
    model, _ = loader.load(toy_base, device="cpu")
    assert model.dtype == torch.float32


def test_device_choice_comes_with_a_reason():
    device, dtype, reason = loader.pick_device_dtype(device="cpu")
    assert (device.type, dtype) == ("cpu", torch.float32) and "fp32" in reason
    assert "参数指定" in loader.pick_device_dtype(dtype="bfloat16", device="cpu")[2]


def test_adapter_folder_gives_a_peft_model(adapter):
    model, _ = loader.load(adapter)
    assert hasattr(model, "disable_adapter") and not model.training


def rewrite(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_a_name_that_is_neither_folder_nor_found_online_says_both(adapter, tmp_path, monkeypatch):
    """网上取不到时两种可能都说；是适配器记着的基座，还说怎样改成本机的文件夹。"""
    monkeypatch.setattr(loader, "_go_online", lambda: None)
    copy = shutil.copytree(adapter, tmp_path / "checkpoint-9")
    rewrite(copy, "adapter_config.json", base_model_name_or_path="unsloth/no-such-model-bnb-4bit")
    for name in ("unsloth/no-such-model-bnb-4bit", copy):
        with pytest.raises(LabError, match="本机没有这个文件夹.*网络.*base_model_name_or_path"):
            loader.load(name)


def test_a_whole_model_in_a_checkpoint_folder_is_no_adapter(toy_base, tmp_path):
    whole = shutil.copytree(toy_base, tmp_path / "checkpoint-500")
    assert not hasattr(loader.load(whole)[0], "peft_config")


def test_quantized_weights_without_their_library_are_one_sentence(toy_base, tmp_path):
    broken = shutil.copytree(toy_base, tmp_path / "broken")
    rewrite(broken, "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(LabError, match="加载模型 .* 失败：.*optimum"):
        loader.load(broken)


@pytest.mark.parametrize("change", ["none", "template", "no template", "one more token", "many more"])
def test_an_adapter_that_brings_its_own_tokenizer(tmp_path, capsys, change):
    """有的训练工具连分词器一起存：模板不同就用它的，并说一句；词元比基座的多，说出原因。"""
    base = write_kind(tmp_path / "base", "qwen3", vocab_size=340)
    model, tokenizer = loader.load(base)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    tuned.save_pretrained(tmp_path / "a")
    template, other = tokenizer.chat_template, "{% for m in messages %}甲{% endfor %}"
    if "template" in change:
        tokenizer.chat_template = None if change == "no template" else other
    tokenizer.add_tokens([f"<新{i}>" for i in range({"one more token": 1, "many more": 9}.get(change, 0))])
    tokenizer.save_pretrained(tmp_path / "a")
    if change == "many more":
        with pytest.raises(LabError, match="分词器有 345 个词元，超过模型词表的 340.*训练时加了词元"):
            loader.load(tmp_path / "a")
        return
    _, own = loader.load(tmp_path / "a")
    assert ("带着自己的分词器" in capsys.readouterr().out) == (change in ("template", "one more token"))
    assert own.chat_template == (other if change == "template" else template)
    assert len(own) == 336 + (change == "one more token") and own.padding_side == "left"


@pytest.mark.parametrize("name", [
    "models/chatglm3-6b", "没有这个模型", "./nope", "output/none/checkpoint-3", "/nope/x"])
def test_missing_folder_is_named(name):
    with pytest.raises(LabError, match="找不到模型文件夹") as caught:
        loader.load(name)
    assert name in str(caught.value)


def test_folder_without_config(tmp_path):
    with pytest.raises(LabError, match=r"config\.json"):
        loader.load(tmp_path)


def test_adapter_without_config_is_explained(adapter, tmp_path):
    broken = shutil.copytree(adapter, tmp_path / "checkpoint-9")
    (broken / "adapter_config.json").unlink()
    with pytest.raises(LabError, match=r"adapter_config\.json 读不懂（没有这个文件"):
        loader.load(broken)


def test_adapter_without_weights_is_explained(adapter, tmp_path):
    broken = shutil.copytree(adapter, tmp_path / "checkpoint-9")
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(LabError, match=r"adapter_model\.safetensors"):
        loader.load(broken)


def test_adapter_with_damaged_config(adapter, tmp_path):
    broken = shutil.copytree(adapter, tmp_path / "checkpoint-9")
    (broken / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(LabError, match="读不懂"):
        loader.load(broken)


def test_adapter_of_another_base_is_refused(adapter, tmp_path, toy_base):
    from tools.tiny_base.recipe import Recipe, build_model, export
    from tools.tiny_base.vocab import build_tokenizer

    recipe = Recipe(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                    num_attention_heads=2, num_key_value_heads=1)
    export(tmp_path / "other", build_model(recipe, build_tokenizer()), build_tokenizer(), recipe, 0)
    wrong = shutil.copytree(adapter, tmp_path / "checkpoint-9")
    config = json.loads((wrong / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(tmp_path / "other")
    (wrong / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(LabError, match="对不上"):
        loader.load(wrong)


def test_recorded_base_is_looked_up_from_the_repository(adapter, tmp_path, monkeypatch):
    """适配器里记的路径相对仓库根目录；当前文件夹里碰巧有同名的，不能拿来当基座。"""
    for folder in (tmp_path / "root" / "base", tmp_path / "here" / "base"):
        folder.mkdir(parents=True)
    copy = shutil.copytree(adapter, tmp_path / "checkpoint-9")
    settings = json.loads((copy / "adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = "base"
    (copy / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    monkeypatch.setattr(loader, "ROOT", tmp_path / "root")
    monkeypatch.chdir(tmp_path / "here")
    assert loader.adapter_base(copy) == str(tmp_path / "root" / "base")


def test_adapter_error_without_words_is_still_one_sentence(adapter, monkeypatch):
    def fail(*args):
        raise RuntimeError(" ")

    monkeypatch.setattr("labutils.models.adapters.load", fail)
    with pytest.raises(LabError, match="对不上：RuntimeError。"):
        loader.load(adapter)


def test_memory_that_runs_out_while_the_adapter_is_put_on_is_said(adapter, monkeypatch):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("labutils.models.adapters.load", fail)
    with pytest.raises(LabError, match="显存或内存放不下"):
        loader.load(adapter)


def test_damaged_weights_give_one_sentence(toy_base, tmp_path):
    broken = shutil.copytree(toy_base, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises((LabError), match="加载模型"):
        loader.load(broken)


@pytest.mark.parametrize(("kind", "device", "words"), [
    ("8bit", "cpu", "只能是 4bit"), ("4bit", "cpu", "要有 NVIDIA 显卡"), ("4bit", "cuda", "pip install")])
def test_quantization_that_cannot_work_is_explained(toy_base, monkeypatch, kind, device, words):
    monkeypatch.setattr(loader, "find_spec", lambda name: None)
    with pytest.raises(LabError, match=words):
        loader.load(toy_base, dtype="float32", device=device, quantization=kind)


def test_quantization_settings_of_qlora(monkeypatch):
    """NF4、双重量化；计算用所选的精度。"""
    monkeypatch.setattr(loader, "find_spec", lambda name: "有")
    options = loader._quantization("4bit", torch.bfloat16, torch.device("cuda"))
    settings = options["quantization_config"]
    assert settings.load_in_4bit and settings.bnb_4bit_quant_type == "nf4"
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16 and settings.bnb_4bit_use_double_quant


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
@pytest.mark.parametrize("place", ["to", "from_pretrained"])
def test_too_little_memory_is_said(toy_base, adapter, monkeypatch, error, place):
    def fail(*_, **__):
        raise error

    target = loader.AutoModelForCausalLM if place == "from_pretrained" else torch.nn.Module
    monkeypatch.setattr(target, place, fail)
    for folder in (toy_base, adapter):
        with pytest.raises(LabError, match="显存或内存放不下"):
            loader.load(folder)


def test_unknown_dtype_is_explained(toy_base):
    with pytest.raises(LabError, match="没有叫 fp77 的精度"):
        loader.load(toy_base, dtype="fp77")


def test_weights_missing_a_tensor_are_refused(toy_base, tmp_path):
    """transformers 只会提醒一句然后随机初始化。"""
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(toy_base, tmp_path / "broken")
    state = load_file(broken / "model.safetensors")
    del state["model.layers.1.mlp.down_proj.weight"]
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(LabError, match=r"缺少 1 个张量，例如 model\.layers\.1\.mlp\.down_proj"):
        loader.load(broken)


def test_tokenizer_of_a_larger_model_is_refused(toy_base, tmp_path):
    from tools.tiny_base.recipe import Recipe, build_model

    class Small:
        def __len__(self):
            return 128

        def convert_tokens_to_ids(self, tokens):
            return []

    broken = shutil.copytree(toy_base, tmp_path / "broken")
    recipe = Recipe(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                    num_attention_heads=2, num_key_value_heads=1)
    build_model(recipe, Small()).save_pretrained(broken)
    with pytest.raises(LabError, match="不是同一个模型的分词器"):
        loader.load(broken)


def test_missing_shard_and_lfs_pointer_of_any_model(toy_base, tmp_path):
    broken = shutil.copytree(toy_base, tmp_path / "broken")
    pointer = "version https://git-lfs.github.com/spec/v1\n"
    (broken / "model.safetensors").write_text(pointer, encoding="utf-8")
    with pytest.raises(LabError, match="git-lfs"):
        loader.load(broken)
    (broken / "model.safetensors").unlink()
    (broken / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}), encoding="utf-8")
    with pytest.raises(LabError, match="model-00001-of-00002.safetensors"):
        loader.load(broken)


@pytest.mark.parametrize(("file", "wrong"), [
    ("config.json", {"hidden_size": "x"}), ("config.json", {"num_attention_heads": 0}),
    ("config.json", {"rope_parameters": "x"}), ("config.json", {"model_type": ["glm"]}),
    ("config.json", {"pad_token_id": 10**6}), ("config.json", {"dtype": "bad"}),
    ("generation_config.json", {"max_new_tokens": "a"}), ("generation_config.json", {"eos_token_id": "</s>"}),
    ("generation_config.json", None), ("tokenizer_config.json", {"eos_token": 5}),
    ("tokenizer_config.json", None), ("tokenizer.json", {"model": 5}), ("tokenizer.json", None)])
def test_whatever_is_unreadable_in_a_model_is_one_sentence(toy_base, tmp_path, file, wrong):
    """别的库读不懂时，TypeError、ZeroDivisionError、AssertionError 什么都有。"""
    folder = tmp_path / "m"
    shutil.copytree(toy_base, folder)
    values = json.loads((folder / file).read_text(encoding="utf-8")) if wrong else []
    (folder / file).write_text(json.dumps(values | wrong if wrong else "[]"), encoding="utf-8")
    with pytest.raises(LabError, match="请|改正"):
        loader.load(folder, device="cpu")


def test_config_alone_can_be_read(toy_base):
    assert loader.read_config(toy_base).num_hidden_layers == 2
    assert loader.read_config("tiny").model_type == "glm"
    with pytest.raises(LabError, match="找不到模型文件夹"):
        loader.read_config("./没有")
