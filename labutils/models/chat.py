"""用分词器自带的对话模板渲染：GLM-4、Qwen3、Llama 3、InternLM、MiniCPM 等。讲解见 notebook 02。

三步：把消息渲染成文字，在文字里找到每段要学的回答，再分段编码。回答的位置由模板里的
``{% generation %}`` 标记给出；没有标记的，用“渲染到这一轮为止的提示词”作前缀来找。
消息内容里的控制符先被拆开，编码时只是普通文字，所以伪造不了角色。由 chat_format 调用。


唯一的提示词渲染处:训练、对比、演示都从这里得到词元编号。讲解见 notebook 02。

ChatGLM3 的对话格式:``[gMASK] <sop>``,然后每条消息是 角色符 + 元信息 + 换行 + 内容;
生成时以 ``<|assistant|>`` 结尾。逐条消息编码,内容里的控制符按普通文字处理,
所以用户写出 ``<|assistant|>`` 也伪造不了角色。别的模型用自带的对话模板,见 chat_templates。
"""

import json
import re
from collections.abc import Callable
from functools import partial

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from labutils.base.errors import LabError

IGNORE = -100
BREAK = "\ufdd0"  # Unicode 规定不作文字用的码位，正常文本里没有；渲染后在这里断开，不会被编码
MARKUP = re.compile(r"<.+>|\[.+\]")
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def _without(message: dict, *keys: str) -> dict:
    return {key: value for key, value in message.items() if key not in keys}


def _control_starts(tokenizer) -> dict[bool, re.Pattern]:
    """找控制符开头那个字的正则：键 True 用于模型自己写的消息，False 用于别人写的。

    ``<think>`` 一类标记不是特殊词元：模型自己写的保留，别人写的照样拆开。
    """
    added = [token for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1]
    special = [re.escape(token.content) for token in added if token.special]
    markup = [re.escape(token.content) for token in added if MARKUP.fullmatch(token.content)]
    return {own: re.compile(f"(?={'|'.join(words) or '(?!)'})(.)", re.DOTALL)
            for own, words in ((True, special), (False, special + markup))}


