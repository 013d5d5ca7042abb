"""核对模型文件夹：完整的说出它是什么，缺了、坏了、装错了用一句话说清楚。

6B 大小的文件夹是现造的：分片是稀疏文件，只有文件头是真的，不占磁盘。
"""

import dataclasses
import hashlib
import json
import math
import struct

import pytest
from fakes import chatglm3_fake
from fakes.chat_fakes import write_kind

from labutils.base.errors import FAIL, OK, WARN, LabError
from labutils.models import chat, chatglm3, identify, loader
from labutils.models.identify import CHATGLM3_6B

SHARDS = 7


def statuses(checks):
    return {check.name: check.status for check in checks}


def last(checks):
    return str(checks[-1])


# ---- 小的文件夹 ----

def test_tiny_is_complete_and_named():
    checks = identify.check_folder("tiny")
    assert set(statuses(checks).values()) == {OK} and "自带的小模型" in last(checks)


def test_another_model_is_named_in_words(toy_base, tmp_path):
    assert "不是课程所说的 ChatGLM3-6B" in last(identify.check_folder(str(toy_base)))
    chatglm3_fake.write(tmp_path)
    checks = identify.check_folder(str(tmp_path))
    assert set(statuses(checks).values()) == {OK} and "0.07 M 参数的 glm 结构" in last(checks)


def test_layers_of_different_sizes_are_no_obstacle(tmp_path):
    checks = identify.check_folder(str(write_kind(tmp_path, "gemma4_text")))
    assert set(statuses(checks).values()) == {OK} and "gemma4_text 结构" in last(checks)


def test_native_format_of_the_known_model(toy_base):
    count = loader.load(str(toy_base))[0].num_parameters()
    known = dataclasses.replace(CHATGLM3_6B, sizes={}, parameters=count, prompts={})
    assert "原生格式" in last(identify.check_folder(str(toy_base), known))


@pytest.mark.parametrize(
    ("damage", "item", "words"),
    [
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "权重", "缺少 2 个权重分片中的 1 个"),
        (lambda f: cut(f / "model-00001-of-00002.safetensors"), "权重", "损坏或没有下载完"),
        (lambda f: (f / "model-00001-of-00002.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\n"), "权重", "git-lfs"),
        (lambda f: change(f / "config.json", num_layers=3), "权重", "缺少张量"),
        (lambda f: change(f / "config.json", quantization_bit=4), "配置", "quantization_bit"),
        (lambda f: (f / "tokenizer.model").unlink(), "分词器", "tokenizer.model"),
        (lambda f: change(f / "config.json", padded_vocab_size=700), "分词器", "超过模型词表的 700"),
    ],
)
def test_each_damage_is_one_sentence(tmp_path, damage, item, words):
    chatglm3_fake.write(tmp_path)
    damage(tmp_path)
    failed = {c.name: c for c in identify.check_folder(str(tmp_path)) if c.status == FAIL}
    assert words in failed[item].message and "\n" not in failed[item].message


def test_index_of_another_format_beside_the_weights_is_ignored(tmp_path):
    chatglm3_fake.write(tmp_path)
    for name in ("pytorch_model.bin.index.json", "a.index.json"):
        (tmp_path / name).write_text('{"metadata": {"total_size": 7}}', encoding="utf-8")
    assert statuses(identify.check_folder(str(tmp_path)))["权重"] == OK


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def change(path, **values):
    raw = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(raw | values), encoding="utf-8")


def test_too_few_weights_for_the_structure(toy_base, tmp_path):
    import shutil

    shutil.copytree(toy_base, tmp_path / "m")
    change(tmp_path / "m" / "config.json", num_hidden_layers=5)
    checks = identify.check_folder(str(tmp_path / "m"))
    assert statuses(checks)["权重"] == FAIL and "按 config.json 应有" in checks[1].message


def test_only_local_base_models_can_be_checked(tmp_path):
    with pytest.raises(LabError, match="先把模型下载下来"):
        identify.check_folder("some/model")
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(LabError, match="基座模型"):
        identify.check_folder(str(tmp_path))


# ---- 6B 大小 ----

def varint(value):
    head = bytes([value & 127 | 128 if value > 127 else value])
    return head + varint(value >> 7) if value > 127 else head


def text_field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def whole(number, value):
    return varint(number << 3) + varint(value)


