"""Who did what: one entry per change that somebody asked for, through the API or the pages.

Two bounded streams, one of everybody's for the admin and one of each user. What nodes report is not in them:
that is told by the events of jobs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from kelpie.errors import InvalidInputError
from kelpie.store import keys
from kelpie.store.codec import fields_of, text
from kelpie.store.connection import translated

MAX_ENTRIES = 100_000
MAX_ENTRIES_OF_USER = 10_000
MAX_PAGE_SIZE = 500
MAX_TEXT = 300

_CURSOR = re.compile(r"\d{1,15}-\d{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that somebody did."""

    user_id: str
    username: str
    action: str  # the operation, such as cancel a job
    target: str  # of what: an id, a path
    via: str  # api or pages; platform: nobody asked for it
    key_id: str | None = None  # of the API key that was shown
    address: str | None = None  # where it came from
    count: int = 1  # how often, in the second before it was written


@dataclass(frozen=True, slots=True)
class Entry:
    """A deed with its place and time."""

    id: str
    time: int  # ms since 1970 UTC
    deed: Deed


class Audit:
    """Writes and reads what was done. Entries are added, and the oldest fall off; none is changed."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def note(self, deeds: Sequence[Deed]) -> None:
        """Add entries."""
        with translated():
            writing = self._client.pipeline(transaction=False)
            for deed in deeds:
                fields: Any = {"deed": json.dumps(_wire(deed), separators=(",", ":"))}
                writing.xadd(keys.AUDIT, fields, maxlen=MAX_ENTRIES, approximate=False)
                writing.xadd(
                    keys.audit_of(deed.user_id), fields, maxlen=MAX_ENTRIES_OF_USER, approximate=False
                )
            writing.execute()

    def page(
        self, user_id: str | None, *, size: int = 100, cursor: str | None = None
    ) -> tuple[list[Entry], str | None]:
        """What a user did (None: what all did), the newest first, and the cursor of the next page.

        Raises InvalidInputError for a cursor that is none.
        """
        if cursor is not None and _CURSOR.fullmatch(cursor) is None:
            problem = "is not one that a page gave you"
            raise InvalidInputError(f"The cursor {problem}.", errors=(("cursor", problem),))
        stream = keys.AUDIT if user_id is None else keys.audit_of(user_id)
        size = max(1, min(size, MAX_PAGE_SIZE))
        before = "+" if cursor is None else f"({cursor}"
        with translated():
            raw: Any = self._client.xrevrange(stream, max=before, min="-", count=size)
        found = [_entry(entry_id, fields) for entry_id, fields in raw]
        return found, found[-1].id if len(found) == size else None


def _wire(deed: Deed) -> dict[str, Any]:
    return {
        "user_id": deed.user_id,
        "username": deed.username[:MAX_TEXT],
        "action": deed.action[:MAX_TEXT],
        "target": deed.target[:MAX_TEXT],
        "via": deed.via,
        "key_id": deed.key_id,
        "address": deed.address,
        "count": deed.count,
    }


def _entry(entry_id: bytes, raw: Any) -> Entry:
    place = text(entry_id)
    return Entry(place, int(place.partition("-")[0]), Deed(**json.loads(fields_of(raw)["deed"])))
