"""Job ids of several indexes merged in order of creation, without reading more of them than is asked for."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from kelpie.errors import InvalidInputError
from kelpie.store.codec import text
from kelpie.store.connection import together, translated

MAX_PAGE_SIZE = 1000
MAX_DEPTH = 1_000_000
"""Jobs that a list may skip by page number, at most; each costs a little, so cursors go further."""

_POSITION = re.compile(r"(\d{1,16}) ([0-9a-f-]{36})")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the order of creation: the job there, and its order in µs."""

    order: int
    job_id: str

    def to_cursor(self) -> str:
        """As it is handed to clients."""
        return base64.urlsafe_b64encode(f"{self.order} {self.job_id}".encode()).decode().rstrip("=")

    @classmethod
    def from_cursor(cls, cursor: str) -> Position:
        """The reverse of :meth:`to_cursor`. Raises InvalidInputError."""
        try:
            plain = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        except (binascii.Error, ValueError):
            plain = ""
        parts = _POSITION.fullmatch(plain)
        if parts is None:
            problem = "is not one that a list gave you"
            raise InvalidInputError(f"The cursor {problem}.", errors=(("cursor", problem),))
        return cls(int(parts[1]), parts[2])


def check_page(page: int, page_size: int) -> None:
    """Raises InvalidInputError for a page out of bounds."""
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidInputError(
            f"page_size is {page_size}; it must be 1…{MAX_PAGE_SIZE}.",
            errors=(("page_size", f"must be 1…{MAX_PAGE_SIZE}"),),
        )
    if page < 1 or (page - 1) * page_size > MAX_DEPTH:
        raise InvalidInputError(
            f"page is {page}; it must be 1 or more, and at most {MAX_DEPTH} jobs can be skipped; "
            "use next_cursor to go further.",
            errors=(("page", "out of bounds"),),
        )


def read_page(
    client: redis.Redis, indexes: Sequence[str], *, page: int, page_size: int, ascending: bool
) -> list[Position]:
    """The jobs on page ``page`` (from 1) of the merged indexes. Raises InvalidInputError out of bounds."""
    check_page(page, page_size)
    first = (page - 1) * page_size
    if len(indexes) != 1:
        start, skipped = _skip(client, indexes, first, ascending=ascending)
        found = read_after(client, indexes, start, first - skipped + page_size, ascending=ascending)
        return found[first - skipped :]
    with translated():
        entries = client.zrange(indexes[0], first, first + page_size - 1, desc=not ascending, withscores=True)
    return [_position(entry) for entry in entries]


class _Source:
    """One index: a zset of job ids by order of creation, read from the wanted end in chunks."""

    def __init__(self, key: str, last: float) -> None:
        self.key = key
        self.last = last  # what was read up to
        self.exhausted = False


def read_after(
    client: redis.Redis, indexes: Sequence[str], after: Position | None, count: int, *, ascending: bool
) -> list[Position]:
    """The next ``count`` jobs of the merged indexes after a position (None: from the first on)."""
    sign = 1 if ascending else -1
    with translated():
        start = -sign * math.inf if after is None else after.order
        sources = [_Source(key, start) for key in indexes]
        found: set[Position] = set()
        ordered: list[Position] = []
        behind = sources
        including = True  # another queue may have a job of the same µs
        while behind:
            chunk = max(0, count - len(ordered)) // len(behind) + 2
            reading = together(client)  # one moment, so that a job that changes status is not missed
            for source in behind:
                reading.zrange(
                    source.key,
                    _bound(source.last, including=including),
                    sign * math.inf,
                    desc=not ascending,
                    withscores=True,
                    byscore=True,
                    offset=0,
                    num=chunk,
                )
            for source, entries in zip(behind, reading.execute(), strict=True):
                source.exhausted = len(entries) < chunk
                source.last = entries[-1][1] if entries else source.last
                found.update(map(_position, entries))
            including = False
            ordered = _after(found, after, ascending=ascending)
            # A source that was read past the last of the page can hold nothing more of it.
            end = math.inf if len(ordered) < count else sign * ordered[count - 1].order
            behind = [source for source in sources if not source.exhausted and sign * source.last <= end]
    return ordered[:count]


SKIP_FROM = 1000
"""Fewer jobs than this are rather read than searched past."""


def _skip(
    client: redis.Redis, indexes: Sequence[str], count: int, *, ascending: bool
) -> tuple[Position | None, int]:
    """Where to read on so that at most ``count`` jobs were passed over, and how many those are.

    Jobs of one moment are counted, never read: the place is found by halves. A job that changes its status
    meanwhile may be counted twice or not at all, as on any page by number.
    """
    if count < SKIP_FROM:
        return None, 0
    with translated():
        low, high = _ends(client, indexes)
        passed, best = 0, None
        while low <= high:
            middle = (low + high) // 2
            before = _count_before(client, indexes, middle, ascending=ascending)
            if before <= count:
                passed, best = before, middle
            if (before <= count) == ascending:
                low = middle + 1
            else:
                high = middle - 1
    if best is None:
        return None, 0
    # Sorts before every job of that µs, in the direction of reading.
    return Position(best, "" if ascending else "~"), passed


def _ends(client: redis.Redis, indexes: Sequence[str]) -> tuple[int, int]:
    """The order of the oldest and of the newest job; an empty range when there is none."""
    reading = client.pipeline(transaction=False)
    for key in indexes:
        reading.zrange(key, 0, 0, withscores=True)
        reading.zrange(key, -1, -1, withscores=True)
    orders = [int(entry[1]) for entries in reading.execute() for entry in entries]
    return (min(orders), max(orders)) if orders else (1, 0)


def _count_before(client: redis.Redis, indexes: Sequence[str], order: int, *, ascending: bool) -> int:
    """How many jobs come before those of that µs."""
    counting = client.pipeline(transaction=False)
    for key in indexes:
        if ascending:
            counting.zcount(key, "-inf", f"({order}")
        else:
            counting.zcount(key, f"({order}", "+inf")
    return sum(counting.execute())


def _position(entry: Any) -> Position:
    job_id, order = entry
    return Position(int(order), text(job_id))


def _bound(order: float, *, including: bool) -> str:
    exact = str(order) if math.isinf(order) else f"{order:.0f}"
    return exact if including else f"({exact}"


def _after(found: set[Position], after: Position | None, *, ascending: bool) -> list[Position]:
    ordered = sorted(found, reverse=not ascending)
    if after is None:
        return ordered
    return [place for place in ordered if (place > after if ascending else place < after)]
