"""Kills Valkey under load, or cuts its power, and counts what was acknowledged and is gone.

    python -m tests.proof.durability [--rounds N] [--power-cut] [--appendfsync always|everysec|no]
        [--lie] [--volatile]

In each round clients submit, lease and complete jobs as fast as they can, and write down what the server has
acknowledged. Then it gets SIGKILL. A power cut is simulated on top: of the append-only file only that part
survives which had really been synced (powercut.c, preloaded into the server, keeps account). It starts again,
and every job that was acknowledged must be there; every completion that was acknowledged must stand.

The data lives on through all rounds, so a later restart must not lose what an earlier one kept.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import UnavailableError
from kelpie.job import Holder, JobStatus, Outcome
from kelpie.store import Filter, Store
from kelpie.store.connection import make_client
from tests.factories import GROUP, spec
from tests.proof import preload
from tests.waiting import wait_until

USER = "11111111-1111-4111-8111-111111111111"
CLIENTS = 4
BATCH = 3
SOURCE = Path(__file__).with_name("powercut.c")

Fsync = Literal["always", "everysec", "no"]


class Broker(ValkeyServer):
    """A server whose power can be cut."""

    def __init__(
        self,
        directory: Path,
        appendfsync: Fsync,
        shim: Path | None,
        *,
        lie: bool = False,
        volatile: bool = False,
    ) -> None:
        """``lie``: its disk says that it has synced and has not. ``volatile``: it keeps no file at all."""
        super().__init__(directory, appendfsync=appendfsync)
        self._shim = shim
        self._lie = lie
        self._volatile = volatile

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        argv, environment = super().prepare()
        if self._volatile:
            argv += ["--appendonly", "no"]
        if self._shim is not None:
            environment = environment | {"LD_PRELOAD": str(self._shim)}
            if self._lie:
                environment["POWERCUT_LIE"] = "1"
        return argv, environment

    def cut_power(self) -> int:
        """SIGKILL, and what was not synced is gone; how many bytes that were."""
        self.kill()
        assert self._shim is not None, "only a server with the shim knows what was synced"
        lost = 0
        for file in self.directory.rglob("*.aof"):
            note = Path(f"{file}.synced")
            kept = int(note.read_text()) if note.exists() else 0
            size = file.stat().st_size
            lost += max(0, size - kept)
            os.truncate(file, min(kept, size))
        return lost


@dataclass
class Acknowledged:
    """What the server has said yes to."""

    submitted: set[str] = field(default_factory=set)
    completed: set[str] = field(default_factory=set)


@dataclass
class Losses:
    """What rounds of killing have cost."""

    rounds: int = 0
    submitted: int = 0
    completed: int = 0
    lost_jobs: int = 0
    lost_completions: int = 0
    unsynced_bytes: int = 0

    @property
    def any(self) -> bool:
        """Whether anything that was acknowledged is gone."""
        return bool(self.lost_jobs or self.lost_completions)

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds: {self.submitted} submits and {self.completed} completions acknowledged, "
            f"{self.lost_jobs} jobs and {self.lost_completions} completions lost; "
            f"{self.unsynced_bytes} bytes were not synced"
        )


def client(url: str, number: int, said: Acknowledged, lock: threading.Lock, stop: threading.Event) -> None:
    """Submits, leases and completes until the server is gone."""
    store = Store(make_client(url))
    node, polls = f"node-{number}", 0
    try:
        while not stop.is_set():
            jobs = store.submit(USER, [spec() for _ in range(BATCH)])
            with lock:
                said.submitted |= {job.id for job in jobs}
            for _ in range(BATCH - 1):  # so that some are left
                polls += 1
                lease = store.lease(USER, GROUP, node, f"{os.urandom(8).hex()}-{polls}")
                if lease is None:
                    continue
                store.finish(lease.job.id, Holder(node, lease.secret), Outcome.COMPLETED)
                with lock:
                    said.completed.add(lease.job.id)
    except UnavailableError:
        return
    finally:
        store.close()


def one_round(broker: Broker, said: Acknowledged, draw: random.Random, *, power_cut: bool) -> int:
    """Load, death, restart; how many bytes a power cut took."""
    lock, stop = threading.Lock(), threading.Event()
    before = len(said.completed)
    threads = [
        threading.Thread(target=client, args=(broker.url, number, said, lock, stop))
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    enough = before + draw.randint(1, 60)  # the moment of death varies with what has been done, not with time
    try:
        wait_until(lambda: len(said.completed) >= enough, "jobs are completed", poll_s=0.002)
        lost = broker.cut_power() if power_cut else 0
        broker.kill()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    broker.start()
    return lost


def count_losses(url: str, said: Acknowledged) -> tuple[int, int]:
    """How many acknowledged jobs are gone, and how many acknowledged completions do not stand."""
    store = Store(make_client(url))
    try:
        found: dict[str, JobStatus] = {}
        number = 1
        while jobs := store.page(USER, Filter(), number=number, size=1000).jobs:
            found |= {job.id: job.status for job in jobs}
            number += 1
        lost = [job_id for job_id in said.submitted if job_id not in found]
        undone = [job_id for job_id in said.completed if found.get(job_id) is not JobStatus.COMPLETED]
        return len(lost), len(undone)
    finally:
        store.close()


def run(
    directory: Path,
    rounds: int,
    *,
    power_cut: bool,
    appendfsync: Fsync = "always",
    lie: bool = False,
    volatile: bool = False,
    seed: int = 0,
) -> Losses:
    """So many deaths, and what they cost. Stops at the first that costs something."""
    draw, said, losses = random.Random(seed), Acknowledged(), Losses()
    shim = preload.build(SOURCE, directory) if power_cut else None
    with Broker(directory / "valkey", appendfsync, shim, lie=lie, volatile=volatile) as broker:
        for _ in range(rounds):
            losses.unsynced_bytes += one_round(broker, said, draw, power_cut=power_cut)
            losses.rounds += 1
            losses.lost_jobs, losses.lost_completions = count_losses(broker.url, said)
            if losses.any:
                break
    losses.submitted, losses.completed = len(said.submitted), len(said.completed)
    return losses


def main(arguments: Sequence[str]) -> int:
    """Prints what was lost; 1 when it was anything."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof.durability", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--power-cut", action="store_true", help="lose what was not synced, too")
    parser.add_argument("--appendfsync", choices=("always", "everysec", "no"), default="always")
    parser.add_argument("--lie", action="store_true", help="with a disk that lies about syncing")
    parser.add_argument("--volatile", action="store_true", help="with a server that keeps no file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        losses = run(
            Path(directory),
            options.rounds,
            power_cut=options.power_cut,
            appendfsync=options.appendfsync,
            lie=options.lie,
            volatile=options.volatile,
            seed=options.seed,
        )
    print(f"{losses} ({time.monotonic() - started:.1f} s)")
    return 1 if losses.any else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
