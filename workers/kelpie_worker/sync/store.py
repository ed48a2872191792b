"""S3-compatible storage as the engine sees it: a few calls, each retried, each stopped by the job's gate.

Integrity: every body goes with an explicit CRC32 header, which the store checks on arrival.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast

import structlog

from kelpie_worker.sync.clients import ClientFactory
from kelpie_worker.sync.conditions import Condition
from kelpie_worker.sync.content_types import content_type
from kelpie_worker.sync.describe import describe, error_code, error_status
from kelpie_worker.sync.errors import DamagedTransfer, ObjectChanged, UploadGone
from kelpie_worker.sync.gate import Gate
from kelpie_worker.sync.remote import Part, RemoteFile, RemoteHead, crc32_header, remote_head
from kelpie_worker.sync.retry import with_retries
from kelpie_worker.sync.transport import Body, Slice, block_buffer, crc32, crc32_of

T = TypeVar("T")

log = structlog.get_logger(__name__)

ROUNDED_S = 2.0
"""How far apart two times of a storage may be told that are the same: both are in whole seconds."""
ABORT_TRIES = 3
"""A multipart upload that cannot be aborted soon is left to the next start of the worker."""
_NO_SUCH_OBJECT = frozenset({"404", "NoSuchKey", "NotFound"})


class Store:
    """The storage on behalf of one job. Errors: SyncError, CanceledTransfer, and what a method names."""

    def __init__(
        self,
        clients: ClientFactory,
        gate: Gate,
        *,
        max_tries: int,
        moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``moved`` is told the bytes of every body that arrived, from transfer threads."""
        self._clients = clients
        self._gate = gate
        self._max_tries = max_tries
        self._moved = moved

    def list(self, bucket: str, prefix: str) -> Iterator[RemoteFile]:
        """Every object under the prefix."""
        token: str | None = None
        while True:
            arguments: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
            if token is not None:
                arguments["ContinuationToken"] = token

            def page(arguments: dict[str, Any] = arguments) -> Any:
                return self._clients().list_objects_v2(**arguments)

            answer = self._try(f"list s3://{bucket}/{prefix}", page)
            for each in answer.get("Contents", ()):
                yield RemoteFile(each["Key"], each["Size"], each["ETag"], each["LastModified"])
            token = answer.get("NextContinuationToken")
            if not answer.get("IsTruncated") or token is None:
                return

    def head(self, bucket: str, key: str) -> RemoteHead:
        """What the store says of the object."""
        return self._try(f"look at {_url(bucket, key)}", lambda: self._head(bucket, key))

    def find(self, bucket: str, key: str) -> RemoteHead | None:
        """Like :meth:`head`; None when there is no such object."""

        def call() -> RemoteHead | None:
            try:
                return self._head(bucket, key)
            except Exception as error:
                if error_code(error) in _NO_SUCH_OBJECT:
                    return None
                raise

        return self._try(f"look at {_url(bucket, key)}", call)

    def fetch(
        self,
        bucket: str,
        key: str,
        *,
        etag: str,
        start: int,
        length: int,
        write: Callable[[int, memoryview], None],
        whole: bool = False,
    ) -> tuple[RemoteHead, int]:
        """Hand the bytes from ``start`` on to ``write(offset, block)``; all of them arrived when it returns.

        ``whole``: they are all that the object has. Returns what the store says of the object, and the CRC32
        of these bytes. ObjectChanged when the object is no longer the one of ``etag``.
        """
        ranged: dict[str, Any] = (
            {"ChecksumMode": "ENABLED"}
            if whole or not length
            else {"Range": f"bytes={start}-{start + length - 1}"}
        )

        def call() -> tuple[RemoteHead, int]:
            answer = self._clients().get_object(Bucket=bucket, Key=key, IfMatch=etag, **ranged)
            body, buffer = cast("Any", answer["Body"]), block_buffer()
            try:
                received, value = 0, 0
                while size := body.readinto(buffer):
                    self._gate.check()
                    if received + size > length:
                        raise DamagedTransfer(f"more than the {length} bytes asked for arrived")
                    block = buffer[:size]
                    write(start + received, block)
                    value = crc32(block, value)
                    received += size
            finally:
                body.close()
            if received != length:
                raise DamagedTransfer(f"{received} of {length} bytes arrived")
            return remote_head(answer), value

        fetched = self._try(f"download {_url(bucket, key)}", call)
        self._moved(length)
        return fetched

    def put(
        self,
        bucket: str,
        key: str,
        data: bytes | Slice,
        metadata: Mapping[str, str],
        condition: Condition | None = None,
    ) -> str:
        """Store a small object in one piece; returns its ETag. ObjectChanged when the condition fails."""
        checksum = crc32_header(crc32_of(data))

        def call() -> str:
            self._gate.confirm()
            with _failed_when_missing(condition):
                answer = self._clients().put_object(
                    Bucket=bucket,
                    Key=key,
                    Body=cast("Any", Body(data, self._gate.confirm)),
                    ContentLength=len(data),
                    ChecksumCRC32=checksum,
                    ContentType=content_type(key),
                    Metadata=metadata,
                    **_arguments(condition),
                )
            return answer["ETag"]

        etag = self._try(f"upload {_url(bucket, key)}", call)
        self._moved(len(data))
        return etag

    def create(self, bucket: str, key: str, metadata: Mapping[str, str]) -> str:
        """Begin a multipart upload; returns its id.

        An answer that is lost leaves an upload whose id nobody knows: before the next try it is looked for
        and aborted.
        """
        began = time.monotonic()
        lost = False

        def call() -> str:
            nonlocal lost
            if lost:
                self._abort_unknown(bucket, key, age_s=time.monotonic() - began)
            lost = True
            try:
                return send()
            except Exception as error:
                lost = error_status(error) is None  # it was not refused
                raise

        def send() -> str:
            answer = self._clients().create_multipart_upload(
                Bucket=bucket,
                Key=key,
                ChecksumAlgorithm="CRC32",
                ContentType=content_type(key),
                Metadata=metadata,
            )
            return answer["UploadId"]

        return self._try(f"begin the upload of {_url(bucket, key)}", call)

    def part(self, bucket: str, key: str, upload_id: str, number: int, data: bytes | Slice) -> Part:
        """Send one part; ``number`` counts from 1."""
        checksum = crc32_header(crc32_of(data))

        def call() -> Part:
            answer = self._clients().upload_part(
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                Body=cast("Any", Body(data, self._gate.check)),
                ContentLength=len(data),
                ChecksumCRC32=checksum,
            )
            return Part(number, answer["ETag"], checksum)

        sent = self._try(f"upload part {number} of {_url(bucket, key)}", call)
        self._moved(len(data))
        return sent

    def complete(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        *,
        size: int,
        metadata: Mapping[str, str],
        condition: Condition | None = None,
    ) -> str:
        """Make a multipart upload the object; returns its ETag. ObjectChanged when the condition fails."""
        tries = 0

        def call() -> str:
            nonlocal tries
            tries += 1
            self._gate.confirm()
            listed = [
                {"PartNumber": part.number, "ETag": part.etag, "ChecksumCRC32": part.checksum}
                for part in sorted(parts, key=lambda part: part.number)
            ]
            try:
                with _failed_when_missing(condition):
                    answer = self._clients().complete_multipart_upload(
                        Bucket=bucket,
                        Key=key,
                        UploadId=upload_id,
                        MultipartUpload={"Parts": listed},  # type: ignore[typeddict-item]  # the keys are the documented ones
                        **_arguments(condition),
                    )
            except Exception as error:
                # The answer to an earlier try may have been lost after the store had acted on it.
                if tries > 1 and error_code(error) == "NoSuchUpload":
                    there = self._head(bucket, key)
                    if there.size == size and there.metadata == metadata:
                        return there.etag
                raise
            return answer["ETag"]

        return self._try(f"complete the upload of {_url(bucket, key)}", call)

    def parts(self, bucket: str, key: str, upload_id: str) -> dict[int, tuple[str, int]]:
        """The parts that the store has of a multipart upload: number → (ETag, bytes)."""
        found: dict[int, tuple[str, int]] = {}
        marker = 0
        while True:

            def page(marker: int = marker) -> Any:
                return self._clients().list_parts(
                    Bucket=bucket, Key=key, UploadId=upload_id, PartNumberMarker=marker
                )

            answer = self._try(f"list the parts of {_url(bucket, key)}", page)
            found |= {each["PartNumber"]: (each["ETag"], each["Size"]) for each in answer.get("Parts", ())}
            following = int(answer.get("NextPartNumberMarker") or 0)
            if not answer.get("IsTruncated") or following <= marker:
                return found
            marker = following

    def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """Throw away a multipart upload and its parts; harmless when there is none. The gate is not asked:
        this is how a job leaves."""
        idle_gate = Gate(lambda: True)
        with contextlib.suppress(UploadGone):
            with_retries(
                f"abort the upload of {_url(bucket, key)}",
                lambda: self._clients().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id),
                gate=idle_gate,
                max_tries=min(self._max_tries, ABORT_TRIES),
            )

    def _abort_unknown(self, bucket: str, key: str, age_s: float) -> None:
        """Abort the uploads of this very key that the storage has begun within so many seconds, by its own
        clock. Should one be another job's, that begins it anew, as after any loss."""
        try:
            answer = self._clients().list_multipart_uploads(Bucket=bucket, Prefix=key)
            told = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
            now = _in_utc(parsedate_to_datetime(told))
        except Exception as error:
            if error_status(error) is None and not isinstance(error, ValueError):
                raise  # out of reach: that is the next try's business
            log.info(
                "uploads are left to the storage's own rules", bucket=bucket, key=key, error=describe(error)
            )
            return
        for each in answer.get("Uploads", ()):
            begun = each.get("Initiated")
            if each.get("Key") != key or begun is None:
                continue
            if (now - _in_utc(begun)).total_seconds() <= age_s + ROUNDED_S:
                self._gate.confirm()  # else it may be the upload of the job's next attempt
                log.info("an upload whose answer was lost is aborted", bucket=bucket, key=key)
                self.abort(bucket, key, each["UploadId"])

    def delete(self, bucket: str, key: str, condition: Condition | None = None) -> None:
        """Delete the object; harmless when there is none. ObjectChanged when the condition fails."""

        def call() -> None:
            self._gate.confirm()
            with _failed_when_missing(condition):
                self._clients().delete_object(Bucket=bucket, Key=key, **_arguments(condition))

        self._try(f"delete {_url(bucket, key)}", call)

    def _head(self, bucket: str, key: str) -> RemoteHead:
        answer = self._clients().head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        return remote_head(answer)

    def _try(self, what: str, call: Callable[[], T]) -> T:
        return with_retries(what, call, gate=self._gate, max_tries=self._max_tries, renew=self._clients.renew)


def _arguments(condition: Condition | None) -> dict[str, Any]:
    return {} if condition is None else dict(condition.arguments)


@contextlib.contextmanager
def _failed_when_missing(condition: Condition | None) -> Iterator[None]:
    """Some stores answer an If-Match on an object that is not there with 404."""
    try:
        yield
    except Exception as error:
        if condition is not None and condition.etag is not None and error_code(error) in _NO_SUCH_OBJECT:
            raise ObjectChanged("the object is not there any more") from None
        raise


def _in_utc(told: datetime) -> datetime:
    """S3 tells its times in UTC, with or without saying so."""
    return told.replace(tzinfo=UTC) if told.tzinfo is None else told


def _url(bucket: str, key: str) -> str:
    return f"s3://{bucket}/{key}"
