"""启动、分享、关闭网页，以及真的走一遍 HTTP 的程序接口。"""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import httpx
import pytest
from fakes.web_fakes import (
    ANSWER,
    CUT,
    AdapterModel,
    CharTokenizer,
    FakeStream,
    PlainModel,
    free_port,
    wait_for,
)
from gradio_client import Client
from gradio_client.exceptions import AppError, AuthenticationError

from labutils.base import files
from labutils.base.errors import LabError
from labutils.dataset import checks
from labutils.dataset.build import DOWN, UP, read_pairs
from labutils.dataset.rows import load_qa
from labutils.demo import events, server
from labutils.demo.events import Feedback, Sources, examples
from labutils.models import loader


def launch(model=None, stream=None, **options):
    return server.launch(model or AdapterModel(), CharTokenizer(),
                           stream=stream or FakeStream(), **options)


@pytest.fixture
def demo():
    """启动好的网页；每次问答的记录在 demo.stream.calls 里。"""
    stream = FakeStream(delay=0.01)
    page = launch(stream=stream)
    page.stream = stream
    yield page
    page.close()


@pytest.fixture
def client(demo):
    return Client(demo.url, verbose=False)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("JUPYTERHUB_SERVICE_PREFIX", "LAB_DEMO_AUTH", "GRADIO_ROOT_PATH", "GRADIO_SHARE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.fixture
def busy_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


# ---- 程序接口 ----


def test_api_answers_and_streams(demo, client):
    assert client.predict("你好", api_name="/chat") == "后：" + ANSWER
    pieces = list(client.submit("你好", "微调前", api_name="/chat"))
    assert len(set(pieces)) > 5 and pieces[-1] == "前：" + ANSWER
    assert all(pieces[-1].startswith(piece) for piece in pieces)
    assert demo.stream.calls[-1]["do_sample"] is False


def test_api_compares_both_sides(client):
    said = client.predict("说：好", "并排对比", api_name="/chat")
    assert said == "【微调前】前：好\n【微调后】后：好"


def test_api_says_what_is_not_finished(client):
    assert client.predict("说：没完", api_name="/chat") == "后：没完" + CUT
    both = client.predict("说：没完", "并排对比", api_name="/chat")
    assert both == f"【微调前】前：没完{CUT}\n【微调后】后：没完{CUT}"


def test_api_passes_history(demo, client):
    history = [{"role": "user", "content": "甲"}, {"role": "assistant", "content": "乙"}]
    client.predict("丙", "微调后", history, api_name="/chat")
    assert [m["content"] for m in demo.stream.calls[-1]["messages"]] == ["甲", "乙", "丙"]


def test_only_chat_is_public(client):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/chat"]


@pytest.mark.parametrize("question, said", [
    ("", "请先输入问题"), ("长" * 3000, "超过上限 2000 个字"), ("长" * 500, "超过模型的上限 512"),
    ("坏", "假的错误"), ("崩", "RuntimeError"),
])
def test_errors_reach_the_user_in_chinese(client, question, said):
    with pytest.raises(AppError, match=said) as caught:
        client.predict(question, api_name="/chat")
    assert "内部细节" not in str(caught.value)
    assert client.predict("说：还能用", api_name="/chat") == "后：还能用"


def test_unknown_mode_is_refused(client):
    with pytest.raises(AppError, match="不能用“随便”"):
        client.predict("你好", "随便", api_name="/chat")


def test_cancelled_job_stops_the_model():
    stream = FakeStream(delay=0.05)
    demo = launch(stream=stream)
    client = Client(demo.url, verbose=False)
    job = client.submit("说：" + "长" * 200, api_name="/chat")
    next(iter(job))
    job.cancel()
    assert client.predict("说：下一个", api_name="/chat") == "后：下一个"
    wait_for(lambda: stream.closed == 2)
    demo.close()


def test_plain_model_works_without_switch():
    demo = launch(PlainModel())
    client = Client(demo.url, verbose=False)
    assert client.predict("说：好", api_name="/chat") == "后：好"
    with pytest.raises(AppError, match="有适配器的模型才分微调前后"):
        client.predict("说：好", "微调前", api_name="/chat")
    assert "没有加载 LoRA 适配器" in httpx.get(demo.url).text
    demo.close()


# ---- 启动与关闭 ----


def test_launching_again_closes_the_first_page_and_frees_its_port():
    port = free_port()
    first = launch(port=port)
    second = launch(port=port)
    assert second.url == first.url == f"http://127.0.0.1:{port}"
    assert httpx.get(second.url).status_code == 200
    second.close()
    second.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(second.url)
    assert server.check_port("127.0.0.1", port) == port


def test_with_closes_the_page_even_after_an_error():
    with pytest.raises(ZeroDivisionError), launch(port=free_port()) as demo:
        assert httpx.get(demo.url).status_code == 200
        raise ZeroDivisionError
    with pytest.raises(httpx.ConnectError):
        httpx.get(demo.url)


def test_next_port_is_taken_when_the_first_is_busy(busy_port):
    found = next(server.free_ports("127.0.0.1", range(busy_port, busy_port + 50)))
    assert busy_port < found < busy_port + 50
    with pytest.raises(LabError, match="都打不开"):
        next(server.free_ports("127.0.0.1", range(busy_port, busy_port + 1)))


def test_port_taken_by_a_neighbour_while_the_page_opens_is_left_to_him(busy_port, monkeypatch):
    free = free_port()
    monkeypatch.setattr(server, "free_ports", lambda host, ports: iter([busy_port, free]))
    with launch() as demo:
        assert demo.url.endswith(f":{free}") and httpx.get(demo.url).status_code == 200


def test_port_is_chosen_when_not_given():
    demo = launch(port=0)
    assert int(demo.url.rsplit(":", 1)[1]) in server.NOTEBOOK_PORTS
    demo.close()


def test_busy_port_is_one_clear_sentence(busy_port):
    with pytest.raises(LabError, match=f"端口 {busy_port} .*换一个端口") as caught:
        launch(port=busy_port)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host, port, said", [
    ("127.0.0.1", 70000, "端口 70000 不对"), ("127.0.0.1", -1, "端口 -1 不对"),
    ("no.such.host.invalid", 8080, "地址 no.such.host.invalid 不对"),
    ("192.168..1", 8080, "地址 192.168..1 不对"),
])
def test_bad_address_is_explained(host, port, said):
    with pytest.raises(LabError, match=said):
        server.check_port(host, port)


