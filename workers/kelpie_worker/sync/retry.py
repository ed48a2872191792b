"""Which failures of the storage are worth another try, and how long to wait before it."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable
from typing import TypeVar

import structlog

from kelpie.errors import KelpieError
from kelpie_worker.backoff import Backoff
from kelpie_worker.sync.describe import describe, error_code, error_status, is_bad_certificate
from kelpie_worker.sync.errors import (
    CanceledTransfer,
    DamagedTransfer,
    NotSupported,
    ObjectChanged,
    OutOfReach,
    SourceChanged,
    StorageError,
    SyncError,
    UploadGone,
)
from kelpie_worker.sync.gate import Gate

log = structlog.get_logger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",  # the bytes were altered on their way
        "ConditionalRequestConflict",  # of two conditional writes at once
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

_EXPIRED = frozenset(
    {
        "400",  # a HEAD has no body to say more in: perhaps this, perhaps a RequestTimeout
        "ExpiredToken",
        "ExpiredTokenException",
    }
)
_NETWORK = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)
"""What the standard library raises. Other OSErrors are of the local disk."""


def with_retries(
    what: str, call: Callable[[], T], *, gate: Gate, max_tries: int, renew: Callable[[], None] = lambda: None
) -> T:
    """The result of ``call``, tried up to ``max_tries`` times; ``renew`` is called before the next try when
    the credentials have expired.

    Raises SyncError that begins with ``what`` at once for what another try cannot mend (no such bucket, no
    permission), and OutOfReach after the last try for what it could have; CanceledTransfer as soon as the job
    is abandoned; ObjectChanged for a failed condition, UploadGone and NotSupported as the storage says.
    """
    backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    for attempt in range(1, max_tries + 1):
        gate.check()
        try:
            return call()
        except Exception as error:
            if not isinstance(error, _failures()):
                raise
            if (raised := _raised_by_body(error)) is not None:
                raise raised from None
            gate.check()  # a transfer that the gate cut off looks like a broken connection
            if _failed_condition(error):
                raise ObjectChanged(f"{what}: the object was replaced meanwhile") from None
            if error_code(error) == "NoSuchUpload":
                raise UploadGone(f"{what}: {describe(error)}") from error
            if error_status(error) == 501 or error_code(error) == "NotImplemented":
                raise NotSupported(f"{what}: {describe(error)}") from error
            if error_code(error) in _EXPIRED:
                renew()
            elif not _is_transient(error):
                raise SyncError(f"{what}: {describe(error)}") from error
            if attempt == max_tries:
                raise OutOfReach(f"{what}: {describe(error)} (gave up after {attempt} tries)") from error
            log.info(
                "storage request failed: trying again", what=what, error=describe(error), attempt=attempt
            )
        gate.sleep(backoff.pause_s())
    raise AssertionError("max_tries is at least 1")


def _failures() -> tuple[type[Exception], ...]:
    """What a request to the storage raises. boto3's own kinds are of no interest until somebody loaded it."""
    if "botocore" not in sys.modules:
        return (DamagedTransfer, StorageError, *_NETWORK)
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError, DamagedTransfer, StorageError, *_NETWORK)


def _raised_by_body(error: Exception) -> KelpieError | None:
    """What reading the body raised (the file changed, the job was abandoned): boto3 takes that for a failure
    of its own client, which would be tried again in vain."""
    inner = getattr(error, "kwargs", {}).get("error")
    ours = isinstance(inner, (CanceledTransfer, SourceChanged, SyncError))
    return inner if ours else None


def _failed_condition(error: Exception) -> bool:
    return error_status(error) == 412 or error_code(error) in {"PreconditionFailed", "412"}


def _is_transient(error: Exception) -> bool:
    from botocore.exceptions import (
        ConnectionError as NetworkError,
    )
    from botocore.exceptions import (
        CredentialRetrievalError,
        FlexibleChecksumError,
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
        FlexibleChecksumError,  # the bytes were altered on their way down
    )
    if is_bad_certificate(error):
        return False
    if isinstance(error, (DamagedTransfer, *_NETWORK, *network)):
        return True
    return error_status(error) in _TRANSIENT_STATUS or error_code(error) in _TRANSIENT_CODES
