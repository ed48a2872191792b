"""Which failures of the storage are worth another try, and how long to wait before it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import structlog

from kelpie_worker.backoff import Backoff
from kelpie_worker.sync.errors import DamagedTransfer, ObjectChanged, StorageError, SyncError
from kelpie_worker.sync.gate import Gate

log = structlog.get_logger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",  # the bytes were altered on their way
        "ExpiredToken",  # refreshable credentials are renewed before the next try
        "ExpiredTokenException",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentChecksumMismatch",
    }
)


def with_retries(what: str, call: Callable[[], T], *, gate: Gate, max_tries: int) -> T:
    """The result of ``call``, tried up to ``max_tries`` times.

    Raises SyncError that begins with ``what`` at once for what another try cannot mend (no such bucket, no
    permission), and after the last try for what it could have; CanceledTransfer as soon as the job is
    abandoned; ObjectChanged for a failed condition.
    """
    backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    for attempt in range(1, max_tries + 1):
        gate.check()
        try:
            return call()
        except Exception as error:
            if not isinstance(error, _failures()):
                raise
            gate.check()  # a transfer that the gate cut off looks like a broken connection
            if _failed_condition(error):
                raise ObjectChanged(f"{what}: the object was replaced meanwhile") from None
            if not _is_transient(error):
                raise SyncError(f"{what}: {_describe(error)}") from error
            if attempt == max_tries:
                raise SyncError(f"{what}: {_describe(error)} (gave up after {attempt} tries)") from error
            log.info(
                "storage request failed: trying again", what=what, error=_describe(error), attempt=attempt
            )
        gate.sleep(backoff.pause_s())
    raise AssertionError("max_tries is at least 1")


def error_code(error: BaseException | None) -> str:
    """The storage's own word for the failure, such as ``NoSuchUpload``; empty when it gave none."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None


def _failures() -> tuple[type[Exception], ...]:
    """What a request to the storage raises. boto3's own kinds are of no interest until somebody loaded it."""
    if "botocore" not in sys.modules:
        return (ConnectionError, DamagedTransfer, StorageError)
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError, ConnectionError, DamagedTransfer, StorageError)


def _failed_condition(error: Exception) -> bool:
    return _status(error) == 412 or error_code(error) in {"PreconditionFailed", "412"}


def _is_transient(error: Exception) -> bool:
    from botocore.exceptions import (
        ConnectionError as NetworkError,
    )
    from botocore.exceptions import (
        CredentialRetrievalError,
        HTTPClientError,
        IncompleteReadError,
        ResponseStreamingError,
    )

    network = (
        NetworkError,
        HTTPClientError,
        IncompleteReadError,
        ResponseStreamingError,
        CredentialRetrievalError,
    )
    if isinstance(error, (ConnectionError, DamagedTransfer, *network)):
        return True
    return _status(error) in _TRANSIENT_STATUS or error_code(error) in _TRANSIENT_CODES


def _describe(error: Exception) -> str:
    """The failure in words. Neither boto3's texts nor these carry a key or a signature."""
    code, status = error_code(error), _status(error)
    if code or status:
        message = getattr(error, "response", {}).get("Error", {}).get("Message", "")
        return f"{code or 'error'} {message}".strip() + (f" (HTTP {status})" if status else "")
    return f"{type(error).__name__}: {error}"
