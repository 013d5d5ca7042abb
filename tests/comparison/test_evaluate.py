"""微调前后对比：开关的次序、打分、写出的文件、坏输入"""

import contextlib
import csv
import io
import json
import math
from contextlib import contextmanager

import pytest
import torch

from labutils.base import files
from labutils.base.errors import LabError
from labutils.comparison import results
from labutils.comparison.evaluate import NAME, KeptAnswers, compare, load_groups, wilson_interval
from labutils.dataset.rows import save_conversations
from labutils.models import generate, loader
from labutils.training.checkpoints import find_adapter

TRAIN = {"id": "F01-1", "fact_id": "F01", "question": "有效期多久？", "answer": "有效期为5年。",
         "key_points": ["5年"], "page": 2}
UNSEEN = {**TRAIN, "id": "F01-2", "question": "管几年？"}
UNSEEN_2 = {**TRAIN, "id": "F02-2", "fact_id": "F02", "question": "有效期从哪天算？"}
ASKED = [{"role": "user", "content": "记住：小明"}, {"role": "assistant", "content": "好的"},
         {"role": "user", "content": "我叫什么？"}]
CHAT = {"id": "G01", "messages": ASKED, "answer": "小明。", "key_points": ["小明"]}
NOT_STATED = {"id": "U01", "question": "奖金多少？", "answer": "材料没有写明。", "key_points": ["没有写明"]}
GROUPS = {"train": [TRAIN], "unseen": [UNSEEN, UNSEEN_2], "general": [CHAT], "unanswerable": [NOT_STATED]}
BEFORE = {"有效期多久？": "有效期为3年。", "我叫什么？": "小明。"}
AFTER = {"有效期多久？": "有效期为五年。", "管几年？": "=1+1 管5年", "我叫什么？": "",
         "奖金多少？": "<script>alert(1)</script>没有写明",
         "有效期从哪天算？": generate.Unfinished("不知道")}


class FakePeft:
    """像 PeftModel 那样可以临时关掉适配器"""

    def __init__(self):
        self.adapter_on, self.in_training = True, True

    @contextmanager
    def disable_adapter(self):
        self.adapter_on = False
        yield
        self.adapter_on = True

    def eval(self):
        self.in_training = False

    def named_parameters(self):
        return [("lora_A", torch.ones(2, 2))]


def fake_answer(model, tokenizer, questions, on_answer=None, **generation):
    assert not model.in_training, "对比前应当切到 eval，否则 dropout 会干扰"
    book = AFTER if model.adapter_on else BEFORE
    asked = [q if isinstance(q, str) else q[-1]["content"] for q in questions]
    replies = [book.get(question, "不知道") for question in asked]
    for number, reply in enumerate(replies):
        on_answer(number, reply)
    return replies


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """对比一次；返回 (结果, 打印的各行)。"""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(generate, "answer", fake_answer)
        folder = tmp_path_factory.mktemp("lab") / "对比"
        return compare(FakePeft(), None, GROUPS, folder), said.getvalue().splitlines()


@pytest.fixture
def result(compared):
    return compared[0]


def test_before_is_adapter_off_and_after_is_on(result):
    row = result.rows[0]
    assert (row["before"], row["after"]) == ("有效期为3年。", "有效期为五年。")
    assert (row["before_correct"], row["after_correct"]) == (False, True)
    assert row["before_rouge_l"] == pytest.approx(12 / 14, abs=1e-3)


def test_scores_of_every_group(result):
    share = {g: (result.before[g]["accuracy"], result.after[g]["accuracy"]) for g in GROUPS}
    assert share == {"train": (0, 1), "unseen": (0, 0.5), "general": (1, 0), "unanswerable": (0, 1)}
    assert [result.after[g]["n"] for g in GROUPS] == [1, 2, 1, 1]
    assert result.after["general"]["rouge_l"] == result.after["general"]["bleu_4"] == 0


def test_what_got_worse_and_the_notes(result):
    assert [row["id"] for row in result.worse] == ["G01"]
    assert result.notes == ["微调后有 1 题是空回答。",
                            "微调后有 1 题到了词元数的上限，没有说完；要说完请加大 max_new_tokens。"]