def _break_control(start: re.Pattern, value):
    """在每个控制符的第一个字后面放 BREAK；字典和列表逐项处理。"""
    if isinstance(value, dict):
        return {key: _break_control(start, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_break_control(start, item) for item in value]
    return start.sub(rf"\1{BREAK}", value.replace(BREAK, "")) if isinstance(value, str) else value


def _template(tokenizer, tools) -> str:
    try:
        return tokenizer.get_chat_template(tools=tools)
    except ValueError:
        raise LabError("这个模型的分词器没有对话模板（chat_template），多半是没有对话能力的 Base 版；"
                       "请换它的 Chat 或 Instruct 版。") from None


def _adapted(tokenizer, messages: list[dict]) -> list[dict]:
    """按模板的习惯改写消息：工具结果的角色名、工具调用的写法。模板不认工具时引发 LabError。"""
    tools = next((m["tools"] for m in messages if m.get("tools")), None)
    template = _template(tokenizer, tools)
    if tools and "tools" not in template:
        raise LabError("这个模型的对话模板不支持 tools，请去掉数据里的 tools，或换一个支持的模型。")
    result = "observation" if "<|observation|>" in tokenizer.get_added_vocab() else "tool"
    adapted = []
    for message in messages:
        if message["role"] in ("tool", "observation"):
            message = {**message, "role": result}
        # GLM-4 不认 tool_calls：函数名写在角色符后面，参数作内容，另成一条消息
        adapted += [message] if "tool_calls" in template else split_calls(message, _as_json)
    if any(m.get("metadata") for m in adapted) and "metadata" not in template:
        raise LabError("这个模型的对话模板不支持工具调用，请去掉数据里的 tool 消息，或换一个支持的模型。")
    return adapted


def _as_json(arguments: dict) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def split_calls(message: dict, write: Callable[[dict], str]) -> list[dict]:
    """带 tool_calls 的回答 → 想法一条，每个调用一条（函数名作元信息，write(参数) 作内容）。"""
    plain = _without(message, "tool_calls")
    calls = [call["function"] for call in message.get("tool_calls", [])]
    said = [plain] if message["content"] or not calls else []
    return said + [{**plain, "metadata": call["name"], "content": write(call["arguments"])} for call in calls]


def _render(tokenizer, messages: list[dict], **options) -> tuple[str, list[tuple[int, int]]]:
    """渲染成文字；返回 (文字, 模板用 generation 标出的各段回答的起止)，没有标记时后者为空。"""
    tools = next((m["tools"] for m in messages if m.get("tools")), None)
    template, starts = _template(tokenizer, tools), _control_starts(tokenizer)
    shown = [_break_control(starts[m["role"] == "assistant"], _without(m, "loss", "tools"))
             | {"role": m["role"]} for m in messages if m["content"] or not m.get("tools")]
    # 不要思考过程：课程的问答直接回答；没有这个开关的模板不理会它。
    options = {**tokenizer.special_tokens_map, "enable_thinking": False, **options}
    try:
        rendered, marks = render_jinja_template(
            [shown], tools=_break_control(starts[False], tools), chat_template=template,
            return_assistant_tokens_mask=bool(GENERATION.search(template)), **options)
    except (TemplateError, TypeError, ValueError) as error:
        raise LabError(f"这个模型的对话模板处理不了这段对话（{error}），请检查角色的次序。") from error
    return rendered[0], marks[0] if marks else []


def _prompt(tokenizer, messages: list[dict], **options) -> str:
    return _render(tokenizer, messages, add_generation_prompt=True, **options)[0]


def _piece_ids(tokenizer, text: str, at_start: bool) -> list[int]:
    """编码一段文字。不在开头的段接在换行后面编码再去掉换行，

    否则 SentencePiece 一类的分词器会在每段开头多加一个空格。
    """
    encode = partial(tokenizer.encode, add_special_tokens=False)
    newline, joined = encode("\n"), encode("\n" + text)
    if at_start or joined[: len(newline)] != newline:
        return encode(text) if text else []
    return joined[len(newline):]


def _text_ids(tokenizer, text: str, at_start: bool = True) -> list[int]:
    ids: list[int] = []
    for number, piece in enumerate(text.split(BREAK)):
        ids += _piece_ids(tokenizer, piece, at_start and number == 0)
    return ids


def _template_prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    """消息列表 → 一维词元编号，末尾带模板的生成提示。没有模板时引发 LabError。"""
    return _text_ids(tokenizer, _prompt(tokenizer, _adapted(tokenizer, messages)))


def _learned(messages: list[dict]) -> list[int]:
    return [turn for turn, message in enumerate(messages)
            if message["role"] == "assistant" and message.get("loss", True)]


def _squeezed(text: str) -> str:
    return "".join(text.replace(BREAK, "").split())


def _span(tokenizer, messages: list[dict], turn: int, text: str, mark) -> tuple[int, int]:
    """第 turn 条消息（一段回答）在渲染出的文字里的起止；接不上推理用的提示词时引发 LabError。"""
    prompts = [_prompt(tokenizer, messages[:turn])]
    if turn < len(messages) - 1:  # 前面各轮没有最后一轮的空思考块
        prompts.append(_prompt(tokenizer, messages[:turn], enable_thinking=True))
    start = next((len(prompt) for prompt in prompts if text.startswith(prompt)), None)
    if start is None:
        raise LabError(f"这个模型的对话模板没有让第 {turn + 1} 条消息接在推理时的提示词后面"
                       "（多半是有思考过程），不能用来学；请去掉思考过程，或换不带思考的模型。")
    done, _ = _render(tokenizer, messages[: turn + 1])
    content = _break_control(_control_starts(tokenizer)[True], messages[turn]["content"]).strip()
    if mark:
        start, end = max(mark[0], start), mark[1]
    elif text.startswith(done):
        end = len(done)
    else:  # 历史里换了结尾：到回答的文字为止
        end = text.find(content, start) + len(content)
    if _squeezed(content) not in _squeezed(text[start:end]):
        raise LabError(f"这个模型的对话模板丢掉或改写了第 {turn + 1} 条消息的回答（多半是去掉了思考过程），"
                       "学到的会与数据不同；请去掉思考过程，或换一个模型。")
    return start, end


def _spans(tokenizer, messages: list[dict]) -> tuple[str, list[tuple[int, int]]]:
    """(渲染出的文字, 要学的各段回答的起止)。"""
    text, marks = _render(tokenizer, messages)
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    of_turn = dict(zip(turns, marks, strict=True)) if len(marks) == len(turns) else {}
    spans = [_span(tokenizer, messages, turn, text, of_turn.get(turn)) for turn in _learned(messages)]
    nexts = [start for start, _ in spans[1:]] + [len(text)]
    return text, [(start, min(end, after)) for (start, end), after in zip(spans, nexts, strict=True)]


def _template_encode(tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    """一段对话 → (编号, 标签)：学每段回答到它的第一个结束符为止。

    结束符不在这一段里的，学紧跟在后面的控制符（GLM-4 的中间轮是下一个角色符）；最后一轮
    模板什么都没写的，补一个 eos。
    """
    messages, stops = _adapted(tokenizer, messages), _template_stop_ids(tokenizer)
    control = set(tokenizer.get_added_vocab().values())
    text, spans = _spans(tokenizer, messages)
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    ids, labels, unfinished = [], [], False
    for number, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        part = _text_ids(tokenizer, text[start:end], at_start=start == 0)
        if not part:
            continue
        if number % 2:  # 单数段是回答
            size = next((n for n, i in enumerate(part, 1) if i in stops), len(part))
            unfinished = part[size - 1] not in stops
        else:
            size, unfinished = int(unfinished and part[0] in control), False
        ids += part
        labels += part[:size] + [IGNORE] * (len(part) - size)
    if unfinished and _squeezed(text).endswith(_squeezed(messages[-1]["content"])):
        ids, labels = ids + stops[:1], labels + stops[:1]
    return ids, labels


def _template_stop_ids(tokenizer) -> list[int]:
    """生成时遇到就停的编号：eos、模板写在回答后面的特殊词元、GLM 的角色符；去掉重复的。"""
    probe = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    added = tokenizer.get_added_vocab()
    tail = _text_ids(tokenizer, _render(tokenizer, probe)[0].rpartition("答")[2], at_start=False)
    ends = [i for i in tail if i in set(added.values())][:1]
    roles = [added[name] for name in ("<|user|>", "<|observation|>") if name in added]
    ids = [i for i in [tokenizer.eos_token_id, *ends, *roles] if i is not None]
    if not ids:
        raise LabError("这个模型的分词器没有结束符（eos_token），回答停不下来，请换一个模型。")
    return list(dict.fromkeys(ids))


def _template_unroll(tokenizer, messages: list[dict]) -> list[list[dict]]:
    """把一段对话变成可以直接 encode 的若干段。

    有的模板（如 Qwen3）渲染历史与渲染最后一轮不同：这时每个要学的回答单独成一段，
    前面的回答只作上文，于是训练看到的正是推理时的提示词。别的模板原样返回一段。
    """
    messages = _adapted(tokenizer, messages)
    turns = _learned(messages)
    text, _ = _render(tokenizer, messages)
    if all(text.startswith(_prompt(tokenizer, messages[:turn])) and
           text.startswith(_render(tokenizer, messages[: turn + 1])[0]) for turn in turns[:-1]):
        return [messages]
    return [[{**m, "loss": False} if m["role"] == "assistant" else m for m in messages[:turn]]
            + [messages[turn]] for turn in turns]


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
        written += split_calls(message, _as_python)
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
        return _template_prompt_ids(tokenizer, messages)
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
    build = _encode_glm if is_glm_format(tokenizer) else _template_encode
    ids, labels = build(tokenizer, messages)
    if max_length is not None:
        ids, labels = _truncate(ids, labels, max_length)
    if all(label == IGNORE for label in labels[:-1]):
        raise LabError("一段对话里没有可以学习的助手回答,请检查 conversations 的角色与长度上限。")
    return {"input_ids": ids, "labels": labels}


def unroll(tokenizer, messages: list[dict]) -> list[list[dict]]:
    """一段对话 → 训练用的若干段;只有会改写历史的对话模板(如 Qwen3)才会多于一段。"""
    return [messages] if is_glm_format(tokenizer) else _template_unroll(tokenizer, messages)


def stop_ids(tokenizer) -> list[int]:
    """生成时遇到就停的编号:结束符,以及 ChatGLM3 的 user、observation 角色符。"""
    if not is_glm_format(tokenizer):
        return _template_stop_ids(tokenizer)
    return [tokenizer.eos_token_id,
            *tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"])]
