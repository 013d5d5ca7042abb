# 04_web_demo 的参考答案与隐藏测试：solution 换掉答题格，hidden 接在检查格后面。
# ruff: noqa: F821 名字来自 notebook

# %% solution 04-pairs
def pairs(text):
    for start in range(0, len(text), 2):
        yield text[start:start + 2]

# %% hidden 04-pairs-check
for text in ("", "教", "教育", "教育大模型", "一二三四五六七"):
    given = pairs(text)
    assert hasattr(given, "__next__"), "不是生成器"
    given = list(given)
    assert "".join(given) == text and [len(piece) for piece in given[:-1]] == [2] * (len(given) - 1), given
    assert len(given) == (len(text) + 1) // 2, given

# %% solution 04-stop
my_stop_guess = "B"

# %% hidden 04-stop-check
assert str(my_stop_guess).strip().upper() == "B"

# %% solution 04-temperature
my_temperature = 0.4

# %% hidden 04-temperature-check
assert 0.90 <= (torch.tensor([2.0, 1.0, 0.0]) / my_temperature).softmax(-1)[0].item() <= 0.95

# %% solution 04-undo
def undo(history):
    return history[:-2]

# %% hidden 04-undo-check
for count in range(4):
    talked = [{"role": role, "content": f"{role}{n}"} for n in range(count) for role in ("user", "assistant")]
    given = list(talked)
    assert undo(given) == talked[:max(0, 2 * count - 2)] and given == talked, count

# %% solution 04-page
def make_page(answer):
    def ask(message, history):
        history = [*history, {"role": "user", "content": message}]
        for text in answer(message):
            yield [*history, {"role": "assistant", "content": text}]

    with gr.Blocks() as blocks:
        chatbot, box = gr.Chatbot(), gr.Textbox()
        send, clear = gr.Button("发送"), gr.Button("清空历史对话")
        send.click(ask, [box, chatbot], chatbot, api_name="ask")
        clear.click(lambda: [], None, chatbot, api_name="clear")
    return blocks

# %% hidden 04-page-check
graded = make_page(echo)
kinds = [type(block) for block in graded.blocks.values()]
assert gr.Chatbot in kinds and gr.Textbox in kinds
labels = {block.value for block in graded.blocks.values() if isinstance(block, gr.Button)}
assert {"发送", "清空历史对话"} <= labels
graded.launch(prevent_thread_lock=True, inline=False, quiet=True)
try:
    visitor = Client(graded.local_url, verbose=False)
    before = [{"role": role, "content": [{"type": "text", "text": role}]} for role in ("user", "assistant")]
    asking = visitor.submit("学分", before, api_name="/ask")
    ended = [(part["role"], part["content"][0]["text"]) for part in asking.result()]
    assert ended == [("user", "user"), ("assistant", "assistant"), ("user", "学分"),
                     ("assistant", "你说的是：学分")], ended
    seen = {step[-1]["content"][0]["text"] for step in asking.outputs()}
    assert {"你", "你说"} & seen and len(seen) >= 3, seen
    assert visitor.predict(api_name="/clear") == []
finally:
    graded.close(verbose=False)
