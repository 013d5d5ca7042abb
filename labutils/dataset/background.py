"""在另一个线程里跑异步的活：notebook 里已经有一个事件循环，命令行里没有，这样写两边都能用。

Ctrl-C（notebook 里是 ■）按一次：不再发新请求，等已经发出的回来；再按一次立刻停。
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine


class Stopped(Exception):
    """要求停下了，等待提前结束。"""


class StopSign:
    """停下的信号；raised 可以在任何线程里看，sleep 在事件循环里用。"""

    def __init__(self) -> None:
        self.raised = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self._task: asyncio.Task | None = None

    def attach(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()

    def set(self) -> None:
        self.raised = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._event.set)

    def cancel(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def sleep(self, seconds: float) -> None:
        """睡 seconds 秒；要求停下时立刻醒来，引发 Stopped。"""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            pass
        if self.raised:
            raise Stopped


def run(work: Callable[[StopSign], Coroutine]) -> None:
    """跑完 work(停下的信号)；它引发的异常原样引发，按了 Ctrl-C 就在收尾之后引发 KeyboardInterrupt。"""
    stop, errors, finished = StopSign(), [], threading.Event()

    async def attached() -> None:
        stop.attach()
        await work(stop)

    def body() -> None:
        try:
            asyncio.run(attached())
        except BaseException as error:  # noqa: BLE001  交给主线程引发
            errors.append(error)
        finally:
            finished.set()

    threading.Thread(target=body, daemon=True).start()
    if _wait(finished, stop):
        raise KeyboardInterrupt
    if errors:
        raise errors[0]


def _wait(finished: threading.Event, stop: StopSign) -> int:
    """等活干完，返回按了几次 Ctrl-C。

    不用 Thread.join：Python 3.11 的 join 被 Ctrl-C 打断后，会误以为线程已经结束。
    """
    presses = 0
    while not finished.is_set():
        try:
            finished.wait(0.1)
        except KeyboardInterrupt:
            presses += 1
            if presses == 1:
                stop.set()
                print("\n正在收尾：不再发新的请求，等已经发出的回来（再按一次 Ctrl-C 立刻停）……", flush=True)
            else:
                stop.cancel()
    return presses