@pytest.mark.parametrize("host", ["192.168.1.999", "192.168..1"])
def test_bad_address_is_not_called_a_busy_port(host):
    with pytest.raises(LabError, match=f"地址 {host} 不对"):
        next(server.free_ports(host, server.NOTEBOOK_PORTS))


def test_page_is_reachable_only_from_this_machine(demo):
    assert demo.url.startswith("http://127.0.0.1:")
    assert demo.auth is None and demo.share_url is None


def test_demo_never_shows_its_password(capsys):
    demo = launch(auth=("student", "s3cret-word"))
    assert "s3cret-word" not in repr(demo) + capsys.readouterr().out
    assert httpx.get(demo.url + "/config").status_code == 401
    with pytest.raises(AuthenticationError):
        Client(demo.url, verbose=False)
    client = Client(demo.url, auth=("student", "s3cret-word"), verbose=False)
    assert client.predict("说：好", api_name="/chat") == "后：好"
    demo.close()


def test_opening_to_the_network_generates_a_password_once(capsys):
    demo = launch(server_name="0.0.0.0")
    out = capsys.readouterr().out
    user, password = demo.auth
    assert user == "student" and len(password) >= 12 and out.count(password) == 1
    assert "局域网" in out
    assert httpx.get(demo.url + "/config").status_code == 401
    demo.close()


