"""One file on its way into a bucket.

The file is looked at before and after it is read, on the descriptor that was read: a file replaced by a
rename is finished as the version it was; a file rewritten in place is thrown away as :class:`SourceChanged`
before anything became visible. With ``changed_during_upload = "ignore"`` it is stored as it was read, as
Kelpie 0.5.0 did.

A worker that loses its lease between the last look at the gate and the moment the store acts on the request
can still store one object late: that window is one request wide, and only conditional writes could close it.
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

from kelpie.errors import KelpieError
from kelpie_worker.sync.compression import SUFFIX, Compressor
from kelpie_worker.sync.context import JobContext
from kelpie_worker.sync.errors import SourceChanged, SyncError
from kelpie_worker.sync.flow import Batch
from kelpie_worker.sync.store import Part
from kelpie_worker.sync.transport import Slice, crc32_of
from kelpie_worker.sync.tree import Snapshot, Tree

log = structlog.get_logger(__name__)

MAX_PARTS = 10_000  # S3's limit per object
MiB = 1 << 20
SMALL = 64 * 1024
"""Bytes of a file that is read once and held, rather than twice."""


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
    context: JobContext, tree: Tree, name: str, *, bucket: str, prefix: str, key: str | None = None
) -> Generator[Batch, list[Any], Uploaded]:
    """The flow that stores one file, under the prefix or as ``key``.

    Raises FileNotFoundError, SourceChanged, SyncError, CanceledTransfer.
    """
    path = str(tree.root / name)
    if key is None:
        key = object_key(prefix, name, compression=context.compression)
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
            if size <= context.settings.part_size:
                etag = _put(context, body, size, bucket, key, metadata, verify)
            else:
                etag = yield from _multipart(context, body, size, bucket, key, metadata, verify)
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


def _put(
    context: JobContext,
    body: int,
    size: int,
    bucket: str,
    key: str,
    metadata: dict[str, str],
    verify: Callable[[], None],
) -> str:
    data = _piece(context, body, 0, size, verify)
    metadata["kelpie-crc32"] = f"{crc32_of(data):08x}"
    verify()
    return context.store.put(bucket, key, data, metadata)


def _multipart(
    context: JobContext,
    body: int,
    size: int,
    bucket: str,
    key: str,
    metadata: dict[str, str],
    verify: Callable[[], None],
) -> Generator[Batch, list[Any], str]:
    part_size = context.settings.part_size
    while size > part_size * MAX_PARTS:
        part_size += MiB
    metadata["kelpie-part-size"] = str(part_size)
    context.gate.confirm()
    upload_id = context.store.create(bucket, key, metadata)

    def send(number: int) -> Part:
        verify()  # what has changed already need not be sent to its end
        start = (number - 1) * part_size
        data = _piece(context, body, start, min(part_size, size - start), verify)
        return context.store.part(bucket, key, upload_id, number, data)

    try:
        count = -(-size // part_size)
        calls = [partial(send, number) for number in range(1, count + 1)]
        parts = yield Batch(calls, context.settings.parts_per_file)
        verify()
        return context.store.complete(bucket, key, upload_id, parts, size=size, metadata=metadata)
    except BaseException:
        try:
            context.store.abort(bucket, key, upload_id)
        except KelpieError as error:  # what ended the upload matters more
            log.warning("a multipart upload could not be aborted", bucket=bucket, key=key, error=str(error))
        raise


def _piece(
    context: JobContext, descriptor: int, start: int, length: int, verify: Callable[[], None]
) -> bytes | Slice:
    """What is sent: read on the way, or at once where it need not stay as its checksum found it."""
    piece = Slice(descriptor, start, length, verify)
    at_once = context.settings.changed_during_upload == "ignore" or length <= SMALL
    return b"".join(map(bytes, piece.blocks())) if at_once else piece
