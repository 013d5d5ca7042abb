"""命令行里打开对话网页的一条：labutils demo。由 cli 登记。"""

import os
from typing import Annotated

import typer

from labutils.base.errors import LabError
from labutils.lab import console


def register(app: typer.Typer) -> None:
    """把这里的命令加进 app。"""
    app.command()(demo)


def demo(
    checkpoint: Annotated[
        str, typer.Argument(help="checkpoint-N 文件夹、模型文件夹或 tiny；不写就用最近一次的结果")
    ] = "",
    adapter: Annotated[str, typer.Option(help="适配器文件夹，与直接写检查点相同")] = "",
    port: Annotated[int, typer.Option(help="端口；0 是 8080 或它后面第一个空的")] = 0,
    host: Annotated[str, typer.Option(help="0.0.0.0 让局域网能访问，要密码")] = "127.0.0.1",
    share: Annotated[bool, typer.Option("--share", help="生成临时的公网链接，要密码")] = False,
    auth: Annotated[
        str, typer.Option(help="用户名:密码；同一台机器上的人看得到命令行，改用 LAB_DEMO_AUTH 更稳妥")
    ] = "",
    endpoint: Annotated[str, typer.Option(help="不载入模型，问这个兼容 OpenAI 接口的服务器")] = "",
    model: Annotated[str, typer.Option(help="服务器上的模型名，与 --endpoint 一起写")] = "",
    qa: Annotated[
        str, typer.Option(help="问答数据：出处和例子从这里来；不写就用适配器旁边 data 里的，没有就用自带的")
    ] = "",
    feedback: Annotated[
        str, typer.Option(help="评价与改正存进这个文件")
    ] = "output/feedback.jsonl",
) -> None:
    """打开对话网页（notebook 04）。

    也认课程原来的环境变量 MODEL_PATH、TOKENIZER_PATH、CG_APP_ROUTE_PATH；密码也可以用
    LAB_DEMO_AUTH=用户名:密码 指定，用 --share 或 --host 对外开放时不指定就自动生成；
    服务器的密钥用 OPENAI_API_KEY。
    """
    if adapter and checkpoint:
        raise LabError("检查点与 --adapter 只写一个。")
    checkpoint = checkpoint or adapter
    if bool(endpoint) != bool(model) or (endpoint and checkpoint):
        raise LabError("--endpoint 与 --model 要一起写，而且不能再写检查点。")
    source = None if endpoint else _source(checkpoint)
    qa = qa or f"{console.data_beside(source) if source else 'data'}/qa.jsonl"
    from labutils.demo import web_demo
    from labutils.demo.endpoint import Endpoint
    from labutils.lab.lab_run import locate

    web_demo.serve(
        source,
        os.environ.get("TOKENIZER_PATH"),
        host=host,
        port=port or None,
        root_path=os.environ.get("CG_APP_ROUTE_PATH"),
        share=share,
        auth=web_demo.parse_auth(auth, "--auth"),
        endpoint=Endpoint(endpoint, model) if endpoint else None,
        qa=locate(qa),
        feedback=locate(feedback),
    )


def _source(checkpoint: str) -> str:
    if checkpoint or not os.environ.get("MODEL_PATH"):
        return console.checkpoint_or_newest(checkpoint)
    return os.environ["MODEL_PATH"]
