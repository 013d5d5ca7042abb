"""一条命令按顺序跑完所有 notebook：检查输入 → 逐个执行 → 报告与摘要。教师用的入口（``labutils run``）。

runs/<时间>/ 里有执行过的 notebook（.ipynb 与 .html）、output/、report.html、summary.json。
"""

import ast
import logging
import time
from datetime import datetime
from pathlib import Path

import nbformat

from labutils.base import files
from labutils.base.errors import LabError
from labutils.base.files import from_root, one_sentence, rel, sentence
from labutils.base.settings import as_bool
from labutils.lab import kernels, preflight, report
from labutils.training.config import load_config, override

Value = str | int | float | bool
Failure = dict[str, str | int | None]
ROAD = ("00_start_here", "01_build_dataset", "02_lora_finetune", "03_before_after", "04_web_demo")
MORE = ("05_experiments", "06_rag_or_lora")  # 选读
_RESERVED = {"OUT": "输出位置用 --out 指定",
             "KEEP_OPEN": "整套运行时网页必须自动关闭，想一直开着请用 labutils demo"}
_TYPE_NAMES = {int: "整数", float: "小数", str: "文字"}


def run(
    model: str = "tiny", config: str = "configs/lora_tiny.yaml",
    pdf: str = "data/source/course_document.pdf", qa: str = "data/qa.jsonl", seed: int = 42,
    out: str | Path = "runs", api_model: str = "", parameters: dict[str, Value] | None = None,
    notebooks: Path | None = None, preset: str = "", max_cost: float = 5.0,
    everything: bool = False,
) -> dict:
    """跑完整个实验，每个 notebook 打印一行，返回 summary.json 的内容（键见 report.summarize）。

    各项与命令行相同；parameters 是额外的 notebook 参数，notebooks 是 notebook 所在的文件夹（默认仓库里的）；
    everything：选读的也跑。在自己的脚本里调用，要写在 if __name__ == "__main__": 下面（同 multiprocessing）。
    输入不对时在执行之前抛 LabError；执行中失败时不抛错，summary["failed"] 说明是哪个单元、什么原因。
    """
    config, pdf, qa = map(files.resolve, (config, pdf, qa))
    preflight.check_inputs(model, config, pdf, qa, api_model, preset)
    override(load_config(config), {"seed": seed})  # 到 notebook 02 才用，现在就看对不对
    given = dict(parameters or {})
    local = files.model_folder(model)
    options = {"MODEL": from_root(local) if local else model, "SEED": seed, "CONFIG": from_root(config),
               "PDF": from_root(pdf), "QA_FILE": from_root(qa), "API_MODEL": api_model, "PRESET": preset,
               "MAX_COST": max_cost}
    names = ROAD + MORE if everything else ROAD
    plan = plan_parameters(find_road(notebooks or files.NOTEBOOKS, names), options, given)
    folder = make_run_folder(out)
    kernels.warm_up()
    seconds, failed = {}, None
    for path, values in plan.items():
        print(f"▶ {path.stem}", flush=True)
        started = time.perf_counter()
        failed = execute(path, folder / path.name, values | {"OUT": from_root(folder / "output")})
        seconds[path.stem] = round(time.perf_counter() - started, 1)
        unreadable = _publish(folder / path.name)
        if failed := failed or unreadable:
            break
        print(f"✓ {path.stem}  {seconds[path.stem]:.1f} 秒", flush=True)
    summary = report.summarize(folder, options["MODEL"], seed, seconds, failed)
    report.write(folder, summary, {**options, **given}, [path.stem for path in plan])
    return summary


def find_road(folder: Path, names: tuple[str, ...] = ROAD) -> list[Path]:
    """要执行的 notebook，按顺序；缺了哪个就抛 LabError。"""
    road = [folder / f"{name}.ipynb" for name in names]
    if missing := [path.name for path in road if not path.is_file()]:
        raise LabError(f"{rel(folder)} 里缺少 {'、'.join(missing)}，请重新取一份完整的仓库。")
    return road


def split_assignments(texts: list[str]) -> dict[str, str]:
    """命令行的 -p NAME=VALUE 列表 → 字典；没有等号时抛 LabError。"""
    result = {}
    for text in texts:
        name, sep, value = text.partition("=")
        if not sep or not name.strip():
            raise LabError(f"参数 {text} 写法不对，应写成 -p 名字=值，例如 -p SEED=7。")
        result[name.strip()] = value.strip()
    return result


def plan_parameters(road: list[Path], options: dict[str, Value], given: dict[str, Value]) -> dict[Path, dict]:
    """每个 notebook 的参数：{路径: {名字: 值}}，值的类型与 notebook 里的默认值相同。

    options 里 notebook 没有的名字略过；given（用户用 -p 写的）里的名字没有一个 notebook 认识、或不能改的，
    抛 LabError。QA_FILE 只给 00、01：后面的 notebook 读 01 写出的那一份，才不会绕过检查与清洗。
    """
    defaults = {path: read_defaults(path) for path in road}
    _check_names(given, defaults)
    plan = {}
    for path, known in defaults.items():
        withheld = set() if path.stem in ROAD[:2] else {"QA_FILE"} - given.keys()
        plan[path] = {name: convert(name, value, known[name]) for name, value in {**options, **given}.items()
                      if name in known.keys() - withheld}
    return plan


