"""What the store knows besides jobs: queues, users and events, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kelpie.job import JobStatus

ADMIN_ID = "00000000-0000-0000-0000-000000000000"
"""The user who sees and may do everything."""

ADMIN_NAME = "admin"


@dataclass(frozen=True, slots=True)
class Queue:
    """The jobs of one container group of one user."""

    number: int  # 1, 2, 3 …; never changes and is never used again
    user_id: str
    container_group_id: str


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who owns jobs."""

    id: str
    username: str
    created: int  # ms since 1970 UTC
    webhook_secret: str  # signs this user's webhooks, in the form of Standard Webhooks: whsec_ and base64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of an API key: never the key itself."""

    digest: str  # sha256 of the key, hexadecimal; names the key to :meth:`Users.revoke`
    user_id: str
    org_name: str
    project_name: str
    created: int  # ms since 1970 UTC


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a request speaks for."""

    user_id: str
    username: str
    org_name: str
    project_name: str

    @property
    def is_admin(self) -> bool:
        """Whether this is the admin."""
        return self.user_id == ADMIN_ID


class EventType(StrEnum):
    """What happened to a job."""

    SUBMITTED = "submitted"
    RUNNING = "running"  # a node was given a lease; once per attempt
    REVIVED = "revived"  # a late heartbeat renewed an expired lease that nobody had taken
    INTERRUPTED = "interrupted"  # a lease expired; the job waits for another node
    RELEASED = "released"  # a node handed the job back in good order
    APP_FAILED = "app_failed"  # an attempt failed and the job waits for another node
    SYNC_FAILED = "sync_failed"  # likewise, with its data
    COMPLETED = "completed"
    FAILED = "failed"  # the last failure that max_failures allows
    CANCELED = "canceled"
    HELD = "held"  # its owner holds the job back
    RESUMED = "resumed"  # and lets it go on
    REQUEUED = "requeued"  # a failed or canceled job was opened again, or a delayed one goes at once
    UNBANNED = "unbanned"  # a node may have the job again
    PURGED = "purged"


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a queue's event stream, written by the script that changed the job."""

    id: str  # place in the stream: the ``after_id`` of the next read
    type: EventType
    job_id: str
    attempt: int  # 0 before the first
    node: str | None
    status: JobStatus  # of the job after the change
    time: int  # ms since 1970 UTC