@pytest.mark.parametrize("auth", [("", "x"), ("student", ""), ("student",)])
def test_incomplete_auth_is_refused(auth):
    with pytest.raises(LabError, match="登录信息不完整"):
        launch(auth=auth)


def test_root_path_inside_jupyterhub(monkeypatch, capsys):
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/张三/")
    demo = launch()
    port = demo.url.rsplit(":", 1)[1]
    assert demo.blocks.root_path == f"/user/张三/proxy/{port}"
    assert "jupyter-server-proxy" in capsys.readouterr().out
    client = Client(demo.url, verbose=False)
    assert client.predict("说：好", api_name="/chat") == "后：好"
    demo.close()


def test_inline_page_follows_the_hub_path(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    demo = launch(inline=True)
    assert shown[0].src == demo.url
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/a/")
    demo = launch(inline=True)
    assert shown[1].src == f"/user/a/proxy/{demo.url.rsplit(':', 1)[1]}/"
    demo.close()


def test_proxy_settings_do_not_break_the_local_page(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.invalid")
    demo = launch()
    assert Client(demo.url, verbose=False).predict("说：好", api_name="/chat") == "后：好"
    assert os.environ["NO_PROXY"].startswith("example.invalid,")
    demo.close()


# ---- 分享 ----


def _no_tunnel(**options):
    raise OSError("假装连不上外网")


@pytest.mark.parametrize("binary_exists, said", [(False, "frpc 没有下载成功"), (True, "连不上")])
def test_blocked_share_link_is_explained(monkeypatch, capsys, tmp_path, binary_exists, said):
    binary = tmp_path / "frpc"
    if binary_exists:
        binary.write_bytes(b"")
    monkeypatch.setattr("gradio.blocks.BINARY_PATH", binary)
    monkeypatch.setattr("gradio.networking.setup_tunnel", _no_tunnel)
    demo = launch(share=True)
    out = capsys.readouterr().out
    assert demo.share_url is None
    assert said in out and "0.0.0.0" in out and "本机照常可用" in out
    assert "Could not create" not in out and str(tmp_path) not in out
    client = Client(demo.url, auth=demo.auth, verbose=False)
    assert client.predict("说：好", api_name="/chat") == "后：好"
    demo.close()


def test_share_link_is_printed_and_needs_a_password(monkeypatch, capsys):
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **o: "http://abc.example.invalid")
    demo = launch(share=True)
    assert demo.share_url == "https://abc.example.invalid"
    assert demo.auth and demo.share_url in capsys.readouterr().out
    demo.close()


# ---- 命令行 ----


def test_serve_checks_the_port_before_loading(monkeypatch, busy_port):
    def load(*names):
        raise AssertionError("端口不可用时不该载入模型")

    monkeypatch.setattr(loader, "load", load)
    with pytest.raises(LabError, match=f"端口 {busy_port}"):
        server.serve("tiny", port=busy_port)


def test_serve_loads_what_it_is_told_and_reads_the_password(monkeypatch):
    seen = []
    monkeypatch.setattr(loader, "load", lambda name: seen.append(name) or (name + "模型", name))
    monkeypatch.setattr(server, "launch", lambda *a, **o: seen.append((a, o)) or _Stopped())
    monkeypatch.setenv("LAB_DEMO_AUTH", "teacher:a:b")
    monkeypatch.setattr(server.threading, "Event", _Interrupted)
    server.serve("甲", "乙", port=free_port(), root_path="/demo")
    assert seen[:2] == ["甲", "乙"]
    arguments, options = seen[2]
    assert arguments == ("甲模型", "乙")
    assert options["root_path"] == "/demo" and options["auth"] == ("teacher", "a:b")


def test_bad_rows_of_the_data_are_left_out(tmp_path, capsys):
    good = {"question": "有效期是多久？", "answer": "五年。", "page": 3, "evidence": "有效期五年"}
    talk = [{"role": role, "content": "你好"} for role in ("user", "assistant") * 2]
    bad = [{"answer": "五年。"}, {"conversations": talk}, good | {"page": "某"}, good | {"evidence": [5]}]
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [good, *bad]), encoding="utf-8")
    rows = server._rows(str(path))
    assert examples(rows) == ["有效期是多久？"]
    assert "第 3 页" in Sources(rows).show("有效期是多久？", "五年。")
    assert "4 条不合格，没有用，例如：缺少问题" in capsys.readouterr().out


