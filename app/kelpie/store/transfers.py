"""What was moved for the entries of a job's ``sync``, as its node says with a heartbeat.

Figures for people, written by told.py. The last ones stay for some days after the job's end.
"""

from __future__ import annotations

from typing import cast

import redis
from redis.client import Pipeline

from kelpie.store.clock import DAY_MS, wall_ms
from kelpie.store.keys import QueueKeys
from kelpie.transfers import TransferReport, Transfers


def put(
    writing: Pipeline, keys: QueueKeys, job_id: str, report: TransferReport, *, attempt: int, days: float
) -> None:
    """Remember for so many days what the holder said."""
    said = Transfers(attempt, wall_ms(), report)
    writing.set(keys.transfers(job_id), said.encode(), px=int(days * DAY_MS))


def of_job(client: redis.Redis, keys: QueueKeys, job_id: str) -> Transfers | None:
    """What the last node that said anything said last; None when none did, or too long ago."""
    value = cast("bytes | None", client.get(keys.transfers(job_id)))
    return None if value is None else Transfers.decode(value)
