"""What tests of the contract share: ids that nobody has, refusals, and a node that polls and reports."""

from __future__ import annotations

import re
from typing import Any

from kelpie.http import replies
from tests.api import ApiUser, Reply
from tests.factories import job_body

UNKNOWN = "c7b785ab-764a-4280-9a22-9c2eaedd039d"
"""An id that nobody was given."""

TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
UNKNOWN_IDS = [
    UNKNOWN,
    "00000000-0000-0000-0000-000000000000",
    "nonsense",
    "x" * 300,
    "..%00",
]
OLD_KEYS = {
    *("id", "user_id", "status", "created", "started", "completed", "canceled", "failed", "heartbeat"),
    *("command", "arguments", "environment", "container_group_id", "max_failures", "heartbeat_interval"),
    *("webhook", "compression", "sync", "num_failures", "num_heartbeats", "machine_id"),
}
"""What every job has that clients of before know of, beside the six keys of the legacy form."""

NEW_KEYS = {
    *("attempt", "priority", "labels", "waiting_for", "webhook_events", "max_runtime_s", "not_before"),
    *("retry_backoff_s", "on_hold", "banned_nodes"),
}
CHANGES = ["hold", "resume", "requeue", "unban", "prioritize"]
BODIES = {"prioritize": {"priority": 9}}
"""What changes take; without an entry nothing."""
REPORTS = ["heartbeat", "completed", "failed", "released"]


def refused(reply: Reply, status: int, error: str | None = None) -> dict[str, Any]:
    """The body of a refusal, which must be JSON of the one shape."""
    got, headers, body = reply
    assert got == status, body
    assert headers["Content-Type"] == "application/json"
    replies.ErrorReply.model_validate(body)
    assert error is None or body["error"] == error
    return dict(body)


def report(group: str, machine_id: str = "node-1", **more: Any) -> dict[str, Any]:
    """What a node says of itself when it reports on a job."""
    return {"machine_id": machine_id, "container_group_id": group} | more


def lease(api: ApiUser, group: str, machine_id: str = "node-1", **how: Any) -> dict[str, Any] | None:
    """The job that a poll without waiting gives this node."""
    jobs = api.ok("GET", f"/work?machine_id={machine_id}&container_group_id={group}", **how)
    assert len(jobs) <= 1
    return jobs[0] if jobs else None


def leased(api: ApiUser, group: str, machine_id: str = "node-1", **job: Any) -> dict[str, Any]:
    """A job that was submitted just now and is held by this node."""
    submitted = api.submit(job_body(container_group_id=group, **job))
    got = lease(api, group, machine_id)
    assert got is not None
    assert got["id"] == submitted["id"]
    return got


def operations(api: ApiUser) -> list[tuple[str, str]]:
    """The method and the path, with its parameters' names, of every route that asks who calls."""
    described = [
        (method.upper(), path, operation.get("security"))
        for path, item in api.ok("GET", "/openapi.json")["paths"].items()
        for method, operation in item.items()
    ]
    assert {path for _, path, security in described if security == [{}]} == {"/healthz", "/readyz"}
    return [(method, path) for method, path, security in described if security != [{}]]


def assert_admin_only(api: ApiUser, method: str, path: str) -> None:
    """A user's call is 403, whatever its body."""
    refused(api.request(method, path), 403, "Forbidden")
    refused(api.request(method, path, body=b"{"), 403, "Forbidden")


def change(api: ApiUser, job: dict[str, Any], name: str, **how: Any) -> dict[str, Any]:
    """The job after a change that must be 200."""
    status, headers, changed = api.request("POST", f"/jobs/{job['id']}/{name}", **how)
    assert status == 200, changed
    assert headers["Content-Type"] == "application/json"
    replies.JobReply.model_validate(changed)
    assert changed["id"] == job["id"]
    return dict(changed)