class _Stopped:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class _Interrupted:
    def wait(self):
        raise KeyboardInterrupt


def test_bad_auth_variable_is_explained(monkeypatch):
    monkeypatch.setenv("LAB_DEMO_AUTH", "只有用户名")
    with pytest.raises(LabError, match="LAB_DEMO_AUTH"):
        server.serve("tiny", port=free_port())


@pytest.mark.skipif(os.name == "nt", reason="Windows 没有 SIGINT 可发给子进程")
@pytest.mark.slow
def test_serve_answers_until_interrupted(toy_base):
    port = free_port()
    code = f"from labutils.demo import server; server.serve({str(toy_base)!r}, port={port})"
    process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, encoding="utf-8")
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl+C" in line:
                break
        assert "Ctrl+C" in lines[-1], "".join(lines)
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        assert isinstance(client.predict("你好", api_name="/chat"), str)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert "网页已关闭" in process.stdout.read()
    finally:
        process.kill()


@pytest.fixture(scope="module")
def rows():
    return load_qa(files.DATA / "qa.jsonl")


def test_right_answers_find_their_own_page(rows):
    found = 0
    for i in range(0, len(rows), 3):  # 去掉这一条自己，用同一事实的别的问法去找
        row = rows[i]
        hit = Sources(rows[:i] + rows[i + 1:]).find(row["question"], row["answer"])
        found += hit is not None and hit["fact_id"] == row["fact_id"]
    assert found / len(rows[::3]) >= 0.9


@pytest.mark.parametrize("name, at_least", [("probes/general", 1.0), ("unanswerable_test", 0.95)])
def test_what_the_document_does_not_say_gets_no_source(rows, name, at_least):
    probes = load_qa(files.DATA / f"{name}.jsonl")
    known = Sources(rows)
    none = [known.find(p.get("question") or p["messages"][-1]["content"], p["answer"]) is None
            for p in probes]
    assert sum(none) / len(none) >= at_least


def test_page_and_evidence_are_shown_as_text():
    row = {"question": "有效期多久", "answer": "五年。", "page": 3, "evidence": "有效期<b>五年</b>"}
    shown = Sources([row]).show("有效期多久", "五年。")
    assert "第 3 页" in shown and "&lt;b&gt;五年&lt;/b&gt;" in shown
    assert "文件中没有" in Sources([row]).show("今天天气怎么样", "晴。")
    assert "文件中没有" in Sources([row]).show("有效期多久", "有效期，材料没有写明。")


def test_nothing_to_search_shows_nothing():
    assert Sources([]).show("问", "答") == ""
    assert Sources([{"question": "问", "answer": "答"}]).show("问", "答") == ""  # 没有页码和证据


def test_examples_are_short_questions_of_different_facts(rows):
    picked = examples(rows)
    facts = {row["question"]: row["fact_id"] for row in rows}
    assert len(picked) == 5 == len({facts[question] for question in picked})
    assert all(len(question) <= 40 for question in picked)
    assert examples([]) == [] and examples([{"question": "只有一个"}]) == ["只有一个"]


# ---- 评价与改正 ----


def to_pairs(path):
    return [{"question": row["question"], "answer": row["answer"]} for row in read_pairs(path)]


@pytest.fixture
def feedback(tmp_path):
    return Feedback(tmp_path / "新建" / "feedback.jsonl")


