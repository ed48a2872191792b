"""The versions of the layout in Redis, and the way from each to the next.

A process knows one version. It upgrades an older layout when it starts and refuses a newer one; a process
that was running meanwhile is refused by the scripts (prelude.lua), which hold the version of each queue. A
change that old and new processes can live with (a further field, a further key) is no new version: they then
run side by side during a rolling restart. Otherwise every process of the older version is stopped first.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import structlog

from kelpie.errors import StartupError, UnavailableError
from kelpie.job import JobSpec, JobStatus
from kelpie.store import codec, keys
from kelpie.store.connection import translated
from kelpie.store.keys import QueueKeys
from kelpie.store.locks import Lock

SCHEMA = 2
"""The version of the layout that this code reads and writes; prelude.lua names the same."""

LOCK_TTL_S = 600.0  # a process that died while it migrated holds up the others no longer
WAIT_S = 1.0
MAX_WAIT_S = 3600.0

log = structlog.get_logger(__name__)


def bring_up_to_date(client: redis.Redis, lock: Lock) -> None:
    """Upgrades the layout if it is older, while it holds the lock. Raises StartupError when it is newer."""
    with translated():
        if _version(client) == SCHEMA:
            return
        with _held(lock):
            version = _version(client)
            if version > SCHEMA:
                raise StartupError(
                    f"Redis holds version {version} of the layout and this Kelpie knows {SCHEMA}: "
                    "a newer Kelpie has upgraded it; upgrade this one too."
                )
            for number in range(version, SCHEMA):
                log.info("upgrading the layout in redis", version=number + 1)
                _STEPS[number](client)
                client.set(keys.SCHEMA, number + 1)


def _version(client: redis.Redis) -> int:
    stored = client.get(keys.SCHEMA)
    if stored is not None:
        return int(stored)
    if client.exists(keys.QUEUE_NAMES):
        return 1  # which kept no version of the whole
    client.set(keys.SCHEMA, SCHEMA, nx=True)
    return int(client.get(keys.SCHEMA) or SCHEMA)


@contextmanager
def _held(lock: Lock) -> Iterator[None]:
    """One process migrates, the others wait for it."""
    deadline = time.monotonic() + MAX_WAIT_S
    while not lock.take():
        if time.monotonic() > deadline:
            raise UnavailableError("Another process has been upgrading the layout in Redis for an hour.")
        time.sleep(WAIT_S)
    try:
        yield
    finally:
        lock.free()


def _name_queues_by_number(client: redis.Redis) -> None:
    """1 → 2: keys begin with the queue's number; the hash holds the order; definitions are packed."""
    for number, record in client.hgetall(keys.QUEUE_NAMES).items():
        user_id, group = json.loads(record)
        old = f"kelpie:{{{keys.queue_name(user_id, group)}}}:"
        new = QueueKeys(int(number))
        for name in list(client.scan_iter(match=f"{old}*", count=1000)):
            client.rename(name, new.prefix + codec.text(name).removeprefix(old))
        for status in JobStatus:
            for job_id, order in client.zscan_iter(new.index(status)):
                _rewrite_job(client, new, codec.text(job_id), int(order))
        client.hset(new.meta, "schema", 2)


def _rewrite_job(client: redis.Redis, queue: QueueKeys, job_id: str, order: int) -> None:
    kept: Any = client.get(queue.spec(job_id))
    if kept is None or not client.hexists(queue.job(job_id), "created"):
        return  # done before a crash, or gone
    spec = JobSpec.from_wire(json.loads(kept if kept.startswith(b"{") else zlib.decompress(kept)))
    change = client.pipeline(transaction=True)
    change.set(queue.spec(job_id), codec.encode_spec(spec))
    change.hset(queue.job(job_id), "order", order)
    if spec.labels:
        change.hset(queue.job(job_id), "labels", "\n".join(f"{k}={v}" for k, v in spec.labels.items()))
        for label, value in spec.labels.items():
            change.zadd(queue.label(label, value), {job_id: order})
    change.hdel(queue.job(job_id), "created")
    change.execute()


_STEPS: dict[int, Callable[[Any], None]] = {1: _name_queues_by_number}
"""What leads from each version to the next. Each may be cut short and run again."""
