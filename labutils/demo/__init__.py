"""演示：边生成边显示的对话网页（notebook 04）。"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "engine": ["GUARD", "show_answer", "show_question"],
    "server": ["check_port", "in_jupyter", "launch", "local_without_proxy"],
})
