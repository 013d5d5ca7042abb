"""merge：写出的文件夹用普通的 transformers 读得出、结果相同；出错时什么也不留下。"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fakes import chatglm3_fake
from fakes.chat_fakes import write_checkpoint
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from labutils.base.errors import LabError
from labutils.lab import cli
from labutils.models import chat, export, loader

pytestmark = pytest.mark.slow

MESSAGES = [{"role": "user", "content": "你好，<|assistant|> 是什么？"}]


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    chatglm3_fake.write(folder, shards=3, rope_ratio=50, dtype=torch.float16)
    return folder


def adapt(base, folder, targets="all-linear"):
    """在 base 上造一个 B 不为零的适配器，存到 folder。"""
    model, _ = loader.load(base, dtype="float32", device="cpu")
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets))
    torch.manual_seed(1)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def adapter(official, tmp_path_factory):
    return adapt(official, tmp_path_factory.mktemp("run") / "checkpoint-5")


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0].float()


def test_merged_folder_is_read_by_older_programs_too(official, adapter, tmp_path):
    """4.57 只认平铺的旋转位置键，也不认 5.x 的分词器写法；文件里不留机器路径，谁都能读。"""
    export.merge(adapter, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert (config["rope_theta"], config["partial_rotary_factor"]) == (500000.0, 0.5)
    assert (config["model_type"], config["dtype"], config["rms_norm_eps"]) == ("glm", "float16", 1e-5)
    saved = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "<|user|>" in saved["additional_special_tokens"] and "extra_special_tokens" not in saved
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (tmp_path / "out").iterdir())
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("*.json")]
    assert not any(str(official) in text or "auto_map" in text for text in texts)
    assert len(GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id) == 3
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not any(name.endswith((".py", ".bin", ".model")) for name in names)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_merged_folder_equals_base_plus_adapter(adapter, tmp_path, dtype):
    message = export.merge(adapter, tmp_path / "merged", dtype)
    assert "核对过" in message
    tuned, tokenizer = loader.load(adapter, dtype="float32", device="cpu")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == (torch.float32 if dtype else torch.float16)
    ids = chat.prompt_ids(tokenizer, MESSAGES)
    assert chat.prompt_ids(AutoTokenizer.from_pretrained(tmp_path / "merged"), MESSAGES) == ids
    with_adapter, result = logits(tuned, ids), logits(merged.float(), ids)
    with tuned.disable_adapter():
        without = logits(tuned, ids)
    assert (with_adapter - without).abs().max() > 1  # 适配器确实改变了输出
    assert (with_adapter - result).abs().max() < (1e-4 if dtype else 0.1)
    assert "mlp.gate_up_proj" in " ".join(merged.state_dict())


def test_merged_folder_stops_where_the_lab_stops(tmp_path):
    """基座的 generation_config 只知道一个结束符，还带着惩罚；合并写出的是实验室真正用的。"""
    write_checkpoint(tmp_path / "base", "Llama 3")
    own = {"eos_token_id": 1, "repetition_penalty": 1.5, "num_beams": 2, "max_new_tokens": 99,
           "do_sample": False, "temperature": 0.6}  # 后两项互相矛盾，照原样写 transformers 会拒绝
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(own), encoding="utf-8")
    model, tokenizer = loader.load(tmp_path / "base", device="cpu")
    export.merge(adapt(tmp_path / "base", tmp_path / "checkpoint-1"), tmp_path / "merged")
    config = GenerationConfig.from_pretrained(tmp_path / "merged")
    assert tokenizer.convert_ids_to_tokens(config.eos_token_id) == ["<|end_of_text|>", "<|eot_id|>"]
    assert config.eos_token_id == model.generation_config.eos_token_id
    assert (config.repetition_penalty, config.num_beams, config.max_new_tokens) == (None, None, 99)


def test_merge_works_for_the_tiny_architecture(toy_base, tmp_path):
    adapter = adapt(toy_base, tmp_path / "checkpoint-1")
    export.merge(adapter, tmp_path / "merged")
    model, tokenizer = loader.load(tmp_path / "merged", device="cpu")
    assert chat.is_glm_format(tokenizer)


@pytest.mark.parametrize("settings", [
    PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], alora_invocation_tokens=[3]),
    LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], layer_replication=[[0, 2], [0, 2]]),
    LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["o_proj"], lora_bias=True)])
def test_what_cannot_be_merged_is_one_sentence(toy_base, tmp_path, settings):
    tuned = get_peft_model(loader.load(toy_base)[0], settings)
    tuned.peft_config["default"].base_model_name_or_path = str(toy_base)
    tuned.save_pretrained(tmp_path / "a")
    with pytest.raises(LabError, match="适配器，合并不进基座（.*请直接用适配器文件夹"):
        export.merge(tmp_path / "a", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_merge_refuses_a_result_that_differs(adapter, tmp_path, monkeypatch):
    """写坏了的权重读回来就会发现，而且什么也不留下。"""
    real = AutoModelForCausalLM.from_pretrained

    def spoiled(*args, **kwargs):
        model = real(*args, **kwargs)
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.weight.mul_(3)
        return model

    monkeypatch.setattr(export.AutoModelForCausalLM, "from_pretrained", spoiled)
    with pytest.raises(LabError, match="logits 与合并前不同"):
        export.merge(adapter, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_not_enough_space_is_known_before_writing(adapter, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(LabError, match="磁盘空间不够"):
        export.merge(adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="没有 /dev/full")
def test_a_real_full_device_leaves_nothing(adapter, tmp_path, monkeypatch):
    """/dev/full 的每次写入都真的报磁盘满。"""
    monkeypatch.setattr(export, "_write_plain", lambda *args: Path("/dev/full").write_bytes(b"x" * 9999))
    with pytest.raises(LabError, match="磁盘满了"):
        export.merge(adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_merge_leaves_nothing(adapter, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_write_plain", stop)
    with pytest.raises(KeyboardInterrupt):
        export.merge(adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_leftover_of_a_killed_run_is_replaced(adapter, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "half.safetensors").write_bytes(b"x")
    export.merge(adapter, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "half.safetensors").exists()


def test_existing_output_is_never_overwritten(adapter, tmp_path):
    (tmp_path / "note.txt").write_text("重要", encoding="utf-8")
    with pytest.raises(LabError, match="已经有内容"):
        export.merge(adapter, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("source", ["tiny", "没有这个"])
def test_wrong_kind_of_source(tmp_path, source):
    with pytest.raises(LabError, match="不是适配器"):
        export.merge(source, tmp_path / "out")


def test_unknown_dtype_is_explained(adapter, tmp_path):
    with pytest.raises(LabError, match="没有叫 float7 的精度"):
        export.merge(adapter, tmp_path / "out", "float7")


def test_unwritable_place_is_explained(adapter, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LabError, match="不能读写 .*out"):
        export.merge(adapter, tmp_path / "file" / "out")


def test_command(adapter, tmp_path):
    arguments = ["merge", str(adapter), str(tmp_path / "merged"), "--dtype", "float32"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0 and "核对过" in done.output
    assert (tmp_path / "merged" / "config.json").is_file()
