"""Jobs that cannot run here yet, because another slot of this machine works in one of their folders.

A job that is handed back is the first to be handed out again: whoever asks for another is given the same. So
a few are kept for a while, with their leases, and the queue is asked for what waits behind them. They go back
when their folders are free, to be leased anew, and when their time is over: for long enough then that any
other node that asks is given them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import structlog

from kelpie_worker.backoff import Backoff
from kelpie_worker.claims import FolderClaims, folders_of
from kelpie_worker.heartbeat import Heartbeat
from kelpie_worker.leased import LeasedJob
from kelpie_worker.queue import JobQueue
from kelpie_worker.reporter import Reporter
from kelpie_worker.settings import Settings
from kelpie_worker.stop import Stop
from kelpie_worker.sync import SyncError

MAX_SET_ASIDE = 4
"""Jobs that one slot keeps from other nodes, at most."""

LOOK_S = 1.0
"""How often to look whether a folder is free; no poll takes longer meanwhile."""

_KEEP_S = (2.0, 20.0)
_OPEN_TO_OTHERS_S = 1.0
_MAX_REMEMBERED = 1000

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class SetAside:
    """The jobs that one slot has set aside. For the thread that asks for jobs."""

    def __init__(self, settings: Settings, queue: JobQueue, stop: Stop, claims: FolderClaims | None) -> None:
        """Without ``claims`` there are no other slots, and nothing is set aside."""
        self._settings = settings
        self._queue = queue
        self._stop = stop
        self._claims = claims
        self._kept: list[_KeptJob] = []
        self._returning: list[_KeptJob] = []
        self._backoff = Backoff(*_KEEP_S)
        self._keep_s = 0.0
        self._lacked: dict[str, Sequence[Path]] = {}  # what jobs that were tried lacked, by id

    def __bool__(self) -> bool:
        return bool(self._kept)

    def takes(self, job: LeasedJob) -> bool:
        """Whether the job cannot run now; then it is kept. :meth:`waits` was asked before it was leased."""
        if self._claims is None:
            return False
        try:
            folders = self._lacked.get(job.id) or folders_of(job, self._settings.sync)
        except SyncError:  # that is for its attempt to tell
            return False
        why = self._claims.in_the_way(folders)
        if why is None:
            self._lacked.pop(job.id, None)
            return False
        if not self._kept:
            self._keep_s = self._backoff.pause_s()
        # the time that it may run for goes on: to be kept is no failure
        keep_s = self._keep_s if job.max_runtime_s is None else min(self._keep_s, job.max_runtime_s / 2)
        self._kept.append(_KeptJob(job, folders, keep_s, self._settings, self._queue, self._stop))
        self._kept[-1].log.info(
            "a folder of the job is taken by another slot: others are asked for", reason=why
        )
        return True

    def waits(self) -> bool:
        """Whether no job is to be asked for now. Waits a while if so; lets go what has its turn."""
        self._returning = [each for each in self._returning if each.is_there]
        if self._claims is None or not self._kept:
            return False
        over = [each for each in self._kept if each.is_over]
        if over:
            self._let_go(over)
            self._stop.requested.wait(_OPEN_TO_OTHERS_S)
            return True
        free = [each for each in self._kept if self._claims.are_free(each.folders)]
        if free:
            self._let_go(free[:1])
            free[0].thread.join(LOOK_S)  # to lease it again, if nobody is faster
            return False
        if len(self._kept) >= MAX_SET_ASIDE:
            self._stop.requested.wait(LOOK_S)
            return True
        return False

    def note(self, job: LeasedJob, lacked: Sequence[Path]) -> None:
        """An attempt at the job was made; ``lacked``: what it needs and another slot had, or nothing."""
        if lacked:
            self._lacked[job.id] = lacked
            if len(self._lacked) > _MAX_REMEMBERED:
                del self._lacked[next(iter(self._lacked))]
        else:
            self._backoff.reset()

    def hand_back(self) -> Sequence[threading.Thread]:
        """Give all jobs to whoever asks. The threads that do it, also of jobs that were let go before."""
        self._let_go(self._kept)
        return [each.thread for each in self._returning]

    def _let_go(self, jobs: Sequence[_KeptJob]) -> None:
        for each in jobs:
            each.over.set()
        self._kept = [each for each in self._kept if each not in jobs]
        self._returning += jobs


class _KeptJob:
    """A job that does not run, and its lease, until it is over; then a thread of its own hands it back."""

    def __init__(
        self,
        job: LeasedJob,
        folders: Sequence[Path],
        keep_s: float,
        settings: Settings,
        queue: JobQueue,
        stop: Stop,
    ) -> None:
        self.job = job
        self.folders = folders
        self.log = _log.bind(job_id=job.id, attempt=job.attempt, node=settings.machine_id)
        self.over = threading.Event()  # its time, its lease, or this node is to be empty
        self._keep_s = keep_s
        self._queue = queue
        self._lost = False
        self._reporter = Reporter(self.log, stop, is_lost=lambda: self._lost, on_lost=self._lose)
        self._heartbeat = Heartbeat(
            queue,
            job,
            self.log,
            on_lost=self._lose,
            on_unreachable=lambda: self._lose("unreachable"),
            on_drain=self.over.set,
        )
        self.thread = threading.Thread(target=self._keep, name=f"set-aside-{job.id}", daemon=True)
        self._heartbeat.start()
        self.thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it is on its way back, or gone."""
        return self.over.is_set()

    @property
    def is_there(self) -> bool:
        """Whether the queue has not yet heard that it comes back."""
        return self.thread.is_alive()

    def _keep(self) -> None:
        self.over.wait(self._keep_s)
        self.over.set()
        if not self._lost:
            self._reporter.send(
                lambda: self._queue.released(self.job), until=lambda: self._heartbeat.remaining_s <= 0
            )
        self._heartbeat.stop()

    def _lose(self, reason: str) -> None:
        if not self._lost:
            self.log.info("a job that was set aside is this node's no more", reason=reason)
        self._lost = True
        self.over.set()
