"""训练数据：课程表、改写、左填充；样本只由种子和序号决定。"""

import json
import random
import shutil
from collections import Counter

import pytest
import torch
from fakes.chat_fakes import build_tokenizer as build_qwen
from fakes.chat_fakes import write_kind

from labutils.base import files
from labutils.base.errors import LabError
from labutils.base.text import normalize
from labutils.models import chat, loader
from labutils.models.chat import IGNORE
from labutils.training.config import Config, load_config
from labutils.training.data import (
    LeftCollator,
    PlannedDataset,
    Source,
    data_digest,
    encode_source,
    find_file,
    questions,
    read_dev,
    read_training,
    schedule,
    takes_positions,
)
from tools.tiny_base.vocab import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def dialogue(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def source(name, count):
    return Source(name, f"{name}.json", [
        dialogue(f"这是编号为{i}的一个比较长的问题内容", "答" * (i + 1)) for i in range(count)])


def config(**values):
    made = Config()
    for key, value in values.items():
        owner = made.data_config if hasattr(made.data_config, key) else made.training_args
        setattr(owner, key, value)
    return made


def dataset(tokenizer, total=40, seed=1, **values):
    sources = [source("qa", 8), source("unanswerable", 3), source("general", 5)]
    values = {"general_ratio": 0.5, "unanswerable_ratio": 0.25, **values}
    return PlannedDataset(tokenizer, sources, config(**values), total, 4, seed)


def test_each_epoch_holds_every_question_once_and_the_given_shares():
    plan = schedule([8, 3, 5], [8, 2, 4], total=14 * 6, seed=3)
    for epoch in range(6):
        rows = [entry for entry in plan if entry[0] == epoch]
        counts = Counter(entry[1] for entry in rows)
        assert counts == {0: 8, 1: 2, 2: 4}
        assert sorted(row for _, k, row in rows if k == 0) == list(range(8))


def test_mixed_in_rows_are_used_evenly():
    plan = schedule([8, 3, 5], [8, 2, 4], total=14 * 10, seed=3)
    for k, size in ((1, 3), (2, 5)):
        used = Counter(row for _, source_index, row in plan if source_index == k)
        assert len(used) == size and max(used.values()) - min(used.values()) <= 1


def test_a_longer_schedule_starts_with_the_shorter_one():
    short = schedule([8, 3], [8, 4], 30, seed=5)
    assert schedule([8, 3], [8, 4], 90, seed=5)[:30] == short
    assert schedule([8, 3], [8, 4], 30, seed=6) != short


def test_samples_depend_on_seed_and_position_only(tokenizer):
    first, second = (dataset(tokenizer, question_augmentation=1.0) for _ in range(2))
    backwards = [second[i] for i in reversed(range(40))][::-1]  # 取的次序不影响内容
    assert [first[i] for i in range(40)] == backwards
    other = dataset(tokenizer, seed=2, question_augmentation=1.0)
    assert [first[i] for i in range(40)] != [other[i] for i in range(40)]


def test_global_random_state_is_neither_used_nor_changed(tokenizer):
    random.seed(0)
    state = random.getstate()
    data = dataset(tokenizer, question_augmentation=1.0)
    _ = [data[i] for i in range(40)]
    assert random.getstate() == state


def test_general_conversations_are_never_reworded(tokenizer):
    data = dataset(tokenizer, total=200, question_augmentation=1.0)
    for index, sample in enumerate(data.plan):
        if sample.source == 2:
            assert data[index] == data.encoded[2][sample.row]


def test_rewording_happens_about_as_often_as_asked(tokenizer):
    data = dataset(tokenizer, total=400, question_augmentation=0.5, general_ratio=0.0)
    changed = [data[i] != data.encoded[s.source][s.row] for i, s in enumerate(data.plan) if s.source == 0]
    assert 0.35 < sum(changed) / len(changed) < 0.65
    never = dataset(tokenizer, question_augmentation=0.0)
    assert all(never[i] == never.encoded[s.source][s.row] for i, s in enumerate(never.plan))


def asked_in(data, tokenizer):
    texts = (tokenizer.decode(data[i]["input_ids"]) for i in range(len(data)))
    return {normalize(text.split("<|assistant|>")[0].split("<|user|>")[-1]) for text in texts}


def test_course_training_never_asks_a_validation_question(tokenizer):
    settings = load_config(files.CONFIGS / "lora_tiny.yaml")
    sources = read_training(settings, files.DATA)
    held_out = questions(read_dev(settings, files.DATA))
    data = PlannedDataset(tokenizer, sources, settings, 1600, 16, 42, held_out)
    assert not asked_in(data, tokenizer) & held_out


def test_a_question_made_by_chance_is_dropped_when_validation_asks_it(tokenizer):
    sources = [Source("qa", "qa.json", [
        dialogue("哪天截止？", "申报的截止日期是1月31日。")])]
    held_out = frozenset({normalize("申报的截止日期是什么？")})

    def asked(held_out):
        data = PlannedDataset(
            tokenizer, sources, config(question_from_answer=1.0), 200, 4, 1, held_out)
        return asked_in(data, tokenizer)

    assert asked(frozenset()) & held_out and not asked(held_out) & held_out


def test_a_question_that_nearly_repeats_validation_is_dropped_too(tokenizer):
    held_out = frozenset({normalize("请问一下,申报的截止日期究竟是什么?谢谢")})
    data = PlannedDataset(tokenizer, [Source("qa", "qa.json", [
        dialogue("哪天截止？", "申报的截止日期是1月31日。")])], config(), 4, 4, 1, held_out)
    assert [*data.held_out.alike("请问一下申报的截止日期究竟是什么")]
    assert not [*data.held_out.alike("申报要交什么材料")]


def test_some_questions_are_made_from_their_answers(tokenizer):
    sources = [Source("qa", "qa.json", [
        dialogue("哪天截止？", "申报的截止日期是1月31日。")] * 4)]
    data = PlannedDataset(tokenizer, sources, config(question_from_answer=0.5),
                                        400, 4, 1)
    made = sum("哪天截止" not in tokenizer.decode(data[i]["input_ids"]) for i in range(400))
    assert 150 < made < 250


def test_only_the_answer_and_its_end_carry_loss(tokenizer):
    row = dataset(tokenizer)[0]
    learned = [i for i, label in zip(row["input_ids"], row["labels"], strict=True)
               if label != IGNORE]
    text = tokenizer.decode(learned[:-1]).strip()
    assert set(text) == {"答"} and learned[-1] == tokenizer.eos_token_id


def test_collator_pads_left_and_keeps_only_the_labelled_end():
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [IGNORE, IGNORE, 7, 8]},
            {"input_ids": [9, 4], "labels": [IGNORE, 4]}]
    batch = LeftCollator(pad_id=0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [0, 0, 9, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["logits_to_keep"] == 3  # 第一个标签之前还要一个位置来预测它
    assert batch["labels"].tolist() == [[IGNORE, 7, 8], [IGNORE, IGNORE, 4]]
    assert batch["labels"].is_contiguous()  # CPM-Ant 用 view 摊平


def test_loss_is_the_same_as_with_right_padding_and_all_logits(toy_base):
    model, tokenizer = loader.load(toy_base)
    _, rows, _ = encode_source(tokenizer, source("qa", 5), 200)
    width = max(len(row["input_ids"]) for row in rows)

    def padded(key, value):
        return torch.tensor([[*row[key]] + [value] * (width - len(row[key])) for row in rows])

    mask = torch.tensor([[int(i < len(row["input_ids"])) for i in range(width)] for row in rows])
    with torch.no_grad():
        ours = model(**LeftCollator(0)(rows)).loss
        plain = model(input_ids=padded("input_ids", 0), labels=padded("labels", IGNORE),
                      attention_mask=mask).loss
    assert torch.allclose(ours, plain, atol=1e-5)


@pytest.mark.parametrize(("kind", "told"), [
    ("gpt2", True), ("opt", True), ("bloom", False), ("qwen3", False)])
def test_padding_changes_no_loss_whatever_the_kind_of_positions(tmp_path, kind, told):
    """GPT-2 的位置是学来的：不告诉它，左边的填充就把它推到后面的位置上。"""
    model, _ = loader.load(write_kind(tmp_path / "base", kind))
    collate = LeftCollator(0, takes_positions(model))
    short, long = ({"input_ids": list(range(9, 9 + n)), "labels": [-100] * 4 + list(range(13, 9 + n))}
                   for n in (7, 30))
    assert ("position_ids" in collate([short])) == told
    alone, padded = collate([short]), collate([short, long])
    padded["labels"][1] = -100
    with torch.no_grad():
        assert model(**padded).loss == pytest.approx(float(model(**alone).loss), rel=1e-5)


def test_truncated_rows_are_counted_and_keep_the_end(tokenizer):
    long = Source("qa", "x.json", [dialogue("问", "答" * 300), dialogue("问", "答")])
    _, encoded, truncated = encode_source(tokenizer, long, 50)
    assert truncated == 1 and len(encoded[0]["input_ids"]) == 50
    assert all(ids.itemsize == 4 for ids in encoded[0].values())  # 十万条也放得下
    assert encoded[0]["labels"][-1] == tokenizer.eos_token_id


def test_row_that_cannot_be_encoded_is_named(tokenizer):
    bad = Source("qa", "data/train.json", [
        dialogue("问", "答"), dialogue("问" * 100, "答")])
    with pytest.raises(LabError, match=r"data/train.json 第 2 条"):
        encode_source(tokenizer, bad, 20)


def test_every_answer_of_a_conversation_is_a_sample(tokenizer):
    """样本按回答数；上文太长、回答放不下的后几轮不要，整段对话算一条截断的。"""
    talk = dialogue("第一问", "一") + dialogue("第二问", "二") + dialogue("问" * 60, "三")
    several = Source("qa", "x.json", [dialogue("问", "答"), talk])
    messages, encoded, truncated = encode_source(tokenizer, several, 500)
    assert [len(part) for part in messages] == [2, 2, 4, 6] and truncated == 0
    assert [tokenizer.decode(row["input_ids"][-2:-1]) for row in encoded] == list("答一二三")
    messages, encoded, truncated = encode_source(tokenizer, several, 40)
    assert [len(part) for part in messages] == [2, 2, 4] and truncated == 1
    data = PlannedDataset(tokenizer, [several], config(max_steps=-1, num_train_epochs=2), None, 4, seed=1)
    assert data.per_epoch == 4 and len(data) == 8 and Counter(s.row for s in data.plan) == {
        row: 2 for row in range(4)}


def test_history_that_the_template_rewrites_is_seen_as_in_inference():
    """Qwen3 的模板渲染历史与渲染最后一轮不同：每个样本的提示词都是推理时的那一个。"""
    qwen = build_qwen("Qwen3")
    talk = dialogue("你好 hello", "早上好") + dialogue("有效期？", "五年。")
    messages, encoded, _ = encode_source(qwen, Source("qa", "x.json", [talk]), 500)
    for part, row in zip(messages, encoded, strict=True):
        prompt = chat.prompt_ids(qwen, part[:-1])
        assert list(row["input_ids"][: len(prompt)]) == prompt
    bad = dialogue("你好", "<think>想</think>答")
    with pytest.raises(LabError, match=r"^x\.json 第 3 条：.*思考"):
        encode_source(qwen, Source("qa", "x.json", [talk, talk, bad]), 500)


def test_rewording_that_leaves_no_room_for_the_answer_is_not_used(tokenizer):
    sources = [Source("qa", "x.json", [dialogue("哪天截止？", "一月三十一日。")])]
    made = config(question_augmentation=1.0)
    data = PlannedDataset(tokenizer, sources, made, 60, 4, seed=1)
    data.max_length = len(data.encoded[0][0]["input_ids"]) - 6
    longest = max(range(60), key=lambda i: len(data.plan[i].question or ""))
    assert len(data.plan[longest].question) > 12 and data[longest] == data.encoded[0][0]


def test_unanswerable_rows_become_conversations_and_errors_name_the_line(tmp_path):
    path = tmp_path / "data" / "u.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"question": "费用？", "answer": "没有写明"}) + "\n{}\n", "utf-8")
    asked = config(unanswerable_file="u.jsonl", unanswerable_ratio=1.0, train_file="t.json")
    (path.parent / "t.json").write_text(
        json.dumps({"conversations": dialogue("问", "答")}), encoding="utf-8")
    with pytest.raises(LabError, match=r"u.jsonl 第 2 行"):
        read_training(asked, path.parent)
    path.write_text(json.dumps({"question": "费用？", "answer": "没有写明"}), encoding="utf-8")
    assert read_training(asked, path.parent)[1].conversations == [
        dialogue("费用？", "没有写明")]


def test_a_document_without_unanswerable_rows_trains_without_them(tmp_path, capsys):
    """数据文件夹里没有就不训练这一种；写明了路径的，在别处也行，找不到仍是错。"""
    (tmp_path / "t.json").write_text(json.dumps({"question": "问", "answer": "答"}), encoding="utf-8")
    own = config(unanswerable_file="unanswerable_train.jsonl", unanswerable_ratio=1.0, train_file="t.json")
    assert [source.name for source in read_training(own, tmp_path)] == ["qa"]
    assert "没有写明" in (said := capsys.readouterr().out) and said.count("\n") == 1
    shutil.copy(tmp_path / "t.json", tmp_path / "unanswerable_train.jsonl")
    assert [source.name for source in read_training(own, tmp_path)] == ["qa", "unanswerable"]
    own.data_config.unanswerable_file = "data/unanswerable_train.jsonl"
    assert len(read_training(own, tmp_path)[1].conversations) == 138 and capsys.readouterr().out == ""
    own.data_config.unanswerable_file = "data/none.jsonl"
    with pytest.raises(LabError, match="找不到数据文件 data/none.jsonl"):
        read_training(own, tmp_path)


def test_missing_data_file_is_named(tmp_path):
    with pytest.raises(LabError, match="找不到数据文件 nothing.json"):
        find_file("nothing.json", tmp_path)


def test_digest_changes_with_any_character():
    digest = data_digest([source("qa", 3)])
    assert digest == data_digest([source("qa", 3)])
    changed = source("qa", 3)
    changed.conversations[2][1]["content"] += "。"
    assert data_digest([changed]) != digest
