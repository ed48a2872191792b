"""Calls to a cloud's HTTP API: bounded in time and size, repeated while that may help, not redirected."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from kelpie.errors import NotFoundError
from kelpie.providers.base import ProviderError

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

MAX_TRIES = 4
BACKOFF_S = 0.5
"""The first pause; each further one is twice as long, give or take half."""
SILENT_TRIES = 3
"""How many tries fit into the time of a call when nobody answers."""
MAX_ANSWER_BYTES = 32 * 1024 * 1024
CHUNK_BYTES = 65_536
CONNECTIONS = 16

TRANSIENT = frozenset({429, 500, 502, 503, 504})


class RefusedError(ProviderError):
    """The cloud answered with ``status``, which asking again would not change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Cloud:
    """One API. Every call it makes may be repeated without harm.

    Texts of its errors hold what was asked for and the status of the answer: no header and nothing of a body,
    because a decision shows them to its user.
    """

    def __init__(
        self,
        name: str,
        url: str,
        headers: Callable[[], Mapping[str, str]],
        *,
        timeout_s: float,
        ca_file: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``headers`` is asked for at every try: credentials may be replaced at any time."""
        self._name = name
        self._url = url
        self._headers = headers
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._http = urllib3.PoolManager(
            maxsize=CONNECTIONS, ca_certs=str(ca_file) if ca_file else None, retries=False
        )

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """The JSON object that is there. Raises NotFoundError and ProviderError."""
        answer = self.call("GET", path + (f"?{urlencode(query)}" if query else ""))
        if not isinstance(answer, dict):
            raise ProviderError(f"{self._name} answered GET {path} with something that is no JSON object.")
        return answer

    def call(self, method: str, path: str, body: Any = None, *, content_type: str = JSON) -> Any:
        """The decoded answer, or None without one.

        Raises NotFoundError for a 404, RefusedError for other refusals, ProviderError when there is no answer
        in time.
        """
        deadline = time.monotonic() + self._timeout_s
        encoded = None if body is None else json.dumps(body).encode()
        tries = 0
        while True:
            tries += 1
            problem, wanted_s = self._try(method, path, encoded, content_type, deadline)
            if isinstance(problem, _Answer):
                return problem.decoded
            pause_s = max(wanted_s, BACKOFF_S * 2 ** (tries - 1) * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            if tries == MAX_TRIES or time.monotonic() + pause_s >= deadline:
                asked = f", and wants to be left alone for {wanted_s:g} s" if wanted_s else ""
                raise ProviderError(f"{self._name} {problem} to {method} {path} ({tries} tries){asked}.")
            self._sleep(pause_s)

    def _try(
        self, method: str, path: str, body: bytes | None, content_type: str, deadline: float
    ) -> tuple[_Answer | str, float]:
        """An answer, or what went wrong and for how many seconds the cloud wants to be left alone."""
        # A silent server must leave time for another try, which may meet one that answers.
        left_s = min(max(0.1, deadline - time.monotonic()), self._timeout_s / SILENT_TRIES)
        sent = {"Accept": JSON, **self._headers()} | ({} if body is None else {"Content-Type": content_type})
        try:
            response = self._http.request(
                method,
                self._url + path,
                body=body,
                headers=sent,
                timeout=urllib3.Timeout(connect=min(5.0, left_s), read=left_s),
                redirect=False,
                preload_content=False,
            )
            try:
                data = _read(response, deadline)
            except BaseException:
                response.close()
                raise
            response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError, _TooMuchError) as error:
            return f"gave no answer ({type(error).__name__})", 0
        if response.status == 404:
            raise NotFoundError(f"{self._name} knows no {path}.")
        if response.status in TRANSIENT:
            return f"answered {response.status}", _retry_after_s(response.headers.get("Retry-After"))
        if not 200 <= response.status < 300:
            status = response.status
            raise RefusedError(f"{self._name} answered {status} to {method} {path}.", status)
        try:
            return _Answer(json.loads(data) if data.strip() else None), 0
        except (ValueError, RecursionError):
            return "answered with something that is not JSON", 0


class _Answer:
    def __init__(self, decoded: Any) -> None:
        self.decoded = decoded


class _TooMuchError(Exception):
    """An answer is too long, or takes too long."""


def _read(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    data = bytearray()
    while chunk := response.read1(CHUNK_BYTES, decode_content=False):
        data += chunk
        if len(data) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
            raise _TooMuchError
    return bytes(data)


def _retry_after_s(value: str | None) -> float:
    """The seconds of a Retry-After; a date there is not worth a parser, and 0."""
    return min(float(value), 86_400.0) if value is not None and re.fullmatch("[0-9]{1,9}", value) else 0.0


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")
