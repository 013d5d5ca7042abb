"""扫描的页：画成图，用 RapidOCR 认字。要另装 pip install -e '.[ocr]'；模型在它的包里，断网也能用。

认好一页就在 output/ocr 里追加一行：停下后再运行，从没认的那一页接着认。排成行、分不分栏由 pdf.py 决定。
"""

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from labutils.base.errors import LabError, first_line
from labutils.base.files import one_sentence, place, read_rows
from labutils.dataset.clean import page_list
from labutils.dataset.layout import Run

INSTALL = "请先运行 pip install -e '.[ocr]'，再读一次，就会用 OCR 认出图上的字（不用联网）"
DPI, LONGEST = 150, 2000  # 每英寸几个像素；长边超过 2000 的图 RapidOCR 会缩小，再大也白画
USUAL = 8  # 两个核认写满字的一页，约用几秒
BLURRED, UNSURE = 0.5, 0.9  # 一页的可信度低于后者就提醒；可信度低于前者的一串，多半是污渍、图案或看不清，不收
UPSIDE_DOWN = 0.75  # 倒着的页认出来是乱字，可信度约 0.6；正着的多在 0.95 以上
Strip = list  # 引擎认出的一串字：[字, 可信度, 左上、右上、右下、左下角的 [x, y]]；单位是磅，y 向下


class Recognised(NamedTuple):
    """一页：看得清的各串，从上往下；可信度，按字数平均；看不清、没有收的有几串。"""

    runs: list[Run]
    confidence: float
    lost: int


def installed() -> bool:
    """装没装认字要的包；没有装时该说的话是 INSTALL。"""
    return None not in (find_spec("rapidocr"), find_spec("onnxruntime"))


def recognise(document: Any, numbers: list[int], path: Path, name: str) -> dict[int, Recognised]:
    """认出第 numbers 页（从 1 开始），返回 {页码: 认出来的}；认的时候出错的页打印一行提醒，不在返回里。

    document 是从文件 path 打开的 pypdfium2.PdfDocument。rapidocr 装得不全、写不了磁盘时抛 LabError。
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    log = place("output/ocr") / f"{digest}-{DPI}dpi-rapidocr{version('rapidocr')}.jsonl"
    done = dict(row for _, row in read_rows(log, torn="skip"))
    if todo := [number for number in numbers if number not in done]:
        print(f"{name} 第 {page_list(todo)} 页没有可读的文字，从图上认：每页约 {USUAL} 秒，共约 "
              f"{USUAL * len(todo)} 秒；可以随时停下，再运行会接着认。", flush=True)
        _recognise(document, todo, log, name, done)
    return {number: _judge(done[number]) for number in numbers if number in done}


def _recognise(document: Any, todo: list[int], log: Path, name: str, done: dict[int, list[Strip]]) -> None:
    engine, started = _engine(), perf_counter()
    for count, number in enumerate(todo, 1):
        try:
            strips = _read(engine, document[number - 1])
        except Exception as error:  # 画图、认字用到的几个库，错误没有共同的类型
            print(f"提醒：{name} 第 {number} 页认的时候出错（{first_line(error)}），已跳过。", flush=True)
            continue
        with one_sentence(log, "，认好的页都还在，会接着认"):
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as file:  # 换行写在前面，上次写到一半的行就不会和这一行连上
                file.write("\n" + json.dumps([number, strips], ensure_ascii=False))
        done[number] = strips
        left = (perf_counter() - started) / count * (len(todo) - count)
        print(f"  {count}/{len(todo)}：第 {number} 页，可信度 {_judge(strips).confidence:.2f}；"
              f"约还要 {left:.0f} 秒", flush=True)


def _engine() -> Callable:
    try:
        import onnxruntime  # noqa: F401  RapidOCR 认第一页时才导入它
        from rapidocr import RapidOCR
    except ImportError as error:
        raise LabError(f"认字用的 rapidocr 装得不全（{first_line(error)}），{INSTALL}。") from None
    # 不用 cls（判断一行是不是倒着的模型）：它会把正着的行当成倒的，那一行就丢了
    return RapidOCR(params={"Global.use_cls": False, "Global.text_score": 0.0, "Global.log_level": "critical",
                            "EngineConfig.onnxruntime.intra_op_num_threads": 2})


def _read(engine: Callable, page: Any) -> list[Strip]:
    """一页上的各串；认出来像乱字的，把图倒过来再认一遍，取可信的。"""
    scale = min(DPI / 72, LONGEST / max(page.get_size()))
    image = page.render(scale=scale).to_numpy()  # [高, 宽, 3]
    strips = _strips(engine(image), scale)
    if strips and _confidence(strips) < UPSIDE_DOWN:
        turned = _strips(engine(np.ascontiguousarray(image[::-1, ::-1])), scale)
        return max(strips, turned, key=_confidence)
    return strips


def _strips(result: Any, scale: float) -> list[Strip]:
    """result 是引擎的返回；一个字也没有时，它的各项是 None。"""
    if result.boxes is None:
        return []
    boxes = (np.asarray(result.boxes, dtype=float) / scale).round(1).tolist()
    scores = [round(float(score), 3) for score in result.scores]
    return list(map(list, zip(result.txts, scores, boxes, strict=True)))


def _confidence(strips: list[Strip]) -> float:
    return fmean([score for _, score, _ in strips], [len(text) for text, _, _ in strips]) if strips else 0.0


def _judge(strips: list[Strip]) -> Recognised:
    clear = [strip for strip in strips if strip[1] >= BLURRED]
    return Recognised(_level(clear) if clear else [], _confidence(clear), len(strips) - len(clear))


def _level(strips: list[Strip]) -> list[Run]:
    """把歪的、竖的转正；单位是磅，y 向上。"""
    texts, _, corners = zip(*strips, strict=True)
    x, y = np.moveaxis(np.array(corners), -1, 0)  # 各 [串数, 4]
    wide, high = (np.hypot(x[:, i] - x[:, 0], y[:, i] - y[:, 0]) for i in (1, 3))
    if (high - 1.5 * wide) @ [len(text) - 1 for text in texts] > 0:  # 直排，或整页横放；一个字不算
        x, y, high = y[:, [1, 2, 3, 0]], -x[:, [1, 2, 3, 0]], wide
    slope = (y[:, 1] - y[:, 0]).sum() / (x[:, 1] - x[:, 0]).sum()
    x, y = x + slope * y, slope * x - y
    margin = np.median(high) / 8  # 框比字四周各大这么多
    places = np.stack([x.min(axis=1) + margin, x.max(axis=1) - margin, y.mean(axis=1)], axis=1).tolist()
    runs = [Run(text, *place, 6 * float(margin)) for text, place in zip(texts, places, strict=True)]
    return sorted(runs, key=lambda run: -run.y)
