"""Where jobs come from and where their ends are told: what a worker needs of a queue."""

from __future__ import annotations

from typing import Protocol

from kelpie.errors import UnavailableError
from kelpie.job import (
    NOTHING_KNOWN,
    CommandEnd,
    FinishReply,
    HeartbeatReply,
    LogBatch,
    Outcome,
    UploadBacklog,
)
from kelpie.progress import ProgressReport
from kelpie.transfers import TransferReport
from kelpie_worker.leased import LeasedJob

MAX_REASON_LENGTH = 2000
"""Characters of the reason of a failure, at most."""


class UnknownCallError(UnavailableError):
    """This queue is older than the call, or its address is wrong."""


class JobQueue(Protocol):
    """One queue, seen from one node. Every method may be called from any thread.

    Every call is safe to repeat. All raise :class:`~kelpie.errors.UnavailableError` when the queue cannot be
    reached (repeat the call later) and :class:`~kelpie.errors.ForbiddenError` or
    :class:`~kelpie.errors.UnauthenticatedError` when the credentials are refused.
    """

    def lease(self, wait_s: float) -> LeasedJob | None:
        """A job for this node, or None when none came within ``wait_s`` seconds.

        A poll whose answer was lost is repeated as the same poll, so that it gets the job it was given.
        """

    def heartbeat(
        self,
        job: LeasedJob,
        backlog: UploadBacklog | None = None,
        progress: ProgressReport | None = None,
        transfers: TransferReport | None = None,
    ) -> HeartbeatReply:
        """Renew the lease. NotFoundError: the job was deleted.

        ``backlog`` is what waits for its upload, ``progress`` what the command says,
        ``transfers`` what was moved; None: as before.
        """

    def completed(self, job: LeasedJob) -> FinishReply:
        """Report that the command exited 0 and that all data is durable. LeaseLostError, NotFoundError."""

    def failed(
        self,
        job: LeasedJob,
        outcome: Outcome,
        exit_code: int | None,
        reason: str | None,
        end: CommandEnd = NOTHING_KNOWN,
    ) -> FinishReply:
        """Report ``app_failed`` or ``sync_failed``. LeaseLostError, NotFoundError."""

    def released(self, job: LeasedJob) -> FinishReply:
        """Hand the job back in good order. LeaseLostError, NotFoundError."""

    def log(self, job: LeasedJob, batch: LogBatch) -> None:
        """Keep lines that the command printed. LeaseLostError, NotFoundError, UnknownCallError.

        InvalidInputError: these lines will never be kept.
        """

    def stop_leasing(self) -> None:
        """An open poll ends at once, with the job that it was given if any; later polls do not wait."""

    def close(self) -> None:
        """Let go of all connections."""
