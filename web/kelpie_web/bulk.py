"""One action on many jobs: first the page that counts them, then, when that is confirmed, the deed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flask import Response
from werkzeug.wrappers import Response as BaseResponse

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError
from kelpie.http.audit import note
from kelpie.http.context import services
from kelpie.job import LIVE, TERMINAL, Job
from kelpie.store import Store
from kelpie.store.codec import MAX_PRIORITY
from kelpie_web.jobs import asked_for, command_line, filters
from kelpie_web.ui import back, form, owner, page, ui

MAX_JOBS = 1000
"""What one confirmation may change: the page that asks for it has counted so many."""

MAX_CALLS = 100  # to the store for one count; jobs that the action does not change are read in vain
SAMPLE = 10


@dataclass(frozen=True, slots=True)
class Action:
    """What can be done to many jobs."""

    words: str
    done: str
    applies: Callable[[Job], bool]
    act: Callable[[Store, str, str | None, int], object]
    """Does it to a job, for a user, with the priority of the form."""
    wants_priority: bool = False


ACTIONS: Mapping[str, Action] = {
    "cancel": Action(
        "Cancel",
        "canceled",
        lambda job: job.status in LIVE,
        lambda store, job_id, user, _: store.cancel(job_id, user_id=user),
    ),
    "retry": Action(
        "Retry",
        "queued again",
        lambda job: job.status in TERMINAL and job.status != "completed",
        lambda store, job_id, user, _: store.requeue(job_id, user_id=user),
    ),
    "hold": Action(
        "Hold",
        "held",
        lambda job: job.status in LIVE and not job.on_hold,
        lambda store, job_id, user, _: store.hold(job_id, user_id=user),
    ),
    "resume": Action(
        "Resume",
        "resumed",
        lambda job: job.on_hold,
        lambda store, job_id, user, _: store.resume(job_id, user_id=user),
    ),
    "unban": Action(
        "Unban every node of",
        "free of bans",
        lambda job: bool(job.banned_nodes),
        lambda store, job_id, user, _: store.unban(job_id, user_id=user),
    ),
    "prioritize": Action(
        "Change the priority of",
        "in their new place",
        lambda job: job.status in LIVE and not job.held,
        lambda store, job_id, user, priority: store.prioritize(job_id, priority, user_id=user),
        wants_priority=True,
    ),
    "delete": Action(
        "Delete for good",
        "deleted",
        lambda _job: True,
        lambda store, job_id, user, _: store.purge(job_id, user_id=user),
    ),
}


@ui.post("/jobs/bulk")
def bulk_preview() -> Response:
    """How many jobs an action would change, and which."""
    fields = form()
    name, action = _action(fields.get("action", ""))
    if fields.get("which") == "all":
        found, more = _matching(action)
    else:
        found, more = _chosen(fields.getlist("id"), action), False
    return page(
        "bulk.html",
        name=name,
        action=action,
        count=len(found),
        more=more,
        ids=" ".join(job.id for job in found),
        sample=found[:SAMPLE],
        filters={name: value for name, value in filters(fields).items() if value},
        command_line=command_line,
    )


@ui.post("/jobs/bulk/confirmed")
def bulk_act() -> BaseResponse:
    """Do it to the jobs that were counted; what has changed since then and does not fit any more is left."""
    fields = form()
    name, action = _action(fields.get("action", ""))
    priority = priority_of(fields) if action.wants_priority else 0
    ids = list(dict.fromkeys(fields.get("ids", "").split()))
    if len(ids) > MAX_JOBS:
        raise InvalidInputError(f"At most {MAX_JOBS} jobs can be changed at once, not {len(ids)}.")
    done = 0
    try:
        for job_id in ids:
            try:
                action.act(services().store, job_id, owner(), priority)
                done += 1
            except (ConflictError, NotFoundError):
                continue
    finally:
        if done:
            note(f"{name} jobs", f"{ids[0]} …" if done > 1 else ids[0], count=done)
    left = f"; {len(ids) - done:,} had changed meanwhile and were left" if done < len(ids) else ""
    return back("ui.jobs", f"{jobs_are(done)} {action.done}{left}.", **_kept(fields))


def _action(name: str) -> tuple[str, Action]:
    if name not in ACTIONS:
        raise InvalidInputError(f"Choose what is to be done: {', '.join(ACTIONS)}.")
    return name, ACTIONS[name]


def _matching(action: Action) -> tuple[list[Job], bool]:
    """The first jobs that match the form's filter and that the action changes; whether there are more."""
    asked = asked_for({**filters(form())})
    found: list[Job] = []
    cursor = None
    for _ in range(MAX_CALLS):
        some = services().store.search(owner(), asked.filter, cursor=cursor, size=500)
        found += [job for job in some.jobs if action.applies(job)]
        cursor = some.next_cursor
        if len(found) > MAX_JOBS or (cursor is not None and len(found) == MAX_JOBS):
            return found[:MAX_JOBS], True
        if cursor is None:
            return found, False
    return found, True


def _chosen(ids: list[str], action: Action) -> list[Job]:
    found = []
    for job_id in ids[:MAX_JOBS]:
        try:
            job = services().store.get(job_id, user_id=owner())
        except NotFoundError:  # deleted since the list was made
            continue
        if action.applies(job):
            found.append(job)
    return found


def priority_of(fields: Mapping[str, str]) -> int:
    """The priority that a form asks for. Raises InvalidInputError."""
    text = fields.get("priority", "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= MAX_PRIORITY):
        raise InvalidInputError(
            f"priority: {text[:32]!r} is no whole number from 0 to {MAX_PRIORITY}; higher goes first."
        )
    return int(text)


def jobs_are(count: int) -> str:
    """So many jobs, as a sentence begins with them."""
    return "1 job is" if count == 1 else f"{count:,} jobs are"


def _kept(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in filters(fields).items() if value}
