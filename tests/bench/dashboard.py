"""What the pages of the dashboard cost as jobs become many: how long they take, and what they ask of Redis.

    python -m tests.bench.dashboard [--quick] [--finished N] [--running N]

The goal of issue 6: with 10,000 running and 1,000,000 finished jobs the list answers in less than 200 ms, and
asks Redis for no more than with 1,000. Finished jobs are made by moving submitted ones between the indexes.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import redis

from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import MAX_BATCH
from kelpie.store import Store
from kelpie.store.keys import QueueKeys
from tests.api import ApiServer
from tests.bench.figures import announce
from tests.factories import GROUP, spec

ROUNDS = 15
GOAL_MS = 200
PAGES = {
    "the list": "/ui/jobs",
    "completed ones": "/ui/jobs?status=completed",
    "of a label": "/ui/jobs?label=n%3D7",
    "text that none has": "/ui/jobs?q=no-job-has-this",
    "overview": "/ui",
    "nodes": "/ui/nodes",
    "groups": "/ui/groups",
}


def main(arguments: Sequence[str]) -> None:
    """Measure with few jobs and with many."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dashboard", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--running", type=int, default=10_000)
    chosen = parser.parse_args(arguments)
    finished, running = (5000, 100) if chosen.quick else (chosen.finished, chosen.running)
    sizes = [(1000, 100), (finished, running)]
    rows: dict[str, list[tuple[float, float, int, float]]] = {name: [] for name in PAGES}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(ValkeyServer(folder / "valkey", appendfsync="no"))
        client = stack.enter_context(contextlib.closing(redis.Redis.from_url(server.url)))
        announce(
            "dashboard: pages over " + ", ".join(f"{a:,} finished and {b:,} running" for a, b in sizes),
            client,
        )
        store = stack.enter_context(contextlib.closing(Store.connect(server.url)))
        api = stack.enter_context(ApiServer(server.url, folder))
        user = api.new_user()
        assert user.user_id is not None
        cookie = _log_in(api, user.key)
        made = (0, 0)
        for size in sizes:
            _fill(store, client, user.user_id, size[0] - made[0], size[1] - made[1])
            made = size
            for name, path in PAGES.items():
                rows[name].append(_measured(api, client, path, cookie))
    columns = f"{'ms':>8} {'cpu ms':>8} {'commands':>9} {'redis ms':>9}"
    print(f"{'page':20} {columns}   {columns}")
    for name, measured in rows.items():
        shown = "   ".join(
            f"{ms:8.1f} {cpu:8.1f} {asked:9} {spent:9.2f}" for ms, cpu, asked, spent in measured
        )
        print(
            f"{name:20} {shown}" + ("" if measured[-1][0] < GOAL_MS else f"   above the goal of {GOAL_MS} ms")
        )


def _fill(store: Store, client: redis.Redis, user_id: str, finished: int, running: int) -> None:
    for first in range(0, finished, MAX_BATCH):
        jobs = store.submit(
            user_id, [spec(labels={"n": str(n % 10)}) for n in range(min(MAX_BATCH, finished - first))]
        )
        queue = store.find_queue(user_id, GROUP)
        assert queue is not None
        keys = QueueKeys(queue.number)
        moving = client.pipeline(transaction=False)
        for job in jobs:
            moving.hset(keys.job(job.id), mapping={"status": "completed", "completed": job.created + 1000})
        orders: Any = client.zrange(keys.index("pending"), 0, -1, withscores=True)
        moving.zadd(keys.index("completed"), dict(orders))
        moving.delete(keys.index("pending"), keys.waiting)
        moving.execute()
    for _ in range(0, running, MAX_BATCH):
        store.submit(user_id, [spec() for _ in range(min(MAX_BATCH, running))])
    for number in range(running):
        store.lease(user_id, GROUP, f"node-{number}", "")


def _log_in(api: ApiServer, key: str) -> str:
    answer = api.http.request(
        "POST", f"{api.url}/ui/login", fields={"key": key}, encode_multipart=False, redirect=False
    )
    return answer.headers["Set-Cookie"].partition(";")[0]


def _measured(api: ApiServer, client: redis.Redis, path: str, cookie: str) -> tuple[float, float, int, float]:
    """The median time of a page in ms; what the API and Redis spend on one."""
    times = []
    family = [psutil.Process(api.pid), *psutil.Process(api.pid).children(recursive=True)]
    busy_s = sum(sum(one.cpu_times()[:2]) for one in family)
    before = _spent(client)
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        answer = api.http.request("GET", api.url + path, headers={"Cookie": cookie}, redirect=False)
        times.append(1000 * (time.perf_counter() - begun))
        assert answer.status == 200, (path, answer.status)
    after = _spent(client)
    return (
        statistics.median(times),
        1000 * (sum(sum(one.cpu_times()[:2]) for one in family) - busy_s) / ROUNDS,
        round((after[0] - before[0]) / ROUNDS),
        (after[1] - before[1]) / ROUNDS / 1000,
    )


def _spent(client: redis.Redis) -> tuple[int, int]:
    stats: Any = client.info("commandstats")
    counted = [one for name, one in stats.items() if not name.startswith(("cmdstat_info", "cmdstat_xread"))]
    return sum(one["calls"] for one in counted), sum(one["usec"] for one in counted)


if __name__ == "__main__":
    main(sys.argv[1:])