def test_answers_that_are_not_finished_are_marked_everywhere(result):
    cut = [row for row in result.rows if row["after_cut"]]
    assert [row["question"] for row in cut] == ["有效期从哪天算？"]
    assert not any(row["before_cut"] for row in result.rows)
    assert json.loads(result.files["json"].read_text(encoding="utf-8"))["rows"] == result.rows
    table = list(csv.DictReader(result.files["csv"].read_text(encoding="utf-8-sig").splitlines()))
    assert [row["微调后没有说完"] for row in table] == ["✗", "✗", "✓", "✗", "✗"]
    assert result.files["html"].read_text(encoding="utf-8").count("（没有说完）") == 1
    assert repr(results.answer_table(cut)).endswith("后：不知道（没有说完）")
    old = [{key: value for key, value in row.items() if not key.endswith("_cut")} for row in cut]
    assert "没有说完" not in results.answer_table(old)._repr_html_() + repr(results.answer_table(old))


def test_baseline_looks_up_trained_rows_only(result):
    assert result.lexical_baseline["unseen"]["accuracy"] == 1.0  # 唯一的训练答案恰好都对
    copied = [row.get("baseline") for row in result.rows if row["group"] == "unseen"]
    assert copied == [TRAIN["answer"]] * 2
    assert all("baseline" not in row for row in result.rows if row["group"] != "unseen")


def test_the_strongest_baseline_stands_beside_the_model(monkeypatch, tmp_path):
    """问题找不到、答案里找得到的题：表、网页、图、CSV、JSON 里都是最强的那条。"""
    other = {**TRAIN, "id": "F03-1", "fact_id": "F03", "question": "规定有几份？", "answer": "两份。"}
    asked = {**UNSEEN, "question": "有效期规定"}
    monkeypatch.setattr(generate, "answer", fake_answer)
    result = compare(FakePeft(), None, {"train": [other, {**TRAIN, "question": "多久？"}], "unseen": [asked]},
                     tmp_path)
    best = result.lexical_baseline["unseen"]
    assert (best["all"]["问题"], best["all"]["答案"], best["method"], best["accuracy"]) == (0, 1, "答案", 1)
    (row,) = (row for row in result.rows if row["group"] == "unseen")
    assert (row["baseline"], row["baseline_correct"]) == (TRAIN["answer"], True)
    assert result.table()["不用模型"].tolist() == ["", "100%"]
    html = result.files["html"].read_text(encoding="utf-8")
    assert "按问题找 0%，按答案找 100%" in html
    saved = json.loads(result.files["json"].read_text(encoding="utf-8"))
    assert saved["lexical_baseline"]["unseen"] == best


def test_a_group_of_ones_own_keeps_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(generate, "answer", fake_answer)
    result = compare(FakePeft(), None, {"我的": [TRAIN]}, tmp_path)
    assert list(result.table().index) == ["我的"]
    assert "我的" in result.files["html"].read_text(encoding="utf-8")


def test_tables_for_people(result):
    table = result.table()
    assert list(table.index) == ["训练过的问法", "没见过的问法", "通用能力", "材料没写的问题"]
    assert table.loc["没见过的问法", ["题数", "微调前", "微调后"]].tolist() == [2, "0%", "50%"]
    changes = result.changes()
    assert changes.loc["没见过的问法"].tolist() == [1, 0, 0, 1]
    assert changes.to_numpy().sum() == 5


def test_json_has_the_promised_shape(result):
    data = json.loads(result.files["json"].read_text(encoding="utf-8"))
    assert set(data["before"]) == set(data["after"]) == set(GROUPS)
    assert {"accuracy", "n", "rouge_l", "bleu_4"} <= set(data["after"]["train"])
    assert data["lexical_baseline"]["unseen"]["n"] == 2
    assert data["worse"] == ["G01"] and len(data["rows"]) == 5


def test_interrupted_table_keeps_the_old_one(result, interrupted):
    with interrupted(result.files["csv"]):
        results.write_csv([], result.files["csv"])


def test_csv_opens_in_a_spreadsheet_and_runs_nothing(result):
    raw = result.files["csv"].read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(raw.decode("utf-8-sig").splitlines()))
    assert rows[1]["微调后回答"] == "'=1+1 管5年"
    assert rows[0]["微调前"] == "✗" and rows[0]["微调后"] == "✓"
    assert not [c for row in rows for c in row.values() if c.startswith(tuple("=+-@"))]


@pytest.mark.parametrize("text", ["=1", " =1", "　=1", "+1", "-1", "@a", "＝1", "\t1", "\n=1"])
def test_every_way_to_start_a_formula_is_defused(text):
    assert results.cell(text) == "'" + text
    assert results.cell(-1.5) == -1.5 and results.cell("有效期=5年") == "有效期=5年"


