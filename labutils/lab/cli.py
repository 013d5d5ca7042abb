"""命令行：labutils run | dataset | finetune | infer | compare | check | demo | merge。

重的库（torch、transformers、gradio）都在命令里面才导入，所以 ``labutils --help`` 立刻出现。
用户能改正的错误（LabError、OSError）只打印一句话，不打印调用栈，退出码 1；命令写错时退出码 2。
"""

import os
import sys
from functools import partial
from typing import Annotated

import typer
from typer import Argument, Option
from typer.exceptions import TyperException

from labutils.base import files
from labutils.base.errors import FAIL, LabError
from labutils.base.text import Cut
from labutils.lab import console

app = typer.Typer(
    name="labutils", help="教育行业大模型课程实验：PDF → 问答对 → LoRA 微调 → 对比 → 对话网页。",
    add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]})


def _good_config(path: str) -> str:
    """原样返回；没有这个配置、写得不对时引发 LabError。"""
    from labutils.training.config import load_config

    if path:
        load_config(files.resolve(path))
    return path


# 文件先看有没有、配置先看对不对：写错了立刻说，不必等 torch 导入完
File = partial(Option, callback=files.existing)
Seed = Annotated[int, Option(help="随机种子，同样的种子得到同样的结果")]
Checkpoint = Annotated[str, Argument(help="checkpoint-N 文件夹、模型文件夹或 tiny；不写就用最近一次的结果")]
Limit = Annotated[int, Option("--max-new-tokens", min=1, help="回答最多多少个 token")]


@app.command()
def run(
    model: Annotated[str, Option(
        help="tiny、模型文件夹或网上的“组织/名称”", callback=files.existing_model)] = "tiny",
    config: Annotated[str, Option(help="微调配置", callback=_good_config)] = "configs/lora_tiny.yaml",
    pdf: Annotated[str, File(help="课程文档")] = "data/source/course_document.pdf",
    qa: Annotated[str, File(help="问答对（JSON Lines）")] = "data/qa.jsonl",
    seed: Seed = 42,
    out: Annotated[str, Option(help="结果放在这里的 <时间> 文件夹里")] = "runs",
    api_model: Annotated[str, Option(help="造问答对的 API 模型名；空着且没有 --preset 就不调用 API")] = "",
    preset: Annotated[str, Option(help="造问答对的服务，configs/api_presets.yaml 里的名字")] = "",
    max_cost: Annotated[float, Option(min=0, help="造问答对最多花多少，估算超过就停下；0 不设上限")] = 5.0,
    p: Annotated[list[str] | None, Option("-p", help="其他 notebook 参数，写成 名字=值，可重复")] = None,
    everything: Annotated[bool, Option("--all", help="选读的 05、06 也跑")] = False,
) -> None:
    """按顺序跑完 00–04 五个 notebook，写出报告 report.html 与摘要 summary.json。"""
    from labutils.lab import report
    from labutils.lab import run as lab_run

    given = lab_run.split_assignments(p or [])
    summary = lab_run.run(model, config, pdf, qa, seed, out, api_model, given,
                          preset=preset, max_cost=max_cost, everything=everything)
    if not summary["ok"]:
        raise LabError(report.describe_failure(summary["failed"]))
    print(report.verdict(summary)[1], *summary["notes"], sep="\n")


@app.command()
def dataset(
    pdf: Annotated[str, Argument(
        help="要读的 PDF", callback=files.existing)] = "data/source/course_document.pdf",
    qa: Annotated[str, File(help="现成的问答对（JSON Lines，或从对话窗口复制来的回复）")] = "data/qa.jsonl",
    out: Annotated[str, Option(help="实验文件夹；数据写进它的 data/")] = "output/lab",
    api_model: Annotated[str, Option(help="出题的大模型名；空着且没有 --preset 就用 --qa 的问答")] = "",
    seed: Seed = 42,
    feedback: Annotated[str, File(
        help="网页存下的评价与改正，例如 output/feedback.jsonl；合格的作为新问答加进来")] = "",
    preset: Annotated[str, Option(
        help="用哪个服务：openai、zhipu、deepseek、qwen、ollama、vllm，"
             "或自己加进 configs/api_presets.yaml 的")] = "",
    concurrency: Annotated[int, Option(min=1, help="同时发几个请求")] = 4,
    max_cost: Annotated[float, Option(
        min=0, help="估算超过这么多（币种见预设）或算不出多少钱，就先问一句")] = 5.0,
    yes: Annotated[bool, Option("--yes", "-y", help="超过 --max-cost 也不问，直接做")] = False,
    retry_failed: Annotated[bool, Option("--retry-failed", help="只再问上次失败的块")] = False,
    unanswerable: Annotated[int, Option(min=0, help="另出几个“没有写明”的问题，三个留一个测试，要人看")] = 0,
    student: Annotated[str, Option(help="学号：照它编一份文档和问答，代替 PDF 与 --qa")] = "",
) -> None:
    """从 PDF 与问答对做出 train.json 和 dev.json（notebook 01）。

    给了 --preset 或 --api-model 就请大模型出题；随时可以按 Ctrl-C，再执行同样的命令会接着做，不重复花钱。
    """
    from labutils.dataset import build
    from labutils.training.questions import write_student

    if student:
        pdf, qa = write_student(student, out)
    build.build_dataset(
        pdf, qa or None, files.place(out), api_model, seed,
        feedback or None, preset=preset, concurrency=concurrency, max_cost=max_cost,
        confirm=partial(_confirm, yes), retry_failed=retry_failed, unanswerable=unanswerable)