def read_defaults(path: Path) -> dict[str, Value]:
    """一个 notebook 的参数名与默认值；参数单元不是恰好一个，或默认值不是字面量时抛 LabError。"""
    cells = parameter_cells(nbformat.read(path, as_version=4))
    if len(cells) != 1:
        raise LabError(f"{rel(path)} 应当有一个带 parameters 标签的单元，实际有 {len(cells)} 个。")
    try:
        return {node.targets[0].id: ast.literal_eval(node.value)
                for node in ast.parse(cells[0].source).body if isinstance(node, ast.Assign)}
    except (ValueError, SyntaxError, AttributeError) as error:
        raise LabError(f"{rel(path)} 的参数单元只能写「名字 = 字面量」，现在读不懂：{error}。") from None


def parameter_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """带 parameters 标签的代码单元（规范要求每个 notebook 恰好一个）。"""
    return [cell for cell in notebook.cells
            if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])]


def convert(name: str, value: Value, default: Value) -> Value:
    """把给出的值变成默认值的类型；变不了时抛 LabError。"""
    kind = type(default)
    if type(value) is kind:
        return value
    try:
        return as_bool(name, value) if kind is bool else kind(str(value))
    except ValueError:
        raise LabError(f"参数 {name} 应当是{_TYPE_NAMES.get(kind, kind.__name__)}（默认 {default!r}），"
                       f"给出的却是 {value}。") from None


def _check_names(given: dict[str, Value], defaults: dict[Path, dict]) -> None:
    """papermill 遇到不认识的名字只提醒一句就照跑，“改了参数却没有生效”，所以先自己检查。"""
    for name in given:
        if name in _RESERVED:
            raise LabError(f"不能用 -p 改 {name}：{_RESERVED[name]}。")
        if name not in (known := set().union(*defaults.values())):
            usable = "、".join(sorted(known - _RESERVED.keys()))
            raise LabError(f"没有名为 {name} 的参数，可用的有：{usable}。")


@one_sentence()
def make_run_folder(out: str | Path) -> Path:
    """新建 out/<时间>/；已经有了、写不进去时抛 LabError，绝不覆盖旧结果。"""
    folder = files.place(out) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    return folder


def execute(source: Path, target: Path, values: dict) -> Failure | None:
    """执行一个 notebook，结果存到 target；返回 None，或一条失败记录。终端里显示进度条。"""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    cell = None
    try:
        papermill.execute_notebook(
            source, target, parameters=values, kernel_name="python3", language="python", cwd=files.ROOT,
            progress_bar={"desc": source.stem, "leave": False, "disable": None},  # None：不在终端里就不显示
            extra_arguments=["--IPKernelApp.log_level=40"])
        return None
    except PapermillExecutionError as failed:
        kind = "" if failed.ename == "LabError" else f"{failed.ename}: "  # LabError 本身就是一句话
        cell, error = failed.exec_count, (kind + failed.evalue).strip()
    except DeadKernelError:
        error = "运行 notebook 的进程意外退出，多半是内存不够。"
    except OSError as failed:
        error = sentence(failed, target)
    except KeyboardInterrupt:
        error = "运行被中断（Ctrl-C）。"
    return {"notebook": source.stem, "cell": cell, "error": error}


def _publish(notebook: Path) -> Failure | None:
    """写网页版；写不成也是一条失败记录。"""
    try:
        to_html(notebook)
        return None
    except OSError as failed:
        error = sentence(failed, notebook)
    except nbformat.reader.NotJSONError:  # 磁盘满时只写了一半
        error = f"{rel(notebook)} 只写了一半，请腾出磁盘空间后再运行。"
    return {"notebook": notebook.stem, "cell": None, "error": error}


def to_html(notebook: Path) -> Path | None:
    """执行过的 notebook → 同名 .html，不引用任何外部文件；notebook 不存在时返回 None。"""
    from jinja2 import FileSystemLoader
    from nbconvert import HTMLExporter, preprocessors

    if not notebook.is_file():
        return None
    exporter = HTMLExporter(extra_loaders=[FileSystemLoader(Path(__file__).parent)],
                            preprocessors=[preprocessors.CoalesceStreamsPreprocessor],  # 一行分几次印的接上
                            template_file="offline.html.j2", language_code="zh", embed_images=True)
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:  # 图从仓库里找（path）：执行过的 notebook 换了文件夹，旁边没有 ../images
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../images/", "](images/")
    about = {"name": notebook.stem, "path": str(files.ROOT)}
    target = notebook.with_suffix(".html")
    files.write(target, exporter.from_notebook_node(content, {"metadata": about})[0])
    return target