def test_page_escapes_answers_and_needs_no_other_file(result):
    html = result.files["html"].read_text(encoding="utf-8")
    assert "<script>alert" not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "http://" not in html and "https://" not in html and 'src="data:image/png' in html
    assert html.count("✓ 对") == 4 and html.count("✗ 错") == 6
    assert "（空回答）" in html and 'data-change="worse"' in html
    assert result.files["正确率"].is_file() and result.files["逐个事实的对错"].is_file()


def test_answer_table_in_a_notebook(result):
    table = results.answer_table(result.rows, kind="better")
    assert [row["id"] for row in table.rows] == ["F01-1", "F01-2", "U01"]
    html = table._repr_html_()
    assert "<script>" not in html and "\n\n" not in html
    assert "✗ 前：有效期为3年。" in repr(table) and "✓ 后：有效期为五年。" in repr(table)
    only = results.answer_table(result.rows, group="unseen", limit=1)
    assert [row["id"] for row in only.rows] == ["F01-2"]
    nothing = results.answer_table([], kind="worse")
    assert repr(nothing) == "（没有符合条件的题）" and repr(nothing) in nothing._repr_html_()


def test_progress_is_reported(compared):
    lines = compared[1]
    assert lines[0].startswith("微调前：1/") and lines[-1].startswith("微调后：")


def test_an_adapter_without_effect_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr(generate, "answer", lambda m, t, questions, on_answer: on_answer(0, "一样"))
    result = compare(FakePeft(), None, {"train": [TRAIN]}, tmp_path)
    assert "适配器没有起作用" in result.notes[0]
    assert "适配器没有起作用" in result.files["html"].read_text(encoding="utf-8")


def test_empty_groups_are_kept_but_not_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(generate, "answer", fake_answer)
    groups = {"train": [], "unseen": [UNSEEN], "general": []}
    result = compare(FakePeft(), None, groups, tmp_path)
    nothing = {"accuracy": None, "n": 0, "interval": None, "rouge_l": None, "bleu_4": None}
    assert result.after["general"] | {"interval": None} == nothing
    assert result.lexical_baseline == {} and result.table()["微调后"].tolist() == ["没有测", "100%", "没有测"]


def test_unwritable_folder_is_known_before_answering(monkeypatch, tmp_path):
    monkeypatch.setattr(generate, "answer", None)  # 一旦去回答就出错
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LabError, match="不能读写 .*out"):
        compare(FakePeft(), None, GROUPS, tmp_path / "file" / "out")


def test_a_plain_model_cannot_be_compared(tmp_path):
    with pytest.raises(LabError, match="没有适配器"):
        compare(object(), None, GROUPS, tmp_path)


@pytest.mark.parametrize(("groups", "words"), [
    ({"train": []}, "没有可以对比的问题"),
    ({"train": [TRAIN, {**TRAIN, "key_points": []}]}, "第 2 题缺少 key_points"),
    ({"train": [{**TRAIN, "key_points": "5年"}]}, "key_points"),
    ({"train": [{**TRAIN, "key_points": [2023]}]}, "train 的第 1 题缺少 key_points.*不是文字"),
    ({"train": [{**TRAIN, "answer": 5}]}, "缺少 answer"),
    ({"train": [{**TRAIN, "question": None}]}, "缺少 question"),
    ({"general": [{**TRAIN, "messages": ["你好"]}]}, "缺少 question"),
    ({"general": [{"id": "G", "answer": "是", "key_points": ["是"]}]}, "缺少 question"),
])
def test_bad_questions_are_named(groups, words, tmp_path):
    with pytest.raises(LabError, match=words):
        compare(FakePeft(), None, groups, tmp_path)


@pytest.mark.parametrize(
    ("right", "n", "expected"),
    [(0, 0, [0, 1]), (5, 10, [0.2366, 0.7634]), (10, 10, [0.7225, 1.0]), (0, 10, [0.0, 0.2775])],
)
def test_wilson_interval_against_published_values(right, n, expected):
    assert wilson_interval(right, n) == pytest.approx(expected, abs=1e-4)


# ---- 输入：题目与适配器 ----


