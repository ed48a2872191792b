"""``/events`` and ``/jobs/:id/events``: what happens to jobs, as a stream or page by page."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import structlog
from flask import Blueprint, Response, request, stream_with_context
from pydantic import AfterValidator, Field
from werkzeug.exceptions import MethodNotAllowed

from kelpie.errors import NotFoundError, UnavailableError
from kelpie.http.auth import RECHECK_AFTER_S, authenticate, is_still_good
from kelpie.http.connections import disconnect
from kelpie.http.context import principal, scope, services
from kelpie.http.models import Query
from kelpie.http.openapi import EVENTS, replies, spec
from kelpie.http.replies import ErrorReply, Reply, Time
from kelpie.job import JobStatus, iso
from kelpie.store import EventType, Follower, PlacedEvent, Position, Queue, Store
from kelpie.store.events import BEGINNING, MAX_PAGE_SIZE

Answer = Any  # whatever Flask makes a response of
Read = Callable[[Position, int, int], list[PlacedEvent]]
"""Reads up to a count of events after a position that are older than a time in ms."""

HEARTBEAT_S = 15.0
RETRY_MS = (1000, 3000)  # how long a client waits before it comes again; spread, so that not all come at once
EVENT_STREAM = "text/event-stream"
CATCH_UP_PAGE = 500
BEFORE_A_JOB_MS = 1000
"""What is told of a job begins this long before its creation: ids are of the same clock, but not exact."""

log = structlog.get_logger(__name__)

events = Blueprint("events", __name__)
events.before_request(authenticate)

_POSITION = "^(0|[0-9]{1,15}-[0-9]{1,19}-[0-9]{1,10})$"


def _position(text: str) -> str:
    if re.fullmatch(_POSITION, text, re.ASCII) is None:
        raise ValueError("it must be the id of an event, such as 1764000000000-0-17, or 0")
    return text


PositionText = Annotated[
    str,
    Field(
        max_length=64,
        description="The id of an event, or 0: what came after it is wanted.",
        json_schema_extra={"pattern": _POSITION},
    ),
    AfterValidator(_position),
]


class EventsQuery(Query):
    """From where on events are told."""

    after: PositionText | None = None
    page_size: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE, description="Of a page, not of a stream.")] = 100
    format: Annotated[
        Literal["json"] | None, Field(description="A page, whatever the header Accept says.")
    ] = None


class EventsHeaders(Query):
    """What a client that comes again says."""

    last_event_id: Annotated[
        PositionText | None,
        Field(alias="Last-Event-Id", description="Like `after`, which it outdoes; browsers send it."),
    ] = None


class EventReply(Reply):
    """Something that happened to a job."""

    id: Annotated[str, Field(description="Its place among all events.", examples=["1764000000000-0-17"])]
    type: EventType
    job_id: UUID
    container_group_id: str
    attempt: Annotated[int, Field(description="0 before the first.")]
    machine_id: str | None
    status: Annotated[JobStatus, Field(description="Of the job, after it.")]
    time: Time


class EventPageReply(Reply):
    """One page of events, the oldest first."""

    count: Annotated[int, Field(alias="_count", description="Events of this page.")]
    events: list[EventReply]
    next: Annotated[str, Field(description="The `after` of the next page; also when this one is empty.")]
    gap: Annotated[bool, Field(description="Events after the given `after` may not be kept any more.")]


@events.get("/events")
@spec.validate(resp=replies(HTTP_200=EventPageReply), tags=[EVENTS], operation_id="listEvents")
def listing(query: EventsQuery, headers: EventsHeaders) -> Answer:
    """What happened to the caller's jobs; the admin hears of all.

    A page, from the oldest event that is kept or from `after` on. With `Accept: text/event-stream` a stream
    of Server-Sent Events that goes on: from now on, or from `after` or `Last-Event-ID` on.
    """
    store = services().store
    asked = headers.last_event_id or query.after
    after = None if asked is None else Position.parse(asked)
    if not _wants_stream(query):
        queues = store.queues(scope())
        return _page(store, partial(store.events.page, queues), queues, after or BEGINNING, query.page_size)
    follower = _follow(scope())
    return _stream(store, partial(store.events.page, follower.queues), follower, after)


@events.get("/jobs/<job_id>/events")
@spec.validate(
    resp=replies(HTTP_200=EventPageReply, HTTP_404=ErrorReply), tags=[EVENTS], operation_id="listJobEvents"
)
def of_job(job_id: str, query: EventsQuery, headers: EventsHeaders) -> Answer:
    """What happened to one job, from its beginning or from `after` on; else like `/events`."""
    store = services().store
    job = store.get(job_id, user_id=scope())
    queue = store.find_queue(job.user_id, job.spec.container_group_id)
    if queue is None:  # jobs are in queues; this one is just being purged
        raise NotFoundError(f"There is no job {job_id!r}.")
    asked = headers.last_event_id or query.after
    after = Position.parse(asked) if asked else Position(max(0, job.created - BEFORE_A_JOB_MS), 0, 0)
    read = partial(store.events.job_page, queue, job.id)
    if not _wants_stream(query):
        return _page(store, read, [queue], after, query.page_size)
    follower = _follow(None, (queue, job.id))
    return _stream(store, read, follower, after)


def _wants_stream(query: EventsQuery) -> bool:
    """A stream goes to those who name it: to others an answer that never ends would be a trap."""
    if request.method == "HEAD":  # which Flask adds to every GET
        raise MethodNotAllowed(["GET"])
    return query.format is None and EVENT_STREAM in request.accept_mimetypes.values()


def _page(store: Store, read: Read, queues: list[Queue], after: Position, page_size: int) -> Answer:
    before_ms = store.events.settled_ms()
    gap = store.events.has_gap(queues, after)
    found = read(after, before_ms, page_size)
    # An empty page moves on too, so that who asks again does not fall behind what is kept.
    end = found[-1].position if len(found) == page_size else max(after, Position(before_ms, 0, 0))
    return {"_count": len(found), "events": [_wire(one) for one in found], "next": str(end), "gap": gap}


def _follow(user_id: str | None, job: tuple[Queue, str] | None = None) -> Follower:
    parts = services()
    return parts.hub.follow(
        user_id,
        job,
        owner=principal().user_id,
        limit=parts.settings.event_streams_per_user,
        disconnect=disconnector(),
    )


def _stream(store: Store, read: Read, follower: Follower, after: Position | None) -> Answer:
    try:
        gap = after is not None and store.events.has_gap(follower.queues, after)
    except BaseException:
        follower.close()
        raise
    ends = time.monotonic() + services().settings.event_stream_s
    # A client may have heard more from another process than this one's followers have heard by now. A place
    # ahead of the server's time is that of a clock that went back: nothing of now is known there.
    known = after if after is not None and after.ms <= follower.came_ms else BEGINNING
    told = _told(read, follower, after, known, gap=gap, ends=ends)
    response = Response(stream_with_context(told), content_type=EVENT_STREAM)
    response.headers["X-Accel-Buffering"] = "no"  # what proxies hold back is heard late
    response.call_on_close(follower.close)  # also when nothing of it was sent
    return response


def _told(
    read: Read, follower: Follower, after: Position | None, known: Position, *, gap: bool, ends: float
) -> Iterator[str]:
    """The text of a stream: what came before the follower did, then what it hears and is not ``known``."""
    try:
        yield f"retry: {random.randint(*RETRY_MS)}\n\n"  # noqa: S311 - it is no secret
        if gap:
            yield f"event: gap\ndata: {json.dumps({'after': str(after)})}\n\n"
        here = Position(follower.since_ms, 0, 0)
        while after is not None and (page := read(after, follower.since_ms, CATCH_UP_PAGE)):
            yield "".join(_block(one.position, one) for one in page)
            after = page[-1].position
            if len(page) < CATCH_UP_PAGE:
                break
        yield f"id: {max(here, after or here)}\n\n"
        quiet_since = time.monotonic()
        while not follower.ended and time.monotonic() < ends:
            news = follower.take(min(RECHECK_AFTER_S, max(0.0, ends - time.monotonic())))
            if not is_still_good():  # the key was revoked meanwhile
                return
            fresh = [_block(max(position, known), one) for position, one in news if one.position > known]
            if fresh:
                yield "".join(fresh)
                quiet_since = time.monotonic()
            elif not follower.ended and time.monotonic() - quiet_since >= HEARTBEAT_S:
                quiet_since = time.monotonic()
                # The id moves on, so that who hears nothing for long resumes from now and misses nothing.
                yield f": nothing new\nid: {max(follower.position, known)}\n\n"
    except UnavailableError:
        log.warning("an event stream ended: redis is away")  # its client resumes it
    finally:
        follower.close()


def _block(position: Position, one: PlacedEvent) -> str:
    data = json.dumps(_wire(one), separators=(",", ":"))
    return f"id: {position}\nevent: {one.event.type.value}\ndata: {data}\n\n"


def _wire(one: PlacedEvent) -> dict[str, Any]:
    event = one.event
    return {
        "id": str(one.position),
        "type": event.type.value,
        "job_id": event.job_id,
        "container_group_id": one.queue.container_group_id,
        "attempt": event.attempt,
        "machine_id": event.node,
        "status": event.status.value,
        "time": iso(event.time),
    }


def disconnector() -> Callable[[], None]:
    """Ends the connection of the current request, whenever it is called."""
    return partial(disconnect, request.environ.get("gunicorn.socket"))
