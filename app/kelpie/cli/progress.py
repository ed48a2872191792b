"""Progress bars of ``kelpie data`` on a terminal."""

from __future__ import annotations

import threading
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class Bars:
    """A bar of bytes and a count of files, on stderr. Told from any thread."""

    def __init__(self) -> None:
        self._shown = Progress(
            TextColumn("{task.fields[files]}"),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._shown.add_task("", total=None, files="looking")
        self._lock = threading.Lock()
        self._files = self._all_files = self._bytes = self._all_bytes = 0

    def __enter__(self) -> Self:
        self._shown.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._shown.stop()

    def planned(self, files: int, size: int) -> None:
        """So many files and bytes more are to be moved."""
        with self._lock:
            self._all_files += files
            self._all_bytes += size
        self._show()

    def moved(self, size: int) -> None:
        """So many bytes more have arrived."""
        with self._lock:
            self._bytes += size
        self._show()

    def ended(self) -> None:
        """One more file is in place."""
        with self._lock:
            self._files += 1
        self._show()

    def _show(self) -> None:
        self._shown.update(
            self._task,
            total=self._all_bytes,
            completed=min(self._bytes, self._all_bytes),
            files=f"{self._files}/{self._all_files} files",
        )
