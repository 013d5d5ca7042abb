"""整个实验：命令行、逐个运行 notebook、报告、环境检查。

notebook 用到的名字都在这里；第一次用到时才导入它所在的文件，所以 import 本身很快。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "preflight": ["check_environment"],
})
