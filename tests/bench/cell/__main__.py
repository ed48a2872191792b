"""How many nodes one cell serves: costs measured, fleets simulated, the simulation held against a real cell.

    python -m tests.bench.cell [--quick] [--processes N,N,…] [--fsync always|everysec|no]
    python -m tests.bench.cell --costs FILE     simulate with costs that --keep-costs FILE wrote elsewhere

First the costs of requests are measured on a real Valkey and a real API. The real cell is driven with a few
loads that this machine carries, and what it did stands beside what the simulation says of it. Then fleets are
simulated, on API machines with a core per process and a broker with a core of its own. Last, queues of many
users are spread over a real cluster of three primaries.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import redis

from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer, ApiUser
from tests.bench.cell import costs as costing
from tests.bench.cell import runs
from tests.bench.cell.costs import Cost, Costs
from tests.bench.cell.fleet import Load
from tests.bench.cell.real import MIX, Point, RealCell, simulated
from tests.bench.cell.runs import Length, Moment
from tests.bench.cell.server import Hardware
from tests.bench.cell.shards import Spread, spread
from tests.bench.figures import announce, load
from tests.bench.http_api import Sides
from tests.clusters import Cluster

API_WORKERS = 2  # of tests.api.ApiServer
SHARES = (0.15, 0.3, 0.45, 0.6)  # of the rate at which this machine would be full
OUTAGE_S = 60.0
FLOOD_JOBS = 100_000
SEED = 1


def main(arguments: Sequence[str]) -> None:
    """Measure, simulate, compare, spread; print all of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cell", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--processes", default="1,2,4,8", help="of the API, separated by commas")
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="always")
    parser.add_argument("--keep-costs", type=Path, metavar="FILE", help="write the measured costs there")
    parser.add_argument("--costs", type=Path, metavar="FILE", help="simulate only, with costs that were kept")
    chosen = parser.parse_args(arguments)
    counts = [2] if chosen.quick else [int(count) for count in chosen.processes.split(",")]
    if chosen.costs:
        simulate(costing.read(chosen.costs), counts, quick=chosen.quick)
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(ValkeyServer(folder / "valkey", appendfsync=chosen.fsync))
        client = stack.enter_context(contextlib.closing(redis.Redis.from_url(broker.url)))
        server = stack.enter_context(ApiServer(broker.url, folder / "api"))
        announce("one cell: costs measured, fleets simulated", client)
        user, sides = server.new_user(), Sides(server, broker)
        requests, rounds = (40, 1) if chosen.quick else (400, 3)
        costs = costing.measure(user, sides, broker, folder, requests, rounds)
        if chosen.keep_costs:
            costing.keep(costs, chosen.keep_costs)
        compare(costs, user, sides, quick=chosen.quick)
    simulate(costs, counts, quick=chosen.quick)
    with tempfile.TemporaryDirectory() as place:
        shards(Path(place), quick=chosen.quick)
    print(f"   load afterwards {load()}\n", flush=True)


def simulate(costs: Costs, counts: Sequence[int], *, quick: bool) -> None:
    """Everything that needs nothing but the costs."""
    show_costs(costs)
    fleets(costs, counts, quick=quick)
    moments(costs, max(counts), quick=quick)


def show_costs(costs: Costs) -> None:
    """What the machine was found to take."""
    print(f"{'CPU ms of a request':28} {'api':>8} {'broker':>8} {'client':>8}")
    for field in fields(costs):
        cost = getattr(costs, field.name)
        if isinstance(cost, Cost):
            print(
                f"{field.name.replace('_', ' '):28} {cost.api_s * 1e3:>8.3f} {cost.broker_s * 1e3:>8.3f} "
                f"{cost.client_s * 1e3:>8.3f}"
            )
    print(
        f"   a wake heard {costs.hear_s * 1e3:.3f} ms, a flush to the disk {costs.flush_s * 1e3:.2f} ms, "
        f"a request beyond all that {costs.hop_s * 1e3:.2f} ms",
        flush=True,
    )


