"""一条命令按顺序跑完所有 notebook：检查输入 → 逐个执行 → 报告与摘要。

教师用的入口（``labutils run``）。路上的每一步都能在 runs/<时间>/ 里看到：
执行过的 notebook（.ipynb 与 .html）、output/（数据、适配器、对比）、report.html、summary.json。
"""

import base64
import logging
import mimetypes
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import nbformat

from labutils.base import paths, whole_files
from labutils.base.errors import LabError
from labutils.base.system_errors import sentence
from labutils.lab import notebook_parameters, preflight, report

ROAD = ("00_start_here", "01_build_dataset", "02_lora_finetune", "03_before_after", "04_web_demo")
DEFAULTS = {
    "model": "tiny",
    "config": "configs/lora_tiny.yaml",
    "pdf": "data/source/course_document.pdf",
    "qa": "data/qa.jsonl",
}
_RESERVED = {
    "OUT": "输出位置用 --out 指定",
    "KEEP_OPEN": "整套运行时网页必须自动关闭，想一直开着请用 labutils demo",
}
# 执行过的 notebook 转成网页时去掉所有外部脚本：教室没有外网也能立刻打开
_OFFLINE_TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}{% block html_head_js_mermaidjs %}{% endblock %}"""

_IMAGE = re.compile(r"\]\(\.\./images/([^)\s/]+)\)")
Failure = dict[str, str | int | None]


def run(
    model: str = DEFAULTS["model"],
    config: str = DEFAULTS["config"],
    pdf: str = DEFAULTS["pdf"],
    qa: str = DEFAULTS["qa"],
    seed: int = 42,
    out: str | Path = "runs",
    api_model: str = "",
    parameters: dict[str, notebook_parameters.Value] | None = None,
    notebooks: Path | None = None,
    preset: str = "",
    max_cost: float = 5.0,
    say: Callable[[str], None] = print,
    on_cell: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict:
    """跑完整个实验，返回 summary.json 的内容（键见 report.summarize）。

    model/config/pdf/qa/api_model/preset/max_cost 的含义与命令行相同；parameters 是额外的 notebook 参数；
    notebooks 是 notebook 所在的文件夹（默认仓库里的）。say 收到每行进度，
    on_cell 收到（notebook 名，已完成的单元数，单元总数）。
    输入不对时在执行第一个 notebook 之前抛 LabError；执行中失败时不抛错，
    summary["ok"] 为 False，summary["failed"] 说明是哪个 notebook、哪个单元、什么原因。
    """
    # notebook 里相对路径都从仓库根目录算起
    config, pdf, qa = (locate(p) for p in (config, pdf, qa))
    preflight.check_inputs(model, *(paths.ROOT / p for p in (config, pdf, qa)), api_model or preset)
    if preset:
        from labutils.dataset.api_presets import find_service  # 它要导入 openai，用到时才导入

        find_service(preset, api_model)  # 名字写错，在跑第一个 notebook 之前就说
    road = find_road(notebooks or paths.NOTEBOOKS)
    given = dict(parameters or {})
    for name, reason in _RESERVED.items():
        if name in given:
            raise LabError(f"不能用 -p 改 {name}：{reason}。")
    options = {"MODEL": locate_model(model), "SEED": seed, "CONFIG": config, "PDF": pdf}
    options |= {"QA_FILE": qa, "API_MODEL": api_model, "PRESET": preset, "MAX_COST": max_cost}
    plan = plan_parameters(road, options, given)  # 名字或类型不对，在建文件夹之前就报错
    folder = make_run_folder(out)
    for values in plan.values():
        values["OUT"] = locate(folder / "output")

    seconds, failed = {}, None
    for path, values in plan.items():
        say(f"▶ {path.stem}")
        started = time.perf_counter()
        failed = execute(path, folder / path.name, values, on_cell)
        seconds[path.stem] = round(time.perf_counter() - started, 1)
        unreadable = _publish(folder / path.name)
        failed = failed or unreadable
        if failed:
            break
        say(f"✓ {path.stem}  {seconds[path.stem]:.1f} 秒")
    summary = report.summarize(folder, options["MODEL"], seed, seconds, failed)
    report.write(folder, summary, {**options, **given}, [p.stem for p in road])
    return summary


def find_road(folder: Path) -> list[Path]:
    """要执行的 notebook，按顺序；缺了哪个就抛 LabError。"""
    road = [folder / f"{name}.ipynb" for name in ROAD]
    missing = [path.name for path in road if not path.is_file()]
    if missing:
        raise LabError(f"{paths.rel(folder)} 里缺少 {'、'.join(missing)}，请重新取一份完整的仓库。")
    return road


def plan_parameters(road: list[Path], options: dict, given: dict) -> dict[Path, dict]:
    """每个 notebook 的参数。

    QA_FILE 只给 01：后面的 notebook 读 01 写出的那一份，才不会绕过检查与清洗。
    """
    plan = notebook_parameters.assign(road, options, given)
    for path, values in plan.items():
        if path.stem != "01_build_dataset" and "QA_FILE" not in given:
            values.pop("QA_FILE", None)
    return plan


def locate(path: str | Path) -> str:
    """用户写的路径 → 相对仓库根目录的写法；仓库之外的用绝对路径。

    命令行里的相对路径先按当前文件夹找，找不到再按仓库根目录找。
    """
    path = Path(path).expanduser()
    full = path if path.is_absolute() or path.exists() else paths.ROOT / path
    full, root = full.resolve(), paths.ROOT.resolve()
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else full.as_posix()


def locate_output(path: str | Path) -> Path:
    """要写的文件夹：在仓库里执行就从仓库根目录算起，在别处执行就从当前文件夹算起。"""
    inside = Path.cwd().resolve().is_relative_to(paths.ROOT.resolve())
    path = Path(path).expanduser()
    return paths.ROOT / path if inside else path.resolve()


def locate_model(model: str) -> str:
    """模型若是一个存在的文件夹就换成 locate 的写法；"tiny" 和网上的名字原样返回。"""
    if model == "tiny":
        return model
    here, at_root = Path(model).expanduser(), paths.ROOT / model
    return locate(model) if here.is_dir() or at_root.is_dir() else model


def make_run_folder(out: str | Path) -> Path:
    """新建 out/<时间>/；同一秒里第二次运行时加编号，绝不覆盖旧结果。"""
    base = Path(locate(out))
    base = base if base.is_absolute() else paths.ROOT / base
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 100):
        folder = base / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise LabError(sentence(error, out)) from None
    raise LabError(f"{out} 里同一时刻的运行太多，请过一秒再试。")


def execute(
    source: Path,
    target: Path,
    values: dict,
    on_cell: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Failure | None:
    """执行一个 notebook，结果存到 target；返回 None，或一条失败记录。"""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    # papermill 会在参数单元后面插入一个单元
    total = len(nbformat.read(source, as_version=4).cells) + bool(values)
    failure = {"notebook": source.stem, "cell": None, "error": ""}
    try:
        papermill.execute_notebook(
            source,
            target,
            parameters=values,
            kernel_name="python3",
            language="python",
            cwd=paths.ROOT,
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=40"],
            on_cell_executed=lambda cell_index, **_: on_cell(source.stem, cell_index + 1, total),
        )
        return None
    except PapermillExecutionError as error:
        # LabError 本身就是写给人看的一句话，不用再加类型名
        text = error.evalue if error.ename == "LabError" else f"{error.ename}: {error.evalue}"
        return failure | {"cell": error.exec_count, "error": text.strip()}
    except DeadKernelError:
        return failure | {"error": "运行 notebook 的进程意外退出，多半是内存不够。"}
    except CellTimeoutError as error:
        return failure | {"error": f"单元运行超时：{error}"}
    except OSError as error:
        return failure | {"error": sentence(error, target)}
    except KeyboardInterrupt:
        return failure | {"error": "运行被中断（Ctrl-C）。"}


def _publish(notebook: Path) -> Failure | None:
    """写网页版；写不成也是一条失败记录。"""
    failure = {"notebook": notebook.stem, "cell": None}
    try:
        to_html(notebook)
        return None
    except OSError as error:
        return failure | {"error": sentence(error, notebook)}
    except nbformat.reader.NotJSONError:  # 磁盘满时只写了一半
        return failure | {"error": f"{paths.rel(notebook)} 只写了一半，请腾出磁盘空间后再运行。"}


def to_html(notebook: Path) -> Path | None:
    """执行过的 notebook → 同名 .html，不引用任何外部文件；notebook 不存在时返回 None。"""
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    if not notebook.is_file():
        return None
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"offline.html.j2": _OFFLINE_TEMPLATE})],
        template_file="offline.html.j2",
        language_code="zh",
        embed_images=True,
    )
    content = nbformat.read(notebook, as_version=4)
    _attach_images(content)
    body, _ = exporter.from_notebook_node(content, {"metadata": {"name": notebook.stem}})
    target = notebook.with_suffix(".html")
    whole_files.write(target, body)
    return target


def _attach_images(notebook: nbformat.NotebookNode) -> None:
    """说明文字里的 ![…](../images/名字) 换成附件：执行过的 notebook 换了文件夹，旁边没有那张图。"""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for name in set(_IMAGE.findall(cell.source)):
            file = paths.ROOT / "images" / name
            if file.is_file():
                data = base64.b64encode(file.read_bytes()).decode()
                kind = mimetypes.guess_type(name)[0]
                cell.setdefault("attachments", {})[name] = {kind: data}
                cell.source = cell.source.replace(f"](../images/{name})", f"](attachment:{name})")
