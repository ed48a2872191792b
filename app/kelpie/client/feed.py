"""Server-Sent Events that go on through lost connections."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import urllib3

from kelpie.errors import UnavailableError

T = TypeVar("T")

MAX_LINE_BYTES = 1024 * 1024
_RETRY_S = 2.0  # until the API says how long
_MAX_RETRY_S = 30.0

Open = Callable[[str, Mapping[str, str], Mapping[str, str]], Any]
"""Opens path, query and headers as a stream: a urllib3 response that was not read yet."""


class Ended(Exception):
    """What was followed has come to its end."""


class Feed(ABC, Generic[T]):
    """What one path tells, from one place on, until the end that its subclass knows, if any."""

    def __init__(
        self,
        opened: Open,
        path: str,
        *,
        after: str | None,
        outage_s: float,
        query: Mapping[str, str] | None = None,
    ) -> None:
        self._open = opened
        self._path = path
        self._query = query or {}
        self._after = after
        self._outage_s = outage_s
        self._retry_s = _RETRY_S

    @abstractmethod
    def _given(self, kind: str, data: str | None) -> T | None:
        """What a block gives to the caller, by its type and data; None: nothing. Raises Ended."""

    def __iter__(self) -> Iterator[T]:
        """Give what comes. Raises what the API refuses, and UnavailableError after an outage."""
        heard = time.monotonic()
        failures = 0
        while True:
            try:
                for given in self._connection():
                    heard, failures = time.monotonic(), 0
                    if given is not None:
                        yield given
            except Ended:
                return
            except (urllib3.exceptions.HTTPError, OSError, UnavailableError) as error:
                if time.monotonic() - heard > self._outage_s:
                    raise UnavailableError(
                        f"the API was away for longer than {self._outage_s:g} s ({type(error).__name__})"
                    ) from error
                failures += 1
            pause_s = min(_MAX_RETRY_S, self._retry_s * 2.0 ** min(max(0, failures - 1), 10))
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - it is no secret

    def _connection(self) -> Iterator[T | None]:
        """What one connection brings; None for a sign of life."""
        headers = {"Accept": "text/event-stream"}
        if self._after is not None:
            headers["Last-Event-ID"] = self._after
        answer = self._open(self._path, self._query, headers)
        try:
            block: dict[str, str] = {}
            for line in _lines(answer):
                if line:
                    name, _, value = line.partition(":")
                    block[name] = value.removeprefix(" ")
                    continue
                if block.get("retry", "").isdecimal():
                    self._retry_s = min(_MAX_RETRY_S, int(block["retry"]) / 1000)
                self._after = block.get("id") or self._after
                yield self._given(block.get("event", ""), block.get("data"))
                block = {}
        finally:
            answer.close()


def _lines(answer: Any) -> Iterator[str]:
    rest = b""
    for piece in answer.stream(65536):
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise UnavailableError("the API sends what is no event stream")
        yield from (line.decode("utf-8", "replace").removesuffix("\r") for line in lines)
