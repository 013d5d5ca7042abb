"""环境检查与输入检查：好的放行，坏的说清楚，密钥不外露。"""

import json
import socket

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
    assert len({check.name for check in checks}) == len(checks) == 10
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
def test_disk(free, status):
    assert preflight.check_disk(int(free * errors.GIB)).status == status


@pytest.mark.parametrize(("free", "status"), [(0.5, FAIL), (1.5, WARN), (8, OK)])
def test_memory(free, status):
    assert preflight.check_memory(int(free * errors.GIB)).status == status


def test_cores():
    assert preflight.check_cores(1).status == WARN and preflight.check_cores(2).status == OK


def test_busy_port_is_noticed():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert preflight.check_port(port).status == WARN
    assert preflight.check_port(port).status == OK


def test_api_key_is_never_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-your-eyes")
    check = preflight.check_api()
    assert check.status == OK and "已设置" in check.message and "sk-not" not in str(check)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "未设置" in preflight.check_api().message


def test_hub_mode(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "离线" in preflight.check_hub().message
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "允许" in preflight.check_hub().message


def test_shipped_inputs_pass():
    preflight.check_inputs("tiny", CONFIG, PDF, QA)


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


def test_model_names(tmp_path):
    preflight.check_model_name("tiny")
    preflight.check_model_name("THUDM/chatglm3-6b")
    with pytest.raises(LabError, match="找不到模型 nope"):
        preflight.check_model_name("nope")
    with pytest.raises(LabError, match="config.json"):
        preflight.check_model_name(str(tmp_path))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    preflight.check_model_name(str(tmp_path))


def test_missing_model_path_is_not_mistaken_for_a_hub_name(monkeypatch):
    monkeypatch.chdir(files.ROOT)
    for name in ("./models/glm", "/没有/glm", "a/b/c", "models/没有", "configs/glm"):
        with pytest.raises(LabError, match="找不到模型"):
            preflight.check_model_name(name)
