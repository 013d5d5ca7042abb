"""网页接兼容 OpenAI 接口的服务器：逐段显示、能停、出错一句话、密钥不外露。服务器是真的，跑在本机。"""


import pytest
from fakes.openai_fake import ANSWER, KEY, MODEL, running
from fakes.web_fakes import free_port
from gradio_client import Client

from labutils.base.errors import LabError
from labutils.base.text import Cut
from labutils.demo import server as web_server
from labutils.demo.endpoint import Endpoint
from labutils.demo.engine import AFTER, DEFAULTS, ChatEngine, Stop, Streams, generation_options

QUESTION = [{"role": "user", "content": "有效期多久？"}]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def answer(endpoint, **options):
    return list(endpoint.stream(QUESTION, Stop(), **options))


def test_answer_arrives_piece_by_piece_without_the_leading_blank_line():
    with running() as server:
        pieces = answer(Endpoint(server.url, MODEL), max_new_tokens=7, do_sample=False)
    assert "".join(pieces) == ANSWER.strip() and len(pieces) == len(ANSWER.strip())
    assert server.seen[0] == {"model": MODEL, "messages": QUESTION, "stream": True,
                              "max_tokens": 7, "temperature": 0.0}


def test_settings_of_the_page_reach_the_server():
    with running() as server:
        answer(Endpoint(server.url, MODEL), **generation_options(64, 0.7, 0.8, 1.1))
    body = server.seen[0]
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (64, 0.7, 0.8)
    assert body["repetition_penalty"] == 1.1


def test_stop_hangs_up():
    with running(delay=0.05) as server:
        stop, pieces = Stop(), []
        for piece in Endpoint(server.url, MODEL).stream(QUESTION, stop):
            pieces.append(piece)
            stop.set()
        assert len(pieces) == 1 and server.sent < len(ANSWER)


@pytest.mark.parametrize(
    ("step", "words"),
    [(401, "不认这个密钥（401）"), (403, "权限（403）"), (404, f"没有模型 {MODEL}（404）"), (400, "对话太长"),
     (429, "太频繁"), (500, "出错（500）"), ("cut", "中途断了"), ("html", "没有按 OpenAI 的格式")],
)
def test_errors_are_one_sentence_without_the_key(step, words):
    with running(script=[step] * 3) as server, pytest.raises(LabError) as caught:
        answer(Endpoint(server.url, MODEL))
    text = str(caught.value)
    assert words in text and KEY not in text and "\n" not in text and text.endswith("。")


def event(finish=None, **delta):
    return {"choices": [{"delta": delta, "finish_reason": finish}]}


HALF, END = event(content="有效期五"), event("stop")
LIMIT, FILTER = "（到了上限 128 个词元，没有说完）", "（服务器的内容审核拦下了后面的话，没有说完）"
BROKEN, NOTHING = "（服务器中途断了，没有说完）", "（模型什么也没有回答）"


@pytest.mark.parametrize(("step", "said", "cut"), [
    ([HALF, event("length")], "有效期五", LIMIT), ([HALF, event("content_filter")], "有效期五", FILTER),
    ([HALF, event("insufficient_system_resource")], "有效期五", BROKEN), ([HALF], "有效期五", BROKEN),
    ([event(content=None, reasoning_content="五年。"), END], "五年。", None),
    ([event(reasoning="想"), HALF, END], "有效期五", None),
    ([event(reasoning="想"), event("length")], "想", LIMIT),
    ([event(content=[{"type": "text", "text": "五年"}]), END], "五年", None),
    ([event(refusal="不能"), event("stop")], "不能", None), ([event(role="assistant"), END], "", NOTHING),
    ([HALF, END, {"choices": [], "usage": None}], "有效期五", None),
    ([{"type": "ping"}, HALF, END, {"choices": None, "usage": {"prompt_tokens": 1}}], "有效期五", None),
    ([event(content=[{"type": "thinking", "text": "想"}, {"type": "text", "text": "五年"}]), END],
     "五年", None),
    ([event(content=[{"type": "refusal", "refusal": "不能"}]), event("stop")], "不能", None),
    ([event(content="五\u2028年\x85"), END], "五\u2028年\x85", None),
    ({"choices": [{"message": {"content": "五年"}, "finish_reason": "stop"}]}, "五年", None),
    ({"choices": [{"message": {"content": "五年"}}]}, "五年", None),
])
def test_where_the_answer_is_and_why_it_is_cut(step, said, cut):
    with running(script=[step]) as server:
        pieces = answer(Endpoint(server.url, MODEL))
    cuts = [piece for piece in pieces if isinstance(piece, Cut)]
    assert cuts == ([cut] if cut else []) and pieces[-1:] == (cuts or pieces[-1:])
    assert "".join(piece for piece in pieces if not isinstance(piece, Cut)) == said


@pytest.mark.parametrize(("step", "words"), [
    ([{"error": {"message": "context length exceeded", "code": 400}}], "文字太长（400）"),
    ([HALF, {"error": {"message": "boom", "code": 500}}], "中途断了"),
    ([HALF, {"error": {"message": "Rate limit reached"}}], "太频繁"),
    ({"error": {"message": "insufficient balance", "code": "x"}}, "余额不足"),
    ({"code": 30001, "message": "账户余额不足"}, "余额不足（30001）"), ([], "没有按 OpenAI 的格式"),
    ({"output": {"text": "五年"}}, "没有按 OpenAI 的格式"), ({"detail": "Not authenticated"}, "不认这个密钥"),
])
def test_error_inside_http_200(step, words):
    with running(script=[step]) as server, pytest.raises(LabError, match=words):
        answer(Endpoint(server.url, MODEL))


