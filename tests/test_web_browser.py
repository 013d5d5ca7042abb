"""在真的浏览器里用一遍网页：流式、开关、并排、停止、清空、文字安全、手机宽度。"""

import os
import time

import pytest
from hostile import INPUTS
from web_fakes import (
    ANSWER,
    BROWSER_FLAGS,
    AdapterModel,
    CharTokenizer,
    FakeStream,
    PlainModel,
    find_browser,
)

from labutils import web_demo
from labutils.web_feedback import to_pairs
from labutils.web_limits import Visitors
from labutils.web_text import GUARD

pytest.importorskip("playwright", reason="没有安装 playwright：pip install -e '.[test]'")
BROWSER = find_browser(os.environ)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="找不到 chromium 或 google-chrome，可用 LAB_CHROMIUM 指定路径")
BOX = "#lab-box textarea"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stream():
    return FakeStream(delay=0.02)


ROWS = [{"fact_id": f"F{i}", "question": f"第 {i} 类是什么？", "answer": ANSWER, "page": 2,
         "evidence": "<b>一流本科课程分为五类</b>"} for i in range(3)]


@pytest.fixture(scope="module")
def feedback(tmp_path_factory):
    return tmp_path_factory.mktemp("feedback") / "feedback.jsonl"


@pytest.fixture(scope="module")
def demo(stream, feedback):
    with web_demo.launch(AdapterModel(), CharTokenizer(), stream=stream, rows=ROWS,
                         feedback=feedback) as demo:
        yield demo


def _open(browser, url, **options):
    page = browser.new_page(locale="zh-CN", **options)
    page.set_default_timeout(60_000)
    page.outside = []
    page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:"))
            else page.outside.append(r.url))
    page.dialogs = []
    page.on("dialog", lambda d: (page.dialogs.append(d.message), d.dismiss()))
    page.goto(url)
    page.wait_for_selector(BOX)
    return page


@pytest.fixture
def page(browser, demo, stream):
    stream.calls.clear()
    page = _open(browser, demo.url)
    yield page
    page.close()


def ask(page, text):
    page.fill(BOX, text)
    page.press(BOX, "Enter")


def last(page, side="after", role="bot"):
    """这一边最后一条消息的文字；还没有消息时为空。"""
    # 一次取完：先数再取的话，消息可能恰好在两步之间被清空
    texts = page.locator(f"#lab-{side} [data-testid={role}] .message-content").all_inner_texts()
    return texts[-1].replace(GUARD, "").strip() if texts else ""


def wait_for(check, seconds=60.0):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "等了太久"
        time.sleep(0.05)


def test_answer_grows_while_streaming(page):
    ask(page, "一流本科课程分哪几类？")
    seen = set()

    def finished():
        seen.add(last(page))
        return last(page) == "后：" + ANSWER

    wait_for(finished)
    assert len(seen) >= 5
    assert all(("后：" + ANSWER).startswith(text) for text in seen)
    assert last(page, role="user") == "一流本科课程分哪几类？"
    assert page.input_value(BOX) == ""
    assert page.outside == []


def test_second_question_carries_the_history(page, stream):
    ask(page, "说：一")
    wait_for(lambda: last(page) == "后：一")
    page.fill(BOX, "说：二")
    page.click("#lab-send")
    wait_for(lambda: last(page) == "后：二")
    assert [m["content"] for m in stream.calls[-1]["messages"]] == ["说：一", "后：一", "说：二"]


def test_each_side_has_its_own_history(page, stream):
    ask(page, "说：一")
    wait_for(lambda: last(page) == "后：一")
    page.get_by_label("微调前", exact=True).check()
    page.wait_for_selector("#lab-before")
    assert not page.locator("#lab-after").is_visible()
    ask(page, "说：二")
    wait_for(lambda: last(page, "before") == "前：二")
    assert [m["content"] for m in stream.calls[-1]["messages"]] == ["说：二"]
    assert stream.calls[-1]["adapter"] is False


def test_side_by_side_answers_both(page, stream):
    page.get_by_label("并排对比").check()
    page.wait_for_selector("#lab-before")
    ask(page, "说：甲")
    wait_for(lambda: last(page, "before") == "前：甲" and last(page) == "后：甲")
    assert sorted(call["adapter"] for call in stream.calls) == [False, True]
    left, right = (page.locator(f"#lab-{side}").bounding_box() for side in ("before", "after"))
    assert left["x"] + left["width"] <= right["x"] and abs(left["y"] - right["y"]) < 5


def test_stop_freezes_the_answer_and_next_question_works(page, stream):
    closed = stream.closed
    ask(page, "不停地说")
    wait_for(lambda: len(last(page)) > 5)
    page.click("#lab-stop")
    wait_for(lambda: stream.closed > closed)
    page.wait_for_timeout(1000)
    frozen = last(page)
    page.wait_for_timeout(1000)
    assert last(page) == frozen and 5 < len(frozen) < 300
    ask(page, "说：下一个")
    wait_for(lambda: last(page) == "后：下一个")
    assert len(stream.calls) == 2 and 5 < len(stream.calls[-1]["messages"][1]["content"]) < 300


