"""Folders to a store and back: Kelpie and its peers in turns, the same work, each in a process of its own.

Figures are medians over rounds; every peer runs once a round, in an order that turns. CPU seconds and peak
memory are the client process's own, as the kernel counted them; no peak reads lower than this process's own.
What a real server was sent is fetched and compared with its source after every run, and what it gave is
compared too: moving wrong bytes fails the benchmark.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.crew import ROOT
from tests.bench.figures import load, spread
from tests.bench.sync.peers import Peer, all_peers, kelpie
from tests.bench.sync.stores import BUCKET, NoCompiler, Storage, null_store, real_server

MIB = 1 << 20
LATENCY_MS = 30
TIMEOUT_S = 600.0
SHARED_MEMORY = Path("/dev/shm")
GOALS = {"one": 1.1, "medium": 1.1, "small": 1.3}
PEAK_GOAL_MIB = 100
RESUME_GOAL_S = 0.15


@dataclass(frozen=True)
class Workload:
    """A folder of files of one size."""

    name: str
    files: int
    size: int  # bytes of each

    @property
    def title(self) -> str:
        size = f"{self.size // MIB} MiB" if self.size >= MIB else f"{self.size // 1024} KiB"
        return f"{self.files} × {size}"


FULL = (Workload("one", 1, 2048 * MIB), Workload("medium", 40, 50 * MIB), Workload("small", 5000, 16 * 1024))
QUICK = (Workload("one", 1, 64 * MIB), Workload("medium", 4, 12 * MIB), Workload("small", 200, 16 * 1024))


@dataclass(frozen=True)
class Run:
    """One process that moved something."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    failure: str = ""
    printed: str = ""


@dataclass
class Bench:
    """Where everything is, and what was seen."""

    home: Path
    rounds: int
    peers: Sequence[Peer]
    judged: bool = True  # whether the sizes are those of the goals
    shortfalls: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def target(self) -> Path:
        """Where a get puts its files."""
        return self.home / "target"

    def source(self, workload: Workload) -> Path:
        """The workload's folder, made at first use, of random bytes."""
        root = self.home / "sources" / workload.name
        if not root.exists():
            block = random.Random(7).randbytes(8 * MIB)
            for number in range(workload.files):
                path = root / f"d{number % 10}" / f"f{number:05}.bin"
                path.parent.mkdir(parents=True, exist_ok=True)
                left, start = workload.size, number * 7919 % (4 * MIB)
                with path.open("wb") as file:
                    while left:
                        left -= file.write(block[start : start + left])
                        start = 0
        return root

    def run(self, argv: Sequence[str], environ: Mapping[str, str]) -> Run:
        """One process to its end, killed after the time limit."""
        # its folder of caches is ours, and no setting of this machine's user matters
        everything = dict(os.environ) | {
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull + "/none",
        }
        output = self.home / "output"
        opened = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        began = time.monotonic()
        try:
            child = os.posix_spawnp(
                argv[0],
                list(argv),
                everything | dict(environ),
                file_actions=[(os.POSIX_SPAWN_DUP2, opened, 1), (os.POSIX_SPAWN_DUP2, opened, 2)],
            )
        finally:
            os.close(opened)
        limit = threading.Timer(TIMEOUT_S, os.kill, (child, signal.SIGKILL))
        limit.start()
        try:
            _, status, used = os.wait4(child, 0)
        finally:
            limit.cancel()
        wall = time.monotonic() - began
        printed = output.read_text(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        failure = f"exit code {code}: {printed.strip()[-300:]}" if code else ""
        return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, failure, printed)

    def move(self, peer: Peer, operation: str, folder: Path, prefix: str, storage: Storage) -> Run:
        """One peer, once."""
        environ = storage.environment
        argv = peer.argv(operation, str(folder), BUCKET, prefix, environ)
        return self.run(argv, environ | dict(peer.environment(environ)))

    def fresh_target(self) -> Path:
        """An empty folder."""
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()
        return self.target

    def compare(self, workload: Workload, storage: Storage) -> str:
        """What is wrong with what was fetched; empty when nothing is."""
        source = self.source(workload)
        wanted = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
        found = {str(path.relative_to(self.target)) for path in self.target.rglob("*") if path.is_file()}
        if wanted != found:
            return f"{len(wanted - found)} files are missing, {len(found - wanted)} are too many"
        for name in wanted:
            one, other = source / name, self.target / name
            if one.stat().st_size != other.stat().st_size:
                return f"{name} has {other.stat().st_size} bytes"
            if storage.keeps and not filecmp.cmp(one, other, shallow=False):
                return f"{name} holds other bytes than its source"
        return ""


def measure(bench: Bench, storage: Storage, workload: Workload, title: str) -> None:
    """Put and get of one workload on one storage, by everybody in turns."""
    runs: dict[str, dict[str, list[Run]]] = {"put": {}, "get": {}}
    for number in range(bench.rounds):
        turn = number % len(bench.peers)
        for peer in [*bench.peers[turn:], *bench.peers[:turn]]:
            mine = {operation: runs[operation].setdefault(peer.name, []) for operation in runs}
            if any(run.failure for each in mine.values() for run in each):
                continue
            prefix = f"{peer.name}/{workload.name}/"
            put = bench.move(peer, "put", bench.source(workload), prefix, storage)
            if not put.failure and storage.keeps:
                # by our own client over boto3, whose bytes a get of everybody else is compared with in turn
                argv = kelpie("get", str(bench.fresh_target()), BUCKET, prefix, {})
                check = bench.run(argv, {**storage.environment, "KELPIE_SYNC_TRANSPORT": "boto3"})
                wrong = check.failure or bench.compare(workload, storage)
                put = Run(put.wall_s, put.cpu_s, put.peak_mib, wrong and f"stored wrongly: {wrong}")
            mine["put"].append(put)
            if put.failure:
                continue
            got = bench.move(peer, "get", bench.fresh_target(), prefix, storage)
            wrong = got.failure or bench.compare(workload, storage)
            mine["get"].append(Run(got.wall_s, got.cpu_s, got.peak_mib, wrong))
            shutil.rmtree(bench.target, ignore_errors=True)
    for operation, by_peer in runs.items():
        _print(bench, f"{operation} {workload.title}, {title}", by_peer, GOALS[workload.name])


