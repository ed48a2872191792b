"""What nodes call: ``/work`` and the reports on a job."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

import structlog
from flask import Blueprint, request
from structlog.contextvars import bind_contextvars
from werkzeug.exceptions import MethodNotAllowed

from kelpie.http.auth import authenticate_worker, is_still_good
from kelpie.http.connections import is_connected
from kelpie.http.context import principal, require_own, scope, services
from kelpie.http.openapi import WORK, replies, spec
from kelpie.http.replies import ErrorReply, FailureReply, HeartbeatReply, MessageReply, WorkListReply
from kelpie.http.work_models import FailureBody, HeartbeatBody, LogBody, ReportBody, WorkHeaders, WorkQuery
from kelpie.job import Holder, Outcome, UploadBacklog, iso
from kelpie.store import Scope

Answer = Any  # whatever Flask makes a response of

work = Blueprint("work", __name__)
work.before_request(authenticate_worker)

log = structlog.get_logger(__name__)

REFUSALS = {"HTTP_404": ErrorReply, "HTTP_409": ErrorReply}


@work.get("/work")
@spec.validate(resp=replies(HTTP_200=WorkListReply), tags=[WORK], operation_id="leaseJob")
def lease(query: WorkQuery, headers: WorkHeaders) -> Answer:
    """A list of one job, leased to this node, or of none when none came within `wait` seconds."""
    if request.method == "HEAD":  # which Flask adds to every GET: nobody would read the lease
        raise MethodNotAllowed(["GET"])
    require_own(query.machine_id, query.container_group_id)
    bind_contextvars(node=query.machine_id)
    services().store.open_queue(principal().user_id, query.container_group_id)
    client = request.environ.get("gunicorn.socket")
    leased = services().poller.poll(
        principal().user_id,
        query.container_group_id,
        query.machine_id,
        headers.idempotency_key or uuid.uuid4().hex,
        query.wait,
        is_there=lambda: is_connected(client) and is_still_good(),
    )
    if leased is None:
        return []
    log.info("job leased", job_id=leased.job.id, attempt=leased.job.attempt)
    return [leased.to_wire()]


@work.post("/jobs/<job_id>/heartbeat")
@spec.validate(
    resp=replies(HTTP_200=HeartbeatReply, HTTP_404=ErrorReply), tags=[WORK], operation_id="heartbeat"
)
def heartbeat(job_id: str, json: HeartbeatBody) -> Answer:
    """Renew the lease. The answer `canceled` means: stop, you do not hold this job (any more)."""
    said = json.upload_backlog
    reply = services().store.heartbeat(
        job_id,
        _holder(job_id, json),
        user_id=scope(),
        backlog=None if said is None else UploadBacklog(said.files, said.bytes, said.oldest_s),
        progress=None if json.progress is None else json.progress.report,
        transfers=None if json.transfers is None else json.transfers.report,
        days=services().settings.progress_days,
    )
    return {
        "status": reply.status.value,
        "reason": reply.reason,
        "lease_expires": iso(reply.lease_expires),
        "drain": reply.drain,
    }


@work.post("/jobs/<job_id>/completed")
@spec.validate(resp=replies(HTTP_200=MessageReply, **REFUSALS), tags=[WORK], operation_id="reportCompleted")
def completed(job_id: str, json: ReportBody) -> Answer:
    """The command exited 0 and its data is stored."""
    services().store.finish(job_id, _holder(job_id, json), Outcome.COMPLETED, user_id=scope())
    return {"message": "Completed reported"}


@work.post("/jobs/<job_id>/failed")
@spec.validate(resp=replies(HTTP_202=FailureReply, **REFUSALS), tags=[WORK], operation_id="reportFailed")
def failed(job_id: str, json: FailureBody) -> Answer:
    """The command failed, or its data could not be moved: it counts, and the job goes to another node."""
    reply = services().store.finish(
        job_id,
        _holder(job_id, json),
        json.kind,
        exit_code=json.exit_code,
        reason=json.reason,
        end=json.end,
        user_id=scope(),
    )
    return {
        "message": "Failure reported",
        "status": reply.status.value,
        "num_failures": reply.num_failures,
        "node_bans": reply.node_bans,
        "reallocate": reply.reallocate,
    }, 202


@work.post("/jobs/<job_id>/released")
@spec.validate(resp=replies(HTTP_200=MessageReply, **REFUSALS), tags=[WORK], operation_id="releaseJob")
def released(job_id: str, json: ReportBody) -> Answer:
    """The node hands the job back in good order: nothing is counted, another node may have it at once."""
    services().store.finish(job_id, _holder(job_id, json), Outcome.RELEASED, user_id=scope())
    return {"message": "Release reported"}


@work.post("/jobs/<job_id>/logs")
@spec.validate(resp=replies(HTTP_200=MessageReply, **REFUSALS), tags=[WORK], operation_id="appendLog")
def log_lines(job_id: str, json: LogBody) -> Answer:
    """Lines that the command of the attempt printed; also after its end."""
    parts = services()
    parts.store.append_log(
        job_id,
        _holder(job_id, json),
        json.batch,
        user_id=scope(),
        max_bytes=parts.settings.log_bytes_per_job,
        days=parts.settings.log_days,
    )
    return {"message": "Lines kept"}


def _holder(job_id: str, report: ReportBody) -> Holder:
    caller = principal()
    require_own(report.machine_id, report.container_group_id)
    bind_contextvars(node=report.machine_id)
    lease = report.lease
    if caller.machine_id is not None and lease is not None:
        # With a lease shown, the store judges that alone. A node's identity acts on its own leases only, so
        # another machine's is replaced by one that nobody was ever given.
        job = services().store.get(job_id, user_id=scope())
        lease = lease if job.machine_id == caller.machine_id else secrets.token_hex(32)
    # A user may report by hand on a job of his that nobody holds; what can only work may not.
    return Holder(node=report.machine_id, lease=lease, may_report_unheld=caller.may(Scope.SUBMIT))
