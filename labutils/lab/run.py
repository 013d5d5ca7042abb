"""读懂并检查 notebook 的参数单元。

papermill 遇到不认识的参数名只提醒一句就照跑，结果是"改了参数却没有生效"。
这里在运行之前就检查：名字不认识、类型不对，都是错误。


一条命令按顺序跑完所有 notebook：检查输入 → 逐个执行 → 报告与摘要。

教师用的入口（``labutils run``）。路上的每一步都能在 runs/<时间>/ 里看到：
执行过的 notebook（.ipynb 与 .html）、output/（数据、适配器、对比）、report.html、summary.json。
"""

import ast
import base64
import logging
import mimetypes
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import nbformat

from labutils.base import files
from labutils.base.errors import LabError
from labutils.base.files import locate, locate_model, rel, sentence
from labutils.lab import preflight, report

Value = str | int | float | bool
_TYPE_NAMES = {bool: "True 或 False", int: "整数", float: "小数", str: "文字"}
_TRUE, _FALSE = {"true", "1", "yes", "是"}, {"false", "0", "no", "否"}


def parameter_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """带 parameters 标签的代码单元（规范要求每个 notebook 恰好一个）。"""
    return [
        c
        for c in notebook.cells
        if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])
    ]


def read_defaults(path: Path) -> dict[str, Value]:
    """一个 notebook 的参数名与默认值。

    参数单元不是恰好一个，或默认值不是字面量时抛 LabError。
    """
    cells = parameter_cells(nbformat.read(path, as_version=4))
    if len(cells) != 1:
        raise LabError(f"{rel(path)} 应当有一个带 parameters 标签的单元，实际有 {len(cells)} 个。")
    try:
        pairs = [
            (node.targets[0].id, ast.literal_eval(node.value))
            for node in ast.parse(cells[0].source).body
            if isinstance(node, ast.Assign)
        ]
    except (ValueError, SyntaxError, AttributeError) as error:
        raise LabError(
            f"{rel(path)} 的参数单元只能写「名字 = 字面量」，现在读不懂：{error}。"
        ) from None
    return dict(pairs)


def split_assignments(texts: list[str]) -> dict[str, str]:
    """命令行的 -p NAME=VALUE 列表 → 字典；没有等号时抛 LabError。"""
    result = {}
    for text in texts:
        name, sep, value = text.partition("=")
        if not sep or not name.strip():
            raise LabError(f"参数 {text} 写法不对，应写成 -p 名字=值，例如 -p SEED=7。")
        result[name.strip()] = value.strip()
    return result


def convert(name: str, value: Value, default: Value) -> Value:
    """把给出的值变成默认值的类型；变不了时抛 LabError。"""
    kind = type(default)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    try:
        if kind is bool:
            return _to_bool(str(value))
        return kind(str(value))
    except ValueError:
        raise LabError(
            f"参数 {name} 应当是{_TYPE_NAMES.get(kind, kind.__name__)}"
            f"(默认 {default!r}),给出的却是 {value}。"
        ) from None


def _to_bool(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError(text)


def assign(notebooks: list[Path], common: dict[str, Value], extra: dict[str, Value]) -> dict:
    """给每个 notebook 分配它认识的参数。

    common 里 notebook 没有的名字直接略过；extra（用户写的）里的名字至少要有一个
    notebook 认识，否则抛 LabError 并列出可用的名字。
    返回 {notebook 路径： {参数名： 值}}。
    """
    defaults = {path: read_defaults(path) for path in notebooks}
    for name in extra:
        if not any(name in known for known in defaults.values()):
            raise LabError(f"没有名为 {name} 的参数。{_allowed(defaults)}")
    return {
        path: {
            name: convert(name, value, known[name])
            for name, value in {**common, **extra}.items()
            if name in known
        }
        for path, known in defaults.items()
    }


def _allowed(defaults: dict[Path, dict]) -> str:
    shared = set.intersection(*(set(known) for known in defaults.values())) if defaults else set()
    parts = ["各 notebook 都有的：" + "、".join(sorted(shared))] if shared else []
    parts += [
        f"{path.stem}：" + "、".join(name for name in known if name not in shared)
        for path, known in defaults.items()
        if set(known) - shared
    ]
    return "可用的参数——" + "；".join(parts) + "。"


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
    parameters: dict[str, Value] | None = None,
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
    preflight.check_inputs(model, *(files.ROOT / p for p in (config, pdf, qa)), api_model or preset)
    if preset:
        from labutils.dataset.service import find_service  # 它要导入 openai，用到时才导入

        find_service(preset, api_model)  # 名字写错，在跑第一个 notebook 之前就说
    road = find_road(notebooks or files.NOTEBOOKS)
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
        raise LabError(f"{files.rel(folder)} 里缺少 {'、'.join(missing)}，请重新取一份完整的仓库。")
    return road


def plan_parameters(road: list[Path], options: dict, given: dict) -> dict[Path, dict]:
    """每个 notebook 的参数。

    QA_FILE 只给 01：后面的 notebook 读 01 写出的那一份，才不会绕过检查与清洗。
    """
    plan = assign(road, options, given)
    for path, values in plan.items():
        if path.stem != "01_build_dataset" and "QA_FILE" not in given:
            values.pop("QA_FILE", None)
    return plan


def make_run_folder(out: str | Path) -> Path:
    """新建 out/<时间>/；同一秒里第二次运行时加编号，绝不覆盖旧结果。"""
    base = Path(locate(out))
    base = base if base.is_absolute() else files.ROOT / base
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
            cwd=files.ROOT,
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
        return failure | {"error": f"{files.rel(notebook)} 只写了一半，请腾出磁盘空间后再运行。"}


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
    files.write(target, body)
    return target


def _attach_images(notebook: nbformat.NotebookNode) -> None:
    """说明文字里的 ![…](../images/名字) 换成附件：执行过的 notebook 换了文件夹，旁边没有那张图。"""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for name in set(_IMAGE.findall(cell.source)):
            file = files.ROOT / "images" / name
            if file.is_file():
                data = base64.b64encode(file.read_bytes()).decode()
                kind = mimetypes.guess_type(name)[0]
                cell.setdefault("attachments", {})[name] = {kind: data}
                cell.source = cell.source.replace(f"](../images/{name})", f"](attachment:{name})")
