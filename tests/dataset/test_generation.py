"""出题：存盘、续作、用不了的回复、花费上限、labutils dataset 花钱之前先问；没有密钥就回放。"""

import io
import json
import re
import sys
import threading
import time

import pytest
from fakes.qa_server import CHUNKS, KEY, ONE, PROMPTS, records, serve

from labutils.base.errors import LabError
from labutils.dataset import ask, generation
from labutils.dataset.build import COURSE_PDF
from labutils.dataset.formats import read_pages
from labutils.dataset.generation import Progress, generate
from labutils.dataset.prompts import Chunk, Prompts, chunks
from labutils.dataset.service import find_service


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ask, "FIRST_WAIT", 0.01)


# ---- 存盘与续作 ----

def test_one_call_per_chunk_and_every_reply_saved(tmp_path, monkeypatch, capsys):
    with serve(monkeypatch) as server:
        result = generate(CHUNKS, "出题模型", tmp_path, PROMPTS, concurrency=1)
    assert [p.name for p in result.files] == [f"{i:03d}.txt" for i in range(1, 7)]
    assert result.chunks == CHUNKS and result.failures == []
    assert "第3号事项" in result.files[2].read_text(encoding="utf-8")
    body, key = server.seen[0]
    assert body["model"] == "出题模型" and key == f"Bearer {KEY}" and body["temperature"] == 0.3
    assert body["messages"][1]["content"].startswith("第 1 页，3 对：")
    assert (result.bill.calls, result.bill.input_tokens, result.bill.output_tokens) == (6, 600, 300)
    out = capsys.readouterr().out
    assert "还要调用 6 次" in out and "问成 6 次" in out and KEY not in out


def test_only_what_is_missing_or_changed_is_asked(tmp_path, monkeypatch):
    with serve(monkeypatch) as server:
        generate(CHUNKS[:4], "m", tmp_path, PROMPTS)
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        assert len(server.calls) == 6
        generate([CHUNKS[0], Chunk("第1号事项改了。", (1,)), CHUNKS[1]], "m", tmp_path, PROMPTS)
        assert len(server.calls) == 7  # 中间插了一块，别的块不受影响
        generate(CHUNKS, "另一个模型", tmp_path, PROMPTS)
        assert len(server.calls) == 13
        generate(CHUNKS, "m", tmp_path, Prompts("改了", PROMPTS.user, chars_per_fact=100))
        assert len(server.calls) == 19


def test_identical_chunks_are_paid_once(tmp_path, monkeypatch):
    with serve(monkeypatch) as server:
        result = generate([CHUNKS[0], CHUNKS[0]], "m", tmp_path, PROMPTS)
    assert len(server.calls) == 1 and len(result.files) == 2


def test_torn_last_line_is_tolerated_and_asked_again(tmp_path, monkeypatch, capsys):
    with serve(monkeypatch) as server:
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        path = tmp_path / "responses" / "progress.jsonl"
        path.write_bytes(path.read_bytes()[:-40])
        assert len(generate(CHUNKS, "m", tmp_path, PROMPTS).files) == 6
        assert len(server.calls) == 7 and "1 行没写完" in capsys.readouterr().out
        generate(CHUNKS, "m", tmp_path, PROMPTS)
        assert len(server.calls) == 7


def test_finished_run_needs_no_key_and_no_server(tmp_path, monkeypatch):
    with serve(monkeypatch):
        generate(CHUNKS, "m", tmp_path, PROMPTS)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert len(generate(CHUNKS, "m", tmp_path, PROMPTS).files) == 6


def test_concurrency_is_bounded(tmp_path, monkeypatch):
    with serve(monkeypatch, delay=0.1) as server:
        generate(CHUNKS, "m", tmp_path, PROMPTS, concurrency=3)
    assert 2 <= server.most_active <= 3


def test_unanswerable_go_to_their_own_files(tmp_path, monkeypatch):
    with serve(monkeypatch, content='{"pairs": [{"question": "电话？", "answer": "没有写明"}]}'):
        result = generate(CHUNKS, "m", tmp_path, PROMPTS, unanswerable=5)
    assert [p.name for p in result.unanswerable_files] == ["unanswerable-001.txt", "unanswerable-004.txt"]
    assert len(result.files) == 6


def test_two_runs_in_one_folder_do_not_pay_twice(tmp_path, monkeypatch):
    with serve(monkeypatch, delay=0.5) as server:
        first = threading.Thread(target=generate, args=(CHUNKS, "m", tmp_path, PROMPTS))
        first.start()
        while not server.calls:
            time.sleep(0.01)
        with pytest.raises(LabError, match="另一个程序正在"):
            generate(CHUNKS, "m", tmp_path, PROMPTS)
        first.join()
    assert len(server.calls) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="要用 /dev/full")
