"""续训：被杀掉再运行，结果与一口气训练完一位不差；写了一半的检查点不当真。"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file

import labutils  # noqa: F401
from labutils.base import files
from labutils.base.errors import LabError
from labutils.training import checkpoints, finetune
from labutils.training.callbacks import TrainingLog, read_log

pytestmark = pytest.mark.slow

# 用上一切随机的东西：dropout、词向量噪声、改写问题、混入的对话
CONFIG = """\
data_config:
  general_file: general.json
  general_ratio: 0.5
  question_augmentation: 0.5
dtype: fp32
training_args:
  max_steps: 9
  learning_rate: 1e-2
  lr_scheduler_type: cosine
  warmup_steps: 2
  neftune_noise_alpha: 5
  per_device_train_batch_size: 4
  logging_steps: 2
  eval_steps: 4
  save_steps: 3
  use_cpu: true
peft_config:
  r: 4
  lora_dropout: 0.2
  target_modules: all-linear
"""

KILLED_RUN = """\
import os, signal, sys
from labutils.training import finetune, trainer
data, base, config, out = sys.argv[1:]
original = trainer.LabTrainer._save_optimizer_and_scheduler

def save_half(self, folder):
    if folder.endswith("checkpoint-6"):  # 适配器已写好，优化器只写一半，进程就没了
        with open(os.path.join(folder, "optimizer.pt"), "wb") as file:
            file.write(b"PK" + bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, folder)

