"""对话 → 词元编号与标签：训练、对比、演示的提示词都从这里来。讲解见 notebook 02。

一个样本就是一段提示词和它的回答：提示词与推理时一模一样，只学回答与结束符。ChatGLM3 一族照官方逐条编码，
别的用分词器自带的对话模板。用户写出的控制符总是普通文字。
"""

import re
from datetime import datetime
from functools import lru_cache, partial
from os.path import commonprefix

from jinja2 import TemplateError
from transformers import GenerationConfig
from transformers.utils.chat_template_utils import render_jinja_template

from labutils.base.errors import LabError

IGNORE = -100
NOTHING = "一段对话里没有可以学习的助手回答，请检查 conversations 的角色与长度上限。"
ROLES = ("system", "user", "assistant")
BREAK = "\ufdd0"  # Unicode 规定不作文字用的码位，正常文本里没有；渲染后在这里断开，不会被编码
MARK = 0xF0000  # 私用区的码位，也没有人写：第 n 条消息的记号是 MARK + n
# 模板眼里的今天总是这一天：Llama 3.1 等把日期写进提示词，跟着日历走的话，哪天用都与训练时不同。
# transformers 不让传函数，所以写成宏放在模板前面，盖住它自己的 strftime_now
TODAY = "{% macro strftime_now(format) %}{{ format" + "".join(
    f"|replace('%{code}', '{datetime(2026, 1, 1):%{code}}')" for code in "aAbBcdHIjmMpSxXyY"
    ) + " }}{% endmacro %}\n"
per_tokenizer = lru_cache(maxsize=8)  # 只由分词器决定的，每个分词器算一次：载入以后词表与模板都不再改
QUESTION, ANSWER = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}


def prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    """``[{"role": "user", "content": "你好"}]`` 这样的消息 → 一维词元编号，末尾带生成提示。

    角色不认识、模型没有对话模板、模板处理不了或漏写哪一条时引发 LabError。
    """
    for message in messages:
        if message["role"] not in ROLES:
            raise LabError(f"对话里的角色 {message['role']!r} 不认识，请改成 {'、'.join(ROLES)} 之一。")
    if not is_glm_format(tokenizer):
        return _text_ids(tokenizer, _prompt(tokenizer, messages))
    *start, reply = tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>", "<|assistant|>"])
    return [*start, *_glm_ids(tokenizer, messages), reply]


def turns(messages: list[dict]) -> list[list[dict]]:
    """一段对话 → 每个要学的回答一段：从头到这个回答为止。带 ``"loss": False`` 的回答只作上文。"""
    return [messages[:turn] for turn, message in enumerate(messages, 1)
            if message["role"] == "assistant" and message.get("loss", True)]


def encode(tokenizer, messages: list[dict]) -> dict[str, list[int]]:
    """一段提示词和它的回答 → ``{"input_ids", "labels"}``，两个等长的一维列表。

    messages 以要学的回答结尾（多轮对话先用 turns 分开）。labels 只在这个回答和它的结束符上有编号，
    其余为 -100，样本到结束符为止。最后一条不是回答、对话模板不合用时引发 LabError。
    """
    if messages[-1]["role"] != "assistant":
        raise LabError(NOTHING)
    prompt, stops = prompt_ids(tokenizer, messages[:-1]), stop_ids(tokenizer)
    # 第一个角色符已经在提示词的末尾
    answer = (_glm_ids(tokenizer, messages[-1:])[1:] if is_glm_format(tokenizer) else
              _template_answer(tokenizer, messages, stops))
    answer.append(stops[0])  # 模板没有写结束符时才用得着
    answer = answer[:next(n for n, i in enumerate(answer, 1) if i in stops)]
    return {"input_ids": prompt + answer, "labels": [IGNORE] * len(prompt) + answer}


def truncate(sample: dict[str, list[int]], size: int) -> dict[str, list[int]] | None:
    """从右边截成 size 个词元，末尾换成结束符，否则学不会停下来；连一个词元的回答都放不下时返回 None。"""
    if len(sample["labels"]) <= size:
        return sample
    if set(sample["labels"][: size - 1]) <= {IGNORE}:
        return None
    return {key: row[: size - 1] + row[-1:] for key, row in sample.items()}  # 最后一个就是结束符


