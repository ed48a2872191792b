"""The RQ queue of webhooks: what is put into it, and the function that a delivering process runs.

RQ runs one try per task, in a process of its own that no hostile receiver can outlive. What is tried when is
decided by the store: a task that is lost with its process is put in again when its claim ends.
"""

from __future__ import annotations

from datetime import UTC, datetime

import redis
import structlog
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

from kelpie.config import Settings, load_settings
from kelpie.errors import NotFoundError
from kelpie.platform import guard
from kelpie.platform.schedule import pause_s
from kelpie.platform.startup import connect
from kelpie.platform.webhooks import DeliveryError, send, signed_headers
from kelpie.store import Delivery, DeliveryStatus, Store
from kelpie.store.deliveries import Claim, Keeping, Report

QUEUE = "kelpie-webhooks"
RESOLVE_S = 20
"""How long a name server may take, besides the time limit of a try."""
REPORT_S = 10
KEEP_FAILED_TASK_S = 3600

GONE = 410
AWAY = frozenset({408, 429, 502, 503, 504})
"""Answers of a receiver that is down or overloaded, like no answer at all."""

log = structlog.get_logger(__name__)


def keeping(settings: Settings) -> Keeping:
    """How much is kept of deliveries, as the settings say."""
    return Keeping(
        max_queued=settings.webhook_max_queued,
        settled_ms=settings.webhook_keep_s * 1000,
        settled_count=settings.webhook_keep_count,
    )


def try_limit_s(timeout_s: float) -> int:
    """How long one task may take before RQ ends it."""
    return int(timeout_s) + RESOLVE_S + REPORT_S


def enqueue(queue: Queue, claim: Claim, *, timeout_s: float) -> None:
    """Put the try that a claim is for into RQ's queue; a second time is harmless."""
    try:
        queue.enqueue_call(
            deliver,
            args=(claim.delivery_id, claim.number),
            job_id=f"{claim.delivery_id}-{claim.number}",
            unique=True,
            timeout=try_limit_s(timeout_s),
            result_ttl=0,
            failure_ttl=KEEP_FAILED_TASK_S,
        )
    except DuplicateJobError:
        return


def rq_queue(connection: redis.Redis) -> Queue:
    """The queue. In JSON: what is read back from Redis must never be able to run code as a pickle can."""
    return Queue(QUEUE, connection=connection, serializer=JSONSerializer)


def deliver(delivery_id: str, claim_number: int) -> str:
    """Try one delivery once; RQ runs this. Returns what became of it, in a word."""
    settings = load_settings()
    claim = Claim(delivery_id, claim_number)
    store = connect(settings)
    try:
        deliveries = store.deliveries.keeping(keeping(settings))
        delivery = deliveries.begin(claim, claim_ms=try_limit_s(settings.webhook_timeout_s) * 1000)
        if delivery is None:
            return "void"  # another claim has taken its place, or it has ended
        event = log.bind(job_id=delivery.job_id, webhook_id=delivery.id, status=delivery.event)
        try:
            report = _try(store, delivery, settings)
        except Exception as error:  # noqa: BLE001 - RQ's time limit, or a defect: a try that failed, like others
            event.exception("a try of a webhook broke off")
            report = _again(delivery, f"the try broke off ({type(error).__name__})", away=True)
        deliveries.finish(claim, report)
        outcome = "retry" if report.outcome is None else report.outcome.value
        event.info("webhook tried", outcome=outcome, answered=report.code, error=report.error)
        return outcome
    finally:
        store.close()


def _try(store: Store, delivery: Delivery, settings: Settings) -> Report:
    try:
        secrets = store.webhook_secrets.current(delivery.user_id)
    except NotFoundError:
        return Report(DeliveryStatus.DROPPED, error="its user is gone")
    try:
        target = guard.resolve(delivery.url, allow_private=settings.webhook_allow_private)
        headers = signed_headers(delivery.id, delivery.body, secrets, datetime.now(UTC))
        answer = send(target, delivery.body.encode(), headers, timeout_s=settings.webhook_timeout_s)
    except guard.RefusedError as error:
        log.warning("webhook refused", webhook_id=delivery.id, error=str(error), detail=error.detail)
        return Report(DeliveryStatus.REFUSED, error=str(error))
    except (guard.UnresolvedError, DeliveryError) as error:
        return _again(delivery, str(error), away=True)
    if 200 <= answer.status < 300:
        return Report(DeliveryStatus.DELIVERED, code=answer.status)
    problem = f"it answered {answer.status}"
    if answer.status == GONE:
        return Report(DeliveryStatus.FAILED, code=GONE, error=f"{problem}: it wants no more")
    return _again(
        delivery,
        problem,
        code=answer.status,
        away=answer.status in AWAY,
        wanted_s=answer.retry_after_s,
    )


def _again(
    delivery: Delivery, problem: str, *, away: bool, code: int | None = None, wanted_s: float = 0
) -> Report:
    """A failed try: another one follows if the schedule has one left."""
    next_s = pause_s(delivery.tries, wanted_s=wanted_s)
    if next_s is None:
        return Report(DeliveryStatus.FAILED, code=code, error=problem, away=away)
    return Report(None, code=code, error=problem, retry_ms=round(next_s * 1000), away=away)
