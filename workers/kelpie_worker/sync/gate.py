"""The right of one job to move data, asked at every step."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kelpie_worker.sync.errors import CanceledTransfer, Fenced


class Gate:
    """Open until the job is abandoned.

    ``may_write`` says whether this node still holds the job. It is asked before everything that changes the
    bucket (and before each block of a body that is sent in one piece), so it must be cheap while the lease is
    fresh; a worker that was paused may block in it until a heartbeat has confirmed the lease. False closes
    the gate for ever.
    """

    def __init__(self, may_write: Callable[[], bool]) -> None:
        self._may_write = may_write
        self._closed = threading.Event()
        self._fenced: str | None = None

    @property
    def abandoned(self) -> bool:
        """Whether the gate is closed."""
        return self._closed.is_set()

    def abandon(self) -> None:
        """Close the gate; it never opens again."""
        self._closed.set()

    def fence(self, why: str) -> None:
        """Close the gate because of what the storage holds; whoever asks from now on is told why."""
        self._fenced = self._fenced or why
        self.abandon()

    def check(self) -> None:
        """Raise CanceledTransfer once the job is abandoned: Fenced when the storage told it."""
        if self._closed.is_set():
            raise CanceledTransfer("the job was abandoned") if self._fenced is None else Fenced(self._fenced)

    def confirm(self) -> None:
        """Like :meth:`check`, and make sure that this node still holds the job: asked before every write."""
        self.check()
        if not self._may_write():
            self.abandon()
        self.check()

    def sleep(self, seconds: float) -> None:
        """Wait; raise CanceledTransfer as soon as the job is abandoned."""
        if self._closed.wait(seconds):
            self.check()
