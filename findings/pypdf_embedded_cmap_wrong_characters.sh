#!/usr/bin/env bash
# pypdf 读思源黑体（OTF）排的中文 PDF：短的每个字前面多一个看不见的 \x00，不同的字过了 250 多个就变成别的汉字
#
# 【先猜】（运行之前写下）
#   pypdf、pypdfium2 读 fpdf2 排的中文，一字不差；PDF 用了 pypdf 不认识的编码时，文字仍然正确，或者有警告。
#
# 【实际】TrueType 的思源黑体（NotoSansSC-Regular.ttf）猜对了。同一段话换成 OTF 的（NotoSansCJKtc-Regular.otf，就是思源黑体）：
#   1. 短文：每个字前面多一个 \x00。print 出来多半看着正常，长度却是两倍，"合同" in 文字 是假，正则、分词、检索都对不上。
#   2. 全文不同的字超过 250 多个（一两页就有）：后来的字每个变成两个别的汉字，原来的字再也找不到。
#   普通模式、layout 模式、strict=True 都是这样，没有异常、警告和日志。屏幕上、打印出来都对，pypdfium2 读出来也一字不差。
#
# 【为什么】fpdf2 给按 CID 编号的 CFF 字体写的 /Encoding 是一段内嵌的 CMap（流），合乎 PDF 标准，两个字节一个字。
#   pypdf 的 _cmap.py 里 _parse_encoding 只认编码的名字和带 /BaseEncoding、/Differences 的字典，流落进最后的 else，
#   当成一个字节一个字的 StandardEncoding；那条日志只有不认识的“名字”才记。于是编码排到 01 02 的字被当成
#   01、02 两个，各自去查 ToUnicode，查到的是全文最早出现的两个字。把 /Encoding 换成 /Identity-H 再读就对了，可见错在这里。
#
# 【伤到谁】用 pypdf 取中文做检索、训练、核对的人：PDF 生成得好好的，单元测试用的短句打印出来也“对”，
#   长文里取到的却是能通过“全是汉字”检查的假文。别的软件写的内嵌 CMap 也走同一条路。
#
# 【怎么避开】取之前看每个 Type0 字体的 /Encoding 是不是流，是就改用 pypdfium2；结果里有 \x00 就不要用。
#   自己生成的，改用 TrueType 的中文字体。
#
# 版本：pypdf 7.1.0（7.1.1 也一样），fpdf2 2.8.9，pypdfium2 5.15.2，Python 3.11，Linux。日期：2026-11-29。
#
# 【看到的输出】
#   pypdf 7.1.0
#   TrueType，短文：'合同金额一百二十万元'，有“合同”：是
#   TrueType，先有 300 个不同的字：'合同金额一百二十万元'，有“合同”：是
#   OTF，短文：'\x00合\x00同\x00金\x00额\x00一\x00百\x00二\x00十\x00万\x00元'，有“合同”：否
#   OTF，先有 300 个不同的字：'啊巴啊拔啊跋啊靶啊把\x00百啊耙啊坝啊霸啊罢'，有“合同”：否
#   pypdfium2 四次都对；换成 /Identity-H 后 pypdf 四次都对；pypdf 没有警告，也没有日志

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet pypdf==7.1.0 fpdf2==2.8.9 fonttools==4.68.0 pypdfium2==5.15.2
# 两个包只用里面的字体文件：前一个是 OTF（CFF），后一个是 TrueType
venv/bin/python -m pip install --quiet --no-deps cvttf-notosanscjk-regular==1.0 zhplot==1.0.0

venv/bin/python -I - <<'PY'
import io
import logging
import sys
import sysconfig
import warnings
from pathlib import Path

import pypdf
import pypdfium2
from fpdf import FPDF
from pypdf.generic import NameObject, StreamObject

packages = Path(sysconfig.get_path("purelib"))
FONTS = {"TrueType": packages / "zhplot/fonts/NotoSansSC-Regular.ttf",
         "OTF": packages / "cvttf_NotoSansCJK_Regular/NotoSansCJKtc-Regular.otf"}
SENTENCE = "合同金额一百二十万元"
MANY = "".join(bytes([0xB0 + i // 94, 0xA1 + i % 94]).decode("gb2312") for i in range(300))  # 300 个不同的字

heard = []  # pypdf 说过的话


class Listener(logging.Handler):
    def emit(self, record):
        heard.append(record.getMessage())


logging.getLogger("pypdf").addHandler(Listener())


def expect(holds, words):
    if not holds:
        sys.exit(f"行为变了：{words}")


def typeset(font, *paragraphs):
    pdf = FPDF()
    pdf.add_page()
    pdf.add_font("zh", "", font)
    pdf.set_font("zh", size=12)
    for paragraph in paragraphs:
        pdf.multi_cell(0, 8, paragraph, new_x="LMARGIN", new_y="NEXT")
    return bytes(pdf.output())


def last_line(text):
    return text.replace("\r", "").rpartition("\n")[2]


def read(data, identity=False, **options):
    """pypdf 取出的最后一行；identity 为真时先把字体的 /Encoding 换成 /Identity-H。"""
    page = pypdf.PdfReader(io.BytesIO(data), strict=True).pages[0]
    fonts = [font.get_object() for font in page["/Resources"]["/Font"].values()]
    for font in fonts:
        expect(isinstance(font["/Encoding"].get_object(), StreamObject) == (kind == "OTF"), "fpdf2 写的 /Encoding 换了样子")
        if identity:
            font[NameObject("/Encoding")] = NameObject("/Identity-H")
    return last_line(page.extract_text(**options))


print("pypdf", pypdf.__version__)
for kind, font in FONTS.items():
    for title, paragraphs in [("短文", [SENTENCE]), ("先有 300 个不同的字", [MANY, SENTENCE])]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = typeset(font, *paragraphs)
            caught.clear()
            plain, layout, fixed = read(data), read(data, extraction_mode="layout"), read(data, identity=True)
        print(f"{kind}，{title}：{plain!r}，有“合同”：{'是' if '合同' in plain else '否'}")
        pdfium = last_line(pypdfium2.PdfDocument(data)[0].get_textpage().get_text_range())
        expect(pdfium == SENTENCE, "pypdfium2 读得也不对")
        expect(fixed == SENTENCE, "换成 /Identity-H 也读得不对")
        expect(layout == plain, "layout 模式与普通模式不一样")
        expect(not heard and not caught, f"pypdf 有了提示：{heard + [str(warning.message) for warning in caught]}")
        if kind == "TrueType":
            expect(plain == SENTENCE, "TrueType 字体也读得不对")
        elif len(paragraphs) == 1:
            expect(plain == "".join("\0" + char for char in SENTENCE), "短文里不再多出 \\x00")
        else:
            wrong = plain.replace("\0", "")
            expect(all("一" <= char <= "龥" for char in wrong), "长文里的错字不再都是汉字")
            expect(not set(SENTENCE) - {"百"} & set(wrong), "长文里读得到原来的字了")  # “百”出现得早
print("pypdfium2 四次都对；换成 /Identity-H 后 pypdf 四次都对；pypdf 没有警告，也没有日志")
PY
