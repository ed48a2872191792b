"""The heartbeat of one job: renews its lease from the grant until the last report is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from kelpie.errors import KelpieError, LeaseLostError, NotFoundError, UnavailableError
from kelpie.job import LIVE, UploadBacklog
from kelpie.transfers import TransferReport
from kelpie_worker.backoff import Backoff
from kelpie_worker.clock import lease_clock
from kelpie_worker.leased import LeasedJob
from kelpie_worker.progress_file import Said
from kelpie_worker.queue import JobQueue

_BEATS_PER_INTERVAL = 3
"""A lease lasts two intervals: five beats may be lost in a row before it ends."""
_BEATS_TO_TELL = 2
"""The end of a beat that began earlier, without the news, and that of the one with it."""


class Heartbeat:
    """Renews one lease in a thread of its own, and answers whether the job may still write.

    ``on_lost(reason)`` is called once, when the queue says that this attempt no longer holds the job.
    ``on_drain()`` is called at every answer that asks for the job to be handed back.
    ``on_unreachable()`` is called at every vain try beyond the end of the lease: the queue may by now have
    given the job away, nobody can say. Both are called from any thread; the beats go on after
    ``on_unreachable``. ``backlog`` says what of the job waits for its upload, ``progress`` what its command
    has said, ``transfers`` what was moved; the beats tell it to the queue, the last two when they changed.
    """

    def __init__(
        self,
        queue: JobQueue,
        job: LeasedJob,
        log: structlog.typing.FilteringBoundLogger,
        *,
        on_lost: Callable[[str], None],
        on_unreachable: Callable[[], None],
        backlog: Callable[[], UploadBacklog] = UploadBacklog,
        progress: Callable[[], Said | None] = lambda: None,
        transfers: Callable[[], TransferReport] = TransferReport,
        on_drain: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = lease_clock,
    ) -> None:
        self._queue = queue
        self._job = job
        self._log = log
        self._on_lost = on_lost
        self._on_unreachable = on_unreachable
        self._backlog = backlog
        self._told: UploadBacklog | None = None  # to the queue, while something waits
        self._progress = progress
        self._told_progress: Said | None = None
        self._transfers = transfers
        self._told_transfers = TransferReport()
        self._on_drain = on_drain
        self._clock = clock
        self._beating = threading.Lock()  # one beat at a time
        self._stopped = threading.Event()
        self._wanted = threading.Event()  # a beat, before its time
        self._beaten = threading.Event()
        self._lost = False
        self._failing = False
        self._held_until = clock() + job.lease_s
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{job.id}", daemon=True)

    def start(self) -> None:
        """Beat at once, then until :meth:`stop`."""
        self._thread.start()

    def stop(self) -> None:
        """No beat starts after this."""
        self._stopped.set()
        self._wanted.set()

    def tell(self, timeout_s: float) -> None:
        """Beat now when progress or transfers are to be told, and wait so long for it: they are the last."""
        deadline = time.monotonic() + timeout_s
        for _ in range(_BEATS_TO_TELL):
            self._beaten.clear()
            if not self._has_more() or self._lost or self._stopped.is_set():
                return
            self._wanted.set()
            self._beaten.wait(max(0.0, deadline - time.monotonic()))

    @property
    def remaining_s(self) -> float:
        """Seconds for which nobody else can have been given the job; negative: the lease may be lost."""
        return self._held_until - self._clock()

    def may_write(self) -> bool:
        """Whether this attempt holds the job now; asked before anything is written outside this node.

        Costs nothing while the lease lasts. After a pause longer than the lease (SIGSTOP, a suspended
        machine, an unreachable queue) the queue is asked first, whichever thread comes first.
        """
        if not self._lost and self.remaining_s <= 0:
            self._beat()
        return not self._lost and self.remaining_s > 0

    def _run(self) -> None:
        period_s = self._job.heartbeat_interval / _BEATS_PER_INTERVAL
        backoff = Backoff(min(0.2, period_s), period_s)
        pause_s = 0.0
        while True:
            self._wanted.wait(pause_s)
            self._wanted.clear()
            if self._stopped.is_set() or self._lost:
                return
            if self._beat():
                backoff.reset()
                pause_s = period_s
            else:
                pause_s = backoff.pause_s()
            self._beaten.set()

    def _beat(self) -> bool:
        """One try to renew the lease; False when it got no answer."""
        with self._beating:
            if self._lost or self._stopped.is_set():
                return True
            sent = self._clock()  # the lease lasts from when the queue renewed it, which is later than this
            try:
                backlog, said, moved = self._news(), self._progress(), self._transfers()
                progress = None if said is None or said is self._told_progress else said.to_tell()
                transfers = None if moved == self._told_transfers else moved
                reply = self._queue.heartbeat(self._job, backlog, progress, transfers)
            except NotFoundError:
                return self._lose("deleted")
            except LeaseLostError as error:
                return self._lose(error.reason)
            except KelpieError as error:
                self._note_failure(error)
                answered = False
            except Exception:  # noqa: BLE001  (whatever it is, the next beat may pass; a dead thread never beats)
                self._log.exception("unexpected error in a heartbeat")
                answered = False
            else:
                if reply.status not in LIVE or reply.reason is not None:
                    return self._lose(reply.reason or reply.status.value)
                self._told = backlog if backlog is not None and backlog.files else None
                self._told_progress = said
                self._told_transfers = moved
                self._held_until = sent + self._job.lease_s
                if self._failing:
                    self._failing = False
                    self._log.info("heartbeats are answered again")
                answered = True
                if reply.drain:
                    self._on_drain()
            expired = self.remaining_s <= 0
        if expired and not self._stopped.is_set():
            self._on_unreachable()
        return answered

    def _news(self) -> UploadBacklog | None:
        """What waits, and once that nothing does any more; None when there is nothing to tell."""
        backlog = self._backlog()
        return backlog if backlog.files or self._told is not None else None

    def _has_more(self) -> bool:
        """Whether the last beat left something untold that a report should not come before."""
        return self._progress() is not self._told_progress or self._transfers() != self._told_transfers

    def _lose(self, reason: str) -> bool:
        self._lost = True
        self._on_lost(reason)
        return True

    def _note_failure(self, error: KelpieError) -> None:
        if self._failing:
            return
        self._failing = True
        if isinstance(error, UnavailableError):
            self._log.warning("heartbeat got no answer; trying again", error=str(error))
        else:
            self._log.error("heartbeat was refused; trying again", error=str(error))
