"""``/metrics`` for Prometheus: what Redis says at the moment of the scrape."""

from __future__ import annotations

import hmac
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from spectree import Response as Described

import kelpie
from kelpie.errors import UnavailableError
from kelpie.http.auth import identify
from kelpie.http.context import require_admin, services
from kelpie.http.meter import BUCKET, BUCKETS_S, REQUESTS, SUM_US, read_field
from kelpie.http.openapi import HEALTH, spec
from kelpie.http.replies import ErrorReply
from kelpie.job import Outcome
from kelpie.store.metrics import ApiFigures, Metrics, QueueFigures

CACHE_S = 1.0
OTHER = "other"

QUEUE_LABELS = ("user", "container_group")
GAUGES = {
    "pending_jobs": ("Jobs that have never started.", "pending"),
    "running_jobs": (
        "Jobs that have started and not ended, with or without a node.",
        "running",
    ),
    "waiting_jobs": ("Jobs that a node could lease now.", "waiting"),
    "leased_jobs": ("Jobs that a node holds a lease of.", "leased"),
    "stale_jobs": ("Running jobs that wait for another node.", "stale"),
    "upload_backlog_files": (
        "Files that wait for their upload on nodes, as these say with their heartbeats.",
        "upload_files",
    ),
    "upload_backlog_bytes": ("Their size, in bytes.", "upload_bytes"),
}
"""Metrics by queue that can be summed: name, help, and the field of QueueFigures."""

COUNTED = {
    "jobs_submitted": ("Jobs submitted.", "submitted", 1.0),
    "leases_granted": ("Leases granted: attempts that began.", "running", 1.0),
    "heartbeats_late": ("Heartbeats that renewed a lease after it had expired.", "revived", 1.0),
    "lost_work_seconds": (
        "Work of interrupted attempts that was lost, at most, in seconds.",
        "lost_ms",
        1e-3,
    ),
}
"""Counters: name, help, the field of the queue's counters, and its unit in that of the metric."""

LABELED = {
    "jobs_ended": ("Jobs that ended, by status.", "status", ("completed", "failed", "canceled"), ""),
    "attempts": (
        "Attempts that ended, by outcome.",
        "outcome",
        tuple(outcome.value for outcome in Outcome),
        "attempts_",
    ),
}
"""Counters with one label: name, help, label, its values, and what precedes a value in the field's name."""

metrics = Blueprint("metrics", __name__)


@metrics.before_request
def _operators_only() -> None:
    """Figures of all users are for the operator: the token of KELPIE_METRICS_TOKEN, or the admin's key."""
    token = services().settings.metrics_token
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    if token is not None and scheme.lower() == "bearer":
        expected = token.get_secret_value().encode()
        if hmac.compare_digest(shown.strip().encode("utf-8", "surrogatepass"), expected):
            return
    identify()
    if request.method != "OPTIONS":
        require_admin()


@metrics.get("/metrics")
@spec.validate(
    resp=Described("HTTP_200", HTTP_401=ErrorReply, HTTP_403=ErrorReply),
    tags=[HEALTH],
    operation_id="getMetrics",
)
def scrape() -> Any:
    """Metrics of all queues and of the API in Prometheus' text format (admin, or the metrics token)."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(services().registry), headers={"Content-Type": content_type})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one scrape has read; None: Redis could not be reached."""

    queues: Sequence[QueueFigures] | None
    api: ApiFigures | None
    deliveries: Mapping[str, int] | None
    seconds: float


class RedisCollector(Collector):
    """Reads Redis when Prometheus asks, once a second at most."""

    def __init__(self, metrics: Metrics, rq: redis.Redis | None, *, top: int) -> None:
        self._metrics = metrics
        self._rq = rq
        self._top = top
        self._lock = threading.Lock()
        self._read_s = float("-inf")
        self._snapshot: Snapshot | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering it does not ask Redis."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        return families(self._current(), top=self._top)

    def _current(self) -> Snapshot:
        with self._lock:
            now_s = time.monotonic()
            if self._snapshot is None or now_s - self._read_s >= CACHE_S:
                self._snapshot = self._read()
                self._read_s = time.monotonic()
            return self._snapshot

    def _read(self) -> Snapshot:
        began_s = time.perf_counter()
        queues, api, deliveries = None, None, None
        try:
            queues = self._metrics.queues()
            api = self._metrics.api()
        except UnavailableError:
            queues = None
        try:
            deliveries = self._metrics.backlog(self._rq)
        except (UnavailableError, RedisError):
            deliveries = None
        return Snapshot(queues, api, deliveries, time.perf_counter() - began_s)


