"""拼接的一步：损失、梯度与左边补齐的一批相同，各段互不相见，与几个线程无关；不合用的结构照旧补齐。"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fakes.chat_fakes import KINDS, SIZES
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback, TrainingArguments

from labutils.models import loader
from labutils.models.chat import IGNORE
from labutils.training import finetune, trainer
from labutils.training.config import Config, override
from labutils.training.data import LeftCollator, takes_positions


def rows(count=7, vocab=60):
    generator = torch.Generator().manual_seed(1)
    made = []
    for size in torch.randint(5, 30, (count,), generator=generator).tolist():
        ids = torch.randint(3, vocab, (size,), generator=generator).tolist()
        prompt = size // 2
        made.append({"input_ids": ids, "labels": [IGNORE] * prompt + ids[prompt:]})
    return made


def with_lora(base, **changes):
    """加了 LoRA 的模型；B 不是零，每个可训练的权重才都有梯度。"""
    base.config.use_cache = False
    lora = finetune.add_lora(base, override(Config(), {"lora_dropout": 0.0, **changes}), "x", 1).train()
    alive(lora)
    return lora


def alive(lora):
    for name, weight in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)


def made(kind, **sizes):
    torch.manual_seed(0)
    values = SIZES | {"vocab_size": 64, "pad_token_id": 0} | KINDS.get(kind, {}) | sizes
    config = AutoConfig.for_model(kind, **{key: size for key, size in values.items() if size is not None})
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module", params=["tiny", "qwen2"])
def model(request):
    return with_lora(loader.load("tiny")[0] if request.param == "tiny" else made("qwen2"))


def trainable(model):
    return [weight for weight in model.parameters() if weight.requires_grad]


def usual(model, batch):
    padded = LeftCollator(0, takes_positions(model.get_base_model()))(batch)
    loss = model(**padded, use_cache=False).loss
    return loss, torch.autograd.grad(loss, trainable(model))


def ours(model, batch, threads=2, pieces=False):
    base = model.get_base_model()
    with ThreadPoolExecutor(threads) as pool, trainer.switched(base, pieces):
        made = trainer.collate(2, 8, batch)
        loss, pieces = trainer.gradients(
            base, made["parts"], trainable(model), len(made["labels"]) - 1, pool.map)
    return loss, [sum(each) for each in zip(*pieces, strict=True)]


def assert_same(model, batch, pieces=False):
    (loss, gradient), (packed_loss, packed_gradient) = usual(model, batch), ours(model, batch, pieces=pieces)
    torch.testing.assert_close(packed_loss, loss.detach(), rtol=1e-5, atol=0)
    one, other = (torch.cat([each.flatten() for each in made]) for made in (packed_gradient, gradient))
    assert torch.dist(one, other) < 1e-4 * other.norm() > 0


def test_tokens_of_a_part_are_a_multiple():
    """凑数的一段不学；已经是倍数的不动。"""
    given = [{"input_ids": [5] * size, "labels": [5] * size} for size in (3, 2)]
    made, whole = (trainer.pack(trainer.filled(given, multiple)) for multiple in (8, 5))
    assert (made["sizes"], whole["sizes"]) == ([3, 2, 3], [3, 2])
    assert made["labels"].equal(whole["labels"]) and made["at"].equal(whole["at"])


@pytest.mark.parametrize("pieces", [True, False])
def test_loss_and_gradient_are_those_of_the_padded_batch(model, pieces):
    assert_same(model, rows(), pieces)


@pytest.mark.parametrize(("kind", "sizes"), [
    ("mistral", {"sliding_window": 6}), ("cohere2", {"logit_scale": 7.0}), ("phi", {}), ("gpt_neox", {}),
    ("gemma3_text", {"sliding_window": 6, "final_logit_softcapping": 0.5}),
    ("qwen2", {"tie_word_embeddings": True})])
def test_windows_scales_caps_and_biases_are_kept(kind, sizes):
    """窗口、缩放、软上限、输出层的偏置、共用的词嵌入：都由模型自己的代码算。"""
    base = made(kind, **sizes)
    head = base.get_output_embeddings()
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    assert_same(with_lora(base), rows())


@pytest.mark.parametrize("options", [
    {"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["embed_tokens"]}, {"target_modules": ["q_proj", "embed_tokens"]}])
def test_trained_ends_get_their_gradient(options):
    lora = get_peft_model(made("qwen2"), LoraConfig(**{"target_modules": ["q_proj"], **options}))
    alive(lora)
    assert_same(lora.train(), rows())


def test_gradient_checkpointing_changes_no_gradient():
    lora = with_lora(made("qwen2"))
    expected = ours(lora, rows())[1]
    lora.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    for one, other in zip(ours(lora, rows())[1], expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [1, 31, 300])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_label_loss_is_cross_entropy(size, scale):
    torch.manual_seed(size)
    hidden = (scale * torch.randn(size, 16)).requires_grad_()
    weight, labels = torch.randn(1050, 16), torch.randint(1050, (size,))
    plain = torch.nn.functional.cross_entropy(hidden @ weight.t(), labels, reduction="sum")
    pieces = trainer.LabelLoss.apply(hidden, weight, labels)
    torch.testing.assert_close(pieces, plain, rtol=1e-5, atol=0)
    found, expected = (torch.autograd.grad(2 * loss, hidden)[0] for loss in (pieces, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_broken_numbers_stay_broken():
    hidden = torch.full((3, 16), torch.nan)
    assert trainer.LabelLoss.apply(hidden, torch.randn(700, 16), torch.zeros(3, dtype=torch.long)).isnan()


def built(tmp_path, base, activation_checkpointing=False, lora=None, **changes):
    args = TrainingArguments(str(tmp_path), use_cpu=True, activation_checkpointing=activation_checkpointing)
    lora = lora or with_lora(base, **changes)
    return trainer.make_trainer(lora, args, LeftCollator(0, takes_positions(base)), rows())


@pytest.mark.parametrize(("kind", "sizes", "changes", "count"), [
    ("qwen3", {}, {}, 2), ("qwen3", {}, {"lora_dropout": 0.1}, 1),
    ("qwen3", {"attention_dropout": 0.1}, {}, 1), ("opt", {}, {}, 1), ("phimoe", {}, {}, 1),
    ("qwen3_moe", {}, {}, 1), ("qwen2_moe", {}, {}, 2)])
def test_what_draws_random_numbers_is_one_piece(tmp_path, kind, sizes, changes, count):
    """两份同时算，随机数的先后就不定了；peft 给专家加的 LoRA 也不能同时算。"""
    found = built(tmp_path, made(kind, **sizes), **changes)
    assert len(found.data_collator(rows())["parts"]) == count


@pytest.mark.parametrize(("kind", "sizes", "options", "pieces"), [
    ("qwen2", {}, {}, True), ("qwen2", {"tie_word_embeddings": True}, {}, True), ("gpt_neox", {}, {}, True),
    ("cohere2", {"logit_scale": 1.5}, {}, False), ("granite", {"logits_scaling": 2.0}, {}, False),
    ("gemma3_text", {"final_logit_softcapping": 1000.0}, {}, False),
    ("phi", {}, {"biased": True}, False),
    ("qwen2", {}, {"target_modules": ["lm_head"]}, False),
    ("qwen2", {}, {"modules_to_save": ["lm_head"]}, False),
    ("qwen2", {"tie_word_embeddings": True},
     {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, False)])
def test_model_that_changes_its_scores_or_trains_its_head_computes_them_whole(
        tmp_path, monkeypatch, kind, sizes, options, pieces):
    """软上限再大、分数再小，也看得出模型还要改分数；训练的输出层要有自己的梯度。"""
    monkeypatch.setattr(trainer, "LARGE", 0)
    base = made(kind, **sizes)
    if options.pop("biased", False):
        torch.nn.init.normal_(base.lm_head.bias)
    lora = get_peft_model(base, LoraConfig(**{"target_modules": "all-linear", **options})).train()
    alive(lora)
    found = built(tmp_path, base, lora=lora)
    assert isinstance(found, trainer.PackedTrainer) and found.pieces == pieces
    assert "forward" not in vars(base.get_output_embeddings())


@pytest.mark.parametrize(("kind", "sizes"), [
    ("falcon", {}), ("bloom", {}), ("falcon_h1", {}), ("gemma2", {}), ("stablelm", {}),
    ("lfm2", {"layer_types": ["conv", "full_attention"]})])
def test_architecture_that_mixes_neighbours_is_padded(tmp_path, capsys, kind, sizes):
    """自己的注意力、状态空间、卷积、注意力的软上限：照旧补齐，并且说出来。"""
    found = built(tmp_path, made(kind, **sizes))
    assert isinstance(found.data_collator, LeftCollator) and not isinstance(found, trainer.PackedTrainer)
    assert f"{kind} 结构的一批不能首尾相接" in capsys.readouterr().out
    assert found.model.get_base_model().config._attn_implementation != trainer.PACKED


def test_checkpointing_computes_one_piece_at_a_time(tmp_path):
    """两份同时算，内存也要两份；用检查点的正缺内存。"""
    found = built(tmp_path, made("qwen3"), activation_checkpointing=True)
    assert len(found.data_collator(rows())["parts"]) == 1


def test_half_precision_is_padded(tmp_path):
    assert isinstance(built(tmp_path, made("qwen3").bfloat16()).data_collator, LeftCollator)


def test_number_of_threads_changes_no_bit(model):
    one, two = ours(model, rows(), threads=1), ours(model, rows(), threads=2)
    assert torch.equal(one[0], two[0])
    assert all(map(torch.equal, one[1], two[1]))


def test_neighbours_do_not_see_each_other(model):
    first, second, other = rows(3)
    base = model.get_base_model()

    def losses(*batch):
        part, own = trainer.pack(list(batch)), len(trainer.pack([first])["labels"])
        part |= {key: part[key][:own] for key in ("at", "labels")}
        with torch.no_grad(), trainer.switched(base, True):
            return trainer.total_loss(base, part)

    torch.testing.assert_close(losses(first, second), losses(first, other))
    torch.testing.assert_close(losses(first, second), losses(first))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16])
def test_halves_hold_every_row_and_are_alike(count):
    batch = rows(count)
    parts = trainer.split(batch, 2)
    sizes = [sum(len(row["input_ids"]) for row in part) for part in parts]
    assert len(parts) == min(count, 2) and sorted(map(id, sum(parts, []))) == sorted(map(id, batch))
    assert max(sizes) - min(sizes) <= max(len(row["input_ids"]) for row in batch)


def test_noise_depends_on_the_length_of_each_conversation():
    made = trainer.noise([100, 4], width=64, alpha=8).abs()
    assert made[:100].max() <= 8 / (100 * 64) ** 0.5 < made[100:].max() <= 8 / (4 * 64) ** 0.5


@pytest.mark.parametrize(("vocabulary", "pieces"), [(trainer.LARGE - 1, False), (trainer.LARGE, True)])
def test_scores_of_a_small_vocabulary_are_kept(tmp_path, vocabulary, pieces):
    assert built(tmp_path, made("qwen2", vocab_size=vocabulary)).pieces is pieces


def test_mixed_precision_learns_the_same(tmp_path):
    """冻结的权重与矩阵乘法是 bf16，可训练的权重与它们的更新是 fp32；损失与 fp32 只差舍入。"""
    losses = {}
    for mixed in (False, True):
        lora = with_lora(loader.load("tiny")[0])
        args = TrainingArguments(
            str(tmp_path), use_cpu=True, max_steps=6, logging_steps=1, learning_rate=1e-3, disable_tqdm=True,
            remove_unused_columns=False, label_names=["labels"], seed=1)
        found = trainer.make_trainer(
            lora, args, LeftCollator(0, False), rows(), mixed, train_dataset=rows(24))
        found.train()
        losses[mixed] = torch.tensor([row["loss"] for row in found.state.log_history if "loss" in row])
        layer = found.base.model.layers[0].self_attn.q_proj
        assert layer.base_layer.weight.dtype == (torch.bfloat16 if mixed else torch.float32)
        assert {weight.dtype for weight in found.weights} == {torch.float32}
    assert losses[False][-1] < 0.9 * losses[False][0]
    torch.testing.assert_close(losses[True], losses[False], rtol=0.02, atol=0)
    assert not torch.equal(losses[True], losses[False])


@pytest.mark.parametrize(("dtype", "able", "name"), [
    ("auto", True, finetune.MIXED), ("auto", False, "float32"), ("fp32", True, "float32")])
def test_mixed_precision_is_chosen_where_the_cpu_has_it(monkeypatch, dtype, able, name):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    *_, found, reason = finetune._load_base("tiny", override(Config(), {"dtype": dtype, "use_cpu": True}))
    assert found == name and ("bf16 的指令" in reason) == (name == finetune.MIXED)


def test_mixed_precision_multiplies_by_the_updated_weights(tmp_path):
    """自动混合精度会留着转成 bf16 的权重；每次更新之后都要用新的，与每步之前清一遍相同。"""
    class Clear(TrainerCallback):
        def on_step_begin(self, *_, **__):
            torch.clear_autocast_cache()

    losses = []
    for callbacks in ([], [Clear()]):
        args = TrainingArguments(
            str(tmp_path), use_cpu=True, max_steps=4, logging_steps=1, learning_rate=1e-2, disable_tqdm=True,
            remove_unused_columns=False, label_names=["labels"], seed=1)
        found = trainer.make_trainer(with_lora(loader.load("tiny")[0]), args, LeftCollator(0, False), rows(),
                                     True, train_dataset=rows(24), callbacks=callbacks)
        found.train()
        losses.append([row["loss"] for row in found.state.log_history if "loss" in row])
    assert losses[0] == losses[1]
