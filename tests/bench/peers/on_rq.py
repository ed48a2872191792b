"""RQ: python -m tests.bench.peers.on_rq ROLE URL COUNT.

Its SimpleWorker, which runs jobs in its own process; the default one forks for each.
"""

from __future__ import annotations

import sys

import redis
from rq import Queue, SimpleWorker

from tests.bench.crew import member

BULK = 1000
_done = 0


def job() -> None:
    """Do nothing, and count it."""
    global _done  # noqa: PLW0603 - the worker runs it in this very process
    _done += 1


def main(role: str, url: str, count: int) -> None:
    """Enqueue ``count`` jobs, or work until there are none."""
    connection = redis.Redis.from_url(url)
    connection.ping()
    queue = Queue("bench", connection=connection)
    name = "tests.bench.peers.on_rq.job"
    worker = SimpleWorker([queue], connection=connection) if role == "dequeue" else None

    def enqueue() -> int:
        for _ in range(count):
            queue.enqueue(name)
        return count

    def bulk() -> int:
        for start in range(0, count, BULK):
            size = min(BULK, count - start)
            queue.enqueue_many([Queue.prepare_data(name) for _ in range(size)])
        return count

    def dequeue() -> int:
        assert worker is not None
        worker.work(burst=True, logging_level="WARNING")
        # This program runs as __main__; its jobs are in the module of its name.
        return int(sys.modules["tests.bench.peers.on_rq"]._done)

    member({"enqueue": enqueue, "bulk": bulk, "dequeue": dequeue}[role])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
