"""``/jobs``: submit, see, cancel and delete jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, g

from kelpie.http.auth import admin_only, authenticate
from kelpie.http.context import principal, scope, services
from kelpie.http.job_models import BatchBody, JobBody, SubmitHeaders
from kelpie.http.job_queries import DeleteQuery, JobQuery, JobsQuery, PriorityBody, UnbanBody
from kelpie.http.openapi import JOBS, replies, spec
from kelpie.http.replies import CountReply, ErrorReply, JobListReply, JobPageReply, JobReply, MessageReply
from kelpie.job import Job, JobStatus
from kelpie.progress import Progress
from kelpie.secrets import masked_job, masked_output
from kelpie.store import Scope
from kelpie.store.clock import wall_ms

Answer = Any  # whatever Flask makes a response of

jobs = Blueprint("jobs", __name__, url_prefix="/jobs")
jobs.before_request(authenticate)

SUBMIT_REFUSALS = {"HTTP_409": ErrorReply, "HTTP_413": ErrorReply}
REFUSALS = {"HTTP_404": ErrorReply, "HTTP_409": ErrorReply}


@jobs.post("")
@spec.validate(resp=replies(HTTP_202=JobReply, **SUBMIT_REFUSALS), tags=[JOBS], operation_id="submitJob")
def submit(json: JobBody, headers: SubmitHeaders) -> Answer:
    """Queue a job."""
    [job] = services().store.submit(
        principal().user_id, [json.spec()], idempotency_key=headers.idempotency_key
    )
    return job.to_wire(), 202


@jobs.post("/batch")
@spec.validate(resp=replies(HTTP_202=JobListReply, **SUBMIT_REFUSALS), tags=[JOBS], operation_id="submitJobs")
def submit_batch(json: BatchBody, headers: SubmitHeaders) -> Answer:
    """Queue up to 1000 jobs, all or none; the answer keeps their order."""
    submitted = services().store.submit(
        principal().user_id,
        [body.spec() for body in json.root],
        idempotency_key=headers.idempotency_key,
    )
    g.submitted = len(submitted)
    return [job.to_wire() for job in submitted], 202


@jobs.get("")
@spec.validate(resp=replies(HTTP_200=JobPageReply), tags=[JOBS], operation_id="listJobs")
def listing(query: JobsQuery) -> Answer:
    """One page of the caller's jobs by time of creation; the admin sees all users' jobs.

    What looks like a secret in their environment and arguments is masked; the single job shows it.
    """
    how: dict[str, Any] = {"size": query.page_size, "ascending": query.asc}
    if query.from_cursor:
        page = services().store.search(scope(), query.filter, cursor=query.cursor, **how)
    else:
        page = services().store.page(scope(), query.filter, number=max(query.page, 1), **how)
    said = services().store.progress(page.jobs)
    return {
        "_count": len(page.jobs),
        "jobs": [masked_job(job.to_wire()) | _progress(job, said, metrics=False) for job in page.jobs],
        "next_cursor": page.next_cursor,
    }


@jobs.get("/<job_id>")
@spec.validate(resp=replies(HTTP_200=JobReply, HTTP_404=ErrorReply), tags=[JOBS], operation_id="getJob")
def get(job_id: str, query: JobQuery) -> Answer:
    """One job; with `expand=attempts` also every attempt at it, oldest first.

    With `expand=transfers` what was moved for each entry of its `sync`; null when no node has told it.
    With `expand=progress_history` how its progress and its metrics were over time.
    """
    store = services().store
    job = store.get(job_id, user_id=scope())
    wire = _shown(job) | _progress(job, store.progress([job]), metrics=True)
    if job.status is JobStatus.RUNNING and (backlog := store.upload_backlog(job_id, user_id=scope())):
        wire["upload_backlog"] = backlog.to_wire()
    if query.expand == "attempts":
        attempts = [attempt.to_wire() for attempt in store.attempts(job_id, user_id=scope())]
        for attempt in () if _shows_secrets(job) else attempts:
            for name in ("reason", "stderr_tail"):
                if attempt[name] is not None:
                    attempt[name] = masked_output(attempt[name], job.spec.environment)
        wire["attempts"] = attempts
    elif query.expand == "transfers":
        moved = store.transfers(job_id, user_id=scope())
        wire["transfers"] = None if moved is None else moved.to_wire()
    elif query.expand == "progress_history":
        history = store.progress_history(job_id, user_id=scope())
        wire["progress_history"] = [point.to_wire() for point in history]
    return wire


@jobs.delete("/<job_id>")
@spec.validate(
    resp=replies(HTTP_200=MessageReply, HTTP_202=MessageReply, HTTP_404=ErrorReply, HTTP_409=ErrorReply),
    tags=[JOBS],
    operation_id="deleteJob",
)
def delete(job_id: str, query: DeleteQuery) -> Answer:
    """Cancel a job (202); with `purge=true` delete it and its records for good (200)."""
    if query.purge:
        services().store.purge(job_id, user_id=scope())
        return {"message": "Job deleted"}
    services().store.cancel(job_id, user_id=scope())
    return {"message": "Job canceled"}, 202


@jobs.post("/<job_id>/hold")
@spec.validate(resp=replies(HTTP_200=JobReply, **REFUSALS), tags=[JOBS], operation_id="holdJob")
def hold(job_id: str) -> Answer:
    """Keep a live job from being leased until it is resumed; a node that runs it goes on."""
    return _shown(services().store.hold(job_id, user_id=scope()))


@jobs.post("/<job_id>/resume")
@spec.validate(resp=replies(HTTP_200=JobReply, **REFUSALS), tags=[JOBS], operation_id="resumeJob")
def resume(job_id: str) -> Answer:
    """Let a held job be leased again."""
    return _shown(services().store.resume(job_id, user_id=scope()))


@jobs.post("/<job_id>/requeue")
@spec.validate(resp=replies(HTTP_200=JobReply, **REFUSALS), tags=[JOBS], operation_id="requeueJob")
def requeue(job_id: str) -> Answer:
    """Open a failed or canceled job again, without its failures and bans; end a delayed job's pause."""
    return _shown(services().store.requeue(job_id, user_id=scope()))


