"""The janitor: deletes jobs that ended long ago. Without a retention it does not run, and all is kept."""

from __future__ import annotations

import structlog

from kelpie.store import Store

CHECK_INTERVAL_S = 600.0
ENOUGH = 1000
"""Jobs that one tick deletes, about."""
DAY_MS = 24 * 3600 * 1000

log = structlog.get_logger(__name__)


class Janitor:
    """Looks after all queues of all users, one after the other."""

    def __init__(self, store: Store, *, keep_days: int) -> None:
        """``keep_days``: days from the end of a job to its deletion, 1 or more."""
        if keep_days < 1:
            raise ValueError(f"keep_days is {keep_days}; a janitor that keeps nothing is a mistake")
        self._store = store
        self._keep_ms = keep_days * DAY_MS

    def tick(self) -> int:
        """Delete some jobs that are due; returns how many. Raises UnavailableError."""
        gone = 0
        for queue in self._store.queues():
            # The server's time, in which the ends of jobs are kept, not this machine's. To reap notes it.
            self._store.reap(queue)
            now = self._store.last_seen(queue)
            if now is None:
                continue
            found = self._store.expire(queue, now - self._keep_ms, enough=ENOUGH - gone)
            if found:
                log.info(
                    "old jobs deleted", queue=queue.container_group_id, user_id=queue.user_id, count=found
                )
            gone += found
            if gone >= ENOUGH:
                break
        return gone
