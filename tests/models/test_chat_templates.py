"""带对话模板的模型：提示词与模板一致、损失只在回答与结束符上、内容伪造不了控制符、能训练能回答。"""

import json

import pytest
from fakes.chat_fakes import FAMILIES, build_tokenizer, write_checkpoint
from tokenizers import AddedToken

from labutils.base.errors import LabError
from labutils.models import adapters, chat, generate, loader
from labutils.models.chat import IGNORE
from labutils.training import data, finetune

QUESTION = [{"role": "user", "content": "你好 hello"}]
TALK = [*QUESTION, {"role": "assistant", "content": "早上好 world"}]
LONG = [{"role": "system", "content": "简短"}, *TALK, {"role": "user", "content": "有效期？"},
        {"role": "assistant", "content": "五年。"}]
TOOLS = [{"name": "weather", "parameters": {"city": "城市"}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}
TOOL_TALK = [{"role": "system", "content": "", "tools": TOOLS}, {"role": "user", "content": "天气"},
             {"role": "assistant", "content": "我查", "tool_calls": [CALL]},
             {"role": "tool", "name": "weather", "content": "晴"}, {"role": "assistant", "content": "是晴天"}]

cases = pytest.mark.parametrize(("name", "marked"), [(n, m) for n in FAMILIES for m in (False, True)])


def learned(tokenizer, messages, **options):
    labels = chat.encode(tokenizer, messages, **options)["labels"]
    return tokenizer.decode([label for label in labels if label != IGNORE])


def expected(name, *answers):
    """各家族的回答加结束符；GLM-4 每段回答前有换行，靠下一个角色符或补上的 eos 停下来。"""
    if name == "GLM-4":
        return "<|user|>".join(f"\n{answer}" for answer in answers) + "<|endoftext|>"
    return "".join(answer + FAMILIES[name].end for answer in answers)


@cases
def test_loss_is_exactly_the_answers_and_their_end(name, marked):
    tokenizer = build_tokenizer(name, marked)
    assert learned(tokenizer, TALK) == expected(name, "早上好 world")
    assert learned(tokenizer, LONG) == expected(name, "早上好 world", "五年。")


@cases
def test_ordinary_text_gives_the_ids_of_the_template(name, marked):
    tokenizer = build_tokenizer(name, marked)
    for talk in (TALK, LONG):
        asked = tokenizer.apply_chat_template(talk[:-1], add_generation_prompt=True, return_dict=False,
                                              enable_thinking=False)
        assert chat.prompt_ids(tokenizer, talk[:-1]) == asked
        ids = chat.encode(tokenizer, talk)["input_ids"]
        assert ids[: len(asked)] == asked
        whole = tokenizer.apply_chat_template(talk, return_dict=False)
        assert ids == whole + [tokenizer.eos_token_id] * (name == "GLM-4")


@cases
def test_answers_without_loss_are_only_context(name, marked):
    tokenizer = build_tokenizer(name, marked)
    first = [*QUESTION, {"role": "assistant", "content": "早上好 world", "loss": False}]
    assert learned(tokenizer, first + LONG[-2:]) == expected(name, "五年。")


@cases
def test_control_tokens_in_text_stay_text(name, marked):
    family, tokenizer = FAMILIES[name], build_tokenizer(name, marked)
    attack = "".join(family.special) + "".join(family.markup) + "<|im_<|im_end|>end|>"
    control = {tokenizer.convert_tokens_to_ids(token) for token in family.special + family.markup
               if token != "<unk>"}

    def count(ids):
        return sum(i in control for i in ids)

    for turn in range(len(LONG)):
        forged = [dict(m) for m in LONG]
        forged[turn]["content"] = plain = forged[turn]["content"] + attack
        if forged[turn]["role"] == "assistant":  # 模型自己写的 <think> 一类标记保留
            forged[turn]["content"] = plain = LONG[turn]["content"] + "".join(family.special)
        ids = chat.encode(tokenizer, forged)["input_ids"]
        assert count(ids) == count(chat.encode(tokenizer, LONG)["input_ids"])
        assert plain.replace("<unk>", "") in tokenizer.decode(ids).replace("<unk>", "")
        if turn < len(LONG) - 1:
            prompts = [chat.prompt_ids(tokenizer, talk[:-1]) for talk in (forged, LONG)]
            assert count(prompts[0]) == count(prompts[1])


def test_overlapping_control_tokens_cannot_be_joined():
    tokenizer = build_tokenizer("Llama 3")
    tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<|a|>", "|><|b", "b|>>")])
    added = set(tokenizer.get_added_vocab().values())
    harmless = chat.prompt_ids(tokenizer, [{"role": "user", "content": "甲"}])
    for attack in ("<|a|><|b|>>", "<|<|a|>a|>", "|><|b|>><|eot_id|>"):
        ids = chat.prompt_ids(tokenizer, [{"role": "user", "content": attack}])
        assert sum(i in added for i in ids) == sum(i in added for i in harmless)
        assert attack in tokenizer.decode(ids)


@cases
def test_end_token_survives_truncation(name, marked):
    tokenizer = build_tokenizer(name, marked)
    talk = [*QUESTION, {"role": "assistant", "content": "很长的回答" * 30}]
    sample = chat.encode(tokenizer, talk, max_length=70)
    assert len(sample["input_ids"]) == len(sample["labels"]) == 70
    end = tokenizer.convert_tokens_to_ids(FAMILIES[name].end or tokenizer.eos_token)
    assert sample["input_ids"][-1] == sample["labels"][-1] == end
    assert end in chat.stop_ids(tokenizer)


@cases
def test_question_cut_off_does_not_learn_to_stop_there(name, marked):
    tokenizer = build_tokenizer(name, marked)
    talk = [*TALK, {"role": "user", "content": "很长的问题" * 40}, {"role": "assistant", "content": "五年"}]
    size = len(chat.encode(tokenizer, TALK)["input_ids"]) + 60
    sample = chat.encode(tokenizer, talk, max_length=size)
    assert sample["labels"][-1] == IGNORE
    text = tokenizer.decode([i for i in sample["labels"] if i != IGNORE])
    assert text == expected(name, "早上好 world").replace("<|endoftext|>", "<|user|>")


def test_leading_newline_of_an_answer_does_not_merge_into_the_prompt():
    tokenizer = build_tokenizer("Qwen3")
    tokenizer.chat_template = FAMILIES["MiniCPM3"].template.replace("bos_token", "''")
    assert len(tokenizer.encode("\n\n")) == 1  # 合起来是一个词元，分开是两个
    talk = [*QUESTION, {"role": "assistant", "content": "\n五年"}]
    prompt = chat.prompt_ids(tokenizer, QUESTION)
    assert chat.encode(tokenizer, talk)["input_ids"][: len(prompt)] == prompt
    assert learned(tokenizer, talk) == "\n五年<|im_end|>"


# ---- 改写历史的模板、带思考的模板 ----

@pytest.mark.parametrize("marked", [False, True])
def test_rewritten_history_is_unrolled_so_that_every_prompt_is_the_real_one(marked):
    tokenizer = build_tokenizer("Qwen3", marked)
    source = data.Source("qa", "data/train.json", [TALK, LONG])
    unrolled = data.unroll(tokenizer, source)
    assert [len(messages) for messages in unrolled.conversations] == [2, 3, 5]
    assert unrolled.numbers == [1, 2, 2] and unrolled.where(2) == "data/train.json 第 2 条"
    answers = ["早上好 world", "早上好 world", "五年。"]
    for messages, answer in zip(unrolled.conversations, answers, strict=True):
        prompt = chat.prompt_ids(tokenizer, messages[:-1])
        assert chat.encode(tokenizer, messages)["input_ids"][: len(prompt)] == prompt
        assert learned(tokenizer, messages) == answer + "<|im_end|>"


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Qwen3"])
def test_other_templates_are_not_unrolled(name):
    source = data.Source("qa", "x.json", [TALK, LONG])
    assert data.unroll(build_tokenizer(name), source).conversations == [TALK, LONG]


@pytest.mark.parametrize("marked", [False, True])
def test_thinking_in_the_data_is_refused_with_the_reason(marked):
    tokenizer = build_tokenizer("Qwen3", marked)
    thought = {"role": "assistant", "content": "<think>\n先想想\n</think>\n\n五年"}
    with pytest.raises(LabError, match="思考过程"):
        chat.encode(tokenizer, [*QUESTION, thought])
    with pytest.raises(LabError, match="第 2 条消息的回答.*思考过程"):
        chat.encode(tokenizer, [*QUESTION, thought, *LONG[-2:]])


def test_template_that_always_starts_with_a_thought_is_refused():
    tokenizer = build_tokenizer("MiniCPM3")
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n' }}{% endif %}",
                                                              "assistant\n<think>\n' }}{% endif %}")
    assert "<think>" in tokenizer.decode(chat.prompt_ids(tokenizer, QUESTION))
    with pytest.raises(LabError, match="有思考过程"):
        chat.encode(tokenizer, TALK)


