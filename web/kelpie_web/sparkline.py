"""A day of one figure as a small line, drawn as SVG by the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kelpie.store.history import DAY_MS, History, Sample

STEPS = 48
WIDTH, HEIGHT, EDGE = 2 * STEPS, 24, 2
STEP_MS = DAY_MS // STEPS


@dataclass(frozen=True, slots=True)
class Sparkline:
    """The line, and what it says in words."""

    points: str  # of an SVG polyline; the right edge is now, the left one a day ago
    label: str


def level(history: History, pick: Callable[[Sample], int]) -> Sparkline | None:
    """How a figure was; None as long as there is no line to draw."""
    values = history.at(_times(history), pick)[1:]
    return _drawn(values, "at most {most:,} within the last {span}, at least {least:,}")


def growth(history: History, pick: Callable[[Sample], int]) -> Sparkline | None:
    """How much a total grew in each half hour; None as long as there is no line to draw."""
    totals = history.at(_times(history), pick)
    grown = [
        None if after is None else max(0, after - (_first(totals) if before is None else before))
        for before, after in pairwise(totals)
    ]
    return _drawn(grown, "at most {most:,} in half an hour within the last {span}")


def _times(history: History) -> list[int]:
    now = history.samples[-1][0] if history.samples else 0
    return [now - step * STEP_MS for step in range(STEPS, -1, -1)]


def _first(totals: Sequence[int | None]) -> int:
    return next((value for value in totals if value is not None), 0)


def _drawn(values: Sequence[int | None], label: str) -> Sparkline | None:
    known = [(step, value) for step, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return None
    most, least = max(value for _, value in known), min(value for _, value in known)
    room = HEIGHT - 2 * EDGE
    points = " ".join(
        f"{2 * step + 1},{HEIGHT - EDGE - room * value / (most or 1):.4g}" for step, value in known
    )
    hours = len(known) / 2
    return Sparkline(points, label.format(most=most, least=least, span=f"{hours:g} h"))
