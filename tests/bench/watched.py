"""The watching side of ``tests.bench.watch``: one job's watcher in a process of its own.

Speaks JSON lines on its standard output, and obeys single words on its standard input: ``cpu`` is answered
with the CPU seconds so far, ``drain`` ends the job.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from kelpie.job import Direction, Sync, SyncEntry
from kelpie_worker.leased import LeasedJob
from kelpie_worker.sync import SyncEngine
from kelpie_worker.sync.settings import SyncSettings


class Times:
    """Notes when each upload began and ended, by the clock that all processes share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[str, float] = {}
        self.uploads: list[tuple[str, float, float]] = []

    def upload_started(self, job_id: str, path: str) -> None:
        with self._lock:
            self._begun[path] = time.monotonic()

    def upload_ended(self, job_id: str, path: str) -> None:
        with self._lock:
            self.uploads.append((path, self._begun.pop(path), time.monotonic()))

    def download_started(self, job_id: str, path: str) -> None: ...

    def download_ended(self, job_id: str, path: str) -> None: ...

    def backlog_changed(self, job_id: str) -> None: ...


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mib() -> float:
    # not getrusage's, which a process inherits from the one that it was before exec
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel tells no peak")


def main() -> None:
    """Watch a folder until told to drain."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    folder, bucket, temp_dir, debounce_ms = sys.argv[1:]
    settings = replace(SyncSettings(), temp_dir=Path(temp_dir), watcher_debounce_ms=int(debounce_ms))
    times = Times()
    engine = SyncEngine(settings, times)
    entry = SyncEntry(bucket, "", folder, Direction.UPLOAD)
    job = engine.prepare(LeasedJob(id="bench", attempt=1, command="true", sync=Sync(during=(entry,))))
    job.watch()
    say(ready=True)
    for line in sys.stdin:
        if line.strip() == "cpu":
            say(cpu_s=cpu_s(), uploads=len(times.uploads))
        elif line.strip() == "drain":
            break
    job.drain()
    say(uploads=times.uploads, cpu_s=cpu_s(), peak_mib=peak_mib())
    engine.close()


if __name__ == "__main__":
    main()
