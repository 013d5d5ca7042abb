"""去掉页眉页脚、接上断句、切块；任意文档切块都拼得回原文、不切断句子、页码对、不超长。"""

from itertools import accumulate

import pytest
from fakes.documents import SENTENCE
from hypothesis import given, settings
from hypothesis import strategies as st

from labutils.base.errors import LabError
from labutils.dataset.clean import NOTE, Page, clean_pages, join_lines, join_pages, tidy
from labutils.dataset.prompts import Chunk, chunks

# ---- 清理 ----

@pytest.mark.parametrize(("raw", "clean"), [
    ("⼀流课程⺠办⻓期", "一流课程民办长期"), ("２０２３年ＡＩ，７０％", "2023年AI，70%"),
    ("３．５分", "3.5分"), ("\uf06c 第一项", "•  第一项"),
    ("︵直排︶︒", "（直排）。"), ("ﬁrst", "first"), ("你好,世界;再见!", "你好，世界；再见！"),
    ("3,000人", "3,000人"), ("时间8:00", "时间8:00"), ("a\u200bb\u00adc\x01", "abc"),
    ("关 于 开 展 课 程", "关于开展课程"), ("一 二 三 四 五 六 日", "一 二 三 四 五 六 日"),
    ("类型 门数", "类型 门数"), ("，。；：？！（）", "，。；：？！（）"),
])
def test_characters(raw, clean):
    assert tidy(raw) == clean


@pytest.mark.parametrize(
    "footer", ["3", "- 3 -", "— 3 —", "第3页", "第 3 页 共 10 页", "3 / 10", "Page 3 of 10"]
)
def test_page_number_forms(footer):
    assert clean_pages([f"正文。\n{footer}", f"{footer}\n另一页。"]) == ["正文。", "另一页。"]


def test_numbers_inside_text_are_kept():
    assert clean_pages(["门数\n24\n如上。", "2023年\n共24号。", "小表\n2019"]) == [
        "门数\n24\n如上。", "2023年\n共24号。", "小表\n2019"]


def test_running_header_removed():
    raw = [f"课程实验讲义 第 {i} 页\n{word}是正文。" for i, word in enumerate("甲乙丙丁", 1)]
    assert clean_pages(raw) == ["甲是正文。", "乙是正文。", "丙是正文。", "丁是正文。"]


def test_repeated_sentences_are_not_headers():
    """每页一份的套话写满一行或以句号结尾，是正文；每章不同的短行才是页眉，每章的第一次留着。"""
    body = "本表一式两份，由所在学院和教务处分别保存，填写时请用"
    names = "甲乙丙丁戊己庚辛"
    heads = ["第一章"] * 4 + ["第二章"] * 4
    raw = [f"{head}\n{body}\n黑色墨水。\n{name}填。" for head, name in zip(heads, names, strict=True)]
    firsts = {"甲": "第一章\n", "戊": "第二章\n"}
    assert clean_pages(raw) == [f"{firsts.get(name, '')}{body}黑色墨水。\n{name}填。" for name in names]


def test_repeated_table_head_is_kept():
    raw = [f"学院 门数 说明\n{name}学院 12 无" for name in "甲乙丙丁"]
    assert clean_pages(raw) == raw


def test_one_wide_line_does_not_stop_joining():
    lines = ["这一行正好写满了还没有说完，", "所以接上。"] * 6
    got = join_lines(["https://example.org/a/very/long/address/that/is/wide", *lines])
    assert got.count("没有说完，所以接上。") == 6


def test_join_lines_rules():
    assert join_lines(["这一行写满了还没有说", "完。"]) == "这一行写满了还没有说完。"
    assert join_lines(["短标题", "这一行写满了还没有说完。"]) == "短标题\n这一行写满了还没有说完。"
    assert join_lines(["这一行写满了而且说完。", "下一句"]) == "这一行写满了而且说完。\n下一句"
    assert join_lines(["这一行写满了但后面是", "二、标题"]) == "这一行写满了但后面是\n二、标题"
    assert join_lines(["数字在这里断开了20", "23年。"]) == "数字在这里断开了2023年。"
    assert join_lines(["this is deep", "learning"]) == "this is deep learning"
    assert join_lines(["published in 2017,", "pp. 5 to 8"]) == "published in 2017, pp. 5 to 8"
    assert join_lines(["some informa-", "tion here"]) == "some information here"
    assert join_lines(["state-of-the-", "art models"]) == "state-of-the-art models"
    assert join_lines(["这一行写满了还没有说", "　　另起一段。"]) == "这一行写满了还没有说\n另起一段。"
    assert join_lines(["线上 1875 1463", "线下 1463 1875"]) == "线上 1875 1463\n线下 1463 1875"
    assert join_lines([]) == ""


