"""同一件事的不同写法要变得一样，不同的事不能变得一样。"""

import random
import time

import pytest

from labutils.base.text import contains, normalize

SAME = [
    ("五年", "5 年"),
    ("５年", "5年"),
    ("二十", "20"),
    ("二十二项", "22项"),
    ("十门", "10门"),
    ("十五周", "15周"),
    ("一万", "10000"),
    ("1万", "10000"),
    ("1.5万门", "15000门"),
    ("一万五", "15000"),
    ("一百零五", "105"),
    ("两千零一十九", "2019"),
    ("一万六千八百六十门", "16,860门"),
    ("五千一百一十八门", "5118门"),
    ("三亿二千万", "320000000"),
    ("二〇二三年", "2023年"),
    ("二零二三年", "2023年"),
    ("两个学期", "2个学期"),
    ("第二批", "第2批"),
    ("百分之七十以上", "70%以上"),
    ("百分之20", "20%"),
    ("20％—50％", "20%到50%"),
    ("2019-2021年", "2019至2021年"),
    ("2019年到2021年", "2019—2021年"),
    ("二〇一九年至二〇二一年", "2019—2021年"),
    ("2024-01-31", "2024年1月31日"),
    ("2024年01月31日", "2024年1月31日"),
    ("教高厅函〔2023〕24号", "教高厅函[2023]24号"),
    ("“两性一度”，即高阶性。", "两性一度即高阶性"),
    ("ＳＰＯＣ课程", "spoc 课程"),
    ("五", "5"),
    ("十", "10"),
    ("5万3千元", "五万三千元"),
    ("5万三千元", "53000元"),
    ("1亿2000万元", "1.2亿元"),
    ("1万2000元", "12000元"),
    ("人数五百人", "人数500人"),
    ("人数十五人", "人数15人"),
    ("大专三年", "大专3年"),
    ("名单三份", "名单3份"),
    ("百分之九十五点五", "95.5%"),
    ("零下5℃", "-5 ℃"),
]
DIFFERENT = [("1、2", "12"), ("5年到期", "5到期"), ("3.5", "35"), ("70%", "70"), ("三五年", "35年"),
             ("-5℃", "5℃"), ("5万一次", "5万1千次"), ("3百5百", "800")]
UNCHANGED = ("一流课程 统一管理 两性一度 万门左右 四新 三五年 双万计划 十分重要 之一 几十年 "
             "统一百分比 唯一门 其一年 数十万人 几十个 3百5百 1万5元 "
             "十二五 十三五时期 十四五时期 十五五 三四百人 七八十 二十四五岁 一万三四千元")


@pytest.mark.parametrize(("left", "right"), SAME)
def test_same_meaning_same_text(left, right):
    assert normalize(left) == normalize(right)


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_different_meaning_stays_different(left, right):
    assert normalize(left) != normalize(right)


@pytest.mark.parametrize("text", UNCHANGED.split())
def test_words_that_are_not_numbers_stay(text):
    assert normalize(text) == text


def test_idempotent_on_random_text():
    rng = random.Random(0)
    alphabet = "零〇一二三四五六七八九十百千万亿两年门个第百分之统几课流学期"
    alphabet += "0123456789.,，、%-—~至到 ①ＡaⅣ\n点℃下数统"
    for _ in range(5000):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 12)))
        once = normalize(text)
        assert normalize(once) == once, repr(text)


def test_very_long_digits_are_quick():
    start = time.process_time()
    normalize("1" * 20_000 + "人")
    assert time.process_time() - start < 5  # 每个起点都重数一遍的写法要一分多钟


def test_empty():
    assert normalize("") == "" and normalize("，。 \n") == ""


@pytest.mark.parametrize(
    ("answer", "point", "expected"),
    [
        ("建设期为五年。", "5年", True),
        ("建设期为十五年。", "5年", False),
        ("计划14000门", "4000门", False),
        ("约 4,000 门左右", "4000门", True),
        ("一门课程只能参加一次", "1门", True),
        ("线上、线下各类", "线下|混合", True),
        ("混合式教学", "线下|混合", True),
        ("社会实践", "线下|混合", False),
        ("统一一流课程", "一流", True),
        ("1875、728、1463", "728", True),
        ("1875、728、1463", "7281463", False),
        ("占 12.5%", "5%", False),
        ("占 12.5%", "12", False),
        ("五类：线上……", "五类|5类", True),
        ("文件没有写明这一点", "没有写明", True),
        ("时间是十三五时期", "十四五时期", False),
        ("“十四五”期间", "十四五", True),
        ("", "五年", False),
        ("任何回答", "", False),
        ("任何回答", "|", False),
    ],
)
def test_contains(answer, point, expected):
    assert contains(answer, point) is expected
