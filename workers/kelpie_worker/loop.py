"""The life of a worker: lease, run, and end when asked to, or when the node is no good."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from kelpie.errors import KelpieError, StartupError, UnavailableError
from kelpie_worker.attempt import Attempt, Preparer
from kelpie_worker.backoff import Backoff
from kelpie_worker.claims import FolderClaims
from kelpie_worker.deletion_cost import MAX_DELETION_COST, LastUploads
from kelpie_worker.disk import MiB, low_on_space
from kelpie_worker.exit_codes import RECREATE_CONTAINER, REPLACE_NODE, STOPPED
from kelpie_worker.imds import Provider
from kelpie_worker.leased import LeasedJob
from kelpie_worker.memory_limit import MemoryLimit
from kelpie_worker.queue import JobQueue
from kelpie_worker.set_aside import LOOK_S, SetAside
from kelpie_worker.settings import MAX_POLL_WAIT_S, Settings
from kelpie_worker.state import StateFile
from kelpie_worker.stop import Stop

MAX_FINALIZING = 8
"""Jobs whose outputs may be on their way at once: beyond them disks would fill faster than they empty."""

REPLACEMENT_WAIT_S = 60.0
"""How long a worker waits to be stopped after the metadata service has agreed to replace it."""

_UNREACHABLE_PAUSE_S = (0.5, 10.0)
_REFUSED_PAUSE_S = (5.0, 60.0)
_LOW_SPACE_PAUSE_S = 5.0
_MAX_REMEMBERED = 1000
_STOP_NOW_S = 5.0
"""How long cleaning up may take after the second signal."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class Worker:
    """Serves one queue with one job at a time, and finishes the data of earlier jobs in the background."""

    def __init__(
        self,
        *,
        settings: Settings,
        queue: JobQueue,
        engine: Preparer,
        state: StateFile,
        imds: Provider,
        stop: Stop,
        uploads: LastUploads | None = None,
        memory: MemoryLimit | None = None,
        claims: FolderClaims | None = None,
        machine_idle_for: Callable[[float], bool] = lambda _: True,
    ) -> None:
        """``machine_idle_for``: whether the other slots of this machine had no job for so many seconds."""
        self._settings = settings
        self._queue = queue
        self._engine = engine
        self._state = state
        self._imds = imds
        self._stop = stop
        self._log = _log.bind(node=settings.machine_id)
        self._finals: list[tuple[Attempt, threading.Thread]] = []
        self._guardians_lost: Counter[str] = Counter()  # by job
        self._node_bans = 0
        self._last_work = time.monotonic()
        self._unreachable = Backoff(*_UNREACHABLE_PAUSE_S)
        self._refused = Backoff(*_REFUSED_PAUSE_S)
        self._too_early = Backoff(1.0, settings.poll_wait_s)
        self._uploads = uploads
        self._memory = memory
        self._claims = claims
        self._machine_idle_for = machine_idle_for
        self._aside = SetAside(settings, queue, stop, claims)
        self._running: Attempt | None = None
        self._low = False
        self._crowded = False  # the last job finds room once outputs of earlier ones are stored
        self._short: tuple[Path, ...] = ()  # folders of the last job that had no room
        self._trouble: str | None = None  # what the last poll met, so that it is logged once

    def run(self) -> int:
        """Until stopped or replaced; the exit code of the process. StartupError: this can never work."""
        self._stop.subscribe(self._queue.stop_leasing)
        self._stop.when_retiring(self._on_retire)
        while not self._stop.leaving:
            self._collect_finals()
            if self._node_bans >= self._settings.max_job_failures:
                return self._replace(f"jobs failed on this node: it is banned from {self._node_bans}")
            if self._aside.waits() or self._waits_for_space():
                continue
            if len(self._finals) >= MAX_FINALIZING or (self._crowded and self._finals):
                self._finals[0][1].join(timeout=0.5)
                continue
            job = self._lease()
            if job is None:
                idle_s = time.monotonic() - self._last_work
                if self._tired_of_waiting(idle_s):
                    return self._replace(f"no work for {idle_s:.0f} s")
                continue
            if self._aside.takes(job):
                self._last_work = time.monotonic()
                continue
            self._serve(job)
            if self._settings.recreate_between_jobs and not self._stop.leaving:
                return self._recreate()
        self._log.info("stopping", uploads_of_jobs=len(self._finals))
        self._wait_for_finals()
        return STOPPED

    def deletion_cost(self) -> int:
        """What the end of this node would lose: nothing, so many seconds of work, or finished outputs."""
        if self._uploads_finals():
            return MAX_DELETION_COST
        attempt = self._running
        if attempt is None:
            return 0
        last_s = 0.0 if self._uploads is None else self._uploads.last_s(attempt.job.id)
        lost_s = attempt.uncommitted_s(last_s)  # none while its data is being fetched
        return min(1 + int(lost_s), MAX_DELETION_COST - 1)

    def _waits_for_space(self) -> bool:
        """Whether the disks that jobs write to are too full for another one. Waits a while if so."""
        disks = (Path.cwd(), self._settings.sync.temp_dir, *self._short)
        why = low_on_space(disks, self._settings.min_free_disk_mib * MiB)
        if why is None:
            if self._low:
                self._log.info("there is room again")
            self._low = False
            self._short = ()
            return False
        if not self._low:
            self._log.warning("no job is asked for until there is room", reason=why)
        self._low = True
        self._stop.requested.wait(_LOW_SPACE_PAUSE_S)
        return True

    def _on_retire(self) -> None:
        # A poll that is left open may be given a job as long as this process lives: then it is waited for.
        if not self._uploads_finals():
            self._queue.stop_leasing()

    def _lease(self) -> LeasedJob | None:
        """One poll. Whatever it meets, the worker goes on asking."""
        asked = time.monotonic()
        wait_s = min(self._settings.poll_wait_s, LOOK_S if self._aside else MAX_POLL_WAIT_S)
        try:
            job = self._queue.lease(wait_s)
        except StartupError:
            raise
        except UnavailableError as error:
            self._note_trouble("no jobs can be asked for; trying again", error)
            self._stop.requested.wait(self._unreachable.pause_s())
            return None
        except KelpieError as error:  # refused: keys may be put right without a restart
            self._note_trouble("asking for jobs is refused; trying again slowly", error)
            self._stop.requested.wait(self._refused.pause_s())
            return None
        if self._trouble is not None:
            self._log.info("jobs can be asked for again")
            self._trouble = None
        self._unreachable.reset()
        self._refused.reset()
        if job is not None or time.monotonic() - asked >= wait_s / 2:
            self._too_early.reset()
        elif not self._stop.leaving:  # a server without long polls, or one that is about to end
            self._stop.requested.wait(self._too_early.pause_s())
        return job

    def _serve(self, job: LeasedJob) -> None:
        attempt = Attempt(
            job,
            settings=self._settings,
            queue=self._queue,
            engine=self._engine,
            state=self._state,
            stop=self._stop,
            guardians_lost=self._guardians_lost[job.id],
            others_upload=self._uploads_finals,
            memory=self._memory,
            claims=self._claims,
        )
        self._running = attempt
        attempt.run()
        self._running = None
        if attempt.guardian_lost:
            self._guardians_lost[job.id] += 1
            if len(self._guardians_lost) > _MAX_REMEMBERED:
                del self._guardians_lost[next(iter(self._guardians_lost))]
        self._short = attempt.short_of_space or self._short
        self._crowded = attempt.crowded
        self._aside.note(job, attempt.taken)
        if attempt.finalizing:
            thread = threading.Thread(target=attempt.finalize, name=f"finalize-{job.id}", daemon=True)
            thread.start()
            self._finals.append((attempt, thread))
        else:
            self._node_bans = max(self._node_bans, attempt.node_bans)
        self._last_work = time.monotonic()

    def _uploads_finals(self) -> bool:
        """Whether outputs of earlier jobs are on their way."""
        return any(thread.is_alive() for _, thread in list(self._finals))

    def _collect_finals(self) -> None:
        """Take note of the jobs whose data is through."""
        for attempt, thread in self._finals:
            if not thread.is_alive():
                self._node_bans = max(self._node_bans, attempt.node_bans)
                self._last_work = time.monotonic()
        self._finals = [each for each in self._finals if each[1].is_alive()]

    def _wait_for_finals(self) -> None:
        """Until every job's data is through; after a second stop request, as long as giving up takes."""
        threads = [*(thread for _, thread in self._finals), *self._aside.hand_back()]
        while (alive := [each for each in threads if each.is_alive()]) and not self._stop.at_once.is_set():
            alive[0].join(timeout=0.2)
        deadline = time.monotonic() + _STOP_NOW_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._collect_finals()

    def _tired_of_waiting(self, idle_s: float) -> bool:
        limit_s = self._settings.max_time_with_no_work_s
        self._collect_finals()
        # an API out of reach says nothing about work, and another node would not reach it either
        if not 0 < limit_s <= idle_s or self._finals or self._trouble is not None:
            return False
        return self._machine_idle_for(limit_s)

    def _replace(self, reason: str) -> int:
        """Ask for another machine, once every transfer of every job is through."""
        self._log.warning("this node asks to be replaced", reason=reason, uploads_of_jobs=len(self._finals))
        return self._leave(lambda: self._imds.reallocate(reason), REPLACE_NODE)

    def _recreate(self) -> int:
        """Ask for a fresh container, once every transfer of every job is through."""
        return self._leave(self._imds.recreate, RECREATE_CONTAINER)

    def _leave(self, ask: Callable[[], bool], otherwise: int) -> int:
        self._wait_for_finals()
        if self._stop.requested.is_set():
            return STOPPED
        if not ask():
            return otherwise
        # Ending at once might have a supervisor start a worker again on the node that is about to go.
        self._stop.requested.wait(REPLACEMENT_WAIT_S)
        return STOPPED

    def _note_trouble(self, what: str, error: KelpieError) -> None:
        kind = type(error).__name__
        if self._trouble != kind:
            self._trouble = kind
            log = self._log.warning if isinstance(error, UnavailableError) else self._log.error
            log(what, error=str(error))
