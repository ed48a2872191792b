"""Nodes that their users want to be empty: they are given no job, and hear that they should hand it back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import redis

from kelpie.errors import InvalidInputError, NotFoundError
from kelpie.store.access import Access
from kelpie.store.codec import text
from kelpie.store.connection import translated
from kelpie.store.names import checked
from kelpie.store.records import Queue
from kelpie.store.registry import Place
from kelpie.store.scripts import Scripts

CACHE_S = 1.0
"""How long a process acts on what it knows: a poll costs no round trip more."""

MAX_DRAINED = 10_000
"""Drained nodes of one queue, at most."""


@dataclass(frozen=True, slots=True)
class DrainedNode:
    """A node that is to be empty."""

    queue: Queue
    node: str
    since: int  # ms since 1970 UTC


class Drains(Access):
    """The part of the store that keeps jobs away from nodes."""

    def __init__(self, client: redis.Redis, scripts: Scripts) -> None:
        super().__init__(client, scripts)
        self._drained: dict[int, tuple[float, frozenset[str]]] = {}

    def drain(
        self, user_id: str | None, node: str, container_group_id: str | None = None
    ) -> list[DrainedNode]:
        """Gives a node no further job of a user (None: of anybody) and asks it to hand back what it has.

        In the queues where it asked for work in the last day, or in the one that is given. Harmless when
        repeated. Raises NotFoundError when there is none, InvalidInputError for an unfit name.
        """
        checked("machine_id", node)
        places = self._places_of_node(user_id, node, container_group_id)
        if not places:
            raise NotFoundError("No node of that name has asked you for work in the last day.")
        with translated():
            seconds, microseconds = self.redis.time()
            now_ms = int(seconds) * 1000 + int(microseconds) // 1000
            counting = self.redis.pipeline(transaction=False)
            for place in places:
                counting.hlen(place.keys.drained)
            if max(counting.execute()) >= MAX_DRAINED:
                raise InvalidInputError(f"A queue has {MAX_DRAINED} drained nodes at most; resume some.")
            writing = self.redis.pipeline(transaction=False)
            for place in places:
                writing.hsetnx(place.keys.drained, node, str(now_ms))
            writing.execute()
        self._forget(places)
        return [one for one in self._read_drained(places) if one.node == node]

    def undrain(self, user_id: str | None, node: str, container_group_id: str | None = None) -> list[Queue]:
        """Lets a node have jobs again; the queues in which it was drained."""
        places = self._chosen(user_id, container_group_id)
        with translated():
            dropping = self.redis.pipeline(transaction=False)
            for place in places:
                dropping.hdel(place.keys.drained, node)
            dropped = dropping.execute()
        self._forget(places)
        return [place.queue for place, some in zip(places, dropped, strict=True) if some]

    def drained_nodes(self, user_id: str | None) -> list[DrainedNode]:
        """The drained nodes of a user (None: of all), by queue and name."""
        return self._read_drained(self._registry.all(user_id))

    def is_drained(self, place: Place, node: str) -> bool:
        """Whether a node is to be empty; may be a second late."""
        now_s = time.monotonic()
        until_s, nodes = self._drained.get(place.queue.number, (0.0, frozenset[str]()))
        if now_s >= until_s:
            with translated():
                nodes = frozenset(text(name) for name in self.redis.hkeys(place.keys.drained))
            self._drained[place.queue.number] = (now_s + CACHE_S, nodes)
        return node in nodes

    def _places_of_node(self, user_id: str | None, node: str, container_group_id: str | None) -> list[Place]:
        places = self._chosen(user_id, container_group_id)
        if container_group_id is not None:
            return places
        with translated():
            looking = self.redis.pipeline(transaction=False)
            for place in places:
                looking.zscore(place.keys.polls, node)
            return [place for place, polled in zip(places, looking.execute(), strict=True) if polled]

    def _chosen(self, user_id: str | None, container_group_id: str | None) -> list[Place]:
        return [
            place
            for place in self._registry.all(user_id)
            if container_group_id in (None, place.queue.container_group_id)
        ]

    def _read_drained(self, places: Sequence[Place]) -> list[DrainedNode]:
        with translated():
            reading = self.redis.pipeline(transaction=False)
            for place in places:
                reading.hgetall(place.keys.drained)
            answers = reading.execute()
        return [
            DrainedNode(place.queue, text(node), int(since))
            for place, nodes in zip(places, answers, strict=True)
            for node, since in sorted(nodes.items())
        ]

    def _forget(self, places: Sequence[Place]) -> None:
        for place in places:
            self._drained.pop(place.queue.number, None)
