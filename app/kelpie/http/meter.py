"""Counts the requests of this process, and adds them to the totals of all processes.

gunicorn runs several processes, and a scrape reaches one of them. So each adds what it has counted to one
hash in Redis once a second, in one call for all: what a scrape sees is true whichever process answers,
survives restarts, and costs a request no round trip.
"""

from __future__ import annotations

import bisect
import secrets
import threading
import time
from collections import Counter
from typing import NamedTuple

from flask import Flask, Response, g, request

from kelpie.store import Poller
from kelpie.store.metrics import Metrics

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
"""Upper bounds of the histogram of latencies; what took longer is counted beyond."""

UNROUTED = "other"
"""The route of what has none: clients must not be able to make series."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

REQUESTS, BUCKET, SUM_US = "requests", "bucket", "sum_us"


class Meter:
    """The counts of one process since its last report."""

    def __init__(self, metrics: Metrics, poller: Poller) -> None:
        self._metrics = metrics
        self._poller = poller
        self._process = secrets.token_hex(8)
        self._sequence = 1
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._sending: dict[str, int] | None = None

    def register(self, app: Flask) -> None:
        """Count every request of ``app``, from its first handler to the head of its answer."""
        app.before_request(_start)
        app.after_request(self._count)

    def _count(self, response: Response) -> Response:
        rule = request.url_rule
        route = UNROUTED if rule is None else rule.rule
        method = request.method if request.method in METHODS else UNROUTED
        began = g.get("began_s")
        self.count(method, route, response.status_code, 0.0 if began is None else time.perf_counter() - began)
        return response

    def count(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count one request."""
        bucket = bisect.bisect_left(BUCKETS_S, duration_s)
        with self._lock:
            self._counts[_field(REQUESTS, method, route, str(status))] += 1
            self._counts[_field(BUCKET, method, route, str(bucket))] += 1
            self._counts[_field(SUM_US, method, route, "")] += round(duration_s * 1e6)

    def report(self) -> None:
        """Add what was counted to the totals. Raises UnavailableError; the next report then says it again."""
        with self._lock:
            if self._sending is None:
                self._sending, self._counts = dict(self._counts), Counter()
            sending = self._sending
        self._metrics.report(self._process, self._sequence, self._poller.open_polls, sending)
        with self._lock:
            self._sequence += 1
            self._sending = None


class Field(NamedTuple):
    """What the name of a total says."""

    kind: str
    method: str
    route: str
    value: str  # a status, or the number of a bucket


def read_field(name: str) -> Field | None:
    """The reverse of what :class:`Meter` writes; None for a name that it does not write."""
    parts = name.split("\t")
    return Field(*parts) if len(parts) == 4 else None


def _field(*parts: str) -> str:
    return "\t".join(parts)


def _start() -> None:
    g.began_s = time.perf_counter()
