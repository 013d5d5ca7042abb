"""对比中途停下：答过的题不再答第二遍；换了适配器、基座或生成参数，就全部重答"""

from contextlib import contextmanager

import pytest
import torch
from test_evaluation import GROUPS, fake_answer

from labutils.base.errors import LabError
from labutils.comparison.evaluation import compare
from labutils.comparison.kept_answers import NAME, KeptAnswers
from labutils.models import inference

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
    KeptAnswers(tmp_path, model, {}).add("before", [(QUESTION, "管3年。\n第二行")])
    again = KeptAnswers(tmp_path, model, {})
    assert len(again) == 1
    assert again.get("before", QUESTION) == "管3年。\n第二行"
    assert again.get("after", QUESTION) is None, "微调前的回答不能当微调后的用"


def test_a_line_cut_in_half_is_dropped_and_the_rest_kept(model, tmp_path):
    KeptAnswers(tmp_path, model, {}).add("after", [(QUESTION, "5年"), ("从哪天算？", "当天")])
    file = tmp_path / NAME
    file.write_bytes(file.read_bytes()[:-8])
    again = KeptAnswers(tmp_path, model, {})
    assert (again.get("after", QUESTION), again.get("after", "从哪天算？")) == ("5年", None)
    again.add("after", [("从哪天算？", "次日")])
    assert KeptAnswers(tmp_path, model, {}).get("after", "从哪天算？") == "次日"


@pytest.mark.parametrize("part", ["norm", "lora_A"])
def test_another_base_or_adapter_starts_over(model, tmp_path, part):
    KeptAnswers(tmp_path, model, {}).add("after", [(QUESTION, "5年")])
    with torch.no_grad():
        getattr(model, part).weight[..., 0] += 1
    assert len(KeptAnswers(tmp_path, model, {})) == 0


def test_other_options_start_over_but_a_smaller_batch_does_not(model, tmp_path):
    options = {"max_new_tokens": 64, "batch_size": 8}
    KeptAnswers(tmp_path, model, options).add("after", [(QUESTION, "5年")])
    assert len(KeptAnswers(tmp_path, model, options | {"batch_size": 2})) == 1
    assert len(KeptAnswers(tmp_path, model, options | {"max_new_tokens": 128})) == 0


class PowerCut(Exception):
    pass


class FakePeft(Model):
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


def counting_answer(model, tokenizer, questions, on_batch=None, **generation):
    for place, question in enumerate(questions):
        if len(model.asked) == model.stop_after:
            raise PowerCut
        model.asked.append(question)
        fake_answer(model, tokenizer, [question],
                    on_batch=lambda _, replies, place=place: on_batch([place], replies))
    return []


def test_compare_goes_on_where_it_stopped(monkeypatch, tmp_path):
    monkeypatch.setattr(inference, "answer", counting_answer)
    whole = compare(FakePeft(), None, GROUPS, tmp_path / "whole", report=lambda line: None)
    total = 2 * sum(map(len, GROUPS.values()))
    with pytest.raises(PowerCut):
        compare(FakePeft(stop_after=7), None, GROUPS, tmp_path / "cut", report=lambda line: None)
    lines: list[str] = []
    rest = FakePeft()
    result = compare(rest, None, GROUPS, tmp_path / "cut", report=lines.append)
    assert "已有 7 个回答" in lines[0]
    assert len(rest.asked) == total - 7
    assert result.rows == whole.rows
    assert not (tmp_path / "cut" / NAME).exists(), "写好结果之后不再需要"


def test_full_disk_is_one_sentence(model, tmp_path, monkeypatch):
    kept = KeptAnswers(tmp_path, model, {})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", str(tmp_path / NAME))

    monkeypatch.setattr(type(tmp_path), "open", full)
    with pytest.raises(LabError, match="磁盘满了"):
        kept.add("after", [(QUESTION, "5年")])
