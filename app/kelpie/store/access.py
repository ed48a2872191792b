"""What every part of the store needs: finding a job's queue, and running scripts about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from kelpie.errors import NotFoundError
from kelpie.job import Job
from kelpie.store import codec
from kelpie.store.ids import queue_number_of
from kelpie.store.registry import Place, Registry
from kelpie.store.scripts import Argument, Scripts


class Access:
    """The way to the queues of one server."""

    def __init__(self, client: redis.Redis, scripts: Scripts) -> None:
        self.redis = client
        self._scripts = scripts
        self._registry = Registry(client, scripts)

    def _place_of(self, job_id: str, user_id: str | None) -> Place:
        """The queue of a job of that user (None: of anybody). Raises NotFoundError."""
        number = queue_number_of(job_id)
        place = None if number is None else self._registry.numbered(number)
        if place is None or user_id not in (None, place.queue.user_id):
            raise no_such_job(job_id)
        return place

    def _run(self, script: str, place: Place, **arguments: Argument) -> Any:
        """The answer of a script about a queue."""
        return self._scripts.run(script, place.meta, queue=place.queue.number, **arguments)

    def _about(self, script: str, place: Place, job_id: str, **arguments: Argument) -> Any:
        """The answer of a script about a job. Raises NotFoundError."""
        try:
            return self._run(script, place, id=job_id, **arguments)
        except NotFoundError:
            raise no_such_job(job_id) from None


def job_of(place: Place, answer: Sequence[Any]) -> Job:
    """A job from the first three values that a script replies about it."""
    return codec.decode_job(answer[0].decode(), place.queue, codec.fields_of(answer[1]), answer[2])


def no_such_job(job_id: str) -> NotFoundError:
    """What is raised for a job that does not exist, or not for this caller."""
    return NotFoundError(f"There is no job {job_id[:64]!r}.")