@pytest.mark.parametrize("gap", [" ", "\u3000", "  ", "\t"])
def test_article_numbers_are_no_cells(gap):
    """“第一条”后面的空白不是表格的格子；有句子的行里一个空白也不是。"""
    first, second = "为了规范课程建设，提高教学质量，结合学校实际情况，制", "定本办法。"
    for number in ("第一条", "第二十一条", "（一）", "3.", "第二章"):
        assert join_lines([f"{number}{gap}{first}", second], 50) == f"{number}{gap}{first}{second}"
    line = "经研究决定 自即日起实行，各单位应当组织教师学习本办法，"
    assert join_lines([line, "并遵照执行。"], 50) == line + "并遵照执行。"
    rows = ["学院\t门数\t说明，见附件一并认真填写完整后再上报", "数学\t12\t无"]
    assert join_lines(rows, 20) == "\n".join(rows)


@pytest.mark.parametrize("rest", ["22 天。每学期开学后，", "3.11 等工具，记为完成。", "24 日 8:20，抽查。"])
def test_sentence_goes_on_with_a_number(rest):
    line = "各学院应当按照先后次序预约会议室，每次不超过"
    assert join_lines([line, rest], 44) == line + rest
    assert join_lines([line, "2 研究方法与数据"], 44) == line + "\n2 研究方法与数据"


def test_line_too_short_only_for_the_next_word_goes_on():
    line = "每月最后一个星期五，校友会应当借阅教室的"
    assert join_lines([line, "（K0010-2023），逾期作废。"], 50) == line + "（K0010-2023），逾期作废。"
    assert join_lines([line, "钥匙，逾期作废。"], 52) == line + "\n钥匙，逾期作废。"


@pytest.mark.parametrize("hyphen", ["\u00ad", "\u2010", "-"])
def test_hyphens_at_the_end_of_a_line(hyphen):
    assert clean_pages([f"The library keeps detailed infor{hyphen}\nmation about every student."]) == [
        "The library keeps detailed information about every student."]
    assert tidy(f"A\u2010B 型 in{hyphen}\n") == "A\u2010B 型 in-\n"


BODY = [f"第{name}件事要在本学期之内由各学院办理完毕，不得拖延。" for name in "甲乙丙丁戊己"]


@pytest.mark.parametrize("form", [
    "－ {} －", "－{}－", "~ {} ~", "（{}）", "[{}]", "3-{}", "第 {} 頁", "第{}版", "{} 页", "P.{}", "10{}",
    "第{}页/共16页", "第{}页（共16页）", "第 {} 页 共 16 页", "{}/16", "· {} ·", "page {}", "【{}】", "{}",
])
def test_page_numbers_that_count_up(form):
    texts = [f"{body}\n{form.format(number)}" for number, body in enumerate(BODY, 11)]
    assert clean_pages(texts) == BODY
    assert clean_pages([text.split("\n")[1] + "\n" + text.split("\n")[0] for text in texts]) == BODY


@pytest.mark.parametrize("numbers", ["ⅠⅡⅢⅣⅤⅥ", ["i", "ii", "iii", "iv", "v", "vi"], "一二三四五六",
                                     [f"— 一{n} —" for n in "二三四五六七"]])
def test_page_numbers_in_letters_and_characters(numbers):
    assert clean_pages([f"{body}\n{number}" for body, number in zip(BODY, numbers, strict=True)]) == BODY


@pytest.mark.parametrize("numbers", [[24, 7, 1875, 24, 3, 90], [2019, 2021, 2020, 2023, 2018, 2024]])
def test_lone_numbers_that_do_not_count_up_are_kept(numbers):
    texts = [f"{body}\n{number}" for body, number in zip(BODY, numbers, strict=True)]
    assert clean_pages(texts) == texts


def test_titles_of_slides_stay():
    """标题每页不同只差数字，不是页眉；连着几页的同一个标题留下第一次，一页也不空。"""
    titles = [f"第{n}次作业 9月{n + 12}日\n教材第{n + 7}页习题全部完成并按时提交" for n in range(3, 8)]
    raw = ["封面\n离散数学作业", *titles, *("其余一\n说明一", "其余二\n说明二", "其余三\n说明三")]
    assert clean_pages(raw) == raw
    slides = [f"2.3 实体联系模型\n第{n}张图。" for n in "甲乙丙丁戊"]
    long = "全部内容到此讲完，下面请同学们自由提问和讨论。"
    raw = ["数据库", "概论", *slides, long, *(f"另一页{n}" for n in "一二三四")]
    assert clean_pages(raw)[2:7] == [slides[0], *(f"第{n}张图。" for n in "乙丙丁戊")]
    assert all(clean_pages([*"甲乙丙丁", "同一题目", "同一题目", "同一题目", *"戊己庚辛"]))


