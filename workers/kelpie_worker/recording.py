"""What one command prints, on its way to all who want it."""

from __future__ import annotations

from pathlib import Path

import structlog

from kelpie_worker.leased import LeasedJob
from kelpie_worker.log_shipper import LogShipper
from kelpie_worker.output import Output, Sink, pass_on
from kelpie_worker.queue import JobQueue
from kelpie_worker.settings import Settings
from kelpie_worker.spool import Spool

_OPEN_PIPES_S = 5.0
"""How long a pipe is read that something keeps open though all of the command was killed."""
_FLUSH_S = 3.0
"""How long a report waits for the log to be sent, so that who hears of the end finds the last words."""


class Recording:
    """The pipes of one command, and where they lead: on to the worker's own, to the API, into the bucket.

    Give :attr:`stdout` and :attr:`stderr` to the command, then call :meth:`started`, also if it did not
    start, and :meth:`finish` after its end.
    """

    def __init__(
        self,
        job: LeasedJob,
        queue: JobQueue,
        log: structlog.typing.FilteringBoundLogger,
        settings: Settings,
        folder: Path | None,
    ) -> None:
        sinks: list[Sink] = [pass_on]
        self._spool = None if folder is None else Spool(folder, job.attempt)
        if self._spool is not None:
            sinks.append(self._spool)
        self._shipper: LogShipper | None = None
        if settings.keep_logs:
            self._shipper = LogShipper(queue, job, log, interval_s=settings.log_interval_s)
            self._shipper.start()
            sinks.append(self._shipper)
        self._output = Output(*sinks)
        self.stdout, self.stderr = self._output.stdout, self._output.stderr

    def started(self) -> None:
        """The command has its ends of the pipes, or never will."""
        self._output.started()

    def finish(self) -> None:
        """Nothing of the command is left that could print. All files are in their folder after this."""
        self._output.finish(_OPEN_PIPES_S)
        if self._shipper is not None:
            self._shipper.close()
        if self._spool is not None:
            self._spool.finish()

    @property
    def stderr_tail(self) -> str | None:
        """The last lines on stderr."""
        return self._output.stderr_tail

    def flush(self) -> None:
        """Wait until the log was sent, but not for long."""
        if self._shipper is not None:
            self._shipper.join(_FLUSH_S)

    def stop(self) -> None:
        """Send nothing more: the job is somebody else's."""
        if self._shipper is not None:
            self._shipper.stop()
