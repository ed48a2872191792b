"""What the commands of a job printed: its end on the page of the job, all that is kept as a file."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, request, stream_with_context

from kelpie.errors import KelpieError
from kelpie.http.context import principal, services
from kelpie.job import LIVE, Job, LogLine
from kelpie.secrets import masked_output
from kelpie.store import LogPlace, Scope
from kelpie.store.logs import LOG_BEGINNING, MAX_PAGE_LINES
from kelpie_web.ui import owner, page, ui

SHOWN_LINES = 300
MAX_FIND_CHARS = 256


@ui.get("/jobs/<job_id>/log")
def log(job_id: str) -> Response:
    """The last lines; with `find` those of the last thousand that hold it."""
    store = services().store
    found = store.get(job_id, user_id=owner())
    wanted = request.args.get("find", "").strip()[:MAX_FIND_CHARS]
    kept = store.log_tail(job_id, count=MAX_PAGE_LINES if wanted else SHOWN_LINES, user_id=owner())
    lines = [(place, line, _text(found, line)) for place, line in kept.lines]
    shown = [one for one in lines if wanted.casefold() in one[2].casefold()]
    return page(
        "log.html",
        job=found,
        lines=shown[-SHOWN_LINES:],
        find=wanted,
        is_live=found.status in LIVE,
        looked_at=len(lines),
    )


@ui.get("/jobs/<job_id>/log.txt")
def log_file(job_id: str) -> Response:
    """All lines that are kept, as text."""
    found = services().store.get(job_id, user_id=owner())
    response = Response(stream_with_context(_lines(found)), mimetype="text/plain")
    response.headers["Content-Disposition"] = f'attachment; filename="{found.id}.log"'
    return response


def _lines(found: Job) -> Iterator[str]:
    store, after = services().store, LOG_BEGINNING
    try:
        while True:
            some = store.log(found.id, after, count=MAX_PAGE_LINES)
            yield "".join(_line(found, place, line) for place, line in some.lines)
            if len(some.lines) < MAX_PAGE_LINES:
                return
            after = some.next
    except KelpieError as error:  # the head of the answer is on its way
        yield f"--- the log ends here: {error}\n"


def _line(found: Job, place: LogPlace, line: LogLine) -> str:
    return f"{place.attempt} {line.stream.value} {_text(found, line)}\n"


def _text(found: Job, line: LogLine) -> str:
    is_own = found.user_id == principal().user_id and principal().may(Scope.SUBMIT)
    return line.text if is_own else masked_output(line.text, found.spec.environment)
