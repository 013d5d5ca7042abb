"""微调配置：官方的键都认，写错的说清楚是哪个文件哪一项、应当怎么写。"""

import pytest

from labutils.base.errors import LabError
from labutils.base.files import CONFIGS
from labutils.training.config import load_config, lora_targets, override

OFFICIAL = """\
data_config:
  train_file: train.json
  val_file: dev.json
  test_file: dev.json
  num_proc: 16
max_input_length: 256
max_output_length: 512
training_args:
  output_dir: ./output
  max_steps: 3000
  learning_rate: 5e-5
  per_device_train_batch_size: 4
  dataloader_num_workers: 16
  remove_unused_columns: false
  save_strategy: steps
  save_steps: 500
  log_level: info
  logging_strategy: steps
  logging_steps: 10
  per_device_eval_batch_size: 16
  evaluation_strategy: steps
  eval_steps: 500
  predict_with_generate: true
  generation_config:
    max_new_tokens: 512
  use_cpu: false
peft_config:
  peft_type: LORA
  task_type: CAUSAL_LM
  r: 8
  lora_alpha: 32
  lora_dropout: 0.1
"""


def write(tmp_path, text):
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def failure(tmp_path, text):
    with pytest.raises(LabError) as caught:
        load_config(write(tmp_path, text))
    message = str(caught.value)
    assert "my.yaml" in message  # 每条错误都说出是哪个文件
    return message


def test_official_keys_are_read_unchanged(tmp_path):
    config = load_config(write(tmp_path, OFFICIAL))
    training = config.training_args
    assert training.learning_rate == 5e-5 and isinstance(training.learning_rate, float)
    assert (training.max_steps, training.eval_strategy, training.save_steps) == (3000, "steps", 500)
    assert (config.peft_config.r, config.peft_config.lora_alpha) == (8, 32)
    assert config.max_length == 256 + 512 + 1


def test_missing_target_modules_mean_the_split_of_query_key_value(tmp_path):
    config = load_config(write(tmp_path, OFFICIAL))
    assert list(config.peft_config.target_modules) == ["q_proj", "k_proj", "v_proj"]


@pytest.mark.parametrize(("written", "chatglm3", "expected"), [
    ("", True, (["query_key_value"], True)),
    ("", False, ("all-linear", False)),
    ("  target_modules: all-linear\n", True, ("all-linear", False)),
    ("  target_modules: query_key_value\n", True, (["query_key_value"], True)),
    ("  target_modules: [query_key_value, dense]\n  shared_a: false\n", True,
     (["query_key_value", "dense"], False)),
    ("  target_modules: [q_proj, k_proj, v_proj]\n", False, (["q_proj", "k_proj", "v_proj"], False)),
    ("  target_modules: [q_proj, k_proj, v_proj]\n  shared_a: true\n", False,
     (["q_proj", "k_proj", "v_proj"], True)),
])
def test_layers_and_sharing_follow_the_official_setting(tmp_path, written, chatglm3, expected):
    section = load_config(write(tmp_path, OFFICIAL + written)).peft_config
    assert lora_targets(section, chatglm3) == expected


def test_shipped_config_for_large_models_follows_the_official_setting():
    section = load_config(CONFIGS / "lora.yaml").peft_config
    assert lora_targets(section, chatglm3=True) == (["query_key_value"], True)
    assert lora_targets(section, chatglm3=False) == ("all-linear", False)
    assert (section.r, section.lora_alpha, section.lora_dropout) == (8, 32, 0.1)


def test_other_methods_than_lora_are_refused_with_a_reason(tmp_path):
    for kind in ("PREFIX_TUNING", "P_TUNING", "null"):
        text = f"peft_config:\n  peft_type: {kind}\n"
        message = failure(tmp_path, text)
        assert "只能是 LORA" in message and "P-Tuning v2" in message
        message = failure(tmp_path, text + "  num_virtual_tokens: 128\n")
        assert "请用 peft_type: LORA" in message and "P-Tuning v2" in message


def test_official_full_tuning_file_says_that_it_becomes_lora(tmp_path):
    text = OFFICIAL[:OFFICIAL.index("peft_config")]
    assert "全部参数" in load_config(write(tmp_path, text)).notes[-1]


def test_four_bit_loading_is_an_option(tmp_path):
    assert load_config(write(tmp_path, OFFICIAL)).quantization is None
    assert load_config(write(tmp_path, "quantization: 4bit\n")).quantization == "4bit"


def test_no_official_key_is_silently_ignored(tmp_path):
    """逐个把官方键的值换成读不懂的，每次都必须报出这个键。"""
    for line in OFFICIAL.splitlines():
        written = line.partition(":")[0]
        if not line.endswith(":"):
            broken = OFFICIAL.replace(line, written + ": [看不懂]", 1)
            assert written.strip() in failure(tmp_path, broken)


def test_keys_without_effect_are_announced(tmp_path):
    notes = "\n".join(load_config(write(tmp_path, OFFICIAL)).notes)
    for key in ("num_proc", "test_file", "predict_with_generate", "max_new_tokens"):
        assert key in notes
    assert "learning_rate" not in notes