def test_second_question_is_refused_while_answering(page):
    ask(page, "不停地说")
    wait_for(lambda: len(last(page)) > 3)
    ask(page, "说：插队")
    page.get_by_text("上一个回答还没有结束").wait_for()
    assert page.input_value(BOX) == "说：插队"
    page.click("#lab-stop")


@pytest.mark.parametrize("button", ["#lab-clear", "#lab-after button[title='清空对话']"])
def test_clear_forgets_everything_even_while_answering(page, stream, button):
    ask(page, "说：一")
    wait_for(lambda: last(page) == "后：一")
    ask(page, "不停地说")
    wait_for(lambda: len(last(page)) > 3 and "一" not in last(page))
    page.click(button)
    wait_for(lambda: not last(page) and not last(page, role="user"))
    time.sleep(0.5)
    assert not last(page)
    ask(page, "说：新")
    wait_for(lambda: last(page) == "后：新")
    assert [m["content"] for m in stream.calls[-1]["messages"]] == ["说：新"]


EVIL = ('<script>window.hacked=1;alert(1)</script> <img src="http://outside.invalid/a.png" '
        'onerror="window.hacked=2"> <b>粗</b> &lt;i&gt; $$x^2$$ '
        '![图](http://outside.invalid/b.png) <iframe src="http://outside.invalid/"></iframe>')


def test_markup_stays_text(page):
    ask(page, "说：" + EVIL)
    wait_for(lambda: last(page).endswith("</iframe>"))
    time.sleep(0.3)
    assert last(page, role="user") == "说：" + EVIL
    assert last(page) == "后：" + EVIL
    inside = page.locator("#lab-after .message-content")
    assert inside.locator("script, img, iframe, b, .katex").count() == 0
    assert page.evaluate("window.hacked") is None
    assert page.dialogs == [] and page.outside == []


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


def test_errors_are_shown_in_chinese(page):
    for text, said in (("", "请先输入问题"), ("长" * 2001, "超过上限 2000 个字"),
                       ("坏", "假的错误"), ("崩", "原因写在启动网页的窗口里")):
        ask(page, text)
        page.get_by_text(said).first.wait_for()
    assert page.get_by_text("内部细节").count() == 0
    # 框架会用“错误”二字盖住出错的组件；这里不许盖住对话和输入框。
    covers = page.locator("[data-testid=status-tracker] span.error").all()
    assert covers and not any(cover.is_visible() for cover in covers)
    ask(page, "说：还能用")
    wait_for(lambda: last(page) == "后：还能用")


def test_example_fills_the_box(page):
    page.locator("#lab-examples button").first.click()
    wait_for(lambda: page.input_value(BOX) == ROWS[0]["question"])


def test_retry_answers_the_same_question_again(page, stream):
    page.click("#lab-retry")
    page.get_by_text("没有可以重试的回答").wait_for()
    ask(page, "说：一")
    wait_for(lambda: last(page) == "后：一")
    wait_for(lambda: not status(page))
    page.click("#lab-retry")
    wait_for(lambda: len(stream.calls) == 2 and last(page) == "后：一" and not status(page))
    assert stream.calls[0]["messages"] == stream.calls[1]["messages"]
    assert page.locator("#lab-after [data-testid=user]").count() == 1


def status(page):
    return page.locator("#lab-status").inner_text().strip()


def test_status_and_source_follow_the_answer(page):
    ask(page, "这门课分哪几类")
    wait_for(lambda: status(page) == "正在回答……")
    wait_for(lambda: last(page) == "后：" + ANSWER and not status(page))
    source = page.locator("#lab-source")
    assert "第 2 页" in source.inner_text() and "<b>一流本科课程分为五类</b>" in source.inner_text()
    ask(page, "说：今天天气晴朗")
    wait_for(lambda: "文件中没有" in source.inner_text())
    page.click("#lab-clear")
    wait_for(lambda: not source.inner_text().strip())


def test_votes_and_corrections_are_saved_as_new_pairs(page, feedback):
    page.click("#lab-up")
    page.get_by_text("还没有回答可以评价").wait_for()
    ask(page, "说：好答案")
    wait_for(lambda: last(page) == "后：好答案" and not status(page))
    page.click("#lab-up")
    page.get_by_text("记下了，谢谢").wait_for()
    ask(page, "说：坏答案")
    wait_for(lambda: last(page) == "后：坏答案" and not status(page))
    page.click("#lab-down")
    page.fill("#lab-correction textarea", "正确的<b>答案</b>")
    page.click("#lab-save")
    page.get_by_text("改正已经保存").wait_for()
    assert page.input_value("#lab-correction textarea") == ""
    assert to_pairs(feedback) == [{"question": "说：好答案", "answer": "后：好答案"},
                                  {"question": "说：坏答案", "answer": "正确的<b>答案</b>"}]


