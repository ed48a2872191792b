"""The wish to end this worker, and how urgent it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class Stop:
    """Set once by the first request (end in good order), and once more by the second (end at once)."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.at_once = threading.Event()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def request(self) -> None:
        """Ask for the end. Asked again: at once."""
        with self._lock:
            if self.requested.is_set():
                self.at_once.set()
            self.requested.set()
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` at every request from now on, in the thread that makes the request."""
        with self._lock:
            self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """The reverse of :meth:`subscribe`."""
        with self._lock:
            self._listeners.remove(listener)

    def listen(self) -> None:
        """Turn SIGTERM and SIGINT into requests. Call it before any thread is started.

        The signals are blocked and taken by a thread of their own: a handler would run in the middle of
        whatever the main thread does, and could not touch a lock that the main thread may hold.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

        def take() -> None:
            while True:
                signal.sigwait(STOP_SIGNALS)
                self.request()

        threading.Thread(target=take, name="signals", daemon=True).start()