def test_feedback_becomes_pairs(feedback):
    feedback.save("有效期多久？", "三年。", "微调后", vote=DOWN)
    feedback.save("有效期多久？", "三年。", "微调后", correction="一流本科课程的有效期是五年。")
    feedback.save("分哪几类？", "分为五类。", "微调后", vote=UP)
    feedback.save("谁主管？", "不知道。", "微调前", vote=DOWN)
    pairs = to_pairs(feedback.path)
    assert pairs == [{"question": "有效期多久？", "answer": "一流本科课程的有效期是五年。"},
                     {"question": "分哪几类？", "answer": "分为五类。"}]
    good, bad = checks.validate(pairs, require_evidence=False)
    assert len(good) == 2 and not bad


def test_the_last_word_counts(feedback):
    feedback.save("分哪几类？", "分为五类。", "微调后", vote=UP)
    feedback.save("分哪几类?", "分为五类。", "微调后", vote=DOWN)
    assert to_pairs(feedback.path) == []
    feedback.save("分哪几类？", "分为五类。", "微调后", correction="分为五类：线上、线下等。")
    assert to_pairs(feedback.path)[0]["answer"].endswith("等。")


def test_strange_text_survives_and_stays_on_one_line(feedback):
    text = '<script>\n"引号"\\ \u2028 👍 \ud800'
    feedback.save(text, "答", "微调后", vote=UP)
    feedback.save("第二条", "答", "微调后", vote=UP)
    lines = feedback.path.read_bytes().split(b"\n")
    assert len(lines) == 3 and json.loads(lines[0])["question"].startswith("<script>")
    assert len(to_pairs(feedback.path)) == 2


def test_many_writers_lose_nothing(feedback):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: feedback.save(f"第{i}问", "答" * 300, "微调后", vote=UP), range(200)))
    assert len(to_pairs(feedback.path)) == 200


def test_a_vote_after_half_a_line_begins_a_new_line(feedback):
    feedback.save("第一问", "答", "微调后", vote=UP)
    with feedback.path.open("ab") as file:
        file.write('{"question": "断'.encode())
    feedback.save("第二问", "答", "微调后", vote=UP)
    with pytest.raises(LabError, match="第 2 行"):
        to_pairs(feedback.path)
    lines = feedback.path.read_bytes().splitlines(keepends=True)
    feedback.path.write_bytes(lines[0] + lines[2])  # 照提示删掉那半行，别的都在
    assert [pair["question"] for pair in to_pairs(feedback.path)] == ["第一问", "第二问"]


def test_size_is_bounded(feedback, monkeypatch):
    with pytest.raises(gr.Error, match="超过上限 2000"):
        events.Page(None, None, feedback).correct("长" * 2001, "微调后", {}, None)
    monkeypatch.setattr(events, "MAX_BYTES", 300)
    feedback.save("问", "答", "微调后", vote=UP)
    with pytest.raises(LabError, match="已经写满"):
        for _ in range(5):
            feedback.save("问", "答", "微调后", vote=UP)
    assert feedback.path.stat().st_size <= 300


def test_unwritable_place_is_explained(tmp_path):
    (tmp_path / "文件").write_text("")
    with pytest.raises(LabError, match="没有保存下来"):
        Feedback(tmp_path / "文件" / "feedback.jsonl").save("问", "答", "微调后", vote=UP)


@pytest.mark.parametrize("line", ['{"question": "问"}', "[1]", '{"question": 1, "model_answer": "", '
                                  '"vote": "", "correction": ""}'])
def test_bad_line_is_named(tmp_path, line):
    path = tmp_path / "feedback.jsonl"
    good = {"question": "问", "model_answer": "答", "vote": "up", "correction": ""}
    path.write_text(json.dumps(good) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(LabError, match="第 2 行不是网页写的反馈"):
        to_pairs(path)
