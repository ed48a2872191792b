"""What a job is to be, from the few words that people write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from kelpie.errors import InvalidInputError
from kelpie.job import Direction, JobSpec, Sync, SyncEntry


def job_spec(
    argv: Sequence[str],
    *,
    queue: str,
    before: Iterable[str | SyncEntry] = (),
    during: Iterable[str | SyncEntry] = (),
    after: Iterable[str | SyncEntry] = (),
    environment: Mapping[str, str] | None = None,
    not_before: int | datetime | None = None,
    **limits: Any,
) -> JobSpec:
    """The definition of a job that runs ``argv``. InvalidInputError names what is wrong."""
    if not argv:
        raise InvalidInputError("a job needs a command")
    if isinstance(not_before, datetime):
        if not_before.tzinfo is None:
            raise InvalidInputError(f"not_before is {not_before}, without its offset from UTC")
        not_before = round(not_before.timestamp() * 1000)
    down, up = Direction.DOWNLOAD, Direction.UPLOAD
    try:
        return JobSpec(
            command=argv[0],
            arguments=tuple(argv[1:]),
            container_group_id=queue,
            environment=dict(environment or {}),
            sync=Sync(
                before=tuple(sync_entry(entry, down) for entry in before),
                during=tuple(sync_entry(entry, up) for entry in during),
                after=tuple(sync_entry(entry, up) for entry in after),
            ),
            not_before=not_before,
            **limits,
        )
    except TypeError as error:
        raise InvalidInputError(f"not a field of a job: {error}") from error


def sync_entry(text: str | SyncEntry, direction: Direction) -> SyncEntry:
    """The entry that ``s3://bucket/prefix:/folder`` or ``/folder:s3://bucket/prefix`` describes.

    Either order is understood whatever the direction. InvalidInputError says what is wrong.
    """
    if isinstance(text, SyncEntry):
        return text
    shape = "s3://bucket/prefix:/folder" if direction is Direction.DOWNLOAD else "/folder:s3://bucket/prefix"
    wrong = f"{text!r} is not a sync entry; write {shape}"
    if text.startswith("s3://"):
        location, colon, folder = text.removeprefix("s3://").rpartition(":")
    else:
        folder, colon, location = text.partition(":s3://")
    if not colon or not folder or text.count("s3://") > 1:
        raise InvalidInputError(wrong)
    bucket, _, prefix = location.partition("/")
    if not bucket or prefix.startswith("/"):
        raise InvalidInputError(
            f"{wrong}: the bucket is empty" if not bucket else f"{wrong}: '//' in the prefix"
        )
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    return SyncEntry(bucket=bucket, prefix=prefix, local_path=folder, direction=direction)


def body(job: JobSpec | Mapping[str, Any]) -> dict[str, Any]:
    """What is sent: without what has its default, of which an older API may not know."""
    if not isinstance(job, JobSpec):
        return dict(job)
    wire = job.to_wire()
    defaults = JobSpec(command="", container_group_id="").to_wire()
    return {name: value for name, value in wire.items() if name not in defaults or value != defaults[name]}
