"""CSV 的一格：表格软件不执行、不改写，写出再读回一字不差。"""

import random

import pytest

from labutils.dataset.review import protect, unprotect


@pytest.mark.parametrize(
    "text",
    ["=1+1", " =cmd|' /C calc'!A0", "　=1", "+8613", "-1", "@SUM(A1)", "＝HYPERLINK()", "＋1", "－1", "＠A",
     "\t=1", "\r=1", "\n=1", "2023-12-05", "1/2", "0012", "12345678901234567", "1E5", "3:30", "70%",
     "2023年12月5日", "Mar-5", "5 May", "TRUE", "'=1", "''2023-12-05"],
)
def test_risky_text_is_guarded_and_comes_back(text):
    assert protect(text) == "'" + text
    assert unprotect(protect(text)) == text


@pytest.mark.parametrize(
    "text", ["4000门", "F01-1", "'引用", "教高〔2019〕8号", "五年", "", "a=b", "20%—50%的时间"])
def test_ordinary_text_is_left_alone(text):
    assert protect(text) == text == unprotect(text)


def test_any_text_comes_back():
    rng = random.Random(0)
    letters = "'=+-@＝\t\r\n 　,;\"0129.:/%年月eETRUa课|"
    for _ in range(5000):
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(8)))
        assert unprotect(protect(text)) == text, repr(text)
