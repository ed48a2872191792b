"""One page of the jobs of several queues in order of creation, without reading more than the page needs."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from kelpie.errors import InvalidInputError
from kelpie.store.codec import text
from kelpie.store.connection import together, translated

MAX_PAGE_SIZE = 1000
MAX_DEPTH = 1_000_000
"""Jobs that a list may skip, at most: nobody pages that far, and each skipped one costs a little."""


class _Source:
    """One index: a zset of job ids by order of creation, read from the wanted end in chunks."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.taken = 0
        self.exhausted = False
        self.last = 0.0  # sort position of the last id read


def read_page(
    client: redis.Redis, indexes: Sequence[str], *, page: int, page_size: int, ascending: bool
) -> list[str]:
    """The job ids on page ``page`` (from 1) of the merged indexes. Raises InvalidInputError out of bounds."""
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidInputError(
            f"page_size is {page_size}; it must be 1…{MAX_PAGE_SIZE}.",
            errors=(("page_size", f"must be 1…{MAX_PAGE_SIZE}"),),
        )
    if page < 1 or (page - 1) * page_size > MAX_DEPTH:
        raise InvalidInputError(
            f"page is {page}; it must be 1 or more, and at most {MAX_DEPTH} jobs can be skipped.",
            errors=(("page", "out of bounds"),),
        )
    first = (page - 1) * page_size
    with translated():
        if len(indexes) == 1:
            ids = client.zrange(indexes[0], first, first + page_size - 1, desc=not ascending)
            return [text(job_id) for job_id in ids if isinstance(job_id, bytes | str)]
        return _merge(client, indexes, first, first + page_size, ascending=ascending)


def _merge(
    client: redis.Redis, indexes: Sequence[str], first: int, end: int, *, ascending: bool
) -> list[str]:
    sign = 1 if ascending else -1
    sources = _filled(client, indexes)
    if not sources:
        return []
    chunk = end // len(sources) + 1
    found: dict[str, float] = {}  # a job that changes status meanwhile may be met twice
    behind = sources
    while behind:
        reading = together(client)
        for source in behind:
            reading.zrange(
                source.key, source.taken, source.taken + chunk - 1, desc=not ascending, withscores=True
            )
        for source, entries in zip(behind, reading.execute(), strict=True):
            source.taken += len(entries)
            source.exhausted = len(entries) < chunk
            for job_id, score in entries:
                source.last = sign * score
                found[text(job_id)] = sign * score
        ordered = sorted(found.items(), key=lambda item: (item[1], item[0]))
        # A source that was read past the end of the page can hold nothing more of it.
        bound = ordered[end - 1][1] if len(ordered) >= end else float("inf")
        behind = [source for source in sources if not source.exhausted and source.last <= bound]
    return [job_id for job_id, _ in ordered[first:end]]


def _filled(client: redis.Redis, indexes: Sequence[str]) -> list[_Source]:
    counting = client.pipeline(transaction=False)
    for key in indexes:
        counting.exists(key)
    return [_Source(key) for key, exists in zip(indexes, counting.execute(), strict=True) if exists]
