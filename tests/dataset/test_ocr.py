"""扫描的页：画成图、认字、记下来。真的认一遍要装 pip install -e '.[ocr]'，没装就跳过；别的用假的引擎。"""

import io
import sys
from math import cos, radians, sin
from types import SimpleNamespace

import numpy as np
import pypdfium2
import pytest
from fakes.documents import LEFT, RIGHT, column, new_pdf, save, scanned, wrap
from fpdf import FPDF
from PIL import Image
from rapidfuzz.distance import Levenshtein

from labutils.base.errors import LabError
from labutils.base.text import without_spaces
from labutils.dataset import ocr
from labutils.dataset.formats import read_pages

NONE = SimpleNamespace(boxes=None, txts=None, scores=None)


def result(*lines):
    """引擎的返回；每串是 (字, 可信度, 左, 上, 右, 下)，单位是像素。"""
    boxes = [[(a, b), (c, b), (c, d), (a, d)] for _, _, a, b, c, d in lines]
    return SimpleNamespace(boxes=np.array(boxes, "float32"), txts=tuple(line[0] for line in lines),
                           scores=tuple(line[1] for line in lines))


class Engine:
    """假的引擎：依次给出 answers，是错误就抛出；asked 是问过的图。"""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, image):
        self.asked.append(image)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def page(text, score=0.99):
    return result((text, score, 100, 100, 100 + 30 * len(text), 140))


