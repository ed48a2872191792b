"""All nodes of a simulated cell, the jobs that wait for them, and the polls that wait for jobs.

Left out: what jobs print and transfer, webhooks, lists and dashboards, failed jobs, timeouts of clients (10 s
and more: who is answered so late is beyond what a cell should carry anyway).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

from kelpie.job import MAX_BATCH
from kelpie.store.poller import REAP_INTERVAL_S
from kelpie_worker import backoff as worker_backoff
from tests.bench.cell.costs import Cost, Costs
from tests.bench.cell.events import Events, Process
from tests.bench.cell.node import BEATS_PER_INTERVAL, Node
from tests.bench.cell.server import ANSWER, CALL, Cell, Hardware
from tests.bench.figures import percentile

POLL_S = 10.0
BACKLOG = 10**9
LEASE_INTERVALS = 2  # a lease lasts so many heartbeat intervals
CLOCK_STEP_S = 5.0  # by which leases age at most while no script runs; see lua/prelude.lua


@dataclass(frozen=True)
class Load:
    """What a fleet does. Jobs last ``job_s`` on average (exponential); ``busy`` is the share that works."""

    nodes: int
    job_s: float = 600.0
    busy: float = 0.9
    interval_s: float = 30.0
    queues: int = 1
    one_by_one: bool = True  # jobs come at the rate at which they end
    backlog: bool = False  # enough jobs wait for every node to find one at once: none needs to be told


@dataclass(frozen=True)
class Seen:
    """What came of a run. Latencies in seconds; ``late``: the longest pause between renewals ÷ the lease."""

    nodes: int
    requests_per_s: float
    api_cores: float
    api_busiest: float
    broker: float
    disk: float
    heartbeats_s: tuple[float, float]
    leases_s: tuple[float, float]
    late: float
    lost: int

    @property
    def bearable(self) -> bool:
        """Under half of the broker's thread, and answered within a second."""
        return (
            self.broker < 0.5 and self.heartbeats_s[1] < 1 and self.leases_s[1] < 1 and self.api_busiest < 0.9
        )


