"""Who waits for a job in this process, and who is woken when some come. Knows no Redis."""

from __future__ import annotations

import threading

QueueName = tuple[str, str]
"""User and container group: a queue may be waited for before its first job gives it a number."""


class Waiter:
    """One poll that waits."""

    def __init__(self, queue: QueueName) -> None:
        self.queue = queue
        self.event = threading.Event()
        self.asked = 0  # the last wake before this poll last asked for a job
        self.chosen_by = 0  # the wake that this poll was chosen for since then; 0: none


class Waiters:
    """Wakes as many waiting polls as jobs came.

    Wakes are numbered. A poll that was woken and found nothing that it may have, though jobs wait, passes the
    wake on to one that has not asked since that wake; so each wake makes every poll ask once, at most, and is
    forgotten then, or once no job waits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A line holds its polls in the order in which they last asked: first those that a wake may choose.
        self._lines: dict[QueueName, dict[Waiter, None]] = {}
        self._last_wake = 0

    def ask(self, waiter: Waiter) -> int:
        """Call right before each try to lease, so that a job that comes meanwhile is not missed.

        Returns the wake that the poll was chosen for, 0 for none.
        """
        with self._lock:
            wake, waiter.chosen_by = waiter.chosen_by, 0
            waiter.event.clear()
            waiter.asked = self._last_wake
            line = self._lines.setdefault(waiter.queue, {})
            line.pop(waiter, None)
            line[waiter] = None
            return wake

    def leave(self, waiter: Waiter) -> None:
        """The poll ends; a wake that it was chosen for meanwhile goes to another."""
        with self._lock:
            line = self._lines.get(waiter.queue, {})
            line.pop(waiter, None)
            if not line:
                self._lines.pop(waiter.queue, None)
            if waiter.chosen_by:
                self._choose(waiter.queue, 1, waiter.chosen_by)

    def wake(self, queue: QueueName, count: int) -> None:
        """``count`` jobs came to a queue."""
        with self._lock:
            self._last_wake += 1
            self._choose(queue, count, self._last_wake)

    def wake_everybody(self) -> None:
        """Jobs may have come unnoticed."""
        with self._lock:
            self._last_wake += 1
            for queue, line in self._lines.items():
                self._choose(queue, len(line), self._last_wake)

    def pass_on(self, queue: QueueName, wake: int) -> None:
        """A poll could not use the wake that it was chosen for."""
        with self._lock:
            self._choose(queue, 1, wake)

    def queues(self) -> list[QueueName]:
        """The queues that somebody waits for."""
        with self._lock:
            return list(self._lines)

    def count(self) -> int:
        """How many polls wait."""
        with self._lock:
            return sum(len(line) for line in self._lines.values())

    def _choose(self, queue: QueueName, count: int, wake: int) -> None:
        for waiter in self._lines.get(queue, ()):
            if count == 0 or waiter.asked >= wake:
                return
            if not waiter.chosen_by:
                waiter.chosen_by = wake
                waiter.event.set()
                count -= 1
