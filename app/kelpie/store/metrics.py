"""What is measured: figures of the queues, totals of what API processes count, and what rate limits share.

Counters live in Redis, so that they only grow, whatever process ends or starts: those of a queue are written
by the script that makes the change, those of the API are added by each process once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from kelpie.job import JobStatus, Outcome, UploadBacklog
from kelpie.store import keys
from kelpie.store.backlog import read_backlog
from kelpie.store.codec import fields_of
from kelpie.store.connection import servers, translated
from kelpie.store.records import EventType, Queue
from kelpie.store.registry import Place, Registry
from kelpie.store.scripts import Scripts
from kelpie.store.uploads import NOTHING, of_queue

QUEUES_PER_READ = 100  # a chunk of a scrape, so that other commands run between
NEVER_STARTED = 2**52  # waiting scores below are of jobs that have run before; see lua/prelude.lua
SPENDING_MINUTES = 2

EVENTS = (
    EventType.SUBMITTED,
    EventType.RUNNING,
    EventType.REVIVED,
    EventType.COMPLETED,
    EventType.FAILED,
    EventType.CANCELED,
)

COUNTERS = (
    *(event.value for event in EVENTS),
    *(f"attempts_{outcome.value}" for outcome in Outcome),
    "lost_ms",
)
"""The fields of a queue's counters that are read; one that is missing is 0."""


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue at one moment."""

    queue: Queue
    pending: int  # jobs in that status
    running: int  # likewise
    waiting: int  # jobs that a node could have now
    leased: int  # jobs that a node has
    failed: int  # jobs in that status
    completed: int  # likewise
    canceled: int  # likewise
    stale: int  # RUNNING jobs that wait for a node
    oldest_pending_s: float  # the age of the oldest pending job; 0 without any
    counters: Mapping[str, int]  # COUNTERS, of all time
    uploads: UploadBacklog = NOTHING  # what waits for its upload on the queue's nodes

    @property
    def upload_files(self) -> int:
        """Files that wait for their upload."""
        return self.uploads.files

    @property
    def upload_bytes(self) -> int:
        """Their size."""
        return self.uploads.bytes

    @property
    def live(self) -> int:
        """Jobs that have not ended."""
        return self.pending + self.running


@dataclass(frozen=True, slots=True)
class ApiFigures:
    """What all API processes have counted."""

    totals: Mapping[str, int]  # by the names that the API gives them
    processes: int
    open_polls: int


class Metrics:
    """Reads and adds figures."""

    def __init__(
        self,
        client: redis.Redis,
        scripts: Scripts,
        registry: Registry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._scripts = scripts
        self._registry = registry
        self._clock = clock

    def queues(self, user_id: str | None = None, *, uploads: bool = True) -> list[QueueFigures]:
        """The figures of a user's queues (None: of all), by number; chunks are of different moments.

        ``uploads``: False leaves out what waits for its upload, which costs a look at every leased job.
        """
        places = self._registry.all(user_id)
        found: list[QueueFigures] = []
        with translated():
            now_s = server_time(self._client)
            for first in range(0, len(places), QUEUES_PER_READ):
                chunk = places[first : first + QUEUES_PER_READ]
                reading = self._client.pipeline(transaction=False)
                for place in chunk:
                    _ask(reading, place)
                answers = reading.execute()
                size = len(answers) // len(chunk)
                for number, place in enumerate(chunk):
                    figures = _figures(place, answers[number * size : (number + 1) * size], now_s)
                    if uploads and figures.leased:
                        figures = replace(figures, uploads=of_queue(self._client, place))
                    found.append(figures)
        return found

    def api(self) -> ApiFigures:
        """What all API processes have counted, and how many there are."""
        with translated():
            now_s = server_time(self._client)
            totals = fields_of(self._client.hgetall(keys.REQUESTS))
            said = fields_of(self._client.hgetall(keys.PROCESSES))
        alive = [words for words in map(str.split, said.values()) if now_s - int(words[2]) <= 10]
        return ApiFigures(
            totals={name: int(value) for name, value in totals.items()},
            processes=len(alive),
            open_polls=sum(int(words[1]) for words in alive),
        )

    def backlog(self, rq: redis.Redis | None) -> dict[str, int]:
        """Webhook deliveries by state; see backlog.py."""
        return read_backlog(self._client, rq)

    def report(self, process: str, sequence: int, open_polls: int, counts: Mapping[str, int]) -> None:
        """Adds what a process has counted since its last report; the same report again changes nothing."""
        self._scripts.run(
            "report_process",
            (keys.REQUESTS, keys.PROCESSES),
            process=process,
            sequence=sequence,
            polls=open_polls,
            counts=list(counts.items()),
        )

    def share_spending(
        self, process: str, sequence: int, spending: Sequence[tuple[str, int]]
    ) -> tuple[int, list[int]]:
        """Adds what a process has spent of some limits; the minute, and what all have spent of each in it."""
        minute = int(self._clock() // 60)
        totals = self._scripts.run(
            "share_spending",
            (keys.spent(minute),),
            process=process,
            sequence=sequence,
            keep_s=SPENDING_MINUTES * 60,
            spending=spending,
        )
        return minute, [int(total) for total in totals]


def server_time(client: redis.Redis) -> float:
    """The time of the server (of a cluster: of one of them), in s since 1970 UTC."""
    seconds, microseconds = servers(client)[0].time()
    return float(seconds) + float(microseconds) / 1e6


def _ask(reading: Any, place: Place) -> None:
    pending = place.keys.index(JobStatus.PENDING)
    reading.zcard(pending)
    reading.zcard(place.keys.index(JobStatus.RUNNING))
    reading.zcard(place.keys.waiting)
    reading.zcard(place.keys.leased)
    reading.zcount(place.keys.waiting, "-inf", f"({NEVER_STARTED}")
    reading.zrange(pending, 0, 0, withscores=True)
    reading.hgetall(place.keys.counters)
    for status in (JobStatus.FAILED, JobStatus.COMPLETED, JobStatus.CANCELED):
        reading.zcard(place.keys.index(status))


def _figures(place: Place, answers: Sequence[Any], now_s: float) -> QueueFigures:
    pending, running, waiting, leased, stale, oldest, counters, *ended = answers
    failed, completed, canceled = ended
    told = fields_of(counters)
    return QueueFigures(
        queue=place.queue,
        pending=pending,
        running=running,
        waiting=waiting,
        leased=leased,
        failed=failed,
        completed=completed,
        canceled=canceled,
        stale=stale,
        oldest_pending_s=max(0.0, now_s - oldest[0][1] / 1e6) if oldest else 0.0,
        counters={name: int(told.get(name, 0)) for name in COUNTERS},
    )
