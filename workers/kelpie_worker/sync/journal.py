"""Which folders hold a job's data now, on disk, for the worker that follows a killed one.

Files of a dead attempt in a watched folder would be uploaded as the next job's, perhaps over a newer
checkpoint.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import structlog

from kelpie_worker import notes
from kelpie_worker.sync.errors import SyncError
from kelpie_worker.sync.folders import HIDDEN_PREFIX, empty_folder

log = structlog.get_logger(__name__)

STAGED_ID_CHARS = 8
"""How much of a job's id the names of its staged copies carry."""


class FolderJournal:
    """A small JSON file: attempt → the folders that hold its data. ``path`` None keeps nothing."""

    def __init__(self, path: Path | None, temp_dir: Path) -> None:
        self._path = path
        self._temp_dir = temp_dir
        self._lock = threading.Lock()
        self._open: dict[str, list[str]] = {}

    def begin(self, job_id: str, attempt: int, folders: Iterable[Path]) -> None:
        """From now on the folders hold this attempt's data. SyncError when that cannot be written down."""
        with self._lock:
            self._open[f"{job_id} {attempt}"] = [str(folder) for folder in folders]
            try:
                self._write()
            except OSError as error:
                raise SyncError(f"{self._path} cannot be written: {error.strerror}") from None

    def end(self, job_id: str, attempt: int) -> None:
        """The folders and the staged copies of this attempt are empty."""
        with self._lock:
            if self._open.pop(f"{job_id} {attempt}", None) is not None:
                try:
                    self._write()
                except OSError as error:  # then the next start empties folders that are empty already
                    log.warning(
                        "the folder journal cannot be written", path=str(self._path), error=str(error)
                    )

    def recover(self) -> None:
        """Empty what a killed worker left, before the first job. Only folders that were checked then."""
        if self._path is None:
            return
        try:
            notes.discard_draft(self._path)
            if not self._path.exists():
                return
            left: dict[str, list[str]] = json.loads(self._path.read_text())
        except (OSError, ValueError) as error:
            log.warning("the folder journal cannot be read", path=str(self._path), error=str(error))
            return
        for attempt, folders in left.items():
            log.warning(
                "emptying the folders of an attempt that was cut short", attempt=attempt, folders=folders
            )
            for folder in map(Path, folders):
                try:
                    empty_folder(folder)
                except SyncError as error:
                    log.warning("a folder was not emptied", error=str(error))
            staged = f"{HIDDEN_PREFIX}{attempt[:STAGED_ID_CHARS]}-*"
            for parent in {self._temp_dir, *(Path(folder).parent for folder in folders)}:
                for copy in parent.glob(staged):
                    shutil.rmtree(copy, ignore_errors=True)
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._path is not None:
            notes.write(self._path, self._open)