def test_title_under_a_head_of_the_same_words_is_kept():
    """网页打印成的 PDF：页眉是日期和标题，第一页页眉下面就是标题。"""
    title = ["入学指南\n", *[""] * 5]
    raw = [f"3/28/26, 11:14 AM\t入学指南\n{name}{body}" for name, body in zip(title, BODY, strict=True)]
    assert clean_pages(raw) == [name + body for name, body in zip(title, BODY, strict=True)]


def test_boilerplate_that_ends_every_page_is_kept():
    clause = "本款只作示例，没有效力，写在这里只是为了让\n每个标题下面都有几个字.\n"
    raw = [f"{n}款\n{clause * 3}" for n in "甲乙丙丁"]
    assert all(text.endswith("都有几个字.") for text in clean_pages(raw))


def test_code_at_the_foot_of_pages_is_no_head():
    raw = [f"第{n}段程序画一张图。\nplt.show()" for n in "甲乙丙丁"]
    assert clean_pages(raw) == raw


def test_head_beside_the_page_number_may_change():
    raw = [f"第{chapter}章 {title}\t{number}\n{body}" for number, (chapter, title, body) in enumerate(
        zip("一一二二三三", ["绪论", "绪论", "方法", "方法", "结果", "结果"], BODY, strict=True), 7)]
    assert clean_pages(raw) == BODY


# ---- 切块 ----

PAGES = [Page(1, "甲一二三四。乙一二三四！丙一二三四？"), Page(2, "丁一二三四。戊一二三四。")]


def test_chunks_keep_sentences_whole():
    got = chunks(PAGES, size=13, overlap=0)
    assert [c.text for c in got] == [
        "甲一二三四。乙一二三四！", "丙一二三四？\n丁一二三四。", "戊一二三四。"]
    assert [c.pages for c in got] == [(1,), (1, 2), (2,)]


def test_overlap_repeats_whole_sentences():
    got = [c.text for c in chunks(PAGES, size=13, overlap=6)]
    assert got[1].startswith("乙一二三四！") and got[0].endswith("乙一二三四！")
    assert all(len(text) <= 13 for text in got)
    assert [c.text for c in chunks(PAGES, size=13, overlap=5)][1].startswith("丙")  # 放不下整句


@pytest.mark.parametrize(("size", "overlap"), [(20, 0), (50, 10), (120, 50), (400, 50)])
def test_chunks_lose_nothing(size, overlap):
    pages = [Page(1, "标题\n" + SENTENCE * 3), Page(2, SENTENCE)]
    got = chunks(pages, size, overlap)
    assert all(0 < len(c.text) <= size for c in got)
    if overlap == 0:
        whole = "".join(c.text for c in got).replace("\n", "")
        assert whole == "".join(p.text for p in pages).replace("\n", "")


def test_long_sentence_is_cut_at_commas():
    got = [c.text for c in chunks([Page(1, "一二三四，五六七八，九十。")], size=6, overlap=0)]
    assert got == ["一二三四，", "五六七八，", "九十。"]
    assert [c.text for c in chunks([Page(1, "一" * 14)], size=6, overlap=2)][0] == "一" * 6


def test_sentence_across_pages_is_one():
    pages = [Page(1, "第一句。这一句话很长很长，写到页末还没有"), Page(2, "写完。第三句。")]
    got = chunks(pages, size=20, overlap=0)
    assert got[1] == Chunk("这一句话很长很长，写到页末还没有写完。", (1, 2))


def test_pieces_of_a_long_sentence_keep_their_own_pages():
    got = chunks([Page(1, "一" * 20), Page(2, "二" * 20)], size=20, overlap=0)
    assert [(c.text, c.pages) for c in got] == [("一" * 20, (1,)), ("二" * 20, (2,))]


def test_sizes_are_checked():
    for size, overlap in [(0, 0), (10, 10), (10, -1)]:
        with pytest.raises(LabError, match="重叠"):
            chunks(PAGES, size, overlap)


def test_no_text_no_chunks():
    assert chunks([]) == [] and chunks([Page(1, "")]) == []


# ---- 任意文档 ----

HAN = "课程教学学生认定办法推荐计划年度材料"
words = st.text(alphabet=HAN + "，、", min_size=1, max_size=30)
sentences = st.builds(lambda body, end: body + end, words, st.sampled_from(["。", "！", "？", "；", "。”"]))
anything = st.text(alphabet=HAN + "，。；！？、：”（）\n 　ab1.?!;-", max_size=120)
SETTINGS = settings(deadline=None, database=None)  # 机器忙闲不定；也不在仓库里留下文件
long_sentences = st.text(alphabet=HAN, min_size=35, max_size=50).map(lambda body: body + "。")
sizes = st.integers(5, 80).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))
whole_pages = st.lists(st.lists(sentences, max_size=8), min_size=1, max_size=5)