def stop_ids(tokenizer) -> list[int]:
    """学的时候当作结束的编号，不重复：eos、模板写在回答后面的控制符、GLM 的 user 与 observation 角色符。"""
    added = tokenizer.get_added_vocab()
    ends = _written_end(tokenizer) if tokenizer.chat_template else []
    ids = dict.fromkeys([tokenizer.eos_token_id, *ends, added.get("<|user|>"), added.get("<|observation|>")])
    ids.pop(None, None)
    if not ids:
        raise LabError("这个模型的分词器没有结束符（eos_token），回答停不下来，请换一个模型。")
    return list(ids)


def generation_config(tokenizer, given: GenerationConfig | None = None) -> GenerationConfig:
    """怎样生成，加载模型时定这一次：命令、对比、网页、合并写出的文件夹都照它。

    遇到 stop_ids 或基座（given）的结束符就停。基座的惩罚、束搜索、抽样设置都不用：各处要在同样的、看得见的
    设置下比，重复惩罚还会逼模型换掉材料里的原词；想用就写在参数里或页面上。
    """
    given = given or GenerationConfig()
    own = [] if given.eos_token_id is None else given.eos_token_id
    own = own if isinstance(own, list) else [own]
    if any(type(end) is not int for end in own):
        raise LabError(f"基座的 eos_token_id 应当是词元的编号或编号的列表，现在是 {given.eos_token_id!r}；"
                       "请改正 generation_config.json。")
    return GenerationConfig(
        eos_token_id=list(dict.fromkeys([*stop_ids(tokenizer), *own])), pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, max_new_tokens=given.max_new_tokens)


def header(tokenizer) -> str:
    """模型在回答前写、却不是回答的字（如 gpt-oss 的 final）：推理服务只给生成提示，所以要学；显示时去掉。"""
    ids = _text_ids(tokenizer, _frame(tokenizer)[1], at_start=False)
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


# ---- ChatGLM3 的格式 ----

def is_glm_format(tokenizer) -> bool:
    """分词器是不是 ChatGLM3 一族：有那套角色符，以 ``</s>`` 结束（GLM-4 的结束符不同）。"""
    marks = {"[gMASK]", "<sop>", "<|user|>", "<|assistant|>"}
    return marks <= set(tokenizer.get_added_vocab()) and tokenizer.eos_token == "</s>"


def _glm_ids(tokenizer, messages: list[dict]) -> list[int]:
    """逐条消息：角色符、换行（第一行是元信息，总是空的）、内容，分开编码。"""
    ids = []
    for message in messages:
        ids += tokenizer.convert_tokens_to_ids([f"<|{message['role']}|>"])
        for text in ("\n", message["content"]):
            ids += tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


# ---- 分词器自带的对话模板 ----

def _prompt(tokenizer, messages: list[dict]) -> str:
    """提示词的文字；模板漏写哪一条就引发 LabError。

    每条内容末尾加一个记号再渲染，连记号一起找：只找内容会碰巧找到别处的。空白不计，回答里的思考过程有的模板
    以后不再写出来，也不计。
    """
    marked = [m | {"content": m["content"] and m["content"] + chr(n)} for n, m in enumerate(messages, MARK)]
    text = _squeezed(_render(tokenizer, marked, asking=True))
    for number, message in enumerate(marked, 1):
        if _squeezed(message["content"].rpartition("</think>")[2]) not in text:
            raise LabError(f"这个模型的对话模板不写第 {number} 条消息（{message['role']}）或改写了它，"
                           "模型看不到原话；请从数据里去掉，或换一个模型。")
    return _render(tokenizer, messages, asking=True)


def _render(tokenizer, messages: list[dict], asking: bool = False) -> str:
    """用对话模板渲染成文字，内容里的控制符都已断开。没有模板、模板处理不了时引发 LabError。"""
    try:
        template = tokenizer.get_chat_template()
    except ValueError:
        raise LabError("这个模型的分词器没有对话模板（chat_template），多半是没有对话能力的 Base 版；"
                       "请换它的 Chat 或 Instruct 版。") from None
    try:  # 不要思考过程：课程的问答直接回答；没有这个开关的模板不理会它
        return render_jinja_template(
            [[_broken(tokenizer, message) for message in messages]], chat_template=TODAY + template,
            add_generation_prompt=asking, enable_thinking=False, **tokenizer.special_tokens_map)[0][0]
    except (TemplateError, TypeError, ValueError) as error:
        raise LabError(f"这个模型的对话模板处理不了这段对话（{error}），请检查角色的次序。") from error