@pytest.fixture
def recognise(tmp_path, monkeypatch):
    """recognise(引擎, 页码…)：认 tmp_path 里一份四页的 PDF；各页的字用 / 隔开。"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ocr, "version", lambda name: "3.10.0")
    path = tmp_path / "scan.pdf"
    pdf = FPDF()
    for _ in range(4):
        pdf.add_page()
    save(pdf, path)

    def run(engine, *numbers):
        monkeypatch.setattr(ocr, "_engine", lambda: engine)
        with pypdfium2.PdfDocument(path) as document:
            return ocr.recognise(document, list(numbers), path, path.name)

    run.path = path
    return run


def texts(found):
    return {number: "/".join(piece.text for piece in page.runs) for number, page in found.items()}


# —— 真的认一遍 ——


def scan(source, target, angle=0.0, turns=0):
    """像扫描仪那样：150 dpi 的灰底图，歪 angle 度，有噪声，存成 JPEG；turns：再放倒几个 90 度。"""
    rng, pdf = np.random.default_rng(0), FPDF()
    with pypdfium2.PdfDocument(source) as document:
        for sheet in document:
            image = sheet.render(scale=150 / 72, grayscale=True).to_pil()
            image = image.rotate(angle, Image.BICUBIC, fillcolor=255).rotate(90 * turns, expand=True)
            noisy = 30 + np.asarray(image) * 0.76
            noisy = Image.fromarray((noisy + rng.normal(0, 12, noisy.shape)).clip(0, 255).astype("uint8"))
            noisy.save(buffer := io.BytesIO(), "JPEG", quality=80)
            size = [side * 25.4 / 150 for side in noisy.size]
            pdf.add_page(format=size)
            pdf.image(buffer, 0, 0, *size)
    return save(pdf, target)


@pytest.mark.slow
@pytest.mark.parametrize(("angle", "turns"), [(1, 0), (-1, 2), (1, 1)], ids=["歪一度", "倒着", "横放"])
def test_noisy_tilted_scan_is_read_almost_without_a_mistake(tmp_path, monkeypatch, angle, turns):
    pytest.importorskip("rapidocr", reason="没有装 pip install -e '.[ocr]'")
    monkeypatch.chdir(tmp_path)
    lines = wrap(LEFT[:3] + RIGHT[:3], 36)
    pdf = new_pdf()
    pdf.add_page()
    column(pdf, 20, lines)
    path = scan(save(pdf, tmp_path / "text.pdf"), tmp_path / "scan.pdf", angle, turns)
    with pypdfium2.PdfDocument(path) as document:
        assert not document[0].get_textpage().get_text_range().strip()
        found = ocr.recognise(document, [1], path, path.name)[1]
    text = without_spaces("".join(piece.text for piece in found.runs))
    assert Levenshtein.normalized_similarity(text, without_spaces("".join(lines))) >= 0.97
    assert (len(found.runs), found.lost) == (len(lines), 0) and found.confidence > 0.95
    assert np.diff([piece.y for piece in found.runs]).max() < -10  # 一行一串，从上往下


# —— 认好一页记一页 ——


def test_time_is_said_before_and_after_each_page(recognise, capsys, monkeypatch):
    clock = iter([100, 105, 120])
    monkeypatch.setattr(ocr, "perf_counter", lambda: next(clock))
    assert texts(recognise(Engine(page("甲"), page("乙", 0.8)), 2, 3)) == {2: "甲", 3: "乙"}
    assert capsys.readouterr().out == (
        "scan.pdf 第 2–3 页没有可读的文字，从图上认：每页约 8 秒，共约 16 秒；"
        "可以随时停下，再运行会接着认。\n"
        "  1/2：第 2 页，可信度 0.99；约还要 5 秒\n  2/2：第 3 页，可信度 0.80；约还要 0 秒\n")


def test_stopped_run_goes_on_with_the_next_page(recognise, capsys):
    with pytest.raises(KeyboardInterrupt):
        recognise(Engine(page("甲"), KeyboardInterrupt()), 1, 2, 3)
    engine = Engine(page("乙"), page("丙"))
    assert texts(recognise(engine, 1, 2, 3)) == {1: "甲", 2: "乙", 3: "丙"} and len(engine.asked) == 2
    capsys.readouterr()
    assert texts(recognise(None, 1, 3)) == {1: "甲", 3: "丙"}  # 都认过了：不载入模型
    assert capsys.readouterr().out == ""


def test_half_a_line_left_by_a_crash_costs_one_page_only(recognise):
    recognise(Engine(page("甲"), page("乙")), 1, 2)
    (log,) = recognise.path.parent.glob("output/ocr/*.jsonl")
    log.write_bytes(log.read_bytes()[:-20])
    assert texts(recognise(Engine(page("乙")), 1, 2)) == {1: "甲", 2: "乙"}
    assert texts(recognise(None, 1, 2)) == {1: "甲", 2: "乙"}


def test_changed_file_or_other_model_is_read_again(recognise, monkeypatch):
    recognise(Engine(page("甲")), 1)
    monkeypatch.setattr(ocr, "version", lambda name: "3.11.0")
    assert texts(recognise(Engine(page("乙")), 1)) == {1: "乙"}
    recognise.path.write_bytes(recognise.path.read_bytes() + b"\n")
    assert texts(recognise(Engine(page("丙")), 1)) == {1: "丙"}


@pytest.mark.parametrize("error", [RuntimeError("坏图\n第二行"), MemoryError()])
def test_page_that_fails_is_said_and_the_others_are_kept(recognise, capsys, error):
    assert texts(recognise(Engine(page("甲"), error, page("丙")), 1, 2, 3)) == {1: "甲", 3: "丙"}
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "提醒" in line]
    assert "scan.pdf 第 2 页认的时候出错" in said and "第二行" not in said
    engine = Engine(page("乙"))
    assert texts(recognise(engine, 1, 2, 3))[2] == "乙" and len(engine.asked) == 1  # 下次再试


def test_folder_that_cannot_be_written_is_one_sentence(recognise):
    (recognise.path.parent / "output").write_text("不是文件夹")
    with pytest.raises(LabError, match="不能读写.*认好的页都还在"):
        recognise(Engine(page("甲")), 1)


def test_empty_page_is_remembered_too(recognise):
    assert recognise(Engine(NONE), 1) == {1: ([], 0.0, 0)}
    assert recognise(None, 1) == {1: ([], 0.0, 0)}


# —— 一页 ——


def test_confidence_counts_characters_and_blurred_pieces_are_left_out(recognise):
    lines = [("清楚的九个字在这里", 1.0), ("糊", 0.6), ("污渍", 0.2)]
    answer = result(*[(text, score, 50, 50 * i, 50 + 30 * len(text), 50 * i + 40)
                      for i, (text, score) in enumerate(lines)])
    found = recognise(Engine(answer), 1)[1]
    assert [piece.text for piece in found.runs] == ["清楚的九个字在这里", "糊"]
    assert (round(found.confidence, 2), found.lost) == (0.96, 1)


def test_unreadable_page_is_tried_upside_down(recognise):
    engine = Engine(page("乱", 0.6), page("正", 0.98))
    assert texts(recognise(engine, 1)) == {1: "正"}
    assert (engine.asked[1] == engine.asked[0][::-1, ::-1]).all()
    assert texts(recognise(Engine(page("糊", 0.6), NONE), 2)) == {2: "糊"}  # 倒过来也不好，就用原来的


def turned(answer, degrees):
    """整页顺时针转过 degrees 度的返回；四个角总是从图上的左上角数起。"""
    a = radians(degrees)
    answer.boxes = np.roll(answer.boxes @ [[cos(a), sin(a)], [-sin(a), cos(a)]], round(degrees / 90), axis=1)
    return answer


@pytest.mark.parametrize("degrees", [0, 2, -2, 90, 91])
def test_tilted_rows_are_levelled(recognise, degrees):
    """两列三行，歪着：同一行的高低相同，同一列的左边相同；字号是框高的四分之三。"""
    rows = [(f"{column}列{row}行的字", 0.9, x, y, x + 240, y + 40) for row, y in enumerate((100, 150, 200))
            for column, x in (("左", 100), ("右", 900))]
    found = recognise(Engine(turned(result(*rows), degrees)), 1)[1].runs
    assert sorted(piece.text for piece in found[:2]) == ["右列0行的字", "左列0行的字"]
    for side in "左右":
        mine = [piece for piece in found if piece.text.startswith(side)]
        assert [piece.text[2] for piece in mine] == ["0", "1", "2"]
        assert np.ptp([piece.x for piece in mine]) < 0.5
        assert np.diff([piece.y for piece in mine]) == pytest.approx(-50 * 72 / 150, abs=0.2)
    assert found[0].y == pytest.approx(found[1].y, abs=0.5)
    assert [piece.size for piece in found] == pytest.approx([0.75 * 40 * 72 / 150] * 6, abs=0.2)


def test_single_digits_taller_than_wide_do_not_turn_the_page(recognise):
    """数字一格一个的表：框大多是竖的，页却是正的。"""
    rows = [(text, 0.9, x, y, x + w, y + 36) for y in range(100, 500, 40)
            for text, x, w in (("第一组", 100, 64), *((str(x % 7), x, 18) for x in range(300, 900, 50)))]
    found = recognise(Engine(result(*rows)), 1)[1].runs
    assert [piece.text for piece in found] == [text for text, *_ in rows]


def test_huge_page_is_not_drawn_larger_than_the_engine_uses(recognise):
    pdf = FPDF(unit="pt", format=(4000, 2000))
    pdf.add_page()
    save(pdf, recognise.path)
    recognise(engine := Engine(NONE), 1)
    assert engine.asked[0].shape == (1000, 2000, 3)


# —— 从文件到一页页的文字 ——


def test_scanned_pages_become_text_between_the_others(recognise, monkeypatch, capsys):
    scanned(recognise.path, text_pages=(1,))
    monkeypatch.setattr(ocr, "installed", lambda: True)
    monkeypatch.setattr(ocr, "_engine", lambda: Engine(page("第二页的字。"), page("第三页的字。", 0.8), NONE))
    pages = read_pages(recognise.path)
    assert [item.text for item in pages][1:] == ["第二页的字。", "第三页的字。", ""] and pages[0].text
    said = capsys.readouterr().out
    assert "第 2–3 页的文字是从图上认出来的" in said and "第 3 页认得不准" in said
    assert "第 4 页只有图片，没有可读的文字，已跳过；OCR 也没有认出字来" in said
    assert "从图上认出来" in pages[1].note and not pages[0].note


def test_columns_of_a_scan_are_read_one_after_the_other(recognise, monkeypatch):
    scanned(recognise.path)
    texts = [[f"{side}栏第{i}行写得满满的一行字" for i in range(8)] for side in "左右"]
    lines = [(texts[side][row], 0.99, 100 + 600 * side, 200 + 60 * row, 600 + 600 * side, 240 + 60 * row)
             for row in range(8) for side in range(2)]
    monkeypatch.setattr(ocr, "installed", lambda: True)
    monkeypatch.setattr(ocr, "_engine", lambda: Engine(turned(result(*lines), 1), NONE, NONE, NONE))
    assert without_spaces(read_pages(recognise.path)[0].text) == "".join(sum(texts, []))


# —— 没有装 ——


def test_without_the_extra_the_command_is_named(monkeypatch):
    monkeypatch.setattr(ocr, "find_spec", lambda name: None if name == "onnxruntime" else "有")
    assert not ocr.installed() and "pip install -e '.[ocr]'" in ocr.INSTALL


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_half_installed_is_one_sentence(monkeypatch, package):
    """装了却导入不了：缺 DLL、装到一半。"""
    for name in ("onnxruntime", "rapidocr"):
        monkeypatch.setitem(sys.modules, name, None if name == package else SimpleNamespace(RapidOCR=None))
    with pytest.raises(LabError, match=r"装得不全.*pip install -e '\.\[ocr\]'"):
        ocr._engine()
