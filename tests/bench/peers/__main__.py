"""Jobs per second of Kelpie and its peers, in turns on one server. Not run by pytest as such.

    python -m tests.bench.peers [--quick] [--rounds N] [--jobs N] [--fsync always,everysec,no]

Each peer as it comes: RQ's SimpleWorker does one job at a time, Dramatiq eight, in threads, and fetches
ahead; BullMQ one and, apart, eight. Kelpie is held against each with as many nodes per process as that one
has jobs at a time. A dequeue is a job of nothing taken *and* acknowledged: for Kelpie a lease and a
completion, two round trips. Every round measures everybody before the next round begins, so that noise meets
all alike; the middle round counts, and the spread is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from kelpie.embedded.valkey import ValkeyServer
from tests.bench.crew import crew
from tests.bench.figures import announce, load, spread

HERE = Path(__file__).parent
WORKERS = (1, 4)
ROLES = ("enqueue", "bulk", "dequeue", "lease")


@dataclass(frozen=True)
class Seen:
    """One measurement: jobs per second, and what each job cost the clients and the server in µs of CPU."""

    rate: float
    client_us: float
    server_us: float


Rounds = dict[tuple[str, str, int], list[Seen]]
"""What was seen in each round, by peer, role and number of processes."""


@dataclass(frozen=True)
class Peer:
    """One way to use one queue."""

    name: str
    argv: tuple[str, ...]
    roles: tuple[str, ...]
    filler: str  # how the jobs that are dequeued get in
    at_once: int = 1  # jobs per process
    more: tuple[str, ...] = ()
    cwd: Path | None = None

    def run(self, server: ValkeyServer, role: str, workers: int, jobs: int) -> Seen:
        """That many processes in one role, on an empty server."""
        with contextlib.closing(redis.Redis.from_url(server.url)) as client:
            client.flushall()
        url = server.url
        taking = role in ("dequeue", "lease")
        if taking:
            with crew([self._command(self.filler, url, jobs)], cwd=self.cwd) as one:
                one.rate(jobs)
        each = jobs if taking else jobs // workers
        with crew([self._command(role, url, each)] * workers, cwd=self.cwd) as all_of_them:
            before = server_cpu_s(server)
            rate, client_us = all_of_them.rate(jobs if taking else each * workers)
            return Seen(rate, client_us, (server_cpu_s(server) - before) * 1e6 / jobs)

    def _command(self, role: str, url: str, count: int) -> list[str]:
        return [*self.argv, role, url, str(count), *self.more]


def server_cpu_s(server: ValkeyServer) -> float:
    """Seconds of CPU that the server has used."""
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


def python(module: str) -> tuple[str, ...]:
    """The argv of a member that is a module."""
    return sys.executable, "-m", f"tests.bench.peers.{module}"


TOGETHER = 8
KELPIE = Peer("Kelpie", python("on_kelpie"), ROLES, "bulk")
KELPIE_TOGETHER = Peer(
    f"Kelpie ×{TOGETHER}", python("on_kelpie"), ("dequeue", "lease"), "bulk", TOGETHER, more=(str(TOGETHER),)
)
RQ = Peer("RQ", python("on_rq"), ("enqueue", "bulk", "dequeue"), "bulk")
DRAMATIQ = Peer("Dramatiq", python("on_dramatiq"), ("enqueue", "dequeue"), "enqueue", TOGETHER)


def bullmq(folder: Path) -> list[Peer]:
    """BullMQ, installed into a folder; says so when it cannot be."""
    if not (shutil.which("node") and shutil.which("npm")):
        print("BullMQ is left out: there is no node with npm")
        return []
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    try:
        subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
            cwd=folder,
            check=True,
            timeout=120,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"BullMQ is left out: npm ci failed: {error}")
        return []
    argv = ("node", str(HERE / "on_bullmq.mjs"))
    return [
        Peer("BullMQ", argv, ("enqueue", "bulk", "dequeue"), "bulk", cwd=folder),
        Peer(f"BullMQ ×{TOGETHER}", argv, ("dequeue",), "bulk", TOGETHER, more=(str(TOGETHER),), cwd=folder),
    ]


def main(arguments: Sequence[str]) -> None:
    """Measure, and print a table per number of worker processes."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few jobs, one round, no BullMQ: does it run?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2000, help="per measurement")
    parser.add_argument("--fsync", default="everysec", help="what to measure with, separated by commas")
    chosen = parser.parse_args(arguments)
    rounds, jobs, workers = (1, 100, (2,)) if chosen.quick else (chosen.rounds, chosen.jobs, WORKERS)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        peers = [KELPIE, KELPIE_TOGETHER, RQ]
        if importlib.util.find_spec("dramatiq"):
            peers.append(DRAMATIQ)
        else:
            print("Dramatiq is left out: it is not installed (make bench installs it)")
        if not chosen.quick:
            (folder / "node").mkdir()
            peers += bullmq(folder / "node")
        for fsync in chosen.fsync.split(",")[: 1 if chosen.quick else None]:
            with ValkeyServer(folder / fsync, appendfsync=fsync) as server:
                with contextlib.closing(redis.Redis.from_url(server.url)) as client:
                    announce(f"peers: {jobs} jobs per measurement, {rounds} round(s)", client)
                    show(peers, workers, measure(peers, workers, server, rounds, jobs))
                print(f"   load afterwards {load()}\n", flush=True)


def measure(
    peers: Sequence[Peer], numbers: Sequence[int], server: ValkeyServer, rounds: int, jobs: int
) -> Rounds:
    """Everybody in every role, round after round."""
    seen: Rounds = defaultdict(list)
    for _ in range(rounds):
        for workers in numbers:
            for role in ROLES:
                for peer in peers:
                    if role in peer.roles:
                        seen[peer.name, role, workers].append(peer.run(server, role, workers, jobs))
    return seen


def show(peers: Sequence[Peer], numbers: Sequence[int], seen: Rounds) -> None:
    """The medians, how far the rounds were apart, and what Kelpie does for each job of a peer's."""
    for workers in numbers:
        print(f"{f'{workers} process(es), jobs/s':22}" + "".join(f"{peer.name:>16}" for peer in peers))
        for role in ROLES:
            rows: dict[str, list[str]] = {"": [], "  Kelpie ÷ this": [], "  CPU µs, client+server": []}
            for peer in peers:
                found = seen.get((peer.name, role, workers))
                like = KELPIE if peer.at_once == 1 or role not in KELPIE_TOGETHER.roles else KELPIE_TOGETHER
                cells = ["–", "", ""] if found is None else _cells(found, seen[like.name, role, workers])
                if peer in (KELPIE, KELPIE_TOGETHER):
                    cells[1] = ""
                for row, cell in zip(rows.values(), cells, strict=True):
                    row.append(cell)
            for what, row in rows.items():
                if any(row):
                    print(f"{what or role:22}" + "".join(f"{cell:>16}" for cell in row))


def _cells(found: Sequence[Seen], ours: Sequence[Seen]) -> list[str]:
    rates = [seen.rate for seen in found]
    middle = statistics.median(rates)
    client = statistics.median(seen.client_us for seen in found)
    server = statistics.median(seen.server_us for seen in found)
    ratio = statistics.median(seen.rate for seen in ours) / middle
    return [f"{middle:,.0f} {spread(rates):>6}", f"{ratio:.2f}       ", f"{client:.0f}+{server:.0f}       "]


if __name__ == "__main__":
    main(sys.argv[1:])
