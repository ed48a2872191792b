"""One job: what it does and waits for, every attempt at it, its events and webhooks, and what can be done."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from flask import Response
from werkzeug.wrappers import Response as BaseResponse

from kelpie.errors import InvalidInputError
from kelpie.http.audit import note
from kelpie.http.context import principal, require, services
from kelpie.http.events import BEFORE_A_JOB_MS
from kelpie.job import LIVE, Attempt, Job, JobStatus, SyncEntry
from kelpie.secrets import masked_job, masked_output
from kelpie.store import PlacedEvent, Scope
from kelpie.store.clock import wall_ms
from kelpie.store.events import Position
from kelpie.transfers import PHASES, EntryTransfers, Transfers, TransferState
from kelpie_web.bulk import priority_of
from kelpie_web.curves import curves
from kelpie_web.timeline import timeline
from kelpie_web.ui import back, form, owner, page, ui

SHOWN_EVENTS = 200
SHOWN_DELIVERIES = 20

DONE = {
    "cancel": "The job is canceled.",
    "hold": "The job is held: it is not given to a node until it is resumed.",
    "resume": "The job goes on.",
    "requeue": "The job is queued again, without its failures and bans.",
    "unban": "The bans are lifted.",
    "prioritize": "It has its new place among the jobs that wait.",
}


@ui.get("/jobs/<job_id>")
def job(job_id: str) -> Response:
    """The page of a job."""
    store = services().store
    found = store.get(job_id, user_id=owner())
    attempts = _shown_attempts(found, store.attempts(job_id, user_id=owner()))
    is_own = found.user_id == principal().user_id
    deliveries, _ = (
        store.deliveries.page(user_id=found.user_id, job_id=job_id, page_size=SHOWN_DELIVERIES)
        if is_own
        else ((), None)
    )
    wire = shown(found)
    progress = store.progress([found]).get(job_id)
    moved = store.transfers(job_id, user_id=owner())
    return page(
        "job.html",
        job=found,
        wire=wire,
        raw=json.dumps(
            wire | {"attempts": [one.to_wire() for one in attempts]}, indent=2, ensure_ascii=False
        ),
        attempts=attempts,
        progress=progress,
        curves=curves(store.progress_history(job_id, user_id=owner())) if progress else None,
        eta=progress.eta(found.attempt, wall_ms()) if progress and found.held else None,
        uploads=store.upload_backlog(job_id, user_id=owner()) if found.held else None,
        timeline=timeline(attempts, created=found.created, now=wall_ms()),
        deliveries=deliveries,
        is_own=is_own,
        is_live=found.status in LIVE,
        can_requeue=found.status in {JobStatus.FAILED, JobStatus.CANCELED} or found.due is not None,
        sync=_sync(found, moved),
        moved=moved,
    )


@ui.get("/jobs/<job_id>/events")
def job_events(job_id: str) -> Response:
    """What happened to it; apart from its page, because a long stream is looked through for it."""
    found = services().store.get(job_id, user_id=owner())
    return page("events.html", job=found, events=_events(found), limit=SHOWN_EVENTS)


@ui.get("/jobs/<job_id>/delete")
def ask_to_delete(job_id: str) -> Response:
    """Whether it is to be deleted for good."""
    require(Scope.SUBMIT)
    return page("delete.html", job=services().store.get(job_id, user_id=owner()))


@ui.post("/jobs/<job_id>/delete")
def delete(job_id: str) -> BaseResponse:
    """Delete it and its records for good."""
    services().store.purge(job_id, user_id=owner())
    note("delete a job", job_id)
    return back("ui.jobs", f"The job {job_id} is deleted.")


@ui.post("/jobs/<job_id>/<action>")
def change(job_id: str, action: str) -> BaseResponse:
    """Cancel, hold, resume, requeue, unban or prioritize it."""
    store = services().store
    match action:
        case "cancel":
            store.cancel(job_id, user_id=owner())
        case "hold":
            store.hold(job_id, user_id=owner())
        case "resume":
            store.resume(job_id, user_id=owner())
        case "requeue":
            store.requeue(job_id, user_id=owner())
        case "unban":
            store.unban(job_id, node=form().get("node") or None, user_id=owner())
        case "prioritize":
            store.prioritize(job_id, priority_of(form()), user_id=owner())
        case _:
            raise InvalidInputError(f"Nothing called {action[:32]!r} can be done to a job.")
    note(f"{action} a job", job_id)
    return back("ui.job", DONE[action], job_id=job_id)


def shown(found: Job) -> dict[str, Any]:
    """A job as the API tells it to the caller: to others than its owner without its secrets."""
    wire = found.to_wire()
    return wire if _is_own(found) else masked_job(wire)


def _shown_attempts(found: Job, attempts: list[Attempt]) -> list[Attempt]:
    """The attempts; to others than the owner without the secrets that a command may have printed."""
    if _is_own(found):
        return attempts

    def hidden(text: str | None) -> str | None:
        return None if text is None else masked_output(text, found.spec.environment)

    return [
        replace(
            one,
            reason=hidden(one.reason),
            command_end=replace(one.command_end, stderr_tail=hidden(one.command_end.stderr_tail)),
        )
        for one in attempts
    ]


def _is_own(found: Job) -> bool:
    """Whether the caller may see its secrets."""
    return found.user_id == principal().user_id and principal().may(Scope.SUBMIT)


def _events(found: Job) -> list[PlacedEvent]:
    """The first events of the job that are kept."""
    store = services().store
    queue = store.find_queue(found.user_id, found.spec.container_group_id)
    if queue is None:
        return []
    first = Position(max(0, found.created - BEFORE_A_JOB_MS), 0, 0)
    return store.events.job_page(queue, found.id, first, store.events.now_ms() + 1, SHOWN_EVENTS)


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An entry of the job's sync, and what was moved for it."""

    phase: str  # before, during or after
    entry: SyncEntry
    moved: EntryTransfers | None  # None: no node has said
    last: int | None  # when a file was last moved, ms
    state: str  # in a word


def _sync(found: Job, moved: Transfers | None) -> list[EntryRow]:
    """What it brings and leaves, in the order of its definition."""
    is_of_last = moved is not None and moved.attempt == found.attempt
    goes_on = is_of_last and found.held
    is_done = is_of_last and found.status is JobStatus.COMPLETED
    rows = []
    for phase in PHASES:
        told = () if moved is None else getattr(moved.report, phase)
        for number, entry in enumerate(getattr(found.spec.plan, phase)):
            one = told[number] if number < len(told) else None
            last = None if one is None or moved is None else moved.last(one)
            state = _state_of(phase, one, goes_on=goes_on, is_done=is_done)
            rows.append(EntryRow(phase, entry, one, last, state))
    return rows


def _state_of(phase: str, moved: EntryTransfers | None, *, goes_on: bool, is_done: bool) -> str:
    """How far an entry is, in a word; of an attempt that is over, whether it came to its end.

    ``is_done``: its report says so, which is never lost, as the node's last figures may be.
    """
    if moved is None:
        return "–"
    if is_done or moved.state is TransferState.DONE:
        return "done"
    if moved.state is TransferState.WAITING:
        return "not begun"
    if not goes_on:
        return "not finished"
    return "watching" if phase == "during" and not moved.waiting_files else "moving"
