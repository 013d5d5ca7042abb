"""审阅表：Excel 打得开、不执行公式；读回来逐行逐列检查；同一张表用两次结果不变。"""

import contextlib
import datetime
import errno
import json
import random
import re

import openpyxl
import pytest
from fakes.documents import rewritten, zipped

from labutils.base.errors import LabError
from labutils.dataset import review as sheet_module
from labutils.dataset.build import apply_review, export_review, finish, load_rows
from labutils.dataset.checks import validate
from labutils.dataset.clean import Page
from labutils.dataset.review import COLUMNS, review_table
from labutils.dataset.rows import load_conversations

PAGES = [Page(1, "图书馆每周开放六天。\n借书期限是三十天。\n逾期每天交费两角。"), Page(2, "周一上午闭馆。")]


def fact(number, question, answer, evidence, page=1, **more):
    return {"id": f"F0{number}-{more.pop('n', 1)}", "fact_id": f"F0{number}", "question": question,
            "answer": answer, "key_points": [answer.rstrip("。")], "page": page, "evidence": evidence, **more}


ROWS = [
    fact(1, "图书馆一周开几天？", "六天。", "每周开放六天"),
    fact(1, "一星期里有多少天可以进馆？", "六天。", "每周开放六天", n=2),
    fact(2, "书可以借多久？", "三十天。", "借书期限是三十天"),
    fact(2, "借阅的期限有多长？", "三十天。", "借书期限是三十天", n=2),
]
REJECTED = [
    {"stage": "解析", "reason": "写到一半断了，丢掉", "text": "{"},
    {"stage": "指代", "reason": "问题里的“本文”离开原文就不知所指",
     "row": {"question": "本文说迟还要交多少？", "answer": "两角。", "key_points": ["两角"], "page": 1,
             "evidence": "逾期每天交费两角"}},
]


@pytest.fixture
def sheet(tmp_path):
    return sheet_module.export(ROWS, tmp_path / "review.xlsx", REJECTED)


def read(path):
    """{列名: 值} 的列表，值是 Excel 里存的（文字、数或 None）。"""
    header, *rows = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    return [dict(zip(header, row, strict=True)) for row in rows]


def edit(path, changes, columns=tuple(COLUMNS)):
    """像人在 Excel 里那样改：changes 是 {第几条: {列: 值}}，只留 columns 这些列。"""
    records = read(path)
    for place, cells in changes.items():
        records[place].update(cells)
    book = openpyxl.Workbook()
    for row in [columns, *([record[name] for name in columns] for record in records)]:
        book.active.append(row)
    book.save(path)


def apply(path):
    return sheet_module.apply(path, ROWS, PAGES, REJECTED)


# ---- 写出 ----

def test_sheet_opens_in_excel(sheet):
    page = openpyxl.load_workbook(sheet).active
    records = read(sheet)
    assert list(records[0]) == list(COLUMNS) and len(records) == 5  # 没读出来的那条没有问答可审
    assert records[0] == {"编号": "F01-1", "决定": None, "问题": "图书馆一周开几天？", "答案": "六天。",
                          "要点": "六天", "证据": "每周开放六天", "页码": 1, "自动检查": "通过", "备注": None}
    assert records[4]["自动检查"] == "未通过（指代）：问题里的“本文”离开原文就不知所指"
    assert page.freeze_panes == "C2" and page.column_dimensions["C"].width > 20
    assert page["C2"].alignment.wrap_text and page["C2"].number_format == "@"
    choices, = page.data_validations.dataValidation
    assert choices.formula1 == '"接受,拒绝,修改"' and "B2" in choices.sqref and "B6" in choices.sqref


RISKY = ["=1+1", " =cmd|' /C calc'!A0", "+8613", "-1", "@SUM(A1)", "＝HYPERLINK()", "=", "#N/A", "#DIV/0!",
         "1", "2023-12-05", "1/2", "0012", "12345678901234567", "1E5", "3:30", "70%", "TRUE", "'引用",
         "a\r\nb\rc", "\u3000全角空格 ", "<b>&amp;</b>", "\U0001f600", "控\x01制\x0b符\ufffe", "长" * 40_000]


