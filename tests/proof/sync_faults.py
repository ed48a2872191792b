"""Random files, random faults, and an auditor who compares every object with its source.

A seed draws a job with inputs, a watched folder and outputs, what its command does in them, which faults lie
between the node and the real S3 server, and how the first attempt ends: it completes, its storage fails for
good, it loses its lease, or it becomes a zombie that goes on writing beside the second attempt. The attempts
that follow meet no fault that lasts, and must complete.

The auditor holds: nothing torn is ever visible; a completed attempt's objects are its files, each in its last
version; whoever does not complete has said why; no multipart upload is left.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import logging
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from kelpie.embedded.s3 import S3Server
from kelpie.job import Direction, Sync, SyncEntry
from kelpie_worker.leased import LeasedJob
from kelpie_worker.sync import CanceledTransfer, NullObserver, SyncEngine, SyncError, retry
from kelpie_worker.sync.settings import SyncSettings
from tests.fault_proxy import (
    FLIP_DOWN,
    FLIP_UP,
    RESET,
    RESET_AFTER,
    RESET_MID,
    STALL_MID,
    TRUNCATE,
    Answer,
    FaultProxy,
    Request,
    error,
    is_create,
    is_fetch,
    is_part,
    is_put,
)
from tests.waiting import wait_until

PART = 5 << 20
MAX_FAULTS = 60
"""Per attempt: then the storage is well, so that every attempt ends."""
ENDINGS = ("completes", "storage fails", "lease is lost", "zombie")

Files = dict[str, bytes]


class AuditError(AssertionError):
    """What must hold does not."""


@dataclass
class Plan:
    """Everything that a seed decides."""

    rng: random.Random
    ending: str
    rate: float  # of requests that meet a fault
    faults: list[Answer | str]
    large: bool
    compression: bool

    @classmethod
    def of(cls, seed: int) -> Plan:
        """The plan of a seed."""
        rng = random.Random(seed)
        kinds: list[Answer | str] = [
            *(RESET, RESET_AFTER, RESET_MID, TRUNCATE, FLIP_UP, FLIP_DOWN, STALL_MID),
            *(error(503, "SlowDown"), error(500, "InternalError"), error(400, "RequestTimeout")),
        ]
        return cls(
            rng=rng,
            ending=(ending := rng.choice(ENDINGS)),
            rate=rng.choice([0.0, 0.05, 0.2, 0.4]),
            faults=rng.sample(kinds, rng.randint(1, len(kinds))),
            # Of two completions at one moment this server may believe both: its check is not atomic there.
            large=rng.random() < 0.3 and ending != "zombie",
            compression=rng.random() < 0.25,
        )


class Trouble:
    """The rule of the proxy: what each request meets. Faults are drawn, and end after so many."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._rng = random.Random(seed)
        self._plan = plan
        self._lock = threading.Lock()
        self.count = 0
        self.refuse: str | None = None  # keys with this in them are refused for good
        self.after: tuple[int, threading.Event] | None = None  # so many writes from now, something happens

    def early(self, request: Request) -> Answer | str | None:
        """For a request whose head has arrived."""
        action = self._draw(request)
        return action if action == RESET_MID else None

    def rule(self, request: Request) -> Answer | str | None:
        """For a request that has arrived whole."""
        with self._lock:
            if self.after is not None and request.method in {"PUT", "POST"}:
                left, event = self.after
                self.after = (left - 1, event)
                if left <= 0:
                    event.set()
            refuse = self.refuse
        if refuse is not None and refuse in request.path and request.method in {"PUT", "POST"}:
            return error(403, "AccessDenied")
        action = self._draw(request)
        return None if action == RESET_MID else action

    def _draw(self, request: Request) -> Answer | str | None:
        with self._lock:
            if self.count >= MAX_FAULTS or self._rng.random() >= self._plan.rate / 2:
                return None
            action = self._rng.choice(self._plan.faults)
            # An upload whose id was lost on its way is nobody's: only the bucket's lifecycle rule can end it.
            lost_id = is_create(request) and action in [RESET_AFTER, RESET_MID, TRUNCATE, STALL_MID]
            # Without TLS nothing protects what is no object's body.
            unprotected = (action == FLIP_DOWN and not is_fetch(request)) or (
                action == FLIP_UP and not (is_part(request) or is_put(request))
            )
            if lost_id or unprotected:
                return None
            self.count += 1
            return action


