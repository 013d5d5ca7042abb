"""字体挑选：有什么用什么，绝不画方框"""

import subprocess
import sys

import pytest
from matplotlib import font_manager, rcParams

from labutils.base import figures


@pytest.fixture(autouse=True)
def fresh_choice():
    figures._pick_font.cache_clear()
    yield
    figures._pick_font.cache_clear()
    figures.use_chinese_font()


@pytest.fixture
def no_system_font(monkeypatch):
    monkeypatch.setattr(figures, "FONT_CANDIDATES", ())


def test_packaged_font_is_used_without_a_system_font(no_system_font):
    assert figures.use_chinese_font() == "Noto Sans SC"
    assert rcParams["font.sans-serif"] == ["Noto Sans SC", "DejaVu Sans"]
    found = font_manager.findfont("Noto Sans SC", fallback_to_default=False)
    assert found.endswith(".ttf") and figures._covers(found)


def test_english_labels_without_any_chinese_font(no_system_font, monkeypatch):
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    assert figures.use_chinese_font() == "DejaVu Sans"
    assert figures.label("损失", "loss") == "loss"
    assert figures.data_label("清洗后", "step 2") == "step 2"
    assert figures.data_label("F01", "?") == "F01"


def test_a_font_with_the_right_name_but_no_glyphs_is_refused(monkeypatch):
    monkeypatch.setattr(figures, "FONT_CANDIDATES", ("DejaVu Sans",))
    assert figures._system_font() is None


def test_unreadable_font_file_is_skipped(tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"not a font")
    assert not figures._covers(str(broken))
    assert not figures._covers(str(tmp_path / "missing.ttf"))


def test_chinese_labels_and_dollar_sign():
    if figures.use_chinese_font() == "DejaVu Sans":
        pytest.fail("依赖 zhplot 应当总能提供中文字体")
    assert figures.label("损失", "loss") == "损失"
    assert figures.label("5$", "5$") == r"5\$"


def test_choosing_a_font_prints_nothing_and_survives_rcdefaults(capsys):
    name = figures.use_chinese_font()
    rcParams["font.sans-serif"] = ["DejaVu Sans"]
    assert figures.use_chinese_font() == name
    assert rcParams["font.sans-serif"][0] == name
    assert capsys.readouterr().out == ""


def test_import_touches_neither_pyplot_nor_the_backend():
    code = (
        "import sys, labutils.base.figures\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'zhplot' not in sys.modules\n"
        "import matplotlib; assert matplotlib.rcParams._get_backend_or_none() is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_env())


def _env() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
