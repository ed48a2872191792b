"""The reaper: gives the jobs of lost nodes back when their leases have expired, and delayed jobs when due."""

from __future__ import annotations

import structlog

from kelpie.store import Store

log = structlog.get_logger(__name__)


class Reaper:
    """Looks after the queues that nobody polls; a poll reaps its own queue."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def tick(self) -> int:
        """Reap every queue; returns how many leases had expired. Raises UnavailableError."""
        reaped = 0
        for queue in self._store.with_leases():
            found = self._store.reap(queue)
            if found:
                log.info("leases expired", queue=queue.container_group_id, user_id=queue.user_id, count=found)
            reaped += found
        return reaped
