"""One file on its way into a bucket.

The file is looked at before and after it is read, on the descriptor that was read: a file replaced by a
rename is finished as the version it was; a file rewritten in place is thrown away as :class:`SourceChanged`
before anything became visible. With ``changed_during_upload = "ignore"`` it is stored as it was read, as
Kelpie 0.5.0 did.

A worker that loses its lease between the last look at the gate and the moment the store acts on the request
is kept from replacing anything by the request's condition (see ``fencing``). A large file whose upload fails
keeps the parts that arrived for the next try of the same version.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import structlog

from kelpie_worker.sync.compression import SUFFIX, Compressor
from kelpie_worker.sync.conditions import Condition
from kelpie_worker.sync.context import JobContext
from kelpie_worker.sync.counts import EntryCount, Moving
from kelpie_worker.sync.errors import SourceChanged, SyncError, UploadGone
from kelpie_worker.sync.flow import Batch
from kelpie_worker.sync.transport import Slice, crc32_of
from kelpie_worker.sync.tree import Snapshot, Tree

log = structlog.get_logger(__name__)

MAX_PARTS = 10_000  # S3's limit per object
MiB = 1 << 20
SMALL = 64 * 1024
"""Bytes of a file that is read once and held, rather than twice."""
MAX_RESTARTS = 3
"""How often a file is begun anew because the storage has lost its multipart upload."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A durable object, and the version of the file that it holds."""

    bucket: str
    key: str
    etag: str
    size: int  # bytes of the object
    source: Snapshot


def object_key(prefix: str, name: str, *, compression: bool) -> str:
    """The key of the file ``name`` (relative to its folder)."""
    return f"{prefix}{name}{SUFFIX if compression else ''}"


def upload_file(
    context: JobContext,
    tree: Tree,
    name: str,
    *,
    bucket: str,
    prefix: str,
    key: str | None = None,
    moving: Moving | None = None,
) -> Generator[Batch, list[Any], Uploaded]:
    """The flow that stores one file, under the prefix or as ``key``; ``moving`` is told how far it is.

    Raises FileNotFoundError, SourceChanged, SyncError, CanceledTransfer.
    """
    if key is None:
        key = object_key(prefix, name, compression=context.compression)
    with moving or EntryCount().moving() as counted:
        return (yield from _upload(context, tree, name, bucket, key, counted))


def _upload(
    context: JobContext, tree: Tree, name: str, bucket: str, key: str, moving: Moving
) -> Generator[Batch, list[Any], Uploaded]:
    path = str(tree.root / name)
    try:
        key.encode()
    except UnicodeEncodeError:
        raise SyncError(f"the file {path!r} cannot be uploaded: its name is not valid UTF-8") from None
    context.gate.check()
    context.observer.upload_started(context.job_id, path)
    try:
        with contextlib.ExitStack() as stack:
            source = tree.open(name)
            stack.callback(os.close, source)
            before = Snapshot.of(os.fstat(source))

            def verify() -> None:
                if (
                    Snapshot.of(os.fstat(source)) != before
                    and context.settings.changed_during_upload != "ignore"
                ):
                    raise SourceChanged(f"{path} changed while it was uploaded")

            metadata = {
                "kelpie-job": context.job_id,
                "kelpie-attempt": str(context.attempt),
                "kelpie-mtime": str(before.mtime_ns),
            }
            body = source
            if context.compression:
                packed = stack.enter_context(tempfile.TemporaryFile(dir=context.settings.temp_dir))
                yield from _compress(context, source, packed)
                verify()
                metadata["kelpie-size"] = str(os.lseek(source, 0, os.SEEK_END))
                body = packed.fileno()
            size = os.fstat(body).st_size
            outgoing = _Outgoing(bucket, key, metadata, body, size, before, verify, moving)
            if size <= context.settings.part_size:
                etag = _put(context, outgoing)
            else:
                etag = yield from _multipart(context, outgoing)
            after = (
                Snapshot.of(os.fstat(source))
                if context.settings.changed_during_upload == "ignore"
                else before
            )
            return Uploaded(bucket, key, etag, size, after)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise SyncError(f"the file {path} cannot be read: {error.strerror or error}") from None
    finally:
        context.observer.upload_ended(context.job_id, path)


