"""The data of one attempt at one job on this node, from its first download to its last upload."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from kelpie.job import SyncEntry
from kelpie.patterns import Pattern, compile_pattern
from kelpie.transfers import TransferReport, TransferState
from kelpie_worker.disk import require_room
from kelpie_worker.leased import LeasedJob
from kelpie_worker.sync import download, folders
from kelpie_worker.sync.backlog import Backlog
from kelpie_worker.sync.clients import ClientFactory
from kelpie_worker.sync.conditions import Conditions
from kelpie_worker.sync.context import JobContext
from kelpie_worker.sync.counts import EntryCount
from kelpie_worker.sync.download import Downloaded, PlannedFile
from kelpie_worker.sync.errors import Fenced, SourceChanged, SyncError
from kelpie_worker.sync.fencing import Fence
from kelpie_worker.sync.flow import Batch, run_all
from kelpie_worker.sync.gate import Gate
from kelpie_worker.sync.ledger import Ledger
from kelpie_worker.sync.mirror import Mirror
from kelpie_worker.sync.observer import TransferObserver
from kelpie_worker.sync.pool import Priority, TransferPool
from kelpie_worker.sync.settings import SyncSettings
from kelpie_worker.sync.staging import Staging
from kelpie_worker.sync.store import Store
from kelpie_worker.sync.tree import Tree
from kelpie_worker.sync.upload import Uploaded, upload_file
from kelpie_worker.sync.uploads import UploadJournal, Uploads
from kelpie_worker.sync.watcher import Watcher

log = structlog.get_logger(__name__)

SHOWN_FAILURES = 5
"""Failures that the text of a SyncError lists."""
QUIET_TIMEOUT_S = 30.0
"""How long `clean` waits for transfers of an abandoned job to notice."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A sync entry, checked."""

    wire: SyncEntry
    folder: Path
    pattern: Pattern | None
    count: EntryCount = field(default_factory=EntryCount)