def test_page_does_not_wait_for_retry_after():
    with running(script=[429]) as server, pytest.raises(LabError, match="服务器要求过 60 秒再问"):
        answer(Endpoint(server.url, MODEL))
    assert len(server.seen) == 1


def test_slow_server_times_out():
    with running(script=["slow"] * 3) as server, pytest.raises(LabError, match="超时"):
        answer(Endpoint(server.url, MODEL, timeout=0.1))


def test_nothing_listening():
    with pytest.raises(LabError, match="连不上 127.0.0.1.*--endpoint"):
        answer(Endpoint(f"http://127.0.0.1:{free_port()}", MODEL))


@pytest.mark.parametrize(
    ("url", "base"),
    [("http://host:8000", "http://host:8000/v1/"), ("host:8000/", "http://host:8000/v1/"),
     ("https://host/api/v3/", "https://host/api/v3/")],
)
def test_address_may_be_short(url, base):
    assert str(Endpoint(url, MODEL).client.base_url) == base


@pytest.mark.parametrize("url", [
    "ftp://host", "http://", "://", "http://127.0.0.1:8000v1", "http://[::1/v1", "http://192.168..1",
    "http://host:99999", "http://192.168.1.999"])
def test_wrong_address(url):
    with pytest.raises(LabError, match="--endpoint 的地址写得不对"):
        Endpoint(url, MODEL)


def test_check_names_what_the_server_has(capsys):
    with running(models=("甲", "乙")) as server:
        Endpoint(server.url, MODEL).check()  # 列的可能是文件路径或别名，真没有的话提问时会说
    assert "有的是 甲、乙" in capsys.readouterr().out
    with running(models=(f"{MODEL}:latest",)) as server:
        Endpoint(server.url, MODEL).check()
    assert capsys.readouterr().out == ""
    with running(models_code=401) as server, pytest.raises(LabError, match="401"):
        Endpoint(server.url, MODEL).check()


@pytest.mark.parametrize("setting", [{}, {"models": ()}, {"models_code": 404}])
def test_check_passes_where_the_list_is_missing_or_empty(setting):
    with running(**setting) as server:
        Endpoint(server.url, MODEL).check()


def test_key_is_optional_and_comes_from_the_environment_only(monkeypatch):
    with running() as server:
        Endpoint(server.url, MODEL).check()
        monkeypatch.delenv("OPENAI_API_KEY")
        Endpoint(server.url, MODEL).check()
    assert server.keys == [f"Bearer {KEY}", "Bearer none"]


def test_badly_copied_key_is_not_blamed_on_the_address(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-你的密钥")
    with pytest.raises(LabError, match="OPENAI_API_KEY 里的密钥.*重新复制") as caught:
        Endpoint("http://host", MODEL)
    assert "sk-" not in str(caught.value)


def test_only_one_mode():
    endpoint = Endpoint("http://host", MODEL)
    engine = ChatEngine(endpoint, None, Streams(endpoint.stream, endpoint.parallel))
    assert engine.modes == [AFTER] and engine.limit() is None
    assert engine.fit(QUESTION, 10_000) == (QUESTION, [], 0)


def test_page_streams_from_the_server():
    with running(delay=0.02) as server:
        endpoint = Endpoint(server.url, MODEL)
        demo = web_server.launch(endpoint, None, stream=endpoint.stream, parallel=endpoint.parallel)
        try:
            client = Client(demo.url, verbose=False)
            job = client.submit("有效期多久？", AFTER, api_name="/chat")
            assert job.result(timeout=60) == ANSWER.strip()
            assert len(job.outputs()) > 5  # 真的是逐段到的
        finally:
            demo.close()
    assert server.seen[0]["max_tokens"] == DEFAULTS["max_new_tokens"]


def test_page_says_that_another_server_answers():
    from labutils.demo.page import title_block

    text = title_block(Endpoint("http://host", "<b>名"), has_adapter=False)
    assert "另一台服务器" in text and "&lt;b&gt;名" in text


# ---- 命令 ----

def test_command_opens_the_page_without_loading_a_model(monkeypatch, call, capsys):
    opened = {}

    def launch(model, tokenizer, **options):
        opened.update(options, model=model)
        raise KeyboardInterrupt

    monkeypatch.setattr(web_server, "launch", launch)
    with running() as server:
        arguments = ["--endpoint", server.url, "--model", MODEL, "--port", str(free_port())]
        assert call("demo", *arguments) == 130
    assert opened["model"].name == MODEL and opened["parallel"] == 32
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err


def test_command_reports_errors_in_one_sentence(call, capsys):
    port = str(free_port())
    dead = f"http://127.0.0.1:{free_port()}"
    for arguments, words in ((["--endpoint", dead], "一起写"), (["--model", "m"], "一起写"),
                             (["tiny", "--endpoint", dead, "--model", "m"], "不能再写检查点"),
                             (["--endpoint", dead, "--model", "m", "--port", port], "连不上")):
        assert call("demo", *arguments) == 1
        error = capsys.readouterr().err.strip()
        assert words in error and len(error.splitlines()) == 1
