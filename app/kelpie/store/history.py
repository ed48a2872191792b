"""How the figures of users were over the last day: samples, which the platform takes once a minute.

The counters of queues are totals of all time; what was done within some hours is the difference of two
samples. Nothing is added to the scripts that nodes wait for. A user for whom nothing happens has a sample an
hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from typing import Any

import redis

from kelpie.store import keys
from kelpie.store.codec import fields_of, text
from kelpie.store.connection import translated
from kelpie.store.metrics import QueueFigures, server_time

DAY_MS = 24 * 3600 * 1000
MAX_SAMPLES = 1600  # a day of one a minute, and some
MAX_READ = 2 * MAX_SAMPLES  # Redis trims by the block
KEPT_S = 26 * 3600
MAX_GAP_MS = 5 * 60 * 1000
"""Of a longer time between two samples nobody knows how busy the nodes were."""

_USERS_PER_WRITE = 500


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of all queues of one user at one moment."""

    pending: int = 0
    running: int = 0
    leased: int = 0  # jobs that nodes have
    completed: int = 0  # since the first job, like what follows
    failed: int = 0
    lost_ms: int = 0  # work that was lost with nodes, at most

    @classmethod
    def of(cls, queues: Iterable[QueueFigures]) -> Sample:
        """The sum over queues."""
        found = list(queues)
        return cls(
            pending=sum(one.pending for one in found),
            running=sum(one.running for one in found),
            leased=sum(one.leased for one in found),
            completed=sum(one.counters["completed"] for one in found),
            failed=sum(one.counters["failed"] for one in found),
            lost_ms=sum(one.counters["lost_ms"] for one in found),
        )

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing that could change without a submit."""
        return not self.pending and not self.running


@dataclass(frozen=True, slots=True)
class Figures:
    """What was done between the first and the last of some samples."""

    since: int  # ms since 1970 UTC
    until: int
    completed: int  # jobs
    failed: int  # jobs
    lost_ms: int  # work that was lost with nodes, at most
    busy_ms: (
        int  # how long nodes had jobs, added up over the nodes; about, because samples are a minute apart
    )

    @property
    def kept_ms(self) -> int:
        """Of the time that nodes had jobs, what was not lost with them."""
        return max(0, self.busy_ms - self.lost_ms)

    @property
    def goodput(self) -> float | None:
        """The part of that time that was not lost, 0 to 1; None when nodes had no job."""
        return self.kept_ms / self.busy_ms if self.busy_ms else None


class History:
    """The samples of one day, oldest first, and what follows from them."""

    def __init__(self, samples: Sequence[tuple[int, Sample]]) -> None:
        self.samples = samples

    def ending(self, now_ms: int, now: Sample) -> History:
        """The same with how it is now; without samples that claim to be later."""
        return History([*(one for one in self.samples if one[0] < now_ms), (now_ms, now)])

    def within(self, ms: int) -> Figures | None:
        """What was done in the last ``ms``, or since the first sample; None with less than two."""
        if len(self.samples) < 2:
            return None
        begin = self.samples[-1][0] - ms
        before = sum(1 for time, _ in self.samples if time <= begin)
        used = self.samples[max(0, before - 1) :]
        (since, first), (until, last) = used[0], used[-1]
        busy_ms = sum(
            (later - earlier) * (a.leased + b.leased) / 2
            for (earlier, a), (later, b) in pairwise(used)
            if later - earlier <= MAX_GAP_MS
        )
        return Figures(
            since=since,
            until=until,
            completed=max(0, last.completed - first.completed),
            failed=max(0, last.failed - first.failed),
            lost_ms=max(0, last.lost_ms - first.lost_ms),
            busy_ms=round(busy_ms),
        )

    def at(self, times: Sequence[int], pick: Callable[[Sample], int]) -> list[int | None]:
        """A figure at each of some rising times: that of the last sample before it; None before the first."""
        found: list[int | None] = []
        place, value = 0, None
        for time in times:
            while place < len(self.samples) and self.samples[place][0] <= time:
                value = pick(self.samples[place][1])
                place += 1
            found.append(value)
        return found


class Histories:
    """Writes and reads the samples of users."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def add(self, samples: Mapping[str | None, Sample], *, at_ms: int | None = None) -> None:
        """Add one of each user (None: of all), of now by the server's clock, or of an earlier time."""
        entry = "*" if at_ms is None else f"{at_ms}-0"
        users = list(samples)
        with translated():
            for first in range(0, len(users), _USERS_PER_WRITE):
                writing = self._client.pipeline(transaction=False)
                for user in users[first : first + _USERS_PER_WRITE]:
                    told: Any = {"figures": " ".join(map(str, astuple(samples[user])))}
                    writing.xadd(keys.history(user), told, id=entry, maxlen=MAX_SAMPLES, approximate=True)
                    writing.expire(keys.history(user), KEPT_S)
                writing.execute()

    def read(self, user_id: str | None) -> tuple[int, History]:
        """The server's time in ms; and a user's samples (None: of all users together) of the last day,
        with the last one before it."""
        name = keys.history(user_id)
        with translated():
            now_ms = round(1000 * server_time(self._client))
            begin = max(1, now_ms - DAY_MS)
            reading = self._client.pipeline(transaction=False)
            reading.xrevrange(name, max=begin - 1, min="-", count=1)
            reading.xrange(name, min=begin, max="+", count=MAX_READ)
            before, within = reading.execute()
        return now_ms, History([_decoded(*entry) for entry in (*before, *within)])


def _decoded(entry_id: bytes, raw: Any) -> tuple[int, Sample]:
    numbers = fields_of(raw)["figures"].split(" ")
    # A later version may have added some, an earlier one lack some.
    told = dict(zip((field.name for field in fields(Sample)), map(int, numbers), strict=False))
    return int(text(entry_id).partition("-")[0]), Sample(**told)
