"""What a command prints: passed on, kept for those who follow it, and never in the command's way.

A command writes into two pipes, which this module reads to their end whatever becomes of what it reads: a
pipe that is full would stop the command.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from functools import cache

import structlog

from kelpie.job import MAX_STDERR_CHARS, MAX_STDERR_LINES

STDOUT, STDERR = "stdout", "stderr"
Sink = Callable[[str, bytes], None]
"""Takes the name of a stream and a piece of what was written to it. Called from several threads."""

_CHUNK_BYTES = 65_536
_ATOMIC_BYTES = 4096  # PIPE_BUF: what a pipe that can be written to takes without blocking
_STUCK_AFTER_S = 1.0
_TAIL_BYTES = 4 * MAX_STDERR_CHARS
_MAX_TAIL_LINE_CHARS = 1000

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class PassThrough:
    """A descriptor of this process that others read: written to as long as somebody does.

    A slow reader slows the writer down. One that takes nothing for a second is given nothing more until it
    reads again, so that nobody waits for it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at_once = _own_description(descriptor)
        self._lock = threading.Lock()
        self._stuck = False

    def write(self, data: bytes) -> None:
        """Pass it on, or as much of it as anybody reads."""
        left = memoryview(data)
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        with self._lock:
            while left:
                if not poll.poll(0 if self._stuck else _STUCK_AFTER_S * 1000):
                    self._stuck = True
                    return
                try:
                    left = left[os.write(self._descriptor, left[: self._at_once]) :]
                except BlockingIOError:  # less room than a whole write needs
                    if self._stuck:
                        return
                    time.sleep(0.001)
                except OSError:  # the reader has gone, or a disk is full
                    return
                self._stuck = False


class LogStream:
    """The worker's own stderr as a stream for its logs: a log that nobody reads must not stop a worker."""

    def write(self, text: str) -> int:
        """Write what somebody reads."""
        pass_through(2).write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


@cache
def pass_through(descriptor: int) -> PassThrough:
    """The one way to write to this descriptor from threads that must not wait."""
    return PassThrough(descriptor)


class Output:
    """The two pipes of one command: give it :attr:`stdout` and :attr:`stderr`, then call :meth:`started`."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._tail = b""
        reads, writes = zip(os.pipe(), os.pipe(), strict=True)
        self.stdout, self.stderr = writes
        self._readers = [
            threading.Thread(target=self._pump, args=(name, read), name=f"read-{name}", daemon=True)
            for name, read in zip((STDOUT, STDERR), reads, strict=True)
        ]
        for reader in self._readers:
            reader.start()

    def started(self) -> None:
        """The command has the other ends of the pipes, or never will: they end with it from now on."""
        os.close(self.stdout)
        os.close(self.stderr)

    def finish(self, timeout_s: float) -> None:
        """Wait until all was read. What nobody could kill may keep a pipe open: hence the limit."""
        deadline = time.monotonic() + timeout_s
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))

    @property
    def stderr_tail(self) -> str | None:
        """The last lines of stderr, or None when nothing was written to it."""
        lines = self._tail.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        kept = [line[-_MAX_TAIL_LINE_CHARS:] for line in lines if line][-MAX_STDERR_LINES:]
        return "\n".join(kept)[-MAX_STDERR_CHARS:] or None

    def _pump(self, name: str, descriptor: int) -> None:
        with open(descriptor, "rb", buffering=0) as pipe:
            while data := pipe.read(_CHUNK_BYTES):
                if name == STDERR:
                    self._tail = (self._tail + data)[-_TAIL_BYTES:]
                for sink in self._sinks:
                    try:
                        sink(name, data)
                    except Exception:  # noqa: BLE001  (whatever it is, the command must be read)
                        _log.exception("output of a command is lost")


def pass_on(name: str, data: bytes) -> None:
    """A sink: the worker's own stdout and stderr."""
    pass_through(1 if name == STDOUT else 2).write(data)


def _own_description(descriptor: int) -> tuple[int, int]:
    """The same pipe or terminal opened anew, so that it alone never blocks; and how much to write at once.

    O_NONBLOCK on the descriptor itself would reach every process that shares it. A regular file has a place
    of its own in each opening, and does not block.
    """
    with contextlib.suppress(OSError):
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{descriptor}", flags), _CHUNK_BYTES
        if stat.S_ISREG(mode):
            return descriptor, _CHUNK_BYTES
    return descriptor, _ATOMIC_BYTES
