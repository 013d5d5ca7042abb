"""改写问题：意思要紧的字不动，真的换了说法，同一个种子总是同一种改法；同义词只换表里的词。"""

from random import Random

from labutils.training import questions

QUESTION = "《实施方案》2023年规定的认定课程有效期一共是5年吗"
CONDITION = "教师申报课程至少要满足什么条件？"


def test_probability_zero_changes_nothing():
    assert questions.replace(CONDITION, Random(1), probability=0) == CONDITION


def test_same_random_state_gives_the_same_wording():
    assert questions.replace(CONDITION, Random(3)) == questions.replace(CONDITION, Random(3))


def test_it_really_makes_other_wordings():
    assert len({questions.replace(CONDITION, Random(seed)) for seed in range(50)}) > 20


def test_longest_word_wins():
    swapped = questions.replace("截止日期", Random(0), probability=1)
    assert swapped in questions.synonym_table()["截止日期"]


def test_characters_outside_the_table_stay():
    text = "〔2023〕24号 ABC"
    assert questions.replace(text, Random(0), probability=1) == text


def test_every_word_has_a_partner_other_than_itself():
    for word, others in questions.synonym_table().items():
        assert others and word not in others, word


def test_quoted_names_and_digits_stay():
    for seed in range(300):
        reworded = questions.augment(QUESTION, Random(seed))
        assert "《实施方案》" in reworded and "2023" in reworded and "5" in reworded


def test_quoted_words_are_not_swapped():
    question = "“至少多少”和《规定》里的规定是什么"
    swapped = {questions.swap_synonyms(question, Random(seed)) for seed in range(100)}
    assert len(swapped) > 5
    assert all(text.startswith("“至少多少”") and "《规定》里" in text for text in swapped)


def test_a_single_character_inside_a_word_is_not_swapped():
    for seed in range(200):
        swapped = questions.swap_synonyms("注重创新的四新领域刚才怎样要求", Random(seed))
        assert swapped.startswith("注重创新的四新领域刚才"), swapped


def test_negations_are_never_dropped():
    for seed in range(200):
        left = questions.drop_characters("学校里非在编的教师不能担任课程负责人吗", Random(seed))
        assert "非" in left and "不" in left


def test_at_most_two_characters_are_dropped():
    lengths = {len(questions.drop_characters(QUESTION, Random(seed))) for seed in range(100)}
    assert lengths == {len(QUESTION) - 1, len(QUESTION) - 2}


def test_short_questions_lose_no_characters():
    for seed in range(50):
        assert questions.drop_characters("有效期多久", Random(seed)) == "有效期多久"


def test_the_same_seed_rewords_the_same_way():
    once = [questions.augment(QUESTION, Random(seed)) for seed in range(50)]
    assert once == [questions.augment(QUESTION, Random(seed)) for seed in range(50)]
    assert len(set(once)) > 20


def test_a_reworded_question_is_never_empty_or_unchanged_forever():
    for question in ("谁发的？", "几年？", QUESTION):
        assert any(questions.augment(question, Random(seed)) != question for seed in range(20))
        assert all(questions.augment(question, Random(seed)).strip() for seed in range(200))


def test_questions_made_from_answers_name_the_attribute_not_the_value():
    answer = "第三批通知的发文字号是教高厅函〔2023〕24号。"
    made = {questions.question_from_answer(answer, Random(seed)) for seed in range(100)}
    assert len(made) >= 8
    assert all("第三批" in question and "24" not in question for question in made)


def test_questions_made_from_answers_take_plain_forms():
    for answer in ("食堂的招牌菜是红烧肉。", "食堂的招牌菜，材料没有写明。"):
        made = {questions.question_from_answer(answer, Random(seed)) for seed in range(100)}
        assert "食堂的招牌菜是什么？" in made and len(made) >= 8
        assert all("红烧肉" not in question for question in made)


def test_answers_of_another_shape_make_no_question():
    for answer in ("你好！", "可以，请先登录。", "2019年印发的，是教育部。", "食堂的招牌菜不是红烧肉。"):
        assert questions.question_from_answer(answer, Random(0)) is None
