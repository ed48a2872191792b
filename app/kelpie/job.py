"""What a job is: plain data, the states it can be in, and the moves between them.

Imports nothing outside the standard library, and nothing of ours but :func:`report`, which commands of jobs
find here; so the client, the server and the worker share it. Times are integers: milliseconds since
1970-01-01 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from kelpie.report import report as report

LEASE_INTERVALS = 2
"""A lease lasts this many heartbeat intervals. Clients know this rule."""

REALLOCATE_AT_BANS = 5
"""A node banned from this many live jobs is told to reallocate itself (rule 7)."""

MAX_BATCH = 1000
"""Jobs in one submit, at most."""


class JobStatus(StrEnum):
    """The status shown to the world. It never goes back from running to pending (rule 5)."""

    PENDING = "pending"  # submitted, never leased
    RUNNING = "running"  # leased at least once; may be waiting for its next node
    COMPLETED = "completed"  # the command exited 0 and its data is in the bucket
    CANCELED = "canceled"  # somebody asked for its end
    FAILED = "failed"  # max_failures attempts failed


LIVE = frozenset({JobStatus.PENDING, JobStatus.RUNNING})
TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.CANCELED, JobStatus.FAILED})

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    # completed and failed from pending: a user may report by hand on a job that nobody holds
    JobStatus.PENDING: frozenset(
        {JobStatus.RUNNING, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED}
    ),
    JobStatus.RUNNING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED}),
    JobStatus.COMPLETED: frozenset(),
    # by its owner's requeue only: running if it was ever leased, else pending
    JobStatus.CANCELED: frozenset({JobStatus.PENDING, JobStatus.RUNNING}),
    JobStatus.FAILED: frozenset({JobStatus.PENDING, JobStatus.RUNNING}),
}
"""Every move between statuses that a script may make; docs/concepts/states.md draws it."""


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    APP_FAILED = "app_failed"  # the command exited non-zero or died by a signal that the worker did not send
    SYNC_FAILED = "sync_failed"  # inputs could not be fetched, or outputs could not be stored
    INTERRUPTED = "interrupted"  # the lease expired and another attempt followed
    RELEASED = "released"  # handed back in good order
    CANCELED = "canceled"  # the job was canceled while this attempt ran
    SUPERSEDED = "superseded"  # the lease had expired and a user ended the job by hand


FAILURES = frozenset({Outcome.APP_FAILED, Outcome.SYNC_FAILED})
"""The outcomes that count against max_failures and ban the node. Infrastructure never counts."""

REPORTABLE = frozenset({Outcome.COMPLETED, Outcome.APP_FAILED, Outcome.SYNC_FAILED, Outcome.RELEASED})
"""The outcomes that a node may report; the store finds the others."""


class WebhookEvent(StrEnum):
    """What a job's webhook can be called for."""

    RUNNING = "running"  # a node was given a lease; once per attempt
    COMPLETED = "completed"
    FAILED = "failed"  # the last failure that max_failures allows
    CANCELED = "canceled"
    INTERRUPTED = "interrupted"  # a lease expired; the job waits for another node
    RELEASED = "released"  # a node handed the job back in good order
    APP_FAILED = "app_failed"  # an attempt failed and the job waits for another node
    SYNC_FAILED = "sync_failed"  # likewise, with its data


WEBHOOK_EVENTS = (WebhookEvent.RUNNING, WebhookEvent.COMPLETED, WebhookEvent.FAILED)
"""What it is called for unless the job says otherwise."""


