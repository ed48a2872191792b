"""A queue and a sync engine in memory, to drive one attempt through every turn of its states."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kelpie.job import (
    NOTHING_KNOWN,
    CommandEnd,
    FinishReply,
    HeartbeatReply,
    JobStatus,
    LogBatch,
    LogLine,
    Outcome,
    UploadBacklog,
)
from kelpie.progress import ProgressReport
from kelpie.transfers import EntryTransfers, TransferReport
from kelpie_worker.disk import NoRoomError
from kelpie_worker.leased import LeasedJob
from kelpie_worker.settings import Settings
from kelpie_worker.sync import CanceledTransfer, SyncError
from kelpie_worker.sync.backlog import Backlog


def settings(folder: Path, **values: Any) -> Settings:
    return Settings(
        **(
            {"machine_id": "node-1", "state_file": folder / "state.json", "grace_s": 10.0, "poll_wait_s": 1.0}
            | values
        )
    )


def shell_job(script: str, **values: Any) -> LeasedJob:
    return LeasedJob(
        **(
            {
                "id": "job-1",
                "attempt": 1,
                "command": "sh",
                "arguments": ("-c", script),
                "lease": "secret",
                "heartbeat_interval": 30,
            }
            | values
        )
    )


@dataclass
class MemoryQueue:
    """Hands out ``jobs``, then None; remembers every report; raises what a test has put in ``errors``."""

    jobs: list[LeasedJob] = field(default_factory=list)
    reports: list[tuple[Any, ...]] = field(default_factory=list)
    ends: list[CommandEnd] = field(default_factory=list)  # of the commands that failed
    batches: list[LogBatch] = field(default_factory=list)
    errors: dict[str, list[Exception]] = field(
        default_factory=dict
    )  # each call raises the first and drops it
    status: JobStatus = JobStatus.RUNNING
    reason: str | None = None
    down: Exception | None = None  # every call raises it
    drain: bool = False
    node_bans: int = 1
    beats: int = 0
    backlogs: list[UploadBacklog | None] = field(default_factory=list)
    progress: list[ProgressReport] = field(default_factory=list)
    transfers: list[TransferReport] = field(default_factory=list)
    on_empty: Callable[[], None] | None = None
    stopped: threading.Event = field(default_factory=threading.Event)

    def _meet(self, call: str) -> None:
        if self.down is not None:
            raise self.down
        if self.errors.get(call):
            raise self.errors[call].pop(0)

    def lease(self, wait_s: float) -> LeasedJob | None:
        self._meet("lease")
        if self.jobs:
            return self.jobs.pop(0)
        if self.on_empty is not None:
            self.on_empty()
        self.stopped.wait(0.05)
        return None

    def heartbeat(
        self,
        job: LeasedJob,
        backlog: UploadBacklog | None = None,
        progress: ProgressReport | None = None,
        transfers: TransferReport | None = None,
    ) -> HeartbeatReply:
        self._meet("heartbeat")
        self.backlogs.append(backlog)
        if progress is not None:
            self.progress.append(progress)
        if transfers is not None:
            self.transfers.append(transfers)
        self.beats += 1
        return HeartbeatReply(self.status, self.reason, drain=self.drain)

    def completed(self, job: LeasedJob) -> FinishReply:
        self._meet("completed")
        self.reports.append(("completed", job.id))
        return FinishReply(JobStatus.COMPLETED, 0, 0)

    def failed(
        self,
        job: LeasedJob,
        outcome: Outcome,
        exit_code: int | None,
        reason: str | None,
        end: CommandEnd = NOTHING_KNOWN,
    ) -> FinishReply:
        self._meet("failed")
        self.ends.append(end)
        self.reports.append((outcome.value, job.id, exit_code, reason))
        return FinishReply(JobStatus.RUNNING, 1, self.node_bans)

    def released(self, job: LeasedJob) -> FinishReply:
        self._meet("released")
        self.reports.append(("released", job.id))
        return FinishReply(JobStatus.RUNNING, 0, 0)

    def log(self, job: LeasedJob, batch: LogBatch) -> None:
        self._meet("log")
        self.batches.append(batch)

    @property
    def lines(self) -> list[LogLine]:
        return [line for batch in self.batches for line in batch.lines]

    def stop_leasing(self) -> None:
        self.stopped.set()

    def close(self) -> None: ...


class MemorySync:
    """One job's data: notes the order of calls; fails or blocks in the steps that a test names."""

    def __init__(self, engine: MemoryEngine, may_write: Callable[[], bool], job_id: str) -> None:
        self._job_id = job_id
        self.calls: list[str] = []
        self.may_write = may_write
        self.folders: list[Path] = engine.folders
        self._engine = engine
        self._abandoned = threading.Event()

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if name in self._engine.blocks:
            self._engine.blocked.set()
            while name in self._engine.blocks and not (self._engine.go.is_set() or self.abandoned):
                self._engine.go.wait(0.02)
        if self._abandoned.is_set():
            raise CanceledTransfer("abandoned")
        if name in self._engine.fails:
            raise SyncError(f"{name} failed")

    def download(self) -> None:
        self._step("download")
        if self._job_id in self._engine.full:
            raise NoRoomError("no room")

    def watch(self) -> None:
        self._step("watch")

    def drain(self) -> None:
        self._step("drain")

    def stage(self) -> None:
        self._step("stage")

    def finalize(self) -> None:
        self._step("finalize")

    def abandon(self) -> None:
        self._abandoned.set()

    def clean(self) -> None:
        self.calls.append("clean")
        if "clean" in self._engine.fails:
            raise OSError("clean failed")

    @property
    def backlog(self) -> Backlog:
        return Backlog()

    @property
    def transfers(self) -> TransferReport:
        return TransferReport(after=(EntryTransfers(files=self.calls.count("finalize")),))

    @property
    def abandoned(self) -> bool:
        return self._abandoned.is_set()


class MemoryEngine:
    """``fails`` and ``blocks`` name steps; a blocked step sets ``blocked`` and waits for ``go``."""

    def __init__(self, fails: set[str] | None = None, blocks: set[str] | None = None) -> None:
        self.fails = fails or set()
        self.blocks = blocks or set()
        self.blocked = threading.Event()
        self.go = threading.Event()
        self.syncs: list[MemorySync] = []
        self.folders: list[Path] = []
        self.full: set[str] = set()  # jobs that find no room

    def prepare(self, job: LeasedJob, may_write: Callable[[], bool]) -> Any:
        if "prepare" in self.fails:
            raise SyncError("prepare failed")
        self.syncs.append(MemorySync(self, may_write, job.id))
        return self.syncs[-1]
