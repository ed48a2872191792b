"""The one sync engine of a worker process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from kelpie_worker.leased import LeasedJob
from kelpie_worker.sync.clients import ClientFactory
from kelpie_worker.sync.conditions import Conditions
from kelpie_worker.sync.gate import Gate
from kelpie_worker.sync.job_sync import JobSync
from kelpie_worker.sync.journal import FolderJournal
from kelpie_worker.sync.observer import TransferObserver
from kelpie_worker.sync.pool import TransferPool
from kelpie_worker.sync.settings import SyncSettings
from kelpie_worker.sync.store import Store
from kelpie_worker.sync.uploads import UploadJournal, abort_left

log = structlog.get_logger(__name__)

UPLOADS_NAME = ".kelpie-uploads.json"
"""The journal of multipart uploads, beside that of folders."""
CLOSE_TIMEOUT_S = 5.0
"""How long `close` waits for a thread of the pool to abort what it began."""


class SyncEngine:
    """Moves the data of all jobs of a node over one bounded pool of threads.

    ``journal`` is the file that remembers which folders are in use, for the worker that follows a killed one;
    beside it lies one that remembers which multipart uploads are under way.
    """

    def __init__(
        self, settings: SyncSettings, observer: TransferObserver, *, journal: Path | None = None
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._clients = ClientFactory(settings)
        self._pool = TransferPool(settings.threads)
        self._conditions = Conditions()
        self._journal = FolderJournal(journal, settings.temp_dir)
        self._uploads = UploadJournal(journal and journal.with_name(UPLOADS_NAME))
        self._lock = threading.Lock()
        self._jobs: set[JobSync] = set()

    def recover(self) -> None:
        """Empty the folders that an earlier worker of this node was killed over. Before the first job.

        The multipart uploads that it left are aborted in the background: the storage may be out of reach.
        """
        self._journal.recover()
        if left := self._uploads.load():
            threading.Thread(target=self._abort, args=(left,), name="abort-uploads", daemon=True).start()

    def prepare(self, job: LeasedJob, may_write: Callable[[], bool] = lambda: True) -> JobSync:
        """Check every folder and pattern of the job, and make the folders.

        ``may_write`` is asked before everything that changes a bucket: whether this node still holds the job.
        SyncError before anything runs when the job may not have what it asks for.
        """
        sync = JobSync(
            job,
            settings=self._settings,
            observer=self._observer,
            clients=self._clients,
            pool=self._pool,
            conditions=self._conditions,
            uploads=self._uploads,
            may_write=may_write,
            on_clean=self._forget,
        )
        self._journal.begin(job.id, job.attempt, sync.folders)
        with self._lock:
            self._jobs.add(sync)
        return sync

    def close(self) -> None:
        """Abandon the jobs that were not cleaned, and end the threads."""
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            job.abandon()
        self._pool.close(CLOSE_TIMEOUT_S)

    def _abort(self, left: list[tuple[str, str, str]]) -> None:
        log.warning("aborting the multipart uploads of a worker that was killed", uploads=len(left))
        store = Store(self._clients, Gate(lambda: True), max_tries=self._settings.max_retries)
        for bucket, key, upload_id in left:
            abort_left(store, self._uploads, bucket, key, upload_id)

    def _forget(self, job: JobSync) -> None:
        self._journal.end(job.job_id, job.attempt)
        with self._lock:
            self._jobs.discard(job)
