"""The client's part about events: Server-Sent Events that go on through lost connections."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kelpie.client.feed import Feed, Open
from kelpie.client.jobs import job_path
from kelpie.client.transport import OUTAGE_S, PAGE_SIZE, Transport
from kelpie.job import from_iso

GAP = "gap"
REMEMBERED = 10_000  # ids of events that were given, so that none is given twice


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


class EventFeed(Feed[Event]):
    """The events of one path, from one place on, without end; each once."""

    def __init__(self, opened: Open, path: str, after: str | None, *, outage_s: float) -> None:
        super().__init__(opened, path, after=after, outage_s=outage_s)
        self._seen: set[str] = set()
        self._order: deque[str] = deque()

    def _given(self, kind: str, data: str | None) -> Event | None:
        if kind == GAP:
            return Event.gap()
        if data is None:
            return None
        event = Event.from_wire(json.loads(data))
        if event.id in self._seen:
            return None
        self._seen.add(event.id)
        self._order.append(event.id)
        if len(self._order) > REMEMBERED:
            self._seen.discard(self._order.popleft())
        return event


class EventCalls(Transport):
    """Mixed into :class:`kelpie.Client`."""

    def events(
        self, job_id: str | None = None, *, after: str | None = None, follow: bool = True
    ) -> Iterator[Event]:
        """What happens to your jobs (or to one), oldest first; each event once, as far as the API can tell.

        Begins after the event of the id ``after`` ("0": the oldest that is kept). Without it: with ``follow``
        at this moment, else at the oldest; of one job always at its beginning. With ``follow`` it goes on for
        ever, through lost connections; UnavailableError when the API is away for longer than OUTAGE_S. An
        event of the type ``gap`` says that some may be missing.
        """
        path = "/events" if job_id is None else f"{job_path(job_id)}/events"
        if follow:
            yield from EventFeed(self._open, path, after, outage_s=OUTAGE_S)
            return
        while True:
            page = self._call("GET", path, query={"after": after, "page_size": PAGE_SIZE})
            if page["gap"]:
                yield Event.gap()
            yield from map(Event.from_wire, page["events"])
            if page["_count"] < PAGE_SIZE:
                return
            after = page["next"]
