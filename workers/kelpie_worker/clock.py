"""The clock that leases are measured on."""

from __future__ import annotations

import time


def lease_clock() -> float:
    """Seconds since some fixed moment; never goes back, and goes on while the machine sleeps.

    CLOCK_MONOTONIC stands still during a suspend, so a node that slept through its lease would not notice.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
