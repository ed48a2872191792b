"""Builders of the data that tests submit: each takes what matters to the test and fills in the rest."""

from __future__ import annotations

from typing import Any

from kelpie.job import JobSpec, Sync

GROUP = "group-1"


def spec(**overrides: Any) -> JobSpec:
    """A job definition: a queue-only `true` in the queue GROUP."""
    values: dict[str, Any] = {"command": "true", "container_group_id": GROUP, "sync": Sync()}
    return JobSpec(**(values | overrides))


def job_body(**overrides: Any) -> dict[str, Any]:
    """The JSON body of POST /jobs for a queue-only `true` in the queue GROUP."""
    return {"command": "true", "container_group_id": GROUP, "sync": {}} | overrides


def shell(script: str, **overrides: Any) -> dict[str, Any]:
    """The body of a job that runs a shell script."""
    return job_body(command="sh", arguments=["-c", script]) | overrides


def event_entry(kind: str, job_id: str, *, status: str = "running", node: str = "n") -> dict[Any, Any]:
    """An event as it is kept in the stream of a queue."""
    return {"event": "\n".join((kind, job_id, "1", status, "1", node))}
