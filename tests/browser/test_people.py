"""几个人、几个标签页、关掉的标签页：各说各的，谁也不占着模型不放。"""

import pytest
from fakes.browser_page import BOX, answered, ask, last, open_page, status, talk_on, wait_for
from fakes.web_fakes import AdapterModel, CharTokenizer, FakeStream

from labutils.demo import server


@pytest.fixture(scope="module")
def stream():
    return FakeStream(delay=0.02)


@pytest.fixture(scope="module")
def demo(stream):
    with server.launch(AdapterModel(), CharTokenizer(), stream=stream) as demo:
        yield demo


@pytest.fixture
def pages(browser, demo):
    """三个人，各用各的浏览器：同一个浏览器对一个网址只开六条连接，三个标签页同时回答就用满了。"""
    size = {"width": 1280, "height": 880}
    pages = [open_page(browser, demo.url, viewport=size) for _ in range(3)]
    yield pages
    for page in pages:
        page.context.close()


def test_second_tab_has_its_own_talk_and_refresh_starts_anew(browser, demo, stream):
    first, second = open_page(browser, demo.url), open_page(browser, demo.url)  # 同一个浏览器
    ask(first, "说：甲页")
    ask(second, "说：乙页")
    answered(first, "后：甲页")
    answered(second, "后：乙页")
    second.reload()
    second.wait_for_selector(BOX)
    assert not last(second)
    ask(second, "说：又来")
    answered(second, "后：又来")
    assert [m["content"] for m in stream.calls[-1]["messages"]] == ["说：又来"]
    assert last(first) == "后：甲页"
    first.context.close()


def test_refresh_while_answering_frees_the_model(pages, stream):
    closed = stream.closed
    talk_on(pages[0])
    pages[0].reload()
    wait_for(lambda: stream.closed > closed, 10)
    ask(pages[0], "说：接着用")
    answered(pages[0], "后：接着用")


def test_people_in_line_are_told_their_place(pages):
    first, *others = pages
    talk_on(first)
    for other in others:
        ask(other, "说：轮到我")
        wait_for(lambda: "排队中" in status(other))  # noqa: B023
    assert "下一个就是你" in status(others[0]) and "前面还有 1 个" in status(others[1])
    first.click("#lab-stop")
    for other in others:
        answered(other, "后：轮到我")


def test_stop_leaves_the_line(pages, stream):
    first, second, _ = pages
    talk_on(first)
    ask(second, "说：不等了")
    wait_for(lambda: "排队中" in status(second))
    second.click("#lab-stop")
    wait_for(lambda: status(second) == "已停止。")
    first.click("#lab-stop")
    wait_for(lambda: status(first) == "已停止。")
    assert stream.calls[-1]["messages"][-1]["content"] == "不停地说"


def test_closing_the_tab_stops_the_model(pages, stream):
    closed = stream.closed
    talk_on(pages[0])
    pages[0].close()
    wait_for(lambda: stream.closed > closed, 10)
