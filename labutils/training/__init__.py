"""微调：配置、样本、LoRA 训练、续训、内存估算（notebook 02）。"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "callbacks": ["LiveLossCurve"],
    "config": ["load_config", "override"],
    "data": ["PlannedDataset", "read_training"],
    "finetune": ["add_lora", "count_parameters", "find_or_train", "run"],
    "memory": ["CPU", "CUDA_ITSELF", "GPU", "estimate_memory", "memory_report", "size"],
    "questions": ["augment", "question_from_answer"],
})
