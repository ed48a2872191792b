"""Discrete events: what happens when, and who waits for whose processor. Knows nothing of Kelpie."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any


class Events:
    """What is to happen, in the order of virtual time; what falls on one moment, in the order of planning."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._planned: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call it in ``delay_s`` seconds."""
        self._count += 1
        heapq.heappush(self._planned, (self.now_s + delay_s, self._count, call, arguments))

    def run(self, until_s: float) -> None:
        """Let everything happen up to a moment; what is planned for later stays planned."""
        while self._planned and self._planned[0][0] <= until_s:
            self.now_s, _, call, arguments = heapq.heappop(self._planned)
            call(*arguments)
        self.now_s = until_s


class Machine:
    """Cores: processes that have work get one in the order in which they asked, for one step at a time."""

    def __init__(self, cores: int) -> None:
        self._free = cores
        self._ready: deque[Process] = deque()

    def wanted_by(self, process: Process) -> None:
        """A process has work: it gets a core now, or when its turn comes."""
        if self._free:
            self._free -= 1
            process.step()
        else:
            self._ready.append(process)

    def released(self) -> None:
        """A step is done."""
        if self._ready:
            self._ready.popleft().step()
        else:
            self._free += 1


class Process:
    """One thread that does pieces of work in the order in which they came.

    With ``together`` one step is all the work there is, followed by a wait of ``flush_s`` without a core
    before anybody hears of it: the broker's loop, which writes what it did to the disk before it answers.
    """

    def __init__(
        self, events: Events, machine: Machine, *, together: bool = False, flush_s: float = 0.0
    ) -> None:
        self._events = events
        self._machine = machine
        self._together = together
        self._flush_s = flush_s
        self._work: deque[tuple[float, Callable[..., object], tuple[Any, ...]]] = deque()
        self._active = False
        self.computed_s = 0.0
        self.flushed_s = 0.0

    def do(self, cpu_s: float, then: Callable[..., object], *arguments: Any) -> None:
        """Compute for so long when its turn comes, then call."""
        self._work.append((cpu_s, then, arguments))
        if not self._active:
            self._active = True
            self._machine.wanted_by(self)

    def step(self) -> None:
        """It has a core: begin."""
        if self._together:
            taken = list(self._work)
            self._work.clear()
        else:
            taken = [self._work.popleft()]
        cpu_s = sum(cpu_s for cpu_s, _, _ in taken)
        self._events.after(cpu_s, self._computed, cpu_s, taken)

    def _computed(self, cpu_s: float, taken: list[Any]) -> None:
        self.computed_s += cpu_s
        self._machine.released()
        if self._flush_s:
            self.flushed_s += self._flush_s
            self._events.after(self._flush_s, self._done, taken)
        else:
            self._done(taken)

    def _done(self, taken: list[Any]) -> None:
        for _, then, arguments in taken:
            then(*arguments)
        if self._work:
            self._machine.wanted_by(self)
        else:
            self._active = False