@pytest.mark.parametrize("text", RISKY)
def test_any_text_stays_text_and_comes_back(tmp_path, text):
    """不当公式、不变成数；写出再读回，什么也没有改。"""
    evil = {**ROWS[0], "question": text, "answer": f"答{text}", "key_points": [text, "b,\"c\""],
            "evidence": text, "id": text, "page": text}
    path = sheet_module.export([evil], tmp_path / "r.xlsx")
    stored = [cell for cell in openpyxl.load_workbook(path).active[2] if cell.value is not None]
    assert {cell.data_type for cell in stored if cell.column_letter != "G"} == {"s"}
    assert sheet_module.apply(path, [evil]).rows == [evil]
    sheet_module.export([evil], path)
    assert [p.name for p in tmp_path.iterdir()] == ["r.xlsx"]


def test_any_text_comes_back(tmp_path):
    rng = random.Random(0)
    letters = "'=+-@＝\t\r\n 　,;\"0129.:/%年月eETRUa课|_x<&\x00\x1f"
    rows = [{**ROWS[0], "id": f"N{i}", "question": "".join(rng.choices(letters, k=rng.randrange(8)))}
            for i in range(1000)]
    path = sheet_module.export(rows, tmp_path / "r.xlsx")
    assert sheet_module.apply(path, rows).rows == rows


def test_same_sheet_is_kept_and_a_different_one_is_renamed(sheet, capsys):
    before = sheet.read_bytes()
    sheet_module.export(ROWS, sheet, REJECTED)
    assert [p.name for p in sheet.parent.iterdir()] == ["review.xlsx"] and sheet.read_bytes() == before
    edit(sheet, {0: {"决定": "拒绝"}})
    mine = sheet.read_bytes()
    sheet_module.export(ROWS, sheet, REJECTED)
    assert read(sheet)[0]["决定"] is None
    assert (sheet.parent / "review-旧1.xlsx").read_bytes() == mine
    assert "没有覆盖" in capsys.readouterr().out


def test_unreadable_sheet_is_kept_too(sheet):
    sheet.write_bytes(b"PK\x03\x04")
    sheet_module.export(ROWS, sheet, REJECTED)
    assert len(read(sheet)) == 5 and (sheet.parent / "review-旧1.xlsx").read_bytes() == b"PK\x03\x04"


# ---- 读回 ----

def test_sheet_open_in_excel_is_one_sentence(sheet, monkeypatch):
    def locked(path, target):
        raise PermissionError(errno.EACCES, "in use", str(path), None, str(target))

    monkeypatch.setattr(sheet_module.Path, "rename", locked)
    with pytest.raises(LabError, match=f"没有权限，不能读写 .*{sheet.name}；请关掉.*Excel"):
        sheet_module.write_table([], sheet)


def test_untouched_sheet_changes_nothing(sheet):
    review = apply(sheet)
    assert review.rows == ROWS and review.rejected == REJECTED[::-1] and review.counts == {"": 5}


def test_decisions_take_effect(sheet):
    edit(sheet, {0: {"决定": "接受"}, 1: {"决定": "拒绝", "备注": "太绕"},
                 2: {"决定": "修改", "问题": "一本书最多能借几天？", "页码": "1"},
                 4: {"决定": "修改", "问题": "迟还一天要交多少钱？"}})
    review = apply(sheet)
    assert [row["question"] for row in review.rows] == [
        "图书馆一周开几天？", "一本书最多能借几天？", "借阅的期限有多长？", "迟还一天要交多少钱？"]
    assert review.rows[1] == {**ROWS[2], "question": "一本书最多能借几天？"}
    rescued = review.rows[3]
    assert rescued["fact_id"] == "F03" and rescued["id"] and rescued["page"] == 1
    assert review.rejected[0] == {"stage": "人工", "reason": "人工拒绝：太绕", "row": ROWS[1]}
    assert [item["stage"] for item in review.rejected] == ["人工", "解析"]
    assert review.counts == {"接受": 1, "拒绝": 1, "修改": 2, "": 1}


