"""Requests per second of `kelpie api --workers 2`, and how long they take. Not run by pytest as such.

    python -m tests.bench.http_api [--quick] [--rounds N] [--requests N] [--fsync always|everysec|no]

The clients are raw sockets in one process. Beside rates and times stands what a request costs each side in
µs of CPU, which says what a machine can do at best, also on one that is busy with other things.
Goal of issue 3: at least 1,000 leases per second on 2 cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import redis

from kelpie.embedded.processes import Server
from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import MAX_BATCH
from tests.api import ApiServer, ApiUser
from tests.bench.figures import announce, load, percentile, spread
from tests.bench.wire import Connection, Wire
from tests.factories import GROUP, job_body

CLIENTS = (1, 16)
LEASE_GOAL_PER_S = 1000

Answered = Callable[[Connection, int, bytes], None]


class Measured:
    """Requests of one kind by one number of clients: the rates of the rounds, all latencies."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.latencies_ms: list[float] = []
        self.cpu_us: dict[str, list[float]] = defaultdict(list)  # of a request, by who spent it

    def run(
        self, wire: Wire, requests: Sequence[bytes], sides: Sides, *, each: int = 1, answered: Answered
    ) -> None:
        """Send the requests, ``each`` of which is that many pieces of work."""
        left = iter(requests)

        def take(connection: Connection, status: int, body: bytes) -> None:
            if not 200 <= status < 300:
                raise RuntimeError(f"{status}: {body[:300]!r}")
            self.latencies_ms.append(connection.latency_s * 1e3)
            answered(connection, status, body)

        start, before = time.perf_counter(), sides.spent_s()
        wire.drive(lambda connection: next(left, None), take)
        self.rates.append(each * len(requests) / (time.perf_counter() - start))
        for side, seconds in sides.spent_s().items():
            self.cpu_us[side].append((seconds - before[side]) * 1e6 / len(requests))


class Sides:
    """The processes that have part in a request: ours, the API's, the broker's."""

    def __init__(self, server: Server, broker: Server) -> None:
        self._roots = {"api": server.pid, "valkey": broker.pid}

    def spent_s(self) -> dict[str, float]:
        """Seconds of CPU of each so far."""
        spent = {"client": time.process_time()}
        for side, root in self._roots.items():
            # Asked anew every time: the API is ready before the last of its workers has begun.
            family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
            spent[side] = sum(sum(process.cpu_times()[:2]) for process in family)
        return spent


Table = dict[tuple[str, int], Measured]


def main(arguments: Sequence[str]) -> None:
    """Measure, and print a row per kind of request and number of clients."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.http_api", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few requests, one round: does it run?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2000, help="per measurement")
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="always")
    chosen = parser.parse_args(arguments)
    rounds, requests = (1, 50) if chosen.quick else (chosen.rounds, chosen.requests)
    table: Table = defaultdict(Measured)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(ValkeyServer(folder / "valkey", appendfsync=chosen.fsync))
        client = stack.enter_context(contextlib.closing(redis.Redis.from_url(broker.url)))
        server = stack.enter_context(ApiServer(broker.url, folder / "api"))
        announce(f"HTTP: {requests} requests per measurement, {rounds} round(s), 2 API workers", client)
        user = server.new_user()
        sides = Sides(server, broker)
        for _ in range(rounds):
            for clients in CLIENTS:
                one_round(table, user, sides, clients, requests)
    show(table)
    print(f"   load afterwards {load()}\n", flush=True)


def one_round(table: Table, user: ApiUser, sides: Sides, clients: int, requests: int) -> None:
    """Every kind of request: jobs are submitted, leased, kept and completed."""
    wire = Wire(user.server.port, user.key, clients)
    leases: list[tuple[str, bytes]] = []  # a job's id, and what its holder reports

    def remember(connection: Connection, status: int, body: bytes) -> None:
        (job,) = json.loads(body)
        report = {
            "machine_id": job["machine_id"],
            "container_group_id": job["container_group_id"],
            "lease": job["lease"],
        }
        leases.append((job["id"], json.dumps(report).encode()))

    def run(kind: str, sent: Sequence[bytes], each: int = 1, answered: Answered = ignore) -> None:
        table[kind, clients].run(wire, sent, sides, each=each, answered=answered)

    try:
        submit = wire.request("POST", "/jobs", job_body())
        batch = wire.request("POST", "/jobs/batch", [job_body()] * MAX_BATCH)
        polls = [
            wire.request("GET", f"/work?machine_id=node-{number}&container_group_id={GROUP}")
            for number in range(requests)
        ]
        run("submit", [submit] * requests)
        run("job of a batch of 1000", [batch] * max(1, requests // 200), MAX_BATCH)
        run("lease", polls, answered=remember)
        if len({job_id for job_id, _ in leases}) != requests:
            raise RuntimeError("a job was leased twice")
        run("heartbeat", [wire.request("POST", f"/jobs/{job_id}/heartbeat", r) for job_id, r in leases])
        run("completed", [wire.request("POST", f"/jobs/{job_id}/completed", r) for job_id, r in leases])
        run("GET one job", [wire.request("GET", f"/jobs/{job_id}") for job_id, _ in leases])
        user.ok("DELETE", f"/jobs/container-groups/{GROUP}")
        run("lease, no job there", polls)
    finally:
        wire.close()


def ignore(connection: Connection, status: int, body: bytes) -> None:
    """An answer of which only the status matters."""


def show(table: Table) -> None:
    """A row per kind of request."""
    print(
        f"{'':24} {'clients':>8} {'per s':>9} {'noise':>7} {'p50 ms':>8} {'p99 ms':>8}   "
        f"{'CPU µs: api':>12} {'valkey':>8} {'client':>8}"
    )
    for (kind, clients), measured in sorted(table.items(), key=lambda entry: entry[0][1]):
        cpu = {side: statistics.median(found) for side, found in measured.cpu_us.items()}
        print(
            f"{kind:24} {clients:>8} {statistics.median(measured.rates):>9,.0f} {spread(measured.rates):>7} "
            f"{percentile(measured.latencies_ms, 0.5):>8.2f} {percentile(measured.latencies_ms, 0.99):>8.2f} "
            f"  {cpu['api']:>12,.0f} {cpu['valkey']:>8,.0f} {cpu['client']:>8,.0f}"
        )
    best = statistics.median(table["lease", max(CLIENTS)].rates)
    print(f"   leases/s with {max(CLIENTS)} clients: {best:,.0f} (goal: {LEASE_GOAL_PER_S:,})")


if __name__ == "__main__":
    main(sys.argv[1:])