def fleets(costs: Costs, counts: Sequence[int], *, quick: bool) -> None:
    """A fleet of jobs of ten minutes in several sizes, and the largest of several kinds."""
    length = Length(0.5, 1) if quick else Length(5, 10)
    sizes = [200, 1000] if quick else [1000, 2500, 5000, 10_000, 15_000, 20_000, 25_000]
    most = Hardware(max(counts), max(counts))
    print(f"simulated, {most.processes} API processes, jobs of 10 minutes, 90 % of the nodes busy")
    head = (
        f"{'nodes':>8} {'req/s':>7} {'API cores':>10} {'broker':>7} {'+ disk':>7} "
        f"{'heartbeat p50':>14} {'p99 ms':>7} "
        f"{'lease p50':>10} {'p99 ms':>7} {'latest renewal':>15} {'lost':>5}"
    )
    print(head)
    for seen in runs.sweep(most, costs, Load(0), sizes, length):
        print(
            f"{seen.nodes:>8,} {seen.requests_per_s:>7,.0f} {seen.api_cores:>10.2f} {seen.broker:>7.0%} "
            f"{seen.broker + seen.disk:>7.0%} {ms(seen.heartbeats_s[0]):>14} {ms(seen.heartbeats_s[1]):>7} "
            f"{ms(seen.leases_s[0]):>10} {ms(seen.leases_s[1]):>7} {f'{seen.late:.0%} of lease':>15} "
            f"{seen.lost:>5}",
            flush=True,
        )
    print(f"{'the largest that one cell bears':44} {'nodes':>8} {'jobs/s':>7} {'broker':>7} {'limit':>12}")
    kinds = [(f"{count} API process(es)", Hardware(count, count), Load(0)) for count in counts]
    if not quick:
        kinds += [
            (what, most, changed)
            for what, changed in (
                ("heartbeat_interval 60 s", Load(0, interval_s=60.0)),
                ("jobs of a minute", Load(0, job_s=60.0)),
                ("jobs of ten seconds", Load(0, job_s=10.0)),
                ("jobs of ten seconds, which wait already", Load(0, job_s=10.0, busy=1.0, backlog=True)),
                ("half of the nodes idle", Load(0, busy=0.5)),
                ("1,000 queues", Load(0, queues=1000)),
            )
        ]
    for what, hardware, kind in kinds:
        best = runs.largest(hardware, costs, kind, length)
        jobs_per_s = best.nodes * kind.busy / kind.job_s
        print(
            f"{what:44} {best.nodes:>8,} {jobs_per_s:>7,.0f} {best.broker:>7.0%} {runs.limit(best):>12}",
            flush=True,
        )


def moments(costs: Costs, processes: int, *, quick: bool) -> None:
    """What hurts: an outage, everybody at once, a flood of jobs."""
    hardware = Hardware(processes, processes)
    nodes, jobs = (300, 3000) if quick else (10_000, FLOOD_JOBS)
    full = Load(nodes)
    print(f"simulated, {nodes:,} nodes, {processes} API processes")
    print(
        f"{'':44} {'all served':>11} {'heartbeat p99':>14} {'longest':>8} {'lease p99':>10} "
        f"{'longest':>8} {'lost':>5}"
    )
    away = runs.outage(hardware, costs, full, OUTAGE_S)
    show_moment(f"the broker was away for {OUTAGE_S:g} s", away)
    print(f"   meanwhile {away.refused_per_s:,.0f} requests per second were refused")
    show_moment("all heartbeats in one moment", runs.stampede(hardware, costs, replace(full, busy=1.0)))
    for busy in (0.0, 0.5):
        flood = runs.flood(hardware, costs, replace(full, busy=busy), jobs)
        show_moment(f"{jobs:,} jobs submitted, {busy:.0%} were busy", flood)


