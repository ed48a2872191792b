"""The promoter: puts webhooks whose time for another try has come back into the RQ queue."""

from __future__ import annotations

from collections.abc import Callable

import redis
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer

from kelpie.platform.tasks import QUEUE

INTERVAL_S = 1


class Promoter:
    """RQ's scheduler, driven by our ticker: a process of its own would end when Redis is away."""

    def __init__(self, connection: redis.Redis) -> None:
        self._scheduler = RQScheduler([QUEUE], connection, interval=INTERVAL_S, serializer=JSONSerializer)
        # RQ leaves these without types.
        self._acquire: Callable[[], set[str]] = self._scheduler.acquire_locks
        self._enqueue: Callable[[], None] = self._scheduler.enqueue_scheduled_jobs
        self._release: Callable[[], None] = self._scheduler.release_locks

    def tick(self) -> int:
        """Move what is due, if no other platform process does that already. Raises RedisError."""
        if self._acquire():  # takes the lock, or renews it
            self._enqueue()
        return 0

    def close(self) -> None:
        """Let another platform process take over at once."""
        self._release()
