"""The event streams of the queues, and how far the relay has read them."""

from __future__ import annotations

import redis

from kelpie.store.codec import decode_event, text
from kelpie.store.connection import translated
from kelpie.store.keys import QueueKeys
from kelpie.store.records import Event, Queue

START = "0-0"
"""Before the first event."""


class Events:
    """Reads what scripts wrote about the jobs of a queue, oldest first."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def read(self, queue: Queue, after_id: str = START, count: int = 100) -> list[Event]:
        """Up to ``count`` events after the one of that id. The newest 100,000 or so are kept."""
        with translated():
            entries = self._client.xrange(_keys(queue).events, min=f"({after_id}", count=count)
        return [
            decode_event(event_id, fields)
            for event_id, fields in entries or ()
            if event_id is not None and fields is not None
        ]

    def relay_cursor(self, queue: Queue) -> str:
        """The id of the last event that the relay has passed on."""
        with translated():
            cursor = self._client.hget(_keys(queue).meta, "relay")
        return START if cursor is None else text(cursor)

    def set_relay_cursor(self, queue: Queue, event_id: str) -> None:
        """Keeps the id of the last event that the relay has passed on."""
        with translated():
            self._client.hset(_keys(queue).meta, "relay", event_id)


def _keys(queue: Queue) -> QueueKeys:
    return QueueKeys(queue.number)
