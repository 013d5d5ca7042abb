"""一份 40 页的 PDF、一台故意捣乱的服务器：全部问成，不慢，被杀十次也不重复付钱，密钥不外露。

服务器是真的，跑在本机；五分之一的块会遇到 429、500、慢、断线、空回复、网页、截断、格式不对、
重复或没有根据的问答（见 qa_server）。
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zhplot
from fakes.qa_server import KEY, LASTING, TEMPORARY, fault_of, generate_in_child, long_text, serve
from fpdf import FPDF

from labutils.dataset.build import collect
from labutils.dataset.formats import read_pages
from labutils.dataset.generation import generate
from labutils.dataset.prompts import chunks, load_prompts, qa_requests
from labutils.dataset.rows import load_qa

pytestmark = pytest.mark.slow

FONT = next((Path(zhplot.__file__).parent / "fonts").rglob("*.ttf"))
SHARE = 0.2
PROMPTS = load_prompts()


@pytest.fixture(scope="module")
def pdf(tmp_path_factory):
    document = FPDF()
    document.add_font("zh", fname=FONT)
    document.set_font("zh", size=10)
    for text in long_text():
        document.add_page()
        document.multi_cell(0, 6, text)
    path = tmp_path_factory.mktemp("pdf") / "long.pdf"
    document.output(path)
    return path


@pytest.fixture(scope="module")
def pages(pdf):
    return read_pages(pdf)


@pytest.fixture(scope="module")
def pieces(pages):
    found = chunks(pages, PROMPTS.chunk_size, PROMPTS.chunk_overlap)
    assert len(pages) == 40 and 110 <= len(found) <= 130
    faults = [fault_of(piece.text, SHARE) for piece in found]
    assert 0.15 <= sum(map(bool, faults)) / len(found) <= 0.25
    assert set(faults) - {""} == set(TEMPORARY + LASTING)  # 每一种毛病都有
    return found


def environment(server):
    return {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url, "OPENAI_LOG": "debug",
            "PYTHONUTF8": "1", "no_proxy": "127.0.0.1"}


def final_set(result, pages):
    texts = [path.read_text(encoding="utf-8") for path in result.files]
    return collect(texts, pages, pieces=result.chunks).rows


def test_misbehaving_server_every_chunk_done_in_time(tmp_path, pdf, pages, pieces):
    concurrency, delay, share = 4, 0.3, cpu_share()
    with serve(share=SHARE, delay=delay, retry_after="0.2") as server:
        done = subprocess.run(
            [sys.executable, "-m", "labutils", "dataset", str(pdf), "--out", str(tmp_path), "--api-model",
             "m", "--concurrency", str(concurrency), "--yes"],
            env=environment(server), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    asked = {call["text"] for call in server.calls}
    assert asked == {piece.text for piece in pieces} and server.most_active == concurrency
    assert (tmp_path / "responses" / "failures.jsonl").read_bytes() == b""
    rows = load_qa(tmp_path / "data" / "qa.jsonl")
    assert len(rows) == 2 * 40 * 27  # 每个事项两种问法，一条不少，重复的、没有根据的都不在
    assert not any("没有根据" in row["question"] for row in rows)
    rejected = (tmp_path / "data" / "rejected.jsonl").read_text(encoding="utf-8")
    assert "没有根据的问题" in rejected
    assert leaks(done.stdout + done.stderr, tmp_path) == []
    took = max(c["end"] for c in server.calls) - min(c["start"] for c in server.calls)
    ideal = len(pieces) * delay / concurrency  # 120 次、一次也不出错
    print(f"用了 {took:.2f} 秒，理想 {ideal:.2f} 秒，{took / ideal:.2f} 倍；分到 CPU 的 {share:.0%}")
    if min(share, cpu_share()) < 0.5:
        pytest.skip(f"机器太忙，只分到 CPU 的 {share:.0%}，时间测不准（其余都检查过了）")
    assert took <= 1.5 * ideal


def cpu_share():
    """这个进程想用 CPU 时分得到几成：机器闲时约 100%。"""
    start, work = time.monotonic(), time.process_time()
    while time.process_time() - work < 0.1:
        pass
    return 0.1 / (time.monotonic() - start)


def leaks(output, folder):
    """哪里出现了密钥。"""
    files = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    return files + (["输出"] if KEY in output else [])


def finished_in(progress):
    """进度文件里已经有可用回复的块；最后可能有半行。"""
    records = []
    for line in progress.read_bytes().split(b"\n") if progress.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return {r["chunk"] for r in records if r.get("final")}


def start(server, source, out):
    """另一个进程里的 generate；从已经导入好的进程分出来，不必每次重新导入。"""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=generate_in_child, args=(server.url, str(source), str(out)))
    process.start()
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="Windows 没有 SIGKILL")
def test_killed_ten_times_equals_an_undisturbed_run(tmp_path, pages, pieces, monkeypatch):
    with serve(monkeypatch, share=SHARE, retry_after="0.05"):
        undisturbed = final_set(generate(pieces, "m", tmp_path / "calm", PROMPTS, concurrency=8), pages)
    hash_of = {request.chunk.text: request.chunk_hash for request in qa_requests(pieces, PROMPTS)}
    source, progress = tmp_path / "chunks.json", tmp_path / "killed" / "responses" / "progress.jsonl"
    source.write_text(json.dumps([[p.text, p.pages] for p in pieces]), encoding="utf-8")
    lost = []  # 每次被杀时，服务器答完了、客户端没来得及存下的块
    with serve(share=SHARE, delay=0.2, retry_after="0.1") as server:
        for _ in range(10):
            before = len(server.calls)
            process = start(server, source, tmp_path / "killed")
            while len(server.calls) == before:
                assert process.is_alive()
                time.sleep(0.005)
            time.sleep(random.uniform(0.02, 0.6))
            process.kill()  # SIGKILL：来不及做任何收尾
            process.join()
            assert process.exitcode == -signal.SIGKILL
            while server.active:  # 等服务器答完手上的
                time.sleep(0.01)
            done = finished_in(progress)
            new = {hash_of[c["text"]] for c in server.calls[before:] if c["paid"]}
            lost.append(new - done)
            assert len({hash_of[c["text"]] for c in server.calls[before:]} - done) <= 8  # 只有正在路上的
        assert finished_in(progress) != set(hash_of.values()), "十次都没杀完就做完了，测不出什么"
        before, done = len(server.calls), finished_in(progress)
        process = start(server, source, tmp_path / "killed")
        process.join(120)
        assert process.exitcode == 0
        assert not done & {hash_of[c["text"]] for c in server.calls[before:]}  # 存下的一块也没有再问
    check_paid_once(server, pieces, lost, hash_of)
    with serve(monkeypatch) as idle:
        result = generate(pieces, "m", tmp_path / "killed", PROMPTS)
        assert idle.calls == []
    assert final_set(result, pages) == undisturbed and len(undisturbed) == 2 * 40 * 27


def check_paid_once(server, pieces, lost, hash_of):
    """每一块付钱的次数：不捣乱时一次；回复用不了的多一次；此外只多出被杀时正在路上的。"""
    extra = {hash_of[piece.text]: 0 for piece in pieces}
    for text, times in server.paid().items():
        unusable = fault_of(text, SHARE) in ("truncated", "wrong_schema", "empty", "html")
        extra[hash_of[text]] = times - 1 - unusable
    in_flight = {name: sum(name in names for names in lost) for name in extra}
    print("被杀时正在路上的：", [len(names) for names in lost], "多付的次数：", sum(extra.values()))
    assert all(extra[name] <= in_flight[name] for name in extra)

