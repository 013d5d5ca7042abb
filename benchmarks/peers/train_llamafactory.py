"""用 LLaMA-Factory 训练一次，由 benchmarks/speed.py 在它自己的环境里启动；只导入那个环境里有的包。

参数是一个 JSON 文件（见 speed.py 的 train_peer）；适配器写进 out，最后一行打印训练用的 CPU 秒。
除了列出的这些，设置都是 LLaMA-Factory 的缺省值（例如它缺省打开梯度检查点）。
"""

import json
import sys
import time
from pathlib import Path

from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback


class Watch(TrainerCallback):
    def on_train_begin(self, *_, **__):
        self.began = time.process_time()

    def on_train_end(self, *_, **__):
        self.cpu = time.process_time() - self.began


job, watch = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Watch()
columns = {"formatting": "sharegpt", "columns": {"messages": "conversations"}, "file_name": "rows.json",
           "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                    "assistant_tag": "assistant"}}
Path(job["data"], "dataset_info.json").write_text(json.dumps({"rows": columns}), encoding="utf-8")
targets = job["targets"] if isinstance(job["targets"], str) else ",".join(job["targets"])
run_exp({"stage": "sft", "do_train": True, "finetuning_type": "lora", "template": "glm4",
         "model_name_or_path": job["model"], "dataset_dir": job["data"], "dataset": "rows",
         "output_dir": job["out"], "disable_shuffling": True, "cutoff_len": 1024, "seed": job["seed"],
         "max_steps": job["steps"], "per_device_train_batch_size": job["batch"], "use_cpu": True,
         "learning_rate": 1.8e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "save_strategy": "no",
         "lora_rank": job["rank"], "lora_alpha": 2 * job["rank"],
         "lora_target": targets.replace("all-linear", "all"), "report_to": "none"}, [watch])
print(json.dumps({"cpu": watch.cpu}))
