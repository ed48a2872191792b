"""One ``during`` entry: brings the bucket up to date with its folder, one look at a name at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from kelpie.job import SyncEntry
from kelpie.patterns import Pattern
from kelpie.transfers import EntryTransfers
from kelpie_worker.sync import flow
from kelpie_worker.sync.context import JobContext
from kelpie_worker.sync.counts import EntryCount
from kelpie_worker.sync.download import Downloaded
from kelpie_worker.sync.errors import CanceledTransfer, SourceChanged
from kelpie_worker.sync.flow import Batch
from kelpie_worker.sync.ledger import Ledger
from kelpie_worker.sync.pool import Lane
from kelpie_worker.sync.tracker import Change, Tracker
from kelpie_worker.sync.tree import Snapshot, Tree
from kelpie_worker.sync.upload import Uploaded, object_key, upload_file
from kelpie_worker.sync.writers import Writers, writers_of

log = structlog.get_logger(__name__)

STABLE_CHECKS = 3
"""A file that its writer keeps open is stored when it has not changed for so many stability checks."""
FAILED_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
MAX_CHANGES_WHILE_DRAINING = 20


class Mirror:
    """Keeps the objects of one entry equal to the files of its folder.

    ``wake`` is called, from any thread, when :meth:`pump` may have something to do.
    """

    def __init__(
        self,
        context: JobContext,
        lane: Lane,
        entry: SyncEntry,
        tree: Tree,
        pattern: Pattern | None,
        ledger: Ledger,
        wake: Callable[[], None],
        count: EntryCount,
    ) -> None:
        self._context = context
        self._lane = lane
        self._entry = entry
        self._pattern = pattern
        self._ledger = ledger
        self._count = count
        self._draining = False
        self._stability_s = context.settings.watcher_stability_ms / 1000
        self.tree = tree
        self.folders: set[str] = set()
        """The real folders that the last whole scan went through."""
        self.tracker = Tracker(
            debounce_s=context.settings.watcher_debounce_ms / 1000,
            max_wait_s=context.settings.watcher_max_wait_ms / 1000,
            window=context.settings.threads * 4,
            wake=wake,
        )

    @property
    def root(self) -> Path:
        """The watched folder."""
        return self.tree.root

    @property
    def transfers(self) -> EntryTransfers:
        """What was stored of the folder so far, and what waits."""
        backlog = self.tracker.backlog
        return self._count.report((backlog.files, backlog.bytes))

    def adopt(self, file: Downloaded) -> None:
        """A file that was just downloaded into the folder needs no upload."""
        if file.path.is_relative_to(self.root):
            name = str(file.path.relative_to(self.root))
            ours = file.bucket == self._entry.bucket and file.key == self._key(name)
            self.tracker.adopt(name, file.snapshot, owned=ours)
            if ours and self._selects(name):
                self._count.found()

    def touch(self, name: str, *, closed: bool = False) -> None:
        """Something may have happened to the file; ``closed``: somebody has just closed it after writing."""
        if not self._selects(name):
            return
        try:
            size = os.stat(f"{self.root}/{name}", follow_symlinks=False).st_size  # noqa: PTH116  (once per event)
        except OSError:
            size = 0  # it is gone, or the look will tell
        self.tracker.touch(name, time.monotonic(), closed=closed, size=size)

    def scan(self, below: str = "") -> None:
        """Find every change in the folder, or in one folder of it, by looking."""
        seen = set()
        folders: set[str] = set()
        for name, snapshot in self.tree.files(below, folders=folders):
            seen.add(name)
            if self.tracker.known(name) != snapshot and self._selects(name):
                self.tracker.touch(name, time.monotonic(), size=snapshot.size)
        for name in self.tracker.known_names(below):
            if name not in seen and self._selects(name):
                self.tracker.touch(name, time.monotonic())
        if not below:
            self.folders = folders

    def pump(self) -> float | None:
        """Start what is due; returns when to come back (monotonic seconds), None for not before a wake-up."""
        self._context.gate.check()
        for name, change in self.tracker.take(time.monotonic()):
            self._look(name, change)
        for name in self.tracker.take_deletions():
            flow.start(self._lane, self._delete(name), partial(self._deletion_ended, name))
        return self.tracker.next_due()

    def begin_drain(self) -> None:
        """The command has ended: look at everything, and no longer wait for writers."""
        self._draining = True
        self.tracker.expedite()
        self.scan()

    # ---- one name

    def _selects(self, name: str) -> bool:
        return self._pattern is None or self._pattern.search(name) is not None

    def _look(self, name: str, change: Change) -> None:
        try:
            snapshot = self.tree.snapshot(name)
            if snapshot is None:
                self.tracker.vanished(name)
                self._finish(name)
            elif snapshot == self.tracker.known(name):
                self.tracker.unchanged(name)
                self._finish(name)
            elif pause_s := self._unready(name, change, snapshot):
                self.tracker.postpone(name, time.monotonic(), pause_s)
            else:
                self.tracker.begun(name, snapshot.size, time.monotonic())
                work = upload_file(
                    self._context,
                    self.tree,
                    name,
                    bucket=self._entry.bucket,
                    prefix=self._entry.prefix,
                    moving=self._count.moving(),
                )
                flow.start(self._lane, work, partial(self._upload_ended, name, change))
        except OSError as error:
            self.tracker.failed(name, f"{self.root / name}: {error.strerror or error}")
            self._finish(name)

    def _unready(self, name: str, change: Change, snapshot: Snapshot) -> float:
        """Seconds until the file may be ready; 0 when it is."""
        if ambiguous_s := snapshot.ambiguous_s():
            return ambiguous_s
        if self._draining:
            return 0.0
        writers = self._writers(name)
        if writers is Writers.NONE:
            return 0.0
        now = time.monotonic()
        if snapshot != change.seen:
            change.seen, change.seen_at = snapshot, now
        checks = STABLE_CHECKS if writers is Writers.SOME else 1
        left_s = change.seen_at + checks * self._stability_s - now
        return min(max(left_s, 0.0), self._stability_s)

    def _writers(self, name: str) -> Writers:
        try:
            descriptor = self.tree.open(name)
        except OSError:
            return Writers.UNKNOWN  # vanished or unreadable: the upload will tell
        try:
            return writers_of(descriptor)
        finally:
            os.close(descriptor)

    def _upload_ended(self, name: str, change: Change, result: Any, error: BaseException | None) -> None:
        if error is None:
            uploaded: Uploaded = result
            self._ledger.record(uploaded)
            self.tracker.stored(name, uploaded.source)
            self._finish(name, again=self._version(name) != uploaded.source)
        elif isinstance(error, FileNotFoundError):
            self._finish(name, again=True)
        elif isinstance(error, CanceledTransfer):
            self._finish(name)
        else:
            self._failed(name, change, error)

    def _failed(self, name: str, change: Change, error: BaseException) -> None:
        now = time.monotonic()
        path = self.root / name
        if isinstance(error, SourceChanged) and not (
            self._draining and change.rewrites >= MAX_CHANGES_WHILE_DRAINING
        ):
            change.seen = None
            change.rewrites += 1
            self.tracker.postpone(name, now, min(0.05 * 2**change.rewrites, 1.0))
            return
        change.tries += 1
        self.tracker.failed(name, str(error) or f"{path}: {type(error).__name__}")
        if self._draining:
            self._finish(name)
            return
        log.warning(
            "upload failed: it is tried again", path=str(path), error=str(error), job_id=self._context.job_id
        )
        self.tracker.postpone(name, now, min(FAILED_PAUSE_S * 2 ** (change.tries - 1), LONGEST_PAUSE_S))

    def _delete(self, name: str) -> Generator[Batch, list[Any], None]:
        yield Batch([partial(self._delete_object, name)], 1)

    def _delete_object(self, name: str) -> None:
        if self.root.is_symlink() or not self.root.is_dir():
            log.warning(
                "the folder is gone: its objects stay", path=str(self.root), job_id=self._context.job_id
            )
        elif self.tree.snapshot(name) is None:
            self._context.fence.delete(self._entry.bucket, self._key(name))
            self._ledger.forget(self._entry.bucket, self._key(name))
            self.tracker.deleted(name)

    def _deletion_ended(self, name: str, _: Any, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, CanceledTransfer):
            # an object too many is no loss: the next attempt sees an old file again
            log.warning("an object could not be deleted", path=str(self.root / name), error=str(error))
        self._finish(name, again=self._version(name) is not None)

    def _version(self, name: str) -> Snapshot | OSError | None:
        """What is there now; an error is something else than any version, and leads to another look."""
        try:
            return self.tree.snapshot(name)
        except OSError as error:
            return error

    def _finish(self, name: str, *, again: bool = False) -> None:
        self.tracker.finish(name, time.monotonic(), again=again)

    def _key(self, name: str) -> str:
        return object_key(self._entry.prefix, name, compression=self._context.compression)
