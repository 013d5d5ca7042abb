"""仓库的框架：说明与实际相符、版本写法一致、notebook 合乎规范。"""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from statistics import mean

import nbformat
import pytest
import yaml
from nbconvert.filters.markdown_mistune import markdown2html_mistune
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from labutils.base import files as lab_files
from labutils.lab import cli, run

ROOT = lab_files.ROOT
NOTEBOOKS = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
READMES = ("README.md", "README.en.md")
NEVER = re.compile(r"/(?:home|root|Users|work|tmp|opt)/[\w.]|[A-Z]:\\\\Users")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def declared(*extras: str) -> list[Requirement]:
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    return [Requirement(text) for text in texts if not text.startswith("labutils")]


def code_blocks(name: str) -> list[str]:
    """各代码块，去掉注释与行尾空格：两种语言的注释可以不同，命令必须相同。"""
    blocks = re.findall(r"^```\w*\n(.*?)^```", read(name), re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s+#.*$", "", block, flags=re.MULTILINE) for block in blocks]


# —— 说明 ——


def test_both_readmes_give_the_same_commands():
    chinese, english = (code_blocks(name) for name in READMES)
    assert chinese == english and len(chinese) >= 5


@pytest.mark.parametrize("name", READMES)
def test_first_command_comes_early(name):
    lines = read(name).splitlines()
    assert next(i for i, line in enumerate(lines, 1) if line.startswith("make lab")) <= 30


@pytest.mark.parametrize("name", READMES)
def test_readme_commands_exist(name):
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    used = set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(code_blocks(name))))
    assert {"lab", "test", "jupyter"} <= used <= targets
    commands = {c.callback.__name__ for c in cli.app.registered_commands}
    assert set(re.findall(r"\blabutils ([a-z]+)\b", read(name))) <= commands


@pytest.mark.parametrize("name", [*READMES, "notebooks/README.md"])
def test_readme_links_point_to_files(name):
    links = re.findall(r"\[[^\]]+\]\((?!http)([^)]+)\)", read(name))
    assert links
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("name", READMES)
def test_readme_says_the_measured_share_of_other_documents(name):
    """依次是：图书馆规则、照抄；实验室规则、照抄。"""
    rows = json.loads(read("benchmarks/unseen.json"))["rows"]
    measured = []
    for document in ("library", "laboratory"):
        own = [row for row in rows if row["document"] == document]
        measured += [mean(row["after"]["unseen"] for row in own),
                     mean(max(row["baseline"].values()) for row in own)]
    (paragraph,) = (part for part in read(name).split("\n\n") if "unseen.md" in part and "--model" in part)
    assert re.findall(r"\d+%", paragraph) == [f"{share:.0%}" for share in measured]


def test_teachers_page_commands_exist():
    text = read("notebooks/README.md")
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert {"assignment", "autograde"} <= set(re.findall(r"\bmake ([a-z]+)\b", text)) <= targets
    terms = re.findall(r"^\| .+\|$", text.partition("## 术语")[2].partition("## ")[0], re.MULTILINE)
    assert "--student" in text and len(terms) >= 20


def test_notebooks_show_pictures_that_exist_and_say_what_is_on_them():
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        for text in (cell.source for cell in cells if cell.cell_type == "markdown"):
            for alt, link in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
                assert len(alt) >= 6 and path.parent.joinpath(link).exists(), (path.stem, link)


# —— 依赖 ——


def test_torch_is_pinned_and_everything_else_is_bounded():
    for requirement in declared("test", "dev", "teach", "quant", "ocr"):
        operators = {s.operator for s in requirement.specifier}
        expected = {"=="} if requirement.name == "torch" else {">=", "<"}
        assert operators == expected, requirement


def constraints() -> dict[str, str]:
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    pairs = (line.split("==") for line in lines if line.strip())
    return {canonicalize_name(name): version for name, version in pairs}


def test_constraints_agree_with_the_declared_ranges():
    pinned = constraints()
    for requirement in declared("test", "dev", "teach"):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), (requirement, version)


def test_constraints_hold_plain_versions_only():
    text = read("constraints.txt")
    assert "+cpu" not in text and "file:" not in text and "://" not in text and "-e " not in text


