"""The command of one attempt from start to end, with what it prints and what it says of its progress."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from kelpie.job import NOTHING_KNOWN, CommandEnd
from kelpie_worker.commitment import Commitment
from kelpie_worker.environment import command_environment
from kelpie_worker.leased import LeasedJob
from kelpie_worker.memory_limit import MemoryLimit
from kelpie_worker.process import Command, CommandNotStartedError, Exit
from kelpie_worker.progress_file import ProgressReader, Said, progress_file
from kelpie_worker.queue import JobQueue
from kelpie_worker.recording import Recording
from kelpie_worker.settings import Settings
from kelpie_worker.stop import STOP_SIGNALS, Stop

_STOP_HEARD_S = 0.5

MAX_GUARDIANS_LOST = 2
"""How often a job may lose the guardian of its command on one node before that is a failure of the job."""


class CommandRun:
    """Runs the command once. ``exit`` says how it ended, None before that."""

    def __init__(
        self,
        job: LeasedJob,
        *,
        queue: JobQueue,
        log: structlog.typing.FilteringBoundLogger,
        settings: Settings,
        stop: Stop,
        guardians_lost: int,
        memory: MemoryLimit | None,
    ) -> None:
        self.exit: Exit | None = None
        self.guardian_lost = False  # somebody killed it, and the command with it
        self._job = job
        self._queue = queue
        self._log = log
        self._settings = settings
        self._stop = stop
        self._guardians_lost = guardians_lost
        self._memory = memory
        self._recording: Recording | None = None
        self._progress = ProgressReader(progress_file(settings.state_file), log)
        self._commitment = Commitment(uploads=bool(job.sync.during))
        self._started_s: float | None = None  # on the monotonic clock

    @property
    def said(self) -> Said | None:
        """What the command has said of its progress."""
        return self._progress.said

    @property
    def end(self) -> CommandEnd:
        """What is known of its end, for a report."""
        if self.exit is None or self._recording is None:
            return NOTHING_KNOWN
        return CommandEnd(self.exit.signal, self.exit.out_of_memory, self._recording.stderr_tail)

    def run(self, log_folder: Path | None, *, woken: threading.Event, must_end: Callable[[], bool]) -> bool:
        """Run it to its end; whether it was told to end (then its exit code means nothing).

        ``must_end`` is asked whenever ``woken`` is set; its own end sets that too. What it prints is stored
        in ``log_folder`` if there is one. In the calling thread, which must live as long as the worker.
        """
        self._recording = recording = Recording(self._job, self._queue, self._log, self._settings, log_folder)
        try:
            try:
                self._progress.start()
                command = self._start(recording, on_exit=woken.set)
            finally:
                recording.started()
            while not (command.exited.is_set() or must_end()):
                woken.wait()
                woken.clear()
            grace_s = 0.0 if self._stop.at_once.is_set() else self._settings.grace_s
            told = command.end(grace_s, hurry=self._stop.at_once)
            self.exit = command.reap()
        except CommandNotStartedError as error:
            self._log.warning("command did not start", error=str(error))
            self.exit = error.exit
            return False
        finally:
            recording.finish()
            self._progress.stop()
        told = self._was_told(self.exit, told=told)
        self._log.info("command ended", exit_code=self.exit.code, reason=self.exit.reason, told_to_end=told)
        return told

    def uncommitted_s(self, *, last_upload_s: float, oldest_change_s: float | None) -> float:
        """Seconds of work that the end of this node would lose; see :class:`Commitment`."""
        if self._started_s is None:
            return 0.0
        now, said = time.monotonic(), self.said
        self._commitment.look(
            now,
            checkpoint_s=None if said is None else said.checkpoint_s,
            last_upload_s=last_upload_s,
            oldest_change_s=oldest_change_s,
        )
        return now - max(self._started_s, self._commitment.at_s)

    def flush_log(self) -> None:
        """Wait until what it printed was sent, but not for long."""
        if self._recording is not None:
            self._recording.flush()

    def stop_log(self) -> None:
        """Send nothing more of what it printed: the job is somebody else's."""
        if self._recording is not None:
            self._recording.stop()

    def _start(self, recording: Recording, on_exit: Callable[[], None]) -> Command:
        command = Command(
            [self._job.command, *self._job.arguments],
            command_environment(self._job, self._settings, os.environ),
            on_exit=on_exit,
            stdout=recording.stdout,
            stderr=recording.stderr,
            group=None if self._memory is None else self._memory.new_group(),
        )
        self._started_s = time.monotonic()
        self._log.info("command started", pid=command.pid)
        return command

    def _was_told(self, found: Exit, *, told: bool) -> bool:
        if found.signal in STOP_SIGNALS and not told:
            # a supervisor that stops a node may signal all of its processes, and the command is the first to
            # end of it: this worker hears of it now
            told = self._stop.requested.wait(_STOP_HEARD_S)
        if found.guardian_killed:
            # The node's misfortune, not the application's failure. If it comes again and again it is the
            # command that does it, and the job would go round the fleet for ever, before all others.
            self.guardian_lost = True
            told = told or self._guardians_lost < MAX_GUARDIANS_LOST
        return told
