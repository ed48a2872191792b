"""Which folders the jobs of each slot of this machine have: no two slots work in one folder.

Each slot keeps a file of its own, and looks at those of the others. A slot that was killed keeps its folders
until its next process has emptied them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from kelpie_worker.leased import LeasedJob
from kelpie_worker.settings import SyncSettings
from kelpie_worker.slot_places import SLOT_FOLDERS
from kelpie_worker.sync.folders import job_folder

CLAIMS_NAME = ".kelpie-claims.json"
_LOCK_NAME = ".kelpie-slots.lock"


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

    def clear(self) -> None:
        """What an earlier process of this slot had is empty now. OSError."""
        with self._lock, self._alone():
            self._file.unlink(missing_ok=True)

    def take(self, name: str, folders: Sequence[Path]) -> str | None:
        """Claim the folders for the attempt ``name``; in words what is in the way, None: nothing. OSError."""
        with self._lock, self._alone():
            why = self._in_the_way(folders)
            if why is None and folders:
                self._mine[name] = [str(folder) for folder in folders]
                self._write()
            return why

    def are_free(self, folders: Sequence[Path]) -> bool:
        """Whether they could be taken now."""
        with self._lock:
            return self._in_the_way(folders) is None

    def give_back(self, name: str) -> None:
        """The attempt's folders are empty. OSError."""
        with self._lock, self._alone():
            if self._mine.pop(name, None) is not None:
                self._write()

    def _in_the_way(self, folders: Sequence[Path]) -> str | None:
        for file in sorted(self._machine.glob(f"{SLOT_FOLDERS}/{CLAIMS_NAME}")):
            if file == self._file:
                continue
            try:
                taken: dict[str, list[str]] = json.loads(file.read_text())
            except FileNotFoundError:
                continue
            for other in (Path(each) for claimed in taken.values() for each in claimed):
                for folder in folders:
                    if folder.is_relative_to(other) or other.is_relative_to(folder):
                        return f"{folder} and {other}, which a job in {file.parent.name} has, overlap"
        return None

    def _write(self) -> None:
        draft = self._file.with_name(f"{CLAIMS_NAME}.new")
        draft.write_text(json.dumps(self._mine))
        draft.replace(self._file)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self._machine / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
