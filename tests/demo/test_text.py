"""聊天框文字：只当文字，不当网页代码；两种历史形状统一。"""

import pytest

from labutils.base.errors import LabError
from labutils.demo.engine import GUARD, complete_turns, plain_messages, show, show_answer, show_question


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("text", [
    "<script>", "*粗*", "# 题", "`码`", "[链](x)", "&lt;", "1. 一", "$x$",
])
def test_question_escapes_every_ascii_punctuation(text):
    shown = show_question(text)
    assert shown != text
    assert shown.replace("\\", "") == text


def test_question_keeps_chinese_and_indentation():
    assert show_question("第三批〔2023〕，可以吗？") == "第三批〔2023〕，可以吗？"
    assert show_question("\t缩进\n  两格") == "\u00a0" * 4 + "缩进\n" + "\u00a0" * 2 + "两格"


@pytest.mark.parametrize("text", [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</div>", "<!-- 注释 -->",
    "<?xml?>", "&lt;b&gt;", "&#60;b&#62;", "![图](http://example.invalid/a.png)",
])
def test_answer_breaks_markup_but_reads_the_same(text):
    shown = show_answer("前 " + text)
    assert "<" + GUARD in shown or "&" + GUARD in shown or "!" + GUARD in shown
    assert not any(start in shown for start in ("<s", "<i", "</", "<!", "<?", "&l", "&#", "!["))
    assert shown.replace(GUARD, "") == "前 " + text


@pytest.mark.parametrize("text", ["1 < 2 且 a & b！", "## 标题\n- 一\n- **二**", "比分 3:2，[注]"])
def test_answer_leaves_ordinary_markdown_alone(text):
    assert show_answer(text) == text


@pytest.mark.parametrize("text", [
    "[点](https://a.b)", "[点][一]", "[一]: https://a.b", "https://a.b", "www.a.b", "WWW.a.b", "a@b.cn",
])
def test_answer_never_makes_links(text):
    shown = show_answer("前 " + text)
    assert GUARD in shown and shown.replace(GUARD, "") == "前 " + text


def test_answer_leaves_code_blocks_alone():
    code = "```python\nif a<b:\n    print('<b>')\n```"
    assert show_answer("看：\n" + code + "\n<b>") == "看：\n" + code + "\n<" + GUARD + "b>"
    assert show_answer("~~~\n<i>\n```\n<i>\n~~~") == "~~~\n<i>\n```\n<i>\n~~~"


def test_unfinished_code_block_while_streaming():
    assert show_answer("```\n<b>") == "```\n<b>"
    # 反引号后面还有反引号的一行是行内代码，不是代码块的开头。
    assert show_answer("```a``` \n<b>") == "```a``` \n<" + GUARD + "b>"
    # 代码块要用不少于开头个数的符号结束。
    assert show_answer("````\n```\n<b>") == "````\n```\n<b>"


@pytest.mark.parametrize("code", [
    "1. 一\n   ```", "- ```\n  码\n  ```", "> ```", "- [ ] ```\n      码\n      ```", "一\n   ```\n```",
    "```\n码\n ```", "```\n```~~", "```\n码\r```", "```\n```\t\n```",
])
def test_code_block_that_ended_early_does_not_let_markup_through(code):
    """列表里的代码块随缩进结束，渲染器与 CommonMark 认的结尾也略有不同：说不准的都保护。"""
    shown = show_answer(code + "\n<img src=x> [点](http://a.b)")
    assert shown.endswith(f"\n<{GUARD}img src=x> [点]{GUARD}(http:{GUARD}//a.b)")


def test_answer_never_draws_mermaid():
    assert "```mermaid" not in show_answer("```mermaid\ngraph TD\n```")
    assert "```mermaid" not in show_answer("- ```mermaid\n  x\n  ```")


def test_show_treats_roles_differently():
    assert show([user("*a*"), bot("*a*")]) == [user("\\*a\\*"), bot("*a*")]


def test_plain_messages_accepts_both_shapes():
    browser = [{"role": "user", "metadata": None, "options": None,
                "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]},
               {"role": "assistant", "content": [{"type": "text", "text": "您好"}]}]
    assert plain_messages(browser) == plain_messages([user("你好"), bot("您好")])
    assert plain_messages(browser) == [user("你好"), bot("您好")]
    assert plain_messages(None) == plain_messages([]) == []


@pytest.mark.parametrize("history, said", [
    ("你好", "消息列表"),
    ([["问", "答"]], "第 1 条"),
    ([user("问"), {"role": "system", "content": "x"}], "第 2 条"),
    ([{"role": "user"}], "content"),
    ([{"role": "user", "content": 3}], "content"),
])
def test_plain_messages_says_what_is_wrong(history, said):
    with pytest.raises(LabError, match=said):
        plain_messages(history)


def test_complete_turns_drops_unanswered_questions():
    talk = [user("甲"), bot("一"), user("出错的"), user("乙"), bot(""),
            user("丙"), bot("三"), user("丁")]
    assert complete_turns(talk) == [user("甲"), bot("一"), user("丙"), bot("三")]
    assert complete_turns([]) == complete_turns([user("甲")]) == []
