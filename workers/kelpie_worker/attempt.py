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

import threading
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import structlog

from kelpie.job import NOTHING_KNOWN, FinishReply, Outcome, UploadBacklog
from kelpie.transfers import TransferReport
from kelpie_worker.claims import FolderClaims, folders_of
from kelpie_worker.command_run import CommandRun
from kelpie_worker.disk import MiB, NoRoomError, low_on_space, used_bytes
from kelpie_worker.heartbeat import Heartbeat
from kelpie_worker.leased import LeasedJob
from kelpie_worker.memory_limit import MemoryLimit
from kelpie_worker.queue import JobQueue
from kelpie_worker.reporter import Reporter
from kelpie_worker.settings import Settings
from kelpie_worker.spool import log_folder
from kelpie_worker.state import StateFile
from kelpie_worker.stop import Stop
from kelpie_worker.sync import CanceledTransfer, JobSync, SyncError

_TELL_S = 1.0
"""How long each try of a report waits for the last word on progress and transfers to be told."""

_ANY_FOLDER = (Path("/"),)

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
        others_upload: Callable[[], bool] = lambda: False,
        memory: MemoryLimit | None = None,
        claims: FolderClaims | None = None,
    ) -> None:
        """``guardians_lost``: how often the job's command has lost its guardian on this node before.
        ``others_upload``: whether outputs of earlier jobs are on their way, which will leave the disk.
        ``memory``: the limit of the command's. ``claims``: the folders of all slots of this machine.
        """
        self.job = job
        self.node_bans = 0
        self.short_of_space: tuple[Path, ...] = ()  # the folders whose disks had no room for this job
        self.crowded = False  # there was no room for its data, and there will be more
        self.taken: Sequence[Path] = ()  # what it needs and another slot has: its folders, or all the disk
        self._others_upload = others_upload
        self._claims = claims
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
        self._run = CommandRun(
            job,
            queue=queue,
            log=self._log,
            settings=settings,
            stop=stop,
            guardians_lost=guardians_lost,
            memory=memory,
        )
        self._reporter = Reporter(
            self._log, stop, is_lost=lambda: self._lost is not None, on_lost=self._note_loss
        )
        self._heartbeat = Heartbeat(
            queue,
            job,
            self._log,
            on_lost=self._lose,
            on_unreachable=self._lose_sight,
            backlog=self._to_upload,
            progress=lambda: self._run.said,
            transfers=self._moved,
            on_drain=self._on_drain,
        )

    @property
    def state(self) -> State:
        """Where this attempt is."""
        return self._state

    @property
    def _claim(self) -> str:
        return f"{self.job.id} {self.job.attempt}"

    @property
    def guardian_lost(self) -> bool:
        """Whether somebody killed the guardian of its command, and the command with it."""
        return self._run.guardian_lost

    def uncommitted_s(self, last_upload_s: float) -> float:
        """Seconds of work that the end of this node would lose.

        ``last_upload_s``: when the job's last upload ended, on the monotonic clock; 0: never.
        """
        oldest_s = None if self._sync is None else self._sync.backlog.oldest
        return self._run.uncommitted_s(last_upload_s=last_upload_s, oldest_change_s=oldest_s)

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
            if self._is_taken():
                return self._release()
            self._sync = self._engine.prepare(self.job, may_write=self._heartbeat.may_write)
            sync = self._sync
            self._file.follow_backlog(self.job.id, lambda: sync.backlog)
            logs = log_folder(self.job)
            self._enter(State.DOWNLOADING)
            if self._leaving() or self._is_short_of_space(sync.folders):
                return self._release()
            self._sync.download()
            self._sync.watch()
        except CanceledTransfer:
            return self._release()
        except NoRoomError as error:
            if not self._others_upload():
                if self._others_filled_the_disk() or (not error.never and self._is_beside_others(str(error))):
                    return self._release()
                return self._fail(Outcome.SYNC_FAILED, str(error))
            self._log.warning(
                "no room for the job until outputs of earlier jobs are stored", reason=str(error)
            )
            self.crowded = True
            return self._release()
        except SyncError as error:
            if self._others_filled_the_disk():
                return self._release()
            return self._fail(Outcome.SYNC_FAILED, str(error))

        self._enter(State.RUNNING)
        if self._leaving():
            return self._release()
        stopped = self._run.run(
            logs, woken=self._changed, must_end=lambda: self._lost is not None or self._leaving()
        )
        assert self._run.exit is not None
        self._file.command_exited(self.job.id, self._run.exit.code)

        self._enter(State.DRAINING)
        failed = not stopped and self._run.exit.code != 0
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
            return self._fail(Outcome.APP_FAILED, self._run.exit.reason)
        self._enter(State.FINALIZING)
        return None

    def _to_completed(self) -> None:
        assert self._sync is not None
        try:
            self._sync.finalize()
        except SyncError as error:
            return self._fail(Outcome.SYNC_FAILED, str(error))
        self._report(lambda: self._queue.completed(self.job))
        self._log.info("job completed")
        self._file.job_ended(self.job.id, completed=True)
        return self._end(State.DONE)

    def _is_taken(self) -> bool:
        """Whether another slot of this machine works in a folder of this job: another node may be free."""
        if self._claims is None:
            return False
        folders = folders_of(self.job, self._settings.sync)
        try:
            why = self._claims.take(self._claim, folders)
        except OSError as error:
            raise SyncError(f"the folders of the slots cannot be told apart: {error}") from None
        if why is None:
            return False
        self._log.warning("a folder of the job is taken by another slot", reason=why)
        self.taken = folders
        return True

    def _others_filled_the_disk(self) -> bool:
        """Whether there would be no room without this job's data either. A job that is itself too large for
        this node has failed on it: handed back, it would come here again."""
        if self._sync is None:  # it had no room for the worker's own notes on the job
            return self._is_short_of_space([Path.cwd()])
        return self._is_short_of_space(self._sync.folders, held_bytes=used_bytes(self._sync.folders))

    def _is_beside_others(self, reason: str) -> bool:
        """Whether another slot of this machine has a job, whose data will leave the disk."""
        if self._claims is None or self._claims.are_free(_ANY_FOLDER):
            return False
        self._log.warning("no room for the job beside those of other slots", reason=reason)
        self.taken = _ANY_FOLDER
        return True

    def _is_short_of_space(self, folders: Sequence[Path], held_bytes: int = 0) -> bool:
        """Whether the disks of these folders have no room, even without the job's own data: another node's
        may have."""
        why = low_on_space(folders, self._settings.min_free_disk_mib * MiB, held_bytes=held_bytes)
        if why is None:
            return False
        self._log.warning("no room for the job on this node", reason=why)
        self.short_of_space = tuple(folders)
        return True

    # ---- the ends

    def _release(self) -> None:
        """Hand the job back. Worth telling only while nobody else can have been given it."""
        self._report(lambda: self._queue.released(self.job), until=lambda: self._heartbeat.remaining_s <= 0)
        self._log.info("job released")
        self._file.job_left(self.job.id)
        self._end(State.DONE)

    def _fail(self, outcome: Outcome, reason: str) -> None:
        code = None if self._run.exit is None else self._run.exit.code
        end = self._run.end if outcome is Outcome.APP_FAILED else NOTHING_KNOWN
        reply = self._report(lambda: self._queue.failed(self.job, outcome, code, reason, end))
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
        self._run.stop_log()
        self._log.warning("job abandoned", reason=self._lost or "stopped at once", state=self._state.value)
        self._file.job_left(self.job.id)
        self._end(State.ABANDONED)

    def _report(
        self, report: Callable[[], FinishReply], until: Callable[[], bool] = lambda: False
    ) -> FinishReply:
        """Tell the end, after the log and the last figures: whoever hears of it finds them."""
        self._enter(State.REPORTING)
        self._run.flush_log()

        def last() -> FinishReply:
            self._heartbeat.tell(_TELL_S)
            return report()

        reply = self._reporter.send(last, until=until)
        if reply is None:
            raise _AbandonedError
        return reply

    def _end(self, state: State) -> None:
        self._heartbeat.stop()
        self._stop.unsubscribe(self._on_stop)
        try:
            if self._sync is not None:
                self._sync.clean()
        except Exception:  # noqa: BLE001  (the end has been told: nothing that happens here may tell another)
            self._log.exception("the job's folders could not be emptied")
        self._give_back()
        self._state = state

    def _give_back(self) -> None:
        if self._claims is not None:
            try:
                self._claims.give_back(self._claim)
            except OSError as error:
                self._log.warning("the folders of a job stay taken", error=str(error))

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
            if self._sync is not None:
                self._sync.abandon()
            self._end(State.ABANDONED)

    # ---- what happens from outside

    def _enter(self, state: State) -> None:
        """Go to the next state, unless the attempt has been abandoned meanwhile."""
        with self._lock:
            if self._stop.at_once.is_set() or self._lost is not None:
                raise _AbandonedError
            self._state = state

    def _note_loss(self, reason: str) -> None:
        self._lost = self._lost or reason

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

    def _moved(self) -> TransferReport:
        return TransferReport() if self._sync is None else self._sync.transfers

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
