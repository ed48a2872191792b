"""Growing, jittered pauses between tries."""

from __future__ import annotations

import random


class Backoff:
    """Pauses that double from ``first_s`` up to ``cap_s`` seconds, each drawn between half and all of it.

    The jitter keeps a fleet that lost its API from coming back in step.
    """

    def __init__(self, first_s: float, cap_s: float) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._next_s = first_s

    def pause_s(self) -> float:
        """How long to wait before the next try."""
        pause = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311  (spreads load; guards nothing)
        self._next_s = min(self._cap_s, self._next_s * 2)
        return pause

    def reset(self) -> None:
        """A try succeeded: start over."""
        self._next_s = self._first_s
