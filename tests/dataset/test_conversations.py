"""官方微调数据的各种写法：读得进来，学的正好是该学的，写错的说得出第几条。"""

import json

import pytest
from fakes.chat_fakes import build_tokenizer

from labutils.base.errors import LabError
from labutils.dataset.rows import load_conversations
from labutils.models import chat
from labutils.training import data
from labutils.training.config import Config
from tools.tiny_base.vocab import build_tokenizer as tiny_tokenizer

USER = {"role": "user", "content": "北京天气"}
THOUGHT = {"role": "assistant", "content": "我来查"}
TOOL = {"role": "tool", "name": "weather", "parameters": {"city": "北京", "days": 2},
        "observation": {"晴": 20}}
REPLY = {"role": "assistant", "content": "晴，20度"}
TOOLS = [{"name": "weather", "description": "查天气"}]
SYSTEM = {"role": "system", "content": "简短回答"}


def read(tmp_path, *items, array=False):
    path = tmp_path / "train.json"
    lines = [json.dumps(item, ensure_ascii=False) for item in items]
    path.write_text(f"[{','.join(lines)}]" if array else "\n".join(lines), encoding="utf-8")
    return [item["conversations"] for item in load_conversations(path)]


def learned(tokenizer, messages):
    labels = chat.encode(tokenizer, messages)["labels"]
    return tokenizer.decode([label for label in labels if label != chat.IGNORE])


@pytest.mark.parametrize("array", [False, True])
def test_array_and_lines_give_the_same(tmp_path, array):
    rows = [[USER, REPLY], [SYSTEM, USER, REPLY, USER, THOUGHT]]
    assert read(tmp_path, *({"conversations": row} for row in rows), array=array) == rows


def test_official_tool_conversation_is_learned_as_calls_and_replies(tmp_path):
    """函数调用与回答要学，工具的说明、提问、返回的结果不学。"""
    item = {"tools": TOOLS, "conversations": [SYSTEM, USER, THOUGHT, TOOL, REPLY]}
    messages, = read(tmp_path, item)
    assert learned(tiny_tokenizer(), messages) == (
        "\n我来查<|assistant|>weather\n```python\ntool_call(city='北京', days=2)\n```<|observation|>"
        "\n晴，20度</s>")
    text = tiny_tokenizer().decode(chat.encode(tiny_tokenizer(), messages)["input_ids"])
    shown = json.dumps(TOOLS, indent=4, ensure_ascii=False)
    assert text.startswith(f"[gMASK]<sop><|system|>\n简短回答\n{shown}<|user|>\n北京天气<|assistant|>")
    assert '<|observation|>\n{"晴": 20}<|assistant|>' in text


def test_tools_without_a_system_message_get_the_official_introduction(tmp_path):
    messages, = read(tmp_path, {"tools": TOOLS, "conversations": [USER, REPLY]})
    text = tiny_tokenizer().decode(chat.prompt_ids(tiny_tokenizer(), messages))
    assert "<|system|>\nAnswer the following questions as best as you can." in text
    assert "查天气" in text


def test_tool_without_a_thought_and_several_calls(tmp_path):
    messages, = read(tmp_path, {"conversations": [USER, TOOL, {**TOOL, "observation": "雨"}, REPLY]})
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert learned(tiny_tokenizer(), messages).count("tool_call(") == 2


def test_the_same_file_trains_other_families(tmp_path):
    messages, = read(tmp_path, {"tools": TOOLS, "conversations": [USER, THOUGHT, TOOL, REPLY]})
    assert learned(build_tokenizer("Qwen3"), messages).endswith("</tool_call><|im_end|>晴，20度<|im_end|>")
    assert "weather\n{" in learned(build_tokenizer("GLM-4"), messages)


def test_observation_role_is_read_and_not_learned(tmp_path):
    call = {"role": "assistant", "metadata": "weather", "content": "tool_call()"}
    result = {"role": "observation", "content": "晴"}
    messages, = read(tmp_path, {"conversations": [USER, call, result, REPLY]})
    assert learned(tiny_tokenizer(), messages) == "weather\ntool_call()<|observation|>\n晴，20度</s>"


def test_loss_flags_choose_what_is_learned(tmp_path):
    flagged = [{**USER, "loss": False}, {**THOUGHT, "loss": False}, USER, {**REPLY, "loss": True}]
    messages, = read(tmp_path, {"conversations": flagged})
    for tokenizer, end in ((tiny_tokenizer(), "</s>"), (build_tokenizer("Llama 3"), "<|eot_id|>")):
        assert learned(tokenizer, messages).strip() == f"晴，20度{end}"


def test_null_tools_mean_none(tmp_path):
    assert read(tmp_path, {"tools": None, "conversations": [USER, REPLY]}) == [[USER, REPLY]]


@pytest.mark.parametrize(("conversation", "words"), [
    ([USER, {**REPLY, "loss": "no"}], "第 2 条消息的 loss 应是 true 或 false"),
    ([{**USER, "loss": True}, REPLY], "第 1 条消息的 loss 不能是 true"),
    ([USER, {"role": "tool", "parameters": {}, "observation": ""}, REPLY], "第 2 条消息.*应有 name"),
    ([USER, {**TOOL, "parameters": ["北京"]}, REPLY], "parameters"),
    ([USER, {"role": "tool", "name": "a", "parameters": {}}, REPLY], "第 2 条消息.*observation"),
    ([USER, THOUGHT, {**TOOL, "loss": False}, REPLY], "第 3 条消息的 loss 应与"),
    ([USER, {**REPLY, "metadata": 3}], "metadata 应是文字"),
    ([USER, USER, REPLY], "现在是 user、user、assistant"),
    ([USER, SYSTEM, REPLY], "system 只能在最前"),
    ([SYSTEM, SYSTEM, USER, REPLY], "system 只能在最前"),
    ([USER, REPLY, TOOL], "以 assistant 结尾"),
    ([USER, {"role": "observation", "content": "晴"}, REPLY], "接在 assistant 之后"),
    ([USER, {"role": "助手", "content": "晴"}], "现在是 user、助手"),
])
def test_wrong_conversations_are_named(tmp_path, conversation, words):
    with pytest.raises(LabError, match=f"第 2 行：.*{words}"):
        read(tmp_path, {"conversations": [USER, REPLY]}, {"conversations": conversation})


@pytest.mark.parametrize("tools", ["weather", ["weather"], {"name": "weather"}])
def test_tools_must_be_a_list_of_objects(tmp_path, tools):
    with pytest.raises(LabError, match="第 1 行：tools 应是列表"):
        read(tmp_path, {"tools": tools, "conversations": [USER, REPLY]})


def test_training_reads_the_same_conversations(tmp_path):
    with_tools = {"tools": TOOLS, "conversations": [SYSTEM, USER, TOOL, REPLY]}
    read(tmp_path, with_tools, {"conversations": [USER, REPLY]})
    source, = data.read_training(Config(), tmp_path)
    encoded = data.encode_source(tiny_tokenizer(), source, 500)
    assert len(encoded) == 2 and all(len(row["input_ids"]) == len(row["labels"]) for row in encoded)
    assert data.unroll(tiny_tokenizer(), source).conversations == source.conversations
