"""用官方的 finetune_demo/finetune_hf.py 训练一次，由 benchmarks/speed.py 在它自己的环境里启动。

参数是一个 JSON 文件（见 speed.py 的 train_peer），peer 的第二项是 finetune_demo 文件夹；配置用其中的
lora.yaml，只改步数、批、学习率这些。官方的代码一字不改：训练一完就把适配器写进 out，打印训练用的 CPU 秒，
不再做后面的测验。
"""

import json
import sys
import time
from pathlib import Path

job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
demo = job["peer"][1]
sys.path.insert(0, demo)

import finetune_hf  # noqa: E402
from ruamel.yaml import YAML  # noqa: E402


class Timed(finetune_hf.Seq2SeqTrainer):
    def train(self, *arguments, **options):
        began = time.process_time()
        super().train(*arguments, **options)
        print(json.dumps({"cpu": time.process_time() - began}))
        self.save_model(job["out"])
        raise SystemExit


finetune_hf.Seq2SeqTrainer = Timed
plan = YAML(typ="safe").load(Path(demo, "configs", "lora.yaml").read_text(encoding="utf-8"))
plan["data_config"] = dict.fromkeys(("train_file", "val_file", "test_file"), "rows.json") | {"num_proc": 1}
plan["training_args"] |= {
    "output_dir": job["out"], "max_steps": job["steps"], "per_device_train_batch_size": job["batch"],
    "learning_rate": 1.8e-3, "seed": job["seed"], "use_cpu": True, "dataloader_num_workers": 0,
    "save_strategy": "no", "logging_steps": job["steps"],
    "eval_steps": 2 * job["steps"]}  # 关掉评测它就不读验证集，接着出错；隔这么多步等于不评
plan["max_input_length"], plan["max_output_length"] = 511, 512
plan["peft_config"] |= {"r": job["rank"], "lora_alpha": 2 * job["rank"], "lora_dropout": 0.0}
config = Path(job["data"], "official.yaml")
with config.open("w", encoding="utf-8") as file:
    YAML().dump(plan, file)
finetune_hf.main(job["data"], job["model"], str(config), "")
