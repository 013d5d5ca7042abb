"""拍下对话网页的样子：并排对比同一个问题，存成 images/demo.png。

用法（先运行过 notebook 02，或 make lab）：
    python images/make_demo_screenshot.py [适配器文件夹] [输出.png]
需要 Chromium 系浏览器；可用环境变量 LAB_CHROMIUM 指定路径。
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from labutils import evaluation, models, paths, web_demo
from labutils.errors import LabError

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def find_browser() -> str:
    names = [os.environ.get("LAB_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    for name in filter(None, names):
        if path := shutil.which(name):
            return path
    raise LabError("找不到 chromium 或 google-chrome，请安装，或用 LAB_CHROMIUM 指定路径。")


def use_bundled_font(folder: Path) -> None:
    """系统没有中文字体时，让浏览器用 zhplot 带的思源黑体，截图里就没有方框。"""
    import zhplot

    fonts = Path(zhplot.__file__).parent / "fonts"
    config = folder / "fonts.conf"
    config.write_text(
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
        '<include ignore_missing="yes">/etc/fonts/fonts.conf</include>'
        f"<dir>{fonts}</dir></fontconfig>", encoding="utf-8")
    os.environ["FONTCONFIG_FILE"] = str(config)


def take(url: str, output: Path, question: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 880}, locale="zh-CN")
        page.set_default_timeout(120_000)
        page.goto(url)
        page.get_by_label("并排对比").check()
        page.wait_for_selector("#lab-before")
        page.fill("#lab-box textarea", question)
        page.press("#lab-box textarea", "Enter")
        for side in ("before", "after"):
            page.wait_for_selector(f"#lab-{side} [data-testid=bot]")
        # 右边出现复制按钮之后文字还会变长：等它一秒钟不变。
        answer, previous = page.locator("#lab-after [data-testid=bot]").last, None
        while previous != (previous := answer.inner_text()):
            page.wait_for_timeout(1000)
        page.screenshot(path=output, full_page=True)
        browser.close()


def main(adapter: str = "output/lab/lora", output: str = "images/demo.png") -> None:
    model, tokenizer = models.load(evaluation.find_adapter(paths.resolve(adapter)))
    output = paths.resolve(output)
    with tempfile.TemporaryDirectory() as folder:
        use_bundled_font(Path(folder))
        demo = web_demo.launch(model, tokenizer)
        try:
            take(demo.url, output, web_demo.EXAMPLES[-1])
        finally:
            demo.close()
    print("已写出", paths.rel(output))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except LabError as error:
        sys.exit(str(error))
