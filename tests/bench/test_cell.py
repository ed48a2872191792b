"""The simulated cell keeps the laws of queues and loses nothing."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from tests.bench.cell import runs
from tests.bench.cell.costs import Cost, Costs
from tests.bench.cell.events import Events, Machine, Process
from tests.bench.cell.fleet import Fleet, Load
from tests.bench.cell.runs import Length
from tests.bench.cell.server import Cell, Hardware

COSTS = Costs(
    heartbeat=Cost(0.001, 0.0002),
    lease=Cost(0.001, 0.0003),
    empty_poll=Cost(0.001, 0.0002),
    report=Cost(0.001, 0.0003),
    submit=Cost(0.001, 0.0003),
    batch=Cost(0.05, 0.015),
    reap=Cost(0.0001, 0.00005),
    hear_s=0.00001,
    flush_s=0.0002,
    hop_s=0.0001,
)
TWO = Hardware(processes=2, cores=2)
ARRIVALS = 60_000
BUSY = 0.7


class Line:
    """Customers that come at random to one server, and what becomes of them."""

    def __init__(self, seed: int, *, exponential: bool) -> None:
        self._draw = random.Random(seed)
        self._events = Events()
        self._server = Process(self._events, Machine(1))
        self._exponential = exponential
        self._came = 0
        self._within = 0
        self._changed_s = 0.0
        self.waited_s: list[float] = []
        self.present_s = 0.0  # customers × seconds
        self._events.after(0.0, self._come)
        self._events.run(float("inf"))

    def _come(self) -> None:
        self._came += 1
        if self._came < ARRIVALS:
            self._events.after(self._draw.expovariate(BUSY), self._come)
        service_s = self._draw.expovariate(1.0) if self._exponential else 1.0
        self._change(1)
        self._server.do(service_s, self._leave, self._events.now_s, service_s)

    def _leave(self, came_s: float, service_s: float) -> None:
        self._change(-1)
        self.waited_s.append(self._events.now_s - came_s - service_s)
        self.lasted_s = self._events.now_s

    def _change(self, by: int) -> None:
        self.present_s += self._within * (self._events.now_s - self._changed_s)
        self._within += by
        self._changed_s = self._events.now_s

    @property
    def mean_wait_s(self) -> float:
        return sum(self.waited_s) / len(self.waited_s)


@pytest.mark.parametrize("exponential", [True, False])
def test_the_mean_wait_is_that_of_the_textbook(exponential: bool) -> None:
    line = Line(7, exponential=exponential)
    # Pollaczek and Khinchine: M/M/1 waits ρ/(1-ρ) services, M/D/1 half as long.
    expected_s = BUSY / (1 - BUSY) * (1.0 if exponential else 0.5)
    assert len(line.waited_s) == ARRIVALS
    assert line.mean_wait_s == pytest.approx(expected_s, rel=0.1)


def test_as_many_are_there_as_come_in_the_time_that_each_stays() -> None:
    line = Line(11, exponential=False)
    stay_s = line.mean_wait_s + 1.0
    assert line.present_s / line.lasted_s == pytest.approx(ARRIVALS / line.lasted_s * stay_s)


def test_cores_are_shared_and_a_broker_flushes_once_for_all_that_came_meanwhile() -> None:
    events, ends = Events(), []
    one = Machine(1)
    for process in [Process(events, one) for _ in range(3)]:
        process.do(1.0, lambda: ends.append(events.now_s))
    events.run(10.0)
    assert ends == [1.0, 2.0, 3.0]
    ends.clear()
    broker = Process(events, Machine(1), together=True, flush_s=5.0)
    for _ in range(4):
        broker.do(1.0, lambda: ends.append(events.now_s - 10.0))
    events.run(100.0)
    assert ends == [6.0, 14.0, 14.0, 14.0]


def test_every_request_is_answered_once() -> None:
    events = Events()
    cell = Cell(events, TWO, COSTS, seed=3)
    answers: list[int] = []
    for number in range(500):
        cell.ask("any", cell.apis[number % 2], COSTS.heartbeat, lambda number=number: number, answers.append)
    events.run(60.0)
    assert sorted(answers) == list(range(500))
    assert cell.asked == cell.answered == len(cell.latencies_s["any"]) == 500


def test_every_job_is_done_once() -> None:
    fleet = Fleet(TWO, COSTS, Load(50, job_s=1.0, busy=0.0, queues=2))
    fleet.settle()
    for queue in (0, 1):
        fleet.submit(queue, 150)
    fleet.advance(60)
    assert fleet.waiting == [0, 0]
    assert sum(node.jobs for node in fleet.nodes) == 300
    assert not any(node.holds for node in fleet.nodes)


def test_the_same_seed_runs_the_same_and_another_one_does_not() -> None:
    first, again, other = (Fleet(TWO, COSTS, Load(300), seed).run(1, 3) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_more_nodes_cost_more_until_the_cell_bears_no_more() -> None:
    length = Length(0.5, 2)
    seen = list(runs.sweep(TWO, COSTS, Load(0), [300, 1200, 4800], length))
    for less, more in itertools.pairwise(seen):
        assert less.requests_per_s < more.requests_per_s
        assert less.broker < more.broker
        assert less.api_cores < more.api_cores
    slow = replace(COSTS, heartbeat=Cost(0.01, 0.002), empty_poll=Cost(0.01, 0.002))
    best = runs.largest(TWO, slow, Load(0), length)
    assert best.bearable
    assert not runs.steady(TWO, slow, Load(int(best.nodes * 1.5)), length).bearable
    # A node asks once in ten seconds: nine tenths of two processes, in hundredths of a second.
    assert best.nodes == pytest.approx(1800, rel=0.2)


def test_an_outage_of_the_length_of_a_lease_loses_none_and_everybody_comes_back() -> None:
    moment = runs.outage(TWO, COSTS, Load(300), 60.0)
    assert moment.lost == 0
    assert moment.refused_per_s > 300 / 10
    assert moment.served_s <= 10.0 + runs.LOOK_S  # the longest pause of a worker's back-off


def test_leases_are_lost_when_nobody_is_heard_in_time() -> None:
    dead = replace(COSTS, heartbeat=Cost(1.0, 0.0))  # 300 in ten seconds are ten times what two processes do
    fleet = Fleet(TWO, dead, Load(300, busy=1.0))
    assert fleet.run(0, 150).lost > 0
