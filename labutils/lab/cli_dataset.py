"""命令行里造数据集的一条：labutils dataset。由 cli 登记。"""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from labutils.base.errors import LabError


def register(app: typer.Typer) -> None:
    """把这里的命令加进 app。"""
    app.command()(dataset)


def dataset(
    pdf: Annotated[str, typer.Argument(help="要读的 PDF")] = "data/source/course_document.pdf",
    qa: Annotated[str, typer.Option(help="现成的问答对（JSON Lines）")] = "data/qa.jsonl",
    out: Annotated[str, typer.Option(help="实验文件夹；数据写进它的 data/")] = "output/lab",
    api_model: Annotated[str, typer.Option(help="出题的大模型名；空着且没有 --preset 就用 --qa 的问答")] = "",
    seed: Annotated[int, typer.Option(help="随机种子，同样的种子得到同样的结果")] = 42,
    feedback: Annotated[
        str, typer.Option(help="网页存下的评价与改正，例如 output/feedback.jsonl；合格的作为新问答加进来")
    ] = "",
    preset: Annotated[
        str, typer.Option(help="用哪个服务：openai、zhipu、deepseek、qwen、ollama、vllm，"
                               "或自己加进 configs/api_presets.yaml 的")
    ] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="同时发几个请求")] = 4,
    max_cost: Annotated[
        float, typer.Option(min=0, help="估算超过这么多（币种见预设）或算不出多少钱，就先问一句")
    ] = 5.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="超过 --max-cost 也不问，直接做")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="只再问上次失败的块")] = False,
    unanswerable: Annotated[int, typer.Option(min=0, help="另出几个“没有写明”的问题，单独成文件")] = 0,
) -> None:
    """从 PDF 与问答对做出 train.json 和 dev.json（notebook 01）。

    给了 --preset 或 --api-model 就请大模型出题；随时可以按 Ctrl-C，再执行同样的命令会接着做，不重复花钱。
    """
    from labutils.dataset import dataset_build
    from labutils.lab.lab_run import locate, locate_output

    api = {"preset": preset, "concurrency": concurrency, "max_cost": max_cost,
           "confirm": _confirm(yes), "retry_failed": retry_failed, "unanswerable": unanswerable}
    dataset_build.build(
        locate(pdf), locate(qa) if qa else None, locate_output(out), api_model, seed,
        locate(feedback) if feedback else None, **api)


def _confirm(yes: bool) -> Callable[[str], bool]:
    """花钱之前怎么问：--yes 不问；不在终端里没法问，说明要加 --yes。"""

    def ask(question: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            reason = question.removesuffix("继续吗？")
            raise LabError(f"{reason}不在终端里，没法问你；同意就加上 --yes 再运行。")
        return typer.confirm(question)

    return ask
