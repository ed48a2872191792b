"""How much of a job's data waits for its upload on the node that holds it, as the node says with a heartbeat.

Figures for people, written by told.py. A figure lives as long as the lease that it came with.
"""

from __future__ import annotations

from typing import cast

import redis
from redis.client import Pipeline

from kelpie.job import UploadBacklog
from kelpie.store.keys import QueueKeys
from kelpie.store.registry import Place

JOBS_PER_READ = 1000  # so that other commands run between
MAX_LEASES_READ = 10_000
"""Leases of a queue that are asked about, those that end last; of a queue with more, these are shown."""

NOTHING = UploadBacklog()


def put(writing: Pipeline, keys: QueueKeys, job_id: str, backlog: UploadBacklog, *, left_ms: int) -> None:
    """Remember what the holder said, for what is left of its lease."""
    if backlog.files and left_ms > 0:
        oldest = "" if backlog.oldest_s is None else f"{backlog.oldest_s:.3f}"
        writing.set(keys.backlog(job_id), f"{backlog.files} {backlog.bytes} {oldest}", px=left_ms)
    else:
        writing.delete(keys.backlog(job_id))


def of_job(client: redis.Redis, keys: QueueKeys, job_id: str) -> UploadBacklog | None:
    """What the holder said last; None when nothing waits, or nobody has held the job for a while."""
    value = cast("bytes | None", client.get(keys.backlog(job_id)))
    return None if value is None else _decoded(value)


def of_queue(client: redis.Redis, place: Place) -> UploadBacklog:
    """The sum over the jobs that nodes hold now, and the age of the oldest change."""
    ids = cast("list[bytes]", client.zrange(place.keys.leased, 0, MAX_LEASES_READ - 1, desc=True))
    said: list[UploadBacklog] = []
    for first in range(0, len(ids), JOBS_PER_READ):
        asked = [place.keys.backlog(job_id.decode()) for job_id in ids[first : first + JOBS_PER_READ]]
        answers = cast("list[bytes | None]", client.mget(asked))
        said += [_decoded(value) for value in answers if value is not None]
    return UploadBacklog(
        sum(each.files for each in said),
        sum(each.bytes for each in said),
        max((each.oldest_s for each in said if each.oldest_s is not None), default=None),
    )


def _decoded(value: bytes) -> UploadBacklog:
    files, size, oldest = value.decode().split(" ")
    return UploadBacklog(int(files), int(size), float(oldest) if oldest else None)
