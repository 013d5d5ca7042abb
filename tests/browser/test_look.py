"""网页的样子：手机不横向滚动，浅色深色都没有严重的无障碍问题，全是中文，不向外取任何东西。

谁写的都只是文字，不会变成网页代码；该排版的照样排版；报错是中文。
"""

import importlib.util
import re

import pytest
from fakes.browser_page import BOX, answered, ask, last, open_page, status, wait_for
from fakes.web_fakes import ANSWER, INPUTS, AdapterModel, CharTokenizer, FakeStream
from PIL import Image

from labutils.base import files
from labutils.demo import server

ROWS = [{"question": "一流本科课程分哪几类？", "answer": ANSWER, "page": 2, "evidence": "分为五类"}]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 880}


@pytest.fixture(scope="module")
def demo(unlimited):
    with server.launch(AdapterModel(), CharTokenizer(), stream=FakeStream(), rows=ROWS) as demo:
        yield demo


@pytest.fixture(scope="module", params=["light", "dark"])
def colours(request):
    return request.param


@pytest.fixture(scope="module", params=[PHONE, DESKTOP], ids=["phone", "desktop"])
def screen(request, browser, demo, colours):
    """问过一句、面板都展开的网页：四种画面各开一次，几个测试都来看，谁也不改它。"""
    page = open_page(browser, demo.url, color_scheme=colours, viewport=request.param)
    page.get_by_label("并排对比").check()
    page.wait_for_selector("#lab-before")
    ask(page, "说：一\n\n- **粗**\n\n`代码`\n\n```\n" + "很长的一行代码" * 30 + "\n```")
    wait_for(lambda: "很长" in last(page) and not status(page))
    page.get_by_text("生成设置").click()
    page.get_by_text("改正", exact=True).click()
    page.wait_for_timeout(500)
    yield page
    page.context.close()


def test_page_is_clean(screen):
    from axe_playwright_python.sync_playwright import Axe

    width = screen.viewport_size["width"]
    assert screen.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(screen).response["violations"]
    serious = [(v["id"], [node["html"][:150] for node in v["nodes"]][:3]) for v in found
               if v["impact"] in ("serious", "critical")]
    assert serious == []
    assert screen.outside == []


def test_boxes_stand_side_by_side_or_one_above_the_other(screen):
    left, right = (screen.locator(f"#lab-{side}").bounding_box() for side in ("before", "after"))
    if screen.viewport_size == PHONE:
        assert right["y"] >= left["y"] + left["height"] and left["width"] > 300
    else:
        assert left["x"] + left["width"] <= right["x"] and abs(left["y"] - right["y"]) < 5


def test_the_box_stays_in_the_window(screen):
    for place in ("0", "document.documentElement.scrollHeight / 3"):
        screen.evaluate(f"window.scrollTo(0, {place})")
        screen.wait_for_timeout(200)
        box = screen.locator("#lab-ask").bounding_box()
        assert 0 <= box["y"] and box["y"] + box["height"] <= screen.viewport_size["height"]


def test_words_on_the_page_are_chinese(screen):
    assert screen.evaluate("document.documentElement.lang") == "zh-CN"
    shown = screen.locator("body").inner_text()
    hints = screen.evaluate("[...document.querySelectorAll('[title]')].map(e => e.title)")
    known = {"tiny", "LoRA", "max_new_tokens", "temperature", "top_p", "repetition_penalty"}
    assert set(re.findall(r"[A-Za-z_]{3,}", " ".join([shown, *hints]))) <= known


@pytest.mark.parametrize("name", ["demo.png", "demo_phone_dark.png"])
def test_screenshot_command_takes_the_picture(browser, demo, tmp_path, name):
    script = files.ROOT / "images" / "make_demo_screenshot.py"
    spec = importlib.util.spec_from_file_location("make_demo_screenshot", script)
    screenshot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screenshot)
    width, height, colours = screenshot.SHOTS[name]
    screenshot.take(browser, demo.url, tmp_path / name, "一流本科课程分哪几类？", (width, height), colours)
    picture = Image.open(tmp_path / name)
    scale = 2 if width < 600 else 1
    assert picture.size == (width * scale, height * scale)
    assert (picture.convert("L").getpixel((5, 5)) > 128) == (colours == "light")


# ---- 只当文字 ----

EVIL = ('<script>window.hacked=1;alert(1)</script> <img src="http://outside.invalid/a.png" '
        'onerror="window.hacked=2"> <b>粗</b> &lt;i&gt; $$x^2$$ '
        '![图](http://outside.invalid/b.png) <iframe src="http://outside.invalid/"></iframe>')
TAGS = ("script, img, iframe, object, embed, form, video, base, meta, b, a, .katex, .mermaid, "
        "svg:not(.copy_code_button svg)")  # 代码块上的复制按钮是框架画的


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
