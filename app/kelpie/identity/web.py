"""Questions to the web services that know identities: JSON, bounded in size and time, never redirected."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3

from kelpie.errors import ForbiddenError, UnavailableError

CONNECTIONS = 16
CHUNK_BYTES = 65_536


class Web:
    """Asks one service. Every failure is an UnavailableError: a service that is broken refuses nobody.
    Only of a status that the caller names as a refusal it is a ForbiddenError.

    Its texts go to our log, never to a caller; they hold no header and no body.
    """

    def __init__(self, url: str, *, timeout_s: float, max_bytes: int, ca_file: Path | None = None) -> None:
        self._url = url
        self._shown = url.partition("?")[0]  # a query may hold a secret
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._http = urllib3.PoolManager(
            maxsize=CONNECTIONS,
            ca_certs=str(ca_file) if ca_file else None,
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s),
            retries=False,  # redirects are not followed either: they would carry the credential elsewhere
        )

    def ask(
        self,
        method: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        refusals: frozenset[int] = frozenset(),
    ) -> dict[str, Any]:
        """The JSON object that the service answers. Raises UnavailableError, ForbiddenError for a refusal."""
        deadline = time.monotonic() + 2 * self._timeout_s  # to connect, and to answer
        try:
            try:
                status, data = self._exchange(method, headers, body, deadline)
            except urllib3.exceptions.ProtocolError:  # a kept connection that the service has closed since
                status, data = self._exchange(method, headers, body, deadline)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise UnavailableError(f"{self._shown} cannot be asked: {type(error).__name__}") from error
        if status in refusals:
            raise ForbiddenError(f"{self._shown} answered with status {status}")
        if status != 200:
            raise UnavailableError(f"{self._shown} answered with status {status}, not 200")
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            raise UnavailableError(f"{self._shown} answered with something that is not JSON") from None
        if not isinstance(answer, dict):
            raise UnavailableError(f"{self._shown} answered with JSON that is no object")
        return answer

    def _exchange(
        self, method: str, headers: Mapping[str, str], body: bytes | None, deadline: float
    ) -> tuple[int, bytes]:
        response = self._http.request(method, self._url, headers=headers, body=body, preload_content=False)
        try:
            data = self._read(response, deadline)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return response.status, data

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        data = b""
        while chunk := response.read1(CHUNK_BYTES, decode_content=False):
            data += chunk
            if len(data) > self._max_bytes:
                raise UnavailableError(f"{self._shown} answered with more than {self._max_bytes} bytes")
            if time.monotonic() > deadline:
                raise UnavailableError(f"{self._shown} did not end its answer within {self._timeout_s:g} s")
        return data
