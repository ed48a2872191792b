"""One seed: faults strike while jobs run, then all is quiet, every job ends, and the auditor looks."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.proof.faults import auditor
from tests.proof.faults.injectors import strike_node, strike_server
from tests.proof.faults.schedule import CONTROL, STORE, Fault, Kind, draw
from tests.proof.faults.site import Servers, Site

JOBS_PER_NODE = 2

_QUIET_TIMEOUT_S = 150.0
_POLL_S = 0.3
_ENDED = frozenset({"completed", "failed", "canceled"})


@dataclass
class Report:
    """What a seed did and found."""

    seed: int
    struck: Counter[Kind] = field(default_factory=Counter)
    jobs: int = 0
    attempts: int = 0
    left_uploads: int = 0
    """Multipart uploads that no worker can end: the bucket's lifecycle rule does."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


def run_seed(
    seed: int,
    servers: Servers,
    directory: Path,
    *,
    faults: int,
    nodes: int,
    jobs: int | None = None,
    library: Path,
    mounts: bool,
    trace: bool = False,
) -> Report:
    """Run it, and tell. ``jobs`` are alive at once while faults strike; None: two per node.

    The logs of the workers stay in ``directory`` only if something was wrong.
    """
    report = Report(seed)
    began = time.monotonic()
    without = frozenset() if mounts else frozenset({Kind.FULL_DISK})
    site = Site(seed, servers, directory / f"seed-{seed}", nodes, library=library, mounts=mounts)
    try:
        schedule = draw(seed, faults, [each.name for each in site.machines], without=without)
        for machine in site.machines:
            machine.start()
        with _striking(site, schedule, report, trace=trace) as striking:
            _keep_busy(site, striking, jobs or JOBS_PER_NODE * nodes)
        _until_quiet(site)
        for machine in site.machines:
            machine.terminate()
        report.violations += auditor.audit(site)
        report.left_uploads = len(auditor.left_uploads(site))
        report.jobs = len(site.works)
        report.attempts = sum(site.job(job_id)["attempt"] for job_id in site.works)
        if report.violations:
            auditor.logs(site, directory / f"logs-of-seed-{seed}")
    finally:
        site.close()
    report.seconds = time.monotonic() - began
    return report


@contextmanager
def _striking(
    site: Site, schedule: dict[str, list[Fault]], report: Report, *, trace: bool
) -> Iterator[list[threading.Thread]]:
    """Every target's faults, each target in a thread of its own."""
    nodes = {machine.name: machine for machine in site.machines}
    began = time.monotonic()

    def strike(target: str) -> None:
        for fault in schedule[target]:
            time.sleep(fault.pause_s)
            if trace:
                print(f"{time.monotonic() - began:7.2f} {target} {fault}", flush=True)
            try:
                if target in {CONTROL, STORE}:
                    hit = strike_server(site.servers, target, fault)
                else:
                    hit = strike_node(nodes[target], fault)
            except Exception as error:  # noqa: BLE001 - it is told
                report.violations.append(f"{target}: {fault.kind} could not be done: {error!r}")
                return
            if hit:
                report.struck[fault.kind] += 1

    threads = [threading.Thread(target=strike, args=(target,), daemon=True) for target in schedule]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join()


def _keep_busy(site: Site, striking: list[threading.Thread], jobs: int) -> None:
    """Submit a job whenever one has ended, as long as faults strike."""
    live: set[str] = set()
    while any(thread.is_alive() for thread in striking):
        live = {job_id for job_id in live if site.job(job_id)["status"] not in _ENDED}
        while len(live) < jobs:
            before = set(site.works)
            site.submit(len(site.works))
            live |= set(site.works) - before
        time.sleep(_POLL_S)


def _until_quiet(site: Site) -> None:
    """Until every job has ended, or for so long that the auditor must hear of it."""
    deadline = time.monotonic() + _QUIET_TIMEOUT_S
    live = set(site.works)
    while live and time.monotonic() < deadline:
        ids = {machine.id for machine in site.machines}
        for machine in site.machines:
            machine.tend()
        for job_id in sorted(live):
            job = site.job(job_id)
            if job["status"] in _ENDED:
                live.discard(job_id)
            elif ids <= set(job["banned_nodes"]):
                site.machines[0].replace()  # a job that failed on every node waits for another one
                break
        time.sleep(_POLL_S)
