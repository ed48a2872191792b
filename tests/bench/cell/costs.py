"""What requests cost on this machine: measured on a real Valkey and a real API before any simulation."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import MAX_BATCH
from kelpie.store import Store, keys
from tests.api import ApiUser
from tests.bench.figures import percentile
from tests.bench.http_api import Measured, Sides, Table, one_round
from tests.bench.script_times import mean_us
from tests.factories import GROUP, spec

FLUSHES = 200
FLUSHED_BYTES = 300  # about what a heartbeat adds to the append-only file
BACKGROUND_CALLS = 400


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU that one request takes on each side."""

    api_s: float
    broker_s: float
    client_s: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Everything that the simulation knows of the machine."""

    heartbeat: Cost
    lease: Cost
    empty_poll: Cost
    report: Cost
    submit: Cost
    batch: Cost  # of MAX_BATCH jobs
    reap: Cost  # a look at the expired leases of one queue; one at its length costs no more
    hear_s: float  # of an API process that hears of new jobs
    flush_s: float  # how long the broker's loop waits for the disk; 0 unless appendfsync is always
    hop_s: float  # what a request takes beyond everybody's CPU and the disk


def read(path: Path) -> Costs:
    """Costs that an earlier run kept, maybe on another machine."""
    kept = json.loads(path.read_text())
    return Costs(**{name: Cost(**one) if isinstance(one, dict) else float(one) for name, one in kept.items()})


def keep(costs: Costs, path: Path) -> None:
    """Write them as :func:`read` reads them."""
    path.write_text(json.dumps(asdict(costs), indent=1) + "\n")


def measure(
    user: ApiUser, sides: Sides, broker: ValkeyServer, folder: Path, requests: int, rounds: int
) -> Costs:
    """Measure with so many requests of each kind, alone and by sixteen clients at once."""
    table: Table = defaultdict(Measured)
    one_round(table, user, sides, 1, 20)  # the API's processes are warm afterwards
    table.clear()
    for _ in range(rounds):
        for clients in (1, 16):
            one_round(table, user, sides, clients, requests)
    reap, hear_s = _background(broker.url)
    flush_s = _flush_s(folder) if broker.appendfsync == "always" else 0.0
    heartbeat = _cost(table, "heartbeat")
    alone_s = percentile(table["heartbeat", 1].latencies_ms, 0.5) / 1e3
    return Costs(
        heartbeat=heartbeat,
        lease=_cost(table, "lease"),
        empty_poll=_cost(table, "lease, no job there"),
        report=_cost(table, "completed"),
        submit=_cost(table, "submit"),
        batch=_cost(table, f"job of a batch of {MAX_BATCH}"),
        reap=reap,
        hear_s=hear_s,
        flush_s=flush_s,
        hop_s=max(0.0, alone_s - heartbeat.api_s - heartbeat.broker_s - heartbeat.client_s - flush_s),
    )


def _cost(table: Table, kind: str) -> Cost:
    """The mean of what it costs one client and sixteen: a cell that is half busy lies between them."""

    def of(side: str) -> float:
        return statistics.mean(
            statistics.median(table[kind, clients].cpu_us[side]) / 1e6 for clients in (1, 16)
        )

    return Cost(of("api"), of("valkey"), of("client"))


def _background(url: str) -> tuple[Cost, float]:
    """A reap of one queue, and the hearing of one wake: Python's part by the CPU of this process."""
    store = Store.connect(url)
    try:
        store.submit("reaped", [spec()])
        queue = store.find_queue("reaped", GROUP)
        assert queue is not None
        broker_s = mean_us(store.redis, BACKGROUND_CALLS, lambda _: store.reap(queue)) / 1e6
        api_s = _cpu_s(lambda: store.reap(queue))
        subscription = store.redis.pubsub()
        subscription.subscribe(keys.WAKE_CHANNEL)
        for _ in range(BACKGROUND_CALLS + 1):
            store.redis.publish(keys.WAKE_CHANNEL, f"{queue.number} 1")
        subscription.get_message(timeout=1)  # that we have subscribed
        hear_s = _cpu_s(lambda: subscription.get_message(timeout=1))
        subscription.close()
    finally:
        store.close()
    return Cost(api_s, broker_s), hear_s


def _cpu_s(call: Callable[[], object]) -> float:
    start = time.process_time()
    for _ in range(BACKGROUND_CALLS):
        call()
    return (time.process_time() - start) / BACKGROUND_CALLS


def _flush_s(folder: Path) -> float:
    """How long the disk under ``folder`` takes to keep an append."""
    with tempfile.TemporaryFile(dir=folder) as file:
        times = []
        for _ in range(FLUSHES):
            start = time.perf_counter()
            os.write(file.fileno(), b"x" * FLUSHED_BYTES)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times)
