"""The dispatcher: hands webhook deliveries whose time has come to the delivering processes, in fair turns."""

from __future__ import annotations

import redis

from kelpie.platform.schedule import MAX_TRIES
from kelpie.platform.tasks import enqueue, rq_queue, try_limit_s
from kelpie.store import Deliveries

INTERVAL_S = 0.05
OPEN_PER_WORKER = 8
PER_USER_PER_WORKER = 2
"""Tries of one user that may be under way or queued at once: what his receivers delay other users by."""
WAITS = 2
"""Tries that a queued one may wait for before its claim ends, at most; then it is queued again."""


class Dispatcher:
    """Feeds RQ's queue with little at a time, so that what is in it waits for little."""

    def __init__(
        self, deliveries: Deliveries, connection: redis.Redis, *, workers: int, timeout_s: float
    ) -> None:
        self._deliveries = deliveries
        self._queue = rq_queue(connection)
        self._workers = workers
        self._timeout_s = timeout_s

    def tick(self) -> int:
        """Hand over what is due and has room; returns how much. Raises UnavailableError or RedisError."""
        claims = self._deliveries.claim(
            limit=OPEN_PER_WORKER * self._workers,
            per_user=PER_USER_PER_WORKER * self._workers,
            claim_ms=WAITS * try_limit_s(self._timeout_s) * 1000,
            max_tries=MAX_TRIES,
        )
        for claim in claims:
            enqueue(self._queue, claim, timeout_s=self._timeout_s)
        return len(claims)
