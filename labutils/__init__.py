"""课程实验的小工具包：文档 → 问答对 → 词元 → 适配器 → 对比 → 演示。

环境变量必须在导入 torch、transformers、gradio 之前设好，所以放在包的入口，
notebook 里先 ``import labutils`` 再导入其他库即可。各站的 __init__ 列着 notebook 用到的名字，用到时才导入。
"""

import os
import warnings

# 小模型的矩阵很小,多线程的空转等待会让它慢几十倍。
os.environ.setdefault("OMP_NUM_THREADS", "1")
# 默认不联网:自带模型不需要下载;用户指定网上的模型时由 models.load 放开。
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# gradio 每答完一次就把最近一万次调用重新统计一遍（只给它的监控页看）：人一多就拖慢生成。
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")

# peft 每次包装模型都会触发这条与学生无关、还带机器路径的提醒。
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
# peft 只拿层名去对，专家的权重对不上就提醒，其实用上了
warnings.filterwarnings("ignore", message=".*_pattern keys did not match any targeted module.*")

__version__ = "0.1.0"
