"""网页聊天框里的文字：用户和模型写的都只当文字，绝不当网页代码。讲解见 notebook 04。

聊天框会把消息当 Markdown 渲染，而 Markdown 允许夹带 HTML。框架自带的清洗会把
``<script>`` 整个删掉，用户就看不到自己问了什么；这里改成让它原样显示。
"""

import re

from labutils.base.errors import LabError

# “词连接符”：不占位置、不可见。放在 ``<`` 后面，浏览器就不会把它当成标签的开头。
GUARD = "\u2060"
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
_FENCE = re.compile(r"(`{3,}(?!.*`)|~{3,})")  # 顶格的代码块开头
# 标签、注释、实体的开头；会去外网取图片的 ``![``；各种链接：``](``、``][``、``]:``、裸网址、邮箱。
_MARKUP = re.compile(r"<(?=[a-zA-Z/!?])|&(?=[a-zA-Z#])|!(?=\[)|\](?=[(\[:])|:(?=//)|@(?=\w)"
                     r"|(?<=\bwww)\.", re.IGNORECASE)


def show_question(text: str) -> str:
    """用户的话 → 逐字显示的 Markdown：每个标点前加反斜杠，行首空格换成不断行空格。"""
    text = _INDENT.sub(lambda m: m.group().replace("\t", "    ").replace(" ", "\u00a0"), text)
    return _PUNCTUATION.sub(r"\\\1", text)


def show_answer(text: str) -> str:
    """模型的话 → 可以放心渲染的 Markdown：保留标题、列表、代码块，标签和链接只当文字。

    顶格的 ``` 代码块里的内容本来就只当文字显示，不改动，复制出来的代码才是原样。
    """
    # 不画 mermaid 图：画图库会执行图里的指令。多一个空格就按普通代码显示。
    text = text.replace("```mermaid", "``` mermaid")
    lines, fence = [], ""
    for line in re.split(r"\r\n?|\n", text):  # 渲染时单独的 \r 也是换行
        before, fence = fence, _fence_after(line, fence)
        lines.append(line if before and fence is not None else _MARKUP.sub(_guard, line))
    return "\n".join(lines)


def _guard(match: re.Match) -> str:
    return match.group() + GUARD


def _fence_after(line: str, fence: str | None) -> str | None:
    """读过这一行之后在哪种代码块里：空的是不在，None 是说不准，从此一律保护。

    列表、引用里的代码块随着缩进结束，在哪里结束要整个解析才知道，所以不是顶格的都算说不准。
    """
    if fence and line.lstrip().startswith(fence):
        return None if line.rstrip(" ").strip(fence[0]) else ""
    if fence or fence is None:
        return fence
    mark = _FENCE.match(line)
    return mark[1] if mark else None if "```" in line or "~~~" in line else ""


def show(messages: list[dict]) -> list[dict]:
    """历史对话 → 聊天框要的消息列表。"""
    shown = {"user": show_question, "assistant": show_answer}
    return [{"role": m["role"], "content": shown[m["role"]](m["content"])} for m in messages]


def plain_messages(history: list[dict] | None) -> list[dict]:
    """把两种形状的历史对话统一成 ``[{"role": …, "content": 字符串}]``。

    浏览器送来的 content 是片段列表 ``[{"type": "text", "text": …}]``，程序接口送来的是字符串。
    形状不对时抛出 LabError，指出是第几条。
    """
    if not isinstance(history or [], list):
        raise LabError("历史对话应当是消息列表，每条是有 role 和 content 的字典，请改正后再发送。")
    return [_plain_message(message, i) for i, message in enumerate(history or [], start=1)]


def _plain_message(message: dict, number: int) -> dict:
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
        raise LabError(f"历史对话第 {number} 条不对：要有 role（user 或 assistant）和 content。")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        content = "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    if not isinstance(content, str):
        raise LabError(f"历史对话第 {number} 条的 content 应当是文字，请改成字符串。")
    return {"role": message["role"], "content": content}


def complete_turns(messages: list[dict]) -> list[dict]:
    """只留下一问一答都齐的轮次：出错或没有内容的轮次不再送给模型。"""
    kept = []
    for question, answer in zip(messages, messages[1:], strict=False):
        if (question["role"], answer["role"]) == ("user", "assistant") and answer["content"]:
            kept += [question, answer]
    return kept
