"""Dramatiq: python -m tests.bench.peers.on_dramatiq ROLE URL COUNT.

Eight threads per process and messages fetched ahead, as its command line has them by default.
"""

from __future__ import annotations

import sys
import threading

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.bench.crew import member

THREADS = 8
QUEUE = "bench"


def main(role: str, url: str, count: int) -> None:
    """Enqueue ``count`` messages, or work until there are none."""
    broker = RedisBroker(url=url)  # type: ignore[no-untyped-call]  # it publishes none
    dramatiq.set_broker(broker)
    lock = threading.Lock()
    done = 0

    @dramatiq.actor(queue_name=QUEUE)
    def job() -> None:
        nonlocal done
        with lock:
            done += 1

    broker.client.ping()

    def enqueue() -> int:
        for _ in range(count):
            job.send()
        return count

    def dequeue() -> int:
        worker = dramatiq.Worker(broker, worker_threads=THREADS, worker_timeout=100)
        worker.start()
        broker.join(QUEUE, interval=5, timeout=100_000)  # until nothing is queued or unacknowledged
        leaving.append(worker)  # its shutdown is not counted
        return done

    leaving: list[dramatiq.Worker] = []
    member({"enqueue": enqueue, "dequeue": dequeue}[role])
    for worker in leaving:
        worker.stop(timeout=5_000)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
