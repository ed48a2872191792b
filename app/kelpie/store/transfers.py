"""What was moved for the entries of a job's ``sync``, as its node says with a heartbeat.

Figures for people: nothing is decided by them, so they are written beside the scripts. The last ones stay
after the job's end, for as long as its log does.
"""

from __future__ import annotations

from contextlib import suppress
from typing import cast

import redis
from redis.exceptions import OutOfMemoryError

from kelpie.store.clock import wall_ms
from kelpie.store.keys import QueueKeys
from kelpie.transfers import TransferReport, Transfers

_DAY_MS = 86_400_000


def note(client: redis.Redis, keys: QueueKeys, job_id: str, report: TransferReport, *, days: float) -> None:
    """Remember for so many days what the holder, whose lease was just renewed, said.

    While the server's memory is full it is not remembered: no lease is to suffer from that.
    """
    holder = cast("bytes | None", client.get(keys.heartbeat(job_id)))
    if holder is not None:  # its lease has not ended since
        said = Transfers(int(holder.partition(b" ")[0]), wall_ms(), report)
        with suppress(OutOfMemoryError):
            client.set(keys.transfers(job_id), said.encode(), px=int(days * _DAY_MS))


def of_job(client: redis.Redis, keys: QueueKeys, job_id: str) -> Transfers | None:
    """What the last node that said anything said last; None when none did, or too long ago."""
    value = cast("bytes | None", client.get(keys.transfers(job_id)))
    return None if value is None else Transfers.decode(value)
