"""What clients get, as pydantic models: they make /openapi.json, and tests hold every answer against them."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel

from kelpie.job import JobStatus, Outcome, WebhookEvent
from kelpie.progress import MAX_POINT_METRICS
from kelpie.store import Scope
from kelpie.store.progress_history import MAX_POINTS
from kelpie.transfers import TransferState

Time = Annotated[AwareDatetime, Field(description="ISO-8601 UTC with milliseconds and Z.")]


class Reply(BaseModel):
    """A JSON object that we send."""

    model_config = ConfigDict(extra="forbid")


class FieldError(Reply):
    """One wrong field."""

    path: Annotated[str, Field(examples=["sync.before.0.bucket"])]
    message: str


class ErrorReply(Reply):
    """A refusal."""

    error: Annotated[str, Field(description="A short title.")]
    message: Annotated[str, Field(description="What was wrong, and what to do.")]
    errors: Annotated[list[FieldError] | None, Field(description="Each wrong field of an invalid input.")] = (
        None
    )
    index: Annotated[int | None, Field(description="The place of the first bad job of a batch.")] = None
    reason: Annotated[
        Literal["superseded", "canceled", "completed", "failed", "not_holder", "closed"] | None,
        Field(description="Why the caller does not hold the job."),
    ] = None
    request_id: Annotated[str | None, Field(description="Names an internal error in the server's log.")] = (
        None
    )


class SyncEntryReply(Reply):
    """One folder ↔ bucket/prefix pair."""

    bucket: str
    prefix: str
    local_path: str
    direction: Literal["download", "upload"]
    pattern: str | None = None


class SyncReply(Reply):
    """What a job brings and what it leaves."""

    before: list[SyncEntryReply] | None = None
    during: list[SyncEntryReply] | None = None
    after: list[SyncEntryReply] | None = None


class AttemptReply(Reply):
    """One lease from grant to end."""

    attempt: int
    machine_id: str
    start: Time
    end: Time | None
    outcome: Outcome | None
    exit_code: int | None
    reason: str | None
    last_heartbeat: Time | None
    signal: Annotated[int | None, Field(description="That killed the command.")]
    out_of_memory: Annotated[bool, Field(description="The kernel killed the command for lack of memory.")]
    stderr_tail: Annotated[
        str | None, Field(description="The last lines that the command wrote to stderr; may be masked.")
    ]


class UploadBacklogReply(Reply):
    """What of a job's data is not in the bucket yet, as its node said with its last heartbeat."""

    files: Annotated[int, Field(description="Changes that wait, or are on their way.")]
    bytes: int
    oldest_s: Annotated[float | None, Field(description="Age of the oldest of them, in seconds.")]


class ProgressReply(Reply):
    """What a job's command says of its progress."""

    fraction: Annotated[float | None, Field(description="Of the work, from 0 to 1.")]
    step: float | None
    total: Annotated[float | None, Field(description="Steps.")]
    checkpoint: Annotated[Time | None, Field(description="When it last said that one is written.")]
    updated: Annotated[Time, Field(description="When it last said anything.")]
    attempt: Annotated[int, Field(description="The attempt that said so.")]
    eta: Annotated[
        Time | None,
        Field(description="When the job may be done, while a node runs it and the rate is known."),
    ]
    metrics: Annotated[dict[str, float] | None, Field(description="Only of one job, not in lists.")] = None


class EntryTransfersReply(Reply):
    """What one attempt has moved for one entry of its job's sync."""

    state: Annotated[
        TransferState,
        Field(description="`waiting` for its time, `moving`, or `done`: all is in place and verified."),
    ]
    files: Annotated[int, Field(description="Moved; every version of a checkpoint is one.")]
    bytes: Annotated[
        int, Field(description="Of these, and of what has arrived of others, as the storage holds them.")
    ]
    unchanged: Annotated[int, Field(description="Files that were there already, and were not moved.")]
    waiting_files: Annotated[int, Field(description="To be moved yet, with those on their way.")]
    waiting_bytes: int
    failures: Annotated[int, Field(description="Transfers that failed after all their tries.")]
    last: Annotated[Time | None, Field(description="When a file was last moved.")]


class TransfersReply(Reply):
    """What was moved for the entries of a job's sync, in their order, as a node last said."""

    attempt: Annotated[int, Field(description="The attempt whose node said so.")]
    updated: Annotated[Time, Field(description="When that was.")]
    before: list[EntryTransfersReply]
    during: list[EntryTransfersReply]
    after: list[EntryTransfersReply]


class ProgressPointReply(Reply):
    """How far a job was at one time."""

    time: Annotated[Time, Field(description="When its command said so.")]
    attempt: Annotated[int, Field(description="The attempt that said so.")]
    fraction: Annotated[float | None, Field(description="Of the work, from 0 to 1.")]
    step: float | None
    metrics: Annotated[
        dict[str, float],
        Field(description=f"The first {MAX_POINT_METRICS} that it told, to six digits."),
    ]