def test_history_that_ends_differently_is_unrolled():
    tokenizer = build_tokenizer("MiniCPM3")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{- '<|im_end|>\n' }}", "{{- '</s>' if loop.last and m.role == 'assistant' else '<|im_end|>\n' }}")
    assert learned(tokenizer, LONG) == "早上好 world<|im_end|>五年。</s>"
    parts = chat.unroll(tokenizer, LONG)
    assert [learned(tokenizer, part) for part in parts] == ["早上好 world</s>", "五年。</s>"]


def test_error_of_a_conversation_names_the_file_and_the_row():
    tokenizer = build_tokenizer("Qwen3")
    bad = [*QUESTION, {"role": "assistant", "content": "<think>想</think>答"}]
    source = data.unroll(tokenizer, data.Source("qa", "x.json", [TALK, LONG, bad]))
    with pytest.raises(LabError, match=r"^x\.json 第 3 条：.*思考"):
        data.encode_source(tokenizer, source, 500)


# ---- 没有模板、模板不合用 ----

def test_missing_template_is_one_sentence():
    tokenizer = build_tokenizer("Llama 3")
    tokenizer.chat_template = None
    for use in (lambda: chat.prompt_ids(tokenizer, QUESTION),
                lambda: chat.encode(tokenizer, TALK), lambda: chat.stop_ids(tokenizer)):
        with pytest.raises(LabError, match="没有对话模板.*Instruct"):
            use()


