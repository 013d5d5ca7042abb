"""整个实验：命令行、逐个运行 notebook、报告、环境检查。"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "preflight": ["check_environment"],
})
