"""Webhook deliveries: what is to be sent, what became of it, and whose turn it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import redis

from kelpie.errors import InvalidInputError, NotFoundError
from kelpie.store import keys
from kelpie.store.codec import Fields, fields_of, text
from kelpie.store.connection import translated
from kelpie.store.scripts import Scripts

MAX_PAGE_SIZE = 1000
MAX_SCANNED = 5000
"""Deliveries that one page looks at, at most: a page may be short though more follow."""
FORGET_LIMIT = 200
_CHUNK = 250
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_CURSOR = re.compile(r"[0-9]{1,15}\Z")


class DeliveryStatus(StrEnum):
    """What became of a delivery."""

    QUEUED = "queued"  # waits for its first or next try, or is being tried
    DELIVERED = "delivered"  # the receiver said 2xx
    FAILED = "failed"  # every try failed, or the receiver said that it is gone (410)
    REFUSED = "refused"  # the URL must not be called
    DROPPED = "dropped"  # its user is gone, or too many of his deliveries waited


@dataclass(frozen=True, slots=True)
class Keeping:
    """How much is kept of the deliveries of one user."""

    max_queued: int = 100_000
    settled_ms: int = 7 * 24 * 3600 * 1000
    settled_count: int = 10_000


@dataclass(frozen=True, slots=True)
class Patience:
    """How a receiver is treated that is away: all deliveries to it wait, so that nothing waits for it."""

    failures: int = 5  # in a row, from which on they wait
    pause_ms: int = 10_000  # at first; doubles
    longest_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One try."""

    time: int  # ms since 1970 UTC, of its end
    code: int | None  # status of the answer; None: none came
    error: str | None  # what went wrong; None: nothing


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook to one receiver."""

    id: str  # the webhook-id of every try
    user_id: str
    job_id: str
    event: str
    url: str
    body: str
    status: DeliveryStatus
    created: int  # ms since 1970 UTC, like all times
    tries: int = 0  # that have begun since it was queued or replayed
    ended: int | None = None
    next_try: int | None = None
    attempts: tuple[DeliveryAttempt, ...] = ()
    order: int = field(default=0, repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to try a delivery once."""

    delivery_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Report:
    """How a try ended."""

    outcome: DeliveryStatus | None  # None: it is to be tried again
    code: int | None = None
    error: str | None = None
    retry_ms: int = 0
    away: bool = False  # the receiver is down or overloaded


