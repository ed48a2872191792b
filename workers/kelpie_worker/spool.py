"""Everything that a command prints, as files in a folder of its job: the sync engine stores them from there.

A job asks for it by ``KELPIE_LOG_DIR`` in its environment: the ``local_path`` of one of its ``during`` or
``after`` entries. Files are cut by size and time, and appear when they are whole, so that each is stored once
and a node that dies takes a minute of the output with it at most.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import IO

import structlog

from kelpie_worker.leased import LeasedJob
from kelpie_worker.output import STDERR, STDOUT
from kelpie_worker.sync.errors import SyncError
from kelpie_worker.sync.folders import HIDDEN_PREFIX

VARIABLE = "KELPIE_LOG_DIR"
MAX_FILE_BYTES = 64 << 20
MAX_FILE_AGE_S = 60.0

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


def log_folder(job: LeasedJob) -> Path | None:
    """Where the job wants its output. SyncError when nothing is stored from there."""
    asked = job.environment.get(VARIABLE)
    if not asked:
        return None
    if asked not in [entry.local_path for entry in (*job.sync.during, *job.sync.after)]:
        raise SyncError(f"{VARIABLE} is {asked[:200]!r}, which is the local_path of no during or after entry")
    return Path.cwd() / asked


class Spool:
    """A sink for the output of one command. What the disk does not take is lost, and the job goes on."""

    def __init__(self, folder: Path, attempt: int, *, max_age_s: float = MAX_FILE_AGE_S) -> None:
        self._max_age_s = max_age_s
        self._files = {name: _Files(folder, f"attempt-{attempt:04}.{name}") for name in (STDOUT, STDERR)}
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._cut_by_age, name="spool", daemon=True)
        self._thread.start()

    def __call__(self, stream: str, data: bytes) -> None:
        """Write a piece of output."""
        self._files[stream].write(data)

    def finish(self) -> None:
        """All was written: the last files appear."""
        self._finished.set()
        self._thread.join()
        for files in self._files.values():
            files.cut()

    def _cut_by_age(self) -> None:
        while not self._finished.wait(self._max_age_s / 4):
            for files in self._files.values():
                files.cut(older_than_s=self._max_age_s)


class _Files:
    """The files of one stream, numbered."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._size = 0
        self._begun = 0.0
        self._number = 1
        self._failing = False

    @property
    def _hidden(self) -> Path:
        return self._folder / f"{HIDDEN_PREFIX}{self._name}"

    def write(self, data: bytes) -> None:
        with self._lock:
            try:
                if self._file is None:
                    self._folder.mkdir(parents=True, exist_ok=True)  # the command may have deleted it
                    self._file = self._hidden.open("wb", buffering=0)
                    self._size, self._begun = 0, time.monotonic()
                self._file.write(data)
                self._size += len(data)
                self._failing = False
            except OSError as error:
                if not self._failing:
                    _log.warning("output is not stored", path=str(self._hidden), error=str(error))
                self._failing = True
            if self._size >= MAX_FILE_BYTES:
                self._cut()

    def cut(self, *, older_than_s: float = 0.0) -> None:
        with self._lock:
            if self._file is not None and time.monotonic() - self._begun >= older_than_s:
                self._cut()

    def _cut(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file, self._size = None, 0
        with contextlib.suppress(OSError):  # the command has deleted it
            self._hidden.rename(self._folder / f"{self._name}.{self._number:06}.log")
        self._number += 1
