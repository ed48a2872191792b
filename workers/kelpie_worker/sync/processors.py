"""On which processors the threads of a pool run: on all, or on one that they share.

Of many small files nearly everything is the interpreter's work, which one thread does at a time. Threads on
several processors hand its lock to one another with every system call, and spend as long on waking each other
as on the files: on one processor, 5,000 files of 16 KiB take half of the processor's time (measured by
``tests.bench.sync``). Large parts are moved and summed up without the lock, and want all there are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading


class Processors:
    """Where threads may run. Safe from any thread; each is moved by itself."""

    def __init__(self) -> None:
        self._all = os.sched_getaffinity(0)
        self._one: int | None = None
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many there are for this process."""
        return len(self._all)

    def share(self) -> None:
        """From now on the calling thread runs where the others that called this run: where the first was."""
        with self._lock:
            if self._one is None:
                self._one = _here()
            where = {self._one} & self._all
        if where:
            _move(where)

    def spread(self) -> None:
        """From now on the calling thread may run on every one; where threads share is chosen anew."""
        with self._lock:
            self._one = None
        _move(self._all)


def _here() -> int:
    """The processor that the calling thread runs on; -1 where nobody can tell."""
    try:
        return int(ctypes.CDLL(None).sched_getcpu())
    except AttributeError:
        return -1


def _move(where: set[int]) -> None:
    with contextlib.suppress(OSError):  # taken from this process meanwhile: the thread stays where it is
        os.sched_setaffinity(0, where)  # 0: this thread alone
