"""地基：路径与文件、文字、图、设置、报错。

notebook 用到的名字都在这里；第一次用到时才导入它所在的文件，所以 import 本身很快。
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "errors": ["FAIL", "LabError", "OK", "WARN"],
    "figures": ["AFTER", "BASELINE", "BEFORE", "LabFigure", "label", "use_chinese_font"],
    "files": ["DATA", "rel", "resolve"],
    "text": ["normalize"],
})
