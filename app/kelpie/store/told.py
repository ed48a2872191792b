"""What a node tells with a sign of life beside that: kept together, in two round trips, whatever it is.

Figures for people: nothing is decided by them, so they are written beside the scripts.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import redis
from redis.exceptions import OutOfMemoryError

from kelpie.job import UploadBacklog
from kelpie.store import progress_history, transfers, uploads
from kelpie.store.keys import QueueKeys
from kelpie.transfers import TransferReport

DEFAULT_DAYS = 30.0
"""How long what outlives a job's lease is kept."""


@dataclass(frozen=True, slots=True)
class Told:
    """What was told. None, and False, leave what was told before."""

    backlog: UploadBacklog | None = None
    transfers: TransferReport | None = None
    progress: bool = False  # whether ``heartbeat.lua`` has just kept a word on it

    def __bool__(self) -> bool:
        return self.progress or not (self.backlog is None and self.transfers is None)


def note(client: redis.Redis, keys: QueueKeys, job_id: str, told: Told, *, days: float) -> None:
    """Remember what the holder, whose lease was just renewed, told: its backlog until that ends, the rest for
    so many days after the last word; 0: not at all.

    While the server's memory is full it is not remembered: no lease is to suffer from that.
    """
    goes_on = told.progress and days > 0
    reading = client.pipeline(transaction=False)
    reading.get(keys.heartbeat(job_id))
    reading.pttl(keys.heartbeat(job_id))
    if goes_on:
        progress_history.look(reading, keys, job_id)
    holder, left_ms, *seen = reading.execute()
    if holder is None:  # its lease has ended since
        return
    writing = client.pipeline(transaction=True)
    if told.backlog is not None:
        uploads.put(writing, keys, job_id, told.backlog, left_ms=left_ms)
    if told.transfers is not None and days > 0:
        attempt = int(holder.partition(b" ")[0])
        transfers.put(writing, keys, job_id, told.transfers, attempt=attempt, days=days)
    if goes_on:
        progress_history.put(
            writing,
            keys,
            job_id,
            seen,
            whole=lambda: cast("list[bytes]", client.lrange(keys.progress_history(job_id), 0, -1)),
            days=days,
        )
    with suppress(OutOfMemoryError):
        writing.execute()
