"""命令行：labutils run | dataset | finetune | infer | compare | demo | check | export | merge。

重的库（torch、transformers、gradio）都在命令里面才导入，所以 ``labutils --help`` 立刻出现。
用户能改正的错误（LabError、OSError）只打印一句话，不打印调用栈，退出码 1；命令写错时退出码 2。
"""

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from labutils.base.errors import LabError
from labutils.base.system_errors import sentence
from labutils.lab import cli_dataset, cli_demo, cli_models, console

app = typer.Typer(
    name="labutils",
    help="教育行业大模型课程实验：PDF → 问答对 → LoRA 微调 → 对比 → 对话网页。",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Seed = Annotated[int, typer.Option(help="随机种子，同样的种子得到同样的结果")]
ApiModel = Annotated[str, typer.Option(help="造问答对的 API 模型名；空着且没有 --preset 就不调用 API")]
Checkpoint = Annotated[
    str, typer.Argument(help="checkpoint-N 文件夹、模型文件夹或 tiny；不写就用最近一次的结果")
]


@app.command()
def run(
    model: Annotated[str, typer.Option(help="tiny、模型文件夹或网上的“组织/名称”")] = "tiny",
    config: Annotated[str, typer.Option(help="微调配置")] = "configs/lora_tiny.yaml",
    pdf: Annotated[str, typer.Option(help="课程文档")] = "data/source/course_document.pdf",
    qa: Annotated[str, typer.Option(help="问答对（JSON Lines）")] = "data/qa.jsonl",
    seed: Seed = 42,
    out: Annotated[str, typer.Option(help="结果放在这里的 <时间> 文件夹里")] = "runs",
    api_model: ApiModel = "",
    preset: Annotated[str, typer.Option(help="造问答对的服务，configs/api_presets.yaml 里的名字")] = "",
    max_cost: Annotated[
        float, typer.Option(min=0, help="造问答对最多花多少，估算超过就停下；0 不设上限")
    ] = 5.0,
    p: Annotated[
        list[str] | None, typer.Option("-p", help="其他 notebook 参数，写成 名字=值，可重复")
    ] = None,
) -> None:
    """按顺序跑完 00–04 五个 notebook，写出报告 report.html 与摘要 summary.json。"""
    from labutils.lab import lab_run, notebook_parameters, report

    given = notebook_parameters.split_assignments(p or [])
    with console.progress() as (say, on_cell):
        summary = lab_run.run(
            model, config, pdf, qa, seed, out, api_model, given,
            preset=preset, max_cost=max_cost, say=say, on_cell=on_cell,
        )  # fmt: skip
    if not summary["ok"]:
        raise LabError(report.describe_failure(summary["failed"]))
    print(report.verdict(summary)[1])


cli_dataset.register(app)  # 在这里登记，帮助里就排在 run 之后


@app.command()
def finetune(
    data: Annotated[str, typer.Argument(help="含 train.json 与 dev.json 的文件夹")],
    model: Annotated[str, typer.Argument(help="tiny、模型文件夹或网上的“组织/名称”")],
    config: Annotated[str, typer.Argument(help="微调配置（YAML）")],
    resume: Annotated[
        str, typer.Argument(help="auto 自动接着训练；yes 也是，还可把步数改大；no 从头；或检查点的步数")
    ] = "auto",
    out: Annotated[str, typer.Option(help="结果文件夹；不写就用配置里的 output_dir")] = "",
    seed: Annotated[int | None, typer.Option(help="随机种子；不写就用配置里的")] = None,
) -> None:
    """LoRA 微调（notebook 02）。中断后再执行一次同样的命令就接着训练。"""
    choice = _resume_choice(resume)
    from labutils.lab.lab_run import locate, locate_model, locate_output
    from labutils.training import finetune as trainer

    folder = locate_output(out) if out else None
    result = trainer.run(locate(data), locate_model(model), locate(config), folder, choice, seed)
    if not console.process_name():
        print(result)


@app.command()
def infer(
    checkpoint: Checkpoint = "",
    prompt: Annotated[str, typer.Option(help="要问的话；不写就进入多轮对话")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="回答最多多少个 token")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 为贪心，每次回答相同")] = 0.0,
) -> None:
    """用微调后的模型回答（对应课程里的 inference_hf.py）。"""
    source = console.checkpoint_or_newest(checkpoint)
    from labutils.models import inference, models

    model, tokenizer = models.load(source)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature}

    def reply(messages: list[dict]) -> str:
        pieces = []
        for piece in inference.stream(model, tokenizer, messages, **options):
            print(piece, end="", flush=True)
            pieces.append(piece)
        print()
        return "".join(pieces)

    if prompt:
        reply([{"role": "user", "content": prompt}])
    else:
        console.converse(reply)


