"""The store: what a job is in Redis, and the one place that changes it."""

from __future__ import annotations

import builtins

import redis

from kelpie.store import connection, safety
from kelpie.store.events import Events
from kelpie.store.jobs import Jobs
from kelpie.store.leases import Leases
from kelpie.store.metrics import Metrics
from kelpie.store.records import Queue
from kelpie.store.scripts import Scripts
from kelpie.store.users import Users


class Store(Jobs, Leases):
    """Jobs, leases and users in one Redis or Valkey. Safe to share between threads and greenlets.

    Every method raises UnavailableError while the server cannot be reached or cannot serve.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        scripts: Scripts | None = None,
        allow_volatile: bool = False,
        wait_replicas: int = 0,
    ) -> None:
        super().__init__(client, scripts or Scripts(client, wait_replicas=wait_replicas))
        self._allow_volatile = allow_volatile
        self._wait_replicas = wait_replicas
        self.users = Users(client, self._scripts)
        self.events = Events(client)
        self.metrics = Metrics(client, self._scripts, self._registry)

    @classmethod
    def connect(cls, url: str, *, allow_volatile: bool = False, wait_replicas: int = 0) -> Store:
        """A store on the server at ``url``; connects when first used. Raises StartupError for a bad URL.

        With ``wait_replicas`` nothing is acknowledged before that many replicas have it.
        """
        return cls(connection.make_client(url), allow_volatile=allow_volatile, wait_replicas=wait_replicas)

    def check(self) -> tuple[str, ...]:
        """Raises StartupError when jobs would not be safe on this server; returns what weakens them."""
        return safety.check_server(
            self.redis, allow_volatile=self._allow_volatile, wait_replicas=self._wait_replicas
        )

    def close(self) -> None:
        """Closes every connection."""
        connection.close(self.redis)

    def queues(self, user_id: str | None = None) -> builtins.list[Queue]:
        """The queues of a user (None: of all users), by number."""
        return [place.queue for place in self._registry.all(user_id)]

    def queue(self, number: int) -> Queue | None:
        """The queue of that number."""
        place = self._registry.numbered(number)
        return None if place is None else place.queue

    def find_queue(self, user_id: str, container_group_id: str) -> Queue | None:
        """The queue of that name, or None before its first job."""
        place = self._registry.find(user_id, container_group_id)
        return None if place is None else place.queue
