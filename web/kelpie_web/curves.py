"""How a job's progress and its metrics were over time, as lines drawn as SVG by the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from kelpie.progress import MAX_POINT_METRICS, ProgressPoint
from kelpie_web.show import figure, lasted

WIDTH, HEIGHT, EDGE = 600, 100, 3
"""Of a drawing, which the page stretches to its place; at the edge nothing is drawn but thickness."""

LABELS_APART = 0.08
"""Of the width: nearer to the one before it, an attempt is not named."""

Pick = Callable[[ProgressPoint], float | None]
Known = list[tuple[ProgressPoint, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure over time."""

    name: str
    lines: tuple[str, ...]  # the points of one SVG polyline for each attempt
    most: str  # what the upper edge stands for
    least: str
    last: str
    label: str  # what it says, in words


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where another attempt said its first word."""

    attempt: int
    place: float  # of the width, in percent
    is_named: bool
    is_late: bool  # its name stands before it, for want of room behind


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves over the same time."""

    start: int  # ms since 1970 UTC
    end: int
    main: Curve | None  # of the work, else of steps
    metrics: tuple[Curve, ...]
    beginnings: tuple[Beginning, ...]


def curves(points: Sequence[ProgressPoint]) -> Curves | None:
    """The drawing of a history in its order; None as long as there is no line to draw."""
    if len(points) < 2 or points[0].time == points[-1].time:
        return None
    names = dict.fromkeys(name for point in reversed(points) for name in point.metrics)
    metrics = [_curve(name, points, _metric(name), figure, None) for name in list(names)[:MAX_POINT_METRICS]]
    main = _curve("Progress", points, lambda one: one.fraction, _percent, (0.0, 1.0))
    return Curves(
        points[0].time,
        points[-1].time,
        main or _curve("Step", points, lambda one: one.step, figure, None),
        tuple(one for one in metrics if one is not None),
        _beginnings(points),
    )


def _curve(
    name: str,
    points: Sequence[ProgressPoint],
    pick: Pick,
    shown: Callable[[float], str],
    bounds: tuple[float, float] | None,
) -> Curve | None:
    """One curve, between these bounds or its own; None with less than two points at different times."""
    known: Known = [(point, value) for point in points if (value := pick(point)) is not None]
    if len({point.time for point, _ in known}) < 2:
        return None
    values = [value for _, value in known]
    least, most = bounds or (min(values), max(values))
    attempts = len({point.attempt for point, _ in known})
    label = (
        f"{name} over {lasted(known[-1][0].time - known[0][0].time)}: from {shown(values[0])} to "
        f"{shown(values[-1])}, at least {shown(min(values))}, at most {shown(max(values))}"
    )
    return Curve(
        name,
        _lines(known, start=points[0].time, end=points[-1].time, least=least, most=most),
        most=shown(most),
        least=shown(least),
        last=shown(values[-1]),
        label=label if attempts == 1 else f"{label}, in {attempts} attempts",
    )


def _lines(known: Known, *, start: int, end: int, least: float, most: float) -> tuple[str, ...]:
    reach = most / 2 - least / 2  # halves: the whole may be more than a float holds

    def place(point: ProgressPoint, value: float) -> str:
        share = (value / 2 - least / 2) / reach if reach > 0 else 0.5
        y = HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * share
        return f"{WIDTH * (point.time - start) / (end - start):.1f},{y:.1f}"

    lines = []
    for _, group in groupby(known, key=lambda one: one[0].attempt):
        places = [place(*one) for one in group]
        lines.append(" ".join(places * 2 if len(places) == 1 else places))  # a single one is a dot
    return tuple(lines)


def _beginnings(points: Sequence[ProgressPoint]) -> tuple[Beginning, ...]:
    start, end = points[0].time, points[-1].time
    found: list[Beginning] = []
    named = -1.0
    for before, point in pairwise(points):
        if point.attempt != before.attempt:
            place = (point.time - start) / (end - start)
            is_named = place - named >= LABELS_APART
            named = place if is_named else named
            found.append(Beginning(point.attempt, round(100 * place, 1), is_named, place > 1 - LABELS_APART))
    return tuple(found)


def _metric(name: str) -> Pick:
    return lambda point: point.metrics.get(name)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
