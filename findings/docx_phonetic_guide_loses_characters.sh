#!/usr/bin/env bash
# Word 里注了拼音（拼音指南）的字：python-docx、mammoth、markitdown 读出来，注音和字一起没有了
#
# 【先猜】（运行之前写下；python-docx 那一种在真的文件里见过，别的没有）
#   拼音指南存成 w:ruby：上面的拼音 w:rt，下面的字 w:rubyBase。字是正文，谁都读得到；拼音各家不同：
#   mammoth、markitdown（转成 HTML、Markdown）只留字，或者写成 <ruby>；docx2txt、docx2python 见 w:t 就取，
#   拼音和字都有。
#
# 【实际】docx2txt、docx2python 猜对了，拼音和字夹在一起。python-docx、mammoth、markitdown 却连字一起没有：
#   “请注意‘乘积’的读音”读成“请注意‘’的读音”。python-docx、markitdown 什么也不说；mammoth 的 messages 里有一句
#   “unrecognised element was ignored: w:ruby”，markitdown 用它转换，这句话没有传出来。
#
# 【为什么】w:ruby 在 w:r 里面，字在它里面的 w:rubyBase 的 w:r 里。python-docx 的 run.text 只认 w:r 的直接孩子里的
#   w:t、w:tab、w:br 等几样；mammoth 遇到不认识的元素，连里面的内容一起略过。
#
# 【伤到谁】读中文、日文 Word 文档的人：小学语文、对外汉语的材料里，注了音的恰恰是要学的生字词；拿去出题、检索、
#   做训练数据，句子里缺了最要紧的几个字，看长度、看编码都看不出来。
#
# 【怎么避开】自己从 XML 里取：遍历 w:t，跳过祖先里有 w:rt 的。
#
# 版本：python-docx 1.2.0，mammoth 1.13.0，markitdown 0.1.9，docx2txt 0.9，docx2python 3.7.1，Python 3.11，Linux。
# 日期：2026-11-29。
#
# 【看到的输出】
#   python-docx  请注意“”的读音。
#   mammoth      请注意“”的读音。
#   markitdown   请注意“”的读音。
#   docx2txt     请注意“chéng乘jī积”的读音。
#   docx2python  请注意“chéng乘jī积”的读音。
#   mammoth 的提醒：['An unrecognised element was ignored: w:ruby']；markitdown 的警告：[]

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet python-docx==1.2.0 mammoth==1.13.0 "markitdown[docx]==0.1.9" docx2txt==0.9 \
  docx2python==3.7.1

venv/bin/python -I - <<'PY'
import sys
import warnings

import docx
import docx2txt
import mammoth
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from docx2python import docx2python
from markitdown import MarkItDown

RUBY = """<w:r {}><w:ruby><w:rubyPr><w:rubyAlign w:val="center"/><w:hps w:val="10"/><w:hpsRaise w:val="18"/>
<w:hpsBaseText w:val="21"/><w:lid w:val="zh-CN"/></w:rubyPr><w:rt><w:r><w:t>{}</w:t></w:r></w:rt>
<w:rubyBase><w:r><w:t>{}</w:t></w:r></w:rubyBase></w:ruby></w:r>"""
document = docx.Document()
paragraph = document.add_paragraph("请注意“")
for sound, character in (("chéng", "乘"), ("jī", "积")):
    paragraph._p.append(parse_xml(RUBY.format(nsdecls("w"), sound, character)))
paragraph.add_run("”的读音。")
document.save("pinyin.docx")

with open("pinyin.docx", "rb") as file:
    converted = mammoth.extract_raw_text(file)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    marked = MarkItDown().convert("pinyin.docx").text_content
read = {
    "python-docx": docx.Document("pinyin.docx").paragraphs[0].text,
    "mammoth": converted.value.strip(),
    "markitdown": marked.strip(),
    "docx2txt": docx2txt.process("pinyin.docx").strip(),
    "docx2python": docx2python("pinyin.docx").text.strip(),
}
for name, text in read.items():
    print(f"{name:12} {text}")
told = [message.message for message in converted.messages]
about = [str(one.message) for one in warned if "ruby" in str(one.message)]
print(f"mammoth 的提醒：{told}；markitdown 的警告：{about}")
gone, mixed = "请注意“”的读音。", "请注意“chéng乘jī积”的读音。"
if list(read.values()) != [gone] * 3 + [mixed] * 2 or len(told) != 1 or about:
    sys.exit("行为变了：见上面几行")
PY
