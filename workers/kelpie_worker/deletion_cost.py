"""Tells the provider what the end of this node would lose, so that scale-in takes a cheaper one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from kelpie_worker.backoff import Backoff
from kelpie_worker.sync.observer import TransferObserver

MAX_DELETION_COST = 999_999_999
"""Of a node that uploads finished outputs: the work is done, and only its result is missing."""

INTERVAL_S = 1.0
STEP = 30
"""Seconds of work more or less that are worth telling."""
LONGEST_PAUSE_S = 60.0
"""Between tries to tell somebody who is out of reach."""
_VAIN_TRIES = 2

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class OutOfReachError(Exception):
    """Somebody takes costs here, but not now."""


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
    """Tells whoever takes it the cost when it has changed; gives up where nobody has ever listened."""

    def __init__(
        self,
        cost: Callable[[], int],
        tell: Callable[[int], bool],
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """``tell``: whether it was taken; OutOfReachError when it is worth telling again."""
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
        told, vain, taken = -1, 0, False
        backoff = Backoff(self._interval_s, max(self._interval_s, LONGEST_PAUSE_S))
        while vain < _VAIN_TRIES:
            cost, pause_s = self._cost(), self._interval_s
            if _differ(cost, told):
                try:
                    heard = self._tell(cost)
                    vain += not (heard or taken)
                except OutOfReachError:
                    heard = False
                if heard:
                    told, taken = cost, True
                    backoff.reset()
                else:
                    pause_s = backoff.pause_s()
            if self._closed.wait(pause_s):
                return
        _log.info("nobody takes a deletion cost: none is told any more")


def _differ(cost: int, told: int) -> bool:
    """Whether it matters: from idle to busy or back, to finished outputs or back, or by much."""
    edges = {-1, 0, MAX_DELETION_COST}
    return cost != told and (cost in edges or told in edges or abs(cost - told) >= STEP)
