"""What a lease costs the server, and what a pending job costs in memory. Not run by pytest.

    python -m tests.bench.lease [JOBS …]        (default: 10000 100000)

Starts a Valkey of its own. Times are the server's (INFO commandstats), so they leave out network and client.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator

from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import MAX_BATCH, Holder, Outcome
from kelpie.store import Store
from tests.factories import GROUP, spec

USER = "11111111-1111-4111-8111-111111111111"
BANS = 10_000
LEASES = 500


def main(sizes: list[int]) -> None:
    """Prints one row per number of pending jobs and of bans of the polling node."""
    with tempfile.TemporaryDirectory() as directory, ValkeyServer(directory, appendfsync="no") as server:
        store = Store.connect(server.url)
        print(f"{'pending':>10} {'bans':>8} {'lease µs':>9} {'submit µs/job':>14} {'bytes/job':>10}")
        for size in sizes:
            store.redis.flushdb()
            store = Store.connect(server.url)
            empty = used_bytes(store)
            store.redis.config_resetstat()
            for batch in batches(size):
                store.submit(USER, [spec(arguments=("--seed", str(number))) for number in batch])
            submit_us = script_us(store) * calls(store) / size
            per_job = (used_bytes(store) - empty) / size
            print(f"{size:>10} {0:>8} {lease_us(store, 'good'):>9.1f} {submit_us:>14.1f} {per_job:>10.0f}")
            ban(store, "bad", BANS)
            store.submit(USER, [spec() for _ in range(MAX_BATCH)])  # so that some do not ban the node
            print(f"{size:>10} {BANS:>8} {lease_us(store, 'bad'):>9.1f}")
        store.close()


def batches(size: int) -> Iterator[range]:
    """The numbers of the jobs, a thousand at a time."""
    return (range(start, min(start + MAX_BATCH, size)) for start in range(0, size, MAX_BATCH))


def ban(store: Store, node: str, count: int) -> None:
    """Makes that many jobs fail on a node; they wait before all others."""
    for number in range(count):
        lease = store.lease(USER, GROUP, node, f"ban-{node}-{number:012}")
        if lease is None:
            return
        store.finish(lease.job.id, Holder(node, lease.secret), Outcome.APP_FAILED)


def lease_us(store: Store, node: str) -> float:
    """Mean time of a lease on the server in µs. The jobs stay leased, so few are taken."""
    store.redis.config_resetstat()
    for number in range(LEASES):
        store.lease(USER, GROUP, node, f"lease-{node}-{number:012}")
    return script_us(store)


def script_us(store: Store) -> float:
    """Mean time of a script call since the last reset, in µs."""
    return float(store.redis.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def calls(store: Store) -> int:
    """Script calls since the last reset."""
    return int(store.redis.info("commandstats")["cmdstat_evalsha"]["calls"])


def used_bytes(store: Store) -> int:
    """Memory in use, without what the allocator keeps."""
    return int(store.redis.info("memory")["used_memory"])


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [10_000, 100_000])
