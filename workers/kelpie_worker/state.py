"""The state file (rule 13): which jobs this node has, and which of their transfers are in progress.

A command may read it at any moment: the file is replaced as a whole, never rewritten in place.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from kelpie.job import iso
from kelpie_worker.sync.backlog import Backlog

MAX_ENDED_JOBS = 100
"""Ended jobs that the file remembers."""

_WRITE_INTERVAL_S = 0.1

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


def _now() -> str:
    return str(iso(time.time_ns() // 1_000_000))


def _of(backlog: Backlog) -> dict[str, Any]:
    oldest = None
    if backlog.oldest is not None:
        age_s = time.monotonic() - backlog.oldest
        oldest = str(iso(int(1000 * (time.time() - age_s))))
    return {"files": backlog.files, "bytes": backlog.bytes, "oldestChange": oldest}


@dataclass(slots=True)
class _Entry:
    id: str
    status: str = "running"
    start: str = field(default_factory=_now)
    uploads: list[str] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    backlog: Callable[[], Backlog] = Backlog
    exit_time: str | None = None
    exit_code: int | None = None
    end: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "status": self.status,
            "start": self.start,
            "activeUploads": list(self.uploads),
            "activeDownloads": list(self.downloads),
            "uploadBacklog": _of(self.backlog()),
            "exitTime": self.exit_time,
            "exitCode": self.exit_code,
            "end": self.end,
        }


class StateFile:
    """Keeps one file up to date. Is the sync engine's observer of transfers. Safe from any thread.

    Starts and ends of jobs and of commands are in the file when the call returns; transfers follow within a
    tenth of a second, many of them in one write. A file that cannot be written is logged and harms no job.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._start = _now()
        self._lock = threading.Lock()  # guards the entries
        self._writing = (
            threading.Lock()
        )  # one writer at a time, so that an older picture never replaces a newer
        self._entries: list[_Entry] = []
        self._dirty = threading.Event()
        self._closed = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._follow, name="state-file", daemon=True)

    def open(self) -> None:
        """Write the file of a worker without jobs, and follow the changes from now on."""
        self._write()
        self._thread.start()

    def close(self) -> None:
        """Write what is left and stop."""
        self._closed.set()
        self._dirty.set()
        self._thread.join()
        self._write()

    def job_started(self, job_id: str) -> None:
        """An attempt at the job begins on this node."""
        with self._lock:
            self._entries.append(_Entry(job_id))
        self._write()

    def follow_backlog(self, job_id: str, backlog: Callable[[], Backlog]) -> None:
        """From now on show what ``backlog`` says of the job, until the job ends."""
        self._change(job_id, backlog=backlog)

    def command_exited(self, job_id: str, exit_code: int) -> None:
        """The command has ended; transfers may go on."""
        self._change(job_id, exit_time=_now(), exit_code=exit_code)

    def job_ended(self, job_id: str, *, completed: bool) -> None:
        """The attempt's end was told: completed or failed."""
        self._change(job_id, status="completed" if completed else "failed", end=_now(), backlog=Backlog)

    def job_left(self, job_id: str) -> None:
        """The job is no longer this node's: released, canceled, or its lease is lost."""
        with self._lock:
            entry = self._running(job_id)
            if entry is not None:
                self._entries.remove(entry)
        self._write()

    def upload_started(self, job_id: str, path: str) -> None:
        """The upload of one file begins."""
        with self._transfers(job_id) as entry:
            entry.uploads.append(path)

    def upload_ended(self, job_id: str, path: str) -> None:
        """The upload of one file is durable, or was given up."""
        with self._transfers(job_id) as entry, contextlib.suppress(ValueError):
            entry.uploads.remove(path)

    def download_started(self, job_id: str, path: str) -> None:
        """The download of one file begins."""
        with self._transfers(job_id) as entry:
            entry.downloads.append(path)

    def download_ended(self, job_id: str, path: str) -> None:
        """The download of one file is in place, or was given up."""
        with self._transfers(job_id) as entry, contextlib.suppress(ValueError):
            entry.downloads.remove(path)

    def backlog_changed(self, job_id: str) -> None:  # noqa: ARG002  (the file is written whole)
        """What waits for its upload has become more or less."""
        self._dirty.set()

    @contextlib.contextmanager
    def _transfers(self, job_id: str) -> Any:
        with self._lock:
            yield self._running(job_id) or _Entry(job_id)  # a transfer of a job that left is nobody's news
        self._dirty.set()

    def _running(self, job_id: str) -> _Entry | None:
        # the last one: the same job may come to a node several times
        return next((e for e in reversed(self._entries) if e.id == job_id and e.end is None), None)

    def _change(self, job_id: str, **values: Any) -> None:
        with self._lock:
            entry = self._running(job_id)
            for name, value in values.items() if entry is not None else ():
                setattr(entry, name, value)
            ended = [entry for entry in self._entries if entry.end is not None]
            for oldest in ended[: max(0, len(ended) - MAX_ENDED_JOBS)]:
                self._entries.remove(oldest)
        self._write()

    def _follow(self) -> None:
        while not self._closed.is_set():
            self._dirty.wait()
            self._closed.wait(_WRITE_INTERVAL_S)  # let changes gather
            self._write()

    def _write(self) -> None:
        with self._writing:
            self._dirty.clear()  # before the picture is taken: a change after it sets the flag again
            with self._lock:
                picture = {"start": self._start, "jobs": [entry.to_json() for entry in self._entries]}
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_text(json.dumps(picture), encoding="utf-8")
                temporary.replace(self.path)
            except OSError as error:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                if not self._failing:
                    _log.warning("the state file cannot be written", path=str(self.path), error=str(error))
                self._failing = True
            else:
                self._failing = False
