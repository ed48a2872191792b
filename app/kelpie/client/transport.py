"""One request to the API: how it is sent, when it is repeated, and which error an answer is."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import urllib3

from kelpie.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    KelpieError,
    LeaseLostError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)

DEFAULT_URL = "http://127.0.0.1:8080"
PAGE_SIZE = 500  # what is asked for per request of a list

OUTAGE_S = 600.0
"""How long `Client.wait` and `Client.events` bear an API that cannot be reached, in seconds."""
_CONNECT_TIMEOUT_S = 5.0
_TRIES = 5
_BACKOFF_S = (0.1, 5.0)  # the first pause and the longest one
_RETRY_STATUS = frozenset({502, 503, 504})
_MAX_RETRY_AFTER_S = 30.0

_ERRORS: Mapping[int, type[KelpieError]] = {
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
}


class Transport:
    """The connections to one API with one key; what the parts of :class:`kelpie.Client` send through."""

    def __init__(self, url: str | None = None, key: str | None = None, *, timeout_s: float = 30.0) -> None:
        """``url`` and ``key`` None: KELPIE_API_URL and KELPIE_API_KEY. ``timeout_s`` is for one answer."""
        self.url = (url or os.environ.get("KELPIE_API_URL") or DEFAULT_URL).rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise InvalidInputError(
                f"KELPIE_API_URL must be an http:// or https:// address, not {_without_password(self.url)!r}"
            )
        headers = {"Accept": "application/json", "User-Agent": "kelpie-client"}
        key = key or os.environ.get("KELPIE_API_KEY")
        if key:
            if not key.isascii() or not key.isprintable():
                raise InvalidInputError("KELPIE_API_KEY holds a character that no key has")
            headers["X-Kelpie-Key"] = key
        self._pool = urllib3.PoolManager(
            headers=headers,
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=timeout_s),
            retries=False,  # ours are in _call: they know what may be repeated
        )

    def _open(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Any:
        """An answer that is read as it comes. Raises urllib3's errors, and ours for a refusal."""
        answer = self._pool.request(
            "GET",
            f"{self.url}{path}" + (f"?{urlencode(query)}" if query else ""),
            headers={**self._pool.headers, **headers},
            preload_content=False,
            redirect=False,
        )
        if answer.status != 200:
            _decoded(answer.status, answer.data)
            raise UnavailableError(f"the API answered an event stream with status {answer.status}")
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        gone_is_done: bool = False,
        repeatable: bool = False,
        idempotency_key: str | None = None,
    ) -> Any:
        """One request, repeated while that is harmless; the decoded answer.

        Any is repeated when the server surely did nothing: it could not be connected to, or was too busy
        (429). After a lost answer or a 503 it may have been carried out all the same: then a POST is repeated
        only if it is ``repeatable``: it changes nothing more the second time, or carries an
        ``idempotency_key`` by which the server knows it again.
        ``gone_is_done``: a 404 to a repeated request means that the first one was carried out.
        """
        query = {name: value for name, value in (query or {}).items() if value not in (None, [])}
        url = f"{self.url}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        repeatable = repeatable or method != "POST"
        headers: dict[str, str] = dict(self._pool.headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        lost_reply = False
        for attempt in range(1, _TRIES + 1):
            pause_s = _backoff_s(attempt)
            try:
                answer = self._pool.request(
                    method,
                    url,
                    body=None if body is None else json.dumps(body).encode(),
                    headers=headers,
                    redirect=False,  # the key goes to no other address
                )
            except urllib3.exceptions.HTTPError as error:
                unreached = isinstance(
                    error, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError
                )
                lost_reply = lost_reply or not unreached
                if attempt == _TRIES or not (unreached or repeatable):
                    raise UnavailableError(
                        f"the API at {_without_password(self.url)} cannot be reached "
                        f"({type(error).__name__}); is it running, and is KELPIE_API_URL right?"
                    ) from error
            else:
                if gone_is_done and lost_reply and answer.status == 404:
                    return None
                again = answer.status == 429 or (answer.status in _RETRY_STATUS and repeatable)
                if not again or attempt == _TRIES:
                    return _decoded(answer.status, answer.data)
                pause_s = max(pause_s, _retry_after_s(answer.headers.get("Retry-After")))
            time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")


def segment(text: str) -> str:
    """The text as one segment of a path, whatever it holds."""
    return quote(text, safe="")


def _backoff_s(attempt: int) -> float:
    first, longest = _BACKOFF_S
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 -- it is no secret
    return jitter * min(longest, first * 2.0 ** (attempt - 1))


def _retry_after_s(header: str | None) -> float:
    """How long the server asks to wait, in seconds, within reason; 0 when it does not say."""
    try:
        return min(_MAX_RETRY_AFTER_S, max(0.0, float(header or 0)))
    except ValueError:
        return 0.0


def _decoded(status: int, data: bytes) -> Any:
    """The JSON of a good answer; the fitting error of any other."""
    try:
        wire = json.loads(data) if data else None
    except ValueError:
        wire = None
        if status < 300:
            raise UnavailableError(
                f"the answer (status {status}) is not JSON; is KELPIE_API_URL the address of a Kelpie API?"
            ) from None
    if status < 300:
        return wire
    said = wire if isinstance(wire, dict) else {}
    message = str(said.get("message") or said.get("error") or f"the API answered with status {status}")
    if status == 409 and said.get("reason"):
        raise LeaseLostError(message, reason=str(said["reason"]))
    if status in _ERRORS:
        raise _ERRORS[status](message)
    if 400 <= status < 500 and status != 429:
        errors = tuple(
            (str(error.get("path", "")), str(error.get("message", ""))) for error in said.get("errors") or ()
        )
        raise InvalidInputError(message, errors=errors, index=said.get("index"))
    if status < 400:
        raise UnavailableError(f"the API answered with a redirect (status {status}), which is not followed")
    raise UnavailableError(message)


def _without_password(url: str) -> str:
    """The address as it may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
