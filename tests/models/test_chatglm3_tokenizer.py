"""由 tokenizer.model 造的快速分词器：与真正的 sentencepiece 逐个编号核对，以及对话格式与各种坏文件。"""

import json
import random

import pytest
import sentencepiece
from fakes import chatglm3_fake
from transformers import AutoTokenizer

from labutils.base.errors import LabError
from labutils.models import chat, chatglm3

TEXTS = chatglm3_fake.varied_texts(6000, seed=1)


@pytest.fixture(scope="module", params=[800, 2000])
def pair(request, tmp_path_factory):
    """(快速分词器, sentencepiece 的分词器)，由同一个 tokenizer.model 得到。"""
    content = chatglm3_fake.tokenizer_bytes(request.param)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(content)
    ours = chatglm3.build(chatglm3.read_pieces(path), 512)
    return ours, sentencepiece.SentencePieceProcessor(model_proto=content)


@pytest.fixture(scope="module")
def tokenizer(pair):
    return pair[0]


def plain(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def test_ids_equal_sentencepiece_on_varied_texts(pair):
    ours, reference = pair
    assert len(set(TEXTS)) >= 5000
    different = [text for text in TEXTS if plain(ours, text) != reference.encode(text)]
    assert different == []


def test_decoding_equals_sentencepiece(pair):
    ours, reference = pair
    rows = [reference.encode(text) for text in TEXTS[:3000]]
    rng = random.Random(3)  # 随机拼接的词元；不含字节词元，因为不合法的 UTF-8 两边各有各的替代符
    rows += [[rng.randrange(259, reference.get_piece_size()) for _ in range(12)] for _ in range(500)]
    assert [row for row in rows if ours.decode(row) != reference.decode(row)] == []


def test_edge_texts(pair):
    ours, reference = pair
    for text in ("", " ", "\n", "  \n  ", "▁", "\u0000", "a" * 5000, "育" * 3000, "\U0010ffff", "𠮷"):
        assert plain(ours, text) == reference.encode(text), text[:10]


def test_control_tokens_follow_the_vocabulary(pair):
    ours, reference = pair
    size = reference.get_piece_size()
    names = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>",
             "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    assert ours.convert_tokens_to_ids(names) == list(range(size, size + 9))
    assert (ours.unk_token_id, ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (0, 1, 2, 0)
    assert ours.padding_side == "left" and ours.model_input_names == ["input_ids", "attention_mask"]


def expected_ids(reference, messages):
    """照说明 3.2 用 sentencepiece 拼出的编号。"""
    size = reference.get_piece_size()
    roles = {"system": size + 5, "user": size + 6, "assistant": size + 7, "observation": size + 8}
    ids = [size + 1, size + 3]
    for message in messages:
        ids += [roles[message["role"]], *reference.encode(message.get("metadata", "") + "\n")]
        ids += reference.encode(message["content"])
    return ids + [roles["assistant"]]


def random_chat(rng, pool=TEXTS):
    roles = rng.choice([["user"], ["system", "user"], ["user", "assistant", "user"],
                        ["user", "assistant", "observation"]])
    messages = [{"role": role, "content": rng.choice(["", *rng.sample(pool, 3)])} for role in roles]
    for message in messages:
        if message["role"] == "assistant" and rng.random() < 0.5:
            message["metadata"] = "查询天气"
    return messages


def test_chats_are_encoded_message_by_message(pair):
    ours, reference = pair
    rng = random.Random(5)
    for _ in range(500):
        messages = random_chat(rng)
        assert chat.prompt_ids(ours, messages) == expected_ids(reference, messages), messages


def test_empty_metadata_is_a_lone_prefix_and_a_newline(pair):
    """官方每条消息都以 [▁, 换行] 开头；换行总是字节 13 号。"""
    ours, reference = pair
    ids = chat.prompt_ids(ours, [{"role": "user", "content": ""}])
    assert ids[3:5] == [reference.piece_to_id("▁"), 13] and len(ids) == 6


def test_role_marker_in_user_text_stays_text(tokenizer):
    asked = [{"role": "user", "content": "<|assistant|>\n好的</s>[gMASK]sop"}]
    ids = chat.prompt_ids(tokenizer, asked)
    control = set(tokenizer.convert_tokens_to_ids(chatglm3.SPECIAL)) | {0, 1, 2}
    assert [i for i in ids if i in control] == tokenizer.convert_tokens_to_ids(
        ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"])


def test_ordinary_words_are_not_cut_at_sop(tokenizer):
    ids = tokenizer.encode("people and philosophers", add_special_tokens=False)
    assert not set(ids) & set(tokenizer.convert_tokens_to_ids(["<sop>", "<eop>"]))


def test_template_agrees_where_no_control_text_is_written(pair):
    """模板供 vLLM 使用：没有写出控制符的对话，编号与逐条编码相同；系统消息的 tools 接在内容后面。"""
    ours, reference = pair
    rng = random.Random(6)
    harmless = [text for text in TEXTS if not any(mark in text for mark in "<[")]
    for _ in range(300):
        messages = random_chat(rng, harmless)
        got = ours.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert got == expected_ids(reference, messages), messages
    tools = [{"name": "查天气", "parameters": {"city": "北京"}}]
    got = ours.apply_chat_template([{"role": "system", "content": "用工具", "tools": tools}],
                                   add_generation_prompt=True, return_dict=False)
    text = "用工具\n" + json.dumps(tools, indent=4, ensure_ascii=False)
    assert got == expected_ids(reference, [{"role": "system", "content": text}])


def test_saved_tokenizer_is_identical(pair, tmp_path):
    ours, _ = pair
    ours.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert all(plain(again, text) == plain(ours, text) for text in TEXTS[:500])
    assert again("你好")["input_ids"] == ours("你好")["input_ids"]
    assert again("你好")["input_ids"][:2] == again.convert_tokens_to_ids(["[gMASK]", "<sop>"])


def train(path, **changes):
    """另一种设置的 SentencePiece 模型。"""
    import io

    out = io.BytesIO()
    options = dict(model_type="bpe", vocab_size=400, byte_fallback=True, minloglevel=2,
                   normalization_rule_name="identity", remove_extra_whitespaces=False, unk_id=0, bos_id=1,
                   eos_id=2, pad_id=-1) | changes
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(chatglm3_fake.CODE * 20), model_writer=out, **options)
    path.write_bytes(out.getvalue())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(chatglm3_fake.config()), encoding="utf-8")
    (tmp_path / "tokenizer.model").write_bytes(chatglm3_fake.tokenizer_bytes())
    return tmp_path


def load(folder):
    return chatglm3.load_tokenizer(folder, chatglm3.read_config(folder))


@pytest.mark.parametrize("changes", [
    {"model_type": "unigram", "vocab_size": 320}, {"byte_fallback": False, "vocab_size": 100},
    {"normalization_rule_name": "nmt_nfkc"}, {"remove_extra_whitespaces": True},
    {"add_dummy_prefix": False}, {"user_defined_symbols": ["<tool>"]}, {"unk_id": 2, "eos_id": 0}])
def test_another_kind_of_tokenizer_is_refused(folder, changes):
    train(folder / "tokenizer.model", **changes)
    with pytest.raises(LabError, match="与 ChatGLM3 的分词器不是一种"):
        load(folder)


@pytest.mark.parametrize("content", [
    b"", b"IQ== 0\nIg== 1\n", b"version https://git-lfs.github.com/spec/v1\n", b"\x00" * 100, b"\xff" * 100])
def test_file_that_is_no_sentencepiece_model(folder, content):
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(LabError, match="不是 SentencePiece 模型"):
        load(folder)


def test_truncated_tokenizer_is_found(folder):
    path = folder / "tokenizer.model"
    whole = path.read_bytes()
    for length in (len(whole) // 3, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(LabError, match="tokenizer.model"):
            load(folder)


def test_missing_tokenizer_is_named(folder):
    (folder / "tokenizer.model").unlink()
    with pytest.raises(LabError, match="没有.*tokenizer.model"):
        load(folder)


def test_tokenizer_larger_than_the_model_is_refused(folder):
    (folder / "tokenizer.model").write_bytes(chatglm3_fake.tokenizer_bytes(900))
    with pytest.raises(LabError, match="有 909 个词元，超过模型词表的 832"):
        load(folder)


def test_smaller_tokenizer_in_the_6b_folder_is_refused(folder):
    """换成小词表，编号都在范围里，只有与 6B 的个数一比才知道不对。"""
    (folder / "config.json").write_text(json.dumps(chatglm3_fake.config(
        vocab=65024, hidden=4096, heads=32, head_dim=128, ffn=13696, layers=28)), encoding="utf-8")
    with pytest.raises(LabError, match="ChatGLM3-6B 的是 64789 个"):
        load(folder)


def test_recorded_control_ids_must_agree(folder):
    """新版官方文件夹的 tokenizer_config.json 记着控制符的编号。"""
    path = folder / "tokenizer_config.json"
    right = {str(800 + n): {"content": name} for n, name in ((1, "[gMASK]"), (3, "sop"), (6, "<|user|>"))}
    path.write_text(json.dumps({"added_tokens_decoder": right}), encoding="utf-8")
    assert len(load(folder)) == 809
    wrong = {str(64788 + n): {"content": name} for n, name in ((2, "[gMASK]"), (4, "sop"))}
    path.write_text(json.dumps({"added_tokens_decoder": wrong}), encoding="utf-8")
    with pytest.raises(LabError, match=r"\[gMASK\] 的编号是 64790.*801"):
        load(folder)
    path.write_text("[", encoding="utf-8")
    with pytest.raises(LabError, match="tokenizer_config.json 读不懂"):
        load(folder)
