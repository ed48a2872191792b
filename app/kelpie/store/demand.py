"""How many jobs a queue has for its nodes: counts, read without looking at any job."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

from kelpie.scaling import Demand
from kelpie.store.access import Access
from kelpie.store.codec import decode_events, text
from kelpie.store.connection import translated
from kelpie.store.records import EventType
from kelpie.store.registry import Place

_ENDS = frozenset({EventType.COMPLETED, EventType.FAILED, EventType.CANCELED})
_BATCH = 1000
MAX_EVENTS = 20_000
"""Events that one count of finished jobs looks at; beyond them it is a lower bound."""


class Demands(Access):
    """The autoscaler's view of the queues.

    Only a user's own queue is counted, never another user's of the same name. Jobs that no node can be given
    now (held, delayed) are in neither of the two sets that are counted. A job that every present node is
    banned from counts: a new node may run it.
    """

    def backlogs(self, queues: Sequence[tuple[str, str]]) -> builtins.list[Demand]:
        """Waiting and leased jobs of each (user id, container group id), in one round trip."""
        places = [self._registry.find(*names) for names in queues]
        with translated():
            reading = self.redis.pipeline(transaction=False)
            for place in places:
                if place is not None:
                    reading.zcard(place.keys.waiting)
                    reading.zcard(place.keys.leased)
            counts = iter(reading.execute())
        return [
            Demand(0, 0) if place is None else Demand(waiting=next(counts), leased=next(counts))
            for place in places
        ]

    def demand(self, user_id: str, container_group_id: str, *, finished_within_s: int, enough: int) -> Demand:
        """The jobs that justify a slot. Finished ones are counted as long as there are not ``enough`` jobs.

        Finished is what has ended within ``finished_within_s`` seconds after a node had it.
        """
        place = self._registry.find(user_id, container_group_id)
        if place is None:
            return Demand(0, 0)
        with translated():
            reading = self.redis.pipeline(transaction=True)
            reading.zcard(place.keys.waiting)
            reading.zcard(place.keys.leased)
            waiting, leased = reading.execute()
            missing = enough - waiting - leased
            finished = 0
            if finished_within_s > 0 and missing > 0:
                finished = self._finished(place, finished_within_s, missing)
        return Demand(waiting=waiting, leased=leased, finished=finished)

    def _finished(self, place: Place, within_s: int, enough: int) -> int:
        # The queue's events, newest first: the sets of ended jobs are ordered by creation, not by their ends.
        seconds, microseconds = self.redis.time()
        since = f"{max(0, seconds * 1000 + microseconds // 1000 - within_s * 1000)}-0"
        before, ended = "+", set[str]()
        for _ in range(MAX_EVENTS // _BATCH):
            entries: Any = self.redis.xrevrange(place.keys.events, max=before, min=since, count=_BATCH)
            found = decode_events(entries)
            ended.update(event.job_id for event in found if event.type in _ENDS and event.attempt)
            if len(ended) >= enough or len(entries) < _BATCH:
                break
            before = f"({text(entries[-1][0])}"
        return min(len(ended), enough)
