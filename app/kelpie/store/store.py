"""The store: what a job is in Redis, and the one place that changes it."""

from __future__ import annotations

import redis

from kelpie.store import connection, keys, migrations
from kelpie.store.control import Control
from kelpie.store.demand import Demands
from kelpie.store.events import Events
from kelpie.store.groups import Groups
from kelpie.store.leases import Leases
from kelpie.store.locks import Lock
from kelpie.store.organizations import Organizations
from kelpie.store.records import Queue
from kelpie.store.rules import Rules
from kelpie.store.scripts import Scripts
from kelpie.store.submissions import Submissions
from kelpie.store.users import Users


class Store(Submissions, Control, Leases, Demands):
    """Jobs, leases, users and scaling rules in one server. Safe to share between threads and greenlets.

    Every method raises UnavailableError while the server cannot be reached or cannot serve.
    """

    def __init__(
        self, client: redis.Redis, *, scripts: Scripts | None = None, allow_volatile: bool = False
    ) -> None:
        super().__init__(client, scripts or Scripts(client))
        self._allow_volatile = allow_volatile
        self.users = Users(client, self._scripts)
        self.organizations = Organizations(client, self._scripts)
        self.events = Events(client)
        self.rules = Rules(client, self._scripts)
        self.groups = Groups(client, self._scripts)

    @classmethod
    def connect(cls, url: str, *, allow_volatile: bool = False) -> Store:
        """A store on the server at ``url``; connects when first used. Raises StartupError for a bad URL."""
        return cls(connection.make_client(url), allow_volatile=allow_volatile)

    def check(self) -> None:
        """Raises StartupError when jobs would not be safe on this server; upgrades an older layout."""
        connection.check_server(self.redis, allow_volatile=self._allow_volatile)
        lock = Lock(self._scripts, keys.MIGRATION_LOCK, ttl_s=migrations.LOCK_TTL_S)
        migrations.bring_up_to_date(self.redis, lock)

    def close(self) -> None:
        """Closes every connection."""
        self.redis.connection_pool.disconnect()

    def autoscaler_lock(self, *, ttl_s: float) -> Lock:
        """What the one platform process that scales holds."""
        return Lock(self._scripts, keys.AUTOSCALER_LOCK, ttl_s=ttl_s)

    def queues(self, user_id: str | None = None) -> list[Queue]:
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
