"""What a failure of the storage is called: the words of logs, errors and reports."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

MAX_CHARS = 300
"""How much of a storage's own text is told."""

_EXPLAINED = {
    "403": "the credentials do not allow this, or the bucket or object does not exist",
    "404": "there is no such bucket or object",
    "AccessDenied": "the credentials do not allow this",
    "ExpiredToken": "the credentials have expired",
    "ExpiredTokenException": "the credentials have expired",
    "InvalidAccessKeyId": "the storage does not know this access key",
    "InvalidToken": "the session token is not valid",
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
}
_CREDENTIALS = re.compile(
    r"(?i)\b((?:x-amz-)?(?:signature|credential|security-token|access-?key-?id|secret[\w-]*)\s*[=:]\s*)"
    r"[^\s&,;\"'<>]+"
)
_USERINFO = re.compile(r"(?<=://)[^\s/@\"']*@")
_QUERY = re.compile(r"(\bhttps?://[^\s?\"']+)\?[^\s\"')]*")


def describe(error: BaseException) -> str:
    """The failure in words, without credentials, signatures or control characters, and not long."""
    code, status = error_code(error), error_status(error)
    if code or status:
        message = str(getattr(error, "response", {}).get("Error", {}).get("Message", ""))
        said = [
            _EXPLAINED.get(code, ""),
            clean(" ".join((code, message)).strip()) if message != code else code,
        ]
        return ": ".join(filter(None, said)) + (f" (HTTP {status})" if status else "")
    return _describe_network(error) or clean(f"{type(error).__name__}: {error}")


def error_code(error: BaseException | None) -> str:
    """The storage's own word for the failure, such as ``NoSuchUpload``; empty when it gave none."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def error_status(error: BaseException) -> int | None:
    """The status of the storage's answer; None when there was none."""
    response = getattr(error, "response", None)
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None


def is_bad_certificate(error: BaseException) -> bool:
    """Whether the storage's TLS certificate was refused: that does not pass."""
    return any(isinstance(each, ssl.SSLCertVerificationError) for each in _causes(error))


def clean(text: str) -> str:
    """The text on one line, short, without what looks like credentials, and URLs without their query."""
    text = "".join(char if char.isprintable() else " " for char in text)
    text = _CREDENTIALS.sub(r"\1[masked]", _QUERY.sub(r"\1", _USERINFO.sub("", text)))
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"


def _describe_network(error: BaseException) -> str:
    """The failures of the network that have a plain name; empty for others."""
    where = str(getattr(error, "kwargs", {}).get("endpoint_url", ""))
    place = f" ({clean(where)})" if where else ""
    for each in _causes(error):
        if isinstance(each, socket.gaierror):
            return f"the name of the storage's host cannot be resolved: {each.strerror}{place}"
        if isinstance(each, ConnectionRefusedError):
            return f"nothing listens at the storage's address: connection refused{place}"
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"the storage's TLS certificate is refused: {each.verify_message}{place}"
        if isinstance(each, ssl.SSLError):
            return f"TLS with the storage failed: {each.reason or each}{place}"
        if isinstance(each, TimeoutError):
            return f"the storage moved no byte for too long{place}"
    if type(error).__name__ == "NoCredentialsError":
        return "there are no credentials for the storage: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what lies beneath it, as each library keeps that."""
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        each = pending.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += [
            each.__cause__,
            each.__context__,
            getattr(each, "kwargs", {}).get("error"),  # botocore
            getattr(each, "reason", None),  # urllib3
            *each.args,
        ]
