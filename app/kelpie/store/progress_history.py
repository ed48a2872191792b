"""How the progress of a job was over time: some points of it, however long it lasts and often it is told.

Figures for people, written by told.py, of what ``heartbeat.lua`` has just kept. The last point of the list is
the last word. It gives way to the next one until it is as far from the point before as a part of the whole; a
list that is full is thinned out: about eight times in a month of heartbeats every ten seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import redis
from redis.client import Pipeline

from kelpie.progress import MAX_POINT_METRICS, Progress, ProgressPoint
from kelpie.store.clock import DAY_MS
from kelpie.store.keys import QueueKeys

EVEN_POINTS = 64
"""Points that the whole is divided into, however long it is."""

MAX_POINTS = 2 * EVEN_POINTS
"""What a list may grow to before it is thinned out: the whole is then about e times as long as before."""

MAX_CHANGES = 16
"""Changes from one attempt to another, the newest, that thinning keeps on both sides."""

MAX_POINT_BYTES = 512

_HEAD_BYTES = 96  # time, attempt, fraction and step at their longest
_NUMBER_BYTES = 16  # six digits, their exponent, and what stands between


def look(reading: Pipeline, keys: QueueKeys, job_id: str) -> None:
    """Ask for what :meth:`put` must know: four answers."""
    key = keys.progress_history(job_id)
    reading.get(keys.progress(job_id))
    reading.lindex(key, 0)
    reading.lrange(key, -2, -1)
    reading.llen(key)


def put(
    writing: Pipeline,
    keys: QueueKeys,
    job_id: str,
    seen: Sequence[Any],
    *,
    whole: Callable[[], list[bytes]],
    days: float,
) -> None:
    """Put what was just said of a job's progress at the end of its history, and keep that for so many days.

    ``seen`` are the answers to :meth:`look`; ``whole`` reads the list, which is asked when that is full.
    """
    said, first, ending, length = seen
    point = _last_word(said)
    if point is None:
        return
    key = keys.progress_history(job_id)
    if length >= MAX_POINTS:
        kept = _in_order([*whole(), _encoded(point)])
        writing.delete(key)
        writing.rpush(key, *map(_encoded, thinned(kept)))
    else:
        if length > 1 and not stays(_decoded(first), _decoded(ending[0]), _decoded(ending[1]), point):
            writing.rpop(key)
        writing.rpush(key, _encoded(point))
    writing.pexpire(key, int(days * DAY_MS))


def of_job(client: redis.Redis, keys: QueueKeys, job_id: str) -> list[ProgressPoint]:
    """The history of a job, oldest first, with what was said last at its end."""
    return _in_order(cast("list[bytes]", client.lrange(keys.progress_history(job_id), 0, -1)))


def stays(first: ProgressPoint, before: ProgressPoint, last: ProgressPoint, new: ProgressPoint) -> bool:
    """Whether the last point of a list is to stay when a new one comes; it has a first one, and one before.

    The first and the last word of each attempt stay, and what is far enough from the point before.
    """
    step_ms = max(1, abs(new.time - first.time) / EVEN_POINTS)
    return len({before.attempt, last.attempt, new.attempt}) > 1 or abs(last.time - before.time) >= step_ms


def thinned(points: Sequence[ProgressPoint]) -> list[ProgressPoint]:
    """Some of at least two points in their order: EVEN_POINTS or less at even distances, both sides of the
    newest changes from one attempt to another, and the last.
    """
    step_ms = max(1, (points[-1].time - points[0].time) / EVEN_POINTS)
    even = [0]
    for place, point in enumerate(points):
        if point.time - points[even[-1]].time >= step_ms:
            even.append(place)
    changes = [place for place, (a, b) in enumerate(pairwise(points), 1) if a.attempt != b.attempt]
    sides = [side for place in changes[-MAX_CHANGES:] for side in (place - 1, place)]
    return [points[place] for place in sorted({*even, *sides, len(points) - 1})]


def _last_word(said: bytes | None) -> ProgressPoint | None:
    """What ``heartbeat.lua`` keeps as a point; None when it says nothing that has a course."""
    if said is None:
        return None
    told = Progress.decode(said)
    point = ProgressPoint(
        told.updated,
        told.attempt,
        None if told.fraction is None else _rounded(told.fraction),
        told.step,
        _first_metrics(told.metrics),
    )
    return point if point.metrics or (point.fraction, point.step) != (None, None) else None


def _first_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """As many as a point has room for. That depends on their names alone: a line does not come and go."""
    kept: dict[str, float] = {}
    left = MAX_POINT_BYTES - _HEAD_BYTES
    for name, value in list(metrics.items())[:MAX_POINT_METRICS]:
        left -= len(_json(name)) + _NUMBER_BYTES
        if left < 0:
            break
        kept[name] = _rounded(value)
    return kept


def _in_order(values: Sequence[bytes]) -> list[ProgressPoint]:
    return sorted(map(_decoded, values), key=lambda point: point.time)  # clocks may have gone back


def _encoded(point: ProgressPoint) -> bytes:
    return _json([point.time, point.attempt, point.fraction, point.step, point.metrics])


def _decoded(value: bytes) -> ProgressPoint:
    return ProgressPoint(*json.loads(value))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")  # what a line can show
