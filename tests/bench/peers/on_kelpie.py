"""Kelpie straight on Redis: python -m tests.bench.peers.on_kelpie ROLE URL COUNT [NODES]."""

from __future__ import annotations

import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

from kelpie.job import MAX_BATCH, Holder, Outcome
from kelpie.store import Store
from tests.bench.crew import member
from tests.factories import GROUP, spec

USER = "11111111-1111-4111-8111-111111111111"


def main(role: str, url: str, count: int, nodes: int = 1) -> None:
    """Enqueue ``count`` jobs, or lease (and complete) until there are none, as that many nodes at once."""
    store = Store.connect(url)
    store.redis.ping()

    def enqueue() -> int:
        for _ in range(count):
            store.submit(USER, [spec()])
        return count

    def bulk() -> int:
        for start in range(0, count, MAX_BATCH):
            store.submit(USER, [spec()] * min(MAX_BATCH, count - start))
        return count

    def drain(_: int = 0) -> int:
        done, node = 0, f"node-{uuid.uuid4().hex}"
        while (leased := store.lease(USER, GROUP, node, f"{node}-{done}")) is not None:
            done += 1
            if role == "dequeue":
                store.finish(leased.job.id, Holder(node, leased.secret), Outcome.COMPLETED)
        return done

    def drain_together() -> int:
        with ThreadPoolExecutor(nodes) as pool:
            return sum(pool.map(drain, range(nodes)))

    member({"enqueue": enqueue, "bulk": bulk}.get(role, drain if nodes == 1 else drain_together))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
