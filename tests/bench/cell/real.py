"""A real cell under a few loads, beside what the simulation says of the same loads: how far is it off?

Requests come when their time has come, whether or not earlier ones are answered (open loop), from one process
that shares the machine with the cell; the simulation has it share the machine too.
"""

from __future__ import annotations

import itertools
import json
import random
import selectors
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from kelpie.job import MAX_BATCH
from tests.api import ApiUser
from tests.bench.cell.costs import Cost, Costs
from tests.bench.cell.events import Events, Process
from tests.bench.cell.server import Cell, Hardware
from tests.bench.figures import percentile
from tests.bench.http_api import Sides
from tests.bench.wire import Connection, Wire
from tests.factories import GROUP, job_body

MIX = {"heartbeat": 0.7, "empty poll": 0.1, "lease": 0.1, "report": 0.1}
"""What is asked, by its share: about what a fleet with short jobs asks."""

CONNECTIONS = 256
WARM_UP_S = 1.0  # until all connections are open
HELD = 200  # jobs whose heartbeats are sent
STALLED_S = 30.0


@dataclass(frozen=True)
class Point:
    """What one load did: shares of a core, seconds. ``others``: what had nothing to do with it."""

    rate_per_s: float
    api: float
    broker: float
    client: float
    p50_s: float
    p99_s: float
    others: float = 0.0


