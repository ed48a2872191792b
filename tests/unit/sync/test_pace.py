"""How many transfers go side by side."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from kelpie_worker.sync.pace import APART, FIRST, TOGETHER, WINDOW_S, Pace
from kelpie_worker.sync.pool import Priority, TransferPool
from tests.waiting import wait_until


class Machine:
    """A clock, and what this process has computed."""

    def __init__(self, most: int, *, processors: int = 1) -> None:
        self.now = self.cpu = 0.0
        self.pace = Pace(most, processors=processors, clock=lambda: self.now, cpu=lambda: self.cpu)

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


def test_large_parts_may_use_every_processor_and_small_files_one() -> None:
    parts = Machine(50, processors=4)
    assert parts.widths(2, rate=lambda width: width / 0.05, share=2.0) == [2 * FIRST, 4 * FIRST]
    files = Machine(50, processors=4)
    assert set(files.widths(5, rate=lambda width: width / 0.001, share=1.0)) == {FIRST}


def test_transfers_are_together_while_they_are_many_in_a_second() -> None:
    machine = Machine(FIRST)
    seen = []
    between = (APART + TOGETHER) / 2
    for rate in (APART / 2, between, 2 * TOGETHER, between, APART / 2, between):
        machine.widths(3, rate=lambda _, rate=rate: rate)
        seen.append(machine.pace.together)
    assert seen == [False, False, True, True, False, False]


def test_threads_share_a_processor_for_small_tasks_and_leave_it_for_long_ones() -> None:
    every = os.sched_getaffinity(0)
    pool = TransferPool(4, reserve=False)
    lane = pool.lane(Priority.OUTPUT)
    where: list[set[int]] = []

    def small() -> None:
        time.sleep(0.0001)
        where.append(os.sched_getaffinity(0))

    def long() -> None:
        time.sleep(2 / APART * FIRST)
        where.append(os.sched_getaffinity(0))

    for _ in range(2000):
        lane.submit(small)
    assert pool.wait_idle([lane], 20)
    assert {len(each) for each in where[-100:]} == {1}
    assert len(set(map(tuple, where[-100:]))) == 1
    for _ in range(40):
        lane.submit(long)
    assert pool.wait_idle([lane], 20)
    assert where[-1] == every
    assert os.sched_getaffinity(0) == every  # threads of others, such as this one, are left alone
    pool.close(20)


def test_threads_that_begin_later_share_the_same_processor() -> None:
    pool = TransferPool(64, reserve=False)
    lane = pool.lane(Priority.OUTPUT)
    where: list[tuple[int, ...]] = []

    def waits() -> None:  # for a store: so more threads are wanted
        time.sleep(0.005)
        where.append(tuple(os.sched_getaffinity(0)))

    for _ in range(6000):
        lane.submit(waits)
    assert pool.wait_idle([lane], 30)
    assert len(set(where[-200:])) == 1
    assert len(where[-1]) == 1
    pool.close(20)


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
    wait_until(lambda: lane.running == 32, "as many run as may")
    go_on.set()
    pool.close(20)
    assert not lane.queued
