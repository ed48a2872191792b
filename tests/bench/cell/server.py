"""A simulated cell: API processes, each one thread, and a broker, which is one thread for all of them.

What a request costs is measured; how that divides in an API process is assumed: :data:`PARSE` before the
broker is asked, :data:`CALL` for asking it, :data:`ANSWER` for the rest. So is its spread: half of each
piece of work takes as long as ever, the other half is drawn (exponentially), a coefficient of variation
of 0.5.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.bench.cell.costs import Cost, Costs
from tests.bench.cell.events import Events, Machine, Process

PARSE, CALL, ANSWER = 0.4, 0.3, 0.3
REFUSAL = 0.6
"""What of its CPU an API process spends on a request that it refuses because the broker is away."""

CERTAIN = 0.5

Effect = Callable[[], Any]
Answered = Callable[[Any], object]
DOWN = object()
"""The answer of an API whose broker is away."""


@dataclass(frozen=True)
class Hardware:
    """On what a cell runs. ``shared``: the broker has no core of its own."""

    processes: int
    cores: int
    shared: bool = False


class Cell:
    """Serves requests, and knows how long each took."""

    def __init__(self, events: Events, hardware: Hardware, costs: Costs, seed: int) -> None:
        self.events = events
        self.costs = costs
        self.draw = random.Random(seed)
        self.machine = Machine(hardware.cores)
        self.apis = [Process(events, self.machine) for _ in range(hardware.processes)]
        brokers = self.machine if hardware.shared else Machine(1)
        self.broker = Process(events, brokers, together=True, flush_s=costs.flush_s)
        self.away = False
        self.asked = 0
        self.answered = 0
        self.measured_from_s = 0.0
        self.latencies_s: dict[str, list[float]] = {}
        self._spent_before: list[float] = []

    def measure_from_now(self) -> None:
        """Everything so far was the beginning."""
        self.measured_from_s = self.events.now_s
        self.asked = self.answered = 0
        self.latencies_s = {}
        self._spent_before = [one.computed_s for one in (*self.apis, self.broker)] + [self.broker.flushed_s]

    def ask(self, kind: str, api: Process, cost: Cost, effect: Effect, then: Answered) -> None:
        """A request: the API reads it, the broker does ``effect``, the API tells ``then`` what came of it."""
        self.asked += 1
        asked_s = self.events.now_s

        def read() -> None:
            if self.away:
                self.spend(api, (REFUSAL - PARSE) * cost.api_s, answer, DOWN)
            else:
                self.run_script(api, CALL * cost.api_s, cost.broker_s, effect, reply)

        def reply(found: Any) -> None:
            self.spend(api, ANSWER * cost.api_s, answer, found)

        def answer(found: Any) -> None:
            self.answered += 1
            if found is not DOWN:
                self.note(kind, asked_s)
            then(found)

        self.events.after(self.costs.hop_s, self.spend, api, PARSE * cost.api_s, read)

    def run_script(self, api: Process, api_s: float, broker_s: float, effect: Effect, then: Answered) -> None:
        """An API process has the broker run a script, which costs each of them so much."""

        def send() -> None:
            self.broker.do(self.vary(broker_s), lambda: then(effect()))

        self.spend(api, api_s, send)

    def spend(self, process: Process, cpu_s: float, then: Callable[..., object], *arguments: Any) -> None:
        """A process computes for about so long."""
        process.do(self.vary(cpu_s), then, *arguments)

    def vary(self, mean_s: float) -> float:
        """A time with that mean."""
        if not mean_s:
            return 0.0
        return mean_s * (CERTAIN + (1 - CERTAIN) * self.draw.expovariate(1.0))

    def note(self, kind: str, since_s: float) -> None:
        """Something that began then is answered now."""
        if since_s >= self.measured_from_s:
            self.latencies_s.setdefault(kind, []).append(self.events.now_s - since_s)

    def busy(self) -> tuple[list[float], float, float]:
        """Since measuring began: each API process's share of a core, the broker's, its wait for the disk."""
        lasted_s = self.events.now_s - self.measured_from_s
        spent = [one.computed_s for one in (*self.apis, self.broker)] + [self.broker.flushed_s]
        *apis, broker, disk = (
            (now - before) / lasted_s for now, before in zip(spent, self._spent_before, strict=True)
        )
        return apis, broker, disk