class RealCell:
    """Drives the API with a mix of requests at a given rate."""

    def __init__(self, user: ApiUser, sides: Sides, rate_per_s: float, seconds: float, seed: int) -> None:
        self._user = user
        self._sides = sides
        self._rate_per_s = rate_per_s
        self._seconds = seconds
        self._draw = random.Random(seed)
        self._wire = Wire(user.server.port, user.key, CONNECTIONS)
        self._free = deque(self._wire.connections)
        self._sent: dict[int, tuple[str, float]] = {}  # by connection
        self._number = itertools.count()
        self._done: deque[bytes] = deque()  # reports of leased jobs
        self._late_s: list[float] = []
        self._run = f"{self._draw.getrandbits(64):x}"

    def measure(self) -> Point:
        """Send, and tell what it took. RuntimeError when an answer is an error, or none comes."""
        expected = int(self._rate_per_s * (WARM_UP_S + self._seconds) * MIX["lease"] * 1.5) + 50 + HELD
        for _ in range(-(-expected // MAX_BATCH)):
            self._user.ok("POST", "/jobs/batch", json=[job_body()] * MAX_BATCH)
        self._beats = itertools.cycle([self._report(self._lease(), "heartbeat") for _ in range(HELD)])
        try:
            with selectors.DefaultSelector() as selector:
                for connection in self._wire.connections:
                    connection.selector = selector
                self._drive(selector, WARM_UP_S)
                self._late_s.clear()
                before, start = self._sides.spent_s(), time.perf_counter()
                machine_s = _busy_s()
                self._drive(selector, self._seconds)
                lasted_s = time.perf_counter() - start
                machine_s = _busy_s() - machine_s
                spent = {side: now - before[side] for side, now in self._sides.spent_s().items()}
        finally:
            self._wire.close()
            self._user.ok("DELETE", f"/jobs/container-groups/{GROUP}")
        return Point(
            len(self._late_s) / lasted_s,
            spent["api"] / lasted_s,
            spent["valkey"] / lasted_s,
            spent["client"] / lasted_s,
            percentile(self._late_s, 0.5),
            percentile(self._late_s, 0.99),
            max(0.0, machine_s - sum(spent.values())) / lasted_s,
        )

    def _drive(self, selector: selectors.BaseSelector, seconds: float) -> None:
        heard_s = time.perf_counter()
        overdue: deque[float] = deque()  # moments whose request found no free connection
        arrivals = self._arrivals(seconds)
        due = next(arrivals, None)
        while due is not None or overdue or self._sent:
            now = time.perf_counter()
            while due is not None and due <= now:
                overdue.append(due)
                due = next(arrivals, None)
            while overdue and self._free:
                self._send(overdue.popleft())
            pause_s = 1.0 if due is None else max(0.0, due - time.perf_counter())
            for ready, _ in selector.select(pause_s):
                connection = ready.data
                reply = connection.receive()
                if reply is not None:
                    heard_s = time.perf_counter()
                    self._answered(connection, *reply)
            if self._sent and time.perf_counter() - heard_s > STALLED_S:
                raise RuntimeError(f"no answer to {len(self._sent)} requests for {STALLED_S:g} s")

    def _arrivals(self, seconds: float) -> Iterator[float]:
        at = time.perf_counter()
        end = at + seconds
        while (at := at + self._draw.expovariate(self._rate_per_s)) < end:
            yield at

    def _send(self, due: float) -> None:
        kind = self._draw.choices(list(MIX), list(MIX.values()))[0]
        if kind == "report" and not self._done:
            kind = "heartbeat"
        connection = self._free.popleft()
        self._sent[connection.number] = kind, due
        connection.send(self._request(kind))

    def _request(self, kind: str) -> bytes:
        match kind:
            case "heartbeat":
                return next(self._beats)
            case "report":
                return self._done.popleft()
            case "lease":
                return self._poll(GROUP)
            case _:
                return self._poll("empty")

    def _poll(self, group: str) -> bytes:
        node = f"{self._run}-{next(self._number)}"
        return self._wire.request("GET", f"/work?machine_id={node}&container_group_id={group}")

    def _lease(self) -> dict[str, str]:
        node = f"{self._run}-{next(self._number)}"
        [job] = self._user.ok("GET", f"/work?machine_id={node}&container_group_id={GROUP}")
        return job  # type: ignore[no-any-return]

    def _report(self, job: dict[str, str], what: str) -> bytes:
        body = {name: job[name] for name in ("machine_id", "container_group_id", "lease")}
        return self._wire.request("POST", f"/jobs/{job['id']}/{what}", body)

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        if status != 200:
            raise RuntimeError(f"{status}: {body[:300]!r}")
        kind, due = self._sent.pop(connection.number)
        self._free.append(connection)  # all are used in turn, as a fleet's are
        self._late_s.append(time.perf_counter() - due)
        if kind == "lease":
            [job] = json.loads(body)
            self._done.append(self._report(job, "completed"))


def _busy_s() -> float:
    """Seconds of CPU of this machine that were spent on anything."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def simulated(
    costs: Costs, rate_per_s: float, seconds: float, processes: int, cores: int, seed: int
) -> Point:
    """The same load on a simulated cell whose client has part in the same cores."""
    events = Events()
    cell = Cell(events, Hardware(processes, cores, shared=True), costs, seed)
    client = Process(events, cell.machine)
    draw = random.Random(seed)
    kinds: Sequence[tuple[Cost, float]] = [
        (costs.heartbeat, MIX["heartbeat"]),
        (costs.empty_poll, MIX["empty poll"]),
        (costs.lease, MIX["lease"]),
        (costs.report, MIX["report"]),
    ]
    late_s: list[float] = []

    def arrive() -> None:
        if events.now_s < seconds:
            events.after(draw.expovariate(rate_per_s), arrive)
        began_s = events.now_s
        [cost] = draw.choices([cost for cost, _ in kinds], [share for _, share in kinds])
        api = draw.choice(cell.apis)

        def received(_: object) -> None:
            cell.spend(client, cost.client_s / 2, lambda: late_s.append(events.now_s - began_s))

        def sent() -> None:
            cell.ask("mixed", api, cost, bool, received)

        cell.spend(client, cost.client_s / 2, sent)

    cell.measure_from_now()
    events.after(0.0, arrive)
    events.run(seconds + STALLED_S)
    lasted_s = max(seconds, 1e-9)
    return Point(
        len(late_s) / lasted_s,
        sum(api.computed_s for api in cell.apis) / lasted_s,
        cell.broker.computed_s / lasted_s,
        client.computed_s / lasted_s,
        percentile(late_s, 0.5),
        percentile(late_s, 0.99),
    )
