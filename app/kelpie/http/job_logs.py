"""``/jobs/:id/logs``: what the commands of a job printed, page by page or as it comes."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import structlog
from flask import Blueprint, Response, request, stream_with_context
from pydantic import AfterValidator, Field
from werkzeug.exceptions import MethodNotAllowed

from kelpie.errors import KelpieError, NotFoundError
from kelpie.http.auth import authenticate, is_still_good
from kelpie.http.context import principal, scope, services
from kelpie.http.events import EVENT_STREAM, HEARTBEAT_S, RETRY_MS, disconnector
from kelpie.http.models import Query
from kelpie.http.openapi import LOGS, replies, spec
from kelpie.http.replies import ErrorReply, Reply, Time
from kelpie.job import TERMINAL, Job, JobStatus, LogLine, LogStream, iso
from kelpie.secrets import masked_output
from kelpie.store import Follower, LogPage, LogPlace, Scope
from kelpie.store.logs import LOG_BEGINNING, MAX_PAGE_LINES

Answer = Any  # whatever Flask makes a response of
Placed = tuple[LogPlace, LogLine]

LOOK_EVERY_S = 0.5
STREAM_PAGE = 500

log = structlog.get_logger(__name__)

job_logs = Blueprint("job_logs", __name__)
job_logs.before_request(authenticate)

_PLACE = "^(0|[0-9]{1,9}-[0-9]{1,15})$"


def _place(text: str) -> str:
    if re.fullmatch(_PLACE, text, re.ASCII) is None:
        raise ValueError("it must be the id of a line, such as 2-1500, or 0")
    return text


PlaceText = Annotated[
    str,
    Field(
        max_length=32,
        description="The id of a line (attempt and number), or 0: what came after it is wanted.",
        json_schema_extra={"pattern": _PLACE},
    ),
    AfterValidator(_place),
]


class LogsQuery(Query):
    """Which part of a log is wanted."""

    after: PlaceText | None = None
    tail: Annotated[
        int | None,
        Field(
            ge=1, le=MAX_PAGE_LINES, description="So many lines at the end, instead of those after a place."
        ),
    ] = None
    page_size: Annotated[int, Field(ge=1, le=MAX_PAGE_LINES, description="Of a page, not of a stream.")] = 100
    format: Annotated[
        Literal["json"] | None, Field(description="A page, whatever the header Accept says.")
    ] = None


class LogsHeaders(Query):
    """What a client that comes again says."""

    last_event_id: Annotated[
        PlaceText | None,
        Field(alias="Last-Event-Id", description="Like `after`, which it outdoes; browsers send it."),
    ] = None


class LogLineReply(Reply):
    """A line that a command printed."""

    id: Annotated[str, Field(description="Attempt and number of the line.", examples=["2-1500"])]
    attempt: int
    stream: Annotated[LogStream, Field(description="`kelpie`: what the worker says about the others.")]
    time: Time
    text: Annotated[str, Field(description="As it was printed, control characters too.")]


class LogPageReply(Reply):
    """One page of a log, oldest first."""

    count: Annotated[int, Field(alias="_count", description="Lines of this page.")]
    lines: list[LogLineReply]
    next: Annotated[str, Field(description="The `after` of the next page.")]
    gap: Annotated[bool, Field(description="Lines before the first of these are not kept any more.")]
    status: Annotated[JobStatus, Field(description="Of the job: of one that has ended no more will come.")]


@job_logs.get("/jobs/<job_id>/logs")
@spec.validate(resp=replies(HTTP_200=LogPageReply, HTTP_404=ErrorReply), tags=[LOGS], operation_id="readLog")
def logs(job_id: str, query: LogsQuery, headers: LogsHeaders) -> Answer:
    """What the commands of all attempts printed: a page, from the oldest line kept or from `after` on.

    With `Accept: text/event-stream` a stream of Server-Sent Events that goes on until the job has ended: an
    event `log` per line, `gap` where lines are missing, and `end` with the job's status.
    """
    if request.method == "HEAD":  # which Flask adds to every GET
        raise MethodNotAllowed(["GET"])
    store = services().store
    job = store.get(job_id, user_id=scope())
    asked = headers.last_event_id or query.after
    after = LOG_BEGINNING if asked is None else LogPlace.parse(asked)
    streamed = query.format is None and EVENT_STREAM in request.accept_mimetypes.values()
    size = STREAM_PAGE if streamed else query.page_size
    if query.tail is not None and asked is None:
        page = store.log_tail(job_id, count=query.tail, user_id=scope())
    else:
        page = store.log(job_id, after, count=size, user_id=scope())
    if streamed:
        return _stream(job, page)
    return {
        "_count": len(page.lines),
        "lines": [_wire(job, one) for one in page.lines],
        "next": str(page.next),
        "gap": page.gap,
        "status": job.status.value,
    }


def _stream(job: Job, page: LogPage) -> Answer:
    parts = services()
    queue = parts.store.find_queue(job.user_id, job.spec.container_group_id)
    if queue is None:  # jobs are in queues; this one is just being purged
        raise NotFoundError(f"There is no job {job.id!r}.")
    follower = parts.hub.follow(
        None,
        (queue, job.id),
        owner=principal().user_id,
        limit=parts.settings.event_streams_per_user,
        disconnect=disconnector(),
    )
    ends = time.monotonic() + parts.settings.event_stream_s
    response = Response(stream_with_context(_told(job, page, follower, ends=ends)), content_type=EVENT_STREAM)
    response.headers["X-Accel-Buffering"] = "no"  # what proxies hold back is heard late
    response.call_on_close(follower.close)  # also when nothing of it was sent
    return response


def _told(job: Job, page: LogPage, follower: Follower, *, ends: float) -> Iterator[str]:
    """The text of a stream: what is there, then what comes, then the end of the job."""
    store = services().store
    try:
        # Looked at once the follower hears: what happened before is seen here, what comes later it tells.
        status = store.get(job.id).status
        yield f"retry: {random.randint(*RETRY_MS)}\n\n"  # noqa: S311 - it is no secret
        if not page.lines:
            yield f"id: {page.next}\n\n"
        quiet_since = time.monotonic()
        while not follower.ended and time.monotonic() < ends:
            if page.lines:
                yield "".join(_blocks(job, page))
                quiet_since = time.monotonic()
            elif status in TERMINAL:
                yield f"event: end\ndata: {json.dumps({'status': status.value})}\n\n"
                return
            elif time.monotonic() - quiet_since >= HEARTBEAT_S:
                quiet_since = time.monotonic()
                yield ": nothing new\n\n"
            full = len(page.lines) == STREAM_PAGE
            for _, placed in follower.take(0 if full else LOOK_EVERY_S):
                status = placed.event.status
            if not is_still_good():  # the key was revoked meanwhile
                return
            page = store.log(job.id, page.next, count=STREAM_PAGE)
    except KelpieError as error:  # Redis is away, and its client resumes; or the job was deleted
        log.warning("a log stream ended", job_id=job.id, error=str(error))
    finally:
        follower.close()


def _blocks(job: Job, page: LogPage) -> Iterator[str]:
    if page.gap:
        yield "event: gap\ndata: {}\n\n"
    for one in page.lines:
        yield f"id: {one[0]}\nevent: log\ndata: {json.dumps(_wire(job, one), separators=(',', ':'))}\n\n"


def _wire(job: Job, one: Placed) -> dict[str, Any]:
    place, line = one
    own = job.user_id == principal().user_id and principal().may(Scope.SUBMIT)
    return {
        "id": str(place),
        "attempt": place.attempt,
        "stream": line.stream.value,
        "time": iso(line.time),
        "text": line.text if own else masked_output(line.text, job.spec.environment),
    }
