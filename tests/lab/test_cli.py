"""命令行：帮助快、错误是一句话、参数原样传到该去的函数。"""

import errno
import io
import os
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from labutils.base import errors, files
from labutils.base.errors import LabError
from labutils.base.text import Cut
from labutils.comparison import evaluate
from labutils.dataset import build
from labutils.dataset.checks import validate
from labutils.dataset.formats import read_pages
from labutils.dataset.rows import UNANSWERABLE, drop_near_duplicates, load_qa
from labutils.demo import server
from labutils.lab import cli, console, preflight, run
from labutils.models import generate, loader
from labutils.training import finetune
from labutils.training.questions import write_student

COMMANDS = ("run", "dataset", "finetune", "infer", "compare", "demo", "check")


def test_help_lists_every_command(call, capsys):
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS) and "命令" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_chinese_help(call, capsys, command):
    assert call(command, "--help") == 0
    assert "选项" in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["export"], ["merge"]])
def test_help_is_whole_in_a_narrow_terminal(call, capsys, monkeypatch, command):
    """表格放不下的中文曾经变成省略号：“估算超过就停下；0 不设上限”读成“估算超过就停…不设上限”。"""
    monkeypatch.setenv("COLUMNS", "80")
    call(*command, "--help")
    assert "…" not in capsys.readouterr().out


def test_no_arguments_shows_help(call, capsys):
    assert call() == 0
    assert "finetune" in capsys.readouterr().out


def test_help_does_not_load_heavy_libraries():
    code = (
        "import sys; sys.argv = ['labutils', '--help']\n"
        "from labutils.lab import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print('重', [m for m in ('torch', 'transformers', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        cwd=files.ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "重 []" in done.stdout


def test_lab_error_is_one_red_sentence_without_traceback(monkeypatch, call, capsys):
    def fail(*args, **kwargs):
        raise LabError("课程文档第 3 页读不出来，请换一份。")

    monkeypatch.setattr(run, "run", fail)
    assert call("run") == 1
    captured = capsys.readouterr()
    assert captured.err.strip() == "课程文档第 3 页读不出来，请换一份。"
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space", str(files.OUTPUT / "a.csv")),
         "磁盘满了，不能读写 output/a.csv；请腾出空间后再运行。"),
        (OSError(errno.EIO, "I/O error", str(files.OUTPUT / "a.csv")),
         "I/O error，不能读写 output/a.csv；请检查路径，或换一个文件夹。"),
        (OSError("别的库的一句话\n第二行"), "别的库的一句话；请检查路径，或换一个文件夹。"),
    ],
)
def test_system_error_is_one_sentence_without_traceback(monkeypatch, call, capsys, error, words):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(run, "run", fail)
    assert call("run") == 1
    assert capsys.readouterr().err.strip() == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--sed", "3"], "--seed"),
        (["rum"], "没有 rum 这个命令"),
        (["finetune", "data"], "缺少参数 MODEL"),
        (["run", "--seed", "七"], "应当是整数"),
        (["infer", "a", "b"], "多出了参数 b"),
    ],
)
def test_wrong_usage_is_explained_in_chinese(call, capsys, arguments, words):
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error and "--help" in error and len(error.strip().splitlines()) == 1


def test_run_passes_options_and_reports_failure(monkeypatch, call, capsys):
    seen = {}

    def fake(*args, **api):
        seen.update(args=args, api=api)
        failed = {"notebook": "01_build_dataset", "cell": 5, "error": "没有问答对。"}
        return {"ok": False, "failed": failed}

    monkeypatch.setattr(run, "run", fake)
    api = ("--preset", "deepseek", "--max-cost", "3")
    assert call("run", "--seed", "7", "--all", *api, "-p", "PORT=7000", "-p", "SHARE=否") == 1
    assert seen["args"][4] == 7 and seen["args"][7] == {"PORT": "7000", "SHARE": "否"}
    assert seen["api"] == {"preset": "deepseek", "max_cost": 3.0, "everything": True}
    captured = capsys.readouterr()
    assert captured.err.strip() == "01_build_dataset 的单元 [5]：没有问答对。"


