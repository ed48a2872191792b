"""One attempt at one job on this node, as explicit states.

::

    leased ──▶ downloading ──▶ running ──▶ draining ──▶ finalizing ──▶ done
       └────────────┴─────────────┴────────────┴─────────────┴──────▶ abandoned

``run`` goes as far as draining in the main thread; ``finalize`` goes on in the background while the next job
runs. Three things may happen to an attempt from outside, each from any thread: the lease is lost (by word of
the queue, or because the queue is out of reach for longer than the lease), the worker is asked to stop, and
to stop at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import structlog

from kelpie.errors import KelpieError, LeaseLostError, NotFoundError
from kelpie.job import NOTHING_KNOWN, CommandEnd, FinishReply, Outcome, UploadBacklog
from kelpie_worker.backoff import Backoff
from kelpie_worker.disk import MiB, low_on_space, used_bytes
from kelpie_worker.environment import command_environment
from kelpie_worker.heartbeat import Heartbeat
from kelpie_worker.leased import LeasedJob
from kelpie_worker.process import Command, CommandNotStartedError, Exit
from kelpie_worker.queue import JobQueue
from kelpie_worker.recording import Recording
from kelpie_worker.settings import Settings
from kelpie_worker.spool import log_folder
from kelpie_worker.state import StateFile
from kelpie_worker.stop import STOP_SIGNALS, Stop
from kelpie_worker.sync import CanceledTransfer, JobSync, SyncError

_REPORT_RETRY_S = (0.2, 5.0)
"""First and longest pause between tries to send a report, in seconds."""

_STOP_HEARD_S = 0.5

MAX_GUARDIANS_LOST = 2
"""How often a job may lose the guardian of its command on one node before that is a failure of the job."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class State(StrEnum):
    """Where an attempt is. Each comment says what ends it."""

    LEASED = "leased"  # ends when the folders are checked and made
    DOWNLOADING = "downloading"  # ends when every `before` entry is in place
    RUNNING = "running"  # ends with the command
    DRAINING = "draining"  # ends when every `during` upload is durable
    FINALIZING = "finalizing"  # ends when every `after` object is durable and verified
    REPORTING = "reporting"  # nothing is left but to tell; ends with the answer
    DONE = "done"  # told
    ABANDONED = "abandoned"  # somebody else's job now: nothing was told


class Preparer(Protocol):
    """What an attempt needs of the sync engine."""

    def prepare(self, job: LeasedJob, may_write: Callable[[], bool]) -> JobSync:
        """Check and make the job's folders. SyncError."""


class _AbandonedError(Exception):
    """This attempt must end without a word."""