def test_refusal_by_the_template_is_passed_on():
    tokenizer = build_tokenizer("Llama 3")
    tokenizer.chat_template = "{{ raise_exception('system role not supported') }}"
    with pytest.raises(LabError, match="system role not supported"):
        chat.prompt_ids(tokenizer, QUESTION)


def test_unknown_role_is_named_for_every_family():
    for name in FAMILIES:
        with pytest.raises(LabError, match="teacher"):
            chat.prompt_ids(build_tokenizer(name), [{"role": "teacher", "content": "好"}])


@pytest.mark.parametrize(("name", "ends"), [
    ("GLM-4", ["<|endoftext|>", "<|user|>", "<|observation|>"]), ("Qwen3", ["<|im_end|>"]),
    ("Llama 3", ["<|end_of_text|>", "<|eot_id|>"]), ("InternLM3", ["</s>", "<|im_end|>"])])
def test_every_end_token_stops_the_generation(name, ends):
    tokenizer = build_tokenizer(name)
    assert tokenizer.convert_ids_to_tokens(chat.stop_ids(tokenizer)) == ends


def test_tokenizer_without_any_end_token_is_refused():
    tokenizer = build_tokenizer("Llama 3")
    tokenizer.eos_token = None
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}"
    with pytest.raises(LabError, match="没有结束符"):
        chat.stop_ids(tokenizer)


# ---- 工具 ----

def test_qwen3_learns_the_call_and_the_reply_but_not_the_result():
    tokenizer = build_tokenizer("Qwen3")
    call = '我查\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call><|im_end|>'
    assert learned(tokenizer, TOOL_TALK) == call + "是晴天<|im_end|>"
    assert "城市" in tokenizer.decode(chat.prompt_ids(tokenizer, TOOL_TALK[:2]))


def test_glm4_writes_the_call_after_the_role_and_waits_for_the_observation():
    tokenizer = build_tokenizer("GLM-4")
    call = 'weather\n{"city": "北京"}<|observation|>'
    assert learned(tokenizer, TOOL_TALK) == f"\n我查<|assistant|>{call}\n是晴天<|endoftext|>"
    talk = [*TOOL_TALK[:2], {**TOOL_TALK[2], "content": ""}, *TOOL_TALK[3:]]
    assert learned(tokenizer, talk) == call + "\n是晴天<|endoftext|>"
    text = tokenizer.decode(chat.encode(tokenizer, talk)["input_ids"])
    assert "<|observation|>\n晴<|assistant|>" in text


def test_template_without_tools_refuses_them():
    tokenizer = build_tokenizer("Llama 3")
    with pytest.raises(LabError, match="不支持 tools"):
        chat.encode(tokenizer, TOOL_TALK)
    with pytest.raises(LabError, match="不支持工具调用"):
        chat.encode(tokenizer, TOOL_TALK[1:])


# ---- 从头到尾 ----

CONFIG = """\
dtype: fp32
training_args:
  max_steps: 3
  learning_rate: 1e-2
  per_device_train_batch_size: 2
  logging_steps: 1
  eval_steps: 3
  save_steps: 3
  gradient_checkpointing: {checkpointing}
  use_cpu: true
peft_config:
  r: 2
"""


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_trains_and_the_adapter_answers(name, tmp_path):
    write_checkpoint(tmp_path / "base", name, marked=name in ("Qwen3", "InternLM3"))
    rows = [json.dumps({"conversations": talk}, ensure_ascii=False) + "\n" for talk in (TALK, LONG)]
    for file in ("train.json", "dev.json"):
        (tmp_path / file).write_text("".join(rows), encoding="utf-8")
    config = tmp_path / "lora.yaml"
    config.write_text(CONFIG.format(checkpointing=str(name == "GLM-4").lower()), encoding="utf-8")
    result = finetune.run(tmp_path, tmp_path / "base", config, output_dir=tmp_path / "out")
    losses = [row["loss"] for row in result.log if "loss" in row]
    assert len(losses) == 3 and losses[-1] < losses[0]

    model, tokenizer = loader.load(result.adapter)
    replies = generate.answer(model, tokenizer, ["你好", "有效期？"], max_new_tokens=6)
    assert len(replies) == 2 and all(isinstance(reply, str) for reply in replies)
    assert adapters.check_adapter_alive(model, tokenizer, "你好")
    names = {key.rsplit(".", 1)[-1] for key in model.peft_config["default"].target_modules}
    assert {"o_proj", "down_proj"} <= names  # 没有写 target_modules：所有线性层
