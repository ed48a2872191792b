"""The threads that all transfers of a node share, and who goes first.

Work is handed out one request (a part, a small file) at a time, so that no transfer, however large, keeps a
thread from a more urgent one for longer than one part takes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from enum import IntEnum

import structlog

from kelpie_worker.sync.pace import Pace
from kelpie_worker.sync.processors import Processors

log = structlog.get_logger(__name__)


class Priority(IntEnum):
    """What a transfer is for; a lower number goes first."""

    CHECKPOINT = 0  # changes of the running job
    DOWNLOAD = 1  # inputs of the job about to run
    OUTPUT = 2  # final outputs of earlier jobs, beside the running one


class Lane:
    """The queued work of one job at one priority. Lanes of equal priority take turns."""

    def __init__(self, pool: TransferPool, priority: Priority) -> None:
        self.priority = priority
        self.queued: deque[Callable[[], None]] = deque()
        self.running = 0
        self._pool = pool

    def submit(self, task: Callable[[], None]) -> None:
        """Run ``task`` on a thread of the pool; it must not raise and must not wait for other tasks."""
        self._pool.submit(self, task)


class TransferPool:
    """Up to ``threads`` threads, started as needed; how many of them work at once is the pace's matter.

    Each priority leaves some threads to the more urgent ones: a checkpoint need not wait for a part of last
    job's outputs to end.
    """

    def __init__(self, threads: int, *, reserve: bool = True) -> None:
        """``reserve`` False: there is one kind of transfer only, which may have every thread."""
        self._threads = threads
        self._reserve = max(1, threads // 8) if reserve and threads > 1 else 0
        self._processors = Processors()
        self._pace = Pace(threads, processors=self._processors.count)
        self._limits = self._shares(self._pace.width)
        lock = threading.Lock()
        self._ready = threading.Condition(lock)  # there is work, or room for it
        self._ended = threading.Condition(lock)  # a task has ended
        self._lanes: list[Lane] = []  # with queued work, the one served last at the end
        self._running = dict.fromkeys(Priority, 0)
        self._started: list[threading.Thread] = []
        self._idle = 0
        self._queued = 0
        self._closed = False

    def lane(self, priority: Priority) -> Lane:
        """A new lane; it costs nothing while it is empty."""
        return Lane(self, priority)

    def submit(self, lane: Lane, task: Callable[[], None]) -> None:
        """See :meth:`Lane.submit`."""
        with self._ready:
            if not lane.queued:
                self._lanes.append(lane)
            lane.queued.append(task)
            self._queued += 1
            self._call_for_hands()

    def wait_idle(self, lanes: Collection[Lane], timeout_s: float) -> bool:
        """Wait until the lanes have nothing queued or running; False when they have after the timeout."""
        with self._ended:
            return self._ended.wait_for(
                lambda: not any(lane.queued or lane.running for lane in lanes), timeout_s
            )

    def close(self, timeout_s: float) -> None:
        """Run what is queued, then end the threads; waits up to ``timeout_s`` seconds."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._started:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _shares(self, width: int) -> dict[Priority, int]:
        """How many threads a priority and everything less urgent may have, of ``width`` that work: beside
        those, a few for what is more urgent than outputs; never more than there are."""
        spare = max(1, width // 8) if self._reserve else 0
        return {
            priority: max(
                1,
                min(
                    self._threads - self._reserve * priority.value,
                    width + spare * (Priority.OUTPUT.value - priority.value),
                ),
            )
            for priority in Priority
        }

    def _call_for_hands(self) -> None:
        """Wake or start a thread, holding the lock, if there is a task that it may take."""
        if self._next() is None:
            return
        if self._idle:
            self._ready.notify()
        elif len(self._started) < self._threads and not self._closed:
            # daemon: a connection that hangs must not keep the process from exiting
            thread = threading.Thread(target=self._work, name="transfer", daemon=True)
            self._started.append(thread)
            thread.start()

    def _work(self) -> None:
        together: bool | None = None  # where whoever started this thread is
        while True:
            with self._ready:
                while (lane := self._next()) is None:
                    if self._closed and not self._lanes:
                        return
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
                if self._pace.together is not together:
                    together = self._pace.together
                    (self._processors.share if together else self._processors.spread)()
                task = lane.queued.popleft()
                self._queued -= 1
                self._lanes.remove(lane)
                if lane.queued:
                    self._lanes.append(lane)
                lane.running += 1
                self._running[lane.priority] += 1
                if self._lanes:
                    self._call_for_hands()  # whoever woke us could wake one only
            try:
                task()
            except BaseException:
                log.exception("a transfer task failed unexpectedly")
            with self._ready:
                lane.running -= 1
                self._running[lane.priority] -= 1
                self._ended.notify_all()
                if self._closed and not self._lanes:
                    self._ready.notify_all()  # those who waited for work that will not come
                # this thread takes what may go on now; only a wider pace has work for others
                if self._pace.task_ended(waiting=bool(self._lanes)):
                    self._limits = self._shares(self._pace.width)
                    self._call_for_hands()

    def _next(self) -> Lane | None:
        """The lane to serve: most urgent first, then with the fewest running, then the longest unserved.

        A priority may use its limit of threads counted over itself and everything less urgent.
        """
        best: Lane | None = None
        for lane in self._lanes:
            used = sum(count for priority, count in self._running.items() if priority >= lane.priority)
            if used >= self._limits[lane.priority]:
                continue
            if best is None or (lane.priority, lane.running) < (best.priority, best.running):
                best = lane
        return best