class Command:
    """What the command of one attempt does in a folder; every version that it ever wrote is noted."""

    def __init__(self, scene: Scene, number: int, node: Path) -> None:
        self._rng = random.Random(f"{scene.seed} {number}")
        self._scene = scene
        self._number = number
        self._node = node
        self._count = 0  # no two contents are equal
        self.deletes = scene.plan.ending != "zombie"

    def work(self, folder: Path, steps: int) -> None:
        """Write, replace, rewrite, and delete."""
        for _ in range(steps):
            name = self._rng.choice(["a", "b", "sub/c", "sub/deep/d", "ü &+%", "e.txt"])
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            step = self._rng.random()
            if step < 0.5:
                draft = self._node / "draft"
                draft.write_bytes(self._content(f"{folder.name}/{name}"))
                draft.replace(path)
            elif step < 0.8:
                path.write_bytes(self._content(f"{folder.name}/{name}"))
            elif step < 0.9 and self.deletes:
                path.unlink(missing_ok=True)
            else:
                time.sleep(self._rng.random() * 0.05)  # gives the watcher something to see
        if self._scene.plan.large:
            size = PART + self._rng.randint(1, PART)
            (folder / "large").write_bytes(self._content(f"{folder.name}/large", size))

    def _content(self, name: str, size: int | None = None) -> bytes:
        size = self._rng.choice([0, 1, self._rng.randint(2, 3000)]) if size is None else size
        self._count += 1
        data = mark(self._number) + f"{self._count} ".encode()
        data += (f"{name} {self._rng.random()} ".encode() * (size // 20 + 1))[:size]
        self._scene.versions.setdefault(name, set()).add(data)
        return data


def mark(number: int) -> bytes:
    """How everything that an attempt writes begins."""
    return f"attempt {number}: ".encode()


class Attempt:
    """One attempt at the job of a scene, on a node of its own: what a worker does, step by step."""

    def __init__(self, scene: Scene, number: int, ending: str) -> None:
        self.number = number
        self.completed = False
        self.failure: str | None = None
        self.files: Files = {}
        """What must be in the bucket when it has completed."""
        self._scene = scene
        node = scene.home / f"node-{number}"
        node.mkdir()
        self._lost = threading.Event()
        trouble = Trouble(scene.plan, scene.seed * 10 + number)
        if ending == "storage fails":
            trouble.refuse = scene.plan.rng.choice(["ck/a", "out/a", "out/large", "out/sub"])
        elif ending == "lease is lost":
            trouble.after = (scene.plan.rng.randint(0, 20), self._lost)
        scene.proxy.rule, scene.proxy.early = trouble.rule, trouble.early
        settings = SyncSettings(
            part_size=PART,
            threads=4,
            max_retries=40,
            watcher_debounce_ms=20,
            watcher_max_wait_ms=100,
            watcher_stability_ms=1000,  # of a file that is open: on a busy machine its writer may pause
            temp_dir=node,
            stall_timeout_s=0.5,
        )
        self._engine = SyncEngine(settings, NullObserver(), journal=node / "journal.json")
        self._command = Command(scene, number, node)
        self._folders = {name: node / name for name in ("in", "ck", "out")}

        def entry(name: str, direction: Direction) -> SyncEntry:
            return SyncEntry(scene.bucket, f"{scene.prefix}{name}/", str(self._folders[name]), direction)

        sync = Sync(
            before=(entry("in", Direction.DOWNLOAD), entry("ck", Direction.DOWNLOAD)),
            during=(entry("ck", Direction.UPLOAD),),
            after=(entry("out", Direction.UPLOAD),),
        )
        job = LeasedJob(scene.job_id, number, "true", compression=scene.plan.compression, sync=sync)
        self._job = self._engine.prepare(job, may_write=lambda: not self._lost.is_set())

    def run(self) -> None:
        """From the download to the last upload. AuditError."""
        try:
            self._job.download()
            found = files_in(self._folders["in"])
            if found != self._scene.inputs:
                raise AuditError(f"the inputs arrived as {sorted(found)}")
            self._job.watch()
            self._command.work(self._folders["ck"], 25)
            self._command.work(self._folders["out"], 10)
            self._job.drain()
            self.files = {
                f"{name}/{path}": data
                for name in ("ck", "out")
                for path, data in files_in(self._folders[name]).items()
            }
            self._job.stage()
            self._job.finalize()
            self.completed = True
        except (SyncError, CanceledTransfer) as error:
            self.failure = f"{type(error).__name__}: {error}"
            self._job.abandon()
        finally:
            self._job.clean()

    def close(self) -> None:
        """End the node; what it could not abort is aborted as at its next start."""
        self._engine.recover()
        wait_until(lambda: not self._engine._uploads.load(), "what was left is aborted", timeout_s=10)
        self._engine.close()


def files_in(folder: Path) -> Files:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Scene:
    """One seed: its objects below a prefix of their own, and the attempts at its job."""

    def __init__(self, seed: int, server: S3Server, proxy: FaultProxy, home: Path) -> None:
        self.seed = seed
        self.plan = Plan.of(seed)
        self.proxy = proxy
        self.home = home
        self.bucket = BUCKET
        self.prefix = f"seed-{seed}-{uuid.uuid4().hex[:6]}/"
        self.job_id = str(uuid.uuid4())
        self.versions: dict[str, set[bytes]] = {}  # of each object under ck/ and out/, whoever wrote them
        self.inputs: Files = {"x": b"input", "sub/y": os.urandom(3000), "empty": b""}
        if self.plan.large:
            self.inputs["large"] = os.urandom(PART + 99)
        self._client = server.client()

    def run(self) -> str:
        """The whole story, and how it went. AuditError."""
        for name, data in self.inputs.items():
            self._client.put_object(Bucket=self.bucket, Key=f"{self.prefix}in/{name}", Body=data)
        first = last = Attempt(self, 1, self.plan.ending)
        if self.plan.ending == "zombie":
            zombie = threading.Thread(target=first.run)
            zombie.start()
            last = Attempt(self, 2, "completes")
            last.run()
            zombie.join()
        else:
            first.run()
            if not first.completed:
                self._nothing_is_torn()
                last = Attempt(self, 2, "completes")
                last.run()
        if not last.completed:
            raise AuditError(f"the last attempt did not complete: {last.failure}")
        self._nothing_is_torn()
        self._everything_is_there(last)
        for each in {first, last}:
            each.close()
        self._nothing_is_left()
        return f"{self.plan.ending}: {first.failure or 'completed'}"

    def _objects(self) -> Files:
        """Every object that was uploaded, unpacked."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        found: Files = {}
        for key in (each["Key"] for page in pages for each in page.get("Contents", ())):
            name = key.removeprefix(self.prefix)
            if not name.startswith("in/"):
                data = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
                packed = self.plan.compression
                found[name.removesuffix(".gz") if packed else name] = (
                    gzip.decompress(data) if packed else data
                )
        return found

    def _nothing_is_torn(self) -> None:
        for name, data in self._objects().items():
            if data not in self.versions.get(name, ()):
                raise AuditError(f"{name} is torn: its {len(data)} bytes {data[:60]!r}… are no version of it")

    def _everything_is_there(self, last: Attempt) -> None:
        """The objects are the files of the attempt that completed.

        Outputs of an earlier attempt may be there besides. A zombie may have written what that attempt did
        not: then only that attempt's own writes are compared.
        """
        there, files = self._objects(), last.files
        if self.plan.ending == "zombie":
            files = {name: data for name, data in files.items() if data.startswith(mark(last.number))}
        there = {
            name: data
            for name, data in there.items()
            if name in files or (name.startswith("ck/") and self.plan.ending != "zombie")
        }
        if there != files:
            wrong = [
                f"{name}: {there.get(name, b'-')[:30]!r} rather than {files.get(name, b'-')[:30]!r}"
                for name in sorted(there | files)
                if there.get(name) != files.get(name)
            ]
            raise AuditError(f"the completed attempt's files are not in the bucket: {'; '.join(wrong)}")

    def _nothing_is_left(self) -> None:
        uploads = self._client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ())
        if left := [each["Key"] for each in uploads if each["Key"].startswith(self.prefix)]:
            raise AuditError(f"multipart uploads are left: {left}")


BUCKET = "sync-faults"


@contextlib.contextmanager
def stage(directory: Path) -> Iterator[tuple[S3Server, FaultProxy]]:
    """A server with its bucket and the proxy before it; the process's storage settings lead there."""
    with S3Server(directory / "s3") as server, FaultProxy(server.endpoint) as proxy:
        server.ensure_bucket(BUCKET)
        os.environ.update(server.environment | {"AWS_ENDPOINT_URL_S3": proxy.endpoint})
        yield server, proxy


def run_seed(seed: int, server: S3Server, proxy: FaultProxy, directory: Path) -> str:
    """How the story of the seed went. AuditError."""
    home = directory / f"seed-{seed}"
    home.mkdir()
    try:
        return Scene(seed, server, proxy, home).run()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """Runs seeds; 1 when what must hold did not."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof.sync_faults", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=50)
    options = parser.parse_args(arguments)
    first = options.first_seed if options.seed is None else options.seed
    seeds = range(first, first + (options.seeds if options.seed is None else 1))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    retry.FIRST_PAUSE_S, retry.LONGEST_PAUSE_S = 0.01, 0.1
    ends: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="kelpie-sync-faults-") as directory,
        stage(Path(directory)) as (server, proxy),
    ):
        for seed in seeds:
            try:
                told = run_seed(seed, server, proxy, Path(directory))
            except Exception:  # noqa: BLE001 - it is told
                print(f"seed {seed} fails ({Plan.of(seed)}):\n{traceback.format_exc()}")
                return 1
            ends[told.partition(":")[0]] += 1
            if options.seed is not None:
                print(told)
    print(f"seeds {seeds[0]}…{seeds[-1]}: every object is as its source ({dict(ends)})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
