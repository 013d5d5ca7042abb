"""服务预设与费用：写错说得出来，没有密钥、密钥写坏说得出来，价格没填不装作知道。"""

import pytest

from labutils.base.errors import LabError
from labutils.dataset.prompts import Chunk, load_prompts, qa_requests, unanswerable_requests
from labutils.dataset.service import (
    Price,
    Service,
    count_tokens,
    estimate_cost,
    find_service,
    load_presets,
    make_client,
)


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_shipped_presets():
    assert set(load_presets()) == {"openai", "zhipu", "deepseek", "qwen", "ollama", "vllm"}
    for name in ("zhipu", "deepseek", "qwen", "ollama", "openai"):
        assert find_service(name).base_url.startswith("http")
    assert find_service("ollama").price == Price(0, 0, "元") and find_service("ollama").key_env == ""
    assert find_service("qwen").price is None  # 没有填，就不装作知道
    assert find_service("deepseek", "别的模型").price is None
    assert find_service("deepseek").price.date


@pytest.mark.parametrize(
    ("preset", "model", "reason"),
    [("vllm", "", "没有说用 vllm 的哪个模型"), ("", "", "没有说用 .* 的哪个模型"),
     ("没有这个", "m", "没有预设 没有这个.*deepseek")])
def test_what_is_missing_is_named(preset, model, reason):
    with pytest.raises(LabError, match=reason):
        find_service(preset, model)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a: 甲", "应是一组"), ("a: {base_url: 'ftp://x'}", "http"), ("a: {url: x}", "不认识的键 url"),
     ("a: {base_url: 'http://x', prices: [1, 2]}", "prices 应是一组"),
     ("a: {base_url: 'http://x', extra_body: 不思考}", "extra_body 应是一组"),
     ("a: {base_url: 'http://x', prices: {m: 3}}", "每百万 token"),
     ("a: {base_url: 'http://x', prices: {m: {input: -1, output: 2}}}", "每百万 token")])
def test_bad_preset_file(tmp_path, content, reason):
    path = tmp_path / "presets.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LabError, match=f"presets.yaml 的 a.*{reason}"):
        load_presets(path)


@pytest.mark.parametrize("key", [
    "sk-hidden-123456", "sk_hidden0123456789abcdef", "0a1b2c3d.hidden", "ahidden0123456789abcdef", "中文"])
def test_key_in_place_of_the_variable_is_not_shown(tmp_path, key):
    path = tmp_path / "presets.yaml"
    path.write_text(f"a: {{base_url: 'http://x', key_env: {key}}}", encoding="utf-8")
    with pytest.raises(LabError, match="a 的 key_env 应是环境变量的名字") as caught:
        make_client(find_service("a", "m", path))
    assert key not in str(caught.value)


def test_preset_may_be_called_by_a_number(tmp_path):
    path = tmp_path / "presets.yaml"
    path.write_text("1: {base_url: 'http://x'}", encoding="utf-8")
    assert find_service("1", "m", path).base_url == "http://x"


def test_environment_still_works(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    service = find_service("", "m")
    assert (service.base_url, service.price) == ("http://127.0.0.1:9/v1", None)
    assert make_client(service).api_key == "none"  # 自己架的服务可以不设密钥


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000v1", "http://[::1/v1", "sk-hidden-123456"])
def test_wrong_address_in_the_environment(monkeypatch, url):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(LabError, match="OPENAI_BASE_URL 写得不对") as caught:
        find_service("", "m")
    assert url not in str(caught.value)


@pytest.mark.parametrize(("preset", "name"), [("", "OPENAI_API_KEY"), ("deepseek", "DEEPSEEK_API_KEY")])
def test_no_key(preset, name):
    with pytest.raises(LabError, match=f"{name}.*现成的问答"):
        make_client(find_service(preset, "m"))


@pytest.mark.parametrize("key", ["sk-你的密钥", "sk-a b", "sk-a\nb"])
def test_badly_copied_key_is_not_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(LabError, match="重新复制") as caught:
        make_client(find_service("", "m"))
    assert key not in str(caught.value)


def test_service_does_not_hold_the_key(monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-hidden-123456")
    service = find_service("deepseek")
    assert make_client(service).api_key == "sk-hidden-123456" and "sk-hidden" not in repr(service)
    assert isinstance(service, Service)


def test_tokens_and_estimate():
    assert count_tokens("") == 0 and count_tokens("学分，共8") == 5 and count_tokens("a" * 10) == 3
    prompts, chunks = load_prompts(), [Chunk("字" * 380, (1,)), Chunk("字" * 95, (2,))]
    bill = estimate_cost(qa_requests(chunks, prompts), Price(2, 8, "元"))
    assert bill.output_tokens == (4 + 1) * 3 * 150 and bill.input_tokens > 475
    assert bill.money == pytest.approx((bill.input_tokens * 2 + bill.output_tokens * 8) / 1e6)
    more = estimate_cost(unanswerable_requests(chunks, 4, prompts), None)
    assert more.output_tokens == 4 * 150 and more.money is None and "没有填" in str(more)