def test_disk_full_is_one_sentence_and_stops_paying(tmp_path, monkeypatch):
    opened = Progress.__enter__

    def full(self):
        opened(self)
        self._file.close()
        self._file = open("/dev/full", "ab", buffering=0)
        return self

    with serve(monkeypatch) as server:
        generate(CHUNKS[:2], "m", tmp_path, PROMPTS)
        monkeypatch.setattr(Progress, "__enter__", full)
        with pytest.raises(LabError, match="磁盘满了.*progress.jsonl.*腾出空间后再运行"):
            generate(CHUNKS, "m", tmp_path, PROMPTS, concurrency=1)
        assert len(server.calls) == 3  # 存不下，就不再问下一块
    assert len(records(tmp_path)) == 2


# ---- 用不了的回复 ----

@pytest.mark.parametrize("content", ['{"pairs": [{"conversations": [{"role": "user", "con',
                                     "", "抱歉，我不能。", '{"questions": ["甲"]}'])
def test_unusable_reply_is_asked_again_but_not_for_ever(tmp_path, monkeypatch, content):
    with serve(monkeypatch, content=content) as server:
        with pytest.raises(LabError, match="一块也没有问成.*问了 3 次.*--retry-failed"):
            generate(ONE, "m", tmp_path, PROMPTS)
        assert len(server.calls) == 3 and len(records(tmp_path)) == 4
        with pytest.raises(LabError, match="一块也没有问成"):
            generate(ONE, "m", tmp_path, PROMPTS)
        assert len(server.calls) == 3  # 付过钱的失败，不说就不再付
        server.content = None
        assert len(generate(ONE, "m", tmp_path, PROMPTS, retry_failed=True).files) == 1
        assert len(server.calls) == 4
    assert (tmp_path / "responses" / "failures.jsonl").read_bytes() == b""


def test_half_a_reply_is_kept_when_asking_again_does_not_help(tmp_path, monkeypatch):
    whole = {"question": "几天办完？", "answer": "十一天。"}
    half = json.dumps({"pairs": [whole, whole]}, ensure_ascii=False)[:-12]
    with serve(monkeypatch, content=half) as server:
        result = generate(ONE, "m", tmp_path, PROMPTS)
    assert len(server.calls) == 3 and len(result.files) == 1 and result.failures == []


def test_reply_cut_at_the_length_limit_is_asked_once_more_with_a_limit(tmp_path, monkeypatch):
    with serve(monkeypatch, content='{"pairs": [{"conver', finish="length") as server:
        with pytest.raises(LabError, match="长度上限"):
            generate(ONE, "m", tmp_path, PROMPTS)
    assert [body.get("max_tokens") for body, _ in server.seen] == [None, 4096]


def test_nothing_to_ask_is_an_answer(tmp_path, monkeypatch):
    with serve(monkeypatch, content='{"pairs": []}') as server:
        assert len(generate(ONE, "m", tmp_path, PROMPTS).files) == 1
    assert len(server.calls) == 1


def test_retry_failed_asks_nothing_else(tmp_path, monkeypatch, capsys):
    with serve(monkeypatch, script=[400, 400, 400]) as server:
        result = generate(CHUNKS[:3], "m", tmp_path, PROMPTS, concurrency=1)
        assert [f["chunk"] for f in result.failures] == [1] and "失败 1 次" in capsys.readouterr().out
        before = len(server.calls)
        result = generate(CHUNKS, "m", tmp_path, PROMPTS, retry_failed=True)
        assert len(server.calls) == before + 1 and len(result.files) == 3
    saved = (tmp_path / "responses" / "failures.jsonl").read_text(encoding="utf-8")
    assert saved == ""

def test_retry_failed_with_nothing_failed_before_says_so(tmp_path, monkeypatch):
    with serve(monkeypatch) as server:
        with pytest.raises(LabError, match="没有失败的块.*请去掉 --retry-failed.*再运行"):
            generate(ONE, "m", tmp_path, PROMPTS, retry_failed=True)
        assert len(server.calls) == 0
        assert len(generate(ONE, "m", tmp_path, PROMPTS).files) == 1


# ---- 钱 ----

