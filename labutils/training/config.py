"""微调配置：键名与 ChatGLM3 官方 finetune_demo 的 `configs/lora.yaml` 相同，另有本实验的几项。

三种处理，没有第四种：照办；接受但说明它在这里不起作用（Config.notes）；拒绝并说明原因（LabError）。
讲解在 notebooks/02_lora_finetune.ipynb。
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labutils.base import files
from labutils.base.errors import LabError
from labutils.base.settings import Reader, item, read_yaml, rules_of

STRATEGIES = ("no", "steps")
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")


@dataclass
class DataConfig:
    """data_config 一节。文件名先在数据文件夹里找，再从仓库根目录找。

    general_ratio：每轮里，平均每条问答配多少条通用对话（防遗忘）；
    unanswerable_ratio：平均每条问答配多少条“文件没有写明”的问答（防编造）；
    question_augmentation：一个训练问题被改写的概率，改法见 augmentation.py；
    question_from_answer：一个训练问题换成由它的回答反过来出的题的概率。
    """

    train_file: str = item("train.json", str)
    val_file: str = item("dev.json", str)
    test_file: str | None = item(None, str, note="测试留给 labutils compare，训练时不读")
    num_proc: int | None = item(None, int, 1, note="几百条数据在主进程里编码只要几毫秒，不开多进程")
    general_file: str | None = item(None, str)
    unanswerable_file: str | None = item(None, str)
    general_ratio: float = item(0.0, float, 0, 10)
    unanswerable_ratio: float = item(0.0, float, 0, 10)
    question_augmentation: float = item(0.0, float, 0, 1)
    question_from_answer: float = item(0.0, float, 0, 1)


@dataclass
class GenerationConfig:
    """training_args.generation_config 一节。"""

    max_new_tokens: int = item(512, int, 1, note="训练中不生成，见 labutils compare")


@dataclass
class TrainingConfig:
    """training_args 一节；名字与 transformers 的 TrainingArguments 相同。

    没有写的项取 transformers 的缺省值（AdamW、线性衰减、裁剪 1.0）。max_steps > 0 时
    num_train_epochs 不起作用；一“轮”是问答各出现一次，再加上按比例混入的对话。
    neftune_noise_alpha：训练时词向量上加多大的均匀噪声（Jain 等 2023，arXiv:2310.05914）。
    """

    output_dir: str = item("./output", str)
    max_steps: int = item(-1, int, -1)
    num_train_epochs: float = item(3.0, float, 0.001)
    learning_rate: float = item(5e-5, float, 1e-9, 1)
    per_device_train_batch_size: int = item(8, int, 1)
    per_device_eval_batch_size: int = item(8, int, 1)
    gradient_accumulation_steps: int = item(1, int, 1)
    gradient_checkpointing: bool = item(False, bool)
    dataloader_num_workers: int = item(0, int, 0)
    remove_unused_columns: bool = item(False, bool)
    group_by_length: bool = item(False, bool)
    save_strategy: str = item("steps", str, choices=("steps",))
    save_steps: int = item(500, int, 1)
    save_total_limit: int | None = item(None, int, 1)
    log_level: str = item("warning", str, choices=("debug", "info", "warning", "error"))
    logging_strategy: str = item("steps", str, choices=("steps",))
    logging_steps: int = item(10, int, 1)
    eval_strategy: str = item("steps", str, choices=STRATEGIES)
    eval_steps: int = item(500, int, 1)
    predict_with_generate: bool = item(False, bool, note="生成式评测在 labutils compare 里做")
    generation_config: GenerationConfig = field(default_factory=GenerationConfig)
    lr_scheduler_type: str = item("linear", str, choices=SCHEDULES)
    warmup_steps: float = item(0.0, float, 0)
    weight_decay: float = item(0.0, float, 0, 1)
    max_grad_norm: float = item(1.0, float, 0)
    neftune_noise_alpha: float | None = item(None, float, 0)
    adam_beta1: float = item(0.9, float, 0, 1)
    adam_beta2: float = item(0.999, float, 0, 1)
    adam_epsilon: float = item(1e-8, float, 0, 1)
    seed: int = item(42, int, 0)
    use_cpu: bool = item(False, bool)


def _peft_type(value: Any, where: str) -> str:
    if value != "LORA":
        raise LabError(f"{where} 只能是 LORA，现在是 {value!r}：P-Tuning v2、冻结部分层等方法改的是模型的"
                       "结构或全部权重，本实验的保存、合并与对比都只做 LoRA")
    return value


def _module_names(value: Any, where: str) -> str | list[str]:
    if value == "all-linear":
        return value
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise LabError(f"{where} 应当是 all-linear 或层名的列表，例如 [q_proj, v_proj]")
    return names


@dataclass
class PeftSection:
    """peft_config 一节。target_modules 可以是 "all-linear" 或线性层名字的列表，见 lora_targets。

    shared_a：同一层的 q、k、v 是否共用一个 A 矩阵；官方的 query_key_value 是一个合起来的层，
    共用 A 才与它是同一个模型。不写时按 lora_targets 的规则。
    """

    peft_type: str = item("LORA", str, convert=_peft_type)
    task_type: str = item("CAUSAL_LM", str, choices=("CAUSAL_LM",))
    r: int = item(8, int, 1)
    lora_alpha: float = item(32.0, float, 1e-6)
    lora_dropout: float = item(0.1, float, 0, 0.99)
    target_modules: Any = item(("q_proj", "k_proj", "v_proj"), list, convert=_module_names)
    shared_a: bool | None = item(None, bool)


def lora_targets(section: PeftSection, chatglm3: bool) -> tuple[str | list[str], bool]:
    """(给哪些层加 LoRA, q、k、v 是否共用 A)。

    没有写 target_modules 时（缺省值是元组，写出来的总是列表或文字）：ChatGLM3 取官方的
    query_key_value；别的模型给所有线性层都加。写了就照写的；含 query_key_value 时共用 A。
    """
    targets = section.target_modules
    if isinstance(targets, tuple):
        targets = ["query_key_value"] if chatglm3 else "all-linear"
    shared = "query_key_value" in targets if section.shared_a is None else section.shared_a
    return targets, shared


@dataclass
class Config:
    """整份配置。path 是来源文件；notes 是“接受但不起作用”的说明，训练开始时打印。"""

    data_config: DataConfig = field(default_factory=DataConfig)
    training_args: TrainingConfig = field(default_factory=TrainingConfig)
    peft_config: PeftSection = field(default_factory=PeftSection)
    max_input_length: int = item(256, int, 8)
    max_output_length: int = item(512, int, 1)
    dtype: str = item("auto", str, choices=("auto", "fp32", "bf16"))
    quantization: str | None = item(None, str, choices=("4bit",))
    path: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def max_length(self) -> int:
        """一条样本最多多少个 token：与官方脚本相同，输入 + 输出 + 1。"""
        return self.max_input_length + self.max_output_length + 1

    def as_dict(self) -> dict[str, Any]:
        """只含配置项的嵌套字典（不含 path 与 notes），写进 run.json 供续训时比较。"""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if key not in ("path", "notes")}


ALIASES = {"evaluation_strategy": "eval_strategy", "warmup_ratio": "warmup_steps",
           "activation_checkpointing": "gradient_checkpointing"}
REFUSED = {
    "deepspeed": "LoRA 用不到 DeepSpeed；多卡请用 accelerate launch 和 configs/accelerate/ 里的文件",
    "fp16": "半精度训练没有损失缩放会得到 0 或 nan；请用顶层的 dtype: bf16",
    "bf16": "精度写在顶层：dtype: auto、fp32 或 bf16",
    "fsdp": "FSDP 的设置写在 configs/accelerate/ 里，用 accelerate launch 启动",
    "fsdp_config": "FSDP 的设置写在 configs/accelerate/ 里，用 accelerate launch 启动",
    "load_in_4bit": "请用顶层的 quantization: 4bit",
    "load_in_8bit": "只支持 4 位：顶层的 quantization: 4bit",
    "debug": "调试开关不在课程范围内",
    "load_best_model_at_end": "小数据上验证集损失最低的检查点不等于答得最准；结果取最后一个检查点",
    "push_to_hub": "本实验不向任何网站上传",
    "report_to": "本实验不向任何网站上报；日志在 training_log.jsonl",
    "num_virtual_tokens": "P-Tuning v2 在原生 GLM 上不受支持；请用 peft_type: LORA",
}


def load_config(path: str | Path) -> Config:
    """读一份 YAML 配置。

    引发 LabError：文件不存在、不是 UTF-8、YAML 语法错（带行号）、键不认识（给出最相近的键）、
    类型或范围不对、要求了本实验不支持的功能。
    """
    path = files.resolve(path)
    config = Config(path=path)
    reader = Reader(f"配置 {files.rel(path)}", ALIASES, REFUSED)
    content = read_yaml(path)
    reader.fill(config, content)
    config.notes = reader.notes
    if "peft_config" not in content:
        config.notes.append("没有写 peft_config：官方程序会训练全部参数，这里用缺省的 LoRA")
    _check_together(config, reader.where)
    return config


def override(config: Config, values: dict[str, Any]) -> Config:
    """按键名改几项（例如 max_steps=20），检查与读文件时相同；返回同一个 config。"""
    reader = Reader("run() 参数", ALIASES, REFUSED)
    sections = [config.training_args, config.data_config, config.peft_config, config]
    for key, value in values.items():
        name = ALIASES.get(key, key)
        owner = next((part for part in sections if name in rules_of(part)), config)
        if owner is config and name not in rules_of(config) and key not in REFUSED:
            raise LabError(reader.unknown(key, [n for part in sections for n in rules_of(part)]))
        reader.fill(owner, {key: value})
    config.notes += reader.notes
    _check_together(config, reader.where)
    return config


def _check_together(config: Config, where: str) -> None:
    """单看都对、放在一起不对的情形。"""
    data, training = config.data_config, config.training_args
    if training.max_steps == 0:
        raise LabError(f"{where} 的 max_steps 不能是 0；写正整数，或写 -1 按轮数计算")
    if training.remove_unused_columns:
        raise LabError(f"{where} 的 remove_unused_columns 必须是 false，否则标签会被丢掉")
    for name in ("general", "unanswerable"):
        if getattr(data, f"{name}_ratio") > 0 and not getattr(data, f"{name}_file"):
            raise LabError(f"{where} 写了 {name}_ratio，还需要写 data_config.{name}_file")
