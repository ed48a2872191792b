"""What is asked of the simulation: how many nodes a cell serves, and what the bad moments do to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from kelpie.job import MAX_BATCH
from tests.bench.cell.costs import Costs
from tests.bench.cell.fleet import POLL_S, Fleet, Load, Seen
from tests.bench.cell.node import Node
from tests.bench.cell.server import Hardware
from tests.bench.figures import percentile

LOOK_S = 0.05
WATCHED_S = 20.0
GIVE_UP_S = 300.0
PROBE_NODES = 1000
STEP = 1.1
MAX_STEPS = 12


@dataclass(frozen=True)
class Length:
    """How long a run lasts, in virtual seconds: before it is looked at, and while it is."""

    warm_up_s: float
    lasting_s: float


@dataclass(frozen=True)
class Moment:
    """A bad moment: seconds until everybody was served; latencies of what was asked in it (p99, longest)."""

    served_s: float
    heartbeats_s: tuple[float, float]
    leases_s: tuple[float, float]
    late: float
    lost: int
    refused_per_s: float = 0.0


def sweep(
    hardware: Hardware, costs: Costs, load: Load, sizes: Sequence[int], length: Length
) -> Iterator[Seen]:
    """The same fleet in several sizes."""
    for nodes in sizes:
        yield steady(hardware, costs, replace(load, nodes=nodes), length)


def steady(hardware: Hardware, costs: Costs, load: Load, length: Length) -> Seen:
    """One fleet that has been there for long."""
    return Fleet(hardware, costs, load).run(length.warm_up_s, length.lasting_s)


def largest(hardware: Hardware, costs: Costs, load: Load, length: Length) -> Seen:
    """The largest fleet that the cell bears (:attr:`Seen.bearable`), to a tenth."""
    probe = steady(hardware, costs, replace(load, nodes=PROBE_NODES), length)
    # What a cell is asked grows with its nodes; what bears half of a tenth more is found by trying.
    share = max(probe.broker / 0.5, probe.api_cores / hardware.processes / 0.9)
    seen = steady(hardware, costs, replace(load, nodes=max(1, int(PROBE_NODES / share))), length)
    best = seen if seen.bearable else None
    for _ in range(MAX_STEPS):
        step = STEP if seen.bearable else 1 / STEP
        seen = steady(hardware, costs, replace(load, nodes=max(1, int(seen.nodes * step))), length)
        if best is not None and not seen.bearable:
            return best
        if best is None and seen.bearable:
            return seen
        best = seen if seen.bearable else None
    return seen


def limit(seen: Seen) -> str:
    """What a fleet that is a step larger would run into first."""
    shares = {
        "the broker": seen.broker / 0.5,
        "the API": seen.api_busiest / 0.9,
        "waiting": max(seen.heartbeats_s[1], seen.leases_s[1]),
    }
    return max(shares, key=lambda what: shares[what])


def outage(hardware: Hardware, costs: Costs, load: Load, away_s: float) -> Moment:
    """The broker is away for a while, and everybody comes back as the back-off of workers has it."""
    fleet = Fleet(hardware, costs, load)
    fleet.settle()
    fleet.advance(5)
    fleet.measure_from_now()
    fleet.outage(away_s)
    refused_per_s = fleet.cell.asked / away_s
    fleet.measure_from_now()
    back_s = fleet.events.now_s
    served_s = _until(fleet, fleet.nodes, lambda node: node.served_s >= back_s)
    return _moment(fleet, served_s, refused_per_s)


def stampede(hardware: Hardware, costs: Costs, load: Load) -> Moment:
    """Every node works, and all their heartbeats come in one moment, as no back-off would have it."""
    fleet = Fleet(hardware, costs, load)
    fleet.measure_from_now()
    for node in fleet.nodes:
        node.begin(fleet.draw.expovariate(1 / load.job_s))
    return _moment(fleet, _until(fleet, fleet.nodes, lambda node: node.served_s >= 0))


def flood(hardware: Hardware, costs: Costs, load: Load, jobs: int) -> Moment:
    """So many jobs are submitted in batches, one after another, while some nodes work and all others wait."""
    fleet = Fleet(hardware, costs, replace(load, one_by_one=False))
    fleet.settle()
    fleet.advance(POLL_S + 5)  # all polls are open
    fleet.measure_from_now()
    idle = {node: node.jobs for node in fleet.nodes if not node.holds}
    left = jobs

    def submit() -> None:
        nonlocal left
        batch = min(MAX_BATCH, left)
        if batch:
            left -= batch
            fleet.submit(0, batch, submit)

    submit()
    return _moment(fleet, _until(fleet, list(idle), lambda node: node.jobs > idle[node]))


def _until(fleet: Fleet, nodes: Sequence[Node], done: Callable[[Node], bool]) -> float:
    """Seconds until it is true of all of them; looks on for as long as the moment may hurt."""
    start_s = fleet.events.now_s
    took_s = None
    left = list(nodes)
    while took_s is None or fleet.events.now_s < start_s + WATCHED_S:
        fleet.advance(LOOK_S)
        left = [node for node in left if not done(node)]
        if not left and took_s is None:
            took_s = fleet.events.now_s - start_s
        if fleet.events.now_s > start_s + GIVE_UP_S:
            raise RuntimeError(f"{len(left)} of {len(nodes)} nodes were not served within {GIVE_UP_S:g} s")
    return took_s


def _moment(fleet: Fleet, served_s: float, refused_per_s: float = 0.0) -> Moment:
    def tails(kind: str) -> tuple[float, float]:
        found = fleet.cell.latencies_s.get(kind) or [0.0]
        return percentile(found, 0.99), max(found)

    seen = fleet.seen()
    return Moment(served_s, tails("heartbeat"), tails("lease"), seen.late, seen.lost, refused_per_s)
