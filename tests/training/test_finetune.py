"""微调：真的训练一个玩具模型，检查损失下降、结果文件、适配器和各种报错。

末尾：两个进程一起训练，只有一个写文件、打印一遍，总批量相同时结果与一个进程相同。
"""

import errno
import json
import math
import os
import shutil
from itertools import product

import pytest
import torch
import yaml
from fakes.chat_fakes import write_kind
from safetensors import SafetensorError
from safetensors.torch import load_file

from labutils.base import files
from labutils.base.errors import LabError
from labutils.models import adapters, chat, loader
from labutils.training import callbacks, finetune, trainer
from labutils.training.checkpoints import explained
from labutils.training.config import load_config

pytestmark = pytest.mark.slow

CONFIG = """\
dtype: fp32
max_input_length: 64
max_output_length: 32
training_args:
  max_steps: 12
  learning_rate: 1e-2
  per_device_train_batch_size: 4
  logging_steps: 4
  eval_steps: 6
  save_steps: 6
  use_cpu: true
peft_config:
  r: 4
  lora_alpha: 8
  lora_dropout: 0.0
  target_modules: all-linear
"""
ONE_BY_ONE = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}


def conversation(question, answer):
    return {"conversations": [{"role": "user", "content": question},
                              {"role": "assistant", "content": answer}]}


