"""Writes docs/reference/metrics.md from the metrics themselves: `make docs`. A test holds it current."""

from __future__ import annotations

from pathlib import Path

from kelpie.http.metrics import Snapshot, families
from kelpie.store.backlog import STATES
from kelpie.store.metrics import COUNTERS, ApiFigures, QueueFigures
from kelpie.store.records import Queue

TARGET = Path(__file__).with_name("reference") / "metrics.md"

SUFFIXES = {"counter": "_total", "info": "_info"}

NOTES = {
    "kelpie_queue_pending_jobs": (
        "By queue (`user`, `container_group`): the `KELPIE_METRICS_QUEUES` queues with the most live jobs; "
        "the rest are summed as `other`."
    ),
    "kelpie_queue_jobs_submitted": (
        "By queue, for the same queues. The rest have no sum here, because one over changing queues could "
        "fall; the totals over all queues follow."
    ),
    "kelpie_api_processes": "Of the API: all its processes together, whichever answers the scrape.",
}


def render() -> str:
    """The page."""
    queue = QueueFigures(Queue(1, "user", "group"), 1, 1, 1, 1, 1, 1, 1, 1, 1.0, dict.fromkeys(COUNTERS, 1))
    totals = {"requests\tGET\t/x\t200": 1, "bucket\tGET\t/x\t0": 1, "sum_us\tGET\t/x\t": 1}
    snapshot = Snapshot([queue], ApiFigures(totals, 1, 1), dict.fromkeys(STATES, 1), 0.1)
    lines = [
        "# Metrics",
        "",
        "`GET /metrics` answers in Prometheus' text format; [operate.md](../how-to/operate.md) says who may",
        "read it, and what to alert on. Everything is read from Redis at the moment of the scrape.",
    ]
    for family in families(snapshot, top=1):
        if family.name in NOTES:
            lines += ["", NOTES[family.name]]
        if family.name in NOTES or family.name == "kelpie_redis_up":
            lines += ["", "| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le", "version"})
        shown = ", ".join(f"`{label}`" for label in labels)
        name = family.name + SUFFIXES.get(family.type, "")
        lines.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    TARGET.write_text(render())