def test_python_range_is_the_same_everywhere():
    from packaging.specifiers import SpecifierSet

    from labutils.lab.preflight import TESTED_PYTHON, TOO_NEW_PYTHON

    declared = SpecifierSet(tomllib.loads(read("pyproject.toml"))["project"]["requires-python"])
    low, high = (".".join(map(str, version)) for version in (TESTED_PYTHON, TOO_NEW_PYTHON))
    assert declared == SpecifierSet(f">={low},<{high}")
    assert f"not {TESTED_PYTHON} <= sys.version_info < {TOO_NEW_PYTHON}" in read("Makefile")
    last = f"{TOO_NEW_PYTHON[0]}.{TOO_NEW_PYTHON[1] - 1}"
    for name in ("Makefile", "README.md", "README.en.md", "labutils/lab/preflight.py"):
        assert f"{low}–{last}" in read(name), name


def test_conda_installs_this_project():
    content = yaml.safe_load(read("environment.yml"))
    pip = next(item for item in content["dependencies"] if isinstance(item, dict))["pip"]
    assert pip == ["-c constraints.txt", "-e .[test]"]
    assert "python=3.11" in content["dependencies"]


def imported_packages(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def sources() -> dict[str, str]:
    files = (p for folder in ("labutils", "tests") for p in (ROOT / folder).rglob("*.py"))
    found = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in files}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        code = (c.source for c in cells if c.cell_type == "code")
        found[f"notebooks/{path.name}"] = "\n".join(
            re.sub(r"^(\s*)[%!].*$", r"\1pass", cell, flags=re.MULTILINE) for cell in code
        )
    return found


def test_every_import_is_declared():
    """labutils 与 notebook 用到的不能只写在 test 里；认字的包可以不装。"""
    needed, more = ({canonicalize_name(r.name) for r in declared("ocr", *extra)} for extra in ((), ("test",)))
    known, missing = packages_distributions(), {}
    own = {"labutils", "tools", "fakes", *(path.stem for path in (ROOT / "benchmarks").glob("*.py"))}
    for name, source in sources().items():
        for module in imported_packages(source) - set(sys.stdlib_module_names) - own:
            owners = {canonicalize_name(d) for d in known.get(module, [module])}
            if not owners & (more if name.startswith("tests/") else needed):
                missing.setdefault(module, name)
    assert missing == {}


def test_every_dependency_is_used():
    """声明的依赖都有人导入；另外几个为什么要，写在 pyproject.toml 里。"""
    unused = {canonicalize_name(r.name) for r in declared()}
    known = packages_distributions()
    for name, source in sources().items():
        if not name.startswith("tests/"):
            for module in imported_packages(source):
                unused -= {canonicalize_name(d) for d in known.get(module, [])}
    assert unused == {"zhplot", "ipywidgets", "jupyterlab", "jupyterlab-language-pack-zh-cn"}


# —— 层次 ——

STATIONS = ["base", "models", "dataset", "training", "comparison", "demo", "lab"]


def test_arrows_point_down():
    """每一站只用自己和下面各站；models 与 dataset 互不相识；谁也不用 tools。"""
    upward = []
    for path in (ROOT / "labutils").rglob("*.py"):
        mine = path.relative_to(ROOT / "labutils").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else []:
                theirs = (prefix + alias.name).removeprefix("labutils.").split(".")[0]
                if theirs == "tools" or {mine, theirs} == {"models", "dataset"} or (
                        {mine, theirs} <= set(STATIONS) and STATIONS.index(theirs) > STATIONS.index(mine)):
                    upward.append(f"{path.relative_to(ROOT)}:{node.lineno} → {prefix}{alias.name}")
    assert upward == []


# —— 一条命令 ——