def test_the_same_sheet_twice_gives_the_same_rows(sheet):
    edit(sheet, {1: {"决定": "拒绝"}, 2: {"决定": "修改", "问题": "一本书最多能借几天？"},
                 4: {"决定": "修改", "问题": "迟还一天要交多少钱？"}})
    first = apply(sheet)
    again = sheet_module.apply(sheet, first.rows, PAGES, first.rejected)
    assert again.rows == first.rows and again.counts == first.counts
    assert sorted(map(str, again.rejected)) == sorted(map(str, first.rejected))


def test_rejected_by_a_person_can_come_back(sheet):
    edit(sheet, {0: {"决定": "拒绝"}})
    first = apply(sheet)
    edit(sheet, {0: {"决定": "接受"}})
    back = sheet_module.apply(sheet, first.rows, PAGES, first.rejected)
    assert sorted(row["id"] for row in back.rows) == sorted(row["id"] for row in ROWS)


def test_edited_evidence_is_checked_and_repaired(sheet):
    edit(sheet, {2: {"决定": "修改", "证据": "借书的期限，是30天"}})
    row = apply(sheet).rows[2]
    assert row["evidence"] == "借书期限是三十天" and row["evidence_original"] == "借书的期限，是30天"


def test_edited_key_points_one_per_line(sheet):
    edit(sheet, {0: {"决定": "修改", "答案": "每周开放六天。", "要点": "六天|6天\n\n 开放 "}})
    assert apply(sheet).rows[0]["key_points"] == ["六天|6天", "开放"]


@pytest.mark.parametrize(
    ("place", "cells", "row", "column", "words"),
    [
        (0, {"决定": "好"}, 2, "决定", "接受、拒绝、修改"),
        (0, {"问题": "改了却没说？"}, 2, "问题", "不是“修改”"),
        (1, {"决定": "接受", "答案": "七天。"}, 3, "答案", "不是“修改”"),
        (1, {"决定": "修改", "问题": "一"}, 3, "问题", "长 1 字"),
        (1, {"决定": "修改", "问题": ""}, 3, "问题", "缺少问题"),
        (2, {"决定": "修改", "答案": "四十天。", "要点": "四十天"}, 4, "要点", "找不到"),
        (2, {"决定": "修改", "要点": "三十天；五天"}, 4, "要点", "答案里没有"),
        (2, {"决定": "修改", "证据": "没有这句话"}, 4, "证据", "没有这句话"),
        (2, {"决定": "修改", "证据": ""}, 4, "证据", "缺少证据"),
        (2, {"决定": "修改", "页码": "末页"}, 4, "页码", "不是正整数"),
        (2, {"决定": "修改", "页码": "2"}, 4, "页码", "它在第 1 页"),
        (2, {"决定": "修改", "问题": "借阅的期限，有多长"}, 4, "问题", "F02-2 的问题重复"),
        (4, {"决定": "接受"}, 6, "问题", "本文"),
        (0, {"编号": "F99-9"}, 2, "编号", "没有这个编号"),
        (1, {"编号": "F01-1"}, 3, "编号", "与第 2 行重复"),
    ],
)
def test_every_error_names_row_and_column(sheet, place, cells, row, column, words):
    edit(sheet, {place: cells})
    with pytest.raises(LabError) as caught:
        apply(sheet)
    assert f"review.xlsx 有要改的地方：第 {row} 行“{column}”列" in str(caught.value)
    assert words in str(caught.value) and str(sheet.parent.parent) not in str(caught.value)


def test_many_errors_are_listed_together(sheet):
    edit(sheet, {place: {"决定": "？"} for place in range(5)} | {0: {"决定": "！", "编号": "x"}})
    with pytest.raises(LabError, match="第 2 行.*；第 3 行.*；第 6 行"):
        apply(sheet)


def test_rescued_pair_still_needs_evidence(tmp_path):
    bare = [{"stage": "证据", "reason": "缺少证据（evidence）",
             "row": {"question": "迟还要交多少钱？", "answer": "两角。"}}]
    path = sheet_module.export(ROWS, tmp_path / "r.xlsx", bare)
    edit(path, {4: {"决定": "接受"}})
    with pytest.raises(LabError, match="第 6 行“证据”列：缺少证据"):
        sheet_module.apply(path, ROWS, PAGES, bare)