@app.command()
def compare(
    checkpoint: Annotated[
        str, typer.Argument(help="checkpoint-N 文件夹（适配器）；不写就用最近一次的结果")
    ] = "",
    data: Annotated[
        str, typer.Option(help="含 train.json 与 dev.json 的文件夹；不写就用适配器旁边的，没有就用 data")
    ] = "",
    qa: Annotated[str, typer.Option(help="带要点的问答对；不写就用数据文件夹里的 qa.jsonl")] = "",
    out: Annotated[str, typer.Option(help="结果文件夹")] = "output/comparison",
) -> None:
    """同一批问题在微调前后各答一遍，打分并列表（notebook 03）。"""
    source = console.checkpoint_or_newest(checkpoint)
    from labutils.base import paths
    from labutils.comparison import evaluation
    from labutils.lab.lab_run import locate, locate_output
    from labutils.models import models

    folder = paths.ROOT / locate(data or console.data_beside(source))
    print(f"数据：{paths.rel(folder)}")
    groups = evaluation.load_groups(
        paths.ROOT / locate(qa) if qa else folder / "qa.jsonl", folder, paths.DATA / "probes"
    )
    model, tokenizer = models.load(source)
    target = locate_output(out)
    result = evaluation.compare(model, tokenizer, groups, target)
    print(result.table().to_string())
    for line in [*result.notes, f"全部结果：{paths.rel(target)}"]:
        print(line)


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="要核对的模型文件夹或 tiny；不写就检查环境")] = "",
    config: Annotated[str, typer.Argument(help="微调配置；写了就估算内存")] = "",
    length: Annotated[int, typer.Option(min=0, help="样本的 token 数；0 按配置允许的最长算")] = 0,
    gpu: Annotated[float, typer.Option(min=0, help="按这么大（GiB）的显卡估算；0 是这台机器")] = 0,
) -> None:
    """检查环境；写了模型就核对它的文件、说出它是什么，再写配置就估算微调要多少内存。"""
    from labutils.lab import preflight

    if model:
        from labutils.lab.lab_run import locate, locate_model
        from labutils.models import model_check
        from labutils.training import memory_report

        checks = model_check.check_folder(locate_model(model))
        if config and checks[0].status != preflight.FAIL:
            checks += memory_report.report(locate_model(model), locate(config), length, gpu)
    else:
        checks = preflight.check_environment()
    for item in checks:
        print(item)
    if any(item.status == preflight.FAIL for item in checks):
        raise LabError(f"{'模型' if model else '环境'}还不能用，请先处理上面带 ✗ 的项目。")


cli_demo.register(app)
cli_models.register(app)


def _resume_choice(text: str) -> str | bool | int:
    """课程原命令的第四个参数：yes（没有检查点时从头训练，与原来相同）或步数；另有 auto 与 no。"""
    choices = {"auto": "auto", "": "auto", "yes": "yes", "no": False}
    if text.lower() in choices:
        return choices[text.lower()]
    if text.isdecimal():
        return int(text)
    raise LabError(f"第四个参数 {text} 不对，可以写 auto、yes、no 或检查点的步数，例如 3000。")


def main() -> None:
    """入口：把各种结束方式变成退出码与一句话。"""
    import typer.rich_utils as style

    style.ARGUMENTS_PANEL_TITLE, style.OPTIONS_PANEL_TITLE = "参数", "选项"
    style.COMMANDS_PANEL_TITLE = "命令"
    console.print_anything()
    command = console.let_help_wrap(typer.main.get_command(app))
    try:
        # typer 自己接住 Ctrl-C，只给出退出码 130
        code = command(sys.argv[1:] or ["--help"], standalone_mode=False)
    except LabError as error:
        typer.secho(f"{console.process_name()}{error}", fg="red", err=True)
        code = 1
    except OSError as error:
        typer.secho(f"{console.process_name()}{sentence(error)}", fg="red", err=True)
        code = 1
    except TyperException as error:
        typer.secho(console.usage_sentence(error), fg="red", err=True)
        code = 2
    except (typer.Abort, SystemExit) as error:
        code = getattr(error, "code", 130)
    if code == 130:
        typer.secho("已中断。", fg="yellow", err=True)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