def _print(bench: Bench, title: str, by_peer: Mapping[str, Sequence[Run]], goal: float) -> None:
    good = {name: runs for name, runs in by_peer.items() if runs and not any(run.failure for run in runs)}
    walls = {name: statistics.median(run.wall_s for run in runs) for name, runs in good.items()}
    others = [wall for name, wall in walls.items() if name != "kelpie"]
    best = min(others, default=0.0)
    print(f"\n{title}\n   {'':10} {'seconds':>8} {'± of it':>8} {'÷ best':>7} {'CPU s':>7} {'peak MiB':>9}")
    for name, runs in by_peer.items():
        if name not in good:
            why = next((run.failure for run in runs if run.failure), "its put failed")
            print(f"   {name:10} FAILED: {why}")
            bench.failures.append(f"{title}: {name}: {why}")
            continue
        cpu = statistics.median(run.cpu_s for run in runs)
        peak = max(run.peak_mib for run in runs)
        ratio = f"{walls[name] / best:.2f}" if best else "–"
        noise = spread([run.wall_s for run in runs])
        print(f"   {name:10} {walls[name]:8.2f} {noise:>8} {ratio:>7} {cpu:7.2f} {peak:9.0f}", flush=True)
    if "kelpie" in walls and bench.judged:
        peak = max(run.peak_mib for run in good["kelpie"])
        if best and walls["kelpie"] > goal * best:
            bench.shortfalls.append(f"{title}: {walls['kelpie'] / best:.2f} × the fastest peer, goal {goal}")
        if peak > PEAK_GOAL_MIB:
            bench.shortfalls.append(f"{title}: {peak:.0f} MiB at its peak, goal {PEAK_GOAL_MIB}")


def measure_resume(bench: Bench, storage: Storage, workload: Workload) -> None:
    """How long the engine takes to see that nothing has changed, on either side."""
    prefix, folder = f"resume/{workload.name}/", bench.fresh_target()
    put = [*kelpie("put", str(bench.source(workload)), BUCKET, prefix, {})]
    get = [*kelpie("get", str(folder), BUCKET, prefix, {})]
    print(f"\nnothing has changed in {workload.title}, {storage.name}")
    for name, argv in (("put", put), ("get", get)):
        argv.remove("--all")
        seconds = []
        for number in range(1 + max(3, bench.rounds)):
            run = bench.run(argv, storage.environment)
            told = json.loads(run.printed) if not run.failure else {}
            if run.failure or (number and told["files"]):
                bench.failures.append(f"resume {name}: {run.failure or 'files were moved again'}")
                print(f"   {name:10} FAILED: {run.failure or told}")
                return
            seconds.append(told["seconds"])
        again = statistics.median(seconds[1:])
        print(f"   {name:10} {again:8.3f} s of the engine's time {spread(seconds[1:])}", flush=True)
        if again > RESUME_GOAL_S and bench.judged:
            bench.shortfalls.append(f"resume {name}: {again:.3f} s, goal {RESUME_GOAL_S}")


def measure_sparse(bench: Bench, storage: Storage, size_gib: float) -> None:
    """A file with nothing in it, larger than any memory."""
    folder = bench.home / "sparse"
    folder.mkdir()
    with (folder / "sparse.bin").open("wb") as file:
        file.truncate(int(size_gib * 1024 * MIB))
    run = bench.run(kelpie("put", str(folder), BUCKET, "sparse/", {}), storage.environment)
    shutil.rmtree(folder)
    print(f"\nput of a sparse file of {size_gib:g} GiB, {storage.name}")
    if run.failure:
        print(f"   FAILED: {run.failure}")
        bench.failures.append(f"the sparse file: {run.failure}")
        return
    rate = size_gib / run.wall_s
    print(
        f"   {run.wall_s:.1f} s, {rate:.2f} GiB/s, {run.cpu_s:.1f} CPU s, {run.peak_mib:.0f} MiB at its peak"
    )
    if run.peak_mib > PEAK_GOAL_MIB:
        bench.shortfalls.append(f"sparse: {run.peak_mib:.0f} MiB at its peak, goal {PEAK_GOAL_MIB}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sync", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: whether it runs at all")
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody runs (3)")
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
        bench = Bench(home, 1 if given.quick else given.rounds, present, judged=not given.quick)
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
        for name in chosen:
            title, open_store = stores[name]
            try:
                with open_store() as storage:
                    if given.sparse:
                        measure_sparse(bench, storage, given.sparse)
                        continue
                    for workload in workloads:
                        measure(bench, storage, workload, title)
                    for workload in workloads:
                        if workload.name == "small" and name in {"null", "real"}:
                            measure_resume(bench, storage, workload)
            except NoCompiler as error:
                print(f"   without the null store: {error}")
            finally:
                shutil.rmtree(home / "s3", ignore_errors=True)
        print(f"\n   load afterwards {load()}")
        for each in bench.shortfalls:
            print(f"   short: {each}")
        for each in bench.failures:
            print(f"   FAILED: {each}")
        if bench.judged and not bench.shortfalls and not bench.failures:
            print("   every goal was met")
    if bench.failures:
        sys.exit(1)
