"""What is moved for each entry of a job, counted as it happens."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from kelpie.transfers import EntryTransfers, TransferState
from kelpie_worker.sync.errors import SyncError


class EntryCount:
    """The figures of one entry. Safe from any thread. A file or a part costs a lock and a few additions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = TransferState.WAITING
        self._files = self._bytes = self._unchanged = self._failures = 0
        self._arrived = 0  # bytes of files on their way
        self._planned_files = self._planned_bytes = 0  # of what was planned and is not in place
        self._last: float | None = None  # when a file was last moved, monotonic s

    def enter(self, state: TransferState) -> None:
        """The entry is so far now."""
        self._state = state

    def plan(self, size: int) -> None:
        """One more file, of so many bytes, is to be moved or found in its place."""
        with self._lock:
            self._planned_files += 1
            self._planned_bytes += size

    def found(self) -> None:
        """One more file, which nobody planned to move, was there already."""
        with self._lock:
            self._unchanged += 1

    def moving(self, planned: int | None = None) -> Moving:
        """One file begins to be moved; ``planned`` is what `plan` was told of it, None if nothing."""
        return Moving(self, planned)

    @property
    def left(self) -> tuple[int, int]:
        """Files and bytes that were planned and are not in place; a file counts whole until it is."""
        with self._lock:
            return self._planned_files, self._planned_bytes

    def report(self, left: tuple[int, int] | None = None) -> EntryTransfers:
        """The figures now. ``left``: files and bytes that wait, where that is not what was planned."""
        with self._lock:
            files, size = (self._planned_files, self._planned_bytes) if left is None else left
            return EntryTransfers(
                state=self._state,
                files=self._files,
                bytes=self._bytes + self._arrived,
                unchanged=self._unchanged,
                waiting_files=files,
                waiting_bytes=max(0, size - self._arrived),
                failures=self._failures,
                last_age_s=None if self._last is None else time.monotonic() - self._last,
            )

    def arrived(self, file: Moving, size: int) -> None:
        """So many bytes of a file on its way have arrived. See :meth:`Moving.part`."""
        with self._lock:
            file.arrived += size
            self._arrived += size

    def ended(self, file: Moving, error: BaseException | None) -> None:
        """A file is in its place, or was given up."""
        with self._lock:
            self._arrived -= file.arrived
            if error is not None:
                self._failures += _is_failure(error)
                return
            if file.planned is not None:
                self._planned_files -= 1
                self._planned_bytes -= file.planned
            if file.unchanged:
                self._unchanged += 1
            else:
                self._files += 1
                self._bytes += file.arrived
                self._last = time.monotonic()


class Moving:
    """One file on its way: a context manager. Its bytes count as they arrive, and not when it fails."""

    __slots__ = ("_count", "arrived", "planned", "unchanged")

    def __init__(self, count: EntryCount, planned: int | None) -> None:
        self._count = count
        self.planned = planned
        self.arrived = 0  # bytes; written by the count alone
        self.unchanged = False  # it was in its place already

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count.ended(self, error)

    def part(self, size: int) -> None:
        """So many bytes of it have arrived. From any thread."""
        self._count.arrived(self, size)

    def restart(self) -> None:
        """What has arrived is of no use. None of its parts is on its way."""
        self._count.arrived(self, -self.arrived)


def _is_failure(error: BaseException) -> bool:
    """Whether the transfer itself failed, rather than that its file changed or its lease was lost."""
    return isinstance(error, SyncError | OSError) and not isinstance(error, FileNotFoundError)