class JobSync:
    """Made by :meth:`SyncEngine.prepare`; the methods are called in the order in which they stand here.

    :meth:`abandon` may be called at any time from any thread; the call that is in progress then, and every
    later one, raises CanceledTransfer. :meth:`clean` comes last, whatever happened.
    """

    def __init__(
        self,
        job: LeasedJob,
        *,
        settings: SyncSettings,
        observer: TransferObserver,
        clients: ClientFactory,
        pool: TransferPool,
        conditions: Conditions,
        uploads: UploadJournal,
        may_write: Callable[[], bool],
        on_clean: Callable[[JobSync], None],
    ) -> None:
        self._pool = pool
        self._on_clean = on_clean
        self._gate = Gate(may_write)
        store = Store(clients, self._gate, max_tries=settings.max_retries)
        self._context = JobContext(
            job_id=job.id,
            attempt=job.attempt,
            compression=job.compression,
            settings=settings,
            store=store,
            fence=Fence(store, self._gate, conditions, job_id=job.id, attempt=job.attempt),
            uploads=Uploads(store, uploads),
            gate=self._gate,
            observer=observer,
        )
        self._lanes = {priority: pool.lane(priority) for priority in Priority}
        self._ledger = Ledger()
        self._staging = Staging(job.id, settings.temp_dir)
        self._downloaded: list[Downloaded] = []
        self._outputs: list[tuple[_Entry, Tree, str, int]] = []
        self._staged: float | None = None  # when the outputs were set aside, monotonic s
        self._lock = threading.Lock()

        def checked(entries: Sequence[SyncEntry]) -> list[_Entry]:
            return [_checked(entry, settings) for entry in entries]

        self._before = checked(job.sync.before)
        self._during = checked(job.sync.during)
        self._after = checked(job.sync.after)
        self._folders = list(
            dict.fromkeys(each.folder for each in (*self._before, *self._during, *self._after))
        )
        for folder in self._folders:
            folders.make_folder(folder)
        self._owns_folders = True
        self._watcher = Watcher(self._gate)
        self._mirrors = [
            Mirror(
                self._context,
                self._lanes[Priority.CHECKPOINT],
                each.wire,
                Tree(each.folder),
                each.pattern,
                self._ledger,
                self._note_change,
                each.count,
            )
            for each in self._during
        ]
        self._watching = False

    @property
    def job_id(self) -> str:
        """The job."""
        return self._context.job_id

    @property
    def attempt(self) -> int:
        """The attempt at it."""
        return self._context.attempt

    @property
    def folders(self) -> Sequence[Path]:
        """The folders that hold its data."""
        return self._folders

    def download(self) -> None:
        """Fetch all ``before`` entries; every file is in place and verified when this returns.

        Raises SyncError, which names the object, and CanceledTransfer.
        """
        self._gate.check()
        if not self._before:
            return
        _enter(self._before, TransferState.MOVING)
        sources = [
            download.Source(each.wire, Tree(each.folder), each.pattern, each.count) for each in self._before
        ]
        planned = download.plan(self._context, sources)
        require_room((file.target, file.remote.size) for file in planned)
        for file in planned:
            file.count.plan(file.remote.size)
        with self._told():
            self._run(Priority.DOWNLOAD, (self._fetch(file) for file in planned))
        _enter(self._before, TransferState.DONE)

    def watch(self) -> None:
        """From now on changes of the ``during`` folders are uploaded, and so is what is there already and was
        not downloaded."""
        self._gate.check()
        if not self._mirrors:
            return
        _enter(self._during, TransferState.MOVING)
        for mirror in self._mirrors:
            for file in self._downloaded:
                mirror.adopt(file)
        self._watching = True
        self._watcher.start(self._mirrors)

    def drain(self) -> None:
        """The command has ended: look once more, and wait until every change is durable.

        SyncError names what could not be stored; CanceledTransfer.
        """
        self._watcher.stop()
        with self._told():
            if not self._watching:
                return
            self._watching = False
            for mirror in self._mirrors:
                mirror.begin_drain()
            self._pump_until_idle()
        failures = [text for mirror in self._mirrors for text in mirror.tracker.failures.values()]
        if failures:
            more = f" (and {len(failures) - SHOWN_FAILURES} more)" if len(failures) > SHOWN_FAILURES else ""
            raise SyncError("; ".join(failures[:SHOWN_FAILURES]) + more)
        _enter(self._during, TransferState.DONE)

    def stage(self) -> None:
        """Set the ``after`` folders' content aside and empty the job's folders, which belong to the next job
        from then on. Fast where the file system can rename. SyncError, CanceledTransfer."""
        self._gate.check()
        with self._lock:
            self._staging.take(each.folder for each in self._after)
            # Listed once, now: what is missing later is an error, not an output less.
            self._outputs = list(self._list_outputs())
            self._staged = time.monotonic()
            for entry, _, _, size in self._outputs:
                entry.count.plan(size)
            for folder in self._folders:
                folders.empty_folder(folder)
            self._owns_folders = False
        self._note_change()

    def finalize(self) -> None:
        """Upload the outputs set aside, see that every object of this attempt is in the bucket as it was
        stored, and delete the copies. SyncError, CanceledTransfer."""
        _enter(self._after, TransferState.MOVING)
        with self._told():
            self._run(Priority.OUTPUT, self._output_flows())
            self._run(
                Priority.OUTPUT,
                (self._verify(bucket, key, versions) for bucket, key, versions in self._ledger.objects()),
            )
        _enter(self._after, TransferState.DONE)
        self._staging.discard()

    def abandon(self) -> None:
        """Stop every transfer of this job now, abort its multipart uploads, write nothing more."""
        self._gate.abandon()
        self._watcher.wake()

    def clean(self) -> None:
        """Empty the job's own folders, unless the next job has them, and delete copies. Nothing else is
        touched; may be repeated. What cannot be deleted is logged."""
        if self.busy:
            self.abandon()
        self._watcher.stop()
        self._watching = False
        if self._gate.abandoned and not self._pool.wait_idle(self._lanes.values(), QUIET_TIMEOUT_S):
            log.warning("transfers of an abandoned job still hang", job_id=self._context.job_id)
        self._context.uploads.abort_kept()
        with self._lock:
            self._staging.discard()
            if self._owns_folders:
                self._owns_folders = False
                for folder in self._folders:
                    try:
                        folders.empty_folder(folder)
                    except SyncError as error:
                        log.warning("a folder was not emptied", job_id=self._context.job_id, error=str(error))
        self._on_clean(self)

    @property
    def busy(self) -> bool:
        """Whether any transfer of this job is pending or in progress."""
        if any(lane.queued or lane.running for lane in self._lanes.values()):
            return True
        return not self._gate.abandoned and any(not mirror.tracker.idle for mirror in self._mirrors)

    @property
    def backlog(self) -> Backlog:
        """What of the job's data is not in the bucket yet; nothing any more once it is abandoned."""
        if self._gate.abandoned:
            return Backlog()
        outputs = [
            Backlog(files, size, self._staged if files else None)
            for files, size in (each.count.left for each in self._after)
        ]
        return Backlog.sum([*(mirror.tracker.backlog for mirror in self._mirrors), *outputs])

    @property
    def transfers(self) -> TransferReport:
        """What was moved for each entry so far."""
        return TransferReport(
            before=tuple(each.count.report() for each in self._before),
            during=tuple(mirror.transfers for mirror in self._mirrors),
            after=tuple(each.count.report() for each in self._after),
        )

    # ---- steps

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """That the storage holds a later attempt's object is told as a failure, not passed over in silence as
        a lost lease is: should the queue, against all that the storage says, believe in this attempt, its
        user is told why it cannot go on. Multipart uploads that nothing will continue are aborted."""
        try:
            self._gate.check()
            yield
            self._gate.check()
        except Fenced as error:
            raise SyncError(str(error)) from None
        finally:
            self._context.uploads.abort_kept()

    def _run(self, priority: Priority, flows: Any) -> None:
        run_all(self._lanes[priority], flows, width=self._context.settings.threads * 2)

    def _fetch(self, file: PlannedFile) -> Generator[Batch, list[Any], None]:
        self._downloaded.append((yield from download.download_file(self._context, file)))

    def _output_flows(self) -> Generator[Generator[Batch, list[Any], None], None, None]:
        return (self._store_output(*output) for output in self._outputs)

    def _list_outputs(self) -> Generator[tuple[_Entry, Tree, str, int], None, None]:
        for each in self._after:
            tree = self._staging.tree(each.folder)
            if tree is None:
                continue  # a folder that the command left empty, or never made, has no outputs
            for name, snapshot in tree.files(strict=True):
                if each.pattern is None or each.pattern.search(name) is not None:
                    yield each, tree, name, snapshot.size

    def _store_output(
        self, entry: _Entry, tree: Tree, name: str, size: int
    ) -> Generator[Batch, list[Any], None]:
        try:
            uploaded: Uploaded = yield from upload_file(
                self._context,
                tree,
                name,
                bucket=entry.wire.bucket,
                prefix=entry.wire.prefix,
                moving=entry.count.moving(size),
            )
        except FileNotFoundError:
            raise SyncError(f"the output {tree.root / name} vanished before it was uploaded") from None
        except SourceChanged:
            raise SyncError(f"the output {tree.root / name} changed after it was set aside") from None
        self._ledger.record(uploaded)
        self._note_change()

    def _note_change(self) -> None:
        self._watcher.wake()
        self._context.observer.backlog_changed(self._context.job_id)

    def _verify(
        self, bucket: str, key: str, versions: frozenset[tuple[int, str]]
    ) -> Generator[Batch, list[Any], None]:
        (head,) = yield Batch([partial(self._context.store.head, bucket, key)], 1)
        if (head.size, head.etag) not in versions:
            raise SyncError(f"s3://{bucket}/{key} is not what this attempt stored there ({head.size} bytes)")

    def _pump_until_idle(self) -> None:
        """Work off the mirrors on this thread; returns early when the job is abandoned."""
        wake = self._watcher.wakened
        while not all(mirror.tracker.idle for mirror in self._mirrors):
            wake.clear()
            due = [each for mirror in self._mirrors if (each := mirror.pump()) is not None]
            if all(mirror.tracker.idle for mirror in self._mirrors):
                return
            pause_s = min(due, default=time.monotonic() + 1.0) - time.monotonic()
            wake.wait(min(max(pause_s, 0.01), 1.0))


def _enter(entries: Sequence[_Entry], state: TransferState) -> None:
    for each in entries:
        each.count.enter(state)


def _checked(entry: SyncEntry, settings: SyncSettings) -> _Entry:
    folder = folders.job_folder(
        entry.local_path, allowed_roots=settings.allowed_roots, temp_dir=settings.temp_dir
    )
    try:
        pattern = None if entry.pattern is None else compile_pattern(entry.pattern)
    except ValueError as error:
        raise SyncError(str(error)) from None
    return _Entry(entry, folder, pattern)
