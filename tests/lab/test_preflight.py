"""环境检查与输入检查：好的放行，坏的说清楚，密钥不外露。"""

import json

import pytest
from packaging.requirements import Requirement

from labutils.base import errors, files
from labutils.base.errors import FAIL, OK, WARN, LabError
from labutils.lab import preflight

CONFIG = files.CONFIGS / "lora_tiny.yaml"
PDF = files.DATA / "source" / "course_document.pdf"
QA = files.DATA / "qa.jsonl"


def test_every_check_has_a_known_status_and_bad_ones_say_what_to_do():
    checks = preflight.check_environment()
    assert len({check.name for check in checks}) == len(checks) == 5
    for check in checks:
        assert check.status in errors.MARKS and check.message
        assert check.status == OK or check.todo, check


def test_installed_packages_are_in_the_tested_range():
    check = preflight.check_packages()
    assert check.status == OK, check


@pytest.mark.parametrize(
    ("text", "status", "word"),
    [
        ("numpy>=1", OK, ""),
        ("没有这个包".encode().hex() + ">=1", FAIL, "缺少"),
        ("numpy<1", WARN, "numpy"),
    ],
)
def test_package_range(text, status, word):
    check = preflight.check_packages([Requirement(text)])
    assert check.status == status and word in check.message


@pytest.mark.parametrize(
    ("running", "status"), [((3, 10), FAIL), ((3, 11), OK), ((3, 14), WARN), ((3, 15), FAIL)]
)
def test_python_version(running, status):
    assert preflight.check_python(running).status == status


@pytest.mark.parametrize(("free", "status"), [(0.1, FAIL), (0.5, WARN), (20, OK)])
def test_room(free, status):
    check = preflight.check_room("磁盘", int(free * errors.GIB), 0.2, 1, "请腾出 1 GiB")
    assert check.status == status and ("腾出" in check.todo) == (status != OK)


def test_shipped_inputs_pass():
    preflight.check_inputs("tiny", CONFIG, PDF, QA)


def test_a_reply_copied_from_a_chat_window_passes(tmp_path):
    path = tmp_path / "webchat.txt"
    path.write_text('好的：\n[{"question": "课程分几类？", "answer": "五类。"}]\n还要吗？', encoding="utf-8")
    preflight.check_inputs("tiny", CONFIG, PDF, path)


def test_missing_config_pdf_and_pairs_are_named(tmp_path):
    gone = tmp_path / "不在.txt"
    for values in ((gone, PDF, QA), (CONFIG, gone, QA), (CONFIG, PDF, gone)):
        with pytest.raises(LabError, match="不在.txt"):
            preflight.check_inputs("tiny", *values)


def test_pairs_of_another_document_are_refused(tmp_path):
    row = json.loads(QA.read_text(encoding="utf-8").splitlines()[0])
    row |= {"evidence": "这句话在任何一页都没有出现过", "page": 1}
    path = tmp_path / "别的文件.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    with pytest.raises(LabError, match="别的文件.jsonl.*--qa.*--api-model"):
        preflight.check_inputs("tiny", CONFIG, PDF, path)
    preflight.check_inputs("tiny", CONFIG, PDF, path, api_model="some-model")


def test_unknown_preset_is_named():
    with pytest.raises(LabError, match="没有预设 nobody"):
        preflight.check_inputs("tiny", CONFIG, PDF, QA, preset="nobody")


def test_model_is_looked_at_first(tmp_path, monkeypatch):
    """拼错的、不是模型的、结构不认识的，都在开跑之前说；写错的路径不当作网上的名字。"""
    def refused(name, words):
        with pytest.raises(LabError, match=words):
            preflight.check_inputs(name, CONFIG, PDF, QA)

    monkeypatch.chdir(files.ROOT)
    for name in ("nope", "./models/glm", "/没有/glm", "a/b/c", "models/没有", "configs/glm"):
        refused(name, "找不到模型文件夹")
    refused(str(tmp_path), "没有 config.json")
    (tmp_path / "config.json").write_text('{"model_type": "baichuan"}', encoding="utf-8")
    refused(str(tmp_path), "baichuan 不是 transformers 自带的")
