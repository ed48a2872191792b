"""The client: boto3's names, arguments, answers and errors for the calls that every file costs.

What it does not know (an argument, an odd bucket, a redirect to another region, a signature that the store
does not take, a certificate that only boto3's own list of authorities knows) it hands to boto3, and what says
so for the whole storage it hands over for good. So it can only be faster, never less.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import structlog

from kelpie_worker.sync.errors import DamagedTransfer, StorageError
from kelpie_worker.sync.transport import wire
from kelpie_worker.sync.transport.body import Body
from kelpie_worker.sync.transport.connection import Address, Answer, BrokenConnection, Connection, Connections
from kelpie_worker.sync.transport.endpoint import Endpoint
from kelpie_worker.sync.transport.signing import Signer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = structlog.get_logger(__name__)

_DOCUMENT_LIMIT = 16 << 20  # bytes of an answer that is not an object
_LEFT_LIMIT = 64 * 1024  # bytes of a body that are read so that its connection may be used again
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_HOST_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_DIRECTORY_BUCKET = "--x-s3"
_FOREIGN_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",  # another region
        "PermanentRedirect",
        "SignatureDoesNotMatch",
        "TemporaryRedirect",
        "XAmzContentSHA256Mismatch",  # it wants signed bodies
    }
)

_OBJECT = {
    "CacheControl": "cache-control",
    "ChecksumAlgorithm": "x-amz-checksum-algorithm",
    "ChecksumCRC32": "x-amz-checksum-crc32",
    "ContentEncoding": "content-encoding",
    "ContentType": "content-type",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
}
_READ = {"ChecksumMode": "x-amz-checksum-mode", "IfMatch": "if-match", "Range": "range"}
_ANSWERED = {
    "ETag": "etag",
    "ContentRange": "content-range",
    "ChecksumCRC32": "x-amz-checksum-crc32",
    "ChecksumType": "x-amz-checksum-type",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
    "ContentType": "content-type",
}
_METADATA = "x-amz-meta-"


@dataclass(frozen=True, slots=True)
class _Operation:
    """One call: which arguments become headers, which the query."""

    name: str
    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    flag: str = ""  # a word of the query without an argument


_PUT = _Operation("put_object", "PUT", _OBJECT, {})
_PART = _Operation("upload_part", "PUT", _OBJECT, {"PartNumber": "partNumber", "UploadId": "uploadId"})
_GET = _Operation("get_object", "GET", _READ, {})
_HEAD = _Operation("head_object", "HEAD", _READ, {})
_DELETE = _Operation("delete_object", "DELETE", {"IfMatch": "if-match"}, {})
_CREATE = _Operation("create_multipart_upload", "POST", _OBJECT, {}, "uploads=")
_COMPLETE = _Operation("complete_multipart_upload", "POST", _OBJECT, {"UploadId": "uploadId"})
_ABORT = _Operation("abort_multipart_upload", "DELETE", {}, {"UploadId": "uploadId"})
_LIST = _Operation(
    "list_objects_v2",
    "GET",
    {},
    {
        "ContinuationToken": "continuation-token",
        "Delimiter": "delimiter",
        "MaxKeys": "max-keys",
        "Prefix": "prefix",
        "StartAfter": "start-after",
    },
    "list-type=2&encoding-type=url",
)


class _Unknown(Exception):
    """One call that is left to boto3."""


class _Foreign(Exception):
    """A storage that is left to boto3."""


class LeanClient:
    """A client of one storage. ``boto3`` makes the client that stands in; it is called once, at need."""

    def __init__(self, endpoint: Endpoint, boto3: Callable[[], S3Client], *, stall_timeout_s: float) -> None:
        self._endpoint = endpoint
        self._boto3 = boto3
        self._address = Address(endpoint.host, endpoint.port, endpoint.tls, stall_timeout_s)
        self._signer = Signer(endpoint.credentials, endpoint.region)
        self._connections = Connections()
        self._lock = threading.Lock()
        self._stand_in: S3Client | None = None
        self._left = False

    def __getattr__(self, name: str) -> Any:
        """Whatever else boto3's client has is boto3's."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._other(), name)

    @property
    def meta(self) -> LeanClient:
        """Itself: boto3's clients tell of their endpoint here."""
        return self

    @property
    def endpoint_url(self) -> str:
        """Where the storage is."""
        return f"{self._endpoint.scheme}://{self._endpoint.netloc}{self._endpoint.base}"

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    # ---- what boto3's client has under the same names

    def put_object(self, **arguments: Any) -> dict[str, Any]:
        """Store an object; ``Body`` is a :class:`Body`."""
        return self._call(_PUT, arguments)

    def upload_part(self, **arguments: Any) -> dict[str, Any]:
        """Send one part of a multipart upload."""
        return self._call(_PART, arguments)

    def get_object(self, **arguments: Any) -> dict[str, Any]:
        """Begin to read an object; ``Body`` of the answer has ``readinto`` and ``close``."""
        return self._call(_GET, arguments)

    def head_object(self, **arguments: Any) -> dict[str, Any]:
        """What is known of an object."""
        return self._call(_HEAD, arguments)

    def delete_object(self, **arguments: Any) -> dict[str, Any]:
        """Delete an object."""
        return self._call(_DELETE, arguments)

    def create_multipart_upload(self, **arguments: Any) -> dict[str, Any]:
        """Begin a multipart upload."""
        return self._call(_CREATE, arguments)

    def complete_multipart_upload(self, **arguments: Any) -> dict[str, Any]:
        """Make a multipart upload an object."""
        return self._call(_COMPLETE, arguments)

    def abort_multipart_upload(self, **arguments: Any) -> dict[str, Any]:
        """Throw a multipart upload away."""
        return self._call(_ABORT, arguments)

    def list_objects_v2(self, **arguments: Any) -> dict[str, Any]:
        """One page of a listing."""
        return self._call(_LIST, arguments)

    # ---- a call

    def _call(self, operation: _Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        if not self._left:
            try:
                return self._own(operation, arguments)
            except _Unknown:
                pass
            except _Foreign as why:
                self._left = True
                log.info("this storage is left to boto3", endpoint=self._endpoint.netloc, why=str(why))
        if isinstance(body := arguments.get("Body"), Body):
            body.seek(0)
        answer: dict[str, Any] = getattr(self._other(), operation.name)(**arguments)
        return answer

    def _other(self) -> S3Client:
        with self._lock:
            if self._stand_in is None:
                self._stand_in = self._boto3()
            return self._stand_in

    def _own(self, operation: _Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        address, path, headers, query, body = self._request(operation, arguments)
        headers = self._signer.headers(operation.method, path, query, headers)
        if not all(text.isascii() and text.isprintable() for text in headers.values()):
            raise _Unknown  # metadata or credentials that would begin a header of their own
        if operation.method in {"PUT", "POST"}:
            headers["content-length"] = str(0 if body is None else len(body))
        lines = "".join([f"{name.title()}: {value}\r\n" for name, value in headers.items()])
        head = f"{operation.method} {path}{'?' + query if query else ''} HTTP/1.1\r\n{lines}\r\n".encode()
        try:
            return self._exchange(operation, address, head, body, headers["x-amz-date"])
        except ssl.SSLCertVerificationError as error:
            raise _Foreign(f"its certificate is not trusted here: {error.verify_message}") from None
        except OSError as error:  # no such host, no route, a connection that broke or stood still
            raise BrokenConnection(error, self.endpoint_url) from error

    def _request(
        self, operation: _Operation, arguments: Mapping[str, Any]
    ) -> tuple[Address, str, dict[str, str], str, Body | None]:
        bucket, key = arguments["Bucket"], arguments.get("Key")
        if _BUCKET.fullmatch(bucket) is None or bucket.endswith(_DIRECTORY_BUCKET) or key == "":
            raise _Unknown
        endpoint, address = self._endpoint, self._address
        host = endpoint.netloc
        if endpoint.by_host and _HOST_BUCKET.fullmatch(bucket):
            host = f"{bucket}.{host}"
            address = replace(address, host=f"{bucket}.{address.host}")
            path = endpoint.base
        else:
            path = f"{endpoint.base}/{bucket}"
        if key is not None:
            path = f"{path}/{quote(key, safe='/~')}"
        headers = {"host": host}
        query = operation.flag.split("&") if operation.flag else []
        body: Body | None = None
        for name, value in arguments.items():
            if name in operation.headers:
                headers[operation.headers[name]] = str(value)
            elif name in operation.query:
                query.append(f"{operation.query[name]}={quote(str(value), safe='-_.~')}")
            elif name == "Metadata":
                headers |= {_METADATA + each.lower(): text for each, text in value.items()}
            elif name == "Body" and isinstance(value, Body):
                body = value
            elif name == "MultipartUpload":
                body = Body(wire.completion(value["Parts"]), lambda: None)
            elif name not in {"Bucket", "Key", "ContentLength"}:
                raise _Unknown
        length = 0 if body is None else len(body)
        if arguments.get("ContentLength", length) != length:
            raise _Unknown
        return address, path or "/", headers, "&".join(sorted(query)), body

    def _exchange(
        self, operation: _Operation, address: Address, head: bytes, body: Body | None, signed: str
    ) -> dict[str, Any]:
        began = time.monotonic()
        connection = self._connections.take(address)
        try:
            try:
                connection.send(head, body)
            except (BrokenPipeError, ConnectionResetError):
                # A store that refuses a body says so and hangs up. No other answer counts.
                answer = connection.answer(operation.method)
                if answer.status < 300:
                    raise
                answer.keep_alive = False
            else:
                answer = connection.answer(operation.method)
            if operation is _GET and answer.status in {200, 206}:
                return self._opened(address, connection, answer)
            data = connection.read_all(answer, _DOCUMENT_LIMIT)
        except BaseException:
            connection.close()
            raise
        self._release(address, connection, answer)
        took_s = time.monotonic() - began
        if answer.status == 403 and self._signer.heed(answer.headers.get("date", ""), signed, took_s):
            log.warning("the clock of this machine is wrong", storage_says=answer.headers["date"])
            raise StorageError(403, "RequestTimeTooSkewed", "signed anew by the storage's clock")
        return _understood(operation, answer, data)

    def _opened(self, address: Address, connection: Connection, answer: Answer) -> dict[str, Any]:
        if answer.length is None or answer.chunked or "content-encoding" in answer.headers:
            connection.close()
            raise _Unknown

        def ended() -> None:
            self._release(address, connection, answer)

        body = _ObjectBody(connection, answer.length, ended, self.endpoint_url)
        return {**_described(answer), "ContentLength": answer.length, "Body": body}

    def _release(self, address: Address, connection: Connection, answer: Answer) -> None:
        if answer.keep_alive and (answer.chunked or answer.length is not None):
            self._connections.give(address, connection)
        else:
            connection.close()


class _ObjectBody:
    """An object on its way down."""

    def __init__(
        self, connection: Connection, length: int, ended: Callable[[], None], endpoint_url: str
    ) -> None:
        self._endpoint_url = endpoint_url
        self._connection = connection
        self._left = length
        self._ended = ended
        self._closed = False

    def readinto(self, target: memoryview) -> int:
        """The next bytes; 0 at the end. DamagedTransfer when it comes too early, ConnectionError."""
        if not self._left:
            return 0
        try:
            size = self._connection.read_into(target[: self._left])
        except OSError as error:
            raise BrokenConnection(error, self._endpoint_url) from error
        if not size:
            raise DamagedTransfer(f"the connection ended {self._left} bytes too early")
        self._left -= size
        return size

    def close(self) -> None:
        """Done with it; the connection serves again if everything was read."""
        if self._closed:
            return
        self._closed = True
        if self._left:
            self._connection.close()
        else:
            self._ended()


def _described(answer: Answer) -> dict[str, Any]:
    headers = answer.headers
    found: dict[str, Any] = {name: headers[header] for name, header in _ANSWERED.items() if header in headers}
    found["Metadata"] = {
        name[len(_METADATA) :]: value for name, value in headers.items() if name.startswith(_METADATA)
    }
    return found


def _understood(operation: _Operation, answer: Answer, data: bytes) -> dict[str, Any]:
    """The answer as boto3 gives it; StorageError is one that says no."""
    code, message = "", ""
    if answer.status >= 300:
        code, message = wire.error_of(data)
        if (300 <= answer.status < 400 and answer.status != 304) or code in _FOREIGN_CODES:
            raise _Foreign(f"it answered {answer.status} {code}")
        raise StorageError(answer.status, code or str(answer.status), message)
    if operation is _LIST:
        return wire.listing(data)
    if operation is _CREATE:
        return dict(wire.fields(data, "InitiateMultipartUploadResult"))
    if operation is _COMPLETE:
        code, message = wire.error_of(data)
        if code:  # it began to say yes before it knew
            raise StorageError(500, code, message)
        return dict(wire.fields(data, "CompleteMultipartUploadResult"))
    described = _described(answer)
    if operation is _HEAD:
        with suppress(KeyError, ValueError):
            described["ContentLength"] = int(answer.headers["content-length"])
    return described
