"""Folders to a store and back: Kelpie and its peers in turns, the same work, each in a process of its own.

Figures are medians over rounds; every peer runs once a round, in an order that turns. CPU seconds and peak
memory are the client process's own, as the kernel counted them; no peak reads lower than this process's own.
What a real server was sent is fetched and compared with its source in the first round, and what it gave is
compared in every one: moving wrong bytes fails the benchmark.

It ends in time: a peer that takes many times as long as Kelpie is stopped, one that is far behind the fastest
after the first round runs no second, and rounds end when their share of ``--minutes`` is used up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tests.bench.crew import ROOT
from tests.bench.figures import load, spread
from tests.bench.sync.moves import MIB, PREFIX, TIMEOUT_S, Bench, Run, Workload
from tests.bench.sync.peers import Peer, all_peers, kelpie
from tests.bench.sync.stores import NoCompiler, Storage, null_store, real_server
from tests.bench.sync.table import GOALS, OURS, PEAK_GOAL_MIB, Findings

LATENCY_MS = 30
SHARED_MEMORY = Path("/dev/shm")
RESUME_GOAL_S = 0.15
SPARSE_TIMEOUT_S = 3600.0
STOPPED_AT = 8.0
"""A peer that takes so many times as long as Kelpie is stopped, but never before:"""
STOPPED_AT_LEAST_S = 20.0
FAR_BEHIND = 3.0
"""A peer that takes so many times as long as the fastest runs one round only."""

FULL = (Workload("one", 1, 2048 * MIB), Workload("medium", 40, 50 * MIB), Workload("small", 5000, 16 * 1024))
QUICK = (Workload("one", 1, 64 * MIB), Workload("medium", 4, 12 * MIB), Workload("small", 200, 16 * 1024))
WAYS = ("put", "get")
Runs = dict[str, dict[str, list[Run]]]
"""put or get → peer → its runs."""


def measure(
    bench: Bench, found: Findings, storage: Storage, workload: Workload, title: str, until: float
) -> None:
    """Put and get of one workload on one storage, by everybody in turns; no round begins that is likely to
    end after ``until`` (of the monotonic clock), but the first."""
    runs: Runs = {way: {peer.name: [] for peer in bench.peers} for way in WAYS}
    for number in range(bench.rounds):
        began = time.monotonic()
        turn = number % len(bench.peers)
        for peer in [*bench.peers[turn:], *bench.peers[:turn]]:
            if number and _is_enough(runs, peer.name):
                continue
            put, got = _there_and_back(bench, storage, workload, peer, runs, checked=not number)
            for way, run in (("put", put), ("get", got)):
                if run is not None:
                    runs[way][peer.name].append(run)
            told = [run.failure or f"{run.wall_s:.2f} s" for run in (put, got) if run is not None]
            print(f"   … {title}, {workload.title}, {number + 1}: {peer.name} {' / '.join(told)}", flush=True)
        if 2 * time.monotonic() - began > until:
            break
    for way, by_peer in runs.items():
        found.table(f"{way} {workload.title}, {title}", by_peer, GOALS[workload.name])


def _there_and_back(
    bench: Bench, storage: Storage, workload: Workload, peer: Peer, runs: Runs, *, checked: bool
) -> tuple[Run, Run | None]:
    """One put and one get of one peer; ``checked``: what it stored is compared too."""
    bucket = storage.fresh_bucket()
    limits = {way: _limit_s(peer, runs[way]) for way in WAYS}
    put = bench.move(peer, "put", bench.source(workload), bucket, storage, limits["put"])
    if not put.failure and storage.keeps and checked:
        # ours is read over boto3: another client than the one that stored it
        argv = kelpie("get", str(bench.fresh_target()), bucket, PREFIX, {})
        transport = {"KELPIE_SYNC_TRANSPORT": "boto3" if peer.name == OURS else "auto"}
        check = bench.run(argv, {**storage.environment, **transport})
        wrong = check.failure or bench.compare(workload, storage)
        put = Run(put.wall_s, put.cpu_s, put.peak_mib, wrong and f"stored wrongly: {wrong}")
    if put.failure:
        return put, None
    got = bench.move(peer, "get", bench.fresh_target(), bucket, storage, limits["get"])
    wrong = got.failure or bench.compare(workload, storage)
    shutil.rmtree(bench.target, ignore_errors=True)
    return put, Run(got.wall_s, got.cpu_s, got.peak_mib, wrong, late=got.late)


def _limit_s(peer: Peer, by_peer: dict[str, list[Run]]) -> float:
    ours = by_peer[OURS]
    if peer.name == OURS or not ours:
        return TIMEOUT_S
    return min(TIMEOUT_S, max(STOPPED_AT_LEAST_S, STOPPED_AT * max(run.wall_s for run in ours)))


def _is_enough(runs: Runs, name: str) -> bool:
    """Whether another round of this peer would tell nothing: it failed, or is far behind both ways."""
    behind = []
    for by_peer in runs.values():
        mine = by_peer[name]
        if not mine or any(run.failure for run in mine):
            return True
        fastest = min(run.wall_s for each in by_peer.values() for run in each if not run.failure)
        behind.append(min(run.wall_s for run in mine) > FAR_BEHIND * fastest)
    return name != OURS and all(behind)


def measure_resume(bench: Bench, found: Findings, storage: Storage, workload: Workload) -> None:
    """How long the engine takes to see that nothing has changed, on either side."""
    bucket, folder = storage.fresh_bucket(), bench.fresh_target()
    put = [*kelpie("put", str(bench.source(workload)), bucket, PREFIX, {})]
    get = [*kelpie("get", str(folder), bucket, PREFIX, {})]
    print(f"\nnothing has changed in {workload.title}, {storage.name}")
    for name, argv in (("put", put), ("get", get)):
        argv.remove("--all")
        seconds = []
        for number in range(1 + max(3, bench.rounds)):
            run = bench.run(argv, storage.environment)
            told = json.loads(run.printed) if not run.failure else {}
            if run.failure or (number and told["files"]):
                found.failures.append(f"resume {name}: {run.failure or 'files were moved again'}")
                print(f"   {name:10} FAILED: {run.failure or told}")
                return
            seconds.append(told["seconds"])
        again = statistics.median(seconds[1:])
        print(f"   {name:10} {again:8.3f} s of the engine's time {spread(seconds[1:])}", flush=True)
        found.rows.append(
            f"{f'{name}, nothing has changed, {storage.name}':42} {again:7.3f} s of the engine's time"
        )
        if again > RESUME_GOAL_S:
            found.short(f"resume {name}: {again:.3f} s, goal {RESUME_GOAL_S}")


def measure_sparse(bench: Bench, found: Findings, storage: Storage, size_gib: float) -> None:
    """A file with nothing in it, larger than any memory."""
    folder = bench.home / "sparse"
    folder.mkdir()
    with (folder / "sparse.bin").open("wb") as file:
        file.truncate(int(size_gib * 1024 * MIB))
    argv = kelpie("put", str(folder), storage.fresh_bucket(), PREFIX, {})
    run = bench.run(argv, storage.environment, SPARSE_TIMEOUT_S)
    shutil.rmtree(folder)
    print(f"\nput of a sparse file of {size_gib:g} GiB, {storage.name}")
    if run.failure:
        print(f"   FAILED: {run.failure}")
        found.failures.append(f"the sparse file: {run.failure}")
        return
    rate = size_gib / run.wall_s
    print(
        f"   {run.wall_s:.1f} s, {rate:.2f} GiB/s, {run.cpu_s:.1f} CPU s, {run.peak_mib:.0f} MiB at its peak"
    )
    if run.peak_mib > PEAK_GOAL_MIB:
        found.short(f"sparse: {run.peak_mib:.0f} MiB at its peak, goal {PEAK_GOAL_MIB}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sync", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: whether it runs at all")
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody runs, at most (3)")
    parser.add_argument("--minutes", type=float, default=28.0, help="what all rounds may take (28)")
    parser.add_argument("--peers", default="", help="only these, separated by commas; Kelpie always")
    parser.add_argument("--workloads", default="one,medium,small", help="only these (one,medium,small)")
    parser.add_argument(
        "--stores",
        default="null,null-tls,null-far,real,real-tls",
        help="only these (null,null-tls,null-far,real,real-tls)",
    )
    parser.add_argument(
        "--sparse", type=float, metavar="GIB", help="only this: put a sparse file of that size"
    )
    parser.add_argument("--home", type=Path, help="where the files are; default: shared memory")
    return parser.parse_args(argv)


@contextlib.contextmanager
def _home(wanted: Path | None) -> Iterator[Path]:
    place = wanted or (SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None)
    made = Path(tempfile.mkdtemp(prefix="kelpie-bench-", dir=place))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run it; exit code 1 when something failed, also when wrong bytes were moved."""
    given = _arguments(argv)
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that gigabytes are removed then, too
    wanted = set(filter(None, given.peers.split(","))) | {"kelpie"}
    every = [peer for peer in all_peers() if not given.peers or peer.name in wanted]
    workloads = [each for each in (QUICK if given.quick else FULL) if each.name in given.workloads.split(",")]
    print(f"== sync: {os.cpu_count()} cores, load {load()}", flush=True)
    for peer in every:
        if peer.missing:
            print(f"   without {peer.name}: {peer.missing}")
    with _home(given.home) as home:
        present = [peer for peer in every if not peer.missing]
        bench = Bench(home, 1 if given.quick else given.rounds, present)
        found = Findings(judged=not given.quick)
        stores: dict[str, tuple[str, Callable[[], AbstractContextManager[Storage]]]] = {
            "null": ("null store over HTTP", lambda: null_store(home, tls=False, delay_ms=0)),
            "null-tls": ("null store over HTTPS", lambda: null_store(home, tls=True, delay_ms=0)),
            "null-far": (
                f"null store {LATENCY_MS} ms away",
                lambda: null_store(home, tls=False, delay_ms=LATENCY_MS),
            ),
            "real": ("real server over HTTP", lambda: real_server(home, tls=False)),
            "real-tls": ("real server over HTTPS", lambda: real_server(home, tls=True)),
        }
        chosen = ["null"] if given.sparse else given.stores.split(",")
        sections, ends = len(chosen) * len(workloads), time.monotonic() + 60 * given.minutes
        for name in chosen:
            title, open_store = stores[name]
            try:
                with open_store() as storage:
                    if given.sparse:
                        measure_sparse(bench, found, storage, given.sparse)
                        continue
                    for workload in workloads:
                        share_s = max(0.0, ends - time.monotonic()) / sections
                        measure(bench, found, storage, workload, title, time.monotonic() + share_s)
                        sections -= 1
                        if workload.name == "small" and name in {"null", "real"}:
                            measure_resume(bench, found, storage, workload)
            except NoCompiler as error:
                print(f"   without the null store: {error}")
            finally:
                shutil.rmtree(home / "s3", ignore_errors=True)
        found.summary()
        print(f"   load afterwards {load()}")
    if found.failures:
        sys.exit(1)
