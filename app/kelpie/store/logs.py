"""The logs of jobs: what their commands printed, line by line, as far as it is kept."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kelpie.errors import InvalidInputError, LeaseLostError
from kelpie.job import MAX_LOG_BATCH_CHARS, MAX_LOG_BATCH_LINES, Holder, LogBatch, LogLine, LogStream
from kelpie.store.access import Access, no_such_job
from kelpie.store.clock import DAY_MS
from kelpie.store.codec import text
from kelpie.store.connection import translated
from kelpie.store.leases import credentials

MAX_PAGE_LINES = 1000
DEFAULT_LOG_BYTES = 256 * 1024
"""What is kept of one job's log, as it is packed: five to ten times as much text."""
DEFAULT_LOG_DAYS = 30.0
MAX_LINE_NUMBER = 10**15

_ENTRIES_PER_READ = 8
_MAX_UNPACKED_BYTES = 8 * MAX_LOG_BATCH_CHARS
_PLACE = re.compile(r"(\d{1,9})-(\d{1,15})\Z")


class LogPlace(NamedTuple):
    """A place in the log of a job."""

    attempt: int
    line: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.line}"

    @classmethod
    def parse(cls, written: str) -> LogPlace:
        """The place that an id names; ``0`` is before the first line. Raises InvalidInputError."""
        if written == "0":
            return LOG_BEGINNING
        match = _PLACE.match(written)
        if match is None:
            problem = "is not the id of a line, nor 0"
            raise InvalidInputError(f"after {problem}.", errors=(("after", problem),))
        return cls(*map(int, match.groups()))


LOG_BEGINNING = LogPlace(0, 0)


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines of a log, each with its place."""

    lines: list[tuple[LogPlace, LogLine]]
    next: LogPlace  # the ``after`` of the next page
    gap: bool  # lines between ``after`` and the first of these are not kept any more


class Logs(Access):
    """The part of the store that keeps logs."""

    def append_log(
        self,
        job_id: str,
        holder: Holder,
        batch: LogBatch,
        *,
        user_id: str | None = None,
        max_bytes: int = DEFAULT_LOG_BYTES,
        days: float = DEFAULT_LOG_DAYS,
    ) -> bool:
        """Adds lines to the log of a job; whether it did: the same batch again has no effect.

        Raises NotFoundError, LeaseLostError, InvalidInputError for a batch out of bounds, and
        UnavailableError when the server's memory is full.
        """
        place = self._place_of(job_id, user_id)
        _check(batch)
        if max_bytes <= 0:
            return False
        try:
            added = self._about(
                "append_log",
                place,
                job_id,
                **credentials(holder),
                last=batch.last,
                lines=_packed(batch),
                max_bytes=max_bytes,
                ttl_ms=int(days * DAY_MS),
            )
        except LeaseLostError as error:
            raise LeaseLostError(f"Job {job_id}: {error}", reason=error.reason) from None
        return int(added) == 1

    def log(
        self, job_id: str, after: LogPlace = LOG_BEGINNING, *, count: int = 100, user_id: str | None = None
    ) -> LogPage:
        """Up to ``count`` lines after a place, oldest first. Raises NotFoundError."""
        place = self._place_of(job_id, user_id)
        key = place.keys.log(job_id)
        found: list[tuple[LogPlace, LogLine]] = []
        start = f"{after.attempt}-{after.line + 1}"
        while len(found) < count:
            with translated():
                reading = self.redis.pipeline(transaction=False)
                reading.exists(place.keys.job(job_id))
                reading.xrange(key, min=start, count=_ENTRIES_PER_READ)
                exists, entries = reading.execute()
            if not exists:
                raise no_such_job(job_id)
            found += [line for line in _lines_of(entries) if line[0] > after]
            if len(entries) < _ENTRIES_PER_READ:
                break
            start = f"({text(entries[-1][0])}"
        found = found[:count]
        first = found[0][0] if found else after
        expected = after.line + 1 if first.attempt == after.attempt else 1
        return LogPage(found, found[-1][0] if found else after, bool(found) and first.line > expected)

    def log_tail(self, job_id: str, *, count: int = 100, user_id: str | None = None) -> LogPage:
        """The last ``count`` lines, oldest first. Raises NotFoundError."""
        place = self._place_of(job_id, user_id)
        found: list[tuple[LogPlace, LogLine]] = []
        end = "+"
        while len(found) < count:
            with translated():
                reading = self.redis.pipeline(transaction=False)
                reading.exists(place.keys.job(job_id))
                reading.xrevrange(place.keys.log(job_id), max=end, count=_ENTRIES_PER_READ)
                exists, entries = reading.execute()
            if not exists:
                raise no_such_job(job_id)
            found = _lines_of(entries[::-1]) + found
            if len(entries) < _ENTRIES_PER_READ:
                break
            end = f"({text(entries[-1][0])}"
        found = found[-count:]
        return LogPage(found, found[-1][0] if found else LOG_BEGINNING, gap=False)


def _check(batch: LogBatch) -> None:
    if not 1 <= len(batch.lines) <= MAX_LOG_BATCH_LINES:
        raise InvalidInputError(f"A batch has 1 to {MAX_LOG_BATCH_LINES} lines, not {len(batch.lines)}.")
    if not 1 <= batch.first <= MAX_LINE_NUMBER:
        raise InvalidInputError(f"The first line has a number from 1 to {MAX_LINE_NUMBER}.")
    if sum(len(line.text) for line in batch.lines) > MAX_LOG_BATCH_CHARS:
        raise InvalidInputError(f"The lines of a batch have {MAX_LOG_BATCH_CHARS} characters at most.")


def _packed(batch: LogBatch) -> bytes:
    """Columns pack better than lines: streams, times since the first, texts."""
    streams = "".join(line.stream.value[3] for line in batch.lines)
    start = batch.lines[0].time
    times = [line.time - start for line in batch.lines]
    columns = [start, streams, times, [line.text for line in batch.lines]]
    return zlib.compress(
        json.dumps(columns, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    )


_STREAMS = {stream.value[3]: stream for stream in LogStream}  # o, e, p


def _lines_of(entries: Sequence[Any]) -> list[tuple[LogPlace, LogLine]]:
    found: list[tuple[LogPlace, LogLine]] = []
    for entry_id, fields in entries:
        attempt, _, last = text(entry_id).partition("-")
        data = zlib.decompressobj().decompress(fields[b"lines"], _MAX_UNPACKED_BYTES)
        start, streams, times, texts = json.loads(data)
        first = int(last) - len(texts) + 1
        for number, (stream, time, line) in enumerate(zip(streams, times, texts, strict=True), first):
            found.append((LogPlace(int(attempt), number), LogLine(_STREAMS[stream], start + time, line)))
    return found
