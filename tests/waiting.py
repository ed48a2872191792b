"""Waiting for something to become true, without sleeping blindly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], description: str, *, timeout_s: float = 30.0, poll_s: float = 0.02
) -> T:
    """The first truthy value of ``predicate``; fails with ``description`` after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {description}; last value: {value!r}")
        time.sleep(poll_s)
