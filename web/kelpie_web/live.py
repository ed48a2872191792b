"""One stream per open page, which says that something has changed; the page then asks for what it shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from flask import Response, g, request, stream_with_context

from kelpie.errors import KelpieError
from kelpie.http.auth import RECHECK_AFTER_S
from kelpie.http.connections import disconnect
from kelpie.http.context import principal, services
from kelpie.http.events import EVENT_STREAM, HEARTBEAT_S
from kelpie.store import Follower
from kelpie_web.ui import owner, ui

QUIET_S = 0.25
"""What happens within this time is told at once: a thousand jobs that start make no thousand messages."""


@ui.get("/events")
def events() -> Response:
    """An event `change` whenever jobs of the caller changed."""
    parts = services()
    follower = parts.hub.follow(
        owner(),
        None,
        owner=principal().user_id,
        limit=parts.settings.event_streams_per_user,
        disconnect=partial(disconnect, request.environ.get("gunicorn.socket")),
    )
    ends = time.monotonic() + parts.settings.event_stream_s
    response = Response(stream_with_context(_told(follower, g.token, ends)), content_type=EVENT_STREAM)
    response.headers["X-Accel-Buffering"] = "no"  # what proxies hold back is heard late
    response.call_on_close(follower.close)
    return response


def _told(follower: Follower, token: str, ends: float) -> Iterator[str]:
    sessions = services().store.sessions
    try:
        yield "retry: 2000\n\n"
        quiet_since = time.monotonic()
        while not follower.ended and time.monotonic() < ends:
            news = follower.take(RECHECK_AFTER_S)
            if sessions.find(token) is None:  # logged out, or its key was revoked
                yield "event: ended\ndata: \n\n"
                return
            if news:
                yield "event: change\ndata: \n\n"
                quiet_since = time.monotonic()
                time.sleep(QUIET_S)
            elif time.monotonic() - quiet_since >= HEARTBEAT_S:
                quiet_since = time.monotonic()
                yield ": nothing new\n\n"
    except KelpieError:  # Redis is away; the browser comes again
        return
    finally:
        follower.close()
