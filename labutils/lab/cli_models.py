"""命令行里与模型文件夹有关的两条：labutils export、labutils merge。由 cli 登记。"""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """把这里的命令加进 app。"""
    app.command()(export)
    app.command()(merge)


def export(
    model: Annotated[str, typer.Argument(help="官方 ChatGLM3 文件夹，或在它上面训练的适配器")],
    out: Annotated[str, typer.Argument(help="写到这个文件夹，必须是新的")],
) -> None:
    """官方 ChatGLM3 文件夹换成原生格式；适配器换成官方的 query_key_value 写法。"""
    from labutils.lab.lab_run import locate_model, locate_output
    from labutils.models import export as exporter

    print(exporter.export(locate_model(model), locate_output(out)))


def merge(
    checkpoint: Annotated[str, typer.Argument(help="checkpoint-N 文件夹")],
    out: Annotated[str, typer.Argument(help="写到这个文件夹，必须是新的")],
    dtype: Annotated[
        str, typer.Option(help="写成 float32、bfloat16 或 float16；不写就与基座相同")
    ] = "",
) -> None:
    """把适配器合并进基座，写成 transformers 与 vLLM 直接能读的文件夹。"""
    from labutils.lab.lab_run import locate_model, locate_output
    from labutils.models import export as exporter

    print(exporter.merge(locate_model(checkpoint), locate_output(out), dtype or None))
