"""Jobs straight from Redis, for workers inside the cluster: the same scripts as the API's, no API between.

``KELPIE_API_URL=redis://…`` chooses it; ``KELPIE_API_KEY`` still tells whose queue is served.
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING

from kelpie.errors import ForbiddenError, StartupError, UnauthenticatedError
from kelpie.job import (
    NOTHING_KNOWN,
    CommandEnd,
    FinishReply,
    HeartbeatReply,
    Holder,
    LogBatch,
    Outcome,
    UploadBacklog,
)
from kelpie.progress import ProgressReport
from kelpie.transfers import TransferReport
from kelpie_worker.leased import LeasedJob
from kelpie_worker.queue import MAX_REASON_LENGTH
from kelpie_worker.settings import MAX_POLL_WAIT_S, Settings

if TYPE_CHECKING:  # redis is an extra, and stays out of workers that lease over HTTP
    from kelpie.store import Store
    from kelpie.store.poller import Poller


class RedisQueue:
    """The :class:`~kelpie_worker.queue.JobQueue` of one container group in a Redis."""

    def __init__(self, settings: Settings) -> None:
        """StartupError when the redis package is missing. Nothing is connected yet."""
        try:
            from kelpie.store import Store
            from kelpie.store.poller import Poller
        except ModuleNotFoundError as error:
            raise StartupError(
                f"KELPIE_API_URL is a Redis, which needs the package {error.name!r}: "
                "pip install 'kelpie-jobs[worker,direct]', or give the URL of the API"
            ) from error
        self._settings = settings
        self._connect, self._make_poller = Store.connect, Poller
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._poller: Poller | None = None
        self._user_id: str | None = None
        self._request_id: str | None = None
        self._stopping = False

    def lease(self, wait_s: float) -> LeasedJob | None:
        """See JobQueue. The request id stays the same until a poll is answered."""
        store, user_id = self._open()
        if self._request_id is None:
            self._request_id = uuid.uuid4().hex
        group, node = self._settings.container_group_id, self._settings.machine_id
        with self._lock:
            if self._poller is None and not self._stopping:
                self._poller = self._make_poller(store)
            poller = self._poller
        if poller is None or self._stopping:
            lease = store.lease(user_id, group, node, self._request_id)
        else:
            lease = poller.poll(user_id, group, node, self._request_id, min(wait_s, MAX_POLL_WAIT_S))
        self._request_id = None
        if lease is None:
            return None
        job = lease.job
        return LeasedJob.from_spec(
            job.spec,
            self._settings,
            job_id=job.id,
            attempt=job.attempt,
            fence=lease.fence,
            lease=lease.secret,
        )

    def heartbeat(
        self,
        job: LeasedJob,
        backlog: UploadBacklog | None = None,
        progress: ProgressReport | None = None,
        transfers: TransferReport | None = None,
    ) -> HeartbeatReply:
        """See JobQueue."""
        store, user_id = self._open()
        return store.heartbeat(
            job.id,
            self._holder(job),
            user_id=user_id,
            backlog=backlog,
            progress=progress,
            transfers=transfers,
        )

    def completed(self, job: LeasedJob) -> FinishReply:
        """See JobQueue."""
        return self._finish(job, Outcome.COMPLETED)

    def failed(
        self,
        job: LeasedJob,
        outcome: Outcome,
        exit_code: int | None,
        reason: str | None,
        end: CommandEnd = NOTHING_KNOWN,
    ) -> FinishReply:
        """See JobQueue."""
        return self._finish(job, outcome, exit_code, reason, end)

    def released(self, job: LeasedJob) -> FinishReply:
        """See JobQueue."""
        return self._finish(job, Outcome.RELEASED)

    def log(self, job: LeasedJob, batch: LogBatch) -> None:
        """See JobQueue."""
        store, user_id = self._open()
        store.append_log(job.id, self._holder(job), batch, user_id=user_id)

    def stop_leasing(self) -> None:
        """See JobQueue."""
        with self._lock:
            self._stopping = True
            poller, self._poller = self._poller, None
        if poller is not None:
            poller.close()

    def close(self) -> None:
        """See JobQueue."""
        self.stop_leasing()
        with self._lock:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def _finish(
        self,
        job: LeasedJob,
        outcome: Outcome,
        exit_code: int | None = None,
        reason: str | None = None,
        end: CommandEnd = NOTHING_KNOWN,
    ) -> FinishReply:
        store, user_id = self._open()
        return store.finish(
            job.id,
            self._holder(job),
            outcome,
            exit_code=exit_code,
            reason=None if reason is None else reason[:MAX_REASON_LENGTH],
            end=end,
            user_id=user_id,
        )

    def _holder(self, job: LeasedJob) -> Holder:
        return Holder(node=self._settings.machine_id, lease=job.lease)

    def _open(self) -> tuple[Store, str]:
        """The store and the user whose queue this is, connected and looked up when first needed."""
        with self._lock:
            if self._store is None:
                self._store = self._connect(
                    self._settings.api_url, wait_replicas=self._settings.wait_replicas
                )
            store = self._store
            if self._user_id is None:
                if not self._settings.api_key:
                    raise UnauthenticatedError("KELPIE_API_KEY is not set: it tells whose queue is served")
                from kelpie.store import Scope

                principal = store.users.authenticate(self._settings.api_key, note_use=False)
                if principal is None:
                    raise ForbiddenError("KELPIE_API_KEY is not a key that this Redis knows")
                if not principal.may(Scope.WORK):
                    raise ForbiddenError("KELPIE_API_KEY lacks the scope work")
                self._user_id = principal.user_id
            return store, self._user_id