def wide_tokenizer():
    """与官方同样个数（64,789）的 SentencePiece BPE 模型，普通词元都是单字。"""
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)] + [(f"<0x{i:02X}>", 6) for i in range(256)]
    letters = (chr(code) for code in range(0x2581, 0x20000) if not 0xD800 <= code < 0xE000)
    pieces += [(letter, 1) for letter, _ in zip(letters, range(64789 - len(pieces)), strict=False)]
    data = b"".join(
        text_field(1, text_field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", -rank)
                   + whole(3, kind)) for rank, (text, kind) in enumerate(pieces))
    trainer, normalizer = whole(3, 2) + whole(35, 1), whole(3, 1) + whole(4, 0) + whole(5, 1)
    return data + text_field(2, trainer) + text_field(3, normalizer)


def write_sparse_shard(path, shapes):
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return end


@pytest.fixture(scope="module")
def six_billion(tmp_path_factory):
    """官方格式、6B 大小的文件夹，与认得它的 Known（分词器的指纹和编号换成这里造的）。"""
    folder = tmp_path_factory.mktemp("six")
    raw = chatglm3_fake.config(28, 4096, 32, 2, 128, 13696, 65024, seq_length=8192, torch_dtype="float16")
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(wide_tokenizer())
    config = chatglm3.read_config(folder)
    shapes = list({**chatglm3.expected_tensors(config), chatglm3.ROTARY: (32,)}.items())
    total, weight_map = 0, {}
    for number in range(SHARDS):
        name = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = dict(shapes[number * len(shapes) // SHARDS:(number + 1) * len(shapes) // SHARDS])
        total += write_sparse_shard(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}), encoding="utf-8")
    tokenizer = chatglm3.load_tokenizer(folder, config)
    ids = chat.prompt_ids(tokenizer, [{"role": "user", "content": "你好"}])
    digest = hashlib.sha256((folder / "tokenizer.model").read_bytes()).hexdigest()
    return folder, dataclasses.replace(CHATGLM3_6B, tokenizer_sha256=digest, prompts={"你好": ids}), total


def test_official_numbers_of_six_billion(six_billion):
    folder, known, total = six_billion
    assert total == 12_487_168_064  # 官方索引里的 total_size
    checks = identify.check_folder(str(folder), known)
    assert set(statuses(checks).values()) == {OK}
    assert "199 个张量" in last(checks) and "6,243,584,000 个参数" in last(checks)
    assert "就是课程所说的 ChatGLM3-6B" in last(checks)


def test_foreign_tokenizer_of_the_same_size_is_noticed(six_billion):
    folder, known, _ = six_billion
    checks = identify.check_folder(str(folder))  # 编号与官方的“你好”不同
    assert statuses(checks)["已知句子"] == WARN and "分词器却不是它的" in last(checks)
    other = dataclasses.replace(known, tokenizer_sha256="0" * 64)
    assert "指纹不同" in str(identify.check_folder(str(folder), other)[-2])


@pytest.mark.parametrize("variant", ["base", "32k"])
def test_variants_of_the_same_size_are_told_apart(six_billion, variant):
    folder, known, _ = six_billion
    path = folder / "config.json"
    before = path.read_text(encoding="utf-8")
    change(path, _name_or_path=f"THUDM/chatglm3-6b-{variant}")
    checks = identify.check_folder(str(folder), known)
    path.write_text(before, encoding="utf-8")
    assert statuses(checks)[identify.VERDICT] == WARN and f"ChatGLM3-6B-{variant}" in last(checks)


# ---- 命令 ----

def test_command_names_the_model_and_estimates_memory(call, capsys):
    assert call("check", "tiny", "configs/lora_tiny.yaml", "--length", "64") == 0
    out = capsys.readouterr().out
    assert "自带的小模型" in out and "峰值约" in out and "每条 64 个词元" in out


def test_command_fails_on_a_damaged_folder(call, capsys, tmp_path):
    chatglm3_fake.write(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert call("check", str(tmp_path)) == 1
    captured = capsys.readouterr()
    assert "✗ 权重" in captured.out and "模型还不能用" in captured.err and "Traceback" not in captured.err


def test_command_estimates_memory_before_the_weights_are_there(call, capsys, tmp_path):
    chatglm3_fake.write(tmp_path)
    for path in tmp_path.glob("model*"):
        path.unlink()
    assert call("check", str(tmp_path), "configs/lora.yaml", "--gpu", "24") == 1
    out = capsys.readouterr().out
    assert "✗ 权重" in out and "✓ 24 GiB 的显卡" in out
    change(tmp_path / "config.json", quantization_bit=4)
    assert call("check", str(tmp_path), "configs/lora.yaml") == 1
    out = capsys.readouterr().out
    assert "✗ 配置" in out and "峰值约" not in out