def write_lines(path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def lab(tmp_path):
    """一个小实验的文件：数据文件夹、配置、还不存在的输出文件夹。"""
    data = tmp_path / "data"
    data.mkdir()
    write_lines(data / "train.json", [conversation(f"第{i}条是什么？", f"是{i}") for i in range(8)])
    write_lines(data / "dev.json", [conversation(f"请问第{i}条？", f"是{i}") for i in range(3)])
    (tmp_path / "lora.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def train(lab, base, **options):
    options.setdefault("output_dir", lab / "out")
    return finetune.run(lab / "data", base, lab / "lora.yaml", **options)


def test_without_a_folder_the_result_stays_where_one_works(lab, toy_base, monkeypatch):
    """在仓库外面执行、又没有说放哪里：放在当前文件夹的 output 里。"""
    monkeypatch.chdir(lab)
    result = finetune.run("data", toy_base, "lora.yaml", max_steps=2)
    assert result.adapter.resolve() == (lab / "output" / "lora" / "checkpoint-2").resolve()


def test_a_run_leaves_what_the_next_notebooks_read(lab, toy_base):
    result = train(lab, toy_base)
    out = lab / "out"
    assert result.adapter == out / "checkpoint-12" and result.steps == 12
    assert (out / "loss.png").stat().st_size > 5000
    saved = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert saved["final_train_loss"] == result.final_train_loss == result.log[-2]["loss"]
    assert saved["final_dev_loss"] == result.final_dev_loss == result.log[-1]["eval_loss"]
    assert (files.ROOT / saved["adapter"]).resolve() == result.adapter
    assert result.samples_per_second > 0
    losses = [row["loss"] for row in result.log if "loss" in row]
    assert losses[-1] < losses[0]


def test_find_or_train_trains_only_when_there_is_nothing_to_use(lab, toy_base, monkeypatch, capsys):
    monkeypatch.setattr(files, "CONFIGS", lab)
    arguments = (lab / "out", lab / "data", toy_base, 42)
    with pytest.raises(LabError, match="找不到可用的适配器"):  # 点名的不能用，不悄悄换成别的
        finetune.find_or_train(str(lab / "别处"), *arguments)
    assert not (lab / "out").exists()
    trained = finetune.find_or_train("", *arguments)
    assert trained == lab / "out/checkpoint-12" and "现在用默认配置训练一个" in capsys.readouterr().out
    monkeypatch.setattr(finetune, "run", None)  # 有了就不再训练
    assert finetune.find_or_train("", *arguments) == trained
    assert finetune.find_or_train(str(trained), *arguments) == trained


def test_log_has_the_right_steps(lab, toy_base):
    log = train(lab, toy_base).log
    assert [row["step"] for row in log if "loss" in row] == [4, 6, 8, 12]
    assert [row["step"] for row in log if "eval_loss" in row] == [0, 6, 12]
    assert all(math.isfinite(row.get("loss", 0)) for row in log)


def test_trainable_share_matches_the_formula(lab, toy_base):
    result = train(lab, toy_base, max_steps=1)
    base, _ = loader.load(toy_base)
    linear = [m for name, m in base.named_modules()
              if isinstance(m, torch.nn.Linear) and "lm_head" not in name]
    expected = sum(4 * (m.in_features + m.out_features) for m in linear)
    assert result.trainable_parameters == expected
    assert result.total_parameters == expected + sum(p.numel() for p in base.parameters())


def test_adapter_names_the_base_relatively_and_leaves_no_machine_path(lab, toy_base):
    adapter = train(lab, toy_base, max_steps=2).adapter
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    name = config["base_model_name_or_path"]
    assert not name.startswith("/") and (files.ROOT / name).resolve() == toy_base.resolve()
    for path in adapter.iterdir():
        assert str(lab).encode() not in path.read_bytes(), path.name
    assert not (adapter / "README.md").exists() and not (adapter / "training_args.bin").exists()


def test_adapter_loads_and_is_alive(lab, toy_base):
    adapter = train(lab, toy_base).adapter
    model, tokenizer = loader.load(adapter)
    verdict = adapters.check_adapter_alive(model, tokenizer, "第1条是什么？")
    assert "适配器在工作" in verdict and "第1条是什么？" in verdict


def test_dead_adapters_are_reported_with_the_reason(lab, toy_base):
    base, tokenizer = loader.load(toy_base)
    with pytest.raises(LabError, match="没有挂适配器"):
        adapters.check_adapter_alive(base, tokenizer, "你好")
    model = finetune.add_lora(base, load_config(lab / "lora.yaml"), "toy", seed=1)
    with pytest.raises(LabError, match="B 矩阵全是零"):
        adapters.check_adapter_alive(model, tokenizer, "你好")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
        if "lora_A" in name:
            torch.nn.init.zeros_(parameter)
    with pytest.raises(LabError, match="开与关的预测完全一样"):
        adapters.check_adapter_alive(model, tokenizer, "你好")


def test_same_seed_same_adapter_other_seed_other_adapter(lab, toy_base):
    first, second, other = (
        load_file(train(lab, toy_base, output_dir=lab / name, max_steps=3, seed=seed).adapter
                  / "adapter_model.safetensors")
        for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_number_of_cores_changes_no_bit(lab, toy_base):
    usual, adapters_of = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        result = train(lab, toy_base, output_dir=lab / str(count), max_steps=3, neftune_noise_alpha=5)
        assert torch.get_num_threads() == count  # 用完还回来
        adapters_of.append(load_file(result.adapter / "adapter_model.safetensors"))
    torch.set_num_threads(usual)
    assert all(torch.equal(adapters_of[0][key], adapters_of[1][key]) for key in adapters_of[0])


def test_trainable_weights_are_fp32_even_on_a_bf16_base(lab, toy_base):
    adapter = train(lab, toy_base, max_steps=2, dtype="bf16", gradient_checkpointing=True).adapter
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_gradient_checkpointing_and_accumulation_change_nothing_but_memory(lab, toy_base):
    plain = train(lab, toy_base, output_dir=lab / "a", max_steps=3)
    frugal = train(lab, toy_base, output_dir=lab / "b", max_steps=3, gradient_checkpointing=True,
                   per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert frugal.final_train_loss == pytest.approx(plain.final_train_loss, abs=1e-4)


def test_epochs_decide_the_steps_when_max_steps_is_off(lab, toy_base):
    assert train(lab, toy_base, max_steps=-1, num_train_epochs=1.5).steps == 3  # 1.5 × 8 ÷ 4


def test_evaluation_can_be_switched_off(lab, toy_base):
    result = train(lab, toy_base, max_steps=2, eval_strategy="no")
    assert result.final_dev_loss is None and "没有评测" in str(result)


def test_truncated_rows_are_announced(lab, toy_base, capsys):
    write_lines(lab / "data" / "train.json",
                [conversation("问", "答" * 500), conversation("问？", "答")])
    train(lab, toy_base, max_steps=1)
    assert "2 条，其中 1 条超过 97 个 token" in capsys.readouterr().out


def test_keys_without_effect_are_announced(lab, toy_base, capsys):
    train(lab, toy_base, max_steps=1, num_proc=16)
    assert "num_proc 不起作用" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "text", "words"), [
    ("dev.json", "", ["dev.json"]),
    ("train.json", "", ["train.json"]),
    ("train.json", '{"conversations": []}\n', ["train.json", "第 1 行"]),
    ("train.json", json.dumps(conversation("问", "答")) + "\n{坏的\n", ["train.json", "第 2 行"]),
])
def test_bad_data_is_named(lab, toy_base, name, text, words):
    (lab / "data" / name).write_text(text, encoding="utf-8")
    with pytest.raises(LabError) as caught:
        train(lab, toy_base)
    for word in words:
        assert word in str(caught.value)
    assert not (lab / "out").exists()  # 出错时什么也没留下


def test_wrong_layer_name_is_not_silently_ignored(lab, toy_base):
    with pytest.raises(LabError, match="qproj.*q_proj"):
        train(lab, toy_base, target_modules=["qproj", "v_proj"])


@pytest.mark.parametrize("targets", [
    ["q_proj", "attn.v_proj"], ["q_proj", "layers.99.v_proj"], [".q_proj"], ["proj"], ["q_proj", ""],
    ["model.layers.0"], ["q_proj", "embed_tokens"], ["q_proj", "lm_head"]])
def test_every_target_must_match_a_layer_as_peft_matches(lab, toy_base, targets):
    with pytest.raises(LabError, match="模型里没有叫 .* 的线性层"):
        train(lab, toy_base, target_modules=targets)


def layers_with_lora(folder):
    return {name.split(".lora_")[0].removeprefix("base_model.model.model.")
            for name in load_file(folder / "adapter_model.safetensors")}


def test_dotted_targets_pick_layers(lab, toy_base):
    adapter = train(lab, toy_base, max_steps=1, target_modules=["layers.1.self_attn.q_proj", "mlp.down_proj"])
    assert layers_with_lora(adapter.adapter) == {
        "layers.1.self_attn.q_proj", "layers.0.mlp.down_proj", "layers.1.mlp.down_proj"}


@pytest.mark.parametrize(("kind", "words"), [
    ("phi", "self_attn.dense"), ("gpt_neox", "attention.query_key_value"), ("gpt2", "attn.c_attn"),
    ("falcon", "self_attention.query_key_value"), ("bloom", "mlp.dense_h_to_4h"), ("opt", "layers.fc1"),
    ("qwen3_moe", "experts.gate_up_proj"), ("qwen2_moe", "没有加 LoRA：mlp.gate、experts.gate_up_proj"),
    ("glm4_moe", "没有加 LoRA：mlp.gate_proj"), ("phimoe", "没有加 LoRA：mlp.router"),
    ("llama4_text", "feed_forward.router"), ("deepseek_v4", "没有加 LoRA：self_attn.o_a_proj"),
    ("falcon_h1", "没有加 LoRA：mamba.conv1d、mamba.out_proj"), ("rwkv", "attention.receptance")])
def test_other_architectures_train_with_the_default_targets(lab, tmp_path, capsys, kind, words):
    """所有线性层都加 LoRA、带 dropout：训练得了，说出加在哪里，存下的适配器载得回来、与训练完的一样。"""
    config = yaml.safe_load(CONFIG)
    config["peft_config"] = {"r": 4, "lora_dropout": 0.1}
    (lab / "lora.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    alone = ONE_BY_ONE if kind in ("rwkv", "deepseek_v4") else {}
    adapter = train(lab, write_kind(tmp_path / "base", kind), max_steps=4, **alone).adapter
    out = capsys.readouterr().out
    assert "LoRA 加在：" in out and words in out
    assert ("lora_dropout 按 0 训练" in out) == (kind in ("qwen3_moe", "glm4_moe"))
    model, tokenizer = loader.load(adapter)
    assert "适配器在工作" in adapters.check_adapter_alive(model, tokenizer, "第1条是什么？")


def test_a_layer_of_the_models_own_is_not_renamed(lab, tmp_path):
    """Falcon 自己就有 query_key_value；没有的模型按官方的说法，换成 q、k、v。"""
    base = write_kind(tmp_path / "falcon", "falcon")
    adapter = train(lab, base, max_steps=1, target_modules=["query_key_value"]).adapter
    assert {name.rpartition(".")[2] for name in layers_with_lora(adapter)} == {"query_key_value"}
    base = write_kind(tmp_path / "qwen3", "qwen3")
    adapter = train(lab, base, output_dir=lab / "b", max_steps=1, target_modules=["query_key_value"]).adapter
    assert {name.rpartition(".")[2] for name in layers_with_lora(adapter)} == {"q_proj", "k_proj", "v_proj"}


def test_what_a_structure_cannot_do_is_left_out_or_refused(lab, tmp_path, capsys):
    rwkv, compressed = write_kind(tmp_path / "rwkv", "rwkv"), write_kind(tmp_path / "v4", "deepseek_v4")
    train(lab, write_kind(tmp_path / "gpt", "openai-gpt"), max_steps=1, gradient_checkpointing=True)
    assert "openai-gpt 结构没有梯度检查点" in capsys.readouterr().out
    for base, size in product((rwkv, compressed), ONE_BY_ONE):
        with pytest.raises(LabError, match="样本补齐以后算得不一样.*eval_batch_size 都改成 1"):
            train(lab, base, resume=False, **ONE_BY_ONE | {size: 2})


def test_what_peft_refuses_is_one_sentence(lab, tmp_path):
    with pytest.raises(LabError, match="glm4_moe 结构加不了 LoRA：.*gate_proj.*target_modules"):
        train(lab, write_kind(tmp_path / "base", "glm4_moe"), target_modules=["q_proj", "gate_proj"])


@pytest.mark.parametrize("rows", [1, 4, 16])
def test_dev_loss_is_a_mean_over_answer_tokens(lab, toy_base, rows):
    """每批几条都一样：把每个要学的词元的损失加起来，除以词元数。"""
    texts = ["短", "不长不短的回答", "很长很长的回答，" * 3, "二", "是的。" * 5]
    write_lines(lab / "data" / "dev.json", [conversation(f"问{i}", text) for i, text in enumerate(texts)])
    found = train(lab, toy_base, max_steps=1, per_device_eval_batch_size=rows).log[0]["eval_loss"]
    model, tokenizer = loader.load(toy_base)
    losses = []
    for i, text in enumerate(texts):
        messages = conversation(f"问{i}", text)["conversations"]
        sample = {key: torch.tensor([value]) for key, value in chat.encode(tokenizer, messages).items()}
        count = int((sample["labels"] != chat.IGNORE).sum())
        losses += [model(**sample).loss.item()] * count
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_an_adapter_is_no_base(lab, toy_base):
    adapter = train(lab, toy_base, max_steps=1).adapter
    with pytest.raises(LabError, match="是适配器"):
        train(lab, adapter, output_dir=lab / "second")


def spoil_loss(monkeypatch, factor):
    """每一步的损失都乘上 factor。"""
    usual = trainer.PackedTrainer.training_step
    monkeypatch.setattr(trainer.PackedTrainer, "training_step", lambda *args: usual(*args) * factor)


def test_divergence_stops_with_advice(lab, toy_base, monkeypatch):
    spoil_loss(monkeypatch, float("nan"))
    with pytest.raises(LabError, match=r"第 4 步发散.*learning_rate"):
        train(lab, toy_base, eval_strategy="no")
    assert "NaN" not in (lab / "out" / "training_log.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "磁盘满了"), (errno.EDQUOT, "限额用完了")])
def test_full_disk_is_one_clear_sentence(lab, toy_base, monkeypatch, capsys, code, words):
    def full(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(trainer.LabTrainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(LabError, match=f"{words}.*接着训练"):
        train(lab, toy_base)
    monkeypatch.undo()
    assert train(lab, toy_base).steps == 12  # 腾出空间后再运行一次就好
    assert "不完整的 out/checkpoint-6" in capsys.readouterr().out  # 写了一半的不留


def test_memory_errors_give_advice_and_unknown_ones_pass(tmp_path):
    with pytest.raises(LabError, match="per_device_train_batch_size"), explained(tmp_path):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), explained(tmp_path):
        raise RuntimeError("something else")
    with pytest.raises(LabError, match="磁盘满了"), explained(tmp_path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(("code", "words"), [
    (errno.EACCES, "没有权限"), (errno.EPERM, "没有权限"), (errno.EROFS, "只读"), (errno.EIO, "error")])
def test_folder_that_cannot_be_written_is_one_sentence(code, words):
    file = files.OUTPUT / "lora" / "run.json.part"
    with pytest.raises(LabError, match=f"{words}.*不能读写 output/lora/run.json；请"), \
            explained(file.parent):
        raise OSError(code, os.strerror(code), str(file))


def test_disk_filling_up_while_saving_loses_no_whole_checkpoint(lab, toy_base, monkeypatch, capsys):
    """torch.save 写到一半时报的错：一句话，前面的还能接着训练。"""
    real = trainer.LabTrainer._save_optimizer_and_scheduler

    def full(self, folder):
        if folder.endswith("checkpoint-12"):
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
        real(self, folder)

    monkeypatch.setattr(trainer.LabTrainer, "_save_optimizer_and_scheduler", full)
    usage = shutil.disk_usage(lab)._replace(free=1000)
    monkeypatch.setattr("labutils.training.checkpoints.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(LabError, match="磁盘满了.*接着训练"):
        train(lab, toy_base)
    monkeypatch.undo()
    assert train(lab, toy_base).steps == 12
    assert "从第 6 步接着训练" in capsys.readouterr().out


def test_full_disk_at_the_start_and_unusable_folder(lab, toy_base, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LabError, match="不能读写 .*out"):
        train(lab, toy_base, output_dir=tmp_path / "file" / "out")
    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(LabError, match="磁盘满了"):
        train(lab, toy_base)


class Screen:
    """代替笔记本的输出区：记下显示了几次、更新了几次。"""

    def __init__(self):
        self.shown, self.updated = [], []

    def display(self, figure, display_id, update):
        assert display_id
        (self.updated if update else self.shown).append(figure)


def test_live_curve_redraws_one_output_and_replaces_the_printed_lines(
        lab, toy_base, monkeypatch, capsys):
    screen = Screen()
    monkeypatch.setattr(callbacks.LiveLossCurve, "in_notebook", staticmethod(lambda: True))
    monkeypatch.setattr("IPython.display.display", screen.display)
    train(lab, toy_base, max_steps=4, callbacks=[callbacks.LiveLossCurve(seconds=3600)])
    assert len(screen.shown) == 1 and len(screen.updated) == 1  # 开头一张，间隔未到，最后更新
    assert len(screen.updated[0].axes[0].lines) == 2  # 训练与验证两条线
    assert "第 4/4 步" not in capsys.readouterr().out


def test_live_curve_is_silent_outside_notebooks(lab, toy_base, capsys):
    train(lab, toy_base, max_steps=4, callbacks=[callbacks.LiveLossCurve()])
    assert "第 4/4 步" in capsys.readouterr().out


@pytest.mark.parametrize("use_cpu", [False, True])
def test_compiling_is_for_the_gpu(tmp_path, use_cpu):
    config = load_config(files.CONFIGS / "lora_tiny.yaml")
    config.training_args.torch_compile = True
    args = finetune.training_arguments(config, tmp_path, use_cpu)
    assert args.torch_compile is not use_cpu
