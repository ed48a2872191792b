"""The relay: reads what scripts wrote into the event streams and queues what must be done about it.

The place up to which a stream was read is kept in Redis and moves only after everything before it was queued.
A relay that dies in between reads some events again; the name of a delivery is made of its event, so that it
is queued once all the same: nothing is lost, nothing is doubled.
"""

from __future__ import annotations

import structlog
from redis.exceptions import RedisError

from kelpie.errors import NotFoundError, UnavailableError
from kelpie.job import Job
from kelpie.platform.tasks import Outbox
from kelpie.platform.webhooks import Message
from kelpie.store import Event, EventType, Queue, Store

BATCH = 100

WEBHOOK_EVENTS = frozenset({EventType.RUNNING, EventType.COMPLETED, EventType.FAILED})
"""What a job's webhook is called for."""

log = structlog.get_logger(__name__)


class Relay:
    """Moves events of all queues into the outbox."""

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self._store = store
        self._outbox = outbox

    def tick(self) -> int:
        """Handle a batch of events of every queue; returns how many there were. Raises UnavailableError."""
        handled = 0
        for queue in self._store.queues():
            try:
                handled += self._pass_on(queue)
            except (UnavailableError, RedisError):
                raise
            except Exception:
                log.exception("events of a queue were not passed on", queue=queue.number)
        return handled

    def _pass_on(self, queue: Queue) -> int:
        # One batch, so that a queue with many events does not keep the others waiting.
        cursor = self._store.events.relay_cursor(queue)
        events = self._store.events.read(queue, cursor, BATCH)
        for event in events:
            self._handle(queue, event)
        if events:
            self._store.events.set_relay_cursor(queue, events[-1].id)
        return len(events)

    def _handle(self, queue: Queue, event: Event) -> None:
        if event.type not in WEBHOOK_EVENTS:
            return
        job = self._job(event)
        if job is None or job.spec.webhook is None:
            return
        message = Message(
            id=message_id(queue, event),
            status=event.type.value,
            job_id=event.job_id,
            machine_id=event.node,
            container_group_id=queue.container_group_id,
        )
        if self._outbox.put(message, url=job.spec.webhook, user_id=queue.user_id):
            log.debug("webhook queued", job_id=job.id, attempt=event.attempt, status=message.status)

    def _job(self, event: Event) -> Job | None:
        try:
            return self._store.get(event.job_id)
        except NotFoundError:  # deleted meanwhile: nobody waits for news of it
            return None


def message_id(queue: Queue, event: Event) -> str:
    """The name of what is delivered about ``event``: the same whenever the event is read."""
    return f"kelpie-{queue.number}-{event.id}"
