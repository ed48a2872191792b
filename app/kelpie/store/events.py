"""The event streams of the queues: read one by one by the relay, and merged by those who follow them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import redis

from kelpie.errors import InvalidInputError
from kelpie.store.codec import Entries, decode_events, text
from kelpie.store.connection import translated
from kelpie.store.keys import QueueKeys
from kelpie.store.records import Event, Queue
from kelpie.store.scripts import Scripts

START = "0-0"
"""Before the first event."""

MAX_PAGE_SIZE = 1000
_CHUNK = 500  # streams that one command or pipeline reads
_SETTLING_LOOKS = 10  # after that the clock went back, and nobody knows
_JOB_SCAN = 1000  # entries that one call of read_job_events looks at
_POSITION = re.compile(r"(\d{1,15})-(\d{1,19})-(\d{1,10})\Z")


class Position(NamedTuple):
    """A place in the events of all queues, which are ordered by time, then by sequence, then by queue."""

    ms: int
    sequence: int
    queue: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.sequence}-{self.queue}"

    @classmethod
    def parse(cls, written: str) -> Position:
        """The position that an id names; ``0`` is before the first. Raises InvalidInputError."""
        if written == "0":
            return BEGINNING
        match = _POSITION.match(written)
        if match is None:
            problem = "is not the id of an event, nor 0"
            raise InvalidInputError(f"after {problem}.", errors=(("after", problem),))
        return cls(*map(int, match.groups()))

    def first_of(self, queue: Queue) -> str:
        """Where XRANGE begins to read what comes after this in the stream of ``queue``."""
        place = f"{self.ms}-{self.sequence}"
        return place if queue.number > self.queue else f"({place}"


BEGINNING = Position(0, 0, 0)


@dataclass(frozen=True, slots=True)
class PlacedEvent:
    """An event with its queue."""

    queue: Queue
    event: Event

    @property
    def position(self) -> Position:
        """Its place among the events of all queues, which is also its id."""
        ms, _, sequence = self.event.id.partition("-")
        return Position(int(ms), int(sequence), self.queue.number)


class Events:
    """Reads what scripts wrote about the jobs of queues, oldest first."""

    def __init__(self, client: redis.Redis, scripts: Scripts) -> None:
        self._client = client
        self._scripts = scripts

    def read(self, queue: Queue, after_id: str = START, count: int = 100) -> list[Event]:
        """Up to ``count`` events after the one of that id. The newest 100,000 or so are kept."""
        while True:
            with translated():
                entries: Any = self._client.xrange(_keys(queue).events, min=f"({after_id}", count=count)
            events = decode_events(entries)
            if events or len(entries) < count:
                return events
            after_id = text(entries[-1][0])  # all of a later version: what comes after them is not held up

    def relay_cursor(self, queue: Queue) -> str:
        """The id of the last event that the relay has passed on."""
        with translated():
            cursor = self._client.hget(_keys(queue).meta, "relay")
        return START if cursor is None else text(cursor)

    def set_relay_cursor(self, queue: Queue, event_id: str) -> None:
        """Keeps the id of the last event that the relay has passed on."""
        with translated():
            self._client.hset(_keys(queue).meta, "relay", event_id)

    def now_ms(self) -> int:
        """The server's time. What is written from now on has an id of this time or later."""
        with translated():
            seconds, microseconds = self._client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def settled_ms(self) -> int:
        """A time, in the server's milliseconds, that is over: no event is written before it any more.

        It is later than anything that the caller knows of; hence this takes a millisecond.
        """
        wanted = self.now_ms() + 1
        for _ in range(_SETTLING_LOOKS):
            time.sleep(0.001)
            if self.now_ms() >= wanted:
                break
        return wanted

    def read_news(self, cursors: Mapping[Queue, str], count: int) -> dict[Queue, list[Event]]:
        """For each queue that has events after its cursor: up to ``count`` of them. Does not block."""
        queues = list(cursors)
        found: dict[Queue, list[Event]] = {}
        for start in range(0, len(queues), _CHUNK):
            chunk = {_keys(queue).events: queue for queue in queues[start : start + _CHUNK]}
            streams: dict[Any, Any] = {key: cursors[queue] for key, queue in chunk.items()}
            for key, entries in self._xread(streams, count):
                if events := decode_events(entries):
                    found[chunk[text(key)]] = events
        return found

    def _xread(self, streams: dict[Any, Any], count: int) -> Iterable[tuple[Any, Entries]]:
        with translated():
            if not isinstance(cast("object", self._client), redis.RedisCluster):
                answer: Any = self._client.xread(streams, count=count)
                return answer.items() if isinstance(answer, dict) else answer or ()
            # The streams of a cluster are in different slots, which one command cannot read.
            reading = self._client.pipeline(transaction=False)
            for key, cursor in streams.items():
                reading.xrange(key, min=f"({cursor}", count=count)
            return zip(streams, reading.execute(), strict=True)

    def page(self, queues: Sequence[Queue], after: Position, before_ms: int, count: int) -> list[PlacedEvent]:
        """The first ``count`` events of these queues after a position that are older than ``before_ms``."""
        sources = [_Source(queue, after.first_of(queue)) for queue in queues]
        size = count // max(1, len(sources)) + 1
        behind = sources
        while behind:
            for start in range(0, len(behind), _CHUNK):
                self._fill(behind[start : start + _CHUNK], f"({before_ms}-0", size)
            # A source that was read past the end of the page can hold nothing more of it.
            ordered = sorted(position for source in sources for position in source.positions)
            bound = ordered[count - 1] if len(ordered) >= count else None
            behind = [
                source
                for source in sources
                if not source.exhausted and (bound is None or source.positions[-1] < bound)
            ]
        found = [event for source in sources for event in source.found]
        return sorted(found, key=lambda placed: placed.position)[:count]

    def _fill(self, sources: Sequence[_Source], end: str, size: int) -> None:
        with translated():
            reading = self._client.pipeline(transaction=False)
            for source in sources:
                reading.xrange(_keys(source.queue).events, min=source.first, max=end, count=size)
            for source, entries in zip(sources, reading.execute(), strict=True):
                source.take(entries, size)

    def job_page(
        self, queue: Queue, job_id: str, after: Position, before_ms: int, count: int
    ) -> list[PlacedEvent]:
        """The first ``count`` events of one job after a position that are older than ``before_ms``."""
        first, found = after.first_of(queue), list[PlacedEvent]()
        while len(found) < count:
            last, entries = self._scripts.run(
                "read_job_events",
                (_keys(queue).events,),
                job=job_id,
                first=first,
                last=f"({before_ms}-0",
                scan=_JOB_SCAN,
                limit=count - len(found),
            )
            pairs = [(entry[0], dict(zip(entry[1][::2], entry[1][1::2], strict=True))) for entry in entries]
            found += [PlacedEvent(queue, event) for event in decode_events(pairs)]
            if not last:
                break
            first = f"({text(last)}"
        return found

    def has_gap(self, queues: Sequence[Queue], after: Position) -> bool:
        """Whether events after a position may be gone from these queues: streams are bounded.

        Also where the position lies ahead of the server's time, whose clock went back.
        """
        if after.ms > self.now_ms() + 1000:
            return True
        for start in range(0, len(queues), _CHUNK):
            chunk = queues[start : start + _CHUNK]
            with translated():
                looking = self._client.pipeline(transaction=False)
                for queue in chunk:
                    looking.xinfo_stream(_keys(queue).events)
                answers = looking.execute(raise_on_error=False)
            for queue, info in zip(chunk, answers, strict=True):
                if isinstance(info, dict) and _lost_some(info, queue, after):
                    return True
        return False


