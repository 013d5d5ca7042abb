"""地基：路径与文件、文字、图、设置、报错。"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "errors": ["FAIL", "LabError", "OK", "WARN"],
    "figures": ["AFTER", "BASELINE", "BEFORE", "LabFigure", "use_chinese_font"],
    "files": ["DATA", "rel", "resolve"],
    "settings": ["as_bool"],
    "text": ["normalize"],
})