def _broken(tokenizer, message: dict) -> dict:
    """模板看到的消息：没有 loss，每个控制符的第一个字后面放 BREAK。"""
    start = _control_start(tokenizer, message["role"] == "assistant")
    shown = {key: start.sub(rf"\1{BREAK}", value.replace(BREAK, "")) if isinstance(value, str) else value
             for key, value in message.items() if key != "loss"}
    return shown | {"role": message["role"]}


@per_tokenizer
def _control_start(tokenizer, own: bool) -> re.Pattern:
    """找控制符开头那个字的正则；own：模型自己写的消息，里面的 ``<think>`` 一类标记（不是特殊词元）保留。"""
    added = [token for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1]
    words = [re.escape(token.content) for token in added
             if token.special or not own and re.fullmatch(r"<.+>|\[.+\]", token.content)]
    return re.compile(f"(?={'|'.join(words) or '(?!)'})(.)", re.DOTALL)


def _text_ids(tokenizer, text: str, at_start: bool = True) -> list[int]:
    """渲染出的文字 → 编号，在 BREAK 处断开。

    不在开头的段接在换行后面编码再去掉换行，否则 SentencePiece 一类的分词器会在每段开头多加一个空格。
    """
    write = partial(tokenizer.encode, add_special_tokens=False)
    ids, newline = [], write("\n")
    for number, piece in enumerate(filter(None, text.split(BREAK)), not at_start):
        joined = write("\n" + piece)
        apart = number and joined[: len(newline)] == newline
        ids += joined[len(newline):] if apart else write(piece)
    return ids


@per_tokenizer
def _frame(tokenizer) -> tuple[str, str, str]:
    """一问一答：给好的开头，“答”以前要模型自己写的；提示词写法不同时，它多出来的。"""
    prompt, text = _render(tokenizer, [QUESTION], asking=True), _render(tokenizer, [QUESTION, ANSWER])
    opening = commonprefix([prompt, text])
    written = text.removeprefix(opening).rpartition(ANSWER["content"])[0]
    if more := prompt.removeprefix(opening):
        opening, written = opening + written, ""
    return opening, written, more


def _template_answer(tokenizer, messages: list[dict], stops: list[int]) -> list[int]:
    """模板在提示词后面写的全部内容；接不上推理时的提示词、回答被丢掉或改写时引发 LabError。

    只看一个短问题后面怎样写：有的模板因为有了回答就改写前文（Mistral 换 system 的位置）。
    """
    opening, written, more = _frame(tokenizer)
    text = _render(tokenizer, [QUESTION, messages[-1]])
    stopped = set(stops).intersection(_text_ids(tokenizer, written, at_start=False))  # 没写到回答就停了
    # 提示词多的只有一个开头的标记（如 <think>），就是停在思考过程里
    if stopped or not text.startswith(opening) or re.fullmatch(r"\s*(<[^<>/]+>|\[[^][/]+\])\s*", more):
        raise LabError(f"这个模型的对话模板没有让第 {len(messages)} 条消息接在推理时的提示词后面"
                       "（多半是有思考过程），不能用来学；请去掉思考过程，或换不带思考的模型。")
    text = text[len(opening):]
    if _squeezed(messages[-1]["content"]) not in _squeezed(text):
        raise LabError(f"这个模型的对话模板丢掉或改写了第 {len(messages)} 条消息的回答"
                       "（多半是去掉了思考过程），学到的会与数据不同；请改数据，或换一个模型。")
    return _text_ids(tokenizer, text, at_start=False)


def _squeezed(text: str) -> str:
    return "".join(text.replace(BREAK, "").split())


@per_tokenizer
def _written_end(tokenizer) -> list[int]:
    """模板写在回答后面的第一个控制符；什么都不写的，看下一问前面的（角色符），也没有就是空的。"""
    after = [_render(tokenizer, talk).rpartition(ANSWER["content"])[2]
             for talk in ([QUESTION, ANSWER], [QUESTION, ANSWER, QUESTION])]
    ids = _text_ids(tokenizer, "".join(after), at_start=False)
    added = set(tokenizer.get_added_vocab().values())
    return [i for i in ids if i in added][:1]
