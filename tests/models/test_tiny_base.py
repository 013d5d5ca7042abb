"""自带小模型的配方:词表、问法文法、语料不泄漏课程文档、训练可中断续练。"""

import json
import re
from random import Random

import pytest
import torch

from labutils.base.files import DATA
from labutils.training import questions
from tools.tiny_base import corpus, lexicon, probes, vocab
from tools.tiny_base.recipe import Recipe, train

TOY = Recipe(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, length=128, rows=2, steps=4, warmup=2, save_every=2)


@pytest.fixture(scope="module")
def sample_text():
    """一大段语料,查泄漏用。"""
    rng = Random("leak-check")
    talks = (corpus.conversation(rng) for _ in range(20000))
    return "\n".join(message["content"] for talk in talks for message in talk)


def test_vocabulary_holds_every_level1_character():
    words = vocab.vocabulary()
    assert len(vocab.level1_characters()) == 3755
    assert all(c in words for c in vocab.level1_characters())
    assert (words["<unk>"], words["</s>"]) == (0, 2)


@pytest.mark.parametrize("text", ["教高厅函〔2023〕24号", "a b\n\n c", "龘😀 é", "20%—50%", "“四新”"])
def test_any_text_survives_encoding(text):
    tokenizer = vocab.build_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids


def test_saved_tokenizer_loads_through_auto(tmp_path):
    from transformers import AutoTokenizer

    vocab.save_tokenizer(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast and loaded.encode("学分") == vocab.build_tokenizer().encode("学分")


def test_every_attribute_is_well_formed():
    names = [attribute.name for attribute in questions.attributes()]
    assert len(names) == len(set(names)) >= 80
    for attribute in questions.attributes():
        assert lexicon.value(Random(1), attribute.kind)
        assert all(asked.count("S") == 1 for asked in attribute.questions), attribute.name
        assert all("S" in said and "V" in said for said in attribute.statements), attribute.name


def test_one_attribute_has_hundreds_of_wordings():
    rng = Random(3)
    attribute = questions.attributes()[0]
    assert len({questions.ask(rng, attribute, "晨光计划") for _ in range(2000)}) > 500


def test_question_never_holds_the_answer():
    rng = Random(4)
    for _ in range(500):
        name, facts, _missing, _lines = corpus._notice(rng)
        for attribute, value in facts.items():
            if len(value) > 4:
                assert value not in questions.ask(rng, attribute, name)


def test_not_stated_is_only_said_when_it_is_not_stated():
    rng = Random(5)
    for _ in range(300):
        for message in corpus.reading_task(rng)[1::2]:
            assert ("没有写明" in message["content"]) == message["content"].endswith("，材料没有写明。")


def test_corpus_is_the_same_for_the_same_seed():
    assert corpus.conversation(Random(9)) == corpus.conversation(Random(9))


def test_corpus_holds_nothing_of_the_course_document(sample_text):
    rows = [json.loads(line) for line in (DATA / "qa.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        assert row["question"] not in sample_text
        assert row["answer"] not in sample_text
        assert re.sub(r"\s", "", row["evidence"]) not in sample_text
    names = ["一流本科课程", "双万计划", "混合式", "虚拟仿真", "慕课", "两性一度", "教高厅函", "四新",
             "国家级一流", "教高〔2019〕8号", "高阶性", "教育部"]
    assert [name for name in names if name in sample_text] == []


def test_corpus_holds_no_number_of_the_course_document(sample_text):
    rows = [json.loads(line) for line in (DATA / "qa.jsonl").read_text("utf-8").splitlines()]
    keys = {key for row in rows for key in row["key_points"] if len(re.findall(r"\d", key)) >= 5}
    assert keys and [key for key in keys if key in sample_text] == []


def test_held_out_wordings_never_occur_in_the_corpus():
    rng = Random(6)
    asked = {m["content"] for _ in range(5000) for m in corpus.talk_task(rng)[::2]}
    held_out = {topic["questions"][-1] for topic in corpus.talk()}
    assert not asked & held_out


def test_shipped_probe_files_are_what_the_code_makes(tmp_path):
    probes.write(tmp_path)
    for name in ("probes/general.jsonl", "general_train.jsonl"):
        assert (tmp_path / name).read_text("utf-8") == (DATA / name).read_text("utf-8")


def test_mixed_in_conversations_share_no_question_with_the_probes():
    asked = {row["question"] for row in probes.general_probes()}
    mixed = {row["conversations"][0]["content"] for row in probes.general_conversations()}
    assert len(asked) >= 40 and not asked & mixed


def test_training_resumes_bit_exactly(tmp_path):
    straight = train(tmp_path / "straight", TOY)
    state = torch.load(straight / "training_state.pt", weights_only=True)
    half = train_until(tmp_path / "half", 2)
    train(half, TOY)
    again = torch.load(half / "training_state.pt", weights_only=True)
    for name, tensor in state["model"].items():
        assert torch.equal(tensor, again["model"][name]), name


def test_training_can_start_from_given_weights(tmp_path, toy_base):
    """接着练:步数接着数,学习率从零重新升,第一步之前的权重就是给的那份。"""
    from transformers import GlmForCausalLM

    from tools.tiny_base import recipe

    begun = json.loads((toy_base / "recipe.json").read_text("utf-8"))["trained_steps"]
    toy = Recipe(**{k: v for k, v in json.loads((toy_base / "recipe.json").read_text("utf-8")).items()
                    if k in Recipe.__dataclass_fields__} | {
        "steps": begun + 2, "save_every": 1, "init_from": str(toy_base), "learning_rate": 0.0})
    tuned = train(tmp_path / "more", toy)
    old, new = (GlmForCausalLM.from_pretrained(folder).state_dict() for folder in (toy_base, tuned))
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())
    assert json.loads((tuned / "recipe.json").read_text("utf-8"))["trained_steps"] == begun + 2
    assert recipe._learning_rate(Recipe(steps=300, warmup=100), 100, 100) == Recipe().learning_rate / 100


def train_until(folder, steps):
    """练到一半就“断电”:学习率按总步数算,所以借保存间隔来停。"""
    import tools.tiny_base.recipe as recipe_module

    class Stop(Exception):
        pass

    original = recipe_module._report

    def stop(folder_, recipe, model, tokenizer, step, loss, began):
        if step >= steps:
            raise Stop

    recipe_module._report = stop
    try:
        train(folder, TOY)
    except Stop:
        pass
    finally:
        recipe_module._report = original
    return folder


def test_export_is_a_native_folder_in_bf16(toy_base):
    from safetensors import safe_open

    config = json.loads((toy_base / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["GlmForCausalLM"] and "auto_map" not in config
    with safe_open(toy_base / "model.safetensors", "pt") as weights:
        assert weights.get_tensor("model.embed_tokens.weight").dtype == torch.bfloat16
