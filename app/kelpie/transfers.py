"""What was moved for each entry of a job's ``sync``: what its node says of it, and what is known.

Imports nothing of ours but the form of times, so that the client, the server and the worker share it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from kelpie.job import from_iso, iso

PHASES = ("before", "during", "after")
"""The lists of a job's ``sync``, in the order in which they are served."""


class TransferState(StrEnum):
    """How far an entry is. It never goes back within an attempt."""

    WAITING = "waiting"  # its time has not come
    MOVING = "moving"  # files are looked for, watched, or on their way
    DONE = "done"  # all is in place and verified


@dataclass(frozen=True, slots=True)
class EntryTransfers:
    """What one attempt has moved for one entry. Two are equal when nothing happened between them."""

    state: TransferState = TransferState.WAITING
    files: int = 0  # moved; every version of a checkpoint is one
    bytes: int = 0  # of these, and of what has arrived of files on their way, as the storage holds them
    unchanged: int = 0  # files that were there already
    waiting_files: int = 0  # to be moved yet, with those on their way
    waiting_bytes: int = 0
    failures: int = 0  # transfers that failed after all the tries of their requests
    last_age_s: float | None = field(default=None, compare=False)  # since the last file was moved

    def to_wire(self) -> dict[str, Any]:
        """The JSON form; what is as it was at the beginning is absent."""
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        if self.last_age_s is not None:
            said["last_age_s"] = round(self.last_age_s, 3)
        return {one.name: said[one.name] for one in fields(self) if said[one.name] != one.default}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> EntryTransfers:
        """The reverse of :meth:`to_wire`; what a later version says besides is passed over."""
        known = {one.name: wire[one.name] for one in fields(cls) if one.name in wire}
        return cls(**known | {"state": TransferState(wire.get("state", TransferState.WAITING))})


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What a node says with a heartbeat, in the order of the job's entries: clocks differ, ages do not."""

    before: tuple[EntryTransfers, ...] = ()
    during: tuple[EntryTransfers, ...] = ()
    after: tuple[EntryTransfers, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """The JSON form: lists by phase; empty ones are absent."""
        return {phase: [one.to_wire() for one in told] for phase, told in self.phases() if told}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> TransferReport:
        """The reverse of :meth:`to_wire`."""
        return cls(*(tuple(map(EntryTransfers.from_wire, wire.get(phase) or ())) for phase in PHASES))

    def phases(self) -> Iterator[tuple[str, tuple[EntryTransfers, ...]]]:
        """The three lists with their names."""
        yield from zip(PHASES, (self.before, self.during, self.after), strict=True)


@dataclass(frozen=True, slots=True)
class Transfers:
    """What is known of a job's transfers. Times are milliseconds since 1970 UTC."""

    attempt: int  # whose node said so
    updated: int
    report: TransferReport

    def last(self, entry: EntryTransfers) -> int | None:
        """When the last file of the entry was moved."""
        return None if entry.last_age_s is None else self.updated - round(1000 * entry.last_age_s)

    def encode(self) -> str:
        """As the store keeps it."""
        kept = {"attempt": self.attempt, "updated": self.updated, **self.report.to_wire()}
        return json.dumps(kept, separators=(",", ":"), allow_nan=False)

    @classmethod
    def decode(cls, value: bytes | str) -> Transfers:
        """The reverse of :meth:`encode`."""
        kept: dict[str, Any] = json.loads(value)
        return cls(kept["attempt"], kept["updated"], TransferReport.from_wire(kept))

    def to_wire(self) -> dict[str, Any]:
        """What the API answers: every figure, times as ISO-8601."""
        wire: dict[str, Any] = {"attempt": self.attempt, "updated": iso(self.updated)}
        return wire | {phase: [self._entry(one) for one in told] for phase, told in self.report.phases()}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Transfers:
        """What the API answered."""
        updated = from_iso(wire["updated"]) or 0

        def entry(told: Mapping[str, Any]) -> EntryTransfers:
            last = from_iso(told["last"])
            age_s = None if last is None else (updated - last) / 1000
            return EntryTransfers.from_wire({**told, "last_age_s": age_s})

        entries = (tuple(map(entry, wire[phase])) for phase in PHASES)
        return cls(wire["attempt"], updated, TransferReport(*entries))

    def _entry(self, entry: EntryTransfers) -> dict[str, Any]:
        wire = {one.name: getattr(entry, one.name) for one in fields(entry) if one.name != "last_age_s"}
        return wire | {"last": iso(self.last(entry))}
