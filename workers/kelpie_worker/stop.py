"""The wish to end this worker, and how urgent it is: once it is idle, in good order, at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
RETIRE_SIGNAL = signal.SIGUSR1


class Stop:
    """Set once by the first request (end in good order), and once more by the second (end at once).

    A worker that only retires takes no other job, and ends when it has none: nothing of it is interrupted.
    """

    def __init__(self) -> None:
        self.retiring = threading.Event()
        self.requested = threading.Event()
        self.at_once = threading.Event()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._on_retire: Callable[[], None] | None = None

    @property
    def leaving(self) -> bool:
        """Whether no other job may be taken."""
        return self.retiring.is_set() or self.requested.is_set()

    def retire(self) -> None:
        """Ask for the end as soon as there is no job here. Harmless when repeated."""
        with self._lock:
            self.retiring.set()
            listener = self._on_retire
        if listener is not None:
            listener()

    def when_retiring(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when :meth:`retire` is called, or now if it was."""
        with self._lock:
            self._on_retire = listener
            late = self.retiring.is_set()
        if late:
            listener()

    def request(self) -> None:
        """Ask for the end. Asked again: at once."""
        self._ask(again=True)

    def request_once(self) -> None:
        """Ask for the end in good order; whoever asked before is not hurried by it."""
        self._ask(again=False)

    def _ask(self, *, again: bool) -> None:
        with self._lock:
            if self.requested.is_set():
                if not again:
                    return
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
        """Turn SIGTERM and SIGINT into requests, SIGUSR1 into :meth:`retire`. Call it before any thread.

        The signals are blocked and taken by a thread of their own: a handler would run in the middle of
        whatever the main thread does, and could not touch a lock that the main thread may hold.
        """
        signals = STOP_SIGNALS | {RETIRE_SIGNAL}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)

        def take() -> None:
            while True:
                if signal.sigwait(signals) == RETIRE_SIGNAL:
                    self.retire()
                else:
                    self.request()

        threading.Thread(target=take, name="signals", daemon=True).start()
