"""Events as a client follows them: Server-Sent Events that go on through lost connections.

Needs the bare install only.
"""

from __future__ import annotations

import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import urllib3

from kelpie.errors import UnavailableError
from kelpie.job import from_iso

GAP = "gap"
MAX_LINE_BYTES = 1024 * 1024
REMEMBERED = 10_000  # ids of events that were given, so that none is given twice
_RETRY_S = 2.0  # until the API says how long
_MAX_RETRY_S = 30.0

Open = Callable[[str, Mapping[str, str], Mapping[str, str]], Any]
"""Opens path, query and headers as a stream: a urllib3 response that was not read yet."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job. Of the type ``gap``: events may be missing here; about no job."""

    id: str
    type: str
    job_id: str
    queue: str
    attempt: int
    machine_id: str | None
    status: str
    time: int  # ms since 1970 UTC
    wire: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Event:
        """The event that a JSON object of the API describes."""
        return cls(
            id=wire["id"],
            type=wire["type"],
            job_id=wire["job_id"],
            queue=wire["container_group_id"],
            attempt=wire["attempt"],
            machine_id=wire.get("machine_id"),
            status=wire["status"],
            time=from_iso(wire["time"]) or 0,
            wire=dict(wire),
        )

    @classmethod
    def gap(cls) -> Event:
        """Events may be missing here."""
        return cls("", GAP, "", "", 0, None, "", 0, {"type": GAP})


class Feed:
    """The events of one path, from one place on, without end."""

    def __init__(self, opened: Open, path: str, after: str | None, *, outage_s: float) -> None:
        self._open = opened
        self._path = path
        self._after = after
        self._outage_s = outage_s
        self._retry_s = _RETRY_S
        self._seen: set[str] = set()
        self._order: deque[str] = deque()

    def __iter__(self) -> Iterator[Event]:
        """Give events as they come. Raises what the API refuses, and UnavailableError after an outage."""
        heard = time.monotonic()
        failures = 0
        while True:
            try:
                for event in self._connection():
                    heard, failures = time.monotonic(), 0
                    if event is not None:
                        yield event
            except (urllib3.exceptions.HTTPError, OSError, UnavailableError) as error:
                if time.monotonic() - heard > self._outage_s:
                    raise UnavailableError(
                        f"the API was away for longer than {self._outage_s:g} s ({type(error).__name__})"
                    ) from error
                failures += 1
            pause_s = min(_MAX_RETRY_S, self._retry_s * 2.0 ** min(max(0, failures - 1), 10))
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - it is no secret

    def _connection(self) -> Iterator[Event | None]:
        """What one connection brings; None for a sign of life."""
        headers = {"Accept": "text/event-stream"}
        if self._after is not None:
            headers["Last-Event-ID"] = self._after
        answer = self._open(self._path, {}, headers)
        try:
            block: dict[str, str] = {}
            for line in _lines(answer):
                if line:
                    name, _, value = line.partition(":")
                    block[name] = value.removeprefix(" ")
                    continue
                yield self._event(block)
                block = {}
        finally:
            answer.close()

    def _event(self, block: Mapping[str, str]) -> Event | None:
        if block.get("retry", "").isdecimal():
            self._retry_s = min(_MAX_RETRY_S, int(block["retry"]) / 1000)
        self._after = block.get("id") or self._after
        if block.get("event") == GAP:
            return Event.gap()
        if "data" not in block:
            return None
        event = Event.from_wire(json.loads(block["data"]))
        if event.id in self._seen:
            return None
        self._seen.add(event.id)
        self._order.append(event.id)
        if len(self._order) > REMEMBERED:
            self._seen.discard(self._order.popleft())
        return event


def _lines(answer: Any) -> Iterator[str]:
    rest = b""
    for piece in answer.stream(65536):
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise UnavailableError("the API sends what is no event stream")
        yield from (line.decode("utf-8", "replace").removesuffix("\r") for line in lines)
