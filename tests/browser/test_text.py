"""在真的浏览器里：谁写的都只是文字，不会变成网页代码；该排版的照样排版；报错是中文。"""

import pytest
from fakes.browser_page import BOX, answered, ask, last, status, wait_for
from fakes.hostile import INPUTS
from fakes.web_fakes import AdapterModel, CharTokenizer, FakeStream

from labutils.demo import server

EVIL = ('<script>window.hacked=1;alert(1)</script> <img src="http://outside.invalid/a.png" '
        'onerror="window.hacked=2"> <b>粗</b> &lt;i&gt; $$x^2$$ '
        '![图](http://outside.invalid/b.png) <iframe src="http://outside.invalid/"></iframe>')
TAGS = ("script, img, iframe, object, embed, form, video, base, meta, b, a, .katex, .mermaid, "
        "svg:not(.copy_code_button svg)")  # 代码块上的复制按钮是框架画的


@pytest.fixture(scope="module")
def demo(unlimited):
    with server.launch(AdapterModel(), CharTokenizer(), stream=FakeStream()) as demo:
        yield demo


def assert_harmless(page):
    inside = page.locator("#lab-after .message-content")
    assert inside.locator(TAGS).evaluate_all("all => all.map(e => e.outerHTML)") == []
    assert page.evaluate("window.hacked") is None
    assert page.dialogs == [] and page.outside == []


def test_markup_stays_text(page):
    ask(page, "说：" + EVIL)
    answered(page, "后：" + EVIL)
    assert last(page, role="user") == "说：" + EVIL
    assert_harmless(page)


def test_hostile_text_never_becomes_a_page(page, monkeypatch):
    """两百条，二十条一组：用户那边逐字显示，模型那边原样复述，都不执行、不取外面的东西。"""
    monkeypatch.setattr(AdapterModel.config, "max_position_embeddings", 4096)  # 一次多问一些
    for start in range(0, 200, 20):
        text = "\n\n".join(INPUTS[start : start + 20]).encode("utf-8", "replace").decode()
        for part in (text[i : i + 1900] for i in range(0, len(text), 1900)):
            ask(page, "说：" + part)
            wait_for(lambda: last(page) and not status(page), 20)
        assert_harmless(page)
        page.click("#lab-clear")
        wait_for(lambda: not last(page, role="user"))


def test_markdown_and_code_are_rendered(page):
    ask(page, "说：\n\n## 标题\n\n- **粗**\n\n```python\nif a<b: print('<i>')\n```\n\n"
              "```mermaid\ngraph TD; A-->B\n```\n")
    wait_for(lambda: "graph TD" in last(page))
    inside = page.locator("#lab-after [data-testid=bot] .message-content")
    wait_for(lambda: inside.locator("pre").count() == 2)
    assert inside.locator("h2").inner_text() == "标题"
    assert inside.locator("li strong").inner_text() == "粗"
    assert inside.locator("pre").first.inner_text().strip() == "if a<b: print('<i>')"
    assert inside.locator(".mermaid").count() == 0


def test_code_block_in_a_list_ends_with_the_list(page):
    ask(page, "说：\n\n1. 一\n   ```\n<img src=x onerror='window.hacked=3'> [点](http://outside.invalid/)\n\n"
              "- ```\n  码\n  ```\n<b>粗</b> [点](http://outside.invalid/)")
    wait_for(lambda: "粗" in last(page) and not status(page))
    assert_harmless(page)


def test_box_takes_no_more_than_the_limit(page):
    page.fill(BOX, "长" * 2001)
    assert len(page.input_value(BOX)) == 2000


@pytest.mark.parametrize("text, said", [
    ("", "请先输入问题"), ("长" * 600, "超过模型的上限 512 个"), ("坏", "假的错误"),
    ("崩", "原因写在启动网页的窗口里")])
def test_errors_are_shown_in_chinese(page, text, said):
    ask(page, text)
    page.get_by_text(said).first.wait_for()
    assert page.get_by_text("内部细节").count() == 0
    # 框架会用“错误”二字盖住出错的组件；这里不许盖住对话和输入框。
    assert not any(cover.is_visible() for cover in page.get_by_test_id("status-tracker").all())
    wait_for(lambda: status(page) == "")
    ask(page, "说：还能用")
    answered(page, "后：还能用")
