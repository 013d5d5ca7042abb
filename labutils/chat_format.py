"""唯一的提示词渲染处:训练、对比、演示都从这里得到词元编号。讲解见 notebook 02。

ChatGLM3 的对话格式:``[gMASK] <sop>``,然后每条消息是 角色符 + 换行 + 内容;
生成时以 ``<|assistant|>`` 结尾。逐条消息编码,内容里的控制符按普通文字处理,
所以用户写出 ``<|assistant|>`` 也伪造不了角色。没有这套控制符的模型改用它自带的对话模板。
"""

from labutils.errors import LabError

IGNORE = -100
ROLES = ("system", "user", "assistant", "observation")


def is_glm_format(tokenizer) -> bool:
    """分词器是否带有 ChatGLM3 的角色符。"""
    return {"[gMASK]", "<sop>", "<|user|>", "<|assistant|>"} <= set(tokenizer.get_added_vocab())


def _plain_ids(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def _role_ids(tokenizer, role: str) -> list[int]:
    if role not in ROLES:
        raise LabError(f"对话里的角色 {role!r} 不认识,请改成 {'、'.join(ROLES)} 之一。")
    return tokenizer.convert_tokens_to_ids([f"<|{role}|>"])


def _prefix_ids(tokenizer) -> list[int]:
    return tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])


def _message_ids(tokenizer, message: dict) -> tuple[list[int], list[int]]:
    """一条消息的 (角色符编号, 换行与内容编号)。"""
    body = _plain_ids(tokenizer, "\n") + _plain_ids(tokenizer, message["content"])
    return _role_ids(tokenizer, message["role"]), body


def prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    """把消息列表变成一维词元编号,末尾带生成提示 ``<|assistant|>``。

    参数 messages 形如 ``[{"role": "user", "content": "你好"}]``。
    角色不认识时抛出 LabError。
    """
    if not is_glm_format(tokenizer):
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    ids = _prefix_ids(tokenizer)
    for message in messages:
        role, body = _message_ids(tokenizer, message)
        ids += role + body
    return ids + _role_ids(tokenizer, "assistant")


def _encode_glm(tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    ids = _prefix_ids(tokenizer)
    labels = [IGNORE] * len(ids)
    previous_is_answer = False
    for message in messages:
        role, body = _message_ids(tokenizer, message)
        # 同官方做法:回答后面的角色符也要学,多轮对话靠它停下来。
        labels += role if previous_is_answer else [IGNORE]
        previous_is_answer = message["role"] == "assistant" and message.get("loss", True)
        labels += body if previous_is_answer else [IGNORE] * len(body)
        ids += role + body
    end = [tokenizer.eos_token_id]
    return ids + end, labels + (end if previous_is_answer else [IGNORE])


def _encode_template(tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    """没有 ChatGLM3 控制符时:用逐轮加长的前缀找出每段回答的位置。"""
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    labels = [IGNORE] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] == "assistant" and message.get("loss", True):
            start = len(prompt_ids(tokenizer, messages[:turn]))
            end = len(tokenizer.apply_chat_template(
                messages[: turn + 1], tokenize=True, return_dict=False))
            labels[start:end] = ids[start:end]
    return ids, labels


def encode(tokenizer, messages: list[dict], max_length: int | None = None) -> dict:
    """一段对话 → ``{"input_ids", "labels"}``,两个等长的一维列表。

    labels 只在助手的回答和它的结束符上有编号,其余为 -100。消息可带 ``"loss": False``,
    表示这条回答不计损失。超过 max_length 时从右边截断,但保住最后的结束符,
    否则模型学不会停下来。整段没有可学的词元时抛出 LabError。
    """
    if is_glm_format(tokenizer):
        ids, labels = _encode_glm(tokenizer, messages)
    else:
        ids, labels = _encode_template(tokenizer, messages)
    if max_length is not None and len(ids) > max_length:
        ids, labels = ids[: max_length - 1] + ids[-1:], labels[: max_length - 1] + labels[-1:]
    if all(label == IGNORE for label in labels[:-1]):
        raise LabError("一段对话里没有可以学习的助手回答,请检查 conversations 的角色与长度上限。")
    return {"input_ids": ids, "labels": labels}


def stop_ids(tokenizer) -> list[int]:
    """生成时遇到就停的编号:结束符,以及 ChatGLM3 的 user、observation 角色符。"""
    if not is_glm_format(tokenizer):
        return [tokenizer.eos_token_id]
    return [tokenizer.eos_token_id,
            *tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"])]
