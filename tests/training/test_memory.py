"""内存估算：常驻的部分一字节不差，激活随设置变化，总数与真的训练几步量到的相差不到三成。"""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes.chat_fakes import write_kind
from transformers import GlmConfig

from labutils.base import files
from labutils.base.errors import OK, WARN
from labutils.training import memory
from labutils.training.config import load_config, override

pytestmark = pytest.mark.slow

SIX_BILLION = GlmConfig(
    vocab_size=65024, hidden_size=4096, intermediate_size=13696, num_hidden_layers=28, head_dim=128,
    num_attention_heads=32, num_key_value_heads=2, attention_bias=True, pad_token_id=0, eos_token_id=2,
    tie_word_embeddings=False)
SMALL = GlmConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=4, head_dim=32,
    num_attention_heads=2, num_key_value_heads=1, attention_bias=True, pad_token_id=0, eos_token_id=2)
GIB = 2**30


def settings(**changes):
    return override(load_config("configs/lora.yaml"), changes)


def guess(shape=SMALL, dtype=torch.float32, length=64, **changes):
    return memory.estimate_memory(shape, settings(**changes), dtype, length)


def test_resident_parts_of_six_billion_are_exact():
    found = guess(SIX_BILLION, torch.bfloat16, length=16, per_device_train_batch_size=1)
    # 缓冲区是旋转位置的频率表：一半维度的一半，fp32，现用的与原来的各一份
    assert found.weights == 2 * 6_243_584_000 + 2 * 32 * 4
    # 官方的 LoRA 有 1,949,696 个参数，总是 fp32；AdamW 为每个参数存两个数
    assert (found.adapter, found.gradients) == (4 * 1_949_696, 4 * 1_949_696)
    assert found.optimizer == 2 * found.adapter


def test_activations_grow_with_batch_and_length():
    one, two = (guess(per_device_train_batch_size=n).activations for n in (4, 8))
    assert 1.9 < two / one < 2.1
    assert guess(length=128).activations > 1.9 * guess(length=64).activations


def test_checkpointing_saves_activations_only():
    plain, saving = (guess(gradient_checkpointing=on, length=256) for on in (False, True))
    assert saving.activations < 0.7 * plain.activations
    assert (saving.weights, saving.adapter) == (plain.weights, plain.adapter)


def test_evaluation_counts_only_when_it_happens():
    assert guess(eval_strategy="no").evaluation == 0
    few, many = (guess(per_device_eval_batch_size=n) for n in (1, 64))
    assert many.evaluation > 10 * few.evaluation and many.total > few.total


def test_four_bit_shrinks_linear_layers():
    plain, small = (guess(SIX_BILLION, torch.bfloat16, 16, quantization=q) for q in (None, "4bit"))
    assert 3.5 * GIB < small.weights < 4.2 * GIB < plain.weights


def test_longer_than_allowed_is_clipped():
    config = settings(max_input_length=32, max_output_length=31)
    assert memory.clipped(0, config) == memory.clipped(999, config) == 64 and memory.clipped(9, config) == 9


def test_callers_objects_are_left_alone():
    before, config = copy.deepcopy(SMALL.to_dict()), settings()
    values = dataclasses.asdict(config)
    memory.estimate_memory(SMALL, config, torch.float32, 16)
    assert SMALL.to_dict() == before and dataclasses.asdict(config) == values


@pytest.mark.parametrize("kind", ["bloom", "falcon", "gpt2", "opt", "gpt_neox"])
def test_architectures_with_their_own_attention_are_estimated_too(tmp_path, kind):
    write_kind(tmp_path, kind)
    described, verdict = memory.memory_report(str(tmp_path), "configs/lora.yaml", length=64)
    assert described.status == verdict.status == OK and "峰值约" in described.message


def test_what_cannot_be_estimated_is_said(tmp_path):
    [only] = memory.memory_report(str(write_kind(tmp_path, "qwen3_moe")), "configs/lora.yaml")
    assert only.status == WARN and "qwen3_moe 结构估不出" in only.message and "max_steps: 1" in only.todo


@pytest.fixture
def small_model(tmp_path):
    (tmp_path / "config.json").write_text(SMALL.to_json_string(use_diff=False), encoding="utf-8")
    return str(tmp_path)


def test_report_says_it_fits(small_model):
    described, verdict = memory.memory_report(small_model, "configs/lora.yaml", gpu=24)
    assert (described.status, verdict.status) == (OK, OK) and "峰值约" in described.message
    assert "24 GiB 的显卡：能用 23.4 GiB，放得下" in str(verdict)


def test_report_proposes_settings_that_fit(small_model):
    need = memory.estimate_memory(SMALL, settings(), torch.bfloat16, slack=memory.GPU).total
    card = (0.8 * need + memory.CUDA_ITSELF) / GIB
    verdict = memory.memory_report(small_model, "configs/lora.yaml", gpu=card)[-1]
    assert verdict.status == WARN and "per_device_eval_batch_size: 8" in verdict.todo


def test_report_gives_up_in_words(small_model):
    verdict = memory.memory_report(small_model, "configs/lora.yaml", gpu=0.1)[-1]
    assert verdict.status == WARN and "最省的设置也要约" in verdict.todo


def test_this_machine_is_measured(small_model):
    verdict = memory.memory_report(small_model, "configs/lora_tiny.yaml", length=64)[-1]
    assert verdict.name == "本机内存" and verdict.status == OK


def test_remedies_go_from_harmless_to_harmful():
    steps = list(memory.remedies(settings(gradient_checkpointing=False), on_gpu=True))
    assert steps[0] == {"gradient_checkpointing": True}
    assert [s.get("per_device_train_batch_size") for s in steps] == [None, 8, 4, 2, 1, 1, 1]
    for step in steps[1:]:  # 每批减半，累积加倍：一步看到的样本数不变
        assert step["per_device_train_batch_size"] * step["gradient_accumulation_steps"] == 8
    assert steps[-2]["quantization"] == "4bit" and steps[-1]["max_output_length"] == memory.SHORT
    assert all("quantization" not in s for s in memory.remedies(settings(), on_gpu=False))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="只有 Linux 能量进程的内存峰值")
def test_estimate_is_within_30_percent_of_a_real_run(tmp_path):
    out = tmp_path / "found"
    command = [sys.executable, "benchmarks/memory.py", "--shapes", "glm-52m", "--out", str(out)]
    done = subprocess.run(command, cwd=files.ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    row = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))[0]
    assert abs(row["error"]) <= 0.3, row