# ---- Excel 的各种另存 ----

@pytest.mark.parametrize("columns", [tuple(COLUMNS)[::-1], ("决定", "问题", "编号")])
def test_columns_in_another_order_or_missing(sheet, columns):
    edit(sheet, {1: {"决定": "拒绝"}, 2: {"决定": "修改", "问题": "一本书最多能借几天？"}}, columns)
    review = apply(sheet)
    assert [row["id"] for row in review.rows] == ["F01-1", "F02-1", "F02-2"]
    assert review.rows[1]["question"] == "一本书最多能借几天？"


@pytest.mark.parametrize(("value", "number_format", "text"), [
    (6, "General", "6"), (6.0, "General", "6"), (0.1 + 0.2, "General", "0.3"), (0.7, "0%", "70%"),
    (True, "General", "TRUE"), (datetime.date(2023, 12, 5), "yyyy-mm-dd", "2023-12-05"),
    (datetime.date(2023, 12, 5), '[$-F800]yyyy"年"m"月"d"日"', "2023年12月5日"),
    (datetime.date(2023, 12, 5), 'm"月"d"日"', "12月5日"), (datetime.time(3, 30), 'h"时"mm"分"', "3时30分"),
    (datetime.time(3, 30), "h:mm", "03:30:00"), ("一行_x000D_\n两行 ", "@", "一行\n两行"),
])
def test_numbers_and_dates_are_read_as_a_person_sees_them(sheet, value, number_format, text):
    book = openpyxl.load_workbook(sheet)
    book.active["B2"], book.active["D2"] = "修改", value
    book.active["D2"].number_format = number_format
    book.save(sheet)
    assert sheet_module.read_table(sheet)[0][1]["答案"] == text


@pytest.mark.parametrize(("number", "value", "text"), [
    (31, 45356, "2024年3月5日"), (57, 45356, "2024年3月"), (58, 45356, "3月5日"), (30, 45356, "2024-03-05"),
    (32, 0.3125, "7时30分"), (56, 45356.3125, "7时30分0秒"), (31, 0, "00:00:00"), (3, 45356, "45356")])
def test_dates_that_chinese_excel_writes_by_number_alone(sheet, number, value, text):
    """styles.xml 里只有编号，没有格式：openpyxl 自己不认。"""
    book = openpyxl.load_workbook(sheet)
    book.active["B2"], book.active["D2"] = "修改", value
    book.active["D2"].number_format = '0"标记"'
    book.save(sheet)

    def by_number_alone(xml):
        for listed, custom in re.findall(r'(<numFmts.*numFmtId="(\d+)".*</numFmts>)', xml):
            xml = xml.replace(listed, "").replace(f'numFmtId="{custom}"', f'numFmtId="{number}"')
        return xml

    rewritten(sheet, by_number_alone)
    assert sheet_module.read_table(sheet)[0][1]["答案"] == text


def test_notes_outside_the_table_are_ignored(sheet):
    book = openpyxl.load_workbook(sheet)
    book.active["K3"] = "我的记号"
    book.create_sheet("统计")["A1"] = 5
    book.active = 1
    book.save(sheet)
    assert apply(sheet).rows == ROWS


def test_blank_and_missing_rows_are_not_reviewed(sheet):
    header, first = list(COLUMNS), list(read(sheet)[0].values())
    for decision in ("拒绝", "坏"):
        book = openpyxl.Workbook()
        first[1] = decision
        for row in (header, [], ["", " "], first):
            book.active.append(row)
        book.save(sheet)
        if decision == "拒绝":
            assert [row["id"] for row in apply(sheet).rows] == ["F01-2", "F02-1", "F02-2"]
    with pytest.raises(LabError, match="第 4 行“决定”列"):  # 空行也占 Excel 的一行
        apply(sheet)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ([], "没有“编号”这一列"),
        (["编号", "问题"], "第 1 行没有“决定”这一列"),
        (["编号", "决定", "决定"], "第 1 行有 2 个“决定”"),
    ],
)
def test_wrong_header_is_one_clear_sentence(tmp_path, header, words):
    book = openpyxl.Workbook()
    book.active.append(header)
    book.save(tmp_path / "r.xlsx")
    with pytest.raises(LabError, match=words):
        apply(tmp_path / "r.xlsx")


