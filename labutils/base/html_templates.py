"""网页与笔记本表格的模板：只在这里建 jinja2 环境，一切变量都自动转义，绝不当作标签执行。"""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str, **functions: Any) -> Template:
    """labutils 里名为 name 的模板；functions 在模板里可以当函数，也可以当过滤器。"""
    environment = Environment(
        loader=PackageLoader("labutils", ""), autoescape=True, undefined=StrictUndefined)
    environment.globals |= functions
    environment.filters |= functions
    return environment.get_template(name)


def without_blank_lines(html: str) -> str:
    """去掉空行：它们会让某些 Markdown 查看器把笔记本里的表格截断。"""
    return re.sub(r"\n\s*\n+", "\n", html)
