"""What the benchmark moves, and how: folders, one process at a time; and what arrived compared with them."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.sync.peers import Peer
from tests.bench.sync.stores import Storage

MIB = 1 << 20
TIMEOUT_S = 300.0
PREFIX = "data/"


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
    late: bool = False  # killed after the time limit: slow, which is no failure of the benchmark


@dataclass
class Bench:
    """Where everything is, and who takes part."""

    home: Path
    rounds: int
    peers: Sequence[Peer]

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

    def run(self, argv: Sequence[str], environ: Mapping[str, str], limit_s: float = TIMEOUT_S) -> Run:
        """One process to its end, killed after the time limit."""
        # its folder of caches is ours, and no setting of this machine's user matters
        everything = dict(os.environ) | {
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull + "/none",
        }
        everything.pop("AWS_CA_BUNDLE", None)
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
        late = threading.Event()

        def end() -> None:
            late.set()
            os.kill(child, signal.SIGKILL)

        limit = threading.Timer(limit_s, end)
        limit.start()
        try:
            _, status, used = os.wait4(child, 0)
        finally:
            limit.cancel()
        wall = time.monotonic() - began
        printed = output.read_text(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        failure = f"exit code {code}: {printed.strip()[-300:]}" if code else ""
        if late.is_set():
            failure = f"not done after {limit_s:.0f} s"
        cpu = used.ru_utime + used.ru_stime
        return Run(wall, cpu, used.ru_maxrss / 1024, failure, printed, late.is_set())

    def move(
        self, peer: Peer, operation: str, folder: Path, bucket: str, storage: Storage, limit_s: float
    ) -> Run:
        """One peer, once."""
        environ = dict(storage.environment)
        argv = peer.argv(operation, str(folder), bucket, PREFIX, environ)
        return self.run(argv, environ | dict(peer.environment(environ)), limit_s)

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
