"""拍下最近一次运行的报告，存成 images/lab_result.png。

用法（先 make lab）：
    python images/make_report_screenshot.py [report.html] [输出.png]
浏览器与字体的处理同 make_demo_screenshot.py。
"""

import sys
import tempfile
from pathlib import Path

from make_demo_screenshot import FLAGS, find_browser, use_bundled_font

from labutils.base import files
from labutils.base.errors import LabError


def newest_report() -> Path:
    reports = sorted(files.RUNS.glob("*/report.html"))
    if not reports:
        raise LabError("runs 里还没有报告，请先运行 make lab。")
    return reports[-1]


def take(report: Path, output: Path, height: int = 1060) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1000, "height": height}, locale="zh-CN")
        page.goto(report.resolve().as_uri())
        page.screenshot(path=output)
        browser.close()


if __name__ == "__main__":
    report = Path(sys.argv[1]) if len(sys.argv) > 1 else newest_report()
    output = Path(sys.argv[2]) if len(sys.argv) > 2 else files.ROOT / "images" / "lab_result.png"
    with tempfile.TemporaryDirectory() as folder:
        use_bundled_font(Path(folder))
        take(report, output)
    print("存好", files.rel(output))
