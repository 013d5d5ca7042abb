"""任意文档切块都成立的性质：拼得回原文、不切断句子、页码对、不超长。"""

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from labutils.dataset.clean import Page, chunks

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
