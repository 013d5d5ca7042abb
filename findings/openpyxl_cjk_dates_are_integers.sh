#!/usr/bin/env bash
# openpyxl 读 Excel 自带的中文日期格式（2024年3月5日）：得到整数 45356，还说格式是 General
#
# 【先猜】（运行之前写下）
#   编号 31、57、58（中文 Excel 自带的“yyyy年m月d日”等，styles.xml 里可以不写格式）：openpyxl 给 datetime，
#   pandas.read_excel 不论用 openpyxl 还是 calamine 也都给日期。
#
# 【实际】编号 14、22，或者把格式写成文字的 yyyy"年"m"月"d"日"，猜对了。自带的 27–36、50–58 却是：
#   openpyxl 给整数，is_date 是 False，number_format 说是 General：照它判断也看不出这是日期。
#   read_only、data_only 也一样，没有警告。pandas 3.1.1 默认用 openpyxl，整列是 int64；engine="calamine" 整列是日期。
#   （pandas 会提醒说以后默认换成 calamine，但没有说读到的值会变。）
#
# 【为什么】标准（ECMA-376 第一部分 18.8.30）把 27–36、50–58 留给中日韩文的日期、时间，文件里可以只写编号、不写格式。
#   openpyxl 的 BUILTIN_FORMATS（styles/numbers.py）没有这两段，_normalise_numbers 查到 None，就不算日期；
#   number_format 查不到时一律答 General（styles/styleable.py）。
#
# 【伤到谁】读中、日、韩文 Excel 存的表（xlsxir 的 #124 碰到过真的文件），或 XlsxWriter 按编号写的表的人：同一张表里
#   有的列是日期，有的列是四万五千多的整数，排序、求平均都算得出来，拿去合并却对不上，交给 to_datetime 成了 1970 年。
#   人打开文件看到的仍是“2024年3月5日”。
#
# 【怎么避开】用 openpyxl 时自己看编号（不用 read_only）：cell._style.numFmtId 在 27–36、50–58 里，
#   就用 openpyxl.utils.datetime.from_excel 换算；或者 pandas 写明 engine="calamine"。自己写表时用文字的格式，不用这些编号。
#
# 版本：openpyxl 3.1.5，pandas 3.1.1，python-calamine 0.9.1，XlsxWriter 3.3.1，Python 3.11，Linux。日期：2026-11-29。
#
# 【看到的输出】
#   openpyxl 3.1.5 pandas 3.1.1
#   openpyxl，编号14：datetime.datetime(2024, 3, 5, 0, 0)，number_format 'mm-dd-yy'，is_date True
#   openpyxl，写成文字：datetime.datetime(2024, 3, 5, 0, 0)，number_format 'yyyy"年"m"月"d"日"'，is_date True
#   openpyxl，编号31：45356，number_format 'General'，is_date False
#   openpyxl，编号57：45356，number_format 'General'，is_date False
#   pandas，openpyxl：编号14 是 datetime64[us]，编号31 是 int64，编号57 是 int64
#   pandas，calamine：编号14 是 datetime64[us]，编号31 是 datetime64[us]，编号57 是 datetime64[us]
#   把这一列交给 to_datetime：1970-01-01 00:00:00.000045356

set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet openpyxl==3.1.5 pandas==3.1.1 numpy==2.4.6 python-calamine==0.9.1 xlsxwriter==3.3.1

venv/bin/python -I - <<'PY'
import datetime
import io
import sys
import warnings
import zipfile

import openpyxl
import pandas
import xlsxwriter
from openpyxl.utils.datetime import from_excel

NUMBERS = [*range(27, 37), *range(50, 59)]
DAY = datetime.datetime(2024, 3, 5)


def expect(holds, words):
    if not holds:
        sys.exit(f"行为变了：{words}")


file = io.BytesIO()
book = xlsxwriter.Workbook(file)
sheet = book.add_worksheet("合同")
columns = {"编号14": 14, "编号22": 22, "写成文字": 'yyyy"年"m"月"d"日"', **{f"编号{number}": number for number in NUMBERS}}
for place, (title, style) in enumerate(columns.items()):
    sheet.write(0, place, title)
    sheet.write_datetime(1, place, DAY, book.add_format({"num_format": style}))
book.close()
styles = zipfile.ZipFile(file).read("xl/styles.xml").decode()
expect(all(f'<xf numFmtId="{number}"' in styles and f'<numFmt numFmtId="{number}"' not in styles for number in NUMBERS),
       "XlsxWriter 不再只写编号")

print("openpyxl", openpyxl.__version__, "pandas", pandas.__version__)
for options in ({}, {"read_only": True}, {"data_only": True}):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 有警告就报错
        row = next(openpyxl.load_workbook(file, **options).active.iter_rows(min_row=2))
    cells = dict(zip(columns, row))
    for title, cell in cells.items():
        if not options and title in ("编号14", "写成文字", "编号31", "编号57"):
            print(f"openpyxl，{title}：{cell.value!r}，number_format {cell.number_format!r}，is_date {cell.is_date}")
        if title in ("编号14", "编号22", "写成文字"):
            expect(cell.value == DAY and cell.is_date, f"{title} 也不是日期")
        else:
            expect(cell.value == 45356 and type(cell.value) is int and not cell.is_date and cell.number_format == "General",
                   f"{title} 读作 {cell.value!r}，{cell.number_format!r}")
            expect(from_excel(cell.value) == DAY, "from_excel 换算不出日期")
    if not options:
        expect([cells[f"编号{number}"]._style.numFmtId for number in NUMBERS] == NUMBERS, "_style.numFmtId 不是原来的编号")

for engine in ("openpyxl", "calamine"):
    frame = pandas.read_excel(file, engine=engine)
    types = [str(kind) for kind in frame.dtypes]
    print(f"pandas，{engine}：编号14 是 {frame['编号14'].dtype}，编号31 是 {frame['编号31'].dtype}，编号57 是 {frame['编号57'].dtype}")
    expect(types[:3] == [types[0]] * 3 and types[0].startswith("datetime64"), f"{engine} 的普通日期变了")
    expect(set(types[3:]) == ({"int64"} if engine == "openpyxl" else {types[0]}), f"{engine} 的 27–36、50–58 变了：{types}")
wrong = pandas.to_datetime(pandas.read_excel(file, engine="openpyxl")["编号31"])[0]
print(f"把这一列交给 to_datetime：{wrong}")
expect(wrong.year == 1970, "to_datetime 不再给 1970 年")
PY
