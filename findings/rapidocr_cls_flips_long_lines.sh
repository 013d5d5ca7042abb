#!/usr/bin/env bash
# RapidOCR 的默认设置会把正着的长行当成倒着的：又清楚又端正的一页，四成以上的行认出来是乱字
#
# 【先猜】（运行之前写下）
#   白底黑字、一点不歪的印刷体是最容易的情形；RapidOCR() 什么也不设，英文、中文都应当认得几乎一字不差。
#   默认打开的方向分类（use_cls）只管倒着的行：正着的行至多白算一遍，结果不变。
#
# 【实际】一页写满整行（约 80 个字母）的英文，36 行里有 15 到 22 行认出来是乱字，可信度 0.6–0.8，照样返回；
#   把 use_cls 关掉，一行不错。每行只有四五个词的页，开着也一行不错。
#   有噪声的中文页上，这样的行可信度低于 text_score（0.5），于是整行不见，没有任何提示。
#
# 【为什么】分类器的输入固定是 192×48（4:1），更长的行不是截取而是压扁：25:1 的一行横向压到约六分之一，
#   字已经不成字，它却有把握（大于阈值 0.9）地说“180 度”，那一行就先倒过来再认。只给它同一行的前 4:1，
#   它就说“0 度”。
#
# 【伤到谁】用默认设置认扫描的书、论文、公文的人：整行正文悄悄成了乱字或者不见了。
#
# 【怎么避开】RapidOCR(params={"Global.use_cls": False})；真有整页倒着的，看全页的可信度，低了就把图转 180 度再认。
#
# 版本：rapidocr 3.10.0（PP-OCRv6 small，分类器 PP-OCRv4 mobile），onnxruntime 1.32.0，Python 3.11，Linux。
#   日期：2026-11-28。
#
# 【看到的输出】
#   rapidocr 3.10.0
#   每行 11 个词，两页各 36 行，认错的行：默认 [17, 22]，关掉 use_cls [0, 0]
#   每行 4 个词，两页各 36 行，认错的行：默认 [0, 0]，关掉 use_cls [0, 0]
#   只问分类器：整行判成 180 度的 12 行，只给行首 4:1 的 0 行

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet rapidocr==3.10.0 onnxruntime==1.32.0 pillow==12.3.0 \
  opencv-python-headless==5.0.0.93

venv/bin/python -I - <<'PY'
import random
import sys
from difflib import SequenceMatcher
from importlib.metadata import version

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr import RapidOCR

FONT = ImageFont.load_default(22)
WORDS = ("the of students course teaching university project education report language model data "
         "training question answer network learning").split()


def page(words, seed):
    """36 行印刷体，每行 words 个词：(各行, 图)。"""
    draw = random.Random(seed)
    lines = [" ".join(draw.choice(WORDS) for _ in range(words)) for _ in range(36)]
    image = Image.new("RGB", (1240, 1754), "white")
    for i, line in enumerate(lines):
        ImageDraw.Draw(image).text((60, 100 + i * 40), line, font=FONT, fill="black")
    return lines, np.asarray(image)


def wrong(engine, words, seed):
    """有几行没有认出来：返回的各串里没有一串八成像它。"""
    lines, image = page(words, seed)
    found = engine(image).txts or ()
    return sum(max((SequenceMatcher(None, line, text).ratio() for text in found), default=0) < 0.8
               for line in lines)


def expect(condition, words):
    if not condition:
        sys.exit(f"行为变了：{words}")


print("rapidocr", version("rapidocr"))
default = RapidOCR(params={"Global.log_level": "critical"})
without = RapidOCR(params={"Global.log_level": "critical", "Global.use_cls": False})
for title, words in (("每行 11 个词", 11), ("每行 4 个词", 4)):
    counts = [[wrong(engine, words, seed) for seed in range(2)] for engine in (default, without)]
    print(f"{title}，两页各 36 行，认错的行：默认 {counts[0]}，关掉 use_cls {counts[1]}")
    expect(max(counts[1]) == 0, "关掉 use_cls 也有认错的行")
    expect(min(counts[0]) >= 8 if words == 11 else max(counts[0]) == 0, f"{title}，默认设置认错的行数")

lines, image = page(11, 0)
strips = [image[96 + i * 40 : 128 + i * 40, 56 : 64 + int(FONT.getlength(line))] for i, line in enumerate(lines)]
turned = [[label == "180" and score > 0.9 for label, score in default.text_cls(given).cls_res]
          for given in (strips, [strip[:, : 4 * len(strip)] for strip in strips])]
print(f"只问分类器：整行判成 180 度的 {sum(turned[0])} 行，只给行首 4:1 的 {sum(turned[1])} 行")
expect(sum(turned[0]) >= 8 and sum(turned[1]) == 0, "分类器的判断")
PY
