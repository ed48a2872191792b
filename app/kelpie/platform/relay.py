"""The relay: reads what scripts wrote into the event streams and queues the webhooks that it calls for.

The place up to which a stream was read is kept in Redis and moves only after everything before it was queued.
A relay that dies in between reads some events again; the name of a delivery is made of its event, so that it
is queued once all the same: nothing is lost, nothing is doubled.
"""

from __future__ import annotations

import structlog
from redis.exceptions import RedisError

from kelpie.errors import NotFoundError, UnavailableError
from kelpie.job import WEBHOOK_EVENTS, Job, WebhookEvent
from kelpie.platform.guard import receiver_of
from kelpie.platform.webhooks import Message
from kelpie.store import Deliveries, Event, EventType, Queue, Store

BATCH = 100

CALLED_FOR = frozenset(event.value for event in WebhookEvent)
"""What a job may ask its webhook to be called for."""

log = structlog.get_logger(__name__)


class Relay:
    """Turns events of all queues into webhook deliveries."""

    def __init__(self, store: Store, deliveries: Deliveries) -> None:
        self._store = store
        self._deliveries = deliveries

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
        if purged := [event.job_id for event in events if event.type is EventType.PURGED]:
            self._deliveries.forget(purged)
        if events:
            self._store.events.set_relay_cursor(queue, events[-1].id)
        return len(events)

    def _handle(self, queue: Queue, event: Event) -> None:
        if event.type.value not in CALLED_FOR:
            return
        job = self._job(event)
        if job is None or job.spec.webhook is None:
            return
        asked_for: tuple[str, ...] = (
            WEBHOOK_EVENTS if job.spec.webhook_events is None else job.spec.webhook_events
        )
        if event.type.value not in asked_for:
            return
        message = Message(
            id=message_id(queue, event),
            status=event.type.value,
            job_id=event.job_id,
            machine_id=event.node,
            container_group_id=queue.container_group_id,
        )
        queued = self._deliveries.put(
            message.id,
            user_id=queue.user_id,
            job_id=event.job_id,
            event=message.status,
            url=job.spec.webhook,
            receiver=receiver_of(job.spec.webhook),
            body=message.body(),
        )
        if queued:
            log.debug("webhook queued", job_id=job.id, attempt=event.attempt, status=message.status)

    def _job(self, event: Event) -> Job | None:
        try:
            return self._store.get(event.job_id)
        except NotFoundError:  # deleted meanwhile: nobody waits for news of it
            return None


def message_id(queue: Queue, event: Event) -> str:
    """The name of what is delivered about ``event``: the same whenever the event is read."""
    return f"kelpie-{queue.number}-{event.id}"