def _compress(context: JobContext, source: int, packed: IO[bytes]) -> Generator[Batch, list[Any], None]:
    compressor = Compressor(source, packed)
    while not compressor.ended:
        context.gate.check()
        yield Batch([compressor.step], 1)
    packed.flush()


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """What is sent, and where to."""

    bucket: str
    key: str
    metadata: dict[str, str]
    body: int  # the descriptor that is read
    size: int  # bytes of the body
    source: Snapshot
    verify: Callable[[], None]  # SourceChanged when the file is no longer the version of `source`
    moving: Moving


def _put(context: JobContext, out: _Outgoing) -> str:
    data = _piece(context, out, 0, out.size)
    out.metadata["kelpie-crc32"] = f"{crc32_of(data):08x}"
    out.verify()
    etag = context.fence.write(
        out.bucket,
        out.key,
        size=out.size,
        metadata=out.metadata,
        send=partial(context.store.put, out.bucket, out.key, data, out.metadata),
        repeatable=True,
    )
    out.moving.part(out.size)
    return etag


def _multipart(context: JobContext, out: _Outgoing) -> Generator[Batch, list[Any], str]:
    part_size = context.settings.part_size
    while out.size > part_size * MAX_PARTS:
        part_size += MiB
    out.metadata["kelpie-part-size"] = str(part_size)
    for _ in range(MAX_RESTARTS):
        try:
            return (yield from _send_parts(context, out, part_size))
        except UploadGone as error:
            log.info("an upload is begun again", bucket=out.bucket, key=out.key, error=str(error))
    raise SyncError(f"upload s3://{out.bucket}/{out.key}: the storage lost the upload {MAX_RESTARTS} times")


def _send_parts(context: JobContext, out: _Outgoing, part_size: int) -> Generator[Batch, list[Any], str]:
    context.gate.confirm()
    upload = context.uploads.open(out.bucket, out.key, out.source, out.metadata)
    out.moving.restart()

    def length(number: int) -> int:
        return min(part_size, out.size - (number - 1) * part_size)

    def send(number: int) -> None:
        out.verify()  # what has changed already need not be sent to its end
        data = _piece(context, out, (number - 1) * part_size, length(number))
        upload.done[number] = context.store.part(out.bucket, out.key, upload.upload_id, number, data)
        out.moving.part(length(number))

    def complete(condition: Condition | None) -> str:
        return context.store.complete(
            out.bucket,
            out.key,
            upload.upload_id,
            list(upload.done.values()),
            size=out.size,
            metadata=out.metadata,
            condition=condition,
        )

    try:
        out.moving.part(sum(map(length, upload.done)))  # that an earlier try has sent
        numbers = range(1, -(-out.size // part_size) + 1)
        missing = [partial(send, number) for number in numbers if number not in upload.done]
        yield Batch(missing, context.settings.parts_per_file)
        out.verify()
        etag = context.fence.write(out.bucket, out.key, size=out.size, metadata=out.metadata, send=complete)
    except BaseException as error:
        # What is packed is another file at the next try; an upload that is gone is only forgotten.
        lasting = isinstance(error, UploadGone) or not isinstance(error, SyncError)
        (context.uploads.abort if lasting or context.compression else context.uploads.keep)(upload)
        raise
    context.uploads.completed(upload)
    return etag


def _piece(context: JobContext, out: _Outgoing, start: int, length: int) -> bytes | Slice:
    """What is sent: read on the way, or at once where it need not stay as its checksum found it."""
    piece = Slice(out.body, start, length, out.verify)
    at_once = context.settings.changed_during_upload == "ignore" or length <= SMALL
    return b"".join(map(bytes, piece.blocks())) if at_once else piece
