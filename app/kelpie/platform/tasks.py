"""The RQ queue of webhooks: what is put into it, and the function that a delivering process runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import redis
import structlog
from rq import Queue, Retry
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

from kelpie.config import load_settings
from kelpie.errors import NotFoundError
from kelpie.platform import guard
from kelpie.platform.startup import connect
from kelpie.platform.webhooks import Message, send, signed_headers

QUEUE = "kelpie-webhooks"
RETRY_AFTER_S = (2, 15, 60, 300, 1800, 7200, 21_600)
"""A receiver that is away for 8 hours misses nothing."""
KEEP_DELIVERED_S = 24 * 3600
"""How long the name of a delivery is remembered, so that an event read twice is delivered once."""
KEEP_FAILED_S = 7 * 24 * 3600
TIMEOUT_MARGIN_S = 10

log = structlog.get_logger(__name__)


class Outbox:
    """Puts webhooks into the RQ queue; each message once, however often it comes."""

    def __init__(
        self, connection: redis.Redis, *, timeout_s: float, retry_after_s: Sequence[int] = RETRY_AFTER_S
    ) -> None:
        # JSON, because what is read back from Redis must never be able to run code as a pickle can.
        self._queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
        self._timeout_s = timeout_s
        self._retry_after_s = list(retry_after_s)

    def put(self, message: Message, *, url: str, user_id: str) -> bool:
        """Queue a delivery; False when it was queued before."""
        try:
            self._queue.enqueue_call(
                deliver,
                args=(asdict(message), url, user_id),
                job_id=message.id,
                unique=True,
                description=f"{message.status} of job {message.job_id}",  # RQ's default shows the URL
                retry=Retry(max=len(self._retry_after_s), interval=self._retry_after_s),
                # Connect and read each have the timeout, on each of a few addresses.
                timeout=int(4 * self._timeout_s) + TIMEOUT_MARGIN_S,
                result_ttl=KEEP_DELIVERED_S,
                failure_ttl=KEEP_FAILED_S,
            )
        except DuplicateJobError:
            return False
        return True


def deliver(fields: dict[str, str], url: str, user_id: str) -> str:
    """Send one webhook; RQ runs this. DeliveryError and UnresolvedError ask for another try."""
    settings = load_settings()
    message = Message(**fields)
    event = log.bind(job_id=message.job_id, webhook_id=message.id, status=message.status)
    store = connect(settings)
    try:
        secret = store.users.get(user_id).webhook_secret
    except NotFoundError:
        event.info("webhook dropped: its user is gone")
        return "dropped"
    finally:
        store.close()
    try:
        target = guard.resolve(url, allow_private=settings.webhook_allow_private)
    except guard.RefusedError as error:
        event.warning("webhook refused", error=str(error))
        return "refused"
    body = message.body()
    headers = signed_headers(message.id, body, secret, datetime.now(UTC))
    answered = send(target, body, headers, timeout_s=settings.webhook_timeout_s)
    event.info("webhook delivered", answered=answered)
    return "delivered"
