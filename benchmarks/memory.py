"""内存估算准不准：``python benchmarks/memory.py``。

每种形状造一个随机权重的模型，在单独的进程里真的训练几步，量出内存峰值，
与 labutils.training.memory 的估算相比。
量法：导入完各个库时的常驻内存为基线；训练开始时把内核记录的峰值清零（/proc/self/clear_refs），
结束时读 VmHWM，减去基线。所以只能在 Linux 上运行。结果写进 benchmarks/memory.json 与 memory.md。
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import labutils  # noqa: F401  先设好环境变量

MIB = 2**20
GLM = {"head_dim": 64, "attention_bias": True, "pad_token_id": 0, "eos_token_id": 2}
# 名字: (结构, 模型的形状, 配置里要改的项)
SHAPES = {
    "glm-52m": ("GlmConfig", {**GLM, "vocab_size": 16000, "hidden_size": 512, "intermediate_size": 1536,
                              "num_hidden_layers": 10, "num_attention_heads": 8, "num_key_value_heads": 2},
                {"per_device_train_batch_size": 8, "max_input_length": 64, "max_output_length": 63,
                 "lora_dropout": 0.0}),  # 没有 dropout：两份同时算
    "glm-165m-checkpointing": (
        "GlmConfig", {**GLM, "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 3072,
                      "num_hidden_layers": 9, "num_attention_heads": 16, "num_key_value_heads": 2},
        {"per_device_train_batch_size": 8, "max_input_length": 128, "max_output_length": 127,
         "gradient_checkpointing": True}),
    "qwen3-88m": (
        "Qwen3Config", {"vocab_size": 48000, "hidden_size": 640, "intermediate_size": 1920, "head_dim": 64,
                        "num_hidden_layers": 12, "num_attention_heads": 10, "num_key_value_heads": 5,
                        "tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 2},
        {"per_device_train_batch_size": 6, "max_input_length": 64, "max_output_length": 127,
         "target_modules": "all-linear", "eval_strategy": "steps", "per_device_eval_batch_size": 12}),
    # 前三种用来定分配器的碎片系数，这一种没有用过
    "llama-61m": (
        "LlamaConfig", {"vocab_size": 24000, "hidden_size": 512, "intermediate_size": 1408,
                        "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 4,
                        "pad_token_id": 0, "eos_token_id": 2},
        {"per_device_train_batch_size": 4, "max_input_length": 64, "max_output_length": 191}),
}
FIXED = {"max_steps": 3, "eval_strategy": "no", "use_cpu": True, "dtype": "fp32", "save_steps": 100,
         "eval_steps": 100, "general_ratio": 0, "unanswerable_ratio": 0, "gradient_checkpointing": False}


def write_model(folder: Path, kind: str, shape: dict) -> None:
    """随机权重的模型，分词器用自带小模型的。"""
    import transformers

    from labutils.models.loader import WEIGHTS

    config = getattr(transformers, kind)(**shape)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(WEIGHTS).save_pretrained(folder)


def write_data(folder: Path, config) -> None:
    """每条都刚好是配置允许的最长：估算按最长的样本算。"""
    question, answer = "问" * (config.max_input_length - 6), "答" * (config.max_output_length + 100)
    row = {"conversations": [{"role": "user", "content": question},
                             {"role": "assistant", "content": answer}]}
    for name in ("train.json", "dev.json"):
        (folder / name).write_text((json.dumps(row, ensure_ascii=False) + "\n") * 24, encoding="utf-8")


def memory_of(key: str) -> int:
    """本进程的 VmRSS（现在）或 VmHWM（峰值），字节。"""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) * 1024


def train_and_measure(folder: Path, changes: dict) -> None:
    """在本进程里训练并打印量到的字节数：{"baseline", "loading", "peak"}。"""
    from transformers import TrainerCallback

    from labutils.base import figures  # noqa: F401
    from labutils.training import finetune  # noqa: F401

    found = {"baseline": memory_of("VmRSS")}

    class Reset(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            found["loading"] = memory_of("VmHWM")
            Path("/proc/self/clear_refs").write_text("5")

        def on_train_end(self, args, state, control, **kwargs):
            found["peak"] = memory_of("VmHWM")

    finetune.run(folder, str(folder / "model"), "configs/lora.yaml", folder / "out", resume=False,
                 callbacks=[Reset()], **changes)
    print(json.dumps(found))


def compare(name: str) -> dict:
    """一种形状的估算与实测，单位 MiB。"""
    import torch
    from transformers import AutoConfig

    from labutils.training import memory
    from labutils.training.config import load_config, override

    kind, shape, changes = SHAPES[name]
    changes = FIXED | changes
    config = override(load_config("configs/lora.yaml"), changes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder / "model", kind, shape)
        write_data(folder, config)
        command = [sys.executable, __file__, "--child", str(folder), json.dumps(changes)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        guess = memory.estimate_memory(AutoConfig.from_pretrained(folder / "model"), config, torch.float32)
    found = json.loads(done.stdout.splitlines()[-1])
    measured = found["peak"] - found["baseline"]
    return {"name": name, "weights": guess.weights // MIB, "estimated": guess.total // MIB,
            "measured": measured // MIB, "loading": (found["loading"] - found["baseline"]) // MIB,
            "baseline": found["baseline"] // MIB, "error": round(guess.total / measured - 1, 3)}


def table(rows: list[dict]) -> str:
    lines = ["| 形状 | 权重 | 估算峰值 | 实测峰值 | 误差 | 载入时实测 |", "|---|---|---|---|---|---|"]
    lines += [f"| {r['name']} | {r['weights']} | {r['estimated']} | {r['measured']} | {r['error']:+.1%} | "
              f"{r['loading']} |" for r in rows]
    return "\n".join(["单位 MiB，已减去导入各个库之后的基线；CPU、fp32、3 步。", "", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--out", default=str(Path(__file__).with_name("memory")))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        train_and_measure(Path(arguments.child[0]), json.loads(arguments.child[1]))
        return
    rows = [compare(name) for name in arguments.shapes]
    Path(arguments.out + ".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    Path(arguments.out + ".md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