def _confirm(yes: bool, problem: str) -> bool:
    """花钱之前怎么问：--yes 不问；不在终端里没法问，说明要加 --yes。"""
    if not yes and not sys.stdin.isatty():
        raise LabError(f"{problem}不在终端里，没法问你；同意就加上 --yes 再运行。")
    return yes or typer.confirm(f"{problem}继续吗？")


@app.command()
def finetune(
    data: Annotated[str, Argument(help="含 train.json 与 dev.json 的文件夹", callback=files.existing)],
    model: Annotated[str, Argument(
        help="tiny、模型文件夹或网上的“组织/名称”", callback=files.existing_model)],
    config: Annotated[str, Argument(help="微调配置（YAML）", callback=_good_config)],
    resume: Annotated[str, Argument(help="auto 或 yes 接着训练，no 从头；或从哪一步接着")] = "auto",
    out: Annotated[str, Option(help="结果文件夹；不写就用配置里的 output_dir")] = "",
    seed: Annotated[int | None, Option(help="随机种子；不写就用配置里的")] = None,
) -> None:
    """LoRA 微调（notebook 02）。中断后再执行一次同样的命令就接着训练。"""
    choice = _resume_choice(resume)
    from labutils.training import finetune as trainer

    result = trainer.run(data, model, config, files.place(out) if out else None, choice, seed)
    print(result)


def _resume_choice(text: str) -> str | int:
    """课程原命令的第四个参数：yes（没有检查点时从头训练，与原来相同）或步数；另有 auto 与 no。"""
    choices = {"auto": "auto", "": "auto", "yes": "auto", "no": False}
    if text.lower() in choices:
        return choices[text.lower()]
    if text.isdecimal():
        return int(text)
    raise LabError(f"第四个参数 {text} 不对，可以写 auto、yes、no 或检查点的步数，例如 3000。")


@app.command()
def infer(
    checkpoint: Checkpoint = "",
    prompt: Annotated[str, Option(help="要问的话；不写就进入多轮对话")] = "",
    max_new_tokens: Limit = 128,
    temperature: Annotated[float, Option(min=0, help="0 为贪心，每次回答相同")] = 0.0,
) -> None:
    """用微调后的模型回答（对应课程里的 inference_hf.py）。"""
    source = console.checkpoint_or_newest(checkpoint)
    from labutils.models import generate, loader

    model, tokenizer = loader.load(source)

    def reply(messages: list[dict]) -> str:
        pieces = []
        for piece in generate.stream(model, tokenizer, messages, max_new_tokens=max_new_tokens,
                                     temperature=temperature):
            print(piece, end="", flush=True)
            pieces += [] if isinstance(piece, Cut) else [piece]  # 没有说完的提示不是回答，不进历史
        print()
        return "".join(pieces)

    if prompt:
        reply([{"role": "user", "content": prompt}])
    else:
        console.converse(reply)


@app.command()
def compare(
    checkpoint: Annotated[str, Argument(help="checkpoint-N 文件夹（适配器）；不写就用最近一次的结果")] = "",
    data: Annotated[str, Option(
        help="含 train.json 与 dev.json 的文件夹；不写就用适配器旁边的，没有就用 data")] = "",
    qa: Annotated[str, Option(help="带要点的问答对；不写就用数据文件夹里的 qa.jsonl")] = "",
    out: Annotated[str, Option(help="结果文件夹")] = "output/comparison",
    max_new_tokens: Limit = 128,
) -> None:
    """同一批问题在微调前后各答一遍，打分并列表（notebook 03）。"""
    source = console.checkpoint_or_newest(checkpoint)
    from labutils.comparison import evaluate
    from labutils.models import loader

    folder = files.resolve(data) if data else console.data_beside(source)
    print(f"数据：{files.rel(folder)}")
    groups = evaluate.load_groups(files.resolve(qa) if qa else folder / "qa.jsonl", folder,
                                  files.DATA / "probes")
    model, tokenizer = loader.load(source)
    target = files.place(out)
    result = evaluate.compare(model, tokenizer, groups, target, max_new_tokens=max_new_tokens)
    print(result.table().to_string())
    print(*result.notes, f"全部结果：{files.rel(target)}", sep="\n")