class Attempt:
    """Brings one leased job to its end. ``node_bans`` is what the last failure report was told."""

    def __init__(
        self,
        job: LeasedJob,
        *,
        settings: Settings,
        queue: JobQueue,
        engine: Preparer,
        state: StateFile,
        stop: Stop,
        guardians_lost: int = 0,
    ) -> None:
        """``guardians_lost``: how often the job's command has lost its guardian on this node before."""
        self.job = job
        self.node_bans = 0
        self.guardian_lost = False  # somebody killed it, and the command with it
        self._guardians_lost = guardians_lost
        self.short_of_space: tuple[Path, ...] = ()  # the folders whose disks had no room for this job
        self.started_s: float | None = None  # when the command was started, on the monotonic clock
        self._settings = settings
        self._queue = queue
        self._engine = engine
        self._file = state
        self._stop = stop
        self._log = _log.bind(job_id=job.id, attempt=job.attempt, node=settings.machine_id)
        self._lock = threading.Lock()
        self._state = State.LEASED
        self._lost: str | None = None  # why the lease is lost
        self._changed = (
            threading.Event()
        )  # the command has exited, the lease is lost, or a stop was asked for
        self._drained = False  # the queue wants this node to be empty
        self._sync: JobSync | None = None
        self._exit: Exit | None = None
        self._recording: Recording | None = None
        self._log_folder: Path | None = None
        self._heartbeat = Heartbeat(
            queue,
            job,
            self._log,
            on_lost=self._lose,
            on_unreachable=self._lose_sight,
            backlog=self._to_upload,
            on_drain=self._on_drain,
        )

    @property
    def state(self) -> State:
        """Where this attempt is."""
        return self._state

    @property
    def finalizing(self) -> bool:
        """Whether :meth:`finalize` must follow."""
        return self._state is State.FINALIZING

    # ---- the states

    def run(self) -> None:
        """From the lease to the end of draining. The next job may start when it returns.

        Runs the command in the calling thread, which must live as long as the worker.
        """
        self._log.info("job leased", command=self.job.command)
        self._file.job_started(self.job.id)
        self._stop.subscribe(self._on_stop)
        self._heartbeat.start()
        self._guarded(self._to_drained)

    def finalize(self) -> None:
        """Store the outputs of a command that exited 0, and report completed."""
        self._guarded(self._to_completed)

    def _to_drained(self) -> None:
        try:
            self._sync = self._engine.prepare(self.job, may_write=self._heartbeat.may_write)
            sync = self._sync
            self._file.follow_backlog(self.job.id, lambda: sync.backlog)
            self._log_folder = log_folder(self.job)
            self._enter(State.DOWNLOADING)
            if self._leaving() or self._is_short_of_space(sync.folders):
                return self._release()
            self._sync.download()
            self._sync.watch()
        except CanceledTransfer:
            return self._release()
        except SyncError as error:
            if self._others_filled_the_disk():
                return self._release()
            return self._fail(Outcome.SYNC_FAILED, str(error))

        self._enter(State.RUNNING)
        if self._leaving():
            return self._release()
        stopped = self._run_command()

        self._enter(State.DRAINING)
        assert self._exit is not None
        failed = not stopped and self._exit.code != 0
        try:
            self._sync.drain()
            if not stopped and not failed:
                self._sync.stage()
        except SyncError as error:
            if not stopped and not failed:
                return self._fail(Outcome.SYNC_FAILED, str(error))
            # what the command left is worth saving, but its own end is what is told
            self._log.warning("not everything that changed could be stored", error=str(error))
        if stopped:
            return self._release()
        if failed:
            return self._fail(Outcome.APP_FAILED, self._exit.reason)
        self._enter(State.FINALIZING)
        return None

    def _to_completed(self) -> None:
        assert self._sync is not None
        try:
            self._sync.finalize()
        except SyncError as error:
            return self._fail(Outcome.SYNC_FAILED, str(error))
        self._begin_report()
        if self._report(lambda: self._queue.completed(self.job)) is None:
            raise _AbandonedError
        self._log.info("job completed")
        self._file.job_ended(self.job.id, completed=True)
        return self._end(State.DONE)

    def _others_filled_the_disk(self) -> bool:
        """Whether there would be no room without this job's data either. A job that is itself too large for
        this node has failed on it: handed back, it would come here again."""
        if self._sync is None:  # it had no room for the worker's own notes on the job
            return self._is_short_of_space([Path.cwd()])
        return self._is_short_of_space(self._sync.folders, but=used_bytes(self._sync.folders))

    def _is_short_of_space(self, folders: Sequence[Path], but: int = 0) -> bool:
        """Whether the disks of these folders have no room, ``but`` so many bytes: another node's may have."""
        why = low_on_space(folders, self._settings.min_free_disk_mib * MiB - but)
        if why is None:
            return False
        self._log.warning("no room for the job on this node", reason=why)
        self.short_of_space = tuple(folders)
        return True

    def _run_command(self) -> bool:
        """Run the command to its end; whether it was told to end (then its exit code means nothing)."""
        self._recording = recording = Recording(
            self.job, self._queue, self._log, self._settings, self._log_folder
        )
        try:
            command = Command(
                [self.job.command, *self.job.arguments],
                command_environment(self.job, self._settings, os.environ),
                on_exit=self._changed.set,
                stdout=recording.stdout,
                stderr=recording.stderr,
            )
        except BaseException as error:
            recording.started()
            recording.finish()
            if not isinstance(error, CommandNotStartedError):
                raise
            self._log.warning("command did not start", error=str(error))
            self._exit = error.exit
            self._file.command_exited(self.job.id, self._exit.code)
            return False
        recording.started()
        self.started_s = time.monotonic()
        self._log.info("command started", pid=command.pid)
        while not (command.exited.is_set() or self._lost or self._leaving()):
            self._changed.wait()
            self._changed.clear()
        grace_s = 0.0 if self._stop.at_once.is_set() else self._settings.grace_s
        told = command.end(grace_s, hurry=self._stop.at_once)
        self._exit = command.reap()
        recording.finish()
        if self._exit.signal in STOP_SIGNALS and not told:
            # a supervisor that stops a node may signal all of its processes, and the command is the first to
            # end of it: this worker hears of it now
            told = self._stop.requested.wait(_STOP_HEARD_S)
        if self._exit.guardian_killed:
            # The node's misfortune, not the application's failure. If it comes again and again it is the
            # command that does it, and the job would go round the fleet for ever, before all others.
            self.guardian_lost = True
            told = told or self._guardians_lost < MAX_GUARDIANS_LOST
        self._log.info("command ended", exit_code=self._exit.code, reason=self._exit.reason, told_to_end=told)
        self._file.command_exited(self.job.id, self._exit.code)
        return told

    # ---- the ends

    def _release(self) -> None:
        """Hand the job back. Worth telling only while nobody else can have been given it."""
        self._begin_report()
        if self._report(lambda: self._queue.released(self.job), while_leased=True) is None:
            raise _AbandonedError
        self._log.info("job released")
        self._file.job_left(self.job.id)
        self._end(State.DONE)

    def _fail(self, outcome: Outcome, reason: str) -> None:
        self._begin_report()
        code = None if self._exit is None else self._exit.code
        end = NOTHING_KNOWN
        if self._exit is not None and self._recording is not None and outcome is Outcome.APP_FAILED:
            end = CommandEnd(self._exit.signal, self._exit.out_of_memory, self._recording.stderr_tail)
        reply = self._report(lambda: self._queue.failed(self.job, outcome, code, reason, end))
        if reply is None:
            raise _AbandonedError
        self.node_bans = reply.node_bans
        self._log.warning(
            "job failed on this node",
            outcome=outcome.value,
            exit_code=code,
            reason=reason,
            num_failures=reply.num_failures,
            node_bans=reply.node_bans,
        )
        self._file.job_ended(self.job.id, completed=False)
        self._end(State.DONE)

    def _abandon(self) -> None:
        """No report and no upload: the job is somebody else's, or this worker ends at once."""
        if self._sync is not None:
            self._sync.abandon()
        if self._recording is not None:
            self._recording.stop()
        self._log.warning("job abandoned", reason=self._lost or "stopped at once", state=self._state.value)
        self._file.job_left(self.job.id)
        self._end(State.ABANDONED)

    def _begin_report(self) -> None:
        self._enter(State.REPORTING)
        if self._recording is not None:
            self._recording.flush()

    def _end(self, state: State) -> None:
        self._heartbeat.stop()
        self._stop.unsubscribe(self._on_stop)
        try:
            if self._sync is not None:
                self._sync.clean()
        except Exception:  # noqa: BLE001  (the end has been told: nothing that happens here may tell another)
            self._log.exception("the job's folders could not be emptied")
        self._state = state

    def _guarded(self, states: Callable[[], None]) -> None:
        try:
            try:
                states()
            except (_AbandonedError, CanceledTransfer):
                self._abandon()
            except Exception as error:  # noqa: BLE001  (a defect in one attempt must not end the worker)
                # It counts, or a job that meets it would go round the fleet for ever.
                self._log.exception("unexpected error", state=self._state.value)
                self._fail(Outcome.SYNC_FAILED, f"internal error of the worker: {type(error).__name__}")
        except _AbandonedError:
            self._abandon()
        except Exception:  # noqa: BLE001  (as above)
            self._log.exception("unexpected error at the end of a job", state=self._state.value)
            self._heartbeat.stop()
            self._state = State.ABANDONED

    # ---- what tells the end

    def _report(self, send: Callable[[], FinishReply], *, while_leased: bool = False) -> FinishReply | None:
        """Send a report until it is answered; None when the lease is lost, or the worker ends at once.

        An outage is no failure of the job and no loss of its result: beyond the end of the lease, too, the
        report is accepted as long as nobody else was given the job (``while_leased`` gives up earlier). Only
        the queue's word ends it. The heartbeats go on meanwhile.
        """
        backoff = Backoff(*_REPORT_RETRY_S)
        warned = False
        while True:
            last_try = self._lost is not None or (while_leased and self._heartbeat.remaining_s <= 0)
            if self._stop.at_once.is_set():
                return None
            try:
                return send()
            except LeaseLostError as error:
                self._lost = self._lost or error.reason
                return None
            except NotFoundError:
                self._lost = self._lost or "deleted"
                return None
            except KelpieError as error:
                if last_try:
                    return None
                if not warned:
                    self._log.warning("report got no answer; trying again", error=str(error))
                    warned = True
            self._stop.at_once.wait(backoff.pause_s())

    # ---- what happens from outside

    def _enter(self, state: State) -> None:
        """Go to the next state, unless the attempt has been abandoned meanwhile."""
        with self._lock:
            if self._stop.at_once.is_set() or self._lost is not None:
                raise _AbandonedError
            self._state = state

    def _lose(self, reason: str) -> None:
        """The queue says that this attempt does not hold the job."""
        with self._lock:
            if self._lost is None:
                self._lost = reason
            reporting = self._state is State.REPORTING  # then the answer to the report says more
        self._changed.set()
        if not reporting and self._sync is not None:
            self._sync.abandon()

    def _lose_sight(self) -> None:
        """The queue has been out of reach for longer than the lease: somebody else may have the job."""
        if self._state is not State.REPORTING:
            self._lose("unreachable")

    def _to_upload(self) -> UploadBacklog:
        return UploadBacklog() if self._sync is None else self._sync.backlog.to_tell()

    def _leaving(self) -> bool:
        """Whether the command is to end early, for another node to go on."""
        return self._drained or self._stop.requested.is_set()

    def _on_drain(self) -> None:
        """The queue wants this node to be empty. A command that has exited is not told: its end counts."""
        with self._lock:
            if self._drained:
                return
            self._drained = True
        self._log.info("this node is drained")
        self._on_stop()

    def _on_stop(self) -> None:
        with self._lock:
            # a download that is no longer wanted; everything later is worth finishing
            cancel = self._stop.at_once.is_set() or self._state is State.DOWNLOADING
        self._changed.set()
        if cancel and self._sync is not None:
            self._sync.abandon()