trainer.LabTrainer._save_optimizer_and_scheduler = save_half
finetune.run(data, base, config, out)
"""


def conversation(question, answer):
    return {"conversations": [{"role": "user", "content": question},
                              {"role": "assistant", "content": answer}]}


def write_lines(path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def weights(adapter):
    return load_file(adapter / "adapter_model.safetensors")


def same(first, second):
    first, second = weights(first), weights(second)
    return all(torch.equal(first[key], second[key]) for key in first | second)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    write_lines(folder / "train.json", [
        conversation(f"编号为{i}的一个比较长的问题是什么？", f"是{i}" * (i + 1))
        for i in range(10)])
    write_lines(folder / "dev.json", [conversation(f"请问第{i}条？", f"是{i}") for i in range(3)])
    write_lines(folder / "general.json", [conversation(f"{i}加一", f"{i + 1}") for i in range(7)])
    (folder / "lora.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def straight(lab, toy_base):
    """没有被打断的训练，用来对照。"""
    return finetune.run(lab, toy_base, lab / "lora.yaml", lab / "straight")


@pytest.fixture
def copy(lab, straight, tmp_path):
    """一份训练完的文件夹，测试可以随意破坏。"""
    return shutil.copytree(straight.output_dir, tmp_path / "run")


def again(lab, base, folder, **options):
    return finetune.run(lab, base, lab / "lora.yaml", folder, **options)


def stop_at(folder, step):
    """把训练完的文件夹变回在 step 步存盘后立刻被打断的样子。"""
    checkpoints.discard_after(folder, step)
    (folder / "result.json").unlink()


def test_killed_while_saving_then_rerun_gives_the_same_adapter(lab, toy_base, straight, capsys):
    out = lab / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, lab, toy_base, lab / "lora.yaml", out],
        env={**os.environ, "PYTHONPATH": str(files.ROOT)}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (out / "checkpoint-6" / "adapter_model.safetensors").exists()
    assert read_log(out / "training_log.jsonl")[-1]["step"] == 6  # 日志在被杀之前已经写下

    result = again(lab, toy_base, out)
    printed = capsys.readouterr().out
    assert "不完整的 killed/checkpoint-6" in printed and "从第 3 步接着训练" in printed
    assert same(result.adapter, straight.adapter)
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in r.log]
                for r in (result, straight)]
    assert timeless[0] == timeless[1]
    assert result.final_train_loss == straight.final_train_loss


def test_every_checkpoint_leads_to_the_same_end(lab, toy_base, straight, copy):
    stop_at(copy, 6)
    torch.rand(1000)  # 别处用掉的随机数不影响结果
    result = again(lab, toy_base, copy, resume=3)
    assert same(result.adapter, straight.adapter)
    steps = Counter((row["step"], "loss" in row) for row in result.log)
    assert max(steps.values()) == 1


def test_finished_run_is_not_trained_again(lab, toy_base, copy, capsys, monkeypatch):
    monkeypatch.setattr(finetune, "make_trainer", None)  # 一旦去训练就出错
    before = (copy / "training_log.jsonl").read_text(encoding="utf-8")
    for resume in ("auto", 9):
        result = again(lab, toy_base, copy, resume=resume)
        assert result.steps == 9 and "已训练完" in capsys.readouterr().out
    assert (copy / "training_log.jsonl").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("lost", ["optimizer.pt", "trainer_state.json"])
def test_a_finished_adapter_without_its_training_state_is_kept(lab, toy_base, copy, lost, monkeypatch):
    monkeypatch.setattr(finetune, "make_trainer", None)
    for checkpoint in checkpoints.checkpoints(copy):
        (checkpoint / lost).unlink()
    assert again(lab, toy_base, copy).adapter == copy / "checkpoint-9"
    for changed in ({"learning_rate": 1e-3}, {"max_steps": 12}):
        with pytest.raises(LabError, match="另一次训练|不能接着训练"):
            again(lab, toy_base, copy, **changed)
    assert (copy / "checkpoint-9" / "adapter_model.safetensors").exists()
    assert (copy / "result.json").exists()


def test_a_full_disk_at_the_start_deletes_nothing(lab, toy_base, copy, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    (copy / "checkpoint-9" / "optimizer.pt").unlink()
    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(LabError, match="磁盘满了"):
        again(lab, toy_base, copy)
    assert (copy / "checkpoint-9" / "adapter_model.safetensors").exists()


def test_killed_between_last_checkpoint_and_result_needs_no_training(lab, toy_base, straight, copy):
    (copy / "result.json").unlink()
    (copy / "loss.png").unlink()
    result = again(lab, toy_base, copy)
    assert result.final_dev_loss == straight.final_dev_loss
    assert (copy / "result.json").exists() and (copy / "loss.png").exists()


def test_finished_run_without_its_log_says_what_to_do(lab, toy_base, copy):
    (copy / "training_log.jsonl").unlink()
    with pytest.raises(LabError, match=r"training_log.jsonl 不见了.*resume=False"):
        again(lab, toy_base, copy)


def test_resume_false_starts_over(lab, toy_base, straight, copy):
    (copy / "my_notes.txt").write_text("留着", encoding="utf-8")
    result = again(lab, toy_base, copy, resume=False, max_steps=2)
    assert [p.name for p in checkpoints.checkpoints(copy)] == ["checkpoint-2"]
    assert [row["step"] for row in result.log if "loss" in row] == [2]
    assert (copy / "my_notes.txt").exists()  # 不认识的文件不删


@pytest.mark.parametrize(("change", "name"), [
    ({"learning_rate": 1e-3}, "learning_rate：0.01 → 0.001"),
    ({"seed": 7}, "seed：42 → 7"),
    ({"max_steps": 5}, "max_steps：9 → 5"),
    ({"max_steps": 12, "seed": 7}, "seed：42 → 7"),
])
def test_changed_settings_are_named_and_nothing_is_overwritten(lab, toy_base, copy, change, name):
    with pytest.raises(LabError) as caught:
        again(lab, toy_base, copy, **change)
    assert name in str(caught.value) and "resume=False" in str(caught.value)
    assert (copy / "result.json").exists() and (copy / "checkpoint-9").exists()


def test_changed_data_is_noticed(lab, toy_base, copy, tmp_path):
    other = shutil.copytree(lab, tmp_path / "data", ignore=shutil.ignore_patterns("[sk]*ed", "s*t"))
    write_lines(other / "dev.json", [conversation("另一个问题", "另一个答案")])
    with pytest.raises(LabError, match="数据内容"):
        finetune.run(other, toy_base, lab / "lora.yaml", copy)


def test_changing_how_often_to_log_is_the_same_run(lab, toy_base, copy):
    stop_at(copy, 6)
    assert again(lab, toy_base, copy, logging_steps=1, save_steps=100).steps == 9


@pytest.mark.parametrize(("resume", "start"), [("auto", 9), (6, 6)])
def test_a_longer_run_continues_and_says_so(lab, toy_base, copy, capsys, resume, start):
    again(lab, toy_base, copy, resume=9)
    assert "学习率" not in capsys.readouterr().out
    result = again(lab, toy_base, copy, resume=resume, max_steps=11)
    assert result.adapter.name == "checkpoint-11" and result.log[-1]["step"] == 11
    assert f"从第 {start} 步接着训练\nmax_steps 由 9 改成 11：学习率" in capsys.readouterr().out
    assert (copy / "checkpoint-9").exists()  # 已有的成果还在


def test_a_run_stopped_half_way_may_end_earlier(lab, toy_base, copy, capsys):
    stop_at(copy, 6)
    assert again(lab, toy_base, copy, max_steps=7).adapter.name == "checkpoint-7"
    assert "max_steps 由 9 改成 7" in capsys.readouterr().out


def test_a_base_that_moved_is_the_same_base(lab, toy_base, copy, tmp_path, capsys):
    """认权重，不认路径；路径相同、权重改过（例如合并了适配器，归一化层没有变）的是另一个基座。"""
    moved = shutil.copytree(toy_base, tmp_path / "moved")
    assert again(lab, moved, copy).steps == 9
    assert "基座换了地方，权重没有变：" in capsys.readouterr().out
    state = load_file(moved / "model.safetensors")
    state["model.layers.0.self_attn.q_proj.weight"] *= 1.01
    save_file(state, moved / "model.safetensors", {"format": "pt"})
    with pytest.raises(LabError, match="里是另一次训练（基座权重：.* → .*）"):
        again(lab, moved, copy)


@pytest.mark.parametrize("resume", ["auto", 5, False])
def test_checkpoints_of_another_program_are_never_deleted(lab, toy_base, tmp_path, resume):
    weights = tmp_path / "checkpoint-5" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"precious")
    with pytest.raises(LabError, match="别的程序"):
        again(lab, toy_base, tmp_path, resume=resume)
    assert weights.read_bytes() == b"precious"


def test_asking_for_what_is_not_there(lab, toy_base, copy, tmp_path):
    with pytest.raises(LabError, match=r"没有 checkpoint-5；现有的步数：\[3, 6, 9\]"):
        again(lab, toy_base, copy, resume=5)
    (copy / "checkpoint-6" / "scheduler.pt").unlink()
    with pytest.raises(LabError, match="checkpoint-6 不完整"):
        again(lab, toy_base, copy, resume=6)
    with pytest.raises(LabError, match="没有 checkpoint-3；现有的步数：无"):
        again(lab, toy_base, tmp_path / "empty", resume=3)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def corrupt(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(("file", "damage"), [
    ("adapter_model.safetensors", truncate),
    ("adapter_model.safetensors", os.unlink),
    ("adapter_config.json", truncate),
    ("adapter_config.json", os.unlink),
    ("trainer_state.json", truncate),
    ("trainer_state.json", os.unlink),
    ("optimizer.pt", truncate),
    ("optimizer.pt", corrupt),
    ("optimizer.pt", os.unlink),
    ("scheduler.pt", truncate),
    ("rng_state.pth", os.unlink),
])
def test_damaged_checkpoints_are_skipped_with_a_reason(copy, file, damage, capsys):
    (copy / "result.json").unlink()  # 还没有训练完
    damage(copy / "checkpoint-9" / file)
    assert checkpoints.problem(copy / "checkpoint-9") != ""
    assert checkpoints.problem(copy / "checkpoint-6") == ""
    assert checkpoints.last_valid(copy, 9).name == "checkpoint-6"
    assert "checkpoint-9" in capsys.readouterr().out
    assert not (copy / "checkpoint-9").exists()


def test_nothing_of_a_finished_run_is_deleted(lab, toy_base, copy):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        truncate(copy / "checkpoint-9" / name)
        with pytest.raises(LabError, match="checkpoint-9 不能接着训练（adapter.* 只写了一半或已损坏）"):
            again(lab, toy_base, copy)
    assert len(checkpoints.checkpoints(copy)) == 3 and (copy / "result.json").exists()
    assert again(lab, toy_base, copy, resume=6).adapter.name == "checkpoint-9"


def test_log_drops_later_rows_and_a_half_written_line(tmp_path):
    path = tmp_path / "training_log.jsonl"
    path.write_text('{"step": 2, "loss": 1, "seconds": 3}\n{"step": 4, "loss": 1, "seconds": 5}\n'
                    '{"step": 6, "lo', encoding="utf-8")
    log = TrainingLog(path, start_step=2)
    assert log.rows == [{"step": 2, "loss": 1, "seconds": 3}] == read_log(path)
    assert log.seconds == 3


def test_only_numbered_folders_count_as_checkpoints(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-old", "checkpoint-3.tmp"):
        (tmp_path / name).mkdir()
    assert [p.name for p in checkpoints.checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_base_is_recorded_by_name_or_relative_path(tmp_path):
    assert checkpoints.base_reference("tiny") == "tiny"
    assert checkpoints.base_reference("some/hub-name") == "some/hub-name"
    assert not checkpoints.base_reference(str(tmp_path)).startswith("/")


def test_model_on_another_windows_drive_keeps_its_whole_path(tmp_path, monkeypatch):
    def other_drive(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", other_drive)
    assert checkpoints.base_reference(str(tmp_path)) == tmp_path.resolve().as_posix()