def make_registry(collector: RedisCollector) -> CollectorRegistry:
    """A registry of that collector alone: figures of one process would be wrong under several."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def families(snapshot: Snapshot, *, top: int) -> Iterator[Metric]:
    """What a scrape says; the ``top`` longest queues by name."""
    yield GaugeMetricFamily(
        "kelpie_redis_up",
        "Whether Redis could be read: 1 or 0.",
        value=float(snapshot.queues is not None),
    )
    yield InfoMetricFamily("kelpie_build", "The version that answers.", value={"version": kelpie.__version__})
    yield GaugeMetricFamily(
        "kelpie_scrape_seconds", "How long reading Redis took, in seconds.", value=snapshot.seconds
    )
    if snapshot.queues is not None:
        yield GaugeMetricFamily("kelpie_queues", "Queues that ever had a job.", value=len(snapshot.queues))
        yield from _of_queues(snapshot.queues, top)
        yield from _of_all(snapshot.queues)
    if snapshot.api is not None:
        yield from _of_api(snapshot.api)
    if snapshot.deliveries is not None:
        family = GaugeMetricFamily(
            "kelpie_webhook_deliveries",
            "Webhook deliveries: waiting for any try; queued, running and failed as tasks of RQ.",
            labels=["state"],
        )
        for state, count in snapshot.deliveries.items():
            family.add_metric([state], count)
        yield family


def _of_queues(queues: Sequence[QueueFigures], top: int) -> Iterator[Metric]:
    """By queue: those with the most live jobs by name, the rest of them summed.

    Counters of the rest are not summed here: a queue that comes and goes would make their sum fall, which
    Prometheus takes for a restart. Their totals over all queues are metrics of their own.
    """
    ordered = sorted(queues, key=lambda figures: (-figures.live, figures.queue.number))
    named, rest = ordered[:top], ordered[top:]
    for name, (text, field) in GAUGES.items():
        family = GaugeMetricFamily(f"kelpie_queue_{name}", text, labels=QUEUE_LABELS)
        for figures in named:
            family.add_metric(_labels(figures), getattr(figures, field))
        if rest:
            family.add_metric([OTHER, OTHER], sum(getattr(figures, field) for figures in rest))
        yield family
    oldest = GaugeMetricFamily(
        "kelpie_queue_oldest_pending_seconds",
        "Age of the oldest job that has never started, in seconds; 0 without any.",
        labels=QUEUE_LABELS,
    )
    for figures in named:
        oldest.add_metric(_labels(figures), figures.oldest_pending_s)
    if rest:
        oldest.add_metric([OTHER, OTHER], max(figures.oldest_pending_s for figures in rest))
    yield oldest
    behind = GaugeMetricFamily(
        "kelpie_queue_upload_backlog_oldest_seconds",
        "Age of the oldest change that waits for its upload on a node, in seconds; 0 without any.",
        labels=QUEUE_LABELS,
    )
    for figures in named:
        behind.add_metric(_labels(figures), figures.uploads.oldest_s or 0.0)
    if rest:
        behind.add_metric([OTHER, OTHER], max(figures.uploads.oldest_s or 0.0 for figures in rest))
    yield behind
    for name, (text, field, unit) in COUNTED.items():
        counter = CounterMetricFamily(f"kelpie_queue_{name}", text, labels=QUEUE_LABELS)
        for figures in named:
            counter.add_metric(_labels(figures), figures.counters[field] * unit)
        yield counter
    for name, (text, label, values, prefix) in LABELED.items():
        counter = CounterMetricFamily(f"kelpie_queue_{name}", text, labels=[*QUEUE_LABELS, label])
        for figures in named:
            for value in values:
                counter.add_metric([*_labels(figures), value], figures.counters[prefix + value])
        yield counter


def _of_all(queues: Sequence[QueueFigures]) -> Iterator[Metric]:
    for name, (text, field, unit) in COUNTED.items():
        total = sum(figures.counters[field] for figures in queues)
        yield CounterMetricFamily(f"kelpie_{name}", f"{text} All queues.", value=total * unit)
    for name, (text, label, values, prefix) in LABELED.items():
        counter = CounterMetricFamily(f"kelpie_{name}", f"{text} All queues.", labels=[label])
        for value in values:
            counter.add_metric([value], sum(figures.counters[prefix + value] for figures in queues))
        yield counter


def _of_api(api: ApiFigures) -> Iterator[Metric]:
    yield GaugeMetricFamily("kelpie_api_processes", "Processes that serve the API.", value=api.processes)
    yield GaugeMetricFamily("kelpie_long_polls_open", "Polls that wait for a job.", value=api.open_polls)
    requests = CounterMetricFamily(
        "kelpie_http_requests", "Requests answered.", labels=["method", "route", "status"]
    )
    buckets: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * (len(BUCKETS_S) + 1))
    sums: dict[tuple[str, str], float] = {}
    for name, value in sorted(api.totals.items()):
        field = read_field(name)
        if field is None:
            continue
        if field.kind == REQUESTS:
            requests.add_metric([field.method, field.route, field.value], value)
        elif field.kind == BUCKET and int(field.value) <= len(BUCKETS_S):
            buckets[field.method, field.route][int(field.value)] = value
        elif field.kind == SUM_US:
            sums[field.method, field.route] = value / 1e6
    yield requests
    seconds = HistogramMetricFamily(
        "kelpie_http_request_seconds",
        "Time from a request to the head of its answer, in seconds; long polls wait up to theirs.",
        labels=["method", "route"],
    )
    bounds = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
    for labels, counts in buckets.items():
        below = [sum(counts[: number + 1]) for number in range(len(counts))]
        seconds.add_metric(labels, list(zip(bounds, below, strict=True)), sums.get(labels, 0.0))
    yield seconds


def _labels(figures: QueueFigures) -> list[str]:
    return [figures.queue.user_id, figures.queue.container_group_id]