class _Source:
    """The stream of one queue, read in chunks from a position on."""

    def __init__(self, queue: Queue, first: str) -> None:
        self.queue = queue
        self.first = first
        self.exhausted = False
        self.found: list[PlacedEvent] = []
        self.positions: list[Position] = []

    def take(self, entries: Entries, size: int) -> None:
        """What the next read gave."""
        self.exhausted = len(entries) < size
        for event_id, _ in entries:
            ms, _, sequence = text(event_id).partition("-")
            self.positions.append(Position(int(ms), int(sequence), self.queue.number))
        self.found += [PlacedEvent(self.queue, event) for event in decode_events(entries)]
        if entries:
            self.first = f"({text(entries[-1][0])}"


def _lost_some(info: Mapping[str, Any], queue: Queue, after: Position) -> bool:
    if info["entries-added"] <= info["length"]:
        return False
    # Of what was trimmed only this is known: it came before what is left.
    first = info["first-entry"]
    oldest = text(info["last-generated-id"]) if first is None else text(first[0])
    ms, _, sequence = oldest.partition("-")
    kept = Position(int(ms), int(sequence) + (1 if first is None else 0), queue.number)
    return after < Position(kept.ms, kept.sequence, 0) and after != BEGINNING


def _keys(queue: Queue) -> QueueKeys:
    return QueueKeys(queue.number)