PRICED = """
shop: {title: 店, base_url: URL, key_env: OPENAI_API_KEY, model: m, currency: 元,
       prices: {m: {input: 1000, output: 2000}}}
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """一个有价格的预设：每次调用 100 × 1000 + 50 × 2000（每百万）＝ 0.2 元。"""
    with serve(monkeypatch) as server:
        path = tmp_path / "presets.yaml"
        path.write_text(PRICED.replace("URL", server.url), encoding="utf-8")
        monkeypatch.setattr(generation, "find_service",
                            lambda preset, model: find_service(preset, model, path))
        yield server


def test_estimate_above_the_limit_stops_before_any_call(tmp_path, shop):
    with pytest.raises(LabError, match=r"估算 约 [\d.]+ 元，超过上限 0.1，还没有调用，没有花钱"):
        generate(CHUNKS, "", tmp_path, PROMPTS, preset="shop", max_cost=0.1)
    assert shop.calls == []


def test_confirmed_estimate_goes_on_and_money_is_reported(tmp_path, shop, capsys):
    asked = []
    generate(CHUNKS, "", tmp_path, PROMPTS, preset="shop", max_cost=0.1,
             confirm=lambda problem: asked.append(problem) or True)
    assert len(shop.calls) == 6 and asked[0].endswith("超过上限 0.1。")
    assert re.search(r"估算：6 次调用.*元", out := capsys.readouterr().out)
    assert "实际：6 次调用，输入 600、输出 300 个 token，约 1.2 元" in out


def test_refused_estimate(tmp_path, shop):
    with pytest.raises(LabError, match="没有花钱"):
        generate(CHUNKS, "", tmp_path, PROMPTS, preset="shop", max_cost=0.1, confirm=lambda q: False)
    assert shop.calls == []


def test_actual_cost_above_the_limit_stops_and_keeps_what_came(tmp_path, shop, monkeypatch):
    monkeypatch.setattr("labutils.dataset.service.OUTPUT_TOKENS_PER_PAIR", 1)  # 估算远低于实际
    few = Prompts("", "{{文本}}")
    with pytest.raises(LabError, match="已花约 0.8 元，超过上限 0.7.*已收到的回复都在"):
        generate(CHUNKS, "", tmp_path, few, preset="shop", max_cost=0.7, concurrency=1)
    assert len(shop.calls) == 4
    generate(CHUNKS, "", tmp_path, few, preset="shop", max_cost=0.7, concurrency=1)
    assert len(shop.calls) == 6


def test_limit_without_a_price(tmp_path, monkeypatch):
    with serve(monkeypatch) as server, pytest.raises(LabError, match="价格没有填.*api_presets.yaml"):
        generate(CHUNKS, "m", tmp_path, PROMPTS, max_cost=1)
    assert server.calls == []


def test_usage_missing_is_guessed_and_said(tmp_path, monkeypatch, capsys):
    with serve(monkeypatch, usage=False):
        generate(CHUNKS, "m", tmp_path, PROMPTS)
    assert "其中 6 次服务器没有报用量" in capsys.readouterr().out


# ---- 命令行 ----

PAGES = read_pages(COURSE_PDF)
EVIDENCE = next(line for line in PAGES[1].text.splitlines() if len(line) > 30 and "。" in line)[:30]
REPLY = json.dumps({"pairs": [
    {"conversations": [{"role": "user", "content": question}, {"role": "assistant", "content": EVIDENCE}],
     "fact_id": "F01", "key_points": [EVIDENCE[:8]], "page": 2, "evidence": EVIDENCE}
    for question in ("第三批通知的教学摘编写了些什么？", "请背出摘编里打头的那一句。")]
    + [{"question": "评审专家的补贴是多少钱？", "answer": "评审专家的补贴，材料没有写明。"}]},
    ensure_ascii=False)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def command(call, tmp_path):
    return lambda *options: call("dataset", "--api-model", "m", "--out", str(tmp_path), *options)


def test_unknown_price_needs_a_yes(command, monkeypatch, capsys, tmp_path):
    with serve(monkeypatch, content=REPLY) as server:
        assert command() == 1
        assert "价格没有填" in (error := capsys.readouterr().err) and "--yes" in error
        assert error.count("\n") == 1 and server.calls == []
        monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
        assert command() == 1 and server.calls == []
        assert command("--yes", "--unanswerable", "3") == 0
    out = capsys.readouterr().out
    assert "估算：" in out and "实际：" in out and KEY not in out
    assert len(server.calls) == len(chunks(PAGES, 400, 50)) + 1
    saved = (tmp_path / "data" / "unanswerable_train.jsonl").read_text(encoding="utf-8")
    row = {"question": "评审专家的补贴是多少钱？", "answer": "评审专家的补贴，材料没有写明。"}
    assert json.loads(saved) == {"id": "N03", **row, "key_points": ["没有写明"]}
    assert "没有写明" not in (tmp_path / "data" / "train.json").read_text(encoding="utf-8")


def test_own_document_without_a_key_is_told_the_ways_on(call, tmp_path, capsys, monkeypatch):
    """第一次用：只换了文档，既没有密钥也没有自己的问答。"""
    text = "# 借阅办法\n\n图书馆每周开放六天。借书期限是三十天。\n"
    (tmp_path / "mine.md").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    assert call("dataset", "mine.md", "--out", "mine") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--preset" in error and "--qa" in error
    assert call("dataset", "mine.md", "--out", "mine", "--preset", "deepseek") == 1
    assert "没有设置环境变量 DEEPSEEK_API_KEY" in capsys.readouterr().err
    assert (tmp_path / "mine" / "rejected.jsonl").is_file()  # 就在当前文件夹里


def test_saying_yes_in_a_terminal(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    with serve(monkeypatch, content=REPLY) as server:
        assert command() == 0 and server.calls
    assert "没法按金额控制。继续吗？ [y/N]" in "".join(capsys.readouterr())


def test_only_the_failed_again(command, monkeypatch, capsys):
    with serve(monkeypatch, content=REPLY, script=[400] * 3) as server:
        assert command("--yes", "--concurrency", "1") == 0
        assert "--retry-failed" in capsys.readouterr().out
        before = len(server.calls)
        assert command("--yes", "--retry-failed") == 0
        assert len(server.calls) == before + 1


def test_unknown_preset(command, capsys):
    assert command("--preset", "没有这家") == 1
    assert "没有预设 没有这家" in capsys.readouterr().err
