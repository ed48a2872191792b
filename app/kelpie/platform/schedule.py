"""When a delivery that failed is tried again."""

from __future__ import annotations

import random

RETRY_AFTER_S = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 32_400)
"""The pauses between tries: a receiver that is away for a day misses nothing."""

MAX_TRIES = len(RETRY_AFTER_S) + 1
JITTER = 0.2  # of a pause, added: tries of many deliveries that failed together spread out


def pause_s(tries: int, *, wanted_s: float = 0) -> float | None:
    """The seconds until the next try after ``tries`` of them; None: there is none.

    ``wanted_s`` is what the receiver asks for.
    """
    if tries >= MAX_TRIES:
        return None
    planned_s = max(RETRY_AFTER_S[max(tries, 1) - 1], wanted_s)
    return planned_s * random.uniform(1, 1 + JITTER)  # noqa: S311 - it is no secret
