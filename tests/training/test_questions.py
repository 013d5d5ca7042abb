"""同义词替换:结果由随机数决定、只换表里的词、概率为 0 时原样返回。"""

from random import Random

from labutils.training import questions

QUESTION = "教师申报课程至少要满足什么条件？"


def test_probability_zero_changes_nothing():
    assert questions.replace(QUESTION, Random(1), probability=0) == QUESTION


def test_same_random_state_gives_the_same_wording():
    assert questions.replace(QUESTION, Random(3)) == questions.replace(QUESTION, Random(3))


def test_it_really_makes_other_wordings():
    assert len({questions.replace(QUESTION, Random(seed)) for seed in range(50)}) > 20


def test_longest_word_wins():
    swapped = questions.replace("截止日期", Random(0), probability=1)
    assert swapped in questions.synonym_table()["截止日期"]


def test_characters_outside_the_table_stay():
    text = "〔2023〕24号 ABC"
    assert questions.replace(text, Random(0), probability=1) == text


def test_every_word_has_a_partner_other_than_itself():
    for word, others in questions.synonym_table().items():
        assert others and word not in others, word
