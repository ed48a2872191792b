"""Tells the provider what the end of this node would lose, so that scale-in takes a cheaper one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from kelpie_worker.sync.observer import TransferObserver

MAX_DELETION_COST = 999_999_999
"""Of a node that uploads finished outputs: the work is done, and only its result is missing."""

INTERVAL_S = 1.0
STEP = 30
"""Seconds of work more or less that are worth telling."""
_VAIN_TRIES = 2

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class LastUploads:
    """An observer of transfers that remembers when each job's last upload ended, and passes all on."""

    def __init__(self, other: TransferObserver) -> None:
        self._other = other
        self._last: tuple[str, float] = ("", 0.0)

    def last_s(self, job_id: str) -> float:
        """When the job's last upload ended, on the monotonic clock; 0: never, or another job's was later."""
        known, ended = self._last
        return ended if known == job_id else 0.0

    def upload_started(self, job_id: str, path: str) -> None:
        """Passed on."""
        self._other.upload_started(job_id, path)

    def upload_ended(self, job_id: str, path: str) -> None:
        """Noted, and passed on."""
        self._last = (job_id, time.monotonic())
        self._other.upload_ended(job_id, path)

    def download_started(self, job_id: str, path: str) -> None:
        """Passed on."""
        self._other.download_started(job_id, path)

    def download_ended(self, job_id: str, path: str) -> None:
        """Passed on."""
        self._other.download_ended(job_id, path)

    def backlog_changed(self, job_id: str) -> None:
        """Passed on."""
        self._other.backlog_changed(job_id)


class DeletionCost:
    """Tells whoever takes it the cost when it has changed; gives up where nobody listens."""

    def __init__(
        self,
        cost: Callable[[], int],
        tell: Callable[[int], bool],
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """``tell``: whether it was taken."""
        self._cost = cost
        self._tell = tell
        self._interval_s = interval_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deletion-cost", daemon=True)

    def start(self) -> None:
        """Begin to tell, in the background."""
        self._thread.start()

    def close(self) -> None:
        """Tell no more."""
        self._closed.set()

    def _run(self) -> None:
        told, vain = -1, 0
        while vain < _VAIN_TRIES:
            cost = self._cost()
            if _differ(cost, told):
                if self._tell(cost):
                    told, vain = cost, 0
                else:
                    vain += 1
            if self._closed.wait(self._interval_s):
                return
        _log.info("nobody takes a deletion cost: none is told any more")


def _differ(cost: int, told: int) -> bool:
    """Whether it matters: from idle to busy or back, to finished outputs or back, or by much."""
    edges = {-1, 0, MAX_DELETION_COST}
    return cost != told and (cost in edges or told in edges or abs(cost - told) >= STEP)