class Fleet:
    """A fleet on its cell, in virtual time."""

    def __init__(self, hardware: Hardware, costs: Costs, load: Load, seed: int = 1) -> None:
        self.events = Events()
        self.load = load
        self.costs = costs
        self.cell = Cell(self.events, hardware, costs, seed)
        self.draw = random.Random(seed + 1)
        self.waiting = [BACKLOG if load.backlog else 0] * load.queues
        self.nodes = [Node(self, number) for number in range(load.nodes)]
        self._seed = seed
        # Who waits for a job at an API process, by queue, in the order in which they last asked.
        self._waiters: dict[Process, dict[int, dict[Node, None]]] = {one: {} for one in self.cell.apis}
        self._came_back_s = -1.0
        self._away_s = 0.0
        self._late = 0.0
        self._lost = 0

    def run(self, warm_up_s: float, lasting_s: float) -> Seen:
        """A steady load: everybody has been there for long, then it is looked at."""
        self.settle()
        self.advance(warm_up_s)
        self.measure_from_now()
        self.advance(lasting_s)
        return self.seen()

    def settle(self) -> None:
        """Every node is where it would be after a while, and jobs go on coming."""
        period_s = self.load.interval_s / BEATS_PER_INTERVAL
        for node in self.nodes:
            if self.draw.random() < self.load.busy:
                rest_s = self.draw.expovariate(1 / self.load.job_s)  # what is left has the same distribution
                node.begin(rest_s, self.draw.uniform(0, period_s))
            else:
                self.events.after(self.draw.uniform(0, POLL_S), node.ask)
        for api in self.cell.apis:
            self.events.after(self.draw.uniform(0, REAP_INTERVAL_S), self._tick, api)
        if self.load.one_by_one and self.load.busy and not self.load.backlog:
            self._submit_later()

    def advance(self, seconds: float) -> None:
        """Let time pass. Workers draw their pauses from our source, so that a run can be repeated."""
        with patch.object(worker_backoff, "random", self.draw):
            self.events.run(self.events.now_s + seconds)

    def measure_from_now(self) -> None:
        """Everything so far was the beginning."""
        self.cell.measure_from_now()
        self._late, self._lost = 0.0, 0

    def seen(self) -> Seen:
        """What was seen since measuring began."""
        apis, broker, disk = self.cell.busy()
        lasted_s = self.events.now_s - self.cell.measured_from_s

        def tails(kind: str) -> tuple[float, float]:
            found = self.cell.latencies_s.get(kind) or [0.0]
            return percentile(found, 0.5), percentile(found, 0.99)

        return Seen(
            nodes=self.load.nodes,
            requests_per_s=self.cell.asked / lasted_s,
            api_cores=sum(apis),
            api_busiest=max(apis),
            broker=broker,
            disk=disk,
            heartbeats_s=tails("heartbeat"),
            leases_s=tails("lease"),
            late=self._late,
            lost=self._lost,
        )

    def submit(self, queue: int, count: int, then: Callable[[], object] = lambda: None) -> None:
        """Jobs come in one request, whose end ``then`` hears; all API processes hear of the jobs."""
        cost = self.costs.submit if count == 1 else _of_batch(self.costs.batch, count)

        def keep() -> bool:
            self.waiting[queue] += count
            for api in self.cell.apis:
                self.cell.spend(api, self.costs.hear_s, self._wake, api, queue, count)
            return True

        api = self.draw.choice(self.cell.apis)
        self.cell.ask("submit", api, cost, keep, lambda _: then())

    def take(self, queue: int) -> bool:
        """The lease script: a job, if there is one."""
        if not self.waiting[queue]:
            return False
        self.waiting[queue] -= 1
        more_s = self.costs.lease.broker_s - self.costs.empty_poll.broker_s
        self.cell.broker.do(max(0.0, more_s), bool)
        return True

    def wait(self, node: Node) -> None:
        """A poll has found nothing, and waits for the rest of its time."""
        self._waiters[node.api].setdefault(node.queue, {})[node] = None
        left_s = node.asked_s + POLL_S - self.events.now_s
        self.events.after(max(0.0, left_s), self._end, node, node.poll)

    def outage(self, seconds: float) -> None:
        """The broker is away from now on; afterwards all API processes subscribe anew and wake everybody."""
        self.cell.away = True
        self.advance(seconds)
        self.cell.away = False
        self._came_back_s, self._away_s = self.events.now_s, seconds
        for api in self.cell.apis:
            for queue, polls in self._waiters[api].items():
                self._wake(api, queue, len(polls))

    def renewed(self, before_s: float) -> None:
        """A lease is renewed that was renewed last at that time."""
        aged_s = self.events.now_s - before_s
        missed_s = min(self._away_s, self._came_back_s - before_s)  # of the outage
        aged_s -= max(0.0, missed_s - CLOCK_STEP_S)
        self._late = max(self._late, aged_s / (LEASE_INTERVALS * self.load.interval_s))
        self._lost += aged_s > LEASE_INTERVALS * self.load.interval_s

    def _submit_later(self) -> None:
        rate_per_s = self.load.busy * self.load.nodes / self.load.job_s
        self.events.after(self.draw.expovariate(rate_per_s), self._submit_one)

    def _submit_one(self) -> None:
        if not self.cell.away:  # a client whose submit is refused comes again; it is not what we look at
            self.submit(self.draw.randrange(self.load.queues), 1)
        self._submit_later()

    def _wake(self, api: Process, queue: int, count: int) -> None:
        """Let so many of the polls that wait at a process ask again, those first that asked first."""
        polls = self._waiters[api].get(queue, {})
        for node in list(itertools.islice(polls, count)):
            del polls[node]
            self._ask_again(node)

    def _ask_again(self, node: Node) -> None:
        """A poll was woken, and asks. When another process was faster nobody else is woken for it."""
        node.poll += 1  # it does not end while it asks
        woken_s = self.events.now_s
        cost, look = self.costs.empty_poll, self.costs.reap

        def answered(found: object) -> None:
            if found:
                node.asked_s = woken_s
                self.cell.spend(node.api, ANSWER * self.costs.lease.api_s, node.grant)
            else:  # does any job wait? See store/poller.py.
                self.cell.run_script(
                    node.api, look.api_s, look.broker_s, lambda: self.waiting[node.queue], looked
                )

        def looked(waiting: object) -> None:
            if waiting:
                self._wake(node.api, node.queue, 1)
            self.wait(node)

        self.cell.run_script(
            node.api, CALL * cost.api_s, cost.broker_s, lambda: self.take(node.queue), answered
        )

    def _end(self, node: Node, poll: int) -> None:
        """The time of a poll is over: it is answered with nothing, and the node asks again."""
        if node.poll != poll:  # it was given a job
            return
        del self._waiters[node.api][node.queue][node]
        self.cell.spend(node.api, ANSWER * self.costs.empty_poll.api_s, node.ask)

    def _tick(self, api: Process) -> None:
        """An API process puts back expired leases of the queues that it polls, one after another."""
        queues = [queue for queue, polls in self._waiters[api].items() if polls]

        def following(_: object = None) -> None:
            if queues and not self.cell.away:
                queues.pop()
                self.cell.run_script(api, self.costs.reap.api_s, self.costs.reap.broker_s, bool, following)
            else:
                self.events.after(REAP_INTERVAL_S, self._tick, api)

        following()


def _of_batch(cost: Cost, jobs: int) -> Cost:
    """What a smaller batch costs."""
    return Cost(cost.api_s * jobs / MAX_BATCH, cost.broker_s * jobs / MAX_BATCH)