@pytest.fixture
def folders(tmp_path):
    data, probes = tmp_path / "data", tmp_path / "probes"
    files.write_json_lines([TRAIN, UNSEEN, UNSEEN_2], data / "qa.jsonl")
    save_conversations([TRAIN], data / "train.json")
    save_conversations([UNSEEN, UNSEEN_2], data / "dev.json")
    files.write_json_lines([CHAT], probes / "general.jsonl")
    files.write_json_lines([NOT_STATED], data / "unanswerable_test.jsonl")
    return data / "qa.jsonl", data, probes


def test_groups_are_rejoined_with_key_points(folders):
    assert load_groups(*folders) == GROUPS


def test_a_document_without_unanswerable_questions_is_not_measured_on_them(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "answer", fake_answer)
    (folders[1] / "unanswerable_test.jsonl").unlink()
    groups = load_groups(*folders)
    assert groups == GROUPS | {"unanswerable": []}
    result = compare(FakePeft(), None, groups, tmp_path / "out")
    table = result.table()
    assert table.loc["材料没写的问题"].tolist() == [0, "没有测", "没有测", "", "", "", ""]
    assert table.loc["通用能力", "微调前"] == "100%"
    (note,) = (note for note in result.notes if "没有测" in note)
    assert "unanswerable_test.jsonl 放在问答文件旁边" in note
    written = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert note in written and "<td>没有测</td>" in written


def test_a_question_from_another_split_is_named(folders):
    save_conversations([TRAIN, {**TRAIN, "question": "别处来的？"}], folders[1] / "train.json")
    with pytest.raises(LabError, match=r"train.json 第 2 条的问题“别处来的？”不在"):
        load_groups(*folders)


def test_a_question_that_is_not_text_is_named(folders):
    files.write_json_lines([TRAIN, {**UNSEEN, "question": None}], folders[0])
    with pytest.raises(LabError, match="dev.json 第 1 条的问题.*不在 .*qa.jsonl"):
        load_groups(*folders)


def test_missing_probe_file_is_named(folders):
    (folders[2] / "general.jsonl").unlink()
    with pytest.raises(LabError, match="general.jsonl"):
        load_groups(*folders)
    (folders[2] / "general.jsonl").write_text("3\n", encoding="utf-8")
    with pytest.raises(LabError, match="general.jsonl 第 1 行不是 JSON 对象"):
        load_groups(*folders)


@pytest.fixture(scope="session")
def trained(toy_base, tmp_path_factory):
    """toy_base 上的一个适配器：B 矩阵随机，所以开和关的回答不同"""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model, tokenizer = loader.load(toy_base, dtype="float32", device="cpu")
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"])
    tuned = get_peft_model(model, config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    folder = tmp_path_factory.mktemp("lora") / "checkpoint-10"
    tuned.save_pretrained(folder)
    return folder


def test_newest_complete_checkpoint_is_chosen(trained, tmp_path):
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for file in trained.iterdir():
            (tmp_path / f"checkpoint-{step}" / file.name).write_bytes(file.read_bytes())
    assert find_adapter(tmp_path).name == "checkpoint-10"
    weights = tmp_path / "checkpoint-10" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert find_adapter(tmp_path).name == "checkpoint-2"
    assert find_adapter(tmp_path / "checkpoint-2").name == "checkpoint-2"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "缺少 adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json 只写了一半"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "缺少 adapter_model.safetensors"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x"), "已损坏"),
    ],
)
def test_a_broken_adapter_is_explained(trained, tmp_path, damage, words):
    copy = tmp_path / "checkpoint-10"
    copy.mkdir()
    for file in trained.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    damage(copy)
    with pytest.raises(LabError, match=f"{words}.*notebook 02"):
        find_adapter(tmp_path)


def test_no_adapter_at_all(tmp_path):
    with pytest.raises(LabError, match="没有 checkpoint-N.*notebook 02"):
        find_adapter(tmp_path / "没有这个文件夹")


def test_real_model_answers_differ_and_come_back_after_the_switch(trained, tmp_path):
    model, tokenizer = loader.load(trained, dtype="float32", device="cpu")
    options = {"max_new_tokens": 8}
    first = compare(model, tokenizer, GROUPS, tmp_path / "1", **options)
    again = compare(model, tokenizer, GROUPS, tmp_path / "2", **options)
    assert [row["before"] for row in first.rows] != [row["after"] for row in first.rows]
    assert first.rows == again.rows
    with model.disable_adapter():
        base = generate.answer(model, tokenizer, [TRAIN["question"]], max_new_tokens=8)
    assert base == [first.rows[0]["before"]]
    assert all(math.isfinite(s["rouge_l"]) for s in first.after.values())


