"""浏览器测试的公用动作：打开网页、提问、读对话、等一件事发生。"""

from fakes.web_fakes import wait_for

from labutils.demo.engine import GUARD

BOX = "#lab-box textarea"


def open_page(browser, url, **options):
    """打开网页；page.outside 记下发往别处的请求，page.dialogs 记下弹窗。

    没有特别要求的标签页同在一个浏览器窗口里，第二次打开就用缓存，快得多。
    """
    if options or not browser.contexts:
        context = browser.new_context(locale="zh-CN", **options)
    else:
        context = browser.contexts[0]
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.outside, page.dialogs = [], []
    page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:"))
            else page.outside.append(r.url))
    page.on("dialog", lambda d: (page.dialogs.append(d.message), d.dismiss()))
    page.goto(url)
    page.wait_for_selector(BOX)
    return page


def ask(page, text):
    page.fill(BOX, text)
    page.press(BOX, "Enter")


def talk_on(page):
    """让假模型说个不停，等它开了口。"""
    ask(page, "不停地说")
    wait_for(lambda: len(last(page)) > 3)


def last(page, side="after", role="bot"):
    """这一边最后一条消息的文字；还没有消息时为空。"""
    # 一次取完：先数再取的话，消息可能恰好在两步之间被清空
    texts = page.locator(f"#lab-{side} [data-testid={role}] .message-content").all_inner_texts()
    return texts[-1].replace(GUARD, "").strip() if texts else ""


def status(page):
    return page.locator("#lab-status").inner_text().strip()


def answered(page, text, side="after"):
    """这一边的回答是 text，而且已经说完。"""
    wait_for(lambda: last(page, side) == text and not status(page))


def set_slider(page, label, value):
    """展开“生成设置”，把一项改成 value（字符串）。"""
    page.get_by_text("生成设置").click()
    number, bar = (page.get_by_label(f"{kind} for {label}") for kind in ("number input", "range slider"))

    def done():  # 折叠面板刚展开时可能重画一次，把填进去的数冲掉
        number.fill(value)
        number.press("Tab")
        page.wait_for_timeout(500)
        return number.input_value() == bar.input_value() == value

    wait_for(done)