def test_ci_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    assert re.search(r"^make test$", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert script.stat().st_mode & 0o111


def make_says(*arguments: str, folder: Path) -> str:
    command = ["make", "-n", "-f", str(ROOT / "Makefile"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def fresh_copy(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(read(name), encoding="utf-8")
    target = tmp_path / "configs" / "jupyterlab"
    target.mkdir(parents=True)
    (target / "overrides.json").write_text("{}", encoding="utf-8")
    return tmp_path


def test_fresh_folder_installs_before_running(tmp_path):
    lines = make_says("lab", folder=fresh_copy(tmp_path))
    order = [lines.index(word) for word in ("-m venv", "pip install", "labutils run")]
    assert order == sorted(order)


def test_finished_install_is_not_repeated_but_an_interrupted_one_is(tmp_path):
    folder = fresh_copy(tmp_path)
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".created").touch()
    assert "pip install" in make_says("lab", folder=folder)  # 没有印记：装到一半被打断
    (folder / ".venv" / ".installed").touch()
    assert "pip install" not in make_says("lab", folder=folder)


def test_document_benchmark_makes_and_reads_its_files(tmp_path):
    """不靠外面软件的那几份真的做一遍、读一遍。"""
    command = [sys.executable, "benchmarks/documents.py", "--out", str(tmp_path),
               "--only", "notice.pdf", "word.docx"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| 文件", "| notice.pdf", "| word.docx"]
    assert float(rows[1][1]) >= 0.995


@pytest.mark.slow
def test_model_benchmark_tells_right_refused_and_wrong(tmp_path):
    """普通的、改写的模板各一个，普通的适配器设置一项；再运行就不再做。"""
    turn = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
            "{% endfor %}")
    asking = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    (tmp_path / "plain.jinja").write_text(turn + asking, "utf-8")
    (tmp_path / "lower.jinja").write_text(turn.replace("m.content", "m.content|lower") + asking, "utf-8")
    command = [sys.executable, "benchmarks/models.py", "--out", str(tmp_path / "out"), "--templates",
               str(tmp_path), "--parts", "templates", "settings", "--only", "plain", "lower", "r 不同"]
    for first in (True, False):
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                              capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert "| 对话模板 | 2 | 1 | 1 | 0 | 0 |\n| 设置 | 1 | 1 | 0 | 0 | 0 |" in done.stdout
        assert ("对话模板 plain：正确" in done.stdout) == first


@pytest.mark.parametrize("text, fault", [
    ("第一条 甲校应当公布结果（K0001）。\n第二条 乙校应当登记结果（K0002）。", {}),
    ("第一条 甲校应当公布\n结果（K0001）。\n第二条 乙校应当登记结果（K0002）。", {"cut": 1}),
    ("第二条 乙校应当登记结果（K0002）。\n第一条 甲校应当公布结果（K0001）。", {"disorder": 1}),
    ("第一条 甲校应当公布结果（K0001）。\n第二条 乙校登记结果（K0002）。", {"broken": 1, "lost": 2}),
    ("第一条 甲校应当公布手册结果（K0001）。\n第二条 乙校应当登记结果（K0002）。",
     {"broken": 1, "invented": 2}),
])
def test_document_benchmark_tells_faults_apart(monkeypatch, text, fault):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from documents import score
    from made_text import Paragraph

    truth = [Paragraph(start + body, [body], page=page) for start, body, page in (
        ("第一条 ", "甲校应当公布结果（K0001）。", 1), ("第二条 ", "乙校应当登记结果（K0002）。", 1))]
    found = score(truth, {"pages": [[1, text]], "seconds": 1, "mib": 1, "version": ""}, ours=True)
    assert (found.similarity == 1) == (fault.keys() <= {"cut"})
    names = ("cut", "broken", "disorder", "lost", "invented", "wrong_page")
    assert {name: getattr(found, name) for name in names if getattr(found, name)} == fault
    moved = score(truth, {"pages": [[2, text]], "seconds": 1, "mib": 1, "version": ""}, ours=True)
    assert moved.wrong_page == 2


def test_experiments_differ_and_the_notebook_draws_only_planned_ones(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import experiments

    runs = {run.name: run for run in experiments.planned()}
    recorded = json.loads(experiments.OUT.read_text(encoding="utf-8"))
    assert len({experiments.made_by(run, {}, None) for run in runs.values()}) == len(experiments.planned())
    assert recorded.keys() <= runs.keys() and {"base", "course-42", "qa_only-42"} <= recorded.keys()
    for name, row in recorded.items():
        assert (row["seed"], row["changes"]) == (runs[name].seed, runs[name].changes), name
        assert all(0 <= row["right"][group] <= asked for group, asked in row["asked"].items()), name
    (notebook,) = (path for path in NOTEBOOKS if path.stem == "05_experiments")
    drawn = re.findall(r'"((?:course|qa_only|rate|rank|alpha|full|unmasked)(?:-[\w.]+)?)"',
                       "\n".join(c.source for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"))
    assert len(set(drawn)) >= 15 and set(drawn) - {"course", "qa_only"} <= runs.keys()


@pytest.mark.slow
def test_experiments_are_kept_one_by_one_and_not_run_again(tmp_path, monkeypatch, capsys):
    """删去一次，只补这一次；配置改了，旧的都不算。"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import experiments as script

    def experiments(*options):
        place = tmp_path / "kept.json"
        monkeypatch.setattr(sys, "argv", ["experiments.py", "--out", str(place), *options])
        script.main()
        return capsys.readouterr().out.count("| 42 |"), json.loads(place.read_text(encoding="utf-8"))

    two = ("--only", "full-same", "unmasked", "--questions", "2", "--set", "max_steps=1")
    printed, first = experiments("--write", *two)
    assert list(first) == ["unmasked", "full-same_rate"] and printed == 4  # 跑完时一行，最后的表里一行
    assert first["full-same_rate"]["trainable"] > 5 * first["unmasked"]["trainable"]
    rest = {"unmasked": first["unmasked"] | {"seconds": -1}}
    (tmp_path / "kept.json").write_text(json.dumps(rest), encoding="utf-8")
    printed, again = experiments("--write", *two)
    assert printed == 3 and again["unmasked"]["seconds"] == -1
    assert again["full-same_rate"]["right"] == first["full-same_rate"]["right"]
    assert experiments("--only", "full-same")[0] == 0 and experiments(*two)[0] == 2


def test_every_notebook_is_tested(tmp_path):
    assert "--nbval-lax" in read("Makefile") and "notebooks/[0-9]*.ipynb" in read("Makefile")
    assert {path.stem for path in NOTEBOOKS} >= set(run.ROAD)


# —— notebook 的规范 ——


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_notebook_is_valid_and_uses_the_common_kernel(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


def test_notebook_has_one_parameters_cell_with_the_common_names(notebook):
    assert len(run.parameter_cells(notebook)) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_common_parameters(path):
    defaults = run.read_defaults(path)
    assert (defaults["MODEL"], defaults["SEED"], defaults["OUT"]) == ("tiny", 42, "output/lab")


def test_notebook_cells_are_python_and_run_no_shell(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            source = re.sub(r"\A%%writefile .*\n", "", cell.source)  # 学生自己的程序，存成文件
            assert not re.search(r"^\s*[!%]", source, re.MULTILINE), cell.id
            ast.parse(source)


def test_notebook_shows_no_machine_path(notebook):
    for cell in notebook.cells:
        text = cell.source + nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))
        assert not NEVER.search(text), cell.id


def test_stored_outputs_are_complete_ordered_and_free_of_errors(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    if not any(counts):
        assert all(not cell.outputs for cell in code)  # 没有执行过，就不应有输出
        return
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert "error" not in kinds
    noise = [o for c in code for o in c.outputs if o.get("name") == "stderr"]
    assert noise == []


def test_notebook_opens_with_purpose_and_time_and_ends_with_exercises(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "预计时间" in first.source
    headings = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    for name in ("小结", "练习"):
        assert any(re.search(rf"^#+ .*{name}", text, re.MULTILINE) for text in headings), name


# —— 不该进仓库的东西 ——


@pytest.mark.parametrize("path", [*lab_files.NOTEBOOKS.glob("*.ipynb"), *lab_files.ROOT.glob("*.md")],
                         ids=lambda path: path.name)
def test_bold_is_rendered(path):
    """** 与引号、括号、汉字挨着时常常不算加粗标记（CommonMark 的规定），会原样露出来。"""
    texts = [path.read_text(encoding="utf-8")]
    if path.suffix == ".ipynb":
        cells = nbformat.reads(texts[0], as_version=4).cells
        texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    for text in texts:
        shown = re.sub(r"<(code|pre).*?</\1>", "", markdown2html_mistune(text), flags=re.DOTALL)
        assert "**" not in shown, shown


def test_ignored_folders_cover_generated_files():
    ignored = read(".gitignore").split()
    assert {"/output/", "/runs/", "/.venv/", ".env"} <= set(ignored)


def test_code_style():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
        cwd=ROOT, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
