"""How many transfers go side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kelpie_worker.sync.pace import FIRST, WINDOW_S, Pace
from kelpie_worker.sync.pool import Priority, TransferPool


class Machine:
    """A clock, and what this process has computed."""

    def __init__(self, most: int) -> None:
        self.now = self.cpu = 0.0
        self.pace = Pace(most, clock=lambda: self.now, cpu=lambda: self.cpu)

    def widths(self, windows: int, *, rate: Callable[[int], float], share: float = 0.1) -> list[int]:
        """Those after each window, of a store that ends ``rate(width)`` transfers a second."""
        found = []
        for _ in range(windows):
            width = self.pace.width
            tasks = max(width, round(rate(width) * 1.1 * WINDOW_S))
            for _ in range(tasks):
                self.now += 1 / rate(width)
                self.cpu += share / rate(width)
                self.pace.task_ended(waiting=True)
            found.append(self.pace.width)
        return found


def test_a_store_that_is_waited_for_gets_more_transfers_up_to_the_limit() -> None:
    far = Machine(50)
    assert far.widths(6, rate=lambda width: width / 0.03) == [2 * FIRST, 4 * FIRST, 8 * FIRST, 50, 50, 50]


def test_a_store_that_ends_no_more_of_them_gets_as_few_as_before() -> None:
    loaded = Machine(64)
    widths = loaded.widths(1000, rate=lambda width: 400.0)
    assert set(widths) == {FIRST, 2 * FIRST}
    assert widths[:2] == [2 * FIRST, FIRST]
    assert widths.count(2 * FIRST) < 12  # in a minute: trials get rarer
    # it may get well: then the next trial is not the last
    assert loaded.widths(500, rate=lambda width: width / 0.03)[-1] == 64


def test_a_busy_process_and_an_empty_queue_get_no_more() -> None:
    busy = Machine(50)
    assert set(busy.widths(5, rate=lambda width: width / 0.03, share=1.0)) == {FIRST}
    idle = Machine(50)
    for _ in range(100):
        idle.now += WINDOW_S
        assert not idle.pace.task_ended(waiting=False)


def test_a_pool_begins_as_many_tasks_as_wait_for_the_store() -> None:
    pool = TransferPool(32, reserve=False)
    lane = pool.lane(Priority.OUTPUT)
    go_on, together = threading.Event(), threading.Semaphore(0)
    quick = threading.Event()

    def task() -> None:
        together.release()
        (go_on if quick.is_set() else quick).wait(0.05 if not quick.is_set() else 20)

    for _ in range(400):
        lane.submit(task)
    for _ in range(200):  # each takes 50 ms and computes nothing
        assert together.acquire(timeout=20)
    quick.set()
    for _ in range(32):
        assert together.acquire(timeout=20)
    assert lane.running == 32
    go_on.set()
    pool.close(20)
    assert not lane.queued
