"""两个进程一起训练：只有一个写文件、打印一遍，总批量相同时结果与一个进程相同。

用 torch 自带的启动程序；accelerate launch --cpu 只会启动一个进程。
"""

import collections
import json
import os
import subprocess
import sys

import pytest
import yaml
from accelerate import FullyShardedDataParallelPlugin

from labutils.base import files
from labutils.training import checkpoints, finetune

STEPS, GLOBAL_BATCH = 12, 8


def write_config(path, batch):
    content = {
        "max_input_length": 64, "max_output_length": 64, "dtype": "fp32",
        "training_args": {
            "max_steps": STEPS, "learning_rate": 5e-3, "per_device_train_batch_size": batch,
            "per_device_eval_batch_size": 5, "save_steps": 6, "logging_steps": 4, "eval_steps": 6,
            "group_by_length": True, "use_cpu": True},
        "peft_config": {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def launch(*arguments):
    """python -m torch.distributed.run … -m labutils ARGUMENTS，两个进程。"""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               "-m", "labutils", *map(str, arguments)]
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(files.ROOT)}
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, cwd=files.ROOT,
                          timeout=600)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """两个进程训练一次：(标准输出, 结果文件夹, 配置)。"""
    folder = tmp_path_factory.mktemp("two")
    config = write_config(folder / "half.yaml", GLOBAL_BATCH // 2)
    done = launch("finetune", "data", "tiny", config, "no", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    return done.stdout, folder / "out", config


def test_same_result_as_one_process(two, tmp_path):
    config = write_config(tmp_path / "whole.yaml", GLOBAL_BATCH)
    alone = finetune.run(files.DATA, "tiny", config, tmp_path / "out", resume=False)
    together = json.loads((two[1] / "result.json").read_text(encoding="utf-8"))
    assert together["final_dev_loss"] == pytest.approx(alone.final_dev_loss, rel=0.02)
    assert together["final_train_loss"] == pytest.approx(alone.final_train_loss, rel=0.02)
    first = next(row["eval_loss"] for row in alone.log if "eval_loss" in row)
    assert alone.final_dev_loss < 0.9 * first  # 真的学到了东西，比较才有意义


def test_one_process_writes(two):
    out, folder, _ = two
    steps = [row["step"] for row in map(json.loads, (folder / "training_log.jsonl").open(encoding="utf-8"))
             if "loss" in row]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS
    assert [p.name for p in checkpoints.checkpoints(folder)] == ["checkpoint-6", "checkpoint-12"]
    assert all(checkpoints.problem(p) == "" for p in checkpoints.checkpoints(folder))
    assert not list(folder.rglob("*.part"))


def test_printed_once(two):
    lines = collections.Counter(line for line in two[0].splitlines() if line.strip())
    twice = [line for line, times in lines.items() if times > 1]
    assert len(twice) == 1 and twice[0].startswith("可训练参数")  # 开头的概况与末尾的结果各一次
    assert f"每步 {GLOBAL_BATCH} 条" in two[0]


def test_continuing_with_another_number_of_processes_is_refused(two):
    _, folder, config = two
    done = launch("finetune", "data", "tiny", config, "--out", folder)
    assert done.returncode == 0 and "已训练完，直接使用" in done.stdout
    from labutils.base.errors import LabError

    with pytest.raises(LabError, match="进程数：2 → 1"):
        finetune.run(files.DATA, "tiny", config, folder)


def test_mistake_is_reported_by_every_process_without_hanging(tmp_path):
    config = write_config(tmp_path / "c.yaml", 4)
    done = launch("finetune", "data", "tiny", config, "5", "--out", tmp_path / "out")
    assert done.returncode != 0 and "没有可以接着训练的检查点" in done.stderr


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_launch_files_are_understood_by_accelerate(name):
    """没有两块 GPU，跑不了；至少每个键 accelerate 都认得。"""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(files.CONFIGS / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 2
    assert config.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}[name]
    known = {*FullyShardedDataParallelPlugin.__dataclass_fields__, "offload_params"}
    written = {key.removeprefix("fsdp_") for key in vars(config).get("fsdp_config") or {}}
    assert written - {"version"} <= known
