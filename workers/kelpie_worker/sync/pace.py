"""How many transfers go side by side: as few as keep this machine or its link busy; on how many processors.

On a fast link every further thread only fights for the interpreter's lock; with a store that is 30 ms away,
64 of them still wait most of the time. So there are few at first, and twice as many only while this process
is mostly idle although there is work: then the store is what is waited for. Whether for its distance or for
its processors, the rate tells: where twice the transfers end no faster, there are as few as before again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST = 4
"""Transfers at once before anything is known of the store."""
WINDOW_S = 0.05
BUSY = 0.7
"""Above this share of what it can use of the processors, the process is busy itself."""
TOGETHER, APART = 500.0, 250.0
"""Transfers per second from which, and below which, they are so small that they are the interpreter's work:
that can use one processor, and is better done on one. See processors.py."""
GAIN = 1.2
"""Twice the transfers are worth it when at least so many times as many end in the same time."""
FIRST_HOLD_S = 0.5
LONGEST_HOLD_S = 16.0
"""Between two trials of more transfers while they are in vain; each pause is twice the one before."""


class Pace:
    """Decides after each transfer; not safe from several threads at once."""

    def __init__(
        self,
        most: int,
        *,
        processors: int = 1,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._most = most
        self._processors = processors
        self._clock = clock
        self._cpu = cpu
        self._since, self._used = clock(), cpu()
        self._ended = 0  # transfers of this window
        self._all_waited = True
        self._before: tuple[int, float] | None = (
            None  # width and rate before the last growth, while it is new
        )
        self._hold_s = FIRST_HOLD_S
        self._held_until = 0.0
        self.width = min(FIRST, most)
        """Transfers that may go at once."""
        self.together = False
        """Whether they are to share a processor."""

    def task_ended(self, *, waiting: bool) -> bool:
        """A transfer has ended, and others wait for a thread or not. True when ``width`` has changed."""
        self._all_waited = self._all_waited and waiting
        self._ended += 1
        now = self._clock()
        lasted = now - self._since
        if lasted < WINDOW_S or self._ended < self.width:
            return False
        used = self._cpu()
        rate, share = self._ended / lasted, (used - self._used) / lasted
        old = self.width
        self.together = rate >= (APART if self.together else TOGETHER)
        if self._all_waited:
            self.width = self._next_width(now, rate, share)
        else:
            self._before = None  # the rate was that of the work, not of the way
        self._since, self._used, self._ended, self._all_waited = now, used, 0, True
        return self.width != old

    def _next_width(self, now: float, rate: float, share: float) -> int:
        before, self._before = self._before, None
        if before is not None:
            if rate < GAIN * before[1]:
                self._held_until = now + self._hold_s
                self._hold_s = min(2 * self._hold_s, LONGEST_HOLD_S)
                return before[0]
            self._hold_s = FIRST_HOLD_S
        usable = 1 if self.together else self._processors
        if share >= BUSY * usable or self.width == self._most or now < self._held_until:
            return self.width
        self._before = (self.width, rate)
        return min(2 * self.width, self._most)