@pytest.mark.parametrize("name", ["lora.yaml", "lora_tiny.yaml"])
def test_shipped_configs_load_without_remarks(name):
    config = load_config(CONFIGS / name)
    assert config.notes == []
    assert config.training_args.max_steps > 0
    assert config.data_config.general_ratio > 0  # 缺省就防遗忘


@pytest.mark.parametrize(("written", "value"), [
    ("5e-5", 5e-5), ("5E-05", 5e-5), ("1", 1.0), ("2.5e-3", 2.5e-3), ("'3e-4'", 3e-4)])
def test_yaml_numbers_become_floats(tmp_path, written, value):
    config = load_config(write(tmp_path, f"training_args:\n  learning_rate: {written}\n"))
    assert config.training_args.learning_rate == value


@pytest.mark.parametrize(("text", "section", "name", "value"), [
    ("training_args: {evaluation_strategy: no}", "training_args", "eval_strategy", "no"),
    ("training_args: {save_steps: 0100}", "training_args", "save_steps", 100),
    ("training_args: {save_steps: +7}", "training_args", "save_steps", 7),
    ("training_args: {warmup_steps: .1}", "training_args", "warmup_steps", 0.1),
    ("peft_config: {r: 08}", "peft_config", "r", 8),
    ("data_config: {train_file: 2025-02-30}", "data_config", "train_file", "2025-02-30"),
    ("data_config: {train_file: on}", "data_config", "train_file", "on"),
    ("training_args: {use_cpu: True, fp16: no}", "training_args", "use_cpu", True),
])
def test_yaml_is_read_as_people_read_it(tmp_path, text, section, name, value):
    read = getattr(getattr(load_config(write(tmp_path, text)), section), name)
    assert read == value and type(read) is type(value)


def test_old_and_new_name_together_are_refused(tmp_path):
    message = failure(tmp_path, "training_args: {evaluation_strategy: steps, eval_strategy: steps}")
    assert "evaluation_strategy" in message


def test_unknown_key_gets_the_nearest_suggestion_and_the_list(tmp_path):
    message = failure(tmp_path, "training_args:\n  learning_rat: 1e-4\n")
    assert "training_args.learning_rat。" in message
    assert "是不是想写 training_args.learning_rate" in message
    assert "training_args.max_steps" in message


def test_key_in_the_wrong_section_is_unknown(tmp_path):
    assert "peft_config.learning_rate" in failure(tmp_path, "peft_config:\n  learning_rate: 1\n")


@pytest.mark.parametrize(("text", "words"), [
    ("training_args:\n  max_steps: many\n", ["training_args.max_steps", "整数", "many"]),
    ("training_args:\n  max_steps: 2.5\n", ["整数", "2.5"]),
    ("training_args:\n  max_steps: true\n", ["整数", "True"]),
    ("training_args:\n  max_steps: 0\n", ["max_steps", "不能是 0"]),
    ("training_args:\n  learning_rate: fast\n", ["training_args.learning_rate", "数", "fast"]),
    ("training_args:\n  learning_rate: true\n", ["应当是数", "True"]),
    ("training_args:\n  generation_config: 512\n", ["training_args.generation_config", "一节"]),
    ("training_args:\n  1: 2\n", ["不认识 training_args.1", "training_args.max_steps"]),
    ("path: /x\n", ["不认识 path", "peft_config"]),
    ("training_args:\n  learning_rate: .nan\n", ["learning_rate", "nan"]),
    ("training_args:\n  learning_rate: 50\n", ["不大于 1"]),
    ("training_args:\n  use_cpu: 1\n", ["true 或 false"]),
    ("training_args:\n  lr_scheduler_type: cosin\n", ["linear", "cosine", "cosin"]),
    ("training_args:\n  remove_unused_columns: true\n", ["remove_unused_columns", "false"]),
    ("peft_config:\n  r: 0\n", ["peft_config.r", "不小于 1"]),
    ("peft_config:\n  lora_dropout: 1.5\n", ["lora_dropout", "0.99"]),
    ("peft_config:\n  peft_type: PREFIX_TUNING\n", ["LORA"]),
    ("peft_config:\n  target_modules: []\n", ["all-linear"]),
    ("peft_config:\n  target_modules: [1, q_proj]\n", ["q_proj", "列表"]),
    ("peft_config:\n  shared_a: 1\n", ["shared_a", "true 或 false"]),
    ("quantization: 8bit\n", ["quantization", "4bit"]),
    ("training_args: {save_steps: 1:30}\n", ["save_steps", "整数", "'1:30'"]),
    ("training_args: {save_steps: 0x10}\n", ["save_steps", "整数", "0x10"]),
    ("training_args: {save_steps: 1_000}\n", ["save_steps", "整数", "1_000"]),
    ("training_args: {use_cpu: yes}\n", ["use_cpu", "true 或 false", "yes"]),
    ("training_args: {seed: 4294967296}\n", ["seed", "不大于 4294967295"]),
    ("training_args: {seed: -1}\n", ["seed", "不小于 0"]),
    ("training_args: {adam_beta1: 1}\n", ["adam_beta1", "不大于"]),
    ("training_args: {adam_epsilon: 0}\n", ["adam_epsilon", "不小于"]),
    ("training_args: {max_steps: 99999999999}\n", ["max_steps", "不大于 1000000"]),
    ("training_args: {per_device_train_batch_size: 9999999999}\n", ["batch_size", "不大于"]),
    ("training_args: " + "[" * 3000 + "\n", ["写法有误"]), ("training_args: &a [*a]\n", ["training_args"]),
    ("training_args: {learning_rate: 10%}\n", ["learning_rate", "数", "10%"]),
    ("training_args: {learning_rate: -1e-4}\n", ["learning_rate", "不小于"]),
    ("peft_config: {lora_alpha: .inf}\n", ["lora_alpha", "应当是数"]),
    ("peft_config: {lora_alpha: 1e400}\n", ["lora_alpha", "应当是数"]),
    ("peft_config: {lora_alpha: 0}\n", ["lora_alpha", "不小于"]),
    ("peft_config: {r: 1000000}\n", ["peft_config.r", "不大于 4096"]),
    ("max_input_length: 0\n", ["max_input_length", "不小于 8"]),
    ("quantization: 4\n", ["quantization", "文字"]),
    ("peft_config: LORA\n", ["peft_config", "一节"]),
    ("data_config:\n  general_ratio: 0.5\n", ["general_file"]),
    ("data_config:\n  question_augmentation: 2\n", ["不大于 1"]),
])
def test_wrong_values_are_named(tmp_path, text, words):
    message = failure(tmp_path, text)
    for word in words:
        assert word in message


