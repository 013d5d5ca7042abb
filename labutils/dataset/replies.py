"""回复：从服务器发来的东西里取出模型的话（造数据和对话网页共用），再从话里取出问答对。

先认出 JSON 的括号和字符串，才知道哪里是思考、客套话，哪里是正文；正文一个字也不改。小毛病用 json_repair 修；
写到一半的一律丢掉，不能让程序替模型把话编完。讲解见 notebook 01。
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

import json_repair
import openai

from labutils.dataset.rows import flatten

# finish_reason 各家写法不同；一直没有给就是断了
ENDINGS = {"length": "length|max_?tokens|context_window", "broken": "error|resource|abort|^$",
           "filter": "filter|content|safety|sensitive|prohibited|blocklist|recitation", "refusal": "refusal"}
ERROR_KEYS = ("code", "message", "msg", "detail", "errors", "base_resp", "promptFeedback")  # HTTP 200 里的错
DONE = {"choices": [{"finish_reason": "stop"}]}


def bodies(pieces: Iterable[str]) -> Iterator[object]:
    """服务器发来的一段段文字 → 一个个 JSON：流式的每行一个，不流式的一共一个；不是 JSON 引发 ValueError。"""
    plain = ""
    for line in _lines(pieces):
        line = line.lstrip("\ufeff")
        if line.startswith("data:"):
            if line[5:].strip():
                yield json.loads(line[5:]) if "[DONE]" not in line[:15] else DONE
        elif not line.startswith((":", "event:", "id:", "retry:")):
            plain += line
    if plain.strip():
        yield from (json.loads(plain), DONE)


def decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """收到的字节 → 文字：JSON 总是 UTF-8，响应头里写的编码靠不住。"""
    return codecs.iterdecode(chunks, "utf-8", "replace")


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """只在 \\n 处分行：splitlines、iter_lines 还会在 U+2028 等处分，那是回答里的字。"""
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        yield from lines
    yield rest


class Said:
    """一份回答，逐个 JSON 加起来：text 正文、thought 思考、call 工具调用的参数、refusal 拒绝的话。"""

    text = thought = call = refusal = ended = ""
    usage: dict | None = None

    def add(self, body: object) -> str:
        """加上一个 JSON，返回新来的正文；装的是错误时引发 openai.APIError，不是对话时引发 ValueError。"""
        choice = _dig(body, "choices", 0)
        part = _dig(choice, "message") or _dig(choice, "delta")
        content = part if isinstance(part, list) else _dig(part, "content")
        self.text += (piece := _flat(content) or _flat(_dig(choice, "text")))
        self.call += _flat(_dig(part, "tool_calls") or _dig(part, "function_call"))
        self.thought += _flat(_dig(part, "reasoning_content") or _dig(part, "reasoning"))
        refusals = [_dig(item, "refusal") for item in (content if isinstance(content, list) else [part])]
        self.refusal += _flat(refusals)
        self.ended = self.ended or str(_dig(choice, "finish_reason") or "")
        self.usage = _usage(_dig(body, "usage")) or self.usage
        error = _dig(body, "error") or _dig(choice, "error")
        other = _dig(body, "choices") is None
        if error or (other and any(_dig(body, key) for key in ERROR_KEYS)):
            raise openai.APIError(json.dumps(body, ensure_ascii=False)[:600], None, body=error or body)
        if other and not (_dig(body, "usage") or _dig(body, "type")):  # 用量、心跳之类的可以夹在里面
            raise ValueError
        return piece

    @property
    def best(self) -> str:
        """正文；没有就是工具调用的参数、拒绝的话或思考。"""
        return (self.text + self.call).strip() or self.refusal or self.thought.strip()

    @property
    def why(self) -> str:
        """为什么没有说完（ENDINGS 里的哪一种）；说完了是空的。"""
        ended = "refusal" if self.refusal else self.ended.lower()
        return next((why for why, pattern in ENDINGS.items() if re.search(pattern, ended)), "")


def _dig(value: object, *path: str | int) -> object:
    """一层层取下去；没有这一层、不是约定的样子就是 None。"""
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _flat(content: object) -> str:
    """正文可以是一段文字，也可以是几段的列表，思考的那几段不要；调用的参数可以是文字，也可以是 JSON。"""
    if isinstance(content, list):
        return "".join(map(_flat, content))
    if isinstance(content, str) or re.search("think|reason", str(_dig(content, "type"))):
        return content if isinstance(content, str) else ""
    called = _dig(content, "function", "arguments") or _dig(content, "arguments")
    inner = json.dumps(called, ensure_ascii=False) if isinstance(called, dict) else called
    return _flat(_dig(content, "text") or inner) if content else ""


def _usage(usage: object) -> dict | None:
    try:
        counts = [int(float(usage[key])) for key in ("prompt_tokens", "completion_tokens")]
        return dict(zip(("input", "output"), counts, strict=True)) if min(counts) >= 0 else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


# 公式里该写两个反斜杠，有的模型只写一个。\b、\f 一定是公式：文字里没有退格和换页；\n、\r、\t 在 $ 里面、
# 后面是字母的也是，在外面要看凑成的是不是命令：换行后面也可能就是 e、i
_LATEX = re.compile(r"(?:n(?:abla|atural|[ew]arrow|[gl]?eq|o(?:t|tin|indent|number|limits)|u|ewline"
                    r"|leftarrow|rightarrow|su[bp]set\w*)"
                    r"|t(?:ext\w*|frac|binom|au|heta|imes|ilde|o|op|an|anh|ag|herefore|riangle\w*|hick\w*)"
                    r"|r(?:ho|m|angle|ceil|floor|brac[ek]|[vV]ert|oot|times|ight\w*))(?![A-Za-z])", re.ASCII)
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|[\s\S])|[\b\f]")
_LOST = {"\b": r"\\b", "\f": r"\\f", r"\u0008": r"\\b", r"\u000c": r"\\f", r"\u000C": r"\\f", r"\'": "'"}

_NAME = r"(?:\w+:)?(?:think(?:ing)?|thought|reasoning)"
_OPEN = rf"(?:[<\[◁]{_NAME}[>\]▷]|<\|begin_of_thought\|>)"
_CLOSE = rf"(?:[<\[◁]/{_NAME}[>\]▷]|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>)"
_KEY = r"(?:(?P<item>conversations|question)|fact_id|key_points|evidence|answer)"
# 括号外面只看思考和 {；里面还要跳过字符串。字符串里不会有没转义的 {"键":，碰上了就是前面的引号乱了
_OUTSIDE = re.compile(
    rf"(?i)(?P<think>^[ \t]*{_OPEN}(?:[\s\S]*?{_CLOSE}|[\s\S]*))|(?P<end>{_CLOSE})|(?P<open>\{{)", re.M)
_INSIDE = re.compile(
    rf"""(?P<key>(?:(?P<q>["'“])|\b){_KEY}(?(q)["'”])\s*[:：])|(?P<end>(?i:{_CLOSE}))"""
    r"""|"(?:[^"\\{]|\\[\s\S]|\{(?!\s*"\w+"\s*:))*+"?|(?P<open>\{)|(?P<close>\})""")
_BEGUN, _EMPTY = re.compile(r"""\{\s*(?:["'“]|\Z)"""), re.compile(r"\[\s*\]")
_STRING = re.compile(r'"\s*[\[{](?:[^"\\]|\\[\s\S])*+"')  # 里面又是 JSON 的字符串
_KEYS = {"conversations", "role", "content", "question", "answer", "id", "fact_id", "key_points", "page",
         "evidence"}
_CONTROL = re.compile(r"(?<!\\)(?:\\\\)*\\[bfru]|[\x7f-\x9f]")  # 在 json.dumps 的结果里找
REPAIRABLE = 10_000  # 字符；json_repair 的用时随长度的平方增长


class Unusable(Exception):
    """一条问答用不了：(哪一种, 原因)。"""


def parse_response(text: str) -> tuple[list[dict], list[dict]]:
    """模型的原始回复 → (问答, 问题清单)。

    问答是 {"question", "answer", 以及 fact_id、key_points、page、evidence 等写了的}。
    问题是 {"kind": 哪一种, "reason": 原因, "text": 原文片段, "fixed": 是否已修好}；修好的收下，其余的都丢掉。
    kind 有 cut（写到一半断了）、empty（没有问答）、nested、broken、shape、unfaithful 和 fixed。
    """
    body, pairs, problems = _ESCAPE.sub(_restore, text), [], []
    scan = Scan(body)
    for source, whole in scan.sources(body):
        try:
            pair, fixed = _pair(source if whole else source[:_closing_brace(source)])
            pairs.append(pair)
            problems += [_problem("fixed", "JSON 有小毛病，已修好", source)] * fixed
        except Unusable as fault:
            problems.append(_problem(*fault.args, source))
    if pairs and body != text.replace(r"\r\n", r"\n"):
        problems.append(_problem("fixed", "公式里的反斜杠只写了一个，已补上", text[:200]))
    return (pairs, problems) if pairs or problems else _nothing(body, body[scan.answer:])


def separate(text: str) -> list[str]:
    """几份回复复制在一起的文字，在又开始思考的地方分开：写到一半断了的那份就不会吞掉后面的。"""
    return re.split(rf"(?i)\n(?=[ \t]*{_OPEN})", text)


def _nothing(body: str, answer: str) -> tuple[list[dict], list[dict]]:
    """一条也没有认出来：是真的没有，还是又包成了一个字符串；answer 是去掉思考以后的 body。"""
    if _EMPTY.search(answer):  # 空数组：模型认为这一块没有可出的题
        return [], []
    inner = _STRING.search(body)
    if inner and r'\"' in inner[0]:
        return parse_response(json.loads(inner[0], strict=False))
    kind, reason = ("empty", "回复里没有问答（找不到 conversations）") if answer.strip() else (
        "cut", "回复是空的，只有思考，没有说完") if body.strip() else ("empty", "回复是空的")
    return [], [_problem(kind, reason, body)]


def _restore(match: re.Match[str]) -> str:
    """一个转义 → 应有的写法：公式里少写的反斜杠补上，别的不动；\\r\\n 写成 \\n。"""
    escape, source, end = match[0], match.string, match.end()
    if escape in _LOST or len(escape) > 2 or escape[1] in '"\\/':
        return _LOST.get(escape, escape)
    near = source[max(0, end - 200):end].rpartition('"')[2]  # 同一个字符串里，不远处
    inside = near.count("$") % 2 and re.match("[A-Za-z]", source[end:end + 1])
    if escape[1] not in "ntr" or inside or _LATEX.match(source, end - 1):
        return "\\" + escape
    return "" if source.startswith(r"\r\n", end - 2) else escape.replace("r", "n")


class Scan:
    """从左到右扫一遍：spans 是每条问答的 (开头, 结尾)，answer 是思考以后的文字从哪里开始。

    问答是自己带着问题的那一层 {}，外面包几层、键是什么次序都不要紧；有答案等却没有问题的也算，好说出原因。
    多出来的 </think> 说明前面都是思考，后面真有问答（或说没有）时，前面的草稿就不算数。
    """

    def __init__(self, text: str):
        self.spans: list[tuple[int, int]] = []
        self.drafts, self.answer, position = self.spans, 0, 0
        self.opened: list[list[int]] = []  # 还没有配上的 {：[位置, 2 有问题、1 有答案等、0 都没有]
        while match := (_INSIDE if self.opened else _OUTSIDE).search(text, position):
            position = match.end()
            if match.lastgroup:  # 字符串里是什么都不看
                getattr(self, match.lastgroup)(match)

    def open(self, match: re.Match[str]) -> None:
        self.opened.append([match.start(), 0])

    def key(self, match: re.Match[str]) -> None:
        self.opened[-1][1] = max(self.opened[-1][1], 1 + bool(match["item"]))

    def close(self, match: re.Match[str]) -> None:
        start, rank = self.opened.pop()
        if rank > (self.spans[-1:] > [(start,)]):  # 里面已经有问答的是包装，除非它自己也有问题
            self.spans.append((start, match.end()))

    def think(self, match: re.Match[str]) -> None:
        self.answer = match.end()

    def end(self, match: re.Match[str]) -> None:
        self.answer, self.drafts = match.end(), self.spans or self.drafts
        self.spans, self.opened = [], []

    def sources(self, text: str) -> Iterator[tuple[str, bool]]:
        """每条问答的 (原文, 是否完整)；不完整的一直到下一条的开头。"""
        done = self.spans[-1][1] if self.spans else 0
        left = [start for start, rank in self.opened if rank == 2] or [
            start for start, _ in self.opened if start >= done and _BEGUN.match(text, start)][:1]
        spans = sorted([*self.spans, *((start, len(text) + 1) for start in left)])
        if not (spans or _EMPTY.search(text, self.answer)):
            spans = sorted(self.drafts)
        for (start, end), (following, _) in pairwise([*spans, (len(text), 0)]):
            yield text[start:min(end, following)], end <= following


def _pair(source: str) -> tuple[dict, bool]:
    """一条问答的原文 → (问答, 修过没有)；用不了时引发 Unusable。"""
    try:
        item, fixed = _load_or_repair(source)
        text = json.dumps(item, ensure_ascii=False)
        text.encode("utf-8")
    except RecursionError:
        raise Unusable("nested", "括号套得太深，丢掉") from None
    except UnicodeEncodeError:
        raise Unusable("broken", "含有残缺的字符（如半个表情符号），丢掉") from None
    if not isinstance(item, dict):
        raise Unusable("shape", "不是一个 JSON 对象，丢掉")
    if fixed and not _faithful(item, source):
        raise Unusable("unfaithful", "JSON 坏得太厉害，修出来的和原文对不上，丢掉")
    if _CONTROL.search(text):
        raise Unusable("broken", "含有看不见的控制字符，丢掉")
    pair = flatten(item)
    if "question" not in pair:
        raise Unusable("shape", "不是一问一答（应是 user、assistant 各一条），丢掉")
    return pair, fixed


def _closing_brace(text: str) -> int:
    """和开头的 { 配对的 } 之后的位置，不管引号（引号乱了才数到这里）；没有就引发 Unusable。"""
    depth = 0
    for match in re.finditer(r"[{}]", text):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.end()
    raise Unusable("cut", "写到一半断了，丢掉")


def _load_or_repair(source: str) -> tuple[object, bool]:
    try:
        return json.loads(source, strict=False, parse_constant=lambda _: None), False  # NaN 不是 JSON
    except ValueError:  # 不合法的 JSON，或长得离谱的整数
        return json_repair.loads(source) if len(source) < REPAIRABLE else None, True


def _problem(kind: str, reason: str, text: str) -> dict:
    return {"kind": kind, "reason": reason, "text": text.strip(), "fixed": kind == "fixed"}


def _faithful(item: dict, source: str) -> bool:
    """修理可以动标点和括号，不能增删一个字，也不能把一句话劈成几个键：多出来的键要在原文里写成键的样子。"""
    parts = item["conversations"] if isinstance(item.get("conversations"), list) else []
    keys = set(item).union(*(part for part in parts if isinstance(part, dict))) - _KEYS
    named = all(re.search(rf"""[{{,]\s*["'“]?{re.escape(key)}["'”]?\s*[:：]""", source) for key in keys)
    return named and _letters(source) == _letters(json.dumps(item, ensure_ascii=False))


def _letters(text: str) -> str:
    """只留下字母、汉字和数字。"""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(r"\\[nrtbf]", "", text)
    return "".join(char for char in text if char.isalnum())