# —— 中途停下：答过的题不再答第二遍；换了适配器、基座或生成参数，就全部重答 ——

QUESTION = "管几年？"


class Model(torch.nn.Module):
    """一层基座加一层 LoRA"""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(4)
        self.lora_A = torch.nn.Linear(4, 2, bias=False)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def test_answers_survive_a_stop(model, tmp_path):
    KeptAnswers(tmp_path, model, {}).add("before", QUESTION, "管3年。\n第二行")
    KeptAnswers(tmp_path, model, {}).add("after", "几年？", generate.Unfinished("管"))
    again = KeptAnswers(tmp_path, model, {})
    assert len(again) == 2 and isinstance(again.get("after", "几年？"), generate.Unfinished)
    assert not isinstance(again.get("before", QUESTION), generate.Unfinished)
    assert again.get("before", QUESTION) == "管3年。\n第二行"
    assert again.get("after", QUESTION) is None, "微调前的回答不能当微调后的用"


def test_a_line_cut_in_half_is_dropped_and_the_rest_kept(model, tmp_path):
    KeptAnswers(tmp_path, model, {}).add("after", QUESTION, "5年")
    KeptAnswers(tmp_path, model, {}).add("after", "从哪天算？", "当天")
    file = tmp_path / NAME
    file.write_bytes(file.read_bytes()[:-8])
    again = KeptAnswers(tmp_path, model, {})
    assert (again.get("after", QUESTION), again.get("after", "从哪天算？")) == ("5年", None)
    again.add("after", "从哪天算？", "次日")
    assert KeptAnswers(tmp_path, model, {}).get("after", "从哪天算？") == "次日"


@pytest.mark.parametrize("part", ["norm", "lora_A"])
def test_another_base_or_adapter_starts_over(model, tmp_path, part):
    KeptAnswers(tmp_path, model, {}).add("after", QUESTION, "5年")
    with torch.no_grad():
        getattr(model, part).weight[..., 0] += 1
    assert len(KeptAnswers(tmp_path, model, {})) == 0


def test_other_options_start_over_but_a_smaller_batch_does_not(model, tmp_path):
    options = {"max_new_tokens": 64, "batch_size": 8}
    KeptAnswers(tmp_path, model, options).add("after", QUESTION, "5年")
    assert len(KeptAnswers(tmp_path, model, options | {"batch_size": 2})) == 1
    assert len(KeptAnswers(tmp_path, model, options | {"max_new_tokens": 128})) == 0


class PowerCut(Exception):
    pass


class StoppingPeft(Model):
    """第 stop_after 次回答时停电"""

    def __init__(self, stop_after=None):
        torch.manual_seed(0)
        super().__init__()
        self.adapter_on, self.stop_after, self.asked = True, stop_after, []

    @contextmanager
    def disable_adapter(self):
        self.adapter_on = False
        yield
        self.adapter_on = True

    @property
    def in_training(self):
        return self.training


def counting_answer(model, tokenizer, questions, on_answer=None, **generation):
    for place, question in enumerate(questions):
        if len(model.asked) == model.stop_after:
            raise PowerCut
        model.asked.append(question)
        fake_answer(model, tokenizer, [question],
                    on_answer=lambda _, reply, place=place: on_answer(place, reply))
    return []


def test_compare_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(generate, "answer", counting_answer)
    whole = compare(StoppingPeft(), None, GROUPS, tmp_path / "whole")
    total = 2 * sum(map(len, GROUPS.values()))
    with pytest.raises(PowerCut):
        compare(StoppingPeft(stop_after=7), None, GROUPS, tmp_path / "cut")
    capsys.readouterr()
    rest = StoppingPeft()
    result = compare(rest, None, GROUPS, tmp_path / "cut")
    assert "已有 7 个回答" in capsys.readouterr().out.splitlines()[0]
    assert len(rest.asked) == total - 7
    assert result.rows == whole.rows
    assert not (tmp_path / "cut" / NAME).exists(), "写好结果之后不再需要"


def test_full_disk_is_one_sentence(model, tmp_path, monkeypatch):
    kept = KeptAnswers(tmp_path, model, {})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", str(tmp_path / NAME))

    monkeypatch.setattr(type(tmp_path), "open", full)
    with pytest.raises(LabError, match="磁盘满了"):
        kept.add("after", QUESTION, "5年")
