"""A ticker: calls one function again and again in a thread of its own, through every outage of Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from redis.exceptions import RedisError

from kelpie.errors import UnavailableError

RETRY_S = 1.0

log = structlog.get_logger(__name__)


class Ticker:
    """Calls ``tick`` every ``interval_s`` seconds from :meth:`start` to :meth:`stop`.

    ``tick`` does a bounded piece of work and returns how much it found; after one that found something the
    next follows at once.
    """

    def __init__(self, name: str, tick: Callable[[], int], interval_s: float) -> None:
        self._name = name
        self._tick = tick
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._failing = False

    def start(self) -> None:
        """Begin at once."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Let the tick in progress end, for ``timeout_s`` seconds at most."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stopping.wait(wait_s):
            wait_s = self._next_after()

    def _next_after(self) -> float:
        """One tick; returns the seconds until the next."""
        pause_s = max(self._interval_s, RETRY_S)
        try:
            found = self._tick()
        except (UnavailableError, RedisError) as error:
            if not self._failing:
                log.warning("waiting for redis", ticker=self._name, error=type(error).__name__)
            self._failing = True
            return pause_s
        except Exception:
            log.exception("tick failed", ticker=self._name)
            return pause_s
        if self._failing:
            log.info("redis is back", ticker=self._name)
        self._failing = False
        return 0.0 if found else self._interval_s
