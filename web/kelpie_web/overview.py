"""Everything at a glance: what runs, what waits, which nodes there are, and what needs somebody."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from flask import Response, url_for

from kelpie.http.context import services
from kelpie.job import JobStatus, UploadBacklog
from kelpie.store import Filter, Node, NodeState
from kelpie.store.metrics import QueueFigures
from kelpie_web.ui import owner, page, ui

SHOWN_FAILED = 5
SHOWN_QUEUES = 10
FAILING_OUTCOMES = ("app_failed", "sync_failed")


@dataclass(frozen=True, slots=True)
class Worry:
    """Something that somebody should look at."""

    text: str
    reason: str
    href: str


@ui.get("")
def overview() -> Response:
    """The first page."""
    store = services().store
    figures = store.metrics.queues(owner())
    nodes = store.nodes(owner())
    return page(
        "overview.html",
        totals=totals(figures),
        states=Counter(node.state for node in nodes),
        banned=sum(1 for node in nodes if node.bans),
        figures=sorted(figures, key=lambda one: (-one.live, one.queue.number))[:SHOWN_QUEUES],
        hidden=max(0, len(figures) - SHOWN_QUEUES),
        uploads=_uploads(figures),
        worries=_worries(figures, nodes),
        is_new=not figures,
    )


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