def test_bad_pdf_is_reported_in_one_sentence(call, capsys, tmp_path):
    (tmp_path / "网页.pdf").write_text("<html>", encoding="utf-8")
    assert call("run", "--pdf", str(tmp_path / "网页.pdf")) == 1
    error = capsys.readouterr().err.strip()
    assert "网页.pdf" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "choice"),
    [("auto", "auto"), ("", "auto"), ("yes", "auto"), ("YES", "auto"), ("no", False), ("3000", 3000)],
)
def test_resume_argument(text, choice):
    assert cli._resume_choice(text) == choice and type(cli._resume_choice(text)) is type(choice)


def test_wrong_resume_argument(call, capsys):
    arguments = ["finetune", "data", "tiny", "configs/lora_tiny.yaml", "也许"]
    assert call(*arguments) == 1
    assert "也许" in capsys.readouterr().err


def test_finetune_keeps_the_shape_of_the_course_command(monkeypatch, call, capsys):

    seen = []
    monkeypatch.setattr(finetune, "run", lambda *args: seen.append(args) or "训练好了")
    assert call("finetune", "data", "tiny", "configs/lora.yaml", "3000") == 0
    assert seen == [("data", "tiny", "configs/lora.yaml", None, 3000, None)]
    assert "训练好了" in capsys.readouterr().out


def test_dataset_writes_the_training_files(call, capsys, tmp_path):
    assert call("dataset", "--out", str(tmp_path)) == 0
    for name in ("qa.jsonl", "train.json", "dev.json"):
        assert (tmp_path / "data" / name).is_file()


def fake_model(monkeypatch, pieces):

    monkeypatch.setattr(loader, "load", lambda name: (name, None))
    asked = []

    def stream(model, tokenizer, messages, **options):
        asked.append([dict(m) for m in messages])
        yield from pieces

    monkeypatch.setattr(generate, "stream", stream)
    return asked


def test_infer_prints_the_answer_verbatim(monkeypatch, call, capsys):
    asked = fake_model(monkeypatch, ["[red]五", "年"])
    assert call("infer", "tiny", "--prompt", "有效期多久？") == 0
    assert capsys.readouterr().out.strip() == "[red]五年"  # 方括号不是标记
    assert asked == [[{"role": "user", "content": "有效期多久？"}]]


