"""让几边同时回答，合成一串“到现在为止”的快照。讲解见 notebook 04。"""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

from labutils.demo.web_chat import ChatEngine

PACE = 0.05  # 秒。同一个页面不必刷新得更快，省下的时间给模型
TICK = 0.5   # 秒。没有新东西也要醒一次，看看读者还在不在


@dataclass(frozen=True)
class Snapshot:
    """texts：每边到现在为止的回答；ahead：前面还有几个人在排队，没有排队时是 None。"""

    texts: dict[str, str] = field(default_factory=dict)
    ahead: int | None = None


def together(engine: ChatEngine, asked: dict[str, list[dict]], stop: threading.Event,
             **options) -> Iterator[Snapshot]:
    """asked 里的几边同时回答；内容有变化就给一个快照，长时间没变化时重复给同一个。

    哪一边出错就引发它的错误。关掉这个生成器会设置 stop，几边都停下来。
    """
    events: queue.SimpleQueue = queue.SimpleQueue()
    for side, messages in asked.items():
        threading.Thread(target=_pump, args=(engine, side, messages, stop, options, events),
                         daemon=True).start()
    shown, running = Snapshot(), len(asked)
    try:
        while running:
            for event in _take(events):
                running -= event[1] == "end"
                shown = _apply(shown, *event)
            yield shown
            time.sleep(PACE if running else 0)
    finally:
        stop.set()


def _take(events: queue.SimpleQueue) -> list[tuple]:
    """等到至少一件事，连同已经攒下的一起取走；等得太久时是空的。"""
    try:
        taken = [events.get(timeout=TICK)]
    except queue.Empty:
        return []
    while not events.empty():
        taken.append(events.get())
    return taken


def _apply(shown: Snapshot, side: str, kind: str, value) -> Snapshot:
    if kind == "error":
        raise value
    if kind == "wait":
        return replace(shown, ahead=value)
    if kind == "text":
        return Snapshot(shown.texts | {side: shown.texts.get(side, "") + value})
    return shown


def _pump(engine, side, messages, stop, options, events) -> None:
    """在自己的线程里把一边的回答搬进 events。"""
    try:
        with closing(engine.reply(messages, side, stop, lambda n: events.put((side, "wait", n)),
                                  **options)) as pieces:
            for piece in pieces:
                events.put((side, "text", piece))
    except Exception as error:  # 线程里的错误带回去再抛
        events.put((side, "error", error))
    else:
        events.put((side, "end", None))
