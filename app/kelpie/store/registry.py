"""The registry of queues: which number stands for which user and container group."""

from __future__ import annotations

import json
from dataclasses import dataclass

import redis

from kelpie.store import keys
from kelpie.store.connection import translated
from kelpie.store.records import Queue
from kelpie.store.scripts import Scripts

MAX_CACHED = 100_000
MAX_OPENED = 1000
"""How many queues a user's polls may make: a node that invents names must not fill the server."""


@dataclass(frozen=True)
class Place:
    """A queue and the names of its keys."""

    queue: Queue
    keys: keys.QueueKeys

    @property
    def meta(self) -> tuple[str]:
        """The KEYS of every script about this queue."""
        return (self.keys.meta,)


class Registry:
    """Finds queues by number and by name. What a number stands for never changes, so it is remembered."""

    def __init__(self, client: redis.Redis, scripts: Scripts) -> None:
        self._client = client
        self._scripts = scripts
        self._by_number: dict[int, Place] = {}
        self._by_name: dict[tuple[str, str], Place] = {}

    def register(self, user_id: str, container_group_id: str) -> Place:
        """The queue, made if there is none yet."""
        known = self._by_name.get((user_id, container_group_id))
        if known is not None:
            return known
        number = self._scripts.run(
            "register_queue",
            (keys.QUEUE_NUMBERS, keys.QUEUE_NAMES, keys.user_queues(user_id)),
            name=keys.queue_name(user_id, container_group_id),
            record=json.dumps([user_id, container_group_id]),
        )
        return self._remember(Queue(int(number), user_id, container_group_id))

    def open(self, user_id: str, container_group_id: str) -> None:
        """Make the queue that a node asks, unless its user has very many: the node may be there first."""
        if self.find(user_id, container_group_id) is None:
            with translated():
                opened = self._client.scard(keys.user_queues(user_id))
            if opened < MAX_OPENED:
                self.register(user_id, container_group_id)

    def find(self, user_id: str, container_group_id: str) -> Place | None:
        """The queue, or None when there never was a job for it, nor a node."""
        known = self._by_name.get((user_id, container_group_id))
        if known is not None:
            return known
        with translated():
            number = self._client.hget(keys.QUEUE_NUMBERS, keys.queue_name(user_id, container_group_id))
        return None if number is None else self._remember(Queue(int(number), user_id, container_group_id))

    def numbered(self, number: int) -> Place | None:
        """The queue of that number, or None when there is none."""
        known = self._by_number.get(number)
        if known is not None:
            return known
        with translated():
            record = self._client.hget(keys.QUEUE_NAMES, str(number))
        return None if record is None else self._remember(_queue(number, record))

    def all(self, user_id: str | None) -> list[Place]:
        """The queues of a user, or of everybody, by number."""
        with translated():
            if user_id is None:
                found = {
                    int(number): record for number, record in self._client.hgetall(keys.QUEUE_NAMES).items()
                }
                return [self._remember(_queue(number, found[number])) for number in sorted(found)]
            numbers = sorted(int(number) for number in self._client.smembers(keys.user_queues(user_id)))
        places = (self.numbered(number) for number in numbers)
        return [place for place in places if place is not None]

    def _remember(self, queue: Queue) -> Place:
        known = self._by_number.get(queue.number)
        if known is not None:
            return known
        if len(self._by_number) >= MAX_CACHED:
            self._by_number.clear()
            self._by_name.clear()
        place = Place(queue, keys.QueueKeys(queue.number))
        self._by_number[queue.number] = place
        self._by_name[queue.user_id, queue.container_group_id] = place
        return place


def _queue(number: int, record: bytes | str) -> Queue:
    user_id, container_group_id = json.loads(record)
    return Queue(number, user_id, container_group_id)
