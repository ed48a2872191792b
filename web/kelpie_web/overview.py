"""Everything at a glance: what runs, what waits, which nodes there are, and what needs somebody."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from flask import Response, url_for

from kelpie.http.context import services
from kelpie.job import JobStatus, UploadBacklog
from kelpie.store import Filter, Node, NodeState
from kelpie.store.history import DAY_MS, Figures, History, Sample
from kelpie.store.metrics import QueueFigures
from kelpie_web.sparkline import Sparkline, growth, level
from kelpie_web.ui import owner, page, ui

SHOWN_FAILED = 5
SHOWN_QUEUES = 10
ETA_WINDOW_MS = 3600 * 1000
ETA_LEAST_MS = 5 * 60 * 1000
"""Jobs that ended within a shorter time tell little about those that wait."""
FAILING_OUTCOMES = ("app_failed", "sync_failed")


@dataclass(frozen=True, slots=True)
class Worry:
    """Something that somebody should look at."""

    text: str
    reason: str
    href: str


@dataclass(frozen=True, slots=True)
class Day:
    """What was done in the last 24 hours, or since the samples begin."""

    figures: Figures
    is_whole: bool


@ui.get("")
def overview() -> Response:
    """The first page."""
    store = services().store
    figures = store.metrics.queues(owner())
    nodes = store.nodes(owner())
    now_ms, kept = store.histories.read(owner())
    history = kept.ending(now_ms, Sample.of(figures))
    return page(
        "overview.html",
        totals=totals(figures),
        day=_day(history),
        lines=_lines(history),
        eta_ms=_eta(history),
        states=Counter(node.state for node in nodes),
        banned=sum(1 for node in nodes if node.bans),
        figures=sorted(figures, key=lambda one: (-one.live, one.queue.number))[:SHOWN_QUEUES],
        hidden=max(0, len(figures) - SHOWN_QUEUES),
        uploads=_uploads(figures),
        worries=_worries(figures, nodes),
        is_new=not figures,
    )


def _day(history: History) -> Day | None:
    """The last 24 hours; None as long as there is no sample."""
    figures = history.within(DAY_MS)
    if figures is None:
        return None
    return Day(figures, is_whole=figures.until - figures.since >= DAY_MS)


def _lines(history: History) -> dict[str, Sparkline | None]:
    """The last day as lines, by the names of tiles."""
    return {
        "pending": level(history, lambda one: one.pending),
        "running": level(history, lambda one: one.running),
        "failed": growth(history, lambda one: one.failed),
        "completed": growth(history, lambda one: one.completed),
    }


def _eta(history: History) -> int | None:
    """When all queues will be empty if jobs end as in the last hour, ms from now; None: nobody can tell."""
    hour = history.within(ETA_WINDOW_MS)
    _, now = history.samples[-1]
    live = now.pending + now.running
    if hour is None or hour.until - hour.since < ETA_LEAST_MS or not hour.completed + hour.failed:
        return None
    return round((hour.until - hour.since) * live / (hour.completed + hour.failed))


def _uploads(figures: list[QueueFigures]) -> UploadBacklog:
    """What waits for its upload on all nodes, and the age of the oldest change."""
    ages = [one.uploads.oldest_s for one in figures if one.uploads.oldest_s is not None]
    return UploadBacklog(
        sum(one.upload_files for one in figures),
        sum(one.upload_bytes for one in figures),
        max(ages, default=None),
    )


def totals(figures: list[QueueFigures]) -> dict[str, int]:
    """The figures of several queues, added up."""
    names = ("pending", "running", "leased", "stale", "waiting", "failed", "completed", "canceled")
    summed = {name: sum(getattr(one, name) for one in figures) for name in names}
    counted: Counter[str] = Counter()
    for one in figures:
        counted.update(one.counters)
    attempts = {name: count for name, count in counted.items() if name.startswith("attempts_")}
    return summed | {
        "all": sum(summed[status] for status in JobStatus),
        "lost_ms": counted["lost_ms"],
        "attempts": sum(attempts.values()),
        "interrupted": counted["attempts_interrupted"],
        "attempt_failures": sum(counted[f"attempts_{name}"] for name in FAILING_OUTCOMES),
    }


def _worries(figures: list[QueueFigures], nodes: list[Node]) -> list[Worry]:
    found = []
    present = {node.queue.number for node in nodes if node.state is not NodeState.SILENT}
    for one in figures:
        group = one.queue.container_group_id
        if one.waiting and one.queue.number not in present:
            found.append(
                Worry(
                    f"{one.waiting:,} waiting in {group}",
                    "no node polls this group",
                    url_for("ui.group", number=one.queue.number),
                )
            )
        elif one.stale:
            found.append(
                Worry(
                    f"{one.stale:,} stale in {group}",
                    "they ran before and wait for another node",
                    url_for("ui.jobs", status="running", group=group),
                )
            )
    for node in nodes:
        if node.bans >= 5:
            found.append(
                Worry(
                    f"{node.name} is banned from {node.bans:,} jobs",
                    "it fails what others may run; it should be replaced",
                    url_for("ui.node", name=node.name),
                )
            )
    if any(one.failed for one in figures):
        failed = services().store.search(owner(), Filter(JobStatus.FAILED), size=SHOWN_FAILED)
        for job in failed.jobs:
            found.append(
                Worry(
                    f"{job.id} failed",
                    f"{job.num_failures} of {job.spec.max_failures} attempts that may fail, did",
                    url_for("ui.job", job_id=job.id),
                )
            )
    return found
