"""唯一的提示词渲染处:训练、对比、演示都从这里得到词元编号。讲解见 notebook 02。

ChatGLM3 的对话格式:``[gMASK] <sop>``,然后每条消息是 角色符 + 元信息 + 换行 + 内容;
生成时以 ``<|assistant|>`` 结尾。逐条消息编码,内容里的控制符按普通文字处理,
所以用户写出 ``<|assistant|>`` 也伪造不了角色。别的模型用自带的对话模板,见 chat_templates。
"""

import json

from labutils.base.errors import LabError
from labutils.models import chat_templates

IGNORE = chat_templates.IGNORE
ROLES = ("system", "user", "assistant", "observation", "tool")
# ChatGLM3 的工具说明以这句话开头;它训练时见的就是英文。
TOOLS_INTRODUCTION = ("Answer the following questions as best as you can. "
                      "You have access to the following tools:")


def is_glm_format(tokenizer) -> bool:
    """分词器是不是 ChatGLM3 一族:有那套角色符,以 ``</s>`` 结束(GLM-4 的结束符不同)。"""
    marks = {"[gMASK]", "<sop>", "<|user|>", "<|assistant|>"}
    return marks <= set(tokenizer.get_added_vocab()) and tokenizer.eos_token == "</s>"


def _check_roles(messages: list[dict]) -> None:
    for message in messages:
        if message["role"] not in ROLES:
            raise LabError(f"对话里的角色 {message['role']!r} 不认识,请改成 {'、'.join(ROLES)} 之一。")


def _plain_ids(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []


def _role_ids(tokenizer, role: str) -> list[int]:
    return tokenizer.convert_tokens_to_ids([f"<|{'observation' if role == 'tool' else role}|>"])


def _prefix_ids(tokenizer) -> list[int]:
    return tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])


def _glm_messages(messages: list[dict]) -> list[dict]:
    """把 tools 写进 system 的内容;把工具调用变成以函数名为元信息的回答。"""
    written = []
    for message in messages:
        if message.get("tools"):
            shown = json.dumps(message["tools"], indent=4, ensure_ascii=False)
            message = {**message, "content": (message["content"] or TOOLS_INTRODUCTION) + "\n" + shown}
        written += chat_templates.split_calls(message, _as_python)
    return written


def _as_python(arguments: dict) -> str:
    """ChatGLM3 把函数的参数写成一段 Python 代码。"""
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"```python\ntool_call({shown})\n```"


def _message_ids(tokenizer, message: dict) -> tuple[list[int], list[int]]:
    """一条消息的 (角色符编号, 元信息、换行与内容的编号)。"""
    first_line = _plain_ids(tokenizer, message.get("metadata", "") + "\n")
    return _role_ids(tokenizer, message["role"]), first_line + _plain_ids(tokenizer, message["content"])


def prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    """把消息列表变成一维词元编号,末尾带生成提示 ``<|assistant|>``。

    参数 messages 形如 ``[{"role": "user", "content": "你好"}]``。
    角色不认识、模型没有对话模板时抛出 LabError。
    """
    _check_roles(messages)
    if not is_glm_format(tokenizer):
        return chat_templates.prompt_ids(tokenizer, messages)
    ids = _prefix_ids(tokenizer)
    for message in _glm_messages(messages):
        role, body = _message_ids(tokenizer, message)
        ids += role + body
    return ids + _role_ids(tokenizer, "assistant")


def _encode_glm(tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    ids = _prefix_ids(tokenizer)
    labels = [IGNORE] * len(ids)
    previous_is_answer = False
    for message in _glm_messages(messages):
        role, body = _message_ids(tokenizer, message)
        # 同官方做法:回答后面的角色符也要学,多轮对话靠它停下来。
        labels += role if previous_is_answer else [IGNORE]
        previous_is_answer = message["role"] == "assistant" and message.get("loss", True)
        labels += body if previous_is_answer else [IGNORE] * len(body)
        ids += role + body
    end = [tokenizer.eos_token_id]
    return ids + end, labels + (end if previous_is_answer else [IGNORE])


def _truncate(ids: list[int], labels: list[int], size: int) -> tuple[list[int], list[int]]:
    """从右边截成 size 个;截断处在一段回答中间时,末尾换成结束符并且要学。"""
    if len(ids) <= size:
        return ids, labels
    end = next((i for i in reversed(labels) if i != IGNORE), ids[-1])
    inside = IGNORE not in labels[max(0, size - 2):size]
    return ids[: size - 1] + [end], labels[: size - 1] + [end if inside else IGNORE]


def encode(tokenizer, messages: list[dict], max_length: int | None = None) -> dict:
    """一段对话 → ``{"input_ids", "labels"}``,两个等长的一维列表。

    labels 只在助手的回答和它的结束符上有编号,其余为 -100。消息可带 ``"loss": False``,
    表示这条回答不计损失。超过 max_length 时从右边截断,但保住最后的结束符,
    否则模型学不会停下来。整段没有可学的词元、对话模板不合用时抛出 LabError。
    """
    _check_roles(messages)
    build = _encode_glm if is_glm_format(tokenizer) else chat_templates.encode
    ids, labels = build(tokenizer, messages)
    if max_length is not None:
        ids, labels = _truncate(ids, labels, max_length)
    if all(label == IGNORE for label in labels[:-1]):
        raise LabError("一段对话里没有可以学习的助手回答,请检查 conversations 的角色与长度上限。")
    return {"input_ids": ids, "labels": labels}


def unroll(tokenizer, messages: list[dict]) -> list[list[dict]]:
    """一段对话 → 训练用的若干段;只有会改写历史的对话模板(如 Qwen3)才会多于一段。"""
    return [messages] if is_glm_format(tokenizer) else chat_templates.unroll(tokenizer, messages)


def stop_ids(tokenizer) -> list[int]:
    """生成时遇到就停的编号:结束符,以及 ChatGLM3 的 user、observation 角色符。"""
    if not is_glm_format(tokenizer):
        return chat_templates.stop_ids(tokenizer)
    return [tokenizer.eos_token_id,
            *tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"])]
