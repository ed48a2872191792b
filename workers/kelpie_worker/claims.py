"""Which folders the jobs of each slot of this machine have: no two slots work in one folder.

Each slot keeps a file of its own, and looks at those of the others. A slot that was killed keeps its folders
until its next process has emptied them. Only taking needs a lock: what a slot gives back is its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from kelpie_worker import notes
from kelpie_worker.leased import LeasedJob
from kelpie_worker.locks import holder, try_lock
from kelpie_worker.slot_places import SLOT_FOLDERS
from kelpie_worker.sync.folders import job_folder
from kelpie_worker.sync.settings import SyncSettings

CLAIMS_NAME = ".kelpie-claims.json"
_LOCK_NAME = ".kelpie-slots.lock"
_LOCK_TIMEOUT_S = 5.0
_LOCK_POLL_S = 0.05

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


def folders_of(job: LeasedJob, settings: SyncSettings) -> list[Path]:
    """The folders that a job's entries name. SyncError when it may not have one of them."""
    entries = (*job.sync.before, *job.sync.during, *job.sync.after)
    return [
        job_folder(entry.local_path, allowed_roots=settings.allowed_roots, temp_dir=settings.temp_dir)
        for entry in entries
    ]


class FolderClaims:
    """The folders that one slot has claimed, beside those of the others. Safe from any thread."""

    def __init__(self, slot_folder: Path) -> None:
        self._file = slot_folder / CLAIMS_NAME
        self._machine = slot_folder.parent
        self._lock = threading.Lock()
        self._mine: dict[str, list[str]] = {}
        self._unreadable: set[Path] = set()  # what was said of

    def clear(self) -> None:
        """What an earlier process of this slot had is empty now. OSError."""
        with self._lock:
            notes.discard_draft(self._file)
            self._file.unlink(missing_ok=True)

    def take(self, name: str, folders: Sequence[Path]) -> str | None:
        """Claim the folders for the attempt ``name``; in words what is in the way, None: nothing. OSError."""
        with self._lock, self._alone() as alone:
            if not alone:
                lock = self._machine / _LOCK_NAME
                return f"another slot (pid {holder(lock)}) has held {lock} for {_LOCK_TIMEOUT_S:g} s"
            why = self._in_the_way(folders)
            if why is None and folders:
                self._mine[name] = [str(folder) for folder in folders]
                self._write()
            return why

    def in_the_way(self, folders: Sequence[Path]) -> str | None:
        """In words why they could not be taken now; None: they could."""
        with self._lock:
            return self._in_the_way(folders)

    def are_free(self, folders: Sequence[Path]) -> bool:
        """Whether they could be taken now."""
        return self.in_the_way(folders) is None

    def give_back(self, name: str) -> None:
        """The attempt's folders are empty. OSError."""
        with self._lock:
            if self._mine.pop(name, None) is not None:
                self._write()

    def _in_the_way(self, folders: Sequence[Path]) -> str | None:
        for file in sorted(self._machine.glob(f"{SLOT_FOLDERS}/{CLAIMS_NAME}")):
            if file == self._file:
                continue
            others = self._claimed_in(file)
            if others is None and folders:
                return f"nobody can tell which folders {file.parent.name} has: {file} cannot be read"
            for other in others or ():
                for folder in folders:
                    if folder.is_relative_to(other) or other.is_relative_to(folder):
                        return f"{folder} and {other}, which a job in {file.parent.name} has, overlap"
        return None

    def _claimed_in(self, file: Path) -> list[Path] | None:
        """The folders of another slot; None: nobody can tell, until it writes the file anew."""
        try:
            claimed = json.loads(file.read_text()).values()
            found = [Path(each) for folders in claimed for each in folders]
        except FileNotFoundError:
            found = []
        except (OSError, ValueError, AttributeError, TypeError) as error:
            if file not in self._unreadable:
                _log.warning("the folders of a slot cannot be read", path=str(file), error=str(error))
            self._unreadable.add(file)
            return None
        self._unreadable.discard(file)
        return found

    def _write(self) -> None:
        notes.write(self._file, self._mine)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other slot takes a folder meanwhile. OSError."""
        descriptor = _lock_soon(self._machine / _LOCK_NAME)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _lock_soon(file: Path) -> int | None:
    """The lock, if it is free in time: a process that has it may be stopped, for hours. OSError."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while (descriptor := try_lock(file)) is None and time.monotonic() < deadline:
        time.sleep(_LOCK_POLL_S)
    return descriptor
