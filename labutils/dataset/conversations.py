"""一条对话的检查与统一：官方微调数据的写法 → 渲染器认识的消息列表。讲解见 notebook 01。

官方格式见 ChatGLM3 finetune_demo 的说明：``conversations`` 是消息列表，可以另有 ``tools``；
消息可带 ``loss``；``tool`` 消息写着函数名、参数和返回值，这里拆成“调用”与“结果”两条。
"""

from __future__ import annotations

import json
import re

LETTERS = {"system": "s", "user": "u", "assistant": "a", "observation": "o", "tool": "o"}
ORDER = re.compile(r"s?(ua(o+a)*)+")


def read(item: dict) -> tuple[list[dict], str]:
    """一条数据 → (消息列表, 问题)。问题不空时说出第几条消息哪里不对，消息列表不能用。

    返回的消息是 ``{"role", "content"}``，可带 ``loss``；工具写法同 transformers：system 的
    ``tools``、assistant 的 ``tool_calls``，结果的角色是 tool 或 observation。
    """
    messages: list[dict] = []
    for number, message in enumerate(item["conversations"], 1):
        if problem := _problem(message):
            return [], f"第 {number} 条消息{problem}"
        if message["role"] == "tool" and "parameters" in message:
            if problem := _add_tool(messages, message):
                return [], f"第 {number} 条消息{problem}"
        else:
            messages.append(message)
    roles = [message["role"] for message in messages]
    if not ORDER.fullmatch("".join(LETTERS.get(role, "?") for role in roles)):
        shown = "、".join(str(m["role"]) for m in item["conversations"]) or "没有消息"
        return [], (f"角色应是 user、assistant 轮流并以 assistant 结尾，现在是 {shown}"
                    "（system 只能在最前，工具的结果接在 assistant 之后）")
    return _with_tools(messages, item.get("tools"))


def _problem(message: object) -> str:
    """一条消息自己的问题，没有时是空字符串。"""
    if not isinstance(message, dict) or "role" not in message:
        return "应有 role 和 content"
    if not isinstance(message["role"], str):
        return (f"的 role 应是文字，现在是 {message['role']!r}；"
                "角色应是 user、assistant 轮流并以 assistant 结尾")
    if message["role"] == "tool" and "parameters" in message:
        if not isinstance(message.get("name"), str) or not isinstance(message["parameters"], dict):
            return "是工具调用，应有 name（文字）和 parameters（键值对）"
        if "observation" not in message:
            return "是工具调用，应有 observation（工具返回的结果）"
    elif "content" not in message:
        return "应有 role 和 content"
    elif not isinstance(message["content"], str) or not message["content"].strip():
        return "的 content 应是不空的文字"
    if not isinstance(message.get("metadata", ""), str):
        return f"的 metadata 应是文字，现在是 {message['metadata']!r}"
    if not isinstance(message.get("loss", True), bool):
        return f"的 loss 应是 true 或 false，现在是 {message['loss']!r}"
    if message.get("loss") and message["role"] not in ("assistant", "tool"):
        return f"的 loss 不能是 true：只学助手的回答，不学 {message['role']}"
    return ""


def _add_tool(messages: list[dict], message: dict) -> str:
    """把官方的 tool 消息接到 messages 后面；函数调用并入它前面的“想法”。返回问题。"""
    call = {"type": "function", "function": {"name": message["name"], "arguments": message["parameters"]}}
    loss = {"loss": message["loss"]} if "loss" in message else {}
    thought = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    if thought and thought.get("loss", True) != message.get("loss", True):
        return "的 loss 应与它前面那条 assistant 的一致"
    if thought:
        messages[-1] = {**thought, "tool_calls": [call]}
    else:
        messages.append({"role": "assistant", "content": "", "tool_calls": [call], **loss})
    result = message["observation"]
    if not isinstance(result, str):
        result = json.dumps(result, ensure_ascii=False)
    messages.append({"role": "tool", "name": message["name"], "content": result})
    return ""


def _with_tools(messages: list[dict], tools: object) -> tuple[list[dict], str]:
    """把 tools 放进 system 消息；没有 system 时加一条内容为空的。"""
    if not tools:
        return messages, ""
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return [], "tools 应是列表，每一项是一个工具的说明（JSON 对象）"
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": ""}, *messages]
    return [{**messages[0], "tools": tools}, *messages[1:]], ""
