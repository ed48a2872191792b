"""Job ids: random UUIDs that also say which queue a job is in, so that finding it needs no lookup table."""

from __future__ import annotations

import re
import secrets
import uuid

_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
_BITS = 32
_MASK = (1 << _BITS) - 1
# An odd factor is a bijection modulo 2^32; this one (2^32 divided by the golden ratio) spreads small numbers.
_FACTOR = 0x9E3779B1
_INVERSE = pow(_FACTOR, -1, 1 << _BITS)


def new_job_id(queue_number: int, bits: int | None = None) -> str:
    """An id for a job of that queue: a version 4 UUID made of the queue's number and 90 bits.

    ``bits`` (96 of them; 6 give way to the version) None: random ones.
    """
    if not 0 < queue_number <= _MASK:
        raise ValueError(f"a queue number is 1…{_MASK}, not {queue_number}")
    # At the end, because people tell ids apart by how they begin.
    last = (queue_number * _FACTOR) & _MASK
    first = secrets.randbits(96) if bits is None else bits
    return str(uuid.UUID(int=(first << _BITS) | last, version=4))


def queue_number_of(job_id: str) -> int | None:
    """The number of the queue that a job id names; None when it is no job id."""
    if not _CANONICAL.match(job_id):
        return None
    return (int(job_id[-8:], 16) * _INVERSE) & _MASK
