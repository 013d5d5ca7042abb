"""自带小模型的配方:词表、问法文法、语料不泄漏课程文档、训练可中断续练。"""

import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch

from labutils.base.files import DATA
from labutils.base.text import contains, normalize
from labutils.models.chat import IGNORE
from labutils.training import questions
from tools.tiny_base import (
    asking,
    card,
    corpus,
    everyday,
    lexicon,
    measure,
    probes,
    recipe,
    relations,
    scenes,
    vocab,
)
from tools.tiny_base.recipe import Recipe, train

UNSEEN = Path(__file__).parents[2] / "benchmarks" / "unseen"
RELATIONS = "\n".join(path.read_text("utf-8") for path in sorted(relations.FOLDER.glob("*.txt")))

TOY = Recipe(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, tokens=256, longest=128, steps=4, warmup=2, save_every=2)


def rows_under(*paths):
    return [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def sample_text():
    """一大段语料和全部手写的说法、问法,查泄漏用。"""
    rng = Random("leak-check")
    talks = (corpus.conversation(rng) for _ in range(20000))
    return "\n".join([RELATIONS, *(message["content"] for talk in talks for message in talk)])


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
    assert len({asking.ask(rng, attribute, "晨光计划") for _ in range(2000)}) > 500


def test_question_never_holds_the_answer():
    rng = Random(4)
    for _ in range(500):
        name, facts, _missing, _lines = corpus._notice(rng)
        for attribute, value in facts.items():
            if len(value) > 4:
                assert value not in asking.ask(rng, attribute, name)


def test_not_stated_is_only_said_when_it_is_not_stated():
    rng = Random(5)
    for _ in range(300):
        for message in corpus.reading_task(rng)[1::2]:
            assert ("没有写明" in message["content"]) == message["content"].endswith("，材料没有写明。")


def test_corpus_is_the_same_for_the_same_seed():
    assert corpus.conversation(Random(9)) == corpus.conversation(Random(9))


def test_corpus_holds_nothing_of_the_course_document(sample_text):
    for row in rows_under(DATA / "qa.jsonl"):
        assert row["question"] not in sample_text
        assert row["answer"] not in sample_text
        assert re.sub(r"\s", "", row["evidence"]) not in sample_text
    names = ["一流本科课程", "双万计划", "混合式", "虚拟仿真", "慕课", "两性一度", "教高厅函", "四新",
             "国家级一流", "教高〔2019〕8号", "高阶性", "教育部"]
    assert [name for name in names if name in sample_text] == []


def clauses(text):
    """八个字以上的分句，不带空白。"""
    return {part for part in re.split(r"[。；，：？！|\n]", re.sub(r"[ \t]", "", text)) if len(part) >= 8}


def split(patterns):
    return {tuple(map(normalize, pattern.split("{S}"))) for pattern in patterns}


@pytest.fixture(scope="module")
def known():
    """全部关系的问法，从 {S} 处分成前后两半。"""
    return split(text for relation in [*relations.relations(), *relations.relations(True)]
                 for text in (*relation.formal, *relation.colloquial, *relation.other))


def asked_alike(asked, known):
    """asked 里与某种问法（{S} 随意）一样的问句；“……多少钱”这样写死的字不到一半的，不算。"""
    alike = []
    for question in asked:
        text = normalize(question)
        spans = [(i, j) for i in range(len(text)) for j in range(i, i + len(text) // 2 + 1)]
        if (text,) in known or any((text[:i], text[j:]) in known for i, j in spans):
            alike.append(question)
    return alike


def test_a_question_of_another_subject_is_recognized(known):
    assert asked_alike(["云杉渡图书馆每周哪一天闭馆"], split(["{S}每周哪一天闭馆？"]))
    assert asked_alike(["锁门的是谁？"], split(["锁门的是谁"]))
    assert not asked_alike(["云杉渡图书馆大人办卡押多少钱"], split(["{S}多少钱"]))
    assert asked_alike(["荷花图书馆允许同一本书续借几次？"], known)


def test_corpus_holds_no_sentence_or_number_of_the_course_document(sample_text):
    document = (DATA / "source" / "course_document.md").read_text("utf-8")
    assert len(clauses(document)) > 100
    assert [part for part in clauses(document) if part in sample_text] == []
    counted = r"(?:\d+年)?\d+月\d+日|\d+%?—\d+%?|\d+(?![\d月日—])[门所号年][左内]?"
    numbers = set(re.findall(counted, document))
    assert {"2024年1月31日", "20%—50%", "5750门"} <= numbers
    assert [number for number in numbers if number in RELATIONS] == []
    keys = {key for row in rows_under(DATA / "qa.jsonl") for key in row["key_points"]}
    long = [key for key in keys if len(re.findall(r"\d", key)) >= 5]
    assert long and [key for key in long if key in sample_text] == []


def test_corpus_asks_no_question_of_the_course(known):
    files = ("qa.jsonl", "unanswerable_test.jsonl", "unanswerable_train.jsonl")
    asked = [row["question"] for row in rows_under(*(DATA / name for name in files))]
    assert len(asked) > 300 and asked_alike(asked, known) == []


def test_corpus_holds_nothing_of_the_unseen_documents(sample_text, known):
    rows = rows_under(*sorted(UNSEEN.rglob("*.jsonl")))
    passages = [path.read_text("utf-8") for path in sorted(UNSEEN.rglob("*.md"))]
    told = clauses("\n".join([*passages, *(row.get("passage", "") + "\n" + row["answer"] for row in rows)]))
    assert len(told) > 500 and [part for part in told if part in sample_text] == []
    names = "云杉渡 砚河 明矾楼 沈砚舟 罗青禾 纸船故事会 荷花广场 特藏部 流通部".split()
    assert all(name in "".join(passages) for name in names)
    assert [name for name in names if name in sample_text] == []
    assert asked_alike([row["question"] for row in rows], known) == []


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
    class Stop(Exception):
        pass

    original = recipe._report

    def stop(folder_, recipe_, model, tokenizer, step, loss, pace):
        if step >= steps:
            raise Stop

    recipe._report = stop
    try:
        train(folder, TOY)
    except Stop:
        pass
    finally:
        recipe._report = original
    return folder


def test_export_is_a_native_folder_in_bf16(toy_base):
    from safetensors import safe_open

    config = json.loads((toy_base / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["GlmForCausalLM"] and "auto_map" not in config
    with safe_open(toy_base / "model.safetensors", "pt") as weights:
        assert weights.get_tensor("model.embed_tokens.weight").dtype == torch.bfloat16


# —— 日常事务的关系 ——


def test_every_line_of_the_relations_is_read():
    tags = "".join(line.partition(" ")[0] for line in RELATIONS.splitlines())
    assert re.fullmatch("(@(=nsqco)+)+", tags)
    assert all(part.strip() for line in RELATIONS.splitlines() if line for part in line[2:].split(" / "))


def test_every_topic_is_well_formed():
    names = [topic.name for topic in relations.topics()]
    assert len(set(names)) == len(names) and RELATIONS.count("\n@ ") + 1 == len(names)
    for topic in relations.topics():
        assert len(topic.fulls) >= 3 and all([*topic.shorts, *topic.described]), topic.name
        for full in topic.fulls:
            assert relations._SLOT.sub(lambda slot: relations._name_part(Random(1), slot[1]), full), full
        names = [relation.name for relation in topic.relations]
        assert len(set(names)) == len(names), topic.name


def test_every_relation_can_be_said_and_asked_in_many_ways():
    for relation in [*relations.relations(), *relations.relations(True)]:
        where = f"{relation.topic} 的 {relation.name}"
        assert relations.value(Random(1), relation.kind), where
        if relation.kind.startswith("["):
            choices = relation.kind.strip("[]").split("；")
            assert len(set(choices)) == len(choices) >= 8 and all(choices), where
        assert len(relation.statements) >= 5 and all("{V}" in said for said in relation.statements), where
        assert "{S}" in relation.statements[0] and len(relation.nouns) >= 2, where
        styles = relation.formal, relation.colloquial, relation.other
        assert all(len(style) >= least for style, least in zip(styles, (4, 3, 2), strict=True)), where
        asked = [text for style in styles for text in style]
        assert len(set(asked)) == len(asked) and not any("{V}" in text for text in asked), where
        left = set("".join([*relation.statements, *asked]).replace("{S}", "").replace("{V}", ""))
        assert not left & set("{}"), where


def test_no_two_relations_of_a_topic_are_said_or_asked_the_same():
    for topic in relations.topics():
        for fields in (("statements",), ("formal", "colloquial", "other")):
            texts = [text for relation in topic.relations
                     for text in {text for name in fields for text in getattr(relation, name)}]
            assert len(set(texts)) == len(texts), topic.name


def test_held_out_relations_never_occur_in_the_corpus():
    held_out = relations.relations(True)
    assert len(held_out) >= 150
    rng, seen = Random("held out"), []
    for _ in range(20000):
        seen += [message["content"] for message in everyday.conversation(rng)]
    text = "\n".join(seen)
    told = {part for relation in held_out for said in relation.statements[:1]
            for part in [max(re.split(r"\{[SV]\}", said), key=len)] if len(part) >= 6}
    known = "\n".join(said for relation in relations.relations() for said in (
        *relation.statements, *relation.formal, *relation.colloquial, *relation.other))
    assert [part for part in told if part in text and part not in known] == []


def test_every_value_that_is_asked_for_stands_in_the_passage():
    rng = Random("passages")
    for _ in range(500):
        subject, facts, _missing = everyday.draw_facts(rng, 3)
        text = everyday.passage(rng, subject, facts)
        assert all(value in text for value in facts.values()), text


def test_answers_quote_the_passage():
    """答案是材料里的一句，写着那个值；只有表格里的一行补成一句。"""
    rng, quoted = Random("quotes"), 0
    for _ in range(400):
        subject, facts, _missing = everyday.draw_facts(rng, 3)
        text = everyday.passage(rng, subject, facts)
        for relation, value in facts.items():
            answer = everyday._quoted(text, subject, relation, value)
            assert value in answer and not re.match(r"答：|[（\d]+[.、）]|第.条", answer)
            quoted += answer in text
    assert quoted > 800


def test_scenes_are_asked_about_what_they_tell():
    words, frames = scenes.grammar()
    for sentence, *asked in frames:
        slots = set(scenes._SLOT.findall(sentence))
        assert len(asked) >= 2 and {kind for kind, _ in slots} <= words.keys()
        assert all(set(scenes._SLOT.findall(question)) < slots for question in asked), sentence
    rng, missing = Random("scenes"), 0
    for _ in range(400):
        text, asked = scenes.reading(rng, [])
        assert "{" not in text + "".join(map(str, asked))
        assert all(answer in text for _, answer in asked if answer != scenes.MISSING)
        missing += sum(answer == scenes.MISSING for _, answer in asked)
    assert 8 < missing < 45  # 约七百问，百里有三


def test_a_deeper_model_starts_where_the_given_one_stopped():
    tokenizer = vocab.build_tokenizer()
    old = recipe.build_model(TOY, tokenizer)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = old(ids).logits
    deeper = recipe.build_model(replace(TOY, num_hidden_layers=3), tokenizer)
    deeper.load_state_dict(recipe._deepened(old, deeper.config))
    assert torch.equal(deeper(ids).logits, before)


@pytest.fixture
def packed():
    """(模型, 一步的编号, 各段的词元数)；注意力是配方自己的。"""
    tokenizer = vocab.build_tokenizer()
    model = recipe.build_model(TOY, tokenizer)
    model.config._attn_implementation = recipe.PACKED
    ids, _labels, sizes = recipe._pack(tokenizer, Random(3), TOY)
    assert len(sizes) > 1
    return model, ids, sizes


def test_neighbours_in_a_step_do_not_see_each_other(packed):
    """换掉别的段，这一段的损失一点不变。"""
    model, ids, sizes = packed
    begin = torch.tensor([0, *sizes]).cumsum(0)
    for start, end in zip(begin[:-1], begin[1:], strict=True):
        own = torch.zeros_like(ids, dtype=torch.bool)
        own[start:end] = True
        target, other = torch.where(own, ids, IGNORE), torch.where(own, ids, ids.flip(0))
        assert not torch.equal(other, ids)
        before, after = (recipe._loss(model, given, target, sizes, torch.Generator(), 0.0)
                         for given in (ids, other))
        assert torch.equal(before, after)


def test_a_packed_step_is_learned_like_its_parts(packed):
    """一步里的几段，损失等于各段单独算的、按词元加权的平均。"""
    model, ids, sizes = packed
    together = recipe._loss(model, ids, ids, sizes, torch.Generator(), 0.0)
    alone = [recipe._loss(model, own, own, [size], torch.Generator(), 0.0) * (size - 1)
             for own, size in zip(ids.split(sizes), sizes, strict=True)]
    assert abs(together - sum(alone) / (len(ids) - len(sizes))) < 1e-3


def test_the_way_on_a_gpu_gives_the_same_loss(packed):
    """GPU 上不逐段算，整块用遮罩；同一条路在 CPU 上也走得通。"""
    model, ids, sizes = packed
    here = recipe._loss(model, ids, ids, sizes, torch.Generator(), 0.0)
    model.config._attn_implementation = "sdpa"
    there = recipe._loss(model, ids, ids, sizes, torch.Generator(), 0.0)
    assert abs(here - there) < 1e-3


def test_packs_made_by_other_processes_are_the_same():
    packs = recipe.Packs(vocab.build_tokenizer(), TOY, 0)
    made = list(recipe.DataLoader(packs, None, sampler=range(5, 8), num_workers=2))
    assert len(made) == 3
    for step, (seed, ids, labels, sizes) in enumerate(made, 5):
        expected = packs[step]
        assert (seed, sizes) == (expected[0], expected[3])
        assert torch.equal(ids, expected[1]) and torch.equal(labels, expected[2])


def test_packed_attention_is_what_the_library_computes():
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    torch.manual_seed(1)
    sizes, module = [5, 1, 9], SimpleNamespace(num_key_value_groups=2, is_causal=True)
    query, key, value = (torch.randn(1, heads, sum(sizes), 16) for heads in (4, 2, 2))
    mask = torch.block_diag(*(torch.ones(n, n).tril() for n in sizes)).bool()[None, None]
    ours, _ = recipe.attention(module, query, key, value, None, sizes)
    theirs, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=16**-0.5)
    assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("held_out", [False, True])
def test_reading_of_relations_counts_the_stated_value(held_out, monkeypatch):
    items = measure.relation_set(held_out, 300)
    assert all(value in text for text, value in items)
    monkeypatch.setattr(measure, "answer", lambda m, t, asked, **_: list(map(dict(items).get, asked)))
    assert measure.relation_accuracy(None, None, held_out, 300) == 1.0
    monkeypatch.setattr(measure, "answer", lambda m, t, asked, **_: ["这件事，材料没有写明。"] * len(asked))
    assert measure.relation_accuracy(None, None, held_out, 300) == 0.0


def test_the_standard_answer_holds_the_value():
    for relation in [*relations.relations(), *relations.relations(True)]:
        value = relations.value(Random(relation.name), relation.kind)
        assert contains(relations.say(relation.statements[0], "荷花馆", value), value), relation


def test_card_tells_every_figure(toy_base, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "answer", lambda m, t, asked, **_: ["没有写明"] * len(asked))
    figures = measure.full(torch.nn.Linear(3, 4), None)
    assert set(figures) == {*card.MEASURED, "parameters"}
    made = json.loads((toy_base / "recipe.json").read_text("utf-8")) | {
        "num_hidden_layers": 9, "steps": 18400, "trained_steps": 18400, "processes": 2}
    figures |= {name: (7 + number) / 1000 for number, name in enumerate(card.MEASURED)}
    fresh = card.render(made, figures, 16_500_000)
    text = card.render(made | {"init_from": "labutils/models/tiny"}, figures, 16_500_000)
    assert all(f"| {figures[name]:.1%} |" in text for name in card.MEASURED)
    assert "9 层" in text and "16.5 MB" in text and not set(text) & set("{}")
    assert "前 14400 步" in text and "最后一段 4000 步，每步约 8192 个词元" in text and "约 1.51 亿" in text
    assert f"{len(relations.relations(True))} 个留出" in text and "--steps 18400" in text
    assert "分七段" in text and "分七段" not in fresh and "从随机权重开始" in fresh
    shares = [float(share) for share in re.findall(r"\| ([\d.]+)% \|", text.split("## 实测")[0])]
    assert abs(sum(shares) - 100) < 1
