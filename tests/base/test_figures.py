"""图：字体有什么用什么，绝不画方框；数据画对了，输入不对时说得清楚"""

import os
import subprocess
import sys
import warnings
from base64 import b64decode

import pytest
from lxml import etree, html
from matplotlib import font_manager, rcParams

from labutils.base import figures
from labutils.base.errors import LabError
from labutils.base.files import ROOT
from labutils.comparison import results
from labutils.dataset import report

LOG = [
    {"step": 5, "loss": 2.0},
    {"step": 10, "loss": 1.0, "learning_rate": 1e-3},
    {"step": 10, "eval_loss": 1.4},
    {"step": 10, "train_runtime": 3.0},
]
BEFORE = {"train": {"accuracy": 0.0, "n": 4}, "unseen": {"accuracy": 0.25, "n": 4}}
AFTER = {"train": {"accuracy": 1.0, "n": 4}, "unseen": {"accuracy": 0.5, "n": 4}}
ROWS = [
    {"fact_id": "F01", "group": "train", "before_correct": False, "after_correct": True},
    {"fact_id": "F01", "group": "train", "before_correct": False, "after_correct": False},
    {"fact_id": "F02", "group": "train", "before_correct": True, "after_correct": True},
    {"fact_id": "F02", "group": "unseen", "before_correct": False, "after_correct": True},
    {"fact_id": None, "group": "general", "before_correct": True, "after_correct": True},
]

DRAWINGS = {
    "loss": lambda path: figures.loss_curve(LOG, path),
    "bars": lambda path: results.accuracy_bars(BEFORE, AFTER, {"unseen": AFTER["unseen"]}, path),
    "strip": lambda path: results.fact_strip(ROWS, path),
    "funnel": lambda path: report.funnel_plot([("读入的行〔2023〕", 160), ("去重后 $5", 150)], path),
}


def test_the_packaged_font_is_used_everywhere():
    assert figures.use_chinese_font() == "Noto Sans SC"
    assert rcParams["font.sans-serif"] == ["Noto Sans SC", "DejaVu Sans"]
    found = font_manager.findfont("Noto Sans SC", fallback_to_default=False)
    assert found.endswith(".ttf")


def test_a_dollar_sign_in_the_data_is_no_formula():
    assert figures.plain("5$") == r"5\$" and figures.plain(7) == "7"


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
    subprocess.run([sys.executable, "-c", code], check=True,
                   env={k: v for k, v in os.environ.items() if k != "MPLBACKEND"})


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_plot_is_saved_without_missing_glyphs(name, tmp_path):
    path = tmp_path / "图" / f"{name}.png"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = DRAWINGS[name](path)
    assert not [str(w.message) for w in caught if "missing from" in str(w.message)]
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
    shown, about = figure._repr_mimebundle_()
    assert b64decode(shown["image/png"]).startswith(b"\x89PNG")
    alt = about["image/png"]["alt"]
    assert alt == html.fromstring(shown["text/html"]).get("alt") and len(alt) > 8, alt


def test_alt_text_tells_what_is_to_be_seen_and_can_be_written_by_hand():
    said = {name: draw(None)._repr_mimebundle_()[1]["image/png"]["alt"] for name, draw in DRAWINGS.items()}
    assert "验证损失 1.400" in said["loss"] and "没见过的问法 25%→50%" in said["bars"]
    assert "训练过的问法 微调后 1" in said["strip"] and "150" in said["funnel"]
    figure = figures.LabFigure(figsize=(1, 1))
    figure.alt = '<"r" 越大>'
    assert html.fromstring(figure._repr_mimebundle_()[0]["text/html"]).get("alt") == '<"r" 越大>'


def test_concept_drawings_are_complete_small_and_need_no_font(tmp_path):
    """一条命令画出来的就是仓库里的那几张；字是轮廓，底色是自己的。"""
    command = [sys.executable, "images/draw.py", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (ROOT / "images").glob("*.svg")} and len(drawn) == 6
    for name in drawn:
        text = (ROOT / "images" / name).read_text(encoding="utf-8")
        page = etree.fromstring(text.encode())
        assert len(text) < 60_000 and not page.findall(".//{*}text") and "fill: #fbfcfe" in text, name
        assert len(page.findall(".//{*}use")) == len(
            etree.parse(tmp_path / name).findall(".//{*}use")), f"{name} 不是 images/draw.py 画的"


def test_loss_curve_draws_both_series_and_skips_other_rows():
    axes = figures.loss_curve(LOG).axes[0]
    train, dev = axes.lines
    assert list(train.get_xdata()) == [5, 10] and list(train.get_ydata()) == [2.0, 1.0]
    assert list(dev.get_ydata()) == [1.4]
    assert "1.400" in dev.get_label() and axes.get_yscale() == "log"


def test_bars_show_the_scores_and_the_number_of_questions():
    axes = results.accuracy_bars(BEFORE, AFTER).axes[0]
    assert [p.get_height() for p in axes.patches] == [0.0, 0.25, 1.0, 0.5]
    assert [t.get_text() for t in axes.texts] == ["0%", "25%", "100%", "50%"]
    assert all("n=4" in t.get_text() for t in axes.get_xticklabels())


def test_baseline_line_stands_over_its_group():
    axes = results.accuracy_bars(BEFORE, AFTER, {"unseen": {"accuracy": 0.4, "n": 4}}).axes[0]
    (segment,) = axes.collections[0].get_segments()
    assert segment[0][1] == 0.4 and segment[0][0] < 1 < segment[1][0]


def test_fact_strip_tells_wrong_partly_right_and_missing():
    grid = results.fact_strip(ROWS).axes[0].collections[0].get_array()
    shown = [[None if cell is grid.fill_value else cell for cell in row] for row in grid.tolist()]
    assert shown == [[0, 1], [0.5, 1], [None, 0], [None, 1]]


@pytest.mark.parametrize(("count", "shown"), [(4, 4), (10, 10), (11, 6), (50, 10), (200, 10)])
def test_fact_strip_labels_few_enough_columns_to_be_read(count, shown):
    rows = [{"group": "unseen", "fact_id": f"F{n:03}", "before_correct": False, "after_correct": True}
            for n in range(count)]
    labels = results.fact_strip(rows).axes[0].get_xticklabels()
    assert len(labels) == shown and labels[1].get_text() == f"F{-(-count // 10):03}"
    assert all(text.get_rotation() == 0 for text in labels)


def test_funnel_keeps_the_given_order():
    axes = report.funnel_plot([("a", 3), ("b", 2), ("c", 2)]).axes[0]
    assert [p.get_width() for p in axes.containers[0]] == [3, 2, 2]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: figures.loss_curve([{"step": 1}]), "损失曲线"),
        (lambda: results.accuracy_bars({}, {}), "正确率"),
        (lambda: results.fact_strip([{"group": "general"}]), "fact_id"),
        (lambda: report.funnel_plot([]), "漏斗"),
    ],
)
def test_nothing_to_draw_is_a_clear_error(draw, words):
    with pytest.raises(LabError, match=words):
        draw()
