"""What nodes may send: polls for work and reports on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

from kelpie.http.job_models import MAX_ENTRIES
from kelpie.http.models import WHOLE, Body, GroupId, MachineId, Query, printable
from kelpie.job import (
    MAX_LOG_BATCH_LINES,
    MAX_LOG_LINE_CHARS,
    MAX_STDERR_CHARS,
    CommandEnd,
    LogBatch,
    LogLine,
    LogStream,
    Outcome,
)
from kelpie.progress import (
    MAX_AGE_S,
    MAX_METRIC_NAME_CHARS,
    MAX_METRICS,
    MAX_RATE,
    MAX_STEP,
    ProgressReport,
)
from kelpie.store.logs import MAX_LINE_NUMBER
from kelpie.transfers import EntryTransfers, TransferReport, TransferState

MAX_TIME_MS = 253_402_300_799_999
"""The last millisecond of the year 9999, the last one that has a name."""


class WorkQuery(Query):
    """Who asks for work, and how long the answer may take."""

    machine_id: MachineId
    container_group_id: GroupId
    wait: Annotated[
        float, Field(ge=0, le=20, allow_inf_nan=False, description="Long poll: seconds to wait for a job.")
    ] = 0


class WorkHeaders(Query):
    """How a poll is recognized when it is repeated."""

    idempotency_key: Annotated[
        Annotated[str, Field(min_length=16, max_length=128, pattern=r"^[\x21-\x7e]+$")] | None,
        Field(
            alias="Idempotency-Key",
            description="The same key again, after a lost answer, gives the same job and the same lease.",
        ),
    ] = None


class ReportBody(Body):
    """Who reports: the node, and the lease that it was given with the job."""

    machine_id: MachineId
    container_group_id: GroupId
    lease: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=256,
                description="The secret that came with the job. With it, the lease alone is judged.",
            ),
        ]
        | None
    ) = None


Count = Annotated[int, Field(ge=0, le=2**53), WHOLE]


class UploadBacklogBody(Body):
    """What of the job's data is not in the bucket yet."""

    files: Annotated[Count, Field(description="Changes that wait, or are on their way.")]
    bytes: Count
    oldest_s: Annotated[
        float | None, Field(ge=0, le=1e9, description="Age of the oldest of them, in seconds.")
    ] = None


MetricName = Annotated[str, Field(min_length=1, max_length=MAX_METRIC_NAME_CHARS), AfterValidator(printable)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Age = Annotated[float, Field(ge=0, le=MAX_AGE_S, allow_inf_nan=False)]


class ProgressBody(Body):
    """What the command says of its progress."""

    fraction: Annotated[Finite, Field(ge=0, le=1)] | None = None
    step: Annotated[Finite, Field(ge=0, le=MAX_STEP)] | None = None
    total: Annotated[Finite, Field(ge=0, le=MAX_STEP)] | None = None
    metrics: Annotated[dict[MetricName, Finite], Field(max_length=MAX_METRICS)] | None = None
    checkpoint_age_s: Annotated[
        Age | None, Field(description="Seconds since it said that a checkpoint is written.")
    ] = None
    age_s: Annotated[Age, Field(description="Seconds since it said anything.")] = 0.0
    rate: Annotated[Finite, Field(ge=0, le=MAX_RATE, description="Of the work per second.")] | None = None

    @property
    def report(self) -> ProgressReport:
        """As plain data."""
        return ProgressReport(
            self.fraction,
            self.step,
            self.total,
            self.metrics or {},
            self.checkpoint_age_s,
            self.age_s,
            self.rate,
        )


class EntryTransfersBody(Body):
    """What the attempt has moved for one entry of its job's sync."""

    state: Annotated[TransferState, Strict(False)] = TransferState.WAITING  # in JSON it is text
    files: Annotated[Count, Field(description="Moved; every version of a checkpoint is one.")] = 0
    bytes: Annotated[Count, Field(description="Of these, and of what has arrived of others.")] = 0
    unchanged: Annotated[Count, Field(description="Files that were there already.")] = 0
    waiting_files: Annotated[Count, Field(description="To be moved yet, with those on their way.")] = 0
    waiting_bytes: Count = 0
    failures: Annotated[Count, Field(description="Transfers that failed after all their tries.")] = 0
    last_age_s: Annotated[Age | None, Field(description="Seconds since a file was last moved.")] = None


Entries = Annotated[
    list[EntryTransfersBody], Field(max_length=MAX_ENTRIES, description="In the order of the job's entries.")
]


class TransfersBody(Body):
    """What the attempt has moved for each entry of its job's sync."""

    before: Entries | None = None
    during: Entries | None = None
    after: Entries | None = None

    @property
    def report(self) -> TransferReport:
        """As plain data."""
        phases = (self.before, self.during, self.after)
        return TransferReport(
            *(tuple(EntryTransfers(**entry.model_dump()) for entry in told or ()) for told in phases)
        )


class HeartbeatBody(ReportBody):
    """A sign of life, what the node has moved and has still to upload, and how far the command is."""

    upload_backlog: Annotated[UploadBacklogBody | None, Field(description="Absent: as it said before.")] = (
        None
    )
    progress: Annotated[ProgressBody | None, Field(description="Absent: as it said before.")] = None
    transfers: Annotated[TransfersBody | None, Field(description="Absent: as it said before.")] = None


class FailureBody(ReportBody):
    """A failure, and what is known of it."""

    exit_code: Annotated[int, Field(ge=-(2**31), le=2**31 - 1), WHOLE] | None = None
    reason: Annotated[str, Field(max_length=2000)] | None = None
    outcome: Literal["app_failed", "sync_failed"] | None = None
    signal: Annotated[int, Field(ge=1, le=64, description="That killed the command."), WHOLE] | None = None
    out_of_memory: Annotated[bool, Field(description="The kernel killed it for lack of memory.")] | None = (
        None
    )
    stderr_tail: (
        Annotated[
            str, Field(max_length=MAX_STDERR_CHARS, description="The last lines that it wrote to stderr.")
        ]
        | None
    ) = None

    @property
    def kind(self) -> Outcome:
        """The outcome that is reported."""
        return Outcome(self.outcome or Outcome.APP_FAILED)

    @property
    def end(self) -> CommandEnd:
        """What is known of the command's end."""
        return CommandEnd(self.signal, bool(self.out_of_memory), self.stderr_tail)


class LogLineBody(Body):
    """A line that a job's command printed."""

    stream: Annotated[LogStream, Strict(False)]  # in JSON it is text
    time: Annotated[
        int, Field(ge=0, le=MAX_TIME_MS, description="When the node read it, in ms since 1970 UTC.")
    ]
    text: Annotated[str, Field(max_length=MAX_LOG_LINE_CHARS)]


class LogBody(ReportBody):
    """Lines that follow one another. Sent again they change nothing: their numbers tell."""

    lease: Annotated[str, Field(min_length=1, max_length=256, description="The secret of the attempt.")]
    first: Annotated[
        int,
        Field(ge=1, le=MAX_LINE_NUMBER, description="The number of the first line, from 1 per attempt."),
        WHOLE,
    ]
    lines: Annotated[list[LogLineBody], Field(min_length=1, max_length=MAX_LOG_BATCH_LINES)]

    @property
    def batch(self) -> LogBatch:
        """As plain data."""
        return LogBatch(self.first, tuple(LogLine(line.stream, line.time, line.text) for line in self.lines))
