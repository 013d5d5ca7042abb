"""一个路径指哪里；一行一个 JSON 的文件坏在哪里怎么办。"""

import json

import pytest

from labutils.base import files
from labutils.base.errors import LabError
from labutils.base.files import read_rows, write_json_lines


@pytest.fixture
def two_places(tmp_path, monkeypatch):
    """(当前文件夹, 仓库)：both 两边都有，there 只有仓库里有，here 只有当前文件夹里有。"""
    here, root = tmp_path / "here", tmp_path / "root"
    for folder in (here / "both", root / "both", here / "here", root / "there", root / "notebooks" / "both"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(files, "ROOT", root)
    return here, root


def test_what_is_read_comes_from_the_current_folder_then_from_the_repository(two_places, monkeypatch):
    here, root = two_places
    assert files.resolve("both") == here / "both"  # 两边都有时，当前文件夹的先
    assert files.resolve("here") == here / "here" and files.resolve("there") == root / "there"
    assert files.resolve("哪里都没有") == root / "哪里都没有"
    assert files.resolve(root / "both") == root / "both"
    monkeypatch.chdir(root / "notebooks")
    assert files.resolve("both") == root / "notebooks" / "both" and files.resolve("there") == root / "there"
    monkeypatch.setenv("HOME", str(here))
    assert files.resolve("~/here") == files.place("~/here") == here / "here"


def test_what_is_written_goes_where_the_command_is_typed(two_places, monkeypatch):
    here, root = two_places
    assert files.place("there") == here / "there" and files.place("mine") == here / "mine"
    assert files.place(root / "mine") == root / "mine"
    for folder in (root, root / "notebooks"):
        monkeypatch.chdir(folder)
        assert files.place("output/mine") == root / "output" / "mine" and files.place("both") == root / "both"
        assert files.place(here / "mine") == here / "mine"


def test_how_a_path_is_printed_and_written_to_files(two_places):
    here, root = two_places
    assert files.rel(root / "there") == files.from_root(root / "there") == "there"
    assert files.rel(here / "a" / "b") == "a/b" and files.rel(here) == f"{here.parent.name}/here"
    assert files.from_root(here / "both") == "../here/both"


def test_a_model_is_a_folder_or_a_name(two_places):
    here, root = two_places
    (here / "tiny").mkdir()
    assert files.model_folder("tiny") is None and files.model_folder("a/b") is None
    assert files.model_folder("both") == here / "both" and files.model_folder("there") == root / "there"
    assert files.is_hub_name("THUDM/chatglm3-6b") and files.is_hub_name("a/b.c-1")
    for name in ("tiny", "", "a/b/c", "./a", "/a/b", "~/a", "a\\b", "模型/甲", "output/lora", "runs/t",
                 "there/a", "here/a", ".hidden/a", "a/", "models/chatglm3-6b", "checkpoints/a"):
        assert not files.is_hub_name(name), name


ROWS = [{"step": 1, "reply": "甲"}, {"step": 2, "reply": "上\u2028下\u2029右\x85左"}, {"step": 3}]


@pytest.fixture
def log(tmp_path):
    return write_json_lines(ROWS, tmp_path / "log.jsonl")


def contents(path, torn="skip"):
    return [row for _, row in read_rows(path, torn)]


def test_whole_lines_come_back_with_their_place(log):
    assert contents(log) == contents(log, "error") == ROWS  # U+2028 不是换行
    assert [place for place, _ in read_rows(log)] == ["第 1 行", "第 2 行", "第 3 行"]
    log.write_text("\ufeff\r\n" + json.dumps(ROWS[0]) + "\r\n \n" + json.dumps(ROWS[2]), encoding="utf-8")
    assert read_rows(log) == read_rows(log, torn="skip") == [("第 2 行", ROWS[0]), ("第 4 行", ROWS[2])]


def test_one_array_is_data_too(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(" " + json.dumps(ROWS, indent=1), encoding="utf-8")
    assert read_rows(path) == [(f"第 {i} 条", row) for i, row in enumerate(ROWS, 1)]


BAD = ["{\"step\": 2, \"re", "}", "NaN}", "\0\0\0", "{\"a\": \"\\ud83d\"}", "[" * 100_000, "9" * 5000]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_bad_line_is_an_error_in_data_and_skipped_in_our_own_log(tmp_path, bad, number):
    lines = [json.dumps(row) for row in ROWS[:2]]
    lines.insert(number - 1, bad)
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert contents(path) == ROWS[:2]
    if not (number == 1 and bad.startswith("[")):  # 以 [ 开头的数据当作一个数组读
        with pytest.raises(LabError, match=f"log.jsonl 第 {number} 行"):
            read_rows(path)


def test_a_log_cut_anywhere_keeps_every_whole_line(log):
    whole = log.read_bytes()
    for size in range(len(whole)):  # 也会切在一个汉字的中间
        log.write_bytes(whole[:size])
        kept = contents(log)
        assert kept == ROWS[:len(kept)] and len(kept) >= whole[:size].count(b"\n")
        log.write_bytes(whole[:size] + b"\n" + whole)  # 半行之后又接着写：只丢那半行
        assert contents(log) == kept + ROWS


def test_bytes_that_are_not_utf8(log):
    text = log.read_bytes()
    log.write_bytes(b"\xff\xfe\n" + text + "{\"reply\": \"中文\"}\n".encode("gbk") + b"{\"a\": 1}\n")
    assert contents(log) == [*ROWS, {"a": 1}]
    with pytest.raises(LabError, match="log.jsonl 不是 UTF-8.*另存为"):
        read_rows(log)


def test_missing_and_empty_files(tmp_path):
    path = tmp_path / "没有.jsonl"
    assert read_rows(path, torn="skip") == []
    with pytest.raises(LabError, match="没有.jsonl 不存在"):
        read_rows(path)
    path.write_text(" \n\n", encoding="utf-8")
    assert read_rows(path, torn="skip") == []
    with pytest.raises(LabError, match="没有.jsonl 是空文件"):
        read_rows(path)


def test_a_log_that_cannot_be_opened_is_a_system_error(tmp_path):
    with pytest.raises(OSError):
        read_rows(tmp_path, torn="skip")
    with pytest.raises(LabError, match="打不开"):
        read_rows(tmp_path)
