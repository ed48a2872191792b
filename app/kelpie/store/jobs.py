"""Jobs as their owners see them: one, a page of them, those that match a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kelpie.job import Attempt, Job, JobStatus
from kelpie.progress import Progress, ProgressPoint
from kelpie.secrets import masked_arguments, masked_text
from kelpie.store import codec, progress_history
from kelpie.store.access import Access, no_such_job
from kelpie.store.connection import translated
from kelpie.store.ids import queue_number_of
from kelpie.store.keys import QueueKeys
from kelpie.store.listing import Position, check_page, read_after, read_page
from kelpie.store.registry import Place
from kelpie.store.waiting import explained

SEARCH_CHUNK = 200
SEARCH_LIMIT = 5000
"""Jobs that one search looks at, at most; the page may then be short, and its cursor goes on from there."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs of a list. ``next_cursor`` leads to those after them; None when there are none."""

    jobs: list[Job]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs a list shows: all that match everything that is given."""

    status: JobStatus | None = None
    container_group_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    node: str | None = None  # jobs that this node was given
    text: str | None = None  # in the id, the command, its arguments, the group or a label; in any case

    @property
    def by_index(self) -> bool:
        """Whether an index holds just the jobs that match."""
        return not (self.labels or self.node or self.text)

    def matches(self, job: Job) -> bool:
        """Whether a job, found in an index for one of the criteria, matches all of them."""
        return (
            (self.status is None or job.status is self.status)
            and self.labels.items() <= job.spec.labels.items()
            and (self.text is None or self.text.casefold() in _searched(job))
        )


class Jobs(Access):
    """The readers' side of the store."""

    def get(self, job_id: str, *, user_id: str | None = None) -> Job:
        """A job of that user (None: of anybody). Raises NotFoundError."""
        place = self._place_of(job_id, user_id)
        found = self._read([(place, job_id)])
        if not found:
            raise no_such_job(job_id)
        return found[0]

    def page(
        self,
        user_id: str | None,
        chosen: Filter,
        *,
        number: int = 1,
        size: int = 100,
        ascending: bool = False,
    ) -> Page:
        """One page (from 1) of the jobs of a user (None: of all), the newest first by default.

        For filters that an index answers; others are for :meth:`search`. Raises InvalidInputError for a page
        out of bounds.
        """
        places = self._places(user_id, chosen)
        found = read_page(
            self.redis, _indexes(places, chosen), page=number, page_size=size, ascending=ascending
        )
        jobs = [job for job in self._read(_homes(places, found)) if chosen.matches(job)]
        return Page(jobs, found[-1].to_cursor() if len(found) == size else None)

    def search(
        self,
        user_id: str | None,
        chosen: Filter,
        *,
        cursor: str | None = None,
        size: int = 100,
        ascending: bool = False,
        look_at: int = SEARCH_LIMIT,
    ) -> Page:
        """Up to ``size`` jobs of a user (None: of all) after the cursor, among so many or a few more.

        Raises InvalidInputError.
        """
        check_page(1, size)
        at = None if cursor is None else Position.from_cursor(cursor)
        places = self._places(user_id, chosen)
        indexes = _indexes(places, chosen)
        jobs: list[Job] = []
        looked_at = 0
        while looked_at < look_at:
            wanted = size - len(jobs) if chosen.by_index else SEARCH_CHUNK
            found = read_after(self.redis, indexes, at, wanted, ascending=ascending)
            matching = {job.id: job for job in self._read(_homes(places, found)) if chosen.matches(job)}
            for place in found:
                at = place
                if place.job_id in matching:
                    jobs.append(matching[place.job_id])
                    if len(jobs) == size:
                        return Page(jobs, at.to_cursor())
            if len(found) < wanted:
                return Page(jobs, None)
            looked_at += len(found)
        return Page(jobs, None if at is None else at.to_cursor())

    def attempts(self, job_id: str, *, user_id: str | None = None) -> list[Attempt]:
        """The attempts of a job, oldest first, the open one last; the newest 1,000. Raises NotFoundError."""
        place = self._place_of(job_id, user_id)
        with translated():
            reading = self.redis.pipeline(transaction=True)
            reading.hgetall(place.keys.job(job_id))
            reading.lrange(place.keys.attempts(job_id), 0, -1)
            state, records = reading.execute()
        if not state:
            raise no_such_job(job_id)
        closed = [codec.decode_attempt(record) for record in records]
        current = codec.open_attempt(codec.fields_of(state))
        return closed if current is None else [*closed, current]

    def progress(self, jobs: Sequence[Job]) -> dict[str, Progress]:
        """What the commands of these jobs say of their progress, by job; nothing of those that say nothing.

        Costs one round trip. Whose jobs they are was settled when they were read.
        """
        asked = [job.id for job in jobs if job.attempt > 0]
        if not asked:
            return {}
        with translated():
            reading = self.redis.pipeline(transaction=False)
            for job_id in asked:
                reading.get(QueueKeys(_number(job_id)).progress(job_id))
            answers = reading.execute()
        return {
            job_id: Progress.decode(value)
            for job_id, value in zip(asked, answers, strict=True)
            if value is not None
        }

    def progress_history(self, job_id: str, *, user_id: str | None = None) -> list[ProgressPoint]:
        """How its progress was over time, oldest first, at last what was said last; empty: nothing was said.

        Raises NotFoundError.
        """
        place = self._place_of(job_id, user_id)
        with translated():
            return progress_history.of_job(self.redis, place.keys, job_id)

    def _places(self, user_id: str | None, chosen: Filter) -> list[Place]:
        places = self._registry.all(user_id)
        if chosen.container_group_id is None:
            return places
        return [place for place in places if place.queue.container_group_id == chosen.container_group_id]

    def _read(self, found: Sequence[tuple[Place, str]]) -> list[Job]:
        """These jobs, without those that were purged since their ids were read."""
        with translated():
            reading = self.redis.pipeline(transaction=len(found) == 1)
            for place, job_id in found:
                reading.hgetall(place.keys.job(job_id))
                reading.get(place.keys.spec(job_id))
            answers = reading.execute()
        return explained(
            self.redis,
            [
                (place, codec.decode_job(job_id, place.queue, codec.fields_of(state), spec))
                for (place, job_id), state, spec in zip(found, answers[::2], answers[1::2], strict=True)
                if state and spec is not None
            ],
        )


def _indexes(places: Sequence[Place], chosen: Filter) -> list[str]:
    """The smallest indexes that hold every job that matches."""
    if chosen.labels:
        name, value = next(iter(chosen.labels.items()))
        return [place.keys.label(name, value) for place in places]
    if chosen.node:
        return [place.keys.node(chosen.node) for place in places]
    statuses = list(JobStatus) if chosen.status is None else [chosen.status]
    return [place.keys.index(status) for place in places for status in statuses]


def _homes(places: Sequence[Place], found: Sequence[Position]) -> list[tuple[Place, str]]:
    homes = {place.queue.number: place for place in places}
    return [(homes[_number(position.job_id)], position.job_id) for position in found]


def _number(job_id: str) -> int:
    number = queue_number_of(job_id)
    if number is None:
        raise ValueError(f"an index holds {job_id!r}, which is no job id")
    return number


def _searched(job: Job) -> str:
    spec = job.spec
    labels = (f"{name}={value}" for name, value in spec.labels.items())
    # What lists mask is not found either: piece by piece a search would tell it.
    shown = (masked_text(spec.command), *masked_arguments(spec.arguments))
    return "\n".join((job.id, *shown, spec.container_group_id, *labels)).casefold()