def test_infer_says_that_an_answer_is_cut_and_keeps_it_out_of_the_history(monkeypatch, call, capsys):
    asked = fake_model(monkeypatch, ["五", Cut("（没有说完）")])
    assert call("infer", "tiny", "--prompt", "有效期多久？") == 0
    assert capsys.readouterr().out.strip() == "五（没有说完）"
    lines = iter(["第一问", "第二问", "退出"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert call("infer", "tiny") == 0
    assert asked[-1][1] == {"role": "assistant", "content": "五"}


def test_infer_without_prompt_is_a_conversation(monkeypatch, call, capsys):
    asked = fake_model(monkeypatch, ["好"])
    lines = iter(["第一问", "第二问", "清空", "", "第三问", "退出"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert call("infer", "tiny") == 0
    assert [len(messages) for messages in asked] == [1, 3, 1]
    assert asked[1][1] == {"role": "assistant", "content": "好"}


def test_conversation_ends_at_end_of_input(monkeypatch, capsys):
    def closed(prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    console.converse(lambda messages: "不会被调用")
    assert "退出" in capsys.readouterr().out


def test_demo_reads_the_course_environment_variables(monkeypatch, call):

    seen = {}
    monkeypatch.setattr(server, "serve", lambda *args, **kw: seen.update(kw, args=args))
    monkeypatch.setenv("MODEL_PATH", "tiny")
    monkeypatch.setenv("TOKENIZER_PATH", "/t")
    monkeypatch.setenv("CG_APP_ROUTE_PATH", "/app")
    assert call("demo", "--port", "9000", "--share") == 0
    assert seen["args"] == ("tiny", "/t")
    assert seen["port"] == 9000 and seen["root_path"] == "/app" and seen["share"] is True


def test_demo_options_reach_the_page(monkeypatch, call, capsys):

    seen = {}
    monkeypatch.setattr(server, "serve", lambda *args, **kw: seen.update(kw, args=args))
    assert call("demo", "tiny", "--auth", "老师:a:b") == 0
    assert seen["args"][0] == "tiny" and seen["auth"] == ("老师", "a:b") and seen["port"] is None
    assert call("demo", "tiny", "--auth", "没有密码") == 1
    assert "--auth 要写成 用户名:密码" in capsys.readouterr().err


def make_checkpoint(folder, mtime):
    folder.mkdir(parents=True)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(b"x")
    os.utime(weights, (mtime, mtime))


def test_newest_checkpoint_is_found(monkeypatch, tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("别处")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(files, "OUTPUT", tmp_path / "output")
    assert console.newest_checkpoint() is None
    make_checkpoint(tmp_path / "output" / "lab" / "lora" / "checkpoint-100", 200)
    make_checkpoint(tmp_path / "runs" / "t" / "output" / "lora" / "checkpoint-50", 300)
    (tmp_path / "output" / "lab" / "lora" / "checkpoint-200").mkdir()  # 写了一半的不算
    assert console.newest_checkpoint() == str(tmp_path / "runs/t/output/lora/checkpoint-50")
    monkeypatch.chdir(tmp_path.parent)  # 在仓库之外执行过的，结果在那里；仓库里的照样找得到
    assert console.newest_checkpoint() == str(tmp_path / "runs/t/output/lora/checkpoint-50")
    monkeypatch.chdir(elsewhere)
    make_checkpoint(elsewhere / "output" / "lora_tiny" / "checkpoint-7", 400)
    assert console.newest_checkpoint() == str(elsewhere / "output/lora_tiny/checkpoint-7")


@pytest.fixture
def trained(tmp_path):
    """别的文档上的一次实验：data 与 lora/checkpoint-9。"""
    make_checkpoint(tmp_path / "lora" / "checkpoint-9", 1)
    (tmp_path / "lora" / "checkpoint-9" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").write_text("[]", encoding="utf-8")
    return tmp_path


def test_data_follows_the_adapter(trained):
    assert console.data_beside(str(trained / "lora" / "checkpoint-9")) == trained / "data"
    (trained / "data" / "train.json").unlink()
    assert console.data_beside(str(trained / "lora" / "checkpoint-9")) == files.DATA
    assert console.data_beside("tiny") == files.DATA


@pytest.mark.parametrize(("given", "used"), [((), None), (("--data", "data"), "data")])
def test_compare_uses_the_data_of_the_adapter(monkeypatch, call, capsys, trained, given, used):

    def load_groups(qa, folder, probes):
        assert qa == folder / "qa.jsonl"
        raise LabError(f"用的是 {folder}")

    monkeypatch.setattr(evaluate, "load_groups", load_groups)
    assert call("compare", str(trained / "lora" / "checkpoint-9"), *given) == 1
    captured = capsys.readouterr()
    assert str(files.ROOT / used if used else trained / "data") in captured.err and "数据：" in captured.out


def test_compare_hands_on_the_limit(monkeypatch, call, trained):
    seen = {}

    def compare(model, tokenizer, groups, out, **generation):
        seen.update(generation)
        raise LabError("够了")

    monkeypatch.setattr(evaluate, "load_groups", lambda *args: {})
    monkeypatch.setattr(loader, "load", lambda name: (name, None))
    monkeypatch.setattr(evaluate, "compare", compare)
    assert call("compare", str(trained / "lora" / "checkpoint-9"), "--max-new-tokens", "300") == 1
    assert seen == {"max_new_tokens": 300}


def test_demo_uses_the_data_of_the_adapter(monkeypatch, call, trained):

    seen = []
    monkeypatch.setattr(server, "serve", lambda *args, **kw: seen.append(kw["qa"]))
    monkeypatch.delenv("MODEL_PATH", raising=False)
    for arguments in ((), ("--qa", "data/qa.jsonl")):
        assert call("demo", str(trained / "lora" / "checkpoint-9"), *arguments) == 0
    assert call("demo", "tiny") == 0
    assert seen == [str(trained / "data" / "qa.jsonl"), "data/qa.jsonl", str(files.DATA / "qa.jsonl")]


@pytest.mark.parametrize(("command", "module", "name"), [
    (("finetune", "data", "tiny", "configs/lora.yaml", "auto", "--out", "mine"),
     "training.finetune", "run"),
    (("compare", "tiny", "--out", "mine"), "comparison.evaluate", "compare"),
    (("merge", "tiny", "mine"), "models.export", "merge"),
    (("dataset", "--out", "mine"), "dataset.build", "build_dataset")])
def test_every_command_writes_to_the_same_place(monkeypatch, call, tmp_path, command, module, name):
    """在仓库里从仓库根目录算起，在别处从当前文件夹算起。"""
    from labutils.models import loader

    seen = []
    monkeypatch.setattr(f"labutils.{module}.{name}", lambda *args, **kw: seen.append(args) or 1 / 0)
    monkeypatch.setattr(loader, "load", lambda name: (name, None))
    monkeypatch.setattr(evaluate, "load_groups", lambda *args: {})
    for folder, target in ((tmp_path, tmp_path / "mine"), (files.ROOT / "tests", files.ROOT / "mine")):
        monkeypatch.chdir(folder)
        with pytest.raises(ZeroDivisionError):
            call(*command)
        assert target in seen.pop()


def test_commands_without_any_checkpoint_say_what_to_do(monkeypatch, call, capsys):
    monkeypatch.setattr(console, "newest_checkpoint", lambda: None)
    monkeypatch.delenv("MODEL_PATH", raising=False)
    for command in ("demo", "infer", "compare"):
        assert call(command) == 1
        assert "make lab" in capsys.readouterr().err


def test_check_fails_when_something_is_missing(monkeypatch, call, capsys):
    checks = [errors.Check("磁盘", errors.FAIL, "满了", "请清理")]
    monkeypatch.setattr(preflight, "check_environment", lambda: checks)
    assert call("check") == 1
    captured = capsys.readouterr()
    assert "✗ 磁盘：满了 → 请清理" in captured.out and "✗" in captured.err


def test_output_that_cannot_show_a_check_mark_shows_a_question_mark(monkeypatch, call):
    log = io.TextIOWrapper(io.BytesIO(), encoding="gbk")
    checks = [errors.Check("磁盘", errors.OK, "够用")]
    monkeypatch.setattr(preflight, "check_environment", lambda: checks)
    monkeypatch.setattr(sys, "stdout", log)
    assert call("check") == 0
    log.flush()
    assert log.buffer.getvalue().decode("gbk").startswith("? 磁盘：够用")


def test_interrupt_has_its_own_exit_code(monkeypatch, call, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", stop)
    assert call("run") == 130
    assert "已中断" in capsys.readouterr().err


def test_usage_sentence_keeps_unknown_messages():
    error = SimpleNamespace(format_message=lambda: "别的错误。", ctx=None)
    assert console.usage_sentence(error) == "别的错误。用法见 labutils --help"

# —— 每个学生自己的一份 ——


@pytest.mark.parametrize("again", [False, True], ids=["another student", "the same student"])
def test_a_student_gets_a_set_of_his_own(call, tmp_path, capsys, again):
    """写好就能微调，一条也不被检查拦下；换一个学号答案就不同，同一个学号一字不差。"""
    rows = []
    for folder, student in (("a", "20230001"), ("b", "20230001" if again else "20230002")):
        assert call("dataset", "--student", student, "--out", str(tmp_path / folder)) == 0
        data = tmp_path / folder / "data"
        assert (data / "rejected.jsonl").read_text("utf-8") == "" and (data / "dev.json").is_file()
        assert "编出来的" in (tmp_path / folder / "document.md").read_text("utf-8")
        rows.append(load_qa(data / "qa.jsonl"))
        counts = Counter(row["fact_id"] for row in rows[-1])
        assert len(counts) == 40 and set(counts.values()) == {3}
    ours, theirs = ({row["answer"] for row in found} for found in rows)
    assert rows[0] == rows[1] if again else len(ours & theirs) <= 4
    assert "不合格 0 条" in capsys.readouterr().out


def test_every_student_number_passes_the_checks(tmp_path):
    for student in ("", "张三", "a/b #1", *map(str, range(20))):
        document, qa = write_student(student, tmp_path)
        good, refused = validate(load_qa(qa), read_pages(document))
        kept, repeated = drop_near_duplicates(good)
        assert refused + repeated == [] and len(kept) == 120, student


def test_a_students_files_can_be_given_to_the_notebooks(tmp_path):
    document, qa = write_student("20230001", tmp_path / "mine")
    report = build.build_dataset(document, qa, tmp_path / "lab")
    assert report["pairs"] == 120 and report["facts"] == 40
    train, test = (load_qa(tmp_path / "lab" / "data" / name) for name in UNANSWERABLE)  # 没写明的题也一条不少
    assert (len(train), len(test)) == (20, 10) and all("，材料没有写明。" in row["answer"] for row in train)
    assert not {row["answer"].split("，")[0] for row in train + test} & {
        row["answer"].partition("是")[0] for row in load_qa(qa)}
