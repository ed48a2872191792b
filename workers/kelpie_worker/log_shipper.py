"""Sends what one command prints to the queue, which keeps it for those who follow the job.

It is never in the way: what cannot be sent in time is dropped, the oldest first, and a line says how much.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

from kelpie.errors import (
    ForbiddenError,
    InvalidInputError,
    KelpieError,
    UnauthenticatedError,
    UnavailableError,
)
from kelpie.job import MAX_LOG_BATCH_LINES, LogBatch, LogLine, LogStream
from kelpie_worker.backoff import Backoff
from kelpie_worker.leased import LeasedJob
from kelpie_worker.lines import LineCutter
from kelpie_worker.queue import JobQueue, UnknownCallError

MAX_PENDING_BYTES = 1 << 20
MAX_PENDING_LINES = 10_000
"""What waits to be cut into lines, and as much again of what waits to be sent."""
MAX_BATCH_CHARS = 128 * 1024
BATCHES_AT_ONCE = 4
"""Batches of one interval, at most: what a command prints must not crowd out the heartbeats of others."""
LAST_TRIES_S = 30.0
"""How long what is left is tried to be sent when the command has ended."""

_RETRY_S = (0.5, 10.0)

Piece = tuple[LogStream, float, bytes]
"""Where some output came from, when it was read in seconds since 1970 UTC, and the output."""


class LogShipper:
    """A sink for the output of one command. Sends from a thread of its own, from :meth:`start` on."""

    def __init__(
        self,
        queue: JobQueue,
        job: LeasedJob,
        log: structlog.typing.FilteringBoundLogger,
        *,
        interval_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._queue = queue
        self._job = job
        self._log = log
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._raw: deque[Piece] = deque()
        self._raw_bytes = 0
        self._dropped = 0  # lines, since the last one that said so
        self._cutters = {LogStream.STDOUT: LineCutter(), LogStream.STDERR: LineCutter()}
        self._lines: deque[LogLine] = deque()
        self._line_chars = 0
        self._batch: LogBatch | None = None  # on its way; sent again as it is until it is answered
        self._next = 1
        self._closed = threading.Event()
        self._stopped = threading.Event()
        self._settled = threading.Event()  # all was sent, or a first try to send the end of it was vain
        self._thread = threading.Thread(target=self._run, name=f"log-{job.id}", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def __call__(self, stream: str, data: bytes) -> None:
        """A piece of output. Costs little, whatever it holds: lines are cut elsewhere."""
        if self._stopped.is_set():
            return
        with self._lock:
            self._raw.append((LogStream(stream), self._clock(), data))
            self._raw_bytes += len(data)
            while self._raw_bytes > MAX_PENDING_BYTES:
                _, _, oldest = self._raw.popleft()
                self._raw_bytes -= len(oldest)
                self._dropped += oldest.count(b"\n")

    def close(self) -> None:
        """No more output comes. What is left is still sent, in the background."""
        self._closed.set()

    def join(self, timeout_s: float) -> None:
        """Wait until everything was sent or the queue is out of reach, but no longer than this."""
        self._settled.wait(timeout_s)

    def stop(self) -> None:
        """Send nothing more: the job is somebody else's."""
        self._stopped.set()
        self._closed.set()

    def _run(self) -> None:
        try:
            self._send_all()
        finally:
            self._stopped.set()  # what comes now is nobody's
            self._settled.set()

    def _send_all(self) -> None:
        backoff = Backoff(*_RETRY_S)
        pause_s = self._interval_s
        gives_up: float | None = None
        while not self._stopped.is_set():
            closed = self._closed.wait(pause_s) if gives_up is None else True
            if gives_up is None and closed:
                gives_up = time.monotonic() + LAST_TRIES_S
            self._cut(everything=closed)
            if self._send(BATCHES_AT_ONCE):
                backoff.reset()
                pause_s = self._interval_s
                if closed and self._nothing_left():
                    return
            else:
                pause_s = backoff.pause_s()
                if closed:
                    self._settled.set()
            if gives_up is not None:
                if time.monotonic() > gives_up:
                    self._log.warning("the end of the command's output was not sent")
                    return
                self._stopped.wait(0.0 if pause_s == self._interval_s else pause_s)

    def _cut(self, *, everything: bool) -> None:
        """Make lines of what has come."""
        with self._lock:
            raw, self._raw = self._raw, deque()
            self._raw_bytes = 0
        kept, dropped = _newest(raw)
        with self._lock:
            self._dropped += dropped
        for stream, came, data in kept:
            for text in self._cutters[stream].feed(data, came):
                self._add(stream, came, text)
        now = self._clock()
        for stream, cutter in self._cutters.items():
            for text in cutter.flush(None if everything else now):
                self._add(stream, now, text)

    def _add(self, stream: LogStream, came: float, text: str) -> None:
        self._lines.append(LogLine(stream, int(came * 1000), text))
        self._line_chars += len(text) + 1
        while self._line_chars > MAX_PENDING_BYTES or len(self._lines) > MAX_PENDING_LINES:
            self._line_chars -= len(self._lines.popleft().text) + 1
            with self._lock:
                self._dropped += 1

    def _send(self, batches: int) -> bool:
        """Send up to so many batches; False: try again later."""
        for _ in range(batches):
            self._batch = self._batch or self._next_batch()
            if self._batch is None or self._stopped.is_set():
                return True
            try:
                self._queue.log(self._job, self._batch)
            except UnknownCallError:
                self._log.info("the API is too old to keep the output of commands")
                self.stop()
            except (UnavailableError, ForbiddenError, UnauthenticatedError):  # keys may be put right
                return False
            except InvalidInputError as error:
                self._log.warning("output of the command was refused", error=str(error))
            except KelpieError:  # the lease is lost, or the job was deleted: the heartbeat tells
                self.stop()
            except Exception:  # noqa: BLE001  (a log is never worth a job)
                self._log.exception("output of the command is not sent any more")
                self.stop()
            self._batch = None
        return True

    def _next_batch(self) -> LogBatch | None:
        lines: list[LogLine] = []
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.append(
                LogLine(LogStream.KELPIE, int(self._clock() * 1000), f"… {dropped} lines were dropped here")
            )
        chars = 0
        while self._lines and len(lines) < MAX_LOG_BATCH_LINES and chars < MAX_BATCH_CHARS:
            lines.append(self._lines.popleft())
            chars += len(lines[-1].text) + 1
        self._line_chars -= chars
        if not lines:
            return None
        batch = LogBatch(self._next, tuple(lines))
        self._next = batch.last + 1
        return batch

    def _nothing_left(self) -> bool:
        with self._lock:
            return self._batch is None and not self._lines and not self._raw and not self._dropped


def _newest(raw: deque[Piece]) -> tuple[deque[Piece], int]:
    """As many of the last lines as may wait, and how many there were before: those are not even cut."""
    kept: deque[Piece] = deque()
    room, dropped = MAX_PENDING_LINES, 0
    for stream, came, data in reversed(raw):
        count = data.count(b"\n")
        surplus = max(0, count - room)
        if count == 0 or surplus < count:
            kept.appendleft((stream, came, data.split(b"\n", surplus)[-1]))
        room -= count - surplus
        dropped += surplus
    return kept, dropped
