"""Queues of many users on one server and on a cluster of three primaries: how evenly they spread.

On two cores three primaries are no faster than one. What is told instead is how much of the work is left to
the busiest of them: a cluster carries as many times more as one server as that share allows.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from kelpie.job import Holder, Outcome
from kelpie.store import Store
from kelpie.store.connection import servers
from tests.factories import spec

SCRIPTS = ("cmdstat_evalsha", "cmdstat_eval")


@dataclass(frozen=True)
class Primary:
    """What one primary holds and did."""

    queues: int
    keys: int
    scripts: int
    busy_s: float  # in commands, those that scripts call included once


@dataclass(frozen=True)
class Spread:
    """All primaries of a cluster, or the one server."""

    jobs: int
    primaries: Sequence[Primary]

    @property
    def times(self) -> float:
        """How many times the work of its busiest primary all of them did."""
        return sum(one.busy_s for one in self.primaries) / max(one.busy_s for one in self.primaries)


def spread(url: str, users: int, queues: int, jobs: int) -> Spread:
    """Every user has so many queues, and each queue so many jobs: submitted, leased, kept and completed."""
    with contextlib.closing(Store.connect(url)) as store:
        for server in servers(store.redis):
            server.config_resetstat()
        names = [store.users.create(f"user-{number}").id for number in range(users)]
        groups = [f"group-{number}" for number in range(queues)]
        for user in names:
            store.submit(user, [spec(container_group_id=group) for group in groups for _ in range(jobs)])
            for group in groups:
                for number in range(jobs):
                    _work(store, user, group, f"node-{number}")
        held = Counter(
            _server_of(store.redis, queue.number) for user in names for queue in store.queues(user)
        )
        primaries = [_primary(server, held) for server in servers(store.redis)]
        return Spread(users * queues * jobs, primaries)


def _work(store: Store, user: str, group: str, node: str) -> None:
    leased = store.lease(user, group, node, f"{node}-0123456789")
    if leased is None:
        raise RuntimeError(f"{node} was given none of the jobs of {group}")
    holder = Holder(node, leased.secret)
    for _ in range(3):
        store.heartbeat(leased.job.id, holder, user_id=user)
    store.finish(leased.job.id, holder, Outcome.COMPLETED, user_id=user)


def _server_of(client: Any, queue: int) -> int:
    """The port of the server that has a queue's keys."""
    if hasattr(client, "get_node_from_key"):
        return int(client.get_node_from_key(f"kelpie:{{{queue}}}:meta").port)
    return int(client.connection_pool.connection_kwargs["port"])


def _primary(server: redis.Redis, held: Counter[int]) -> Primary:
    stats = server.info("commandstats")
    spent = [stats[name] for name in SCRIPTS if name in stats]
    return Primary(
        queues=held[int(server.connection_pool.connection_kwargs["port"])],
        keys=int(server.dbsize()),
        scripts=sum(int(one["calls"]) for one in spent),
        busy_s=sum(int(one["usec"]) for one in spent) / 1e6,
    )
