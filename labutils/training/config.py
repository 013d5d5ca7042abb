"""微调配置：键名与 ChatGLM3 官方 finetune_demo 的 `configs/lora.yaml` 相同，另有本实验的几项。

一个键照办，或接受但说明它不起作用（notes），或拒绝并说明原因（keys.yaml）。讲解在 notebook 02。
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, StrictBool, StrictInt, StrictStr

from labutils.base import files
from labutils.base.errors import LabError
from labutils.base.settings import Number, build, change, read_yaml, section

Count = Annotated[StrictInt, Field(ge=1, le=10**6)]  # 步数、条数、长度；再大的是写错了，内存也放不下


@section
class DataConfig:
    """data_config 一节。文件名先在数据文件夹里找，再从仓库根目录找。

    general_ratio：每轮里，平均每条问答配多少条通用对话（防遗忘）；
    unanswerable_ratio：平均每条问答配多少条“文件没有写明”的问答（防编造）；
    question_augmentation：一个训练问题被改写的概率，改法见 questions.py；
    question_from_answer：一个训练问题换成由它的回答反过来出的题的概率。
    """

    train_file: StrictStr = "train.json"
    val_file: StrictStr = "dev.json"
    test_file: StrictStr | None = None
    num_proc: Count | None = None
    general_file: StrictStr | None = None
    unanswerable_file: StrictStr | None = None
    general_ratio: Number = Field(0.0, ge=0, le=10)
    unanswerable_ratio: Number = Field(0.0, ge=0, le=10)
    question_augmentation: Number = Field(0.0, ge=0, le=1)
    question_from_answer: Number = Field(0.0, ge=0, le=1)


@section
class GenerationConfig:
    """training_args.generation_config 一节。"""

    max_new_tokens: Count = 512


@section
class TrainingConfig:
    """training_args 一节；名字与 transformers 的 TrainingArguments 相同。

    没有写的项取 transformers 的缺省值（AdamW、线性衰减、裁剪 1.0）。max_steps > 0 时
    num_train_epochs 不起作用；一“轮”是问答各出现一次，再加上按比例混入的对话。
    neftune_noise_alpha：训练时词向量上加多大的均匀噪声（Jain 等 2023，arXiv:2310.05914）。
    """

    output_dir: StrictStr = "./output"
    max_steps: StrictInt = Field(-1, ge=-1, le=10**6)
    num_train_epochs: Number = Field(3.0, ge=0.001, le=10_000)
    learning_rate: Number = Field(5e-5, ge=1e-9, le=1)
    per_device_train_batch_size: Count = 8
    per_device_eval_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    gradient_checkpointing: StrictBool = False
    torch_compile: StrictBool = False  # 先编译再训练，只在 GPU 上起作用
    dataloader_num_workers: StrictInt = Field(0, ge=0, le=128)
    save_strategy: Literal["steps"] = "steps"
    save_steps: Count = 500
    save_total_limit: Count | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    logging_strategy: Literal["steps"] = "steps"
    logging_steps: Count = 10
    eval_strategy: Literal["no", "steps"] = Field(  # 官方用的是旧名
        "steps", validation_alias=AliasChoices("eval_strategy", "evaluation_strategy"))
    eval_steps: Count = 500
    predict_with_generate: StrictBool = False
    generation_config: GenerationConfig = Field(default_factory=GenerationConfig)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: Number = Field(0.0, ge=0)
    weight_decay: Number = Field(0.0, ge=0, le=1)
    max_grad_norm: Number = Field(1.0, ge=0)
    neftune_noise_alpha: Number | None = Field(None, ge=0, le=1000)
    adam_beta1: Number = Field(0.9, ge=0, le=0.999999)
    adam_beta2: Number = Field(0.999, ge=0, le=0.999999)
    adam_epsilon: Number = Field(1e-8, ge=1e-15, le=1)  # 0 会得到 0÷0
    seed: StrictInt = Field(42, ge=0, le=2**32 - 1)  # numpy 只收这么大的
    use_cpu: StrictBool = False


def _peft_type(value: Any) -> Any:
    if value != "LORA":
        raise ValueError("只能是 LORA（P-Tuning v2、冻结部分层等方法改的是模型的结构或全部权重，"
                         "本实验的保存、合并与对比都只做 LoRA）")
    return value


def _module_names(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or {type(name) for name in names} != {str}:
        raise ValueError("应当是 all-linear 或层名的列表，例如 [q_proj, v_proj]")
    return value if value == "all-linear" else names


@section
class PeftSection:
    """peft_config 一节。target_modules 可以是 "all-linear" 或线性层名字的列表，见 lora_targets。

    shared_a：同一层的 q、k、v 是否共用一个 A 矩阵；官方的 query_key_value 是一个合起来的层，
    共用 A 才与它是同一个模型。不写时按 lora_targets 的规则。
    """

    peft_type: Annotated[str, BeforeValidator(_peft_type)] = "LORA"
    task_type: Literal["CAUSAL_LM"] = "CAUSAL_LM"
    r: StrictInt = Field(8, ge=1, le=4096)
    lora_alpha: Number = Field(32.0, ge=1e-6, le=1e6)
    lora_dropout: Number = Field(0.1, ge=0, le=0.99)
    target_modules: Annotated[Any, BeforeValidator(_module_names)] = ("q_proj", "k_proj", "v_proj")
    shared_a: StrictBool | None = None


def lora_targets(section: PeftSection, chatglm3: bool) -> tuple[str | list[str], bool]:
    """(给哪些层加 LoRA, q、k、v 是否共用 A)；含 query_key_value 时共用。

    没有写 target_modules 时（缺省值是元组）：ChatGLM3 取官方的 query_key_value，别的模型给所有线性层都加。
    """
    targets = section.target_modules
    if isinstance(targets, tuple):
        targets = ["query_key_value"] if chatglm3 else "all-linear"
    shared = "query_key_value" in targets if section.shared_a is None else section.shared_a
    return targets, shared


@section
class Config:
    """整份配置。path 是来源文件；notes 是“接受但不起作用”的说明，训练开始时打印。"""

    data_config: DataConfig = Field(default_factory=DataConfig)
    training_args: TrainingConfig = Field(default_factory=TrainingConfig)
    peft_config: PeftSection = Field(default_factory=PeftSection)
    max_input_length: StrictInt = Field(256, ge=8, le=10**6)
    max_output_length: Count = 512
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    quantization: Literal["4bit"] | None = None
    path: Path | None = Field(None, init=False)
    notes: list[str] = Field(default_factory=list, init=False)

    @property
    def max_length(self) -> int:
        """一条样本最多多少个 token：与官方脚本相同，输入 + 输出 + 1。"""
        return self.max_input_length + self.max_output_length + 1


REFUSED, IDLE = read_yaml(Path(__file__).with_name("keys.yaml")).values()  # 不照办的键 → 原因


def load_config(path: str | Path) -> Config:
    """读一份 YAML 配置；打不开、语法错（带行号）、键不认识或不支持、类型或范围不对时引发 LabError。"""
    path = files.resolve(path)
    where, content = f"配置 {files.rel(path)}", read_yaml(path)
    notes = _sort_out(content, where)
    if "peft_config" not in content:
        notes.append("没有写 peft_config：官方程序会训练全部参数，这里用缺省的 LoRA")
    config = build(Config, content, where)
    config.path, config.notes = path, notes
    _check_together(config, where)
    return config


def override(config: Config, values: dict[str, Any]) -> Config:
    """按键名改几项（例如 max_steps=20），检查与读文件时相同；返回同一个 config。"""
    where, values = "run() 参数", dict(values)
    config.notes += _sort_out(values, where)
    sections = [config.training_args, config.data_config, config.peft_config, config]
    for key, value in values.items():
        change(sections, key, value, where)
    _check_together(config, where)
    return config


def _sort_out(content: dict[Any, Any], where: str, prefix: str = "") -> list[str]:
    """不支持的键引发 LabError（写了“不用”等于没写，从 content 里去掉）；返回不起作用的键的说明。"""
    notes = []
    for key, value in list(content.items()):
        if key in REFUSED:
            if value not in (None, False, "", "none", "no", "off", []):
                raise LabError(f"{where} 的 {prefix}{key} 不被支持：{REFUSED[key]}")
            del content[key]
        elif isinstance(value, dict):
            notes += _sort_out(value, where, f"{prefix}{key}.")
        elif key in IDLE and (value is True or value not in (None, False, 1)):
            notes.append(f"{prefix}{key} 不起作用：{IDLE[key]}")
    return notes


def _check_together(config: Config, where: str) -> None:
    """单看都对、放在一起不对的情形。"""
    data, training = config.data_config, config.training_args
    if training.max_steps == 0:
        raise LabError(f"{where} 的 max_steps 不能是 0；写正整数，或写 -1 按轮数计算")
    for name in ("general", "unanswerable"):
        if getattr(data, f"{name}_ratio") > 0 and not getattr(data, f"{name}_file"):
            raise LabError(f"{where} 写了 {name}_ratio，还需要写 data_config.{name}_file")
