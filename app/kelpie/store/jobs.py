"""Jobs as their owners see them: submit, look at, cancel, delete."""

from __future__ import annotations

import builtins
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kelpie.errors import ConflictError, InvalidInputError, UnavailableError
from kelpie.job import MAX_BATCH, Attempt, Job, JobSpec, JobStatus
from kelpie.store import codec
from kelpie.store.access import Access, job_of, no_such_job
from kelpie.store.connection import translated
from kelpie.store.ids import new_job_id, queue_number_of
from kelpie.store.listing import read_page
from kelpie.store.names import checked
from kelpie.store.registry import Place
from kelpie.store.scripts import Argument

CLEAR_LIMIT = 200  # jobs that one script call deletes or cancels, at most
MAX_PRIORITY = 255
MAX_HEARTBEAT_INTERVAL_S = 2**31  # no job lives that long; keeps times exact in Lua
MAX_FAILURES = 1_000_000


class Jobs(Access):
    """The owners' side of the store."""

    def submit(self, user_id: str, specs: Sequence[JobSpec]) -> builtins.list[Job]:
        """Adds 1…1,000 jobs, all or none; they come back in the same order.

        Raises InvalidInputError (with the ``index`` of a bad job).
        """
        if not 1 <= len(specs) <= MAX_BATCH:
            raise InvalidInputError(f"A batch has 1…{MAX_BATCH} jobs, not {len(specs)}.")
        encoded = [_encoded(index, spec) for index, spec in enumerate(specs)]
        places = {spec.container_group_id: None for spec in specs}
        by_group = {group: self._registry.register(user_id, group) for group in places}
        ids = [new_job_id(by_group[spec.container_group_id].queue.number) for spec in specs]
        rows: dict[str, builtins.list[tuple[str | bytes | int, ...]]] = defaultdict(builtins.list)
        for job_id, spec, data in zip(ids, specs, encoded, strict=True):
            rows[spec.container_group_id].append(
                (job_id, spec.priority, spec.max_failures, spec.lease_ms, data)
            )
        created = self._submit_rows([(by_group[group], jobs) for group, jobs in rows.items()])
        return [
            Job(id=job_id, user_id=user_id, spec=spec, status=JobStatus.PENDING, created=created[job_id])
            for job_id, spec in zip(ids, specs, strict=True)
        ]

    def _submit_rows(
        self, batches: Sequence[tuple[Place, Sequence[tuple[str | bytes | int, ...]]]]
    ) -> dict[str, int]:
        if len(batches) == 1:
            place, rows = batches[0]
            answers = [self._run("submit", place, jobs=rows)]
        elif not self._scripts.can_run_together:
            answers = self._submit_in_turn(batches)
        else:
            calls: builtins.list[tuple[Sequence[str], dict[str, Argument]]] = [
                (place.meta, {"queue": place.queue.number, "jobs": rows}) for place, rows in batches
            ]
            answers = self._scripts.run_together("submit", calls)
        return {
            str(row[0]): int(time)
            for (_, rows), times in zip(batches, answers, strict=True)
            for row, time in zip(rows, times, strict=True)
        }

    def _submit_in_turn(
        self, batches: Sequence[tuple[Place, Sequence[tuple[str | bytes | int, ...]]]]
    ) -> builtins.list[Any]:
        """On a cluster no transaction spans several queues: what was added is taken back at a failure.

        A node may lease a job before that; it then hears that the job is gone. What is on a server that
        cannot be reached any more stays.
        """
        answers = []
        for count, (place, rows) in enumerate(batches, start=1):
            try:
                answers.append(self._run("submit", place, jobs=rows))
            except BaseException:
                for added, known in batches[:count]:  # the last one may have happened too
                    with suppress(UnavailableError):
                        for row in known:
                            self._run("purge", added, id=row[0])
                raise
        return answers

    def get(self, job_id: str, *, user_id: str | None = None) -> Job:
        """A job of that user (None: of anybody). Raises NotFoundError."""
        place = self._place_of(job_id, user_id)
        with translated():
            reading = self.redis.pipeline(transaction=True)
            reading.hgetall(place.keys.job(job_id))
            reading.get(place.keys.spec(job_id))
            state, spec = reading.execute()
        if not state or spec is None:
            raise no_such_job(job_id)
        return codec.decode_job(job_id, place.queue.user_id, codec.fields_of(state), spec)

    def list(
        self,
        *,
        user_id: str | None,
        status: JobStatus | None = None,
        container_group_id: str | None = None,
        page: int = 1,
        page_size: int = 100,
        ascending: bool = False,
    ) -> builtins.list[Job]:
        """One page (from 1) of the jobs of a user (None: of all), the newest first by default.

        Raises InvalidInputError for a page out of bounds.
        """
        places = self._registry.all(user_id)
        if container_group_id is not None:
            places = [place for place in places if place.queue.container_group_id == container_group_id]
        statuses = [status] if status is not None else builtins.list(JobStatus)
        indexes = [place.keys.index(wanted) for place in places for wanted in statuses]
        ids = read_page(self.redis, indexes, page=page, page_size=page_size, ascending=ascending)
        homes = {place.queue.number: place for place in places}
        return self._read_jobs([(homes[_number(job_id)], job_id) for job_id in ids], status)

    def _read_jobs(self, found: Sequence[tuple[Place, str]], status: JobStatus | None) -> builtins.list[Job]:
        with translated():
            reading = self.redis.pipeline(transaction=False)
            for place, job_id in found:
                reading.hgetall(place.keys.job(job_id))
                reading.get(place.keys.spec(job_id))
            answers = reading.execute()
        jobs = [
            codec.decode_job(job_id, place.queue.user_id, codec.fields_of(state), spec)
            for (place, job_id), state, spec in zip(found, answers[::2], answers[1::2], strict=True)
            if state and spec is not None  # purged since its id was read
        ]
        return [job for job in jobs if status is None or job.status is status]

    def attempts(self, job_id: str, *, user_id: str | None = None) -> builtins.list[Attempt]:
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

    def cancel(self, job_id: str, *, user_id: str | None = None) -> Job:
        """Ends a live job at once; its holder learns at its next heartbeat. Canceling again is harmless.

        Raises NotFoundError, and ConflictError for a completed or failed job.
        """
        place = self._place_of(job_id, user_id)
        try:
            answer = self._about("cancel", place, job_id)
        except ConflictError as error:
            raise ConflictError(f"Job {job_id} cannot be canceled. {error}") from None
        return job_of(place, answer)

    def purge(self, job_id: str, *, user_id: str | None = None) -> None:
        """Deletes a job and its records for good. Raises NotFoundError."""
        place = self._place_of(job_id, user_id)
        with translated():
            if not self.redis.exists(place.keys.job(job_id)):
                raise no_such_job(job_id)
        self._run("purge", place, id=job_id)

    def clear_group(self, user_id: str, container_group_id: str) -> int:
        """Purges the pending jobs of a queue and cancels its running ones; returns how many these were."""
        place = self._registry.find(user_id, container_group_id)
        return 0 if place is None else self._repeat("clear", place)

    def purge_all(self) -> None:
        """Deletes every job of every user for good."""
        for place in self._registry.all(None):
            self._repeat("purge_queue", place)

    def _repeat(self, script: str, place: Place) -> int:
        with translated():
            last = self.redis.hget(place.keys.meta, "order")
        total = 0
        while last is not None:
            count = self._run(script, place, last=last, limit=CLEAR_LIMIT)
            if not count:
                break
            total += count
        return total


def _encoded(index: int, spec: JobSpec) -> bytes:
    """A definition as it is kept. Raises InvalidInputError with the job's index."""
    try:
        checked("container_group_id", spec.container_group_id)
        _within("priority", spec.priority, 0, MAX_PRIORITY)
        _within("max_failures", spec.max_failures, 1, MAX_FAILURES)
        _within("heartbeat_interval", spec.heartbeat_interval, 1, MAX_HEARTBEAT_INTERVAL_S)
        return codec.encode_spec(spec)
    except InvalidInputError as error:
        raise InvalidInputError(str(error), errors=error.errors, index=index) from None


def _within(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        problem = f"must be {low}…{high}"
        raise InvalidInputError(f"{field} is {value}; it {problem}.", errors=((field, problem),))


def _number(job_id: str) -> int:
    number = queue_number_of(job_id)
    if number is None:
        raise ValueError(f"an index holds {job_id!r}, which is no job id")
    return number