@pytest.mark.parametrize(("text", "reason"), [
    ("training_args:\n  fp16: true\n", "bf16"),
    ("training_args:\n  deepspeed: ds_zero_3.json\n", "一块 GPU"),
    ("training_args:\n  group_by_length: true\n", "首尾相接"),
    ("training_args:\n  warmup_ratio: 0.1\n", "请写 warmup_steps"),
    ("training_args:\n  activation_checkpointing: true\n", "请写 gradient_checkpointing"),
    ("training_args:\n  report_to: wandb\n", "training_log.jsonl"),
    ("peft_config:\n  num_virtual_tokens: 128\n", "P-Tuning"),
    ("training_args:\n  fsdp: full_shard\n", "一块 GPU"),
    ("training_args:\n  debug: underflow_overflow\n", "课程"),
    ("load_in_8bit: true\n", "quantization: 4bit"),
])
def test_unsupported_keys_are_refused_with_a_reason(tmp_path, text, reason):
    message = failure(tmp_path, text)
    assert "不被支持" in message and reason in message


def test_switched_off_unsupported_keys_are_fine(tmp_path):
    load_config(write(tmp_path, "training_args:\n  fp16: false\n  deepspeed: null\n"))


@pytest.mark.parametrize(("text", "words"), [
    ("training_args:\n  max_steps: [1\n", ["行"]),
    ("training_args:\n\tmax_steps: 1\n", ["第 2 行"]),
    ("max_input_length: 64\nmax_input_length: 128\n", ["第 2 行", "重复"]),
    ("seed: 1\nmodel: {{名字}}\n", ["第 2 行", "加引号"]),
    ("seed: 1\npriced_on: !!timestamp 甲\n", ["写法有误"]),
    ("seed: !!int ''\n", ["写法有误"]),
    ("- a\n- b\n", ["键: 值"]),
    ("", ["键: 值"]),
])
def test_broken_yaml_names_the_line(tmp_path, text, words):
    message = failure(tmp_path, text)
    for word in words:
        assert word in message


def test_missing_file_and_wrong_encoding(tmp_path):
    with pytest.raises(LabError, match="找不到配置文件"):
        load_config(tmp_path / "absent.yaml")
    path = tmp_path / "my.yaml"
    path.write_bytes("# 中文注释\n".encode("gbk"))
    with pytest.raises(LabError, match="UTF-8"):
        load_config(path)


def test_relative_config_path_works_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/lora_tiny.yaml").peft_config.r > 0


def test_override_changes_one_key_and_checks_it():
    config = override(load_config(CONFIGS / "lora_tiny.yaml"), {"max_steps": 7, "r": 4})
    assert (config.training_args.max_steps, config.peft_config.r) == (7, 4)
    with pytest.raises(LabError, match="max_steps"):
        override(config, {"max_step": 7})
    with pytest.raises(LabError, match="整数"):
        override(config, {"max_steps": "7"})
    with pytest.raises(LabError, match="seed 应当不大于"):
        override(config, {"seed": 2**32})
    with pytest.raises(LabError, match="bf16"):
        override(config, {"fp16": True})


def test_defaults_are_not_shared_between_configs(tmp_path):
    first = load_config(write(tmp_path, OFFICIAL))
    first.training_args.max_steps = 1
    assert load_config(write(tmp_path, OFFICIAL)).training_args.max_steps == 3000
