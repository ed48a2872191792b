"""Jobs that cannot run here yet, because another slot of this machine works in one of their folders.

A job that is handed back is the first to be handed out again: whoever asks for another is given the same. So
it is kept for a while, with its lease, and the queue is asked for what waits behind it. Then it is handed
back, for long enough that any other node that asks is given it.
"""

from __future__ import annotations

import threading
import time
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

MAX_SET_ASIDE = 32
"""Jobs that one slot keeps from others, at most."""

LOOK_S = 1.0
"""How often to look whether a folder is free; no poll takes longer meanwhile."""

_KEEP_S = (2.0, 20.0)
_OPEN_TO_OTHERS_S = 1.0

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
        self._keep = Backoff(*_KEEP_S)
        self._until = 0.0  # on the monotonic clock: when all of them are handed back
        self._tried: dict[str, Sequence[Path]] = {}  # what jobs lacked that were tried: by id, until then
        self._returns: list[threading.Thread] = []

    def __bool__(self) -> bool:
        return bool(self._kept)

    def takes(self, job: LeasedJob) -> bool:
        """Whether the job cannot run now; then it is kept. :meth:`waits` was asked before it was leased."""
        if self._claims is None:
            return False
        try:
            folders = self._tried.get(job.id) or folders_of(job, self._settings.sync)
        except SyncError:  # that is for its attempt to tell
            return False
        why = self._claims.in_the_way(folders)
        if why is None:
            return False
        now = time.monotonic()
        if not self._kept:
            self._until = now + self._keep.pause_s()
        if job.max_runtime_s is not None:  # which goes on: to be kept is no failure
            self._until = min(self._until, now + job.max_runtime_s / 2)
        self._kept.append(_KeptJob(job, folders, self._settings, self._queue, self._stop))
        self._kept[-1].log.info(
            "a folder of the job is taken by another slot: others are asked for", reason=why
        )
        return True

    def waits(self) -> bool:
        """Whether no job is to be asked for now. Waits a while if so; hands back what has its turn."""
        self._returns = [each for each in self._returns if each.is_alive()]
        if self._claims is None or not self._kept:
            return False
        if any(self._claims.are_free(kept.folders) for kept in self._kept):
            self.hand_back()  # and lease it again, if nobody is faster
            return False
        if time.monotonic() >= self._until or any(kept.ended.is_set() for kept in self._kept):
            self.hand_back()
            self._stop.requested.wait(_OPEN_TO_OTHERS_S)
            return True
        if len(self._kept) >= MAX_SET_ASIDE:
            self._stop.requested.wait(LOOK_S)
            return True
        return False

    def note(self, job: LeasedJob, lacked: Sequence[Path]) -> None:
        """An attempt at the job was made; ``lacked``: what it needs and another slot had, or nothing."""
        if lacked:
            self._tried[job.id] = lacked
        else:
            self._keep.reset()

    def hand_back(self) -> None:
        """Give the jobs to whoever asks, in the background: no job of this node waits for that."""
        kept, self._kept = self._kept, []
        self._tried.clear()
        for each in kept:
            thread = threading.Thread(target=each.hand_back, name=f"hand-back-{each.job.id}", daemon=True)
            thread.start()
            self._returns.append(thread)

    @property
    def returns(self) -> Sequence[threading.Thread]:
        """The threads that hand jobs back: through when the queue has answered."""
        return self._returns


class _KeptJob:
    """A job that does not run, and its lease."""

    def __init__(
        self, job: LeasedJob, folders: Sequence[Path], settings: Settings, queue: JobQueue, stop: Stop
    ) -> None:
        self.job = job
        self.folders = folders
        self.log = _log.bind(job_id=job.id, attempt=job.attempt, node=settings.machine_id)
        self.ended = threading.Event()  # the lease is lost, or this node is to be empty
        self._queue = queue
        self._lost = False
        self._reporter = Reporter(self.log, stop, is_lost=lambda: self._lost, on_lost=self._lose)
        self._heartbeat = Heartbeat(
            queue,
            job,
            self.log,
            on_lost=self._lose,
            on_unreachable=lambda: self._lose("unreachable"),
            on_drain=self.ended.set,
        )
        self._heartbeat.start()

    def hand_back(self) -> None:
        """Release it, unless it is somebody else's by now."""
        if not self._lost:
            self._reporter.send(
                lambda: self._queue.released(self.job), until=lambda: self._heartbeat.remaining_s <= 0
            )
        self._heartbeat.stop()

    def _lose(self, reason: str) -> None:
        if not self._lost:
            self.log.info("a job that was set aside is this node's no more", reason=reason)
        self._lost = True
        self.ended.set()
