"""The attempts of a job as bars over time, drawn as SVG by the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kelpie.job import Attempt

MAX_ROWS = 40
LEFT, WIDTH, ROW, BAR = 150, 800, 26, 16
MIN_BAR = 3.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt."""

    attempt: Attempt
    x: float
    y: float
    width: float
    outcome: str  # running while it lasts
    ms: int  # how long it took, or has taken
    kept_width: float  # up to its last sign of life; what follows it was lost with the node


@dataclass(frozen=True, slots=True)
class Timeline:
    """Bars, and what they are measured by."""

    bars: tuple[Bar, ...]
    start: int  # ms since 1970 UTC
    end: int
    hidden: int  # older attempts that are not drawn

    @property
    def height(self) -> int:
        """Of the drawing."""
        return ROW * len(self.bars)


def timeline(attempts: Sequence[Attempt], *, created: int, now: int) -> Timeline | None:
    """The drawing of the newest attempts; None without any."""
    shown = attempts[-MAX_ROWS:]
    if not shown:
        return None
    hidden = len(attempts) - len(shown)
    start = shown[0].start if hidden else min(created, shown[0].start)
    end = max([now if one.end is None else one.end for one in shown] + [start + 1])

    def place(ms: int) -> float:
        return LEFT + WIDTH * (min(max(ms, start), end) - start) / (end - start)

    bars = []
    for row, one in enumerate(shown):
        ended = now if one.end is None else one.end
        x = place(one.start)
        width = max(MIN_BAR, place(ended) - x)
        alive = place(one.last_heartbeat or one.start) - x if one.outcome == "interrupted" else width
        bars.append(
            Bar(
                attempt=one,
                x=round(min(x, LEFT + WIDTH - width), 1),
                y=row * ROW + (ROW - BAR) / 2,
                width=round(width, 1),
                outcome=one.outcome.value if one.outcome else "running",
                ms=max(0, ended - one.start),
                kept_width=round(min(width, max(0.0, alive)), 1),
            )
        )
    return Timeline(tuple(bars), start, end, hidden)