def test_copy_gives_the_answer(browser, demo):
    context = browser.new_context(locale="zh-CN", permissions=["clipboard-read", "clipboard-write"])
    page = _open(context, demo.url)
    ask(page, "说：抄走我")
    wait_for(lambda: last(page) == "后：抄走我" and not status(page))
    page.locator("#lab-after .message-buttons-left button").first.click()
    wait_for(lambda: page.evaluate("navigator.clipboard.readText()") == "后：抄走我")
    context.close()


def test_second_tab_has_its_own_talk_and_refresh_starts_anew(browser, page, demo, stream):
    other = _open(browser, demo.url)
    ask(page, "说：甲页")
    ask(other, "说：乙页")
    wait_for(lambda: last(page) == "后：甲页" and last(other) == "后：乙页")
    other.reload()
    other.wait_for_selector(BOX)
    assert not last(other)
    ask(other, "说：又来")
    wait_for(lambda: last(other) == "后：又来")
    assert [m["content"] for m in stream.calls[-1]["messages"]] == ["说：又来"]
    other.close()


def test_people_in_line_are_told_their_place(browser, demo, page):
    others = [_open(browser, demo.url) for _ in range(2)]
    ask(page, "不停地说")
    wait_for(lambda: len(last(page)) > 3)
    for other in others:
        ask(other, "说：轮到我")
        wait_for(lambda: "排队中" in status(other))  # noqa: B023
    assert "下一个就是你" in status(others[0]) and "前面还有 1 个" in status(others[1])
    page.click("#lab-stop")
    wait_for(lambda: all(last(other) == "后：轮到我" for other in others))
    for other in others:
        other.close()


def test_hostile_text_never_becomes_a_page(browser, monkeypatch):
    """两百条，二十条一组：用户那边逐字显示，模型那边原样复述，都不执行、不取外面的东西。"""
    monkeypatch.setattr(Visitors, "check", lambda *a: None)
    with web_demo.launch(PlainModel(), CharTokenizer(), stream=FakeStream()) as demo:
        page = _open(browser, demo.url)
        for start in range(0, 200, 20):
            text = "\n\n".join(INPUTS[start : start + 20])
            for part in (text[i : i + 400] for i in range(0, len(text), 400)):
                part = part.encode("utf-8", "replace").decode()
                ask(page, "说：" + part)
                wait_for(lambda: last(page) and not status(page))
        inside = page.locator("#lab-after .message-content")
        assert inside.locator("script, img, iframe, object, embed, form, svg, video, base, meta").count() == 0
        assert inside.locator("a").evaluate_all("all => all.map(a => a.outerHTML)") == []
        assert page.evaluate("window.hacked") is None and page.dialogs == [] and page.outside == []
        page.close()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_serious_accessibility_fault(browser, demo, colours, width):
    from axe_playwright_python.sync_playwright import Axe

    page = _open(browser, demo.url, color_scheme=colours, viewport={"width": width, "height": 844})
    ask(page, "说：一\n\n- **粗**\n\n`代码`")
    wait_for(lambda: last(page) and not status(page))
    page.get_by_text("生成设置").click()
    page.get_by_text("改正", exact=True).click()
    page.wait_for_timeout(500)
    found = Axe().run(page).response["violations"]
    serious = [(v["id"], [node["html"][:150] for node in v["nodes"]][:3]) for v in found
               if v["impact"] in ("serious", "critical")]
    assert serious == []
    page.close()


def test_settings_reach_the_model(page, stream):
    page.get_by_text("生成设置").click()
    heat, bar = (page.get_by_label(f"{kind} for 温度") for kind in ("number input", "range slider"))

    def set_heat():  # 折叠面板刚展开时可能重画一次，把填进去的数冲掉
        heat.fill("0.8")
        heat.press("Tab")
        page.wait_for_timeout(500)
        return heat.input_value() == bar.input_value() == "0.8"

    wait_for(set_heat)
    ask(page, "说：一")
    wait_for(lambda: last(page) == "后：一")
    assert stream.calls[-1]["do_sample"] and stream.calls[-1]["temperature"] == 0.8


def test_phone_width_needs_no_sideways_scrolling(browser, demo):
    page = _open(browser, demo.url, viewport={"width": 390, "height": 844})
    page.get_by_label("并排对比").check()
    page.wait_for_selector("#lab-before")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    left, right = (page.locator(f"#lab-{side}").bounding_box() for side in ("before", "after"))
    assert right["y"] >= left["y"] + left["height"] and left["width"] > 300
    page.close()


def test_closing_the_tab_stops_the_model(browser, demo, stream):
    page = _open(browser, demo.url)
    closed = stream.closed
    ask(page, "不停地说")
    wait_for(lambda: len(last(page)) > 3)
    page.close()
    wait_for(lambda: stream.closed > closed)


def test_plain_model_hides_the_switch(browser):
    demo = web_demo.launch(PlainModel(), CharTokenizer(), stream=FakeStream())
    page = _open(browser, demo.url)
    assert page.locator("#lab-mode").count() == 0
    assert page.get_by_text("没有加载 LoRA 适配器").is_visible()
    ask(page, "说：好")
    wait_for(lambda: last(page) == "后：好")
    page.close()
    demo.close()
