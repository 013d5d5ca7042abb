"""排队：先来先答，知道前面有几个人，等不及可以走，排满了明说。"""

import threading
import time

import pytest

from labutils.base.errors import LabError
from labutils.demo.engine import FairQueue


def start(queue, stop, order, name, told):
    def work():
        if queue.enter(stop, told.append):
            order.append(name)
            queue.leave()

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.05)  # 保证先来后到
    return thread


def test_first_come_first_served_and_positions_are_told():
    queue, order, told = FairQueue(1, 10), [], [[] for _ in range(5)]
    assert queue.enter(threading.Event())
    threads = [start(queue, threading.Event(), order, i, told[i]) for i in range(5)]
    queue.leave()
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3, 4]
    assert [said[0] for said in told] == [0, 1, 2, 3, 4]
    assert all(said == sorted(said, reverse=True) for said in told)


def test_leaving_the_line_lets_the_next_one_in():
    queue, order, stop = FairQueue(1, 10), [], threading.Event()
    assert queue.enter(threading.Event())
    threads = [start(queue, stop, order, "走了", []), start(queue, threading.Event(), order, "还在", [])]
    stop.set()
    threads[0].join(10)
    queue.leave()
    threads[1].join(10)
    assert order == ["还在"]


def test_full_line_is_refused_but_a_free_place_never_is():
    queue = FairQueue(2, 0)
    assert queue.enter(threading.Event()) and queue.enter(threading.Event())
    with pytest.raises(LabError, match="问的人太多"):
        queue.enter(threading.Event())
    queue.leave()
    assert queue.enter(threading.Event())
