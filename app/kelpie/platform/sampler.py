"""The sampler: writes down the figures of every user once a minute, so that a day can be looked back on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from kelpie.store import Store
from kelpie.store.history import Sample
from kelpie.store.metrics import QueueFigures

INTERVAL_S = 60.0
LOCK_TTL_S = 2.5 * INTERVAL_S
IDLE_INTERVAL_S = 3600.0
"""How often a user is written down for whom nothing happens."""


class Sampler:
    """Looks at all queues. Of several platform processes the one that holds the lock does."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = store.sampler_lock(ttl_s=LOCK_TTL_S)
        self._written: dict[str | None, tuple[Sample, float]] = {}

    def tick(self) -> int:
        """Write a sample of each user and of all together; 0: the next look is in its time.

        Raises UnavailableError.
        """
        if not self._lock.take():
            self._written.clear()
            return 0
        figures: defaultdict[str | None, list[QueueFigures]] = defaultdict(list)
        for one in self._store.metrics.queues(uploads=False):
            figures[one.queue.user_id].append(one)
            figures[None].append(one)
        now_s = self._clock()
        samples = {user: Sample.of(queues) for user, queues in figures.items()}
        news = {user: sample for user, sample in samples.items() if self._is_news(user, sample, now_s)}
        self._store.histories.add(news)
        self._written |= {user: (sample, now_s) for user, sample in news.items()}
        return 0

    def _is_news(self, user: str | None, sample: Sample, now_s: float) -> bool:
        before = self._written.get(user)
        if before is None or before[0] != sample or not sample.is_idle:
            return True
        return now_s - before[1] >= IDLE_INTERVAL_S

    def close(self) -> None:
        """Let another process go on at once. Raises UnavailableError."""
        self._lock.free()
