"""``/webhooks``: what became of the webhooks of the caller's jobs, and the secret that signs them."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

from flask import Blueprint
from pydantic import Field

from kelpie.http.auth import authenticate, full_key_only
from kelpie.http.context import principal, services
from kelpie.http.models import Query
from kelpie.http.openapi import WEBHOOKS, replies, spec
from kelpie.http.replies import ErrorReply, Reply, Time
from kelpie.job import WebhookEvent, iso
from kelpie.store import Delivery, DeliveryStatus

Answer = Any  # whatever Flask makes a response of

webhooks = Blueprint("webhooks", __name__)
webhooks.before_request(authenticate)


class DeliveriesQuery(Query):
    """Which deliveries are listed."""

    job_id: UUID | None = None
    status: DeliveryStatus | None = None
    page_size: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: (
        Annotated[
            str,
            Field(max_length=15, pattern="^[0-9]+$", description="next_cursor of the page before."),
        ]
        | None
    ) = None


class DeliveryAttemptReply(Reply):
    """One try."""

    time: Annotated[Time, Field(description="When it ended.")]
    status_code: Annotated[int | None, Field(description="Of the answer; null: none came.")]
    error: Annotated[str | None, Field(description="What went wrong; null: nothing.")]


class DeliveryReply(Reply):
    """One webhook to one receiver."""

    id: Annotated[str, Field(description="The webhook-id of every try.")]
    job_id: UUID
    event: WebhookEvent
    url: Annotated[str, Field(description="Where it goes; a query is masked.")]
    status: DeliveryStatus
    attempts: Annotated[list[DeliveryAttemptReply], Field(description="The last 50 tries, oldest first.")]
    created: Time
    ended: Time | None
    next_try: Annotated[Time | None, Field(description="At the earliest.")]


class DeliveryPageReply(Reply):
    """One page of deliveries, the newest first."""

    count: Annotated[int, Field(alias="_count", description="Deliveries of this page; more may follow it.")]
    deliveries: list[DeliveryReply]
    next_cursor: Annotated[str | None, Field(description="Of the next page; null: this is the last.")]


class RotatedReply(Reply):
    """A new webhook secret."""

    webhook_secret: Annotated[str, Field(description="It signs from now on.")]
    old_secret_until: Annotated[Time, Field(description="The old one signs beside it until then.")]


REFUSALS = {"HTTP_404": ErrorReply}


@webhooks.get("/webhooks/deliveries")
@spec.validate(resp=replies(HTTP_200=DeliveryPageReply), tags=[WEBHOOKS], operation_id="listDeliveries")
def listing(query: DeliveriesQuery) -> Answer:
    """One page of the webhook deliveries of the caller's own jobs, the newest first."""
    found, next_cursor = services().store.deliveries.page(
        user_id=principal().user_id,
        job_id=None if query.job_id is None else str(query.job_id),
        status=query.status,
        page_size=query.page_size,
        cursor=query.cursor,
    )
    return {
        "_count": len(found),
        "deliveries": [_wire(delivery) for delivery in found],
        "next_cursor": next_cursor,
    }


@webhooks.get("/webhooks/deliveries/<delivery_id>")
@spec.validate(resp=replies(HTTP_200=DeliveryReply, **REFUSALS), tags=[WEBHOOKS], operation_id="getDelivery")
def get(delivery_id: str) -> Answer:
    """One webhook delivery and every try of it."""
    return _wire(services().store.deliveries.get(delivery_id, user_id=principal().user_id))


@webhooks.post("/webhooks/deliveries/<delivery_id>/replay")
@spec.validate(
    resp=replies(HTTP_202=DeliveryReply, **REFUSALS), tags=[WEBHOOKS], operation_id="replayDelivery"
)
def replay(delivery_id: str) -> Answer:
    """Deliver a webhook again, at once, with the same `webhook-id`: a receiver can drop what it has seen."""
    return _wire(services().store.deliveries.replay(delivery_id, user_id=principal().user_id)), 202


@webhooks.post("/users/me/webhook-secret/rotate")
@full_key_only
@spec.validate(
    resp=replies(HTTP_200=RotatedReply, **REFUSALS), tags=[WEBHOOKS], operation_id="rotateWebhookSecret"
)
def rotate() -> Answer:
    """Replace the caller's webhook secret. For a day the old one signs too, as a second signature."""
    secret, ends = services().store.webhook_secrets.rotate(principal().user_id)
    return {"webhook_secret": secret, "old_secret_until": iso(ends)}


def _wire(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "job_id": delivery.job_id,
        "event": delivery.event,
        "url": _masked(delivery.url),
        "status": delivery.status.value,
        "attempts": [
            {"time": iso(attempt.time), "status_code": attempt.code, "error": attempt.error}
            for attempt in delivery.attempts
        ],
        "created": iso(delivery.created),
        "ended": iso(delivery.ended),
        "next_try": iso(delivery.next_try),
    }


def _masked(url: str) -> str:
    """The URL without what is secret in it: receivers put tokens into queries."""
    parts = urlsplit(url)
    return parts._replace(query="***" if parts.query else "", fragment="").geturl()
