"""What became of webhooks: every delivery and its tries, and the button that sends one again."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from kelpie.http.audit import note
from kelpie.http.auth import full_key_only
from kelpie.http.context import principal, services
from kelpie.store import DeliveryStatus
from kelpie_web.ui import back, page, query, ui

PAGE_SIZE = 50


@ui.get("/webhooks")
def webhooks() -> Response:
    """The deliveries of the caller's jobs, the newest first."""
    wanted = request.args.get("status", "")
    status = DeliveryStatus(wanted) if wanted in set(DeliveryStatus) else None
    job_id = request.args.get("job", "").strip() or None
    found, cursor = services().store.deliveries.page(
        user_id=principal().user_id,
        job_id=job_id,
        status=status,
        page_size=PAGE_SIZE,
        cursor=request.args.get("cursor") or None,
    )
    return page(
        "webhooks.html",
        deliveries=found,
        status=status,
        job_id=job_id,
        statuses=list(DeliveryStatus),
        next_query=query(cursor=cursor) if cursor else None,
        first_query=query(cursor=None),
        receiver=receiver,
    )


@ui.get("/webhooks/<delivery_id>")
def delivery(delivery_id: str) -> Response:
    """One delivery and its tries."""
    found = services().store.deliveries.get(delivery_id, user_id=principal().user_id)
    return page("delivery.html", delivery=found, receiver=receiver)


@ui.post("/webhooks/<delivery_id>/replay")
def replay(delivery_id: str) -> BaseResponse:
    """Send it again, under the same id."""
    services().store.deliveries.replay(delivery_id, user_id=principal().user_id)
    note("replay a webhook delivery", delivery_id)
    return back("ui.delivery", "It is queued, and is sent again at once.", delivery_id=delivery_id)


@ui.post("/webhooks/secret")
@full_key_only
def rotate() -> Response:
    """A new secret, shown this once."""
    secret, ends = services().store.webhook_secrets.rotate(principal().user_id)
    note("rotate the webhook secret", "")
    return page("secret.html", title="The new webhook secret", secret=secret, ends=ends)


def receiver(url: str) -> str:
    """Where a webhook goes, without what is secret in it: receivers put tokens into queries."""
    parts = urlsplit(url)
    return parts._replace(query="***" if parts.query else "", fragment="").geturl()
