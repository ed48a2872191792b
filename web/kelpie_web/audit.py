"""Who did what, through the API and the pages."""

from __future__ import annotations

from flask import Response, request

from kelpie.http.context import services
from kelpie_web.ui import owner, page, query, ui

PAGE_SIZE = 100


@ui.get("/audit")
def audit() -> Response:
    """What the caller did; for the admin what all did."""
    entries, cursor = services().store.audit.page(
        owner(), size=PAGE_SIZE, cursor=request.args.get("cursor") or None
    )
    return page(
        "audit.html",
        entries=entries,
        next_query=query(cursor=cursor) if cursor else None,
        first_query=query(cursor=None),
    )
