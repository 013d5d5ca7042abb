"""模型：加载、对话格式、生成、适配器。"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "adapters": ["check_adapter_alive"],
    "chat": ["IGNORE", "encode", "prompt_ids", "stop_ids"],
    "generate": ["answer", "stream"],
    "identify": ["CHATGLM3_6B", "check_folder"],
    "loader": ["load", "pick_device_dtype"],
})
