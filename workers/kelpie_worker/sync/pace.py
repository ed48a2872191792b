"""How many transfers go side by side: as few as keep this machine or its link busy.

On a fast link every further thread only fights for the interpreter's lock; with a store that is 30 ms away,
64 of them still wait most of the time. So there are few at first, and more only while this process is mostly
idle although there is work: then the store is what is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST = 4
"""Transfers at once before anything is known of the store."""
WINDOW_S = 0.02
BUSY = 0.7
"""Of one processor: above this share the process is busy itself."""


class Pace:
    """Decides after each transfer; not safe from several threads at once."""

    def __init__(
        self,
        most: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._most = most
        self._clock = clock
        self._cpu = cpu
        self._since, self._used = clock(), cpu()
        self._all_waited = True
        self.width = min(FIRST, most)
        """Transfers that may go at once."""

    def task_ended(self, *, waiting: bool) -> bool:
        """A transfer has ended, and others wait for a thread or not. True when ``width`` has changed."""
        self._all_waited = self._all_waited and waiting
        now = self._clock()
        if now - self._since < WINDOW_S:
            return False
        used = self._cpu()
        share = (used - self._used) / (now - self._since)
        grows = self._all_waited and share < BUSY and self.width < self._most
        self._since, self._used, self._all_waited = now, used, True
        if grows:
            self.width = min(2 * self.width, self._most)
        return grows
