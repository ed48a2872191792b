"""How far a job is, as its command says: what may be said, what is known of it, and when the end may come.

Imports nothing of ours but the form of times, so that the client, the server and the worker share it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kelpie.job import from_iso, iso

MAX_METRICS = 32
MAX_POINT_METRICS = 8
"""Metrics whose course over time is kept: the first that a command tells."""
MAX_METRIC_NAME_CHARS = 48
MAX_STEP = 2**53
MAX_AGE_S = 1e9
MAX_RATE = 1e6
"""Of the work per second."""
MAX_ETA_MS = 10 * 366 * 86_400_000
"""An end further away than this is none that anybody could name."""


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """What a command has said so far, as its node tells it with a heartbeat: clocks differ, ages do not."""

    fraction: float | None = None  # of the work, 0…1
    step: float | None = None
    total: float | None = None  # steps
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint_age_s: float | None = None  # since it said that a checkpoint is written
    age_s: float = 0.0  # since it said anything
    rate: float | None = None  # of the work per second, in this attempt

    def to_wire(self) -> dict[str, Any]:
        """The JSON form; what is not known is absent."""
        told: dict[str, Any] = {
            "fraction": self.fraction,
            "step": _plain(self.step),
            "total": _plain(self.total),
            "metrics": dict(self.metrics) or None,
            "checkpoint_age_s": _rounded(self.checkpoint_age_s),
            "age_s": _rounded(self.age_s),
            "rate": self.rate,
        }
        return {name: value for name, value in told.items() if value is not None}

    def encode(self) -> str:
        """As the store keeps it."""
        return json.dumps(self.to_wire(), separators=(",", ":"), allow_nan=False, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of a job's progress. Times are milliseconds since 1970 UTC."""

    attempt: int  # that said so
    updated: int
    fraction: float | None = None  # of the work, 0…1
    step: float | None = None
    total: float | None = None  # steps
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: int | None = None  # when the command last said that one is written
    rate: float | None = None  # of the work per second, in that attempt

    @classmethod
    def decode(cls, value: bytes) -> Progress:
        """What heartbeat.lua keeps: when it was told, by which attempt, and the report."""
        told, attempt, report = value.decode().split(" ", 2)
        wire: dict[str, Any] = json.loads(report)
        checkpoint_age_s = wire.get("checkpoint_age_s")
        return cls(
            attempt=int(attempt),
            updated=int(told) - round(1000 * wire.get("age_s", 0)),
            fraction=_float(wire.get("fraction")),
            step=_float(wire.get("step")),
            total=_float(wire.get("total")),
            metrics={name: float(metric) for name, metric in wire.get("metrics", {}).items()},
            checkpoint=None if checkpoint_age_s is None else int(told) - round(1000 * checkpoint_age_s),
            rate=_float(wire.get("rate")),
        )

    def eta(self, attempt: int, now: int) -> int | None:
        """When the running attempt may be done, at the rate that was last seen; None: nobody can say.

        An attempt that has said nothing yet begins where the last one was, and now.
        """
        if self.fraction is None or self.rate is None or self.rate <= 0:
            return None
        left_ms = 1000 * (1 - self.fraction) / self.rate
        if left_ms > MAX_ETA_MS:
            return None
        return max(now, (self.updated if attempt == self.attempt else now) + round(left_ms))

    def to_wire(self, *, eta: int | None, metrics: bool = True) -> dict[str, Any]:
        """The JSON form, times as ISO-8601; without ``metrics`` it is short, as lists want it."""
        wire: dict[str, Any] = {
            "fraction": self.fraction,
            "step": _plain(self.step),
            "total": _plain(self.total),
            "checkpoint": iso(self.checkpoint),
            "updated": iso(self.updated),
            "attempt": self.attempt,
            "eta": iso(eta),
        }
        return wire | {"metrics": dict(self.metrics)} if metrics else wire


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """How far a job was at one time, in ms since 1970 UTC: one of many that tell how it went."""

    time: int
    attempt: int
    fraction: float | None = None  # of the work, 0…1
    step: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)  # the first MAX_POINT_METRICS of those told

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> ProgressPoint:
        """What :meth:`to_wire` made."""
        return cls(
            time=from_iso(wire["time"]) or 0,
            attempt=wire["attempt"],
            fraction=_float(wire["fraction"]),
            step=_float(wire["step"]),
            metrics={name: float(value) for name, value in wire["metrics"].items()},
        )

    def to_wire(self) -> dict[str, Any]:
        """The JSON form, times as ISO-8601."""
        return {
            "time": iso(self.time),
            "attempt": self.attempt,
            "fraction": self.fraction,
            "step": _plain(self.step),
            "metrics": dict(self.metrics),
        }


def number(value: object, low: float = -math.inf, high: float = math.inf) -> float | None:
    """A finite number within bounds; None: that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and low <= found <= high else None


def metric_name(value: object) -> str | None:
    """A name that a metric may have; None: it may not."""
    fits = isinstance(value, str) and 0 < len(value) <= MAX_METRIC_NAME_CHARS and value.isprintable()
    return str(value) if fits else None


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)  # JSON tells 3.0 as 3


def _plain(value: float | None) -> float | None:
    return int(value) if value is not None and value == int(value) else value


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
