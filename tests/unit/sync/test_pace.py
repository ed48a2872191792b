"""How many transfers go side by side."""

from __future__ import annotations

import threading

from kelpie_worker.sync.pace import FIRST, WINDOW_S, Pace
from kelpie_worker.sync.pool import Priority, TransferPool


class Machine:
    """A clock, and what this process has computed."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0

    def pass_window(self, share: float) -> None:
        self.now += 1.5 * WINDOW_S
        self.cpu += share * 1.5 * WINDOW_S


def paced(most: int) -> tuple[Pace, Machine]:
    machine = Machine()
    return Pace(most, clock=lambda: machine.now, cpu=lambda: machine.cpu), machine


def test_a_store_that_is_waited_for_gets_more_transfers_up_to_the_limit() -> None:
    pace, machine = paced(50)
    widths = []
    for _ in range(6):
        machine.pass_window(0.1)
        pace.task_ended(waiting=True)
        widths.append(pace.width)
    assert widths == [2 * FIRST, 4 * FIRST, 8 * FIRST, 50, 50, 50]


def test_a_busy_process_and_an_empty_queue_get_no_more() -> None:
    pace, machine = paced(50)
    machine.pass_window(1.0)
    assert not pace.task_ended(waiting=True)
    machine.now += WINDOW_S / 10
    assert not pace.task_ended(waiting=False)  # once within the window nothing waited
    machine.pass_window(0.0)
    assert not pace.task_ended(waiting=True)
    assert pace.width == FIRST


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
