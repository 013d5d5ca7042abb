"""网页的样子：手机不横向滚动，浅色深色都没有严重的无障碍问题，全是中文，不向外取任何东西。"""

import importlib.util
import re

import pytest
from fakes.browser_page import ask, last, open_page, status, wait_for
from fakes.web_fakes import ANSWER, AdapterModel, CharTokenizer, FakeStream
from PIL import Image

from labutils.base import files
from labutils.demo import server

ROWS = [{"question": "一流本科课程分哪几类？", "answer": ANSWER, "page": 2, "evidence": "分为五类"}]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 880}


@pytest.fixture(scope="module")
def demo():
    with server.launch(AdapterModel(), CharTokenizer(), stream=FakeStream(),
                         examples=["一流本科课程分哪几类？"], rows=ROWS) as demo:
        yield demo


@pytest.fixture(params=["light", "dark"])
def colours(request):
    return request.param


@pytest.fixture(params=[PHONE, DESKTOP], ids=["phone", "desktop"])
def page(request, browser, demo, colours):
    """问过一句、面板都展开的网页。"""
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


def test_page_is_clean(page):
    """一次打开看几件事：四种画面各要开一次，开得多了太慢。"""
    from axe_playwright_python.sync_playwright import Axe

    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    serious = [(v["id"], [node["html"][:150] for node in v["nodes"]][:3]) for v in found
               if v["impact"] in ("serious", "critical")]
    assert serious == []
    assert page.outside == []


def test_boxes_stand_side_by_side_or_one_above_the_other(page):
    left, right = (page.locator(f"#lab-{side}").bounding_box() for side in ("before", "after"))
    if page.viewport_size == PHONE:
        assert right["y"] >= left["y"] + left["height"] and left["width"] > 300
    else:
        assert left["x"] + left["width"] <= right["x"] and abs(left["y"] - right["y"]) < 5


def test_the_box_stays_in_the_window(page):
    for place in ("0", "document.documentElement.scrollHeight / 3"):
        page.evaluate(f"window.scrollTo(0, {place})")
        page.wait_for_timeout(200)
        box = page.locator("#lab-ask").bounding_box()
        assert 0 <= box["y"] and box["y"] + box["height"] <= page.viewport_size["height"]


def test_words_on_the_page_are_chinese(page):
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    shown = page.locator("body").inner_text()
    hints = page.evaluate("[...document.querySelectorAll('[title]')].map(e => e.title)")
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
