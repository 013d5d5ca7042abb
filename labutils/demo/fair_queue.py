"""先来先答的队：同时最多答几个，其余排队，排满了就请人晚点再来。讲解见 notebook 04。"""

import threading
from collections import deque
from collections.abc import Callable

from labutils.base.errors import LabError


class FairQueue:
    """slots 个位置，最多 limit 个人等；threading.Semaphore 不保证先来后到，所以自己排。"""

    def __init__(self, slots: int, limit: int):
        self.slots, self.limit = slots, limit
        self._active, self._waiting = 0, deque()
        self._changed = threading.Condition()

    def enter(self, stop: threading.Event, told: Callable[[int], None] = lambda ahead: None) -> bool:
        """排到了返回 True，用完要调用 leave；等的时候 stop 被设置则返回 False。

        前面的人数每次变化都告诉 told。队排满时引发 LabError。
        """
        ticket = self._join()
        ahead = None
        while not stop.is_set():
            with self._changed:
                if self._first(ticket):
                    self._waiting.remove(ticket)
                    self._active += 1
                    self._changed.notify_all()
                    return True
                now = self._waiting.index(ticket)
                if now == ahead:
                    self._changed.wait(0.1)
                    continue
            told(ahead := now)  # 在锁外面说，免得挡住别人
        with self._changed:
            self._waiting.remove(ticket)
            self._changed.notify_all()
        return False

    def leave(self) -> None:
        with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def _join(self) -> object:
        ticket = object()
        with self._changed:
            if self._active >= self.slots and len(self._waiting) >= self.limit:
                raise LabError(f"现在问的人太多，已经有 {self.limit} 个问题在排队，请过一会儿再问。")
            self._waiting.append(ticket)
        return ticket

    def _first(self, ticket: object) -> bool:
        return self._active < self.slots and self._waiting[0] is ticket
