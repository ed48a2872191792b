"""The list of jobs: filtered and paged by the server, all of it in the address."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from pydantic import ValidationError

from kelpie.errors import InvalidInputError
from kelpie.http.context import services
from kelpie.http.errors import invalid
from kelpie.http.job_queries import JobsQuery
from kelpie.job import JobStatus
from kelpie.secrets import masked_arguments, masked_text
from kelpie.store import Filter
from kelpie_web.overview import totals
from kelpie_web.ui import owner, page, query, ui

PAGE_SIZE = 50
LOOK_AT = 400
"""Jobs that a search looks at for one page, which leads on to the others: it should not take 200 ms."""


@ui.get("/jobs")
def jobs() -> Response:
    """One page of the list."""
    problem, chosen, asked = None, Filter(), JobsQuery()
    try:
        asked = asked_for(dict(request.args.items()))
        chosen = asked.filter
    except InvalidInputError as error:
        problem = str(error)
    store = services().store
    found = store.search(
        owner(), chosen, cursor=asked.cursor, size=PAGE_SIZE, ascending=asked.asc, look_at=LOOK_AT
    )
    figures = store.metrics.queues(owner(), uploads=False)
    return page(
        "jobs.html",
        jobs=found.jobs,
        next_query=query(cursor=found.next_cursor) if found.next_cursor else None,
        first_query=query(cursor=None),
        sort_query=query(cursor=None, asc=None if asked.asc else "1"),
        asked=asked,
        label=request.args.get("label", ""),
        problem=problem,
        counts=_counts(totals(figures)),
        groups=sorted({one.queue.container_group_id for one in figures}),
        command_line=command_line,
        filters={name: value for name, value in filters(request.args).items() if value},
    )


def filters(fields: Any) -> dict[str, str]:
    """What of an address or a form says which jobs are meant."""
    return {name: fields.get(name, "").strip() for name in ("status", "group", "label", "node", "q")}


def asked_for(fields: dict[str, str]) -> JobsQuery:
    """Which jobs an address asks for. Raises InvalidInputError."""
    chosen = filters(fields)
    told: dict[str, Any] = {
        "status": chosen["status"],
        "container_group_id": chosen["group"],
        "label": chosen["label"].split(),
        "machine_id": chosen["node"],
        "q": chosen["q"],
        "cursor": fields.get("cursor", ""),
        "asc": fields.get("asc", ""),
    }
    try:
        return JobsQuery.model_validate({name: value for name, value in told.items() if value})
    except ValidationError as error:
        raise invalid(error) from None


def command_line(job: Any) -> str:
    """What a job runs, without what is secret in it, short enough for a list."""
    words = (masked_text(job.spec.command), *masked_arguments(job.spec.arguments[:20]))
    line = " ".join(words)
    return line if len(line) <= 120 else line[:119] + "…"


def _counts(summed: dict[str, int]) -> list[tuple[str, int]]:
    return [(status.value, summed[status.value]) for status in JobStatus]
