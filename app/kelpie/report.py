"""Says from a job's command how far it is. One file that needs nothing: it may be copied into any image.

::

    from kelpie.job import report      # or: from report import report, from a copy of this file

    for step in range(first, 10_000):
        loss = train(step)
        report(step, 10_000, loss=loss)
        if step % 500 == 0:
            save_checkpoint(step)
            report(step, 10_000, checkpoint=True)

It writes JSON lines at the end of the file that ``KELPIE_PROGRESS_FILE`` names, as any other program may too.
It never raises and never waits, and outside of a job it does nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import threading
import time
from collections import deque
from typing import Any

VARIABLE = "KELPIE_PROGRESS_FILE"
INTERVAL_S = 0.5
"""Calls closer together are written as one, the last word on everything; checkpoints at once."""
MAX_FILE_BYTES = 1 << 20

_lock = threading.RLock()  # a signal handler may report in the middle of a report
_busy = False  # the holder of the lock writes: what interrupts it leaves the news to it
_news: deque[dict[str, Any]] = deque()
_pending: dict[str, Any] = {}
_written = 0.0


def report(
    step: float | None = None,
    total: float | None = None,
    *,
    fraction: float | None = None,
    checkpoint: bool = False,
    **metrics: Any,
) -> None:
    """Say how far the job is: a step of how many, or a fraction from 0 to 1.

    ``checkpoint``: one has just been written, so work up to here is not lost with this node. ``metrics``: any
    numbers by name, at most 32 names. What is left out stays as it was said before.
    """
    told = {"step": _number(step), "total": _number(total), "fraction": _number(fraction)}
    numbers = {name: _number(value) for name, value in metrics.items()}
    news: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    news["metrics"] = {name: value for name, value in numbers.items() if value is not None}
    if checkpoint:
        news["checkpoint"] = True
    _news.append(news)
    _take_in()


def _take_in(*, last: bool = False) -> None:
    global _busy  # noqa: PLW0603  (one file per process)
    with _lock:
        while (_news or last) and not _busy:
            try:
                _busy = True
                while _news:
                    _note(_news.popleft())
                if last or "checkpoint" in _pending or abs(time.monotonic() - _written) >= INTERVAL_S:
                    _write()
            finally:
                _busy = False
            last = False


def _note(news: dict[str, Any]) -> None:
    metrics = {**_pending.get("metrics", {}), **news.pop("metrics")}
    _pending.update(news)
    if metrics:
        _pending["metrics"] = metrics


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, int):
        return value
    try:
        number = float(value)  # also what numpy and torch call numbers
    except Exception:  # noqa: BLE001  (whatever it is, it is no number, and no reason to end a job)
        return None
    return number if math.isfinite(number) else None


def _write() -> None:
    global _written  # noqa: PLW0603  (one file per process)
    path = os.environ.get(VARIABLE)
    if _pending and path:
        with contextlib.suppress(OSError, ValueError):  # a full disk is no reason to end a job
            too_long = os.path.exists(path) and os.path.getsize(path) > MAX_FILE_BYTES  # noqa: PTH110, PTH202  (as small as can be)
            with open(path, "w" if too_long else "a", encoding="utf-8") as file:  # noqa: PTH123  (likewise)
                file.write(json.dumps(_pending) + "\n")
    _pending.clear()
    _written = time.monotonic()


def _write_last() -> None:
    _take_in(last=True)


def _after_fork() -> None:
    global _lock, _busy  # noqa: PLW0603  (their holder may be a thread that the child does not have)
    _lock = threading.RLock()
    _busy = False
    _news.clear()
    _pending.clear()


atexit.register(_write_last)
os.register_at_fork(after_in_child=_after_fork)