def flat(text):
    return "".join(text.split())


def positions(got):
    """每块在去掉空白的原文里的 (起点, 终点)；顺便检查没有超长、重叠不过量。"""
    found, done = [], 0
    for chunk in got:
        start = done - len(flat(chunk.text[: chunk.repeated]))
        done = start + len(flat(chunk.text))
        found.append((start, done))
    return found


def check_text_pages_and_size(pages, size, overlap):
    got = chunks(pages, size, overlap)
    text = "".join(flat(page.text) for page in pages)
    assert "".join(flat(c.text[c.repeated :]) for c in got) == text
    owner = [page.number for page in pages for _ in flat(page.text)]
    for chunk, (start, end) in zip(got, positions(got), strict=True):
        assert flat(chunk.text) == text[start:end]
        assert chunk.pages == tuple(sorted(set(owner[start:end])))
        assert 0 < len(chunk.text) <= size and chunk.repeated <= overlap + 1  # 1 是末尾的换行
        assert len(flat(chunk.text[: chunk.repeated])) <= overlap
    return got


@SETTINGS
@given(st.lists(anything, min_size=1, max_size=5), sizes)
def test_any_text(texts, limits):
    check_text_pages_and_size([Page(n, text) for n, text in enumerate(texts, 1)], *limits)


@SETTINGS
@given(whole_pages, sizes)
def test_no_sentence_is_cut(groups, limits):
    pages = [Page(n, "".join(group)) for n, group in enumerate(groups, 1)]
    got = check_text_pages_and_size(pages, *limits)
    every = [sentence for group in groups for sentence in group]
    ends = [0, *accumulate(map(len, every))]
    inside_long = {i for a, s in zip(ends, every, strict=False) if len(s) > limits[0]
                   for i in range(a + 1, a + len(s))}
    for start, end in positions(got):
        assert start in ends or start in inside_long
        assert end in ends or end in inside_long


@SETTINGS
@given(st.lists(long_sentences, min_size=2, max_size=6), st.data())
def test_sentence_over_a_page_break_stays_whole(every, data):
    """在句子中间换页（两边都不太短）：仍是一句，算两页的。"""
    text, last = "", 0
    pages = []
    for number, sentence in enumerate(every, 1):
        cut = data.draw(st.integers(16, len(sentence) - 10))
        pages.append(Page(number, text + sentence[:cut]))
        text = sentence[cut:]
        last = number
    pages.append(Page(last + 1, text))
    got = check_text_pages_and_size(pages, 60, 0)
    assert [c.text for c in got] == every
    assert [c.pages for c in got] == [(n, n + 1) for n in range(1, len(every) + 1)]


@SETTINGS
@given(whole_pages, sizes)
def test_chunks_are_full(groups, limits):
    """下一块的第一句放不进这一块：不是每句一块地敷衍。"""
    pages = [Page(n, "".join(group)) for n, group in enumerate(groups, 1)]
    got = chunks(pages, limits[0], 0)
    ends = list(accumulate(len(sentence) for group in groups for sentence in group))
    breaks = len(pages) - 1  # 换页处至多各有一个换行
    for start, end in positions(got)[:-1]:
        assert next(stop for stop in ends if stop > end) - start + breaks > limits[0]


def test_a_note_in_body_type_at_the_end_of_a_page_is_moved_out_of_the_sentence():
    """正文一样大的脚注，注号也不是上标：正文里有这个注号，才知道它是脚注。"""
    sentence, note = "第二条 “实习报告”一栏由辅导员会同有关单位填写，每", "2留学生公寓的会议纪要另存。"
    first = f"第一条 借书证由图书馆统一发放。\n另见脚注²。\n{sentence}\n{note}"
    pages = clean_pages([first, "两年核对一次，并由教务处存档。"])
    assert pages[0].endswith(f"{note}\n{sentence}")
    plain = clean_pages([first.replace("另见脚注²", "面积共25m²"), "两年核对一次。"])
    assert plain[0].endswith(sentence + note)  # 单位里的 ² 不是注号


def test_a_note_that_goes_on_at_the_foot_of_the_next_page_is_joined():
    notes = "¹显微镜共2100份，清单的编号是K0052；确有困难的，", "可以申请延长。", "²借阅台设在一层。"
    pages = [["第一条 借书证由图书馆统一发放，并按学期核对。", NOTE + notes[0]],
             ["第二条 逾期不还的，停止借阅三十天，并通报所在学院。", NOTE + notes[1], NOTE + notes[2]]]
    first, second = join_pages(pages)
    assert first.endswith(notes[0] + notes[1]) and second.endswith("通报所在学院。\n" + notes[2])
