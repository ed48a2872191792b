"""What a queue costs as it grows: bytes per job, times of scripts on the server, times of lists.

    python -m tests.bench.scale [--quick] [--jobs N,N,…] [--bans N] [--fsync always|everysec|no]

Times of scripts are the server's own, without network and client. Goals of issue 3: a lease up to 150 µs with
1,000,000 jobs of which 10,000 ban the node, below three times that of 1,000 jobs; up to 500 bytes per pending
job; no script above 10 ms. On a busy machine the longest calls also hold what it did meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import MAX_BATCH, Holder, JobSpec, JobStatus, Outcome
from kelpie.store import Filter, Store
from tests.bench.crew import crew, member
from tests.bench.figures import announce, load
from tests.bench.script_times import LongCalls, cpu_of, means_us
from tests.factories import GROUP, spec
from tests.waiting import wait_until

USER = "11111111-1111-4111-8111-111111111111"
FILLERS = 2
FILL_TIMEOUT_S = 900.0
LEASES = 1000
PAGES = 15
LEASE_GOAL_US, GROWTH_GOAL, BYTES_GOAL, SCRIPT_GOAL_MS = 150, 3, 500, 10


class Grown:
    """A queue of that many pending jobs on a server of its own, and what was seen of it."""

    def __init__(self, jobs: int, store: Store, url: str) -> None:
        self.jobs = jobs
        self.store = store
        start = time.perf_counter()
        empty = used_bytes(store)
        submit_all(store, url, jobs)
        self.bytes_per_job = (used_bytes(store) - empty) / jobs
        print(f"   {jobs:,} jobs submitted in {time.perf_counter() - start:.0f} s", flush=True)
        self.lists_ms = lists(store, jobs)


@dataclass
class Leases:
    """Mean times of a lease at every size, in µs."""

    free: list[float]
    behind: list[float]
    amid: list[float]


def main(arguments: Sequence[str]) -> None:
    """Measure at every size, then what happens at once."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--jobs", default="1000,1000000", help="pending jobs, separated by commas")
    parser.add_argument("--bans", type=int, default=10_000, help="jobs that ban the polling node")
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="no")
    parser.add_argument("--fill", nargs=3, metavar=("URL", "FIRST", "COUNT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.fill:
        fill(chosen.fill[0], int(chosen.fill[1]), int(chosen.fill[2]))
        return
    sizes = [200, 2000] if chosen.quick else [int(size) for size in chosen.jobs.split(",")]
    bans, crowd, beat_s = (50, 200, 1) if chosen.quick else (chosen.bans, 10_000, 15)
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in sizes:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            servers.append(stack.enter_context(ValkeyServer(folder, appendfsync=chosen.fsync)))
        stores = [stack.enter_context(contextlib.closing(Store.connect(server.url))) for server in servers]
        announce(f"scale: {', '.join(f'{size:,}' for size in sizes)} jobs, {bans:,} bans", stores[0].redis)
        for store in stores:
            store.redis.config_set("auto-aof-rewrite-percentage", 0)  # its fork would be measured too
        long_calls = LongCalls(stores[-1].redis)
        with long_calls.noted():
            queues = [
                Grown(size, store, server.url)
                for size, store, server in zip(sizes, stores, servers, strict=True)
            ]
            leases = lease_times(queues, bans)
            at_once(stores[-1], crowd, beat_s)
    show(queues, leases, bans)
    long_calls.show()
    print(f"   longest {long_calls.longest_ms:.1f} ms (goal: {SCRIPT_GOAL_MS} ms)")
    print(f"   load afterwards {load()}\n", flush=True)


def submit_all(store: Store, url: str, jobs: int) -> None:
    """Fill a queue, by several processes."""
    share = -(-jobs // FILLERS)
    members = [
        [sys.executable, "-m", "tests.bench.scale", "--fill", url, str(first), str(min(share, jobs - first))]
        for first in range(0, jobs, share)
    ]
    what = f"submit of up to {MAX_BATCH:,} jobs"
    with crew(members, timeout_s=FILL_TIMEOUT_S) as fillers, cpu_of(store.redis, what):
        fillers.rate(jobs)


def lease_times(queues: Sequence[Grown], bans: int) -> Leases:
    """How long leases take at every size, in turns: what the machine does meanwhile meets all sizes alike."""
    calls = min(LEASES, min(queue.jobs for queue in queues) // 4)
    clients = [queue.store.redis for queue in queues]

    def leasing(node: str, first: int) -> Callable[[int, int], object]:
        return lambda place, number: lease(queues[place].store, GROUP, node, 1, first=first + number)

    free = means_us(clients, calls, leasing("good", 0))
    banned = [[failed_on(queue.store, "bad", number) for number in range(bans)] for queue in queues]
    behind = means_us(clients, calls, leasing("bad", bans))
    middle = range(bans // 2, bans, 50)

    def unban(place: int, number: int) -> None:
        queues[place].store.unban(banned[place][middle[number]], node="bad")

    amid = means_us(clients, len(middle), leasing("bad", bans + calls), before=unban)
    for queue, jobs in zip(queues, banned, strict=True):
        for job_id in (jobs[number] for number in middle):
            if queue.store.get(job_id).machine_id != "bad":
                raise RuntimeError(
                    f"the node was not given {job_id}, which waited first of what it might have"
                )
    return Leases(free, behind, amid)


def failed_on(store: Store, node: str, number: int) -> str:
    """The id of a job that failed on a node: it waits before all others, and the node may not have it."""
    if number % MAX_BATCH == 0:  # of its own, so that the size of the queue stays what it is said to be
        store.submit(USER, [spec(priority=255)] * MAX_BATCH)
    ((job_id, secret),) = lease(store, GROUP, node, 1, first=number)
    store.finish(job_id, Holder(node, secret), Outcome.APP_FAILED)
    return job_id


def fill(url: str, first: int, count: int) -> None:
    """A member of a crew that submits jobs."""
    store = Store.connect(url)
    store.submit(USER, [spec(container_group_id="another")])

    def work() -> int:
        for start in range(first, first + count, MAX_BATCH):
            store.submit(USER, [pending(n) for n in range(start, min(start + MAX_BATCH, first + count))])
        return count

    member(work)


def pending(number: int) -> JobSpec:
    """One of many jobs; one in a thousand has a label."""
    labels = {"sweep": "rare"} if number % 1000 == 0 else {}
    return spec(arguments=("--seed", str(number)), labels=labels)


def lease(store: Store, group: str, node: str, count: int, *, first: int = 0) -> list[tuple[str, str]]:
    """Jobs for a node, which stay leased: their ids and secrets."""
    found = []
    for number in range(first, first + count):
        leased = store.lease(USER, group, node, f"{node}-{number}")
        if leased is None:
            raise RuntimeError(f"{node} was given {number - first} of {count} jobs")
        found.append((leased.job.id, leased.secret))
    return found


def lists(store: Store, size: int) -> dict[str, float]:
    """How long a page of 100 jobs takes a reader, in ms."""
    queue = Filter(container_group_id=GROUP)
    middle = max(1, size // 200)
    cursor = store.page(USER, queue, number=middle).next_cursor
    asked: dict[str, Callable[[], object]] = {
        "first page": lambda: store.page(USER, Filter()),
        "page in the middle, by number": lambda: store.page(USER, queue, number=middle),
        "page in the middle, by cursor": lambda: store.search(USER, queue, cursor=cursor),
        "page by status": lambda: store.page(USER, Filter(status=JobStatus.PENDING)),
        "page by label": lambda: store.search(USER, Filter(labels={"sweep": "rare"})),
        "text that no job has": lambda: store.search(USER, Filter(text="nowhere")),
    }
    return {what: statistics.median(milliseconds(ask) for _ in range(PAGES)) for what, ask in asked.items()}


def milliseconds(ask: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    ask()
    return (time.perf_counter() - start) * 1e3


def at_once(store: Store, crowd: int, beat_s: int) -> None:
    """Many leases expire at once, many jobs are cleared, many retired, then all deleted."""
    groups = ("expiring", "cleared", "ended")
    for group, _ in itertools.product(groups, range(0, crowd, MAX_BATCH)):
        jobs = [spec(container_group_id=group, heartbeat_interval=beat_s)] * min(MAX_BATCH, crowd)
        store.submit(USER, jobs)
    print(f"   {crowd:,} leases expire at once; {crowd:,} jobs are cleared, {crowd:,} retired", flush=True)
    lease(store, "cleared", "node", crowd // 2)
    for job_id, secret in lease(store, "ended", "node", crowd):
        store.finish(job_id, Holder("node", secret), Outcome.COMPLETED)
    lease(store, "expiring", "node", crowd)
    with cpu_of(store.redis, "reap"):
        reaped(store, "expiring", crowd)
    with cpu_of(store.redis, "clear"):
        store.clear_group(USER, "cleared")
    ended = store.find_queue(USER, "ended")
    assert ended is not None
    with cpu_of(store.redis, "expire"):
        gone = store.expire(ended, int(time.time() * 1000) + 60_000)
    if gone != crowd:
        raise RuntimeError(f"{gone} of {crowd} jobs were retired")
    with cpu_of(store.redis, "purge_queue"):
        store.purge_all()


def reaped(store: Store, group: str, count: int) -> None:
    """Waits until the leases have expired, and puts them all back."""
    queue = store.find_queue(USER, group)
    assert queue is not None
    total = 0
    while total < count:
        total += wait_until(lambda: store.reap(queue), "leases expire", timeout_s=60, poll_s=0.05)


def used_bytes(store: Store) -> int:
    """Memory in use, without what the allocator keeps."""
    return int(store.redis.info("memory")["used_memory"])


def show(queues: Sequence[Grown], leases: Leases, bans: int) -> None:
    """A row per figure, a column per size."""

    def line(what: str, values: Iterable[str], goal: str = "") -> None:
        print(f"{what:36}" + "".join(f"{value:>14}" for value in values) + f"   {goal}")

    def times(what: str, means: Sequence[float], goal: str = "") -> None:
        line(what, (f"{mean:.0f}" for mean in means), goal)

    line("pending jobs", (f"{queue.jobs:,}" for queue in queues))
    line("bytes per job", (f"{queue.bytes_per_job:,.0f}" for queue in queues), f"goal: {BYTES_GOAL}")
    goal = f"goal: {LEASE_GOAL_US}"
    times("lease, µs on the server", leases.free)
    times(f"lease behind {bans:,} banned jobs", leases.behind, goal)
    times(f"lease from amid {bans:,} banned jobs", leases.amid, goal)
    for what in queues[0].lists_ms:
        line(f"{what}, ms", (f"{queue.lists_ms[what]:.1f}" for queue in queues))
    growth = leases.free[-1] / leases.free[0]
    print(f"   a lease takes {growth:.2f} times as long (goal: below {GROWTH_GOAL})\n")


if __name__ == "__main__":
    main(sys.argv[1:])
