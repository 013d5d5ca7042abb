"""labutils dataset 请大模型出题：花钱之前问一句，不在终端里就说要加什么；只补失败的；另出“没有写明”的。"""

import io
import json
import sys

import pytest
from fakes.qa_server import KEY, serve

from labutils.dataset import ask as requests
from labutils.dataset.build import COURSE_PDF
from labutils.dataset.clean import chunks
from labutils.dataset.formats import read_pages

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
def ask(call, monkeypatch, tmp_path):
    monkeypatch.setattr(requests, "FIRST_WAIT", 0.01)
    return lambda *options: call("dataset", "--api-model", "m", "--out", str(tmp_path), *options)


def test_unknown_price_needs_a_yes(ask, monkeypatch, capsys, tmp_path):
    with serve(monkeypatch, content=REPLY) as server:
        assert ask() == 1
        assert "价格没有填" in (error := capsys.readouterr().err) and "--yes" in error
        assert error.count("\n") == 1 and server.calls == []
        monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
        assert ask() == 1 and server.calls == []
        assert ask("--yes", "--unanswerable", "3") == 0
    out = capsys.readouterr().out
    assert "估算：" in out and "实际：" in out and KEY not in out
    assert len(server.calls) == len(chunks(PAGES, 400, 50)) + 1
    saved = (tmp_path / "data" / "unanswerable_train.jsonl").read_text(encoding="utf-8")
    assert json.loads(saved) == {"id": "N01", "question": "评审专家的补贴是多少钱？",
                                 "answer": "评审专家的补贴，材料没有写明。"}
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


def test_saying_yes_in_a_terminal(ask, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    with serve(monkeypatch, content=REPLY) as server:
        assert ask() == 0 and server.calls
    assert "没法按金额控制。继续吗？ [y/N]" in "".join(capsys.readouterr())


def test_only_the_failed_again(ask, monkeypatch, capsys):
    with serve(monkeypatch, content=REPLY, script=[400] * 3) as server:
        assert ask("--yes", "--concurrency", "1") == 0
        assert "--retry-failed" in capsys.readouterr().out
        before = len(server.calls)
        assert ask("--yes", "--retry-failed") == 0
        assert len(server.calls) == before + 1


def test_unknown_preset(ask, capsys):
    assert ask("--preset", "没有这家") == 1
    assert "没有预设 没有这家" in capsys.readouterr().err
