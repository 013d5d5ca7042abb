"""拍下对话网页的样子：并排对比同一个问题，浅色与深色、电脑与手机各一张，存进 images/。

用法（先运行过 notebook 02，或 make lab）：
    python images/make_demo_screenshot.py [适配器文件夹] [输出文件夹]
写出 demo.png、demo_dark.png、demo_phone.png、demo_phone_dark.png。
需要 Chromium 系浏览器；可用环境变量 LAB_CHROMIUM 指定路径。
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from labutils.base import files
from labutils.base.errors import LabError
from labutils.dataset.rows import load_qa
from labutils.demo import server
from labutils.models import loader
from labutils.training import checkpoints

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SHOTS = {  # 文件名: (宽, 高, 颜色)
    "demo.png": (1280, 1140, "light"), "demo_dark.png": (1280, 1140, "dark"),
    "demo_phone.png": (390, 844, "light"), "demo_phone_dark.png": (390, 844, "dark"),
}


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


def take(browser, url: str, output: Path, question: str, size: tuple[int, int], colours: str) -> None:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, locale="zh-CN",
                            color_scheme=colours, device_scale_factor=1 if size[0] > 600 else 2)
    page.set_default_timeout(120_000)
    page.goto(url)
    page.get_by_label("并排对比").check()
    page.wait_for_selector("#lab-before")
    page.fill("#lab-box textarea", question)
    page.press("#lab-box textarea", "Enter")
    page.get_by_text("出处").first.wait_for()  # 两边都说完才有出处
    page.wait_for_timeout(500)
    page.mouse.move(0, 0)
    if size[0] < 600:  # 手机一屏放不下，从开关拍起；整页长图会把固定在下方的输入框拍到中间
        page.locator("#lab-mode").evaluate("mode => { mode.scrollIntoView(); scrollBy(0, -10) }")
        page.wait_for_timeout(300)
    page.screenshot(path=output)
    page.close()


def main(adapter: str = "output/lab/lora", folder: str = "images") -> None:
    from playwright.sync_api import sync_playwright

    adapter = checkpoints.find_adapter(files.resolve(adapter))
    model, tokenizer = loader.load(adapter)
    rows = load_qa(files.DATA / "qa.jsonl")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        use_bundled_font(Path(scratch))
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        with server.launch(model, tokenizer, rows=rows, adapter=files.rel(adapter),
                             feedback=Path(scratch) / "feedback.jsonl") as demo:
            for name, (width, height, colours) in SHOTS.items():
                output = files.resolve(folder) / name
                take(browser, demo.url, output, "一流本科课程的有效期多久？", (width, height), colours)
                print("已写出", files.rel(output))
        browser.close()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except LabError as error:
        sys.exit(str(error))
