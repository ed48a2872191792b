"""What the store knows besides jobs: queues, users and events, as plain data."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import StrEnum

from kelpie.job import JobStatus

ADMIN_ID = "00000000-0000-0000-0000-000000000000"
"""The user who sees and may do everything."""

ADMIN_NAME = "admin"

_KEY_IDS = uuid.UUID("5f2d4a8e-0c1b-5a7e-9d3f-6b8c2e4a1f07")


class Scope(StrEnum):
    """What an API key may be limited to. A key without scopes may do all that its user may."""

    SUBMIT = "submit"  # submit jobs, and see, change and delete what is the user's
    READ = "read"  # see what is the user's, and change nothing
    WORK = "work"  # ask for work and report on it, nothing else
    ADMIN = "admin"  # what only the admin may do; for keys of the admin alone


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

    digest: str  # sha256 of the key, hexadecimal; never shown
    user_id: str
    org_name: str
    project_name: str
    created: int  # ms since 1970 UTC
    prefix: str | None = None  # how it begins, for people to tell keys apart; None: not a key that we made
    name: str | None = None
    scopes: frozenset[Scope] | None = None  # None: everything that its user may do
    expires: int | None = None  # ms since 1970 UTC
    last_used: int | None = None  # ms since 1970 UTC, a minute late at most

    @property
    def id(self) -> str:
        """Names the key to the world. It follows from the digest, but the digest does not follow from it."""
        return key_id_of(self.digest)


def key_id_of(digest: str) -> str:
    """The public id of the key with that digest."""
    return str(uuid.uuid5(_KEY_IDS, digest))


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a request speaks for, and how far."""

    user_id: str
    username: str
    org_name: str
    project_name: str
    scopes: frozenset[Scope] | None = None  # None: everything that the user may do
    machine_id: str | None = None  # of a node's own identity: it speaks for this machine only
    workload_id: str | None = None  # of a node's own identity, where that names its workload
    key_id: str | None = field(default=None, compare=False)  # of an API key
    key_expires: int | None = field(default=None, compare=False)  # of an API key, ms since 1970 UTC

    def may(self, scope: Scope) -> bool:
        """Whether the credentials allow what ``scope`` stands for."""
        if scope is Scope.ADMIN and self.user_id != ADMIN_ID:
            return False
        if self.scopes is None or scope in self.scopes:
            return True
        return scope is Scope.READ and Scope.SUBMIT in self.scopes

    @property
    def is_admin(self) -> bool:
        """Whether this is the admin, with credentials that say so."""
        return self.may(Scope.ADMIN)

    @property
    def may_manage_keys(self) -> bool:
        """Only a full key makes and ends keys: no other credential could outlive its own end through them."""
        return self.key_id is not None and self.scopes is None


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
    PRIORITIZED = "prioritized"  # it has another priority
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
