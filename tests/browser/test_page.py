"""在真的浏览器里按一遍每个按钮：流式、开关、并排、停止、重试、清空、评价、复制、设置；再是几个人一起用。"""

import time

import pytest
from fakes.browser_page import BOX, answered, ask, last, open_page, set_slider, status, talk_on, wait_for
from fakes.web_fakes import ANSWER, CUT, AdapterModel, CharTokenizer, FakeStream, PlainModel

from labutils.dataset.build import read_pairs
from labutils.demo import server


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
    with server.launch(AdapterModel(), CharTokenizer(), stream=stream, rows=ROWS,
                         feedback=feedback) as demo:
        yield demo


@pytest.fixture
def page(browser, demo, stream):
    stream.calls.clear()
    page = open_page(browser, demo.url)
    yield page
    page.close()


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


def test_stop_freezes_the_answer_and_next_question_works(page, stream, monkeypatch):
    monkeypatch.setattr(AdapterModel.config, "max_position_embeddings", 8192)  # 历史都放得下
    closed = stream.closed
    ask(page, "不停地说")
    wait_for(lambda: len(last(page)) > 5)
    page.click("#lab-stop")
    wait_for(lambda: stream.closed > closed)
    wait_for(lambda: status(page) == "已停止。")
    frozen = last(page)
    page.wait_for_timeout(1000)
    assert last(page) == frozen and status(page) == "已停止。" and 5 < len(frozen) < 3000
    ask(page, "说：下一个")
    wait_for(lambda: last(page) == "后：下一个")
    assert len(stream.calls) == 2 and 5 < len(stream.calls[-1]["messages"][1]["content"]) < 3000


def test_second_question_is_refused_while_answering(page):
    talk_on(page)
    ask(page, "说：插队")
    page.get_by_text("上一个回答还没有结束").wait_for()
    assert page.input_value(BOX) == "说：插队"
    page.click("#lab-stop")


def test_clear_forgets_everything_even_while_answering(page, stream):
    ask(page, "说：一")
    wait_for(lambda: last(page) == "后：一")
    ask(page, "不停地说")
    wait_for(lambda: len(last(page)) > 3 and "一" not in last(page))
    page.click("#lab-clear")
    wait_for(lambda: not last(page) and not last(page, role="user"))
    time.sleep(0.5)
    assert not last(page)
    ask(page, "说：新")
    wait_for(lambda: last(page) == "后：新")
    assert [m["content"] for m in stream.calls[-1]["messages"]] == ["说：新"]


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


def test_answer_that_is_not_finished_says_so_beside_it(page, stream):
    """在状态栏里说：不在聊天框里（复制不到），也不进历史。"""
    ask(page, "说：没完")
    wait_for(lambda: status(page) == CUT)
    assert last(page) == "后：没完"
    ask(page, "说：好")
    wait_for(lambda: last(page) == "后：好" and not status(page))
    assert [m["content"] for m in stream.calls[-1]["messages"]] == ["说：没完", "后：没完", "说：好"]


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
    assert [(row["question"], row["answer"]) for row in read_pairs(feedback)] == [
        ("说：好答案", "后：好答案"), ("说：坏答案", "正确的<b>答案</b>")]


def test_copy_gives_the_answer_and_the_code(browser, demo):
    page = open_page(browser, demo.url, permissions=["clipboard-read", "clipboard-write"])
    copied = "navigator.clipboard.readText()"
    ask(page, "说：抄走我\n\n```\na < b\n```")
    wait_for(lambda: "a < b" in last(page) and not status(page))
    page.locator("#lab-after .message-buttons-left button").first.click()
    wait_for(lambda: page.evaluate(copied) == "后：抄走我\n\n```\na < b\n```")
    page.locator("#lab-after pre").hover()
    page.locator("#lab-after .copy_code_button").click()
    wait_for(lambda: page.evaluate(copied).strip() == "a < b")
    page.close()


def test_settings_reach_the_model(page, stream):
    set_slider(page, "温度", "0.8")
    ask(page, "说：一")
    wait_for(lambda: last(page) == "后：一")
    assert stream.calls[-1]["do_sample"] and stream.calls[-1]["temperature"] == 0.8


# ---- 几个人、几个标签页、关掉的标签页：各说各的，谁也不占着模型不放 ----


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


def test_plain_model_hides_the_switch(browser):
    """开第二个网页会关掉第一个，所以这个测试放在最后。"""
    with server.launch(PlainModel(), CharTokenizer(), stream=FakeStream()) as demo:
        page = open_page(browser, demo.url)
        assert page.locator("#lab-mode").count() == 0
        assert page.get_by_text("没有加载 LoRA 适配器").is_visible()
        ask(page, "说：好")
        answered(page, "后：好")
        page.close()