class Direction(StrEnum):
    """Which way a sync entry moves data, seen from the node."""

    DOWNLOAD = "download"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class SyncEntry:
    """One folder ↔ bucket/prefix pair. ``prefix`` is empty or ends in ``/``."""

    bucket: str
    prefix: str
    local_path: str
    direction: Direction
    pattern: str | None = None  # searched in the path relative to the folder, ECMAScript syntax (RE2 subset)

    def to_wire(self) -> dict[str, Any]:
        """The JSON form of ``wire.md``: ``pattern`` is absent when unset."""
        wire: dict[str, Any] = {
            "bucket": self.bucket,
            "prefix": self.prefix,
            "local_path": self.local_path,
            "direction": self.direction.value,
        }
        if self.pattern is not None:
            wire["pattern"] = self.pattern
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> SyncEntry:
        """The entry that a validated JSON object describes."""
        return cls(
            bucket=wire["bucket"],
            prefix=wire["prefix"],
            local_path=wire["local_path"],
            direction=Direction(wire["direction"]),
            pattern=wire.get("pattern"),
        )


@dataclass(frozen=True, slots=True)
class Sync:
    """What a job brings and what it leaves. All three empty: queue only (rule 10)."""

    before: tuple[SyncEntry, ...] = ()
    during: tuple[SyncEntry, ...] = ()
    after: tuple[SyncEntry, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """The JSON form; an empty list is absent, as the submitter may have left it."""
        return {
            name: [entry.to_wire() for entry in entries]
            for name, entries in (("before", self.before), ("during", self.during), ("after", self.after))
            if entries
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Sync:
        """The plan that a validated JSON object describes."""
        return cls(
            **{
                name: tuple(SyncEntry.from_wire(entry) for entry in wire.get(name) or ())
                for name in ("before", "during", "after")
            }
        )


@dataclass(frozen=True, slots=True)
class LegacySync:
    """The six keys of the first Kelpie: input, checkpoint and output, each a bucket and a prefix."""

    input_bucket: str
    input_prefix: str
    checkpoint_bucket: str
    checkpoint_prefix: str
    output_bucket: str
    output_prefix: str

    def to_wire(self) -> dict[str, str]:
        """The six keys by name."""
        return {name: getattr(self, name) for name in LEGACY_KEYS}

    def to_sync(self, *, input_dir: str, checkpoint_dir: str, output_dir: str) -> Sync:
        """As a plan: input down; checkpoint down, then up while running; output up, during and after."""
        down, up = Direction.DOWNLOAD, Direction.UPLOAD
        checkpoint = (self.checkpoint_bucket, self.checkpoint_prefix, checkpoint_dir)
        output = SyncEntry(self.output_bucket, self.output_prefix, output_dir, up)
        return Sync(
            before=(
                SyncEntry(self.input_bucket, self.input_prefix, input_dir, down),
                SyncEntry(*checkpoint, down),
            ),
            during=(SyncEntry(*checkpoint, up), output),
            after=(output,),
        )


LEGACY_KEYS = tuple(LegacySync.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The immutable definition of a job, as its owner submitted it. Exactly one of sync and legacy is set."""

    command: str
    container_group_id: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    max_failures: int = 3
    heartbeat_interval: int = 30  # seconds
    webhook: str | None = None
    webhook_events: tuple[str, ...] | None = None  # names of WebhookEvent; None: WEBHOOK_EVENTS
    compression: bool = False  # gzip objects, key + ".gz"
    sync: Sync | None = None
    legacy: LegacySync | None = None
    priority: int = 0  # 0…255, higher first
    labels: Mapping[str, str] = field(default_factory=dict)
    max_runtime_s: int | None = None  # an attempt that takes longer, from lease to report, has failed
    not_before: int | None = None  # ms; not leased earlier
    retry_backoff_s: int = 0  # pause after the first failure; each further failure doubles it, up to a day

    @property
    def lease_ms(self) -> int:
        """How long a lease of this job lasts without a heartbeat, in milliseconds."""
        return LEASE_INTERVALS * self.heartbeat_interval * 1000

    @property
    def plan(self) -> Sync:
        """What the job brings and leaves, for people: of the legacy form the node's settings say where."""
        if self.legacy is not None:
            return self.legacy.to_sync(
                input_dir="$INPUT_DIR", checkpoint_dir="$CHECKPOINT_DIR", output_dir="$OUTPUT_DIR"
            )
        return self.sync or Sync()

    def to_wire(self) -> dict[str, Any]:
        """The submitted keys of ``wire.md``; with sync the legacy keys are absent, else sync is null."""
        wire: dict[str, Any] = {
            "command": self.command,
            "arguments": list(self.arguments),
            "environment": dict(self.environment),
            "container_group_id": self.container_group_id,
            "max_failures": self.max_failures,
            "heartbeat_interval": self.heartbeat_interval,
            "webhook": self.webhook,
            "webhook_events": None if self.webhook_events is None else list(map(str, self.webhook_events)),
            "compression": self.compression,
            "sync": None if self.sync is None else self.sync.to_wire(),
            "priority": self.priority,
            "labels": dict(self.labels),
            "max_runtime_s": self.max_runtime_s,
            "not_before": iso(self.not_before),
            "retry_backoff_s": self.retry_backoff_s,
        }
        if self.legacy is not None:
            wire |= self.legacy.to_wire()
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> JobSpec:
        """The definition that a validated JSON object (or one read back from the store) describes."""
        sync = wire.get("sync")
        legacy = {name: wire[name] for name in LEGACY_KEYS if wire.get(name) is not None}
        return cls(
            command=wire["command"],
            container_group_id=wire["container_group_id"],
            arguments=tuple(wire.get("arguments") or ()),
            environment=dict(wire.get("environment") or {}),
            max_failures=wire.get("max_failures") or 3,
            heartbeat_interval=wire.get("heartbeat_interval") or 30,
            webhook=wire.get("webhook"),
            webhook_events=None if wire.get("webhook_events") is None else tuple(wire["webhook_events"]),
            compression=bool(wire.get("compression")),
            sync=None if sync is None else Sync.from_wire(sync),
            legacy=LegacySync(**legacy) if legacy else None,
            priority=wire.get("priority") or 0,
            labels=dict(wire.get("labels") or {}),
            max_runtime_s=wire.get("max_runtime_s"),
            not_before=from_iso(wire.get("not_before")),
            retry_backoff_s=wire.get("retry_backoff_s") or 0,
        )


MAX_STDERR_LINES = 50
MAX_STDERR_CHARS = 8192
"""Of what a command said last on stderr, kept with its attempt."""


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """What is known of the end of a command that failed, beyond its exit code."""

    signal: int | None = None  # that killed it; the exit code is then 128 more
    out_of_memory: bool = False  # the kernel killed it, or a process of it, for lack of memory
    stderr_tail: str | None = None  # the last lines that it wrote to stderr


NOTHING_KNOWN = CommandEnd()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One lease from grant to end. ``end`` and ``outcome`` are None while it lasts."""

    attempt: int  # 1, 2, 3 …
    node: str
    start: int
    end: int | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    reason: str | None = None
    last_heartbeat: int | None = None
    command_end: CommandEnd = NOTHING_KNOWN

    def to_wire(self) -> dict[str, Any]:
        """The JSON form, times as ISO-8601."""
        return {
            "attempt": self.attempt,
            "machine_id": self.node,
            "start": iso(self.start),
            "end": iso(self.end),
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "reason": self.reason,
            "last_heartbeat": iso(self.last_heartbeat),
            "signal": self.command_end.signal,
            "out_of_memory": self.command_end.out_of_memory,
            "stderr_tail": self.command_end.stderr_tail,
        }


class LogStream(StrEnum):
    """Where a line of a job's log comes from."""

    STDOUT = "stdout"
    STDERR = "stderr"
    KELPIE = "kelpie"  # the worker: what it says about the other two


MAX_LOG_LINE_CHARS = 8192
"""Longer lines are told in pieces."""
MAX_LOG_BATCH_LINES = 1000
MAX_LOG_BATCH_CHARS = 256 * 1024
"""Of the lines that a node sends at once."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that a job's command printed."""

    stream: LogStream
    time: int  # ms, when its node read it
    text: str


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Lines that follow one another, numbered within their attempt."""

    first: int  # number of the first of them, from 1
    lines: tuple[LogLine, ...]

    @property
    def last(self) -> int:
        """The number of the last line."""
        return self.first + len(self.lines) - 1


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is now: its definition and its small mutable state."""

    id: str
    user_id: str
    spec: JobSpec
    status: JobStatus
    created: int
    started: int | None = None
    completed: int | None = None
    canceled: int | None = None
    failed: int | None = None
    heartbeat: int | None = None
    num_failures: int = 0
    num_heartbeats: int = 0
    machine_id: str | None = None  # the node of the last attempt
    attempt: int = 0  # the number of the last attempt; 0 before the first
    held: bool = False  # whether an attempt holds a lease now
    on_hold: bool = False  # whether its owner keeps it from being leased
    due: int | None = None  # ms; not leased earlier: not_before, or the pause after a failure
    banned_nodes: tuple[str, ...] = ()
    # Why a live job is not running now, in words; said by whoever looked at its queue too.
    waiting_for: str | None = field(default=None, compare=False)

    def to_wire(self) -> dict[str, Any]:
        """The job of ``wire.md``."""
        return self.spec.to_wire() | {
            "id": self.id,
            "user_id": self.user_id,
            "status": self.status.value,
            "created": iso(self.created),
            "started": iso(self.started),
            "completed": iso(self.completed),
            "canceled": iso(self.canceled),
            "failed": iso(self.failed),
            "heartbeat": iso(self.heartbeat),
            "num_failures": self.num_failures,
            "num_heartbeats": self.num_heartbeats,
            "machine_id": self.machine_id,
            "attempt": self.attempt,
            "on_hold": self.on_hold,
            "banned_nodes": list(self.banned_nodes),
            "waiting_for": self.waiting_for,
        }


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one node to run one job until a deadline."""

    job: Job
    secret: str  # shown with every report: the fence, a dot, and a secret of which the store keeps a hash
    fence: int  # strictly increasing over all leases of the queue, also over a failover; microseconds
    expires: int

    def to_wire(self) -> dict[str, Any]:
        """The job as ``GET /work`` hands it out."""
        return self.job.to_wire() | {
            "lease": self.secret,
            "lease_expires": iso(self.expires),
            "fence": self.fence,
        }


@dataclass(frozen=True, slots=True)
class Holder:
    """Who speaks for an attempt. With ``lease`` the lease alone is judged; without it, the node's name.

    ``may_report_unheld``: a user (not a node) may report by hand on his own job that nobody holds.
    """

    node: str
    lease: str | None = None
    may_report_unheld: bool = False


@dataclass(frozen=True, slots=True)
class UploadBacklog:
    """What of a job's data is not in the bucket yet, as its node says with a heartbeat."""

    files: int = 0  # changes that wait, or are on their way
    bytes: int = 0
    oldest_s: float | None = None  # age of the oldest of them when the node said so

    def to_wire(self) -> dict[str, Any]:
        """The JSON form of ``wire.md``."""
        return {"files": self.files, "bytes": self.bytes, "oldest_s": self.oldest_s}


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """What a heartbeat is told: go on, or stop and why."""

    status: JobStatus  # the job's status, or canceled when the caller does not hold it
    reason: str | None = None  # see LeaseLostError.reason, or max_runtime; None when the caller holds the job
    lease_expires: int | None = None
    drain: bool = False  # the node is to be empty: hand the job back in good order


@dataclass(frozen=True, slots=True)
class FinishReply:
    """What a report of an outcome is told."""

    status: JobStatus
    num_failures: int
    node_bans: int  # live jobs that the reporting node is banned from

    @property
    def reallocate(self) -> bool:
        """Whether the node should ask for its own replacement (rule 7)."""
        return self.node_bans >= REALLOCATE_AT_BANS


def iso(time_ms: int | None) -> str | None:
    """ISO-8601 UTC with milliseconds and Z; None stays None."""
    if time_ms is None:
        return None
    return (
        datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def from_iso(text: str | None) -> int | None:
    """The reverse of :func:`iso`."""
    return None if text is None else round(datetime.fromisoformat(text).timestamp() * 1000)
