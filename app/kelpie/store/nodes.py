"""The nodes that ask for work: who they are, what they do now, and from which jobs they are banned."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, replace
from enum import StrEnum

from kelpie.store.access import Access
from kelpie.store.codec import text
from kelpie.store.connection import translated
from kelpie.store.records import Queue
from kelpie.store.waiting import RECENT_MS

MAX_NODES = 1000
"""Nodes of one queue that are looked at, those that polled last; and jobs on nodes, likewise."""


class NodeState(StrEnum):
    """What a node does."""

    BUSY = "busy"  # it has a job
    IDLE = "idle"  # it asks for one
    SILENT = "silent"  # it has none, and has not asked within a minute: gone, or at work elsewhere


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that asked for jobs of one queue within a day, or has one."""

    name: str
    queue: Queue
    state: NodeState
    last_poll: int | None  # ms since 1970 UTC; None: longer ago than a day
    jobs: tuple[str, ...]  # that it has now
    bans: int = 0  # live jobs of the queue that it may not have again


class Nodes(Access):
    """The nodes of a user's queues."""

    def nodes(self, user_id: str | None, container_group_id: str | None = None) -> builtins.list[Node]:
        """The nodes of a user's queues (None: of all users'), or of one of them; busy ones first."""
        places = [
            place
            for place in self._registry.all(user_id)
            if container_group_id in (None, place.queue.container_group_id)
        ]
        with translated():
            reading = self.redis.pipeline(transaction=False)
            for place in places:
                reading.hget(place.keys.meta, "wall")
                reading.zrevrange(place.keys.polls, 0, MAX_NODES - 1, withscores=True)
                reading.zrange(place.keys.leased, 0, MAX_NODES - 1)
            answers = reading.execute()
            walls, polls, leased = answers[::3], answers[1::3], answers[2::3]
            reading = self.redis.pipeline(transaction=False)
            for place, jobs in zip(places, leased, strict=True):
                for job_id in jobs:
                    reading.hget(place.keys.job(text(job_id)), "node")
            holders = iter(reading.execute())
            found: builtins.list[Node] = []
            for place, wall, polled, jobs in zip(places, walls, polls, leased, strict=True):
                held: dict[str, builtins.list[str]] = {}
                for job_id in jobs:
                    holder = next(holders)
                    if holder is not None:  # the job was just purged
                        held.setdefault(text(holder), []).append(text(job_id))
                times = {text(node): int(time) for node, time in polled}
                now = int(wall or 0)
                for name in {*times, *held}:
                    recent = now - times.get(name, 0) <= RECENT_MS
                    idle = NodeState.IDLE if recent else NodeState.SILENT
                    state = NodeState.BUSY if name in held else idle
                    found.append(Node(name, place.queue, state, times.get(name), tuple(held.get(name, ()))))
            homes = {place.queue.number: place for place in places}
            reading = self.redis.pipeline(transaction=False)
            for node in found:
                reading.zcard(homes[node.queue.number].keys.bans(node.name))
            counts = reading.execute()
        order = {state: rank for rank, state in enumerate(NodeState)}
        banned = [replace(node, bans=count) for node, count in zip(found, counts, strict=True)]
        return sorted(banned, key=lambda node: (order[node.state], node.queue.container_group_id, node.name))
