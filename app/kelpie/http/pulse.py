"""What a process of the API shares with the others once a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog
from redis.exceptions import RedisError

from kelpie.errors import UnavailableError

INTERVAL_S = 1.0

log = structlog.get_logger(__name__)


class Pulse:
    """Calls its beats every second from its start to the end, through every outage of Redis.

    Started in the process that serves, after any fork: threads do not survive one.
    """

    def __init__(self, beats: Sequence[Callable[[], None]], interval_s: float = INTERVAL_S) -> None:
        self._beats = beats
        self._interval_s = interval_s
        self._ending = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; harmless when it has begun."""
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None and not self._ending.is_set():
                self._thread = threading.Thread(target=self._run, name="kelpie-pulse", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Call the beats a last time, if it ever began."""
        self._ending.set()
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout=5)
            self._beat()

    def _run(self) -> None:
        while not self._ending.wait(self._interval_s):
            self._beat()

    def _beat(self) -> None:
        for beat in self._beats:
            try:
                beat()
            except (UnavailableError, RedisError):  # what was counted is sent by a later beat
                continue
            except Exception:
                log.exception("a beat failed")