class Deliveries:
    """Webhook deliveries of all users."""

    def __init__(self, client: redis.Redis, scripts: Scripts, keeping: Keeping | None = None) -> None:
        self._client = client
        self._scripts = scripts
        self._keeping = keeping or Keeping()

    def keeping(self, keeping: Keeping) -> Deliveries:
        """The same deliveries, kept for as long as ``keeping`` says."""
        return Deliveries(self._client, self._scripts, keeping)

    def put(
        self, delivery_id: str, *, user_id: str, job_id: str, event: str, url: str, receiver: str, body: str
    ) -> bool:
        """Queues a delivery; False when there was one of that id already."""
        made = self._scripts.run(
            "put_delivery",
            (keys.DELIVERY_USERS,),
            id=delivery_id,
            user=user_id,
            job=job_id,
            event=event,
            url=url,
            receiver=receiver,
            body=body,
            max_queued=self._keeping.max_queued,
            keep_ms=self._keeping.settled_ms,
            keep_count=self._keeping.settled_count,
        )
        return bool(made)

    def claim(self, *, limit: int, per_user: int, claim_ms: int, max_tries: int) -> list[Claim]:
        """Deliveries to be tried now: in turn by user, with at most ``limit`` claims open at once.

        A claim that is not reported on within ``claim_ms`` ends, and its delivery is due again.
        """
        answer = self._scripts.run(
            "claim_deliveries",
            (keys.DELIVERY_USERS,),
            limit=limit,
            per_user=per_user,
            claim_ms=claim_ms,
            max_tries=max_tries,
            keep_ms=self._keeping.settled_ms,
            keep_count=self._keeping.settled_count,
        )
        return [Claim(text(answer[i]), int(answer[i + 1])) for i in range(0, len(answer), 2)]

    def begin(self, claim: Claim, *, claim_ms: int) -> Delivery | None:
        """Begins the try of a claim, which lasts ``claim_ms`` from now on; None when the claim is void."""
        answer = self._scripts.run(
            "begin_delivery",
            (keys.DELIVERY_USERS,),
            id=claim.delivery_id,
            claim=claim.number,
            claim_ms=claim_ms,
        )
        return None if not answer else _decoded(claim.delivery_id, fields_of(answer))

    def finish(self, claim: Claim, report: Report, *, patience: Patience | None = None) -> bool:
        """Takes the report on a try; False when it came too late to matter."""
        patience = patience or Patience()
        taken = self._scripts.run(
            "finish_delivery",
            (keys.DELIVERY_USERS,),
            id=claim.delivery_id,
            claim=claim.number,
            outcome="retry" if report.outcome is None else report.outcome.value,
            code="" if report.code is None else report.code,
            problem=report.error or "",
            retry_ms=report.retry_ms,
            away=int(report.away),
            patience=patience.failures,
            pause_ms=patience.pause_ms,
            longest_ms=patience.longest_ms,
            keep_ms=self._keeping.settled_ms,
            keep_count=self._keeping.settled_count,
        )
        return bool(taken)

    def get(self, delivery_id: str, *, user_id: str) -> Delivery:
        """A delivery of that user. Raises NotFoundError."""
        fields: Fields = {}
        if _ID.match(delivery_id):
            with translated():
                fields = fields_of(self._client.hgetall(keys.delivery(delivery_id)))
        if fields.get("user") != user_id or "forget" in fields:
            raise _no_such_delivery(delivery_id)
        return _decoded(delivery_id, fields)

    def page(
        self,
        *,
        user_id: str,
        job_id: str | None = None,
        status: DeliveryStatus | None = None,
        page_size: int = 100,
        cursor: str | None = None,
    ) -> tuple[Sequence[Delivery], str | None]:
        """One page of a user's deliveries, the newest first, and the cursor of the next (None: the last).

        Raises InvalidInputError for a page size or cursor that is none.
        """
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            problem = f"must be 1…{MAX_PAGE_SIZE}"
            raise InvalidInputError(
                f"page_size is {page_size}; it {problem}.", errors=(("page_size", problem),)
            )
        if cursor is not None and not _CURSOR.match(cursor):
            problem = "is not a next_cursor of an earlier page"
            raise InvalidInputError(f"cursor {problem}.", errors=(("cursor", problem),))
        index = keys.deliveries_of_user(user_id) if job_id is None else keys.deliveries_of_job(job_id)
        found: list[Delivery] = []
        last: int | None = None
        scanned = 0
        for order, delivery_id, fields in self._newest(index, cursor):
            if len(found) >= page_size or scanned >= MAX_SCANNED:
                return found, str(last)
            scanned, last = scanned + 1, order
            if fields.get("user") != user_id or "forget" in fields:
                continue
            if status is None or fields["status"] == status:
                found.append(_decoded(delivery_id, fields))
        return found, None

    def _newest(self, index: str, cursor: str | None) -> Iterator[tuple[int, str, Fields]]:
        before = "+inf" if cursor is None else f"({cursor}"
        while True:
            with translated():
                entries: Any = self._client.zrevrangebyscore(
                    index, before, "-inf", start=0, num=_CHUNK, withscores=True
                )
                reading = self._client.pipeline(transaction=False)
                for member, _ in entries:
                    reading.hgetall(keys.delivery(text(member)))
                hashes = reading.execute()
            for (member, score), raw in zip(entries, hashes, strict=True):
                before = f"({int(score)}"
                yield int(score), text(member), fields_of(raw)
            if len(entries) < _CHUNK:
                return

    def replay(self, delivery_id: str, *, user_id: str) -> Delivery:
        """Queues a delivery again, under the same id and with all of its tries. Raises NotFoundError."""
        if not _ID.match(delivery_id):
            raise _no_such_delivery(delivery_id)
        try:
            answer = self._scripts.run(
                "replay_delivery", (keys.DELIVERY_USERS,), id=delivery_id, user=user_id
            )
        except NotFoundError:
            raise _no_such_delivery(delivery_id) from None
        return _decoded(delivery_id, fields_of(answer))

    def forget(self, job_ids: Sequence[str]) -> None:
        """Deletes what is kept of the deliveries about these jobs. What is queued is tried all the same."""
        while job_ids and self._scripts.run(
            "forget_deliveries",
            (keys.DELIVERY_USERS,),
            limit=FORGET_LIMIT,
            jobs=[(job_id,) for job_id in job_ids],
        ):
            pass


def _decoded(delivery_id: str, fields: Fields) -> Delivery:
    def time(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    return Delivery(
        id=delivery_id,
        user_id=fields["user"],
        job_id=fields["job"],
        event=fields["event"],
        url=fields["url"],
        body=fields["body"],
        status=DeliveryStatus(fields["status"]),
        created=int(fields["created"]),
        tries=int(fields.get("tries", 0)),
        ended=time("ended"),
        next_try=time("next_try"),
        attempts=tuple(
            DeliveryAttempt(int(one["time"]), one.get("code"), one.get("error"))
            for one in json.loads(fields.get("attempts", "[]"))
        ),
        order=int(fields["order"]),
    )


def _no_such_delivery(delivery_id: str) -> NotFoundError:
    return NotFoundError(f"There is no webhook delivery {delivery_id[:64]!r}.")