def show_moment(what: str, moment: Moment) -> None:
    """One line."""
    print(
        f"{what:44} {f'{moment.served_s:.1f} s':>11} {ms(moment.heartbeats_s[0]):>14} "
        f"{ms(moment.heartbeats_s[1]):>8} "
        f"{ms(moment.leases_s[0]):>10} {ms(moment.leases_s[1]):>8} {moment.lost:>5}",
        flush=True,
    )


def compare(costs: Costs, user: ApiUser, sides: Sides, *, quick: bool) -> None:
    """A real cell and a simulated one under the same loads; both share this machine with their client."""
    seconds = 1.0 if quick else 12.0
    mean = Cost(
        *(
            sum(share * getattr(cost, side) for cost, share in zip(_mixed(costs), MIX.values(), strict=True))
            for side in ("api_s", "broker_s", "client_s")
        )
    )
    cores = min(os.cpu_count() or 1, API_WORKERS + 2)
    full_per_s = cores / (mean.api_s + mean.broker_s + mean.client_s)
    print(f"a real cell on {cores} core(s) shared with its client, beside the simulation; open loop")
    print(
        f"{'req/s':>7} {'':>9} {'API cores':>10} {'broker':>8} {'client':>8} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'others, cores':>14}",
        flush=True,
    )
    for share in SHARES[1:2] if quick else SHARES:
        real = RealCell(user, sides, share * full_per_s, seconds, SEED).measure()
        model = simulated(costs, share * full_per_s, seconds, API_WORKERS, cores, SEED)
        show_point("measured", real)
        show_point("simulated", model)
        ratios = (
            model.api / real.api,
            model.broker / real.broker,
            model.client / real.client,
            model.p50_s / real.p50_s,
            model.p99_s / real.p99_s,
        )
        print(
            f"{'':>7} {'ratio':>9} {ratios[0]:>10.2f} " + " ".join(f"{r:>8.2f}" for r in ratios[1:]),
            flush=True,
        )


def _mixed(costs: Costs) -> tuple[Cost, ...]:
    """The costs of what :data:`MIX` names, in its order."""
    return costs.heartbeat, costs.empty_poll, costs.lease, costs.report


def show_point(what: str, point: Point) -> None:
    """One line."""
    print(
        f"{point.rate_per_s:>7,.0f} {what:>9} {point.api:>10.2f} {point.broker:>8.0%} {point.client:>8.0%} "
        f"{ms(point.p50_s):>8} {ms(point.p99_s):>8} {point.others:>14.2f}",
        flush=True,
    )


def shards(folder: Path, *, quick: bool) -> None:
    """The same queues on one server and on three primaries."""
    users, queues, jobs = (10, 3, 2) if quick else (100, 3, 10)
    print(f"{users} users with {queues} queues each, {jobs} jobs per queue, on 1 server and on 3 primaries")
    print(f"{'':>10} {'queues':>7} {'keys':>8} {'scripts':>9} {'in scripts':>11}")
    with ValkeyServer(folder / "one") as one:
        show_spread("server", spread(one.url, users, queues, jobs))
    with Cluster(folder / "cluster") as cluster:
        found = spread(cluster.url, users, queues, jobs)
    show_spread("primary", found)
    print(
        f"   a cluster like this carries {found.times:.2f} times what its busiest primary does alone",
        flush=True,
    )


def show_spread(what: str, found: Spread) -> None:
    """A line per primary."""
    for number, one in enumerate(found.primaries, 1):
        print(
            f"{f'{what} {number}':>10} {one.queues:>7} {one.keys:>8,} {one.scripts:>9,} "
            f"{f'{one.busy_s:.2f} s':>11}"
        )


def ms(seconds: float) -> str:
    """Milliseconds, as many digits as say something."""
    found = seconds * 1e3
    return f"{found:,.0f}" if found >= 100 else f"{found:.1f}"


if __name__ == "__main__":
    main(sys.argv[1:])