@jobs.post("/<job_id>/unban")
@spec.validate(resp=replies(HTTP_200=JobReply, **REFUSALS), tags=[JOBS], operation_id="unbanJob")
def unban(job_id: str, json: UnbanBody) -> Answer:
    """Let a node, or every node, have a job again on which it failed."""
    return _shown(services().store.unban(job_id, node=json.machine_id, user_id=scope()))


@jobs.post("/<job_id>/prioritize")
@spec.validate(resp=replies(HTTP_200=JobReply, **REFUSALS), tags=[JOBS], operation_id="prioritizeJob")
def prioritize(job_id: str, json: PriorityBody) -> Answer:
    """Give a live job another priority; a node that runs it goes on."""
    return _shown(services().store.prioritize(job_id, json.priority, user_id=scope()))


@jobs.delete("/container-groups/<path:container_group_id>")
@spec.validate(resp=replies(HTTP_200=CountReply), tags=[JOBS], operation_id="clearQueue")
def clear_group(container_group_id: str) -> Answer:
    """Remove the caller's pending jobs of a container group, and cancel the running ones."""
    group = container_group_id.removesuffix("/")
    return {"count": services().store.clear_group(principal().user_id, group)}


@jobs.delete("")
@admin_only
@spec.validate(resp=replies(HTTP_204=None), tags=[JOBS], operation_id="deleteAllJobs")
def purge_all() -> Answer:
    """Delete every job of every user (admin)."""
    services().store.purge_all()
    return "", 204


def _progress(job: Job, said: Mapping[str, Progress], *, metrics: bool) -> dict[str, Any]:
    """What the command says of its progress, and when it may be done; nothing when it says nothing."""
    progress = said.get(job.id)
    if progress is None:
        return {}
    eta = progress.eta(job.attempt, wall_ms()) if job.held else None
    return {"progress": progress.to_wire(eta=eta, metrics=metrics)}


def _shown(job: Job) -> dict[str, Any]:
    """One job: whole to its owner, without its secrets to the admin and to keys that may only look."""
    wire = job.to_wire()
    return wire if _shows_secrets(job) else masked_job(wire)


def _shows_secrets(job: Job) -> bool:
    return job.user_id == principal().user_id and principal().may(Scope.SUBMIT)
