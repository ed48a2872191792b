"""Long polls: a poll that found nothing waits until a job comes, at nearly no cost."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable

import redis

from kelpie.errors import UnavailableError
from kelpie.job import Lease
from kelpie.store import keys
from kelpie.store.connection import make_subscriber, translated
from kelpie.store.store import Store
from kelpie.store.waiters import Waiter, Waiters

REAP_INTERVAL_S = 0.5  # a lost node's job is handed out within a second of its expiry
LISTEN_S = 0.5  # how long one read of the subscription lasts, hence how long close() may take
MAX_BACKOFF_S = 5.0
_WAKE = re.compile(rb"(\d{1,10}) (\d{1,10})")


class Poller:
    """All long polls of one process.

    One subscription tells it which queues got jobs, and one ticker puts back the expired leases of the queues
    that it polls. Uses threads and locks only, so it also runs on greenlets where threading is patched.
    Make it after forking.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiters = Waiters()
        self._closed = threading.Event()
        self._starting = threading.Lock()
        self._threads: list[threading.Thread] = []

    def poll(
        self,
        user_id: str,
        container_group_id: str,
        node: str,
        request_id: str,
        wait_s: float,
        *,
        is_there: Callable[[], bool] = lambda: True,
    ) -> Lease | None:
        """A job for a node, or None when none came within ``wait_s`` seconds or the poller was closed.

        ``is_there`` is asked after every wait: who has gone is given nothing, and his wake goes on.

        Raises UnavailableError when Redis is away as the poll asks; an outage while it merely waits is borne.
        """
        if wait_s <= 0:
            return self._store.lease(user_id, container_group_id, node, request_id)
        self._start()
        waiter = Waiter((user_id, container_group_id))
        deadline = time.monotonic() + wait_s
        try:
            while not self._closed.is_set():
                wake = self._waiters.ask(waiter)
                if not is_there():
                    if wake:
                        self._waiters.pass_on(waiter.queue, wake)
                    return None
                leased = self._store.lease(user_id, container_group_id, node, request_id)
                if leased is not None:
                    return leased
                # Another process was faster, or the jobs that wait ban this node. Of an empty queue nobody
                # else needs to hear: asking all of an idle fleet in turn would cost a script for every node.
                if wake and self._store.backlogs([waiter.queue])[0].waiting:
                    self._waiters.pass_on(waiter.queue, wake)
                if not waiter.event.wait(max(0.0, deadline - time.monotonic())):
                    return None
            return None
        finally:
            self._waiters.leave(waiter)

    @property
    def open_polls(self) -> int:
        """How many polls wait now."""
        return self._waiters.count()

    def close(self) -> None:
        """Ends the open polls with None at once, then the threads; returns within about a second."""
        self._closed.set()
        self._waiters.wake_everybody()
        for thread in self._threads:
            thread.join(timeout=5)

    def _start(self) -> None:
        with self._starting:
            if self._threads or self._closed.is_set():
                return
            for name, loop in (("kelpie-wakes", self._listen), ("kelpie-reaper", self._tick)):
                thread = threading.Thread(target=loop, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def _listen(self) -> None:
        """Keeps the subscription up, whatever happens to the server."""
        backoff_s = 0.05
        while not self._closed.is_set():
            client = None
            try:
                with translated():
                    client = make_subscriber(self._store.redis)
                    subscription = client.pubsub()  # type: ignore[no-untyped-call]  # redis-py leaves it so
                    subscription.subscribe(keys.WAKE_CHANNEL)
                    while not self._closed.is_set():
                        message = subscription.get_message(timeout=LISTEN_S)
                        if message is not None:
                            self._hear(message)
                            backoff_s = 0.05
            except (UnavailableError, redis.RedisError):
                self._closed.wait(backoff_s * (0.5 + random.random()))  # noqa: S311 - jitter
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            finally:
                if client is not None:
                    client.connection_pool.disconnect()

    def _hear(self, message: dict[str, object]) -> None:
        if message["type"] == "subscribe":
            self._waiters.wake_everybody()  # nobody told us what came before
        elif message["type"] == "message" and isinstance(message["data"], bytes):
            wake = _WAKE.fullmatch(message["data"])
            queue = None if wake is None else self._store.queue(int(wake[1]))
            if wake is not None and queue is not None:
                self._waiters.wake((queue.user_id, queue.container_group_id), int(wake[2]))

    def _tick(self) -> None:
        while not self._closed.wait(REAP_INTERVAL_S):
            for user_id, container_group_id in self._waiters.queues():
                try:
                    queue = self._store.find_queue(user_id, container_group_id)
                    if queue is not None:
                        self._store.reap(queue)
                except (UnavailableError, redis.RedisError):
                    break  # the next tick tries again
