"""The time of this machine, where it is shown to people and nothing is decided by it."""

from __future__ import annotations

import time

DAY_MS = 86_400_000


def wall_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