@pytest.mark.parametrize("data", [b"", "编号,决定\r\n".encode("utf-8-sig"), "编号,决定".encode("gb18030"),
                                  b"\xd0\xcf\x11\xe0" + b"\0" * 600])
def test_csv_and_old_workbooks_must_be_saved_again(tmp_path, data):
    (tmp_path / "review.csv").write_bytes(data)
    with pytest.raises(LabError, match="review.csv 不是 .xlsx 工作簿.*另存为 .xlsx"):
        apply(tmp_path / "review.csv")


def test_damaged_workbook_is_one_clear_sentence(sheet):
    whole, rng = sheet.read_bytes(), random.Random(0)
    sheet.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LabError, match="已损坏或不是 Excel 工作簿"):
        apply(sheet)
    zipped(sheet, {"word/document.xml": "<w/>"})
    with pytest.raises(LabError, match="已损坏或不是 Excel 工作簿"):
        apply(sheet)
    for _ in range(100):  # 随便改坏一个字节：要么照样读得出，要么一句话说清楚
        broken = bytearray(whole)
        broken[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        sheet.write_bytes(broken)
        with contextlib.suppress(LabError):
            apply(sheet)


def test_missing_sheet(tmp_path):
    with pytest.raises(LabError, match="none.xlsx 不存在或打不开"):
        apply(tmp_path / "none.xlsx")


# ---- 整个文件夹 ----

def test_review_of_a_folder_rewrites_the_data(tmp_path, capsys):
    folder = tmp_path / "data"
    finish(folder, validate(ROWS, PAGES)[0], list(REJECTED), PAGES, 42, [("条目", 6), ("去重之后", 4)])
    sheet = export_review(folder)
    edit(sheet, {2: {"决定": "拒绝"}, 4: {"决定": "修改", "问题": "迟还一天要交多少钱？"}})
    for _ in range(2):  # 再用一次结果不变
        report = apply_review(folder, PAGES, seed=42)
        rows, rejected = load_rows(folder)
        assert [row["question"] for row in rows][-1] == "迟还一天要交多少钱？" and len(rows) == 4
        assert {item["stage"] for item in rejected} == {"人工", "解析"}
        assert report["funnel"] == [("条目", 6), ("去重之后", 4), ("人工审阅之后", 4)]
        questions = [item["conversations"][0]["content"] for name in ("train.json", "dev.json")
                     for item in load_conversations(folder / name)]
        assert sorted(questions) == sorted(row["question"] for row in rows)
    assert "审阅：没看 3，拒绝 1，修改 1" in capsys.readouterr().out
    saved = json.loads((folder / "dataset_report.json").read_text(encoding="utf-8"))
    assert saved["pairs"] == 4


def test_bad_sheet_leaves_the_folder_alone(tmp_path):
    finish(tmp_path, validate(ROWS, PAGES)[0], [], PAGES, 42, [("条目", 4)])
    sheet = export_review(tmp_path)
    edit(sheet, {0: {"决定": "拒绝"}, 1: {"决定": "？"}})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(LabError, match="第 3 行“决定”列"):
        apply_review(tmp_path, PAGES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- 笔记本里的表 ----

def test_table_escapes_and_puts_problems_first():
    evil = {**ROWS[0], "question": "<script>alert(1)</script>", "evidence_original": "<img src=x>"}
    view = review_table([*ROWS[1:], evil], REJECTED, limit=2)
    html = view._repr_html_()
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    assert "5 条：通过 4，未通过 1" in html and "先看其中 2 条" in html
    assert [row["level"] for row in view.rows] == ["failed", "noted"]
    assert "未通过（指代）" in repr(view) and repr(review_table([])) == "（没有问答）"