class JobReply(Reply):
    """A job. With `sync` the six legacy keys are absent; with them `sync` is null."""

    id: UUID
    user_id: UUID
    command: str
    arguments: list[str]
    environment: Annotated[
        dict[str, str],
        Field(description="In lists, and to others than the owner, the values of secrets are `[masked]`."),
    ]
    container_group_id: str
    max_failures: int
    heartbeat_interval: Annotated[int, Field(description="Seconds.")]
    webhook: str | None
    webhook_events: list[WebhookEvent] | None
    compression: bool
    sync: SyncReply | None
    input_bucket: str | None = None
    input_prefix: str | None = None
    checkpoint_bucket: str | None = None
    checkpoint_prefix: str | None = None
    output_bucket: str | None = None
    output_prefix: str | None = None
    priority: int
    labels: dict[str, str]
    max_runtime_s: int | None
    not_before: Time | None
    retry_backoff_s: int
    status: JobStatus
    created: Time
    started: Time | None
    completed: Time | None
    canceled: Time | None
    failed: Time | None
    heartbeat: Time | None
    num_failures: int
    num_heartbeats: int
    machine_id: Annotated[str | None, Field(description="The node of the last attempt.")]
    attempt: Annotated[int, Field(description="The number of the last attempt; 0 before the first.")]
    on_hold: Annotated[bool, Field(description="Kept from being leased until it is resumed.")]
    banned_nodes: list[str]
    waiting_for: Annotated[str | None, Field(description="Why a live job is not running now.")]
    attempts: Annotated[list[AttemptReply] | None, Field(description="Only with ?expand=attempts.")] = None
    transfers: Annotated[
        TransfersReply | None,
        Field(description="Only with ?expand=transfers; null when no node has told any."),
    ] = None
    upload_backlog: Annotated[
        UploadBacklogReply | None,
        Field(description="Only of one job, while its node has something to upload."),
    ] = None
    progress: Annotated[
        ProgressReply | None, Field(description="Only of jobs whose command tells it: absent otherwise.")
    ] = None
    progress_history: Annotated[
        list[ProgressPointReply] | None,
        Field(
            description=f"Only with ?expand=progress_history: at most {MAX_POINTS} points spread evenly "
            "over time, oldest first, the last word at the end."
        ),
    ] = None


class JobListReply(RootModel[list[JobReply]]):
    """The jobs of a batch, in its order."""


class JobPageReply(Reply):
    """One page of jobs."""

    count: Annotated[int, Field(alias="_count", description="Jobs of this page.")]
    jobs: list[JobReply]
    next_cursor: Annotated[
        str | None, Field(description="The `cursor` of the next page; null: there is none.")
    ]


class WorkReply(JobReply):
    """A job with the right to run it."""

    lease: Annotated[str, Field(description="The secret of this attempt; shown with every report.")]
    lease_expires: Time
    fence: Annotated[int, Field(description="Strictly increasing over all leases of the queue.")]


class WorkListReply(RootModel[list[WorkReply]]):
    """One job or none."""


class MessageReply(Reply):
    """It is done."""

    message: str


class CountReply(Reply):
    """How many were touched."""

    count: int


class HeartbeatReply(Reply):
    """Go on, or stop and why: `canceled` when the caller does not hold the job (any more)."""

    status: JobStatus
    reason: str | None
    lease_expires: Time | None
    drain: Annotated[
        bool, Field(description="The node is to be empty: store what there is, and release the job.")
    ]


class FailureReply(MessageReply):
    """The failure is counted."""

    status: JobStatus
    num_failures: int
    node_bans: Annotated[int, Field(description="Live jobs that the node is banned from.")]
    reallocate: Annotated[bool, Field(description="The node should ask for its own replacement.")]


class UserReply(Reply):
    """A user."""

    id: UUID
    username: str
    created: Time


class UserPageReply(Reply):
    """One page of users."""

    count: Annotated[int, Field(alias="_count", description="Users of this page.")]
    users: list[UserReply]


class TokenReply(Reply):
    """An API key, shown once."""

    token: str


class KeyReply(Reply):
    """What is kept of an API key; never the key itself."""

    id: UUID
    prefix: Annotated[str | None, Field(description="How the key begins, to tell keys apart.")]
    name: str | None
    scopes: Annotated[list[Scope] | None, Field(description="Null: a full key, all that its user may do.")]
    org_name: str
    project_name: str
    created: Time
    expires: Time | None
    last_used: Annotated[Time | None, Field(description="Up to a minute late.")]


class KeyListReply(Reply):
    """The API keys of a user, oldest first."""

    keys: list[KeyReply]


class NewKeyReply(KeyReply):
    """A new API key."""

    token: Annotated[str, Field(description="The key itself, shown this once.")]


class CallerReply(Reply):
    """The caller."""

    id: UUID
    username: str
    created: Time
    org_name: str | None
    project_name: str | None
    is_admin: bool
    scopes: Annotated[list[Scope] | None, Field(description="Null: all that the user may do.")]
    key_id: Annotated[UUID | None, Field(description="Of the API key that was shown, if one was.")]
    machine_id: Annotated[str | None, Field(description="Of a node's own identity: the machine it is.")]
    webhook_secret: Annotated[
        str | None,
        Field(description="Verifies the webhooks of this user's jobs; null without the scope submit."),
    ]


class HealthReply(Reply):
    """It works."""

    status: Literal["ok"]
