"""What clients may send to submit jobs: what a job does, brings and leaves."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    Strict,
    model_validator,
)

from kelpie.http.models import WHOLE, Body, GroupId, Query, printable
from kelpie.job import (
    LEGACY_KEYS,
    MAX_BATCH,
    Direction,
    JobSpec,
    LegacySync,
    Sync,
    SyncEntry,
    WebhookEvent,
)
from kelpie.patterns import MAX_PATTERN_LENGTH, compile_pattern
from kelpie.secrets import MASK
from kelpie.store.submissions import MAX_FAILURES

MAX_COMMAND_BYTES = 1024 * 1024
"""The command, its arguments and its environment together, well below what Linux passes to a program."""


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("it contains a NUL character, which no program can be given")
    return value


def _not_masked(value: str) -> str:
    if value == MASK:  # whoever queues a listed job again would have a program start with this for a key
        raise ValueError(
            f"{MASK} stands for a secret, which lists do not show; GET /jobs/:id shows it to its owner"
        )
    return value


def _folder(value: str) -> str:
    """A prefix names a folder: it ends in a slash, unless it is the whole bucket."""
    return value if not value or value.endswith("/") else value + "/"


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"it is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it must be a URL that begins with http:// or https:// and names a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it must not contain a user name or password")
    if not value.isascii() or any(character <= " " or character == "\\" for character in value):
        raise ValueError("it must be ASCII without spaces, control characters or backslashes")
    return value


def _variable(value: str) -> str:
    if "=" in value or "\0" in value:
        raise ValueError("the name of a variable contains neither = nor NUL")
    return value


_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _iso_time(value: object) -> object:
    # Numbers, and text that holds one, would be taken for seconds since 1970.
    if not isinstance(value, str) or _ISO_TIME.fullmatch(value) is None:
        raise ValueError("it must be an ISO-8601 time with its offset, such as 2027-01-31T08:00:00Z")
    return value


def _showable(value: datetime) -> datetime:
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        utc = None
    if utc is None or utc < _EPOCH:
        raise ValueError("it must be in the years 1970 to 9999 of UTC")
    return utc


Argument = Annotated[str, Field(max_length=131_000), AfterValidator(_no_nul), AfterValidator(_not_masked)]
Variable = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_variable)]
Bucket = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(printable)]
Prefix = Annotated[
    str,
    Field(max_length=1024, description="A / is added at the end when it is missing."),
    AfterValidator(printable),
    AfterValidator(_folder),
]
LocalPath = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_no_nul)]


def _runnable(pattern: str) -> str:
    compile_pattern(pattern)  # an invalid one must not reach a worker, and then the next, and the next
    return pattern


Pattern = Annotated[
    str,
    Field(
        max_length=MAX_PATTERN_LENGTH,
        description="A regular expression in ECMAScript syntax, searched in the path relative to the folder.",
    ),
    AfterValidator(_runnable),
]
Webhook = Annotated[str, Field(max_length=2048), AfterValidator(_http_url)]
EventName = Annotated[WebhookEvent, Strict(False)]  # in JSON it is text
LabelName = Annotated[str, Field(min_length=1, max_length=63, pattern="^[^=]+$"), AfterValidator(printable)]
LabelValue = Annotated[str, Field(max_length=128), AfterValidator(printable)]


class SyncEntryBody(Body):
    """One folder ↔ bucket/prefix pair."""

    bucket: Bucket
    prefix: Prefix
    local_path: LocalPath
    pattern: Pattern | None = None

    def entry(self, direction: Direction) -> SyncEntry:
        """As plain data."""
        return SyncEntry(self.bucket, self.prefix, self.local_path, direction, self.pattern)


class DownloadBody(SyncEntryBody):
    """A folder that is filled before the command runs."""

    direction: Literal["download"]


class UploadBody(SyncEntryBody):
    """A folder whose files are stored."""

    direction: Literal["upload"]


MAX_ENTRIES = 100


class SyncBody(Body):
    """What a job brings and what it leaves. An empty object: queue only."""

    before: Annotated[list[DownloadBody], Field(max_length=MAX_ENTRIES)] | None = None
    during: Annotated[list[UploadBody], Field(max_length=MAX_ENTRIES)] | None = None
    after: Annotated[list[UploadBody], Field(max_length=MAX_ENTRIES)] | None = None

    def plan(self) -> Sync:
        """As plain data."""
        return Sync(
            before=tuple(entry.entry(Direction.DOWNLOAD) for entry in self.before or ()),
            during=tuple(entry.entry(Direction.UPLOAD) for entry in self.during or ()),
            after=tuple(entry.entry(Direction.UPLOAD) for entry in self.after or ()),
        )


class JobBody(Body):
    """A job to be done. Exactly one of `sync` and the six legacy keys (`input_bucket` …) is given."""

    command: Annotated[Argument, Field(min_length=1)]
    arguments: Annotated[list[Argument], Field(max_length=10_000)] | None = None
    environment: Annotated[dict[Variable, Argument], Field(max_length=1000)] | None = None
    container_group_id: GroupId
    max_failures: Annotated[int, Field(ge=1, le=MAX_FAILURES), WHOLE] | None = None
    heartbeat_interval: (
        Annotated[int, Field(ge=1, le=86_400, description="Seconds; a lease lasts two of them."), WHOLE]
        | None
    ) = None
    webhook: Webhook | None = None
    webhook_events: (
        Annotated[
            list[EventName],
            Field(
                max_length=len(WebhookEvent),
                description="What the webhook is called for; absent: running, completed and failed.",
            ),
        ]
        | None
    ) = None
    compression: Annotated[bool, Field(description="Store objects as gzip, key + .gz.")] | None = None
    sync: SyncBody | None = None
    input_bucket: Bucket | None = None
    input_prefix: Prefix | None = None
    checkpoint_bucket: Bucket | None = None
    checkpoint_prefix: Prefix | None = None
    output_bucket: Bucket | None = None
    output_prefix: Prefix | None = None
    priority: Annotated[int, Field(ge=0, le=255, description="Higher is leased first."), WHOLE] | None = None
    labels: Annotated[dict[LabelName, LabelValue], Field(max_length=64)] | None = None
    max_runtime_s: (
        Annotated[
            int,
            Field(ge=1, le=2**31, description="From lease to report; a longer attempt has failed."),
            WHOLE,
        ]
        | None
    ) = None
    not_before: (
        Annotated[
            AwareDatetime,
            Strict(False),  # the check before it hands on text, which strict models take from JSON only
            BeforeValidator(_iso_time),
            AfterValidator(_showable),
            Field(description="ISO-8601 with its offset; the job is not leased earlier."),
        ]
        | None
    ) = None
    retry_backoff_s: (
        Annotated[
            int,
            Field(
                ge=0,
                le=86_400,
                description="The pause after the first failure; each further one doubles it, up to a day.",
            ),
            WHOLE,
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _has_one_plan(self) -> Self:
        given = [name for name in LEGACY_KEYS if getattr(self, name) is not None]
        if self.sync is not None and given:
            raise ValueError(f"sync and {given[0]} exclude each other; give one of them")
        if self.sync is None and len(given) < len(LEGACY_KEYS):
            missing = [name for name in LEGACY_KEYS if name not in given]
            what = "sync is missing ({} means: queue only)" if not given else f"{missing[0]} is missing"
            raise ValueError(f"{what}; give sync, or all six of {', '.join(LEGACY_KEYS)}")
        return self

    @model_validator(mode="after")
    def _fits_into_a_program(self) -> Self:
        texts = [self.command, *(self.arguments or ())]
        for name, value in (self.environment or {}).items():
            texts += (name, value)
        if sum(len(text.encode()) for text in texts) > MAX_COMMAND_BYTES:
            raise ValueError(
                f"command, arguments and environment together are longer than {MAX_COMMAND_BYTES} bytes"
            )
        return self

    def spec(self) -> JobSpec:
        """As plain data, with the defaults of whatever is absent."""
        wire: dict[str, Any] = self.model_dump(exclude={"sync", *LEGACY_KEYS}, exclude_none=True)
        plan: dict[str, Any] = (
            {"sync": self.sync.plan()} if self.sync is not None else {"legacy": self._legacy()}
        )
        wire["arguments"] = tuple(wire.get("arguments", ()))
        if self.not_before is not None:
            wire["not_before"] = round(self.not_before.timestamp() * 1000)
        if self.webhook_events is not None:
            wire["webhook_events"] = tuple(dict.fromkeys(self.webhook_events))
        return JobSpec(**wire, **plan)

    def _legacy(self) -> LegacySync:
        return LegacySync(**{name: getattr(self, name) for name in LEGACY_KEYS})


class BatchBody(RootModel[Annotated[list[JobBody], Field(min_length=1, max_length=MAX_BATCH)]]):
    """Jobs that are queued together, or not at all."""

    model_config = ConfigDict(strict=True, frozen=True)


class SubmitHeaders(Query):
    """How a submit is recognized when it is repeated."""

    idempotency_key: Annotated[
        Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")] | None,
        Field(
            alias="Idempotency-Key",
            description="The same jobs under the same key, within a day, are submitted once.",
        ),
    ] = None
