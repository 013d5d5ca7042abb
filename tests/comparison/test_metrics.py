"""打分：手算得出的值、与 sacrebleu 对过的值、空回答与长短极端的回答"""

import numpy as np
import pytest

from labutils.base.errors import LabError
from labutils.comparison.metrics import (
    LexicalSearch,
    bleu_4,
    fact_correct,
    lexical_answers,
    ngrams,
    rouge_l,
    tokens,
)

REFERENCE = "有效期为5年。"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5年。", ["5", "年", "。"]),
        ("2023 年", ["2023", "年"]),
        ("２０２３年", ["2023", "年"]),
        ("LoRA微调 3.5倍", ["lora", "微", "调", "3.5", "倍"]),
        (" \n", []),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("answer", "points", "right"),
    [
        ("有效期为5年。", ["5年"], True),
        ("有效期是五年", ["5年"], True),
        ("有效期是 ５ 年", ["5年"], True),
        ("有效期为15年。", ["5年"], False),
        ("有效期为3年。", ["5年"], False),
        ("由教育部公布", ["教育部", "5年"], False),
        ("教育部定为5年", ["教育部", "5年"], True),
        ("国家教育行政部门", ["教育部|国家教育行政部门"], True),
        ("", ["5年"], False),
    ],
)
def test_fact_correct(answer, points, right):
    assert fact_correct(answer, points) is right


def test_no_key_points_is_an_error_not_a_free_pass():
    with pytest.raises(LabError, match="key_points"):
        fact_correct("随便什么", [])


def test_longest_common_subsequence_keeps_order_but_allows_gaps():
    assert rouge_l("有效期五年", "有效期限是五年") == 2 * 5 / (5 + 7)
    assert rouge_l("年五", "五年") == 2 * 1 / (2 + 2)
    assert rouge_l("", "五年") == rouge_l("五年", "") == 0


def test_ngrams_are_counted_with_repeats():
    assert ngrams(list("一二一二"), 2) == {("一", "二"): 2, ("二", "一"): 1}
    assert ngrams(list("一"), 2) == {}


def test_rouge_l_by_hand():
    # 回答 7 个单位、标准答案 7 个单位，公共子序列 6（只有数字不同）：2×6 / (7+7)
    assert rouge_l("有效期为3年。", REFERENCE) == pytest.approx(12 / 14)
    # 回答 2 个单位，公共 2：2×2 / (2+7)
    assert rouge_l("5年", REFERENCE) == pytest.approx(4 / 9)


# 右边的数由 sacrebleu 2.6 的 sentence_score（tokenize="zh"，effective_order，默认平滑）算得
@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("有效期为3年。", REFERENCE, 0.488923),
        ("五年", REFERENCE, 0.041042),
        ("5年", REFERENCE, 0.082085),
        ("年", REFERENCE, 0.002479),
        ("有有有有有有效", REFERENCE, 0.131345),
        (
            "国家级一流本科课程的有效期是5年。",
            "一流本科课程有效期为5年,到期后重新认定。",
            0.314925,
        ),
        (
            "该课程由教育部2023年6月公布,共5732门。",
            "教育部于2023年6月公布了5732门课程。",
            0.400527,
        ),
    ],
)
def test_bleu_agrees_with_sacrebleu(answer, reference, expected):
    assert bleu_4(answer, reference) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("score", [rouge_l, bleu_4])
def test_scores_at_the_ends(score):
    assert score(REFERENCE, REFERENCE) == pytest.approx(1.0)
    assert score("不知道", REFERENCE) == 0.0
    for answer, reference in (("", REFERENCE), (REFERENCE, ""), ("", ""), (" \n", REFERENCE)):
        assert score(answer, reference) == 0.0


@pytest.mark.parametrize("score", [rouge_l, bleu_4])
def test_a_wrong_number_still_scores_well(score):
    wrong_number, right_but_short = score("有效期为3年。", REFERENCE), score("5年", REFERENCE)
    assert wrong_number > right_but_short
    assert not fact_correct("有效期为3年。", ["5年"]) and fact_correct("5年", ["5年"])


def test_very_long_answer_is_scored_quickly():
    assert 0 < rouge_l("五年" * 500, REFERENCE) < 0.02


TRAIN = [
    {"question": "一流本科课程的有效期多久？", "answer": "5年"},
    {"question": "课程由谁公布？", "answer": "教育部"},
    {"question": "首批课程有多少门？", "answer": "5118门"},
]


def test_lexical_baselines_copy_the_answer_of_the_nearest_row():
    asked = ["有效期有多久", "是谁公布的课程", "首批一共多少门？"]
    copied = lexical_answers(TRAIN, asked)
    assert copied["问题"] == copied["问题连着答案"] == ["5年", "教育部", "5118门"]


def test_the_question_is_compared_with_answers_too():
    """问法全变了、答案里却有问句里的词：只比训练问题就小看了不用模型的办法。"""
    rows = [{"question": "听谁的？", "answer": "以申报说明为准。"},
            {"question": "规定有哪几份？", "answer": "一共两份。"}]
    copied = lexical_answers(rows, ["规定和申报说明打架怎么办"])
    right, wrong = [[row["answer"]] for row in rows]
    assert copied == {"问题": wrong, "答案": right, "问题连着答案": right, "问题三成、答案七成": right}


def test_the_mix_adds_both_similarities():
    """两边各像一点，合起来最像的才是它。"""
    rows = [{"question": "甲乙丙", "answer": "子丑寅"}, {"question": "丁戊己", "answer": "卯辰巳午未"},
            {"question": "丁戊庚", "answer": "卯辰巳申酉"}]
    by_question, by_answer = (LexicalSearch([r[key] for r in rows]).scores("丁戊己卯辰") for key in rows[0])
    best = int((0.3 * by_question + 0.7 * by_answer).argmax())
    assert lexical_answers(rows, ["丁戊己卯辰"])["问题三成、答案七成"] == [rows[best]["answer"]]


def test_lexical_baselines_know_no_synonyms():
    copied = lexical_answers(TRAIN, ["几年后失效"])
    assert copied["问题"] == ["5年"]  # 只因为排在最前，不是因为懂
    assert LexicalSearch([row["question"] for row in TRAIN]).scores("几年后失").max() == 0


def test_scores_are_cosines():
    search = LexicalSearch([row["question"] for row in TRAIN])
    scores = search.scores(TRAIN[1]["question"])
    assert scores.shape == (3,) and scores[1] == pytest.approx(1.0)
    assert np.all((scores >= 0) & (scores <= 1 + 1e-9)) and scores.argmax() == 1


def test_width_and_digits_do_not_matter_to_the_search():
    search = LexicalSearch(["有效期是五年吗？"])
    assert search.scores("有效期是５年吗")[0] == pytest.approx(1.0)


def test_rare_pieces_weigh_more_than_common_ones():
    search = LexicalSearch(["课程名额", "课程周期", "课程门数"])
    assert search.idf["课程"] < search.idf["周期"]


def test_empty_training_set_is_a_clear_error():
    with pytest.raises(LabError, match="训练集是空的"):
        lexical_answers([], ["问题"])


def test_empty_question_does_not_crash():
    assert set(map(tuple, lexical_answers(TRAIN, [""]).values())) == {("5年",)}
