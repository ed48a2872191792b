"""The client's part about logs: what the commands of a job printed, also as it comes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kelpie.client.feed import Ended, Feed
from kelpie.client.jobs import job_path
from kelpie.client.transport import OUTAGE_S, Transport
from kelpie.job import LogStream, from_iso

_PAGE_LINES = 1000
_GAP_TEXT = "… older lines are not kept any more"


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that a command printed, control characters too. Of the stream ``kelpie``: about the others."""

    id: str  # attempt and number; empty where lines are missing
    attempt: int
    stream: str
    time: int  # ms since 1970 UTC
    text: str
    wire: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> LogLine:
        """The line that a JSON object of the API describes."""
        time_ms = from_iso(wire["time"]) or 0
        return cls(wire["id"], wire["attempt"], wire["stream"], time_ms, wire["text"], dict(wire))

    @classmethod
    def gap(cls) -> LogLine:
        """Lines are missing here."""
        return cls(
            "", 0, LogStream.KELPIE, 0, _GAP_TEXT, {"stream": LogStream.KELPIE.value, "text": _GAP_TEXT}
        )


class LogFeed(Feed[LogLine]):
    """The log of one job until its end."""

    def _given(self, kind: str, data: str | None) -> LogLine | None:
        if kind == "end":
            raise Ended
        if kind == "gap":
            return LogLine.gap()
        return LogLine.from_wire(json.loads(data)) if kind == "log" and data is not None else None


class LogCalls(Transport):
    """Mixed into :class:`kelpie.Client`."""

    def logs(
        self, job_id: str, *, after: str | None = None, tail: int | None = None, follow: bool = False
    ) -> Iterator[LogLine]:
        """What the commands of all attempts at a job printed, as far as it is kept, oldest first.

        Begins after the line of the id ``after``, or else ``tail`` lines (up to 1,000) before the end. With
        ``follow`` it goes on until the job has ended, through lost connections; UnavailableError when the API
        is away for longer than OUTAGE_S.
        """
        path = f"{job_path(job_id)}/logs"
        if after is not None:  # which outdoes it: every line after that place is wanted
            tail = None
        if follow:
            query = {} if tail is None else {"tail": str(tail)}
            yield from LogFeed(self._open, path, after=after, outage_s=OUTAGE_S, query=query)
            return
        while True:
            query_of_page = {"after": after, "page_size": _PAGE_LINES, "tail": tail}
            page = self._call("GET", path, query=query_of_page)
            if page["gap"]:
                yield LogLine.gap()
            yield from map(LogLine.from_wire, page["lines"])
            if tail is not None or page["_count"] < _PAGE_LINES:
                return
            after = page["next"]