@app.command()
def check(
    model: Annotated[str, Argument(
        help="要核对的模型文件夹或 tiny；不写就检查环境", callback=files.existing_model)] = "",
    config: Annotated[str, Argument(help="微调配置；写了就估算内存", callback=_good_config)] = "",
    length: Annotated[int, Option(min=0, help="样本的 token 数；0 按配置允许的最长算")] = 0,
    gpu: Annotated[float, Option(min=0, help="按这么大（GiB）的显卡估算；0 是这台机器")] = 0,
) -> None:
    """检查环境；写了模型就核对它的文件、说出它是什么，再写配置就估算微调要多少内存。"""
    if model:
        from labutils.models import identify
        from labutils.training import memory

        checks = identify.check_folder(model)
        if config and checks[0].status != FAIL:
            checks += memory.memory_report(model, config, length, gpu)
    else:
        from labutils.lab import preflight

        checks = preflight.check_environment()
    print(*checks, sep="\n")
    if any(item.status == FAIL for item in checks):
        raise LabError(f"{'模型' if model else '环境'}还不能用，请先处理上面带 ✗ 的项目。")


@app.command()
def demo(
    checkpoint: Checkpoint = "",
    port: Annotated[int, Option(help="端口；0 是 8080 或它后面第一个空的")] = 0,
    host: Annotated[str, Option(help="0.0.0.0 让局域网能访问，要密码")] = "127.0.0.1",
    share: Annotated[bool, Option("--share", help="生成临时的公网链接，要密码")] = False,
    auth: Annotated[str, Option(
        help="用户名:密码；同一台机器上的人看得到命令行，改用 LAB_DEMO_AUTH 更稳妥")] = "",
    endpoint: Annotated[str, Option(help="不载入模型，问这个兼容 OpenAI 接口的服务器")] = "",
    model: Annotated[str, Option(help="服务器上的模型名，与 --endpoint 一起写")] = "",
    qa: Annotated[str, Option(
        help="问答数据：出处和例子从这里来；不写就用适配器旁边 data 里的，没有就用自带的")] = "",
    feedback: Annotated[str, Option(help="评价与改正存进这个文件")] = "output/feedback.jsonl",
) -> None:
    """打开对话网页（notebook 04）。

    也认课程原来的环境变量 MODEL_PATH、TOKENIZER_PATH、CG_APP_ROUTE_PATH；密码也可以用
    LAB_DEMO_AUTH=用户名:密码 指定，用 --share 或 --host 对外开放时不指定就自动生成；
    服务器的密钥用 OPENAI_API_KEY。
    """
    if bool(endpoint) != bool(model) or (endpoint and checkpoint):
        raise LabError("--endpoint 与 --model 要一起写，而且不能再写检查点。")
    source = None
    if not endpoint:
        source = console.checkpoint_or_newest(checkpoint or os.environ.get("MODEL_PATH", ""))
    qa = qa or str(console.data_beside(source or "tiny") / "qa.jsonl")
    from labutils.demo import server
    from labutils.demo.endpoint import Endpoint

    server.serve(
        source, os.environ.get("TOKENIZER_PATH"), host=host, port=port or None, share=share,
        root_path=os.environ.get("CG_APP_ROUTE_PATH"), auth=server.parse_auth(auth, "--auth"),
        endpoint=Endpoint(endpoint, model) if endpoint else None, qa=qa, feedback=feedback)


@app.command()
def merge(
    checkpoint: Annotated[str, Argument(help="checkpoint-N 文件夹", callback=files.existing_model)],
    out: Annotated[str, Argument(help="写到这个文件夹，必须是新的")],
    dtype: Annotated[str, Option(help="写成 float32、bfloat16 或 float16；不写就与基座相同")] = "",
) -> None:
    """把适配器合并进基座，写成 transformers 与 vLLM 直接能读的文件夹。"""
    from labutils.models import export

    print(export.merge(checkpoint, files.place(out), dtype or None))


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
    except (LabError, OSError) as error:
        text = files.sentence(error) if isinstance(error, OSError) else error
        typer.secho(str(text), fg="red", err=True)
        code = 1
    except TyperException as error:
        typer.secho(console.usage_sentence(error), fg="red", err=True)
        code = 2
    except (typer.Abort, SystemExit) as error:
        code = getattr(error, "code", 130)
    if code == 130:
        typer.secho("已中断。", fg="yellow", err=True)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
