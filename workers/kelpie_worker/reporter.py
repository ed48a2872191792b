"""Sends the report of an attempt's end until it is answered."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from kelpie.errors import KelpieError, LeaseLostError, NotFoundError
from kelpie.job import FinishReply
from kelpie_worker.backoff import Backoff
from kelpie_worker.stop import Stop

RETRY_S = (0.2, 5.0)
"""First and longest pause between tries, in seconds."""


class Reporter:
    """An outage is no failure of the job and no loss of its result.

    Beyond the end of the lease, too, a report is accepted as long as nobody else was given the job. Only the
    queue's word ends it. The heartbeats go on meanwhile.
    """

    def __init__(
        self,
        log: structlog.typing.FilteringBoundLogger,
        stop: Stop,
        *,
        is_lost: Callable[[], bool],
        on_lost: Callable[[str], None],
    ) -> None:
        """``is_lost``: whether the queue has said that the lease is; ``on_lost`` hears it from a reply."""
        self._log = log
        self._stop = stop
        self._is_lost = is_lost
        self._on_lost = on_lost

    def send(
        self, report: Callable[[], FinishReply], *, until: Callable[[], bool] = lambda: False
    ) -> FinishReply | None:
        """The answer; None when the lease is lost, when the worker ends at once, or after a vain try when
        ``until`` says so."""
        backoff = Backoff(*RETRY_S)
        warned = False
        while not self._stop.at_once.is_set():
            last_try = self._is_lost() or until()
            try:
                return report()
            except LeaseLostError as error:
                self._on_lost(error.reason)
                return None
            except NotFoundError:
                self._on_lost("deleted")
                return None
            except KelpieError as error:
                if last_try:
                    return None
                if not warned:
                    self._log.warning("report got no answer; trying again", error=str(error))
                    warned = True
            self._stop.at_once.wait(backoff.pause_s())
        return None
