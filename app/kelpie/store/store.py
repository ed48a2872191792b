"""The store: what a job is in Redis, and the one place that changes it."""

from __future__ import annotations

import redis

from kelpie.store import connection, keys, migrations, safety
from kelpie.store.audit import Audit
from kelpie.store.control import Control
from kelpie.store.deliveries import Deliveries
from kelpie.store.demand import Demands
from kelpie.store.events import Events
from kelpie.store.groups import Groups
from kelpie.store.history import Histories
from kelpie.store.leases import Leases
from kelpie.store.locks import Lock
from kelpie.store.logs import Logs
from kelpie.store.metrics import Metrics
from kelpie.store.nodes import Nodes
from kelpie.store.organizations import Organizations
from kelpie.store.records import ADMIN_ID, Queue
from kelpie.store.rules import Rules
from kelpie.store.scripts import Scripts
from kelpie.store.sessions import Sessions
from kelpie.store.submissions import Submissions
from kelpie.store.users import Users
from kelpie.store.webhook_secrets import WebhookSecrets


class Store(Submissions, Control, Leases, Logs, Demands, Nodes):
    """Jobs, leases, users and scaling rules in one server. Safe to share between threads and greenlets.

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
        self.sessions = Sessions(client, self.users)
        self.audit = Audit(client)
        self.organizations = Organizations(client, self._scripts)
        self.events = Events(client, self._scripts)
        self.deliveries = Deliveries(client, self._scripts)
        self.webhook_secrets = WebhookSecrets(client, self._scripts)
        self.rules = Rules(client, self._scripts)
        self.groups = Groups(client, self._scripts)
        self.metrics = Metrics(client, self._scripts, self._registry)
        self.histories = Histories(client)

    @classmethod
    def connect(cls, url: str, *, allow_volatile: bool = False, wait_replicas: int = 0) -> Store:
        """A store on the server at ``url``; connects when first used. Raises StartupError for a bad URL.

        With ``wait_replicas`` nothing is acknowledged before that many replicas have it.
        """
        return cls(connection.make_client(url), allow_volatile=allow_volatile, wait_replicas=wait_replicas)

    def check(self) -> tuple[str, ...]:
        """Raises StartupError when jobs would not be safe on this server; returns what weakens them.

        Upgrades an older layout.
        """
        warnings = safety.check_server(
            self.redis, allow_volatile=self._allow_volatile, wait_replicas=self._wait_replicas
        )
        lock = Lock(self._scripts, keys.MIGRATION_LOCK, ttl_s=migrations.LOCK_TTL_S)
        migrations.bring_up_to_date(self.redis, lock)
        return warnings

    def close(self) -> None:
        """Closes every connection."""
        connection.close(self.redis)

    def delete_user(self, user_id: str) -> None:
        """Deletes a user, his keys and his scaling rules; his jobs stay.

        Their container groups stay as they are, and others may scale them: his nodes are refused from now on.
        Raises NotFoundError, and ConflictError for the admin.
        """
        self.users.get(user_id)
        if user_id != ADMIN_ID:
            self.rules.delete_all(user_id=user_id)
        self.users.delete(user_id)
        self.rules.delete_all(user_id=user_id)  # until then he could make one

    def delete_users(self) -> None:
        """Deletes every user but the admin, their keys and their scaling rules. Their jobs stay."""
        self.users.delete_all()
        for rule in self.rules.list():
            if rule.user_id != ADMIN_ID:
                self.rules.delete_all(user_id=rule.user_id)

    def autoscaler_lock(self, *, ttl_s: float) -> Lock:
        """What the one platform process that scales holds."""
        return Lock(self._scripts, keys.AUTOSCALER_LOCK, ttl_s=ttl_s)

    def sampler_lock(self, *, ttl_s: float) -> Lock:
        """What the one platform process that samples holds."""
        return Lock(self._scripts, keys.SAMPLER_LOCK, ttl_s=ttl_s)

    def queues(self, user_id: str | None = None) -> list[Queue]:
        """The queues of a user (None: of all users), by number."""
        return [place.queue for place in self._registry.all(user_id)]

    def open_queue(self, user_id: str, container_group_id: str) -> None:
        """See to it that a node that asks this queue for work is seen, also before its first job."""
        self._registry.open(user_id, container_group_id)

    def queue(self, number: int) -> Queue | None:
        """The queue of that number."""
        place = self._registry.numbered(number)
        return None if place is None else place.queue

    def find_queue(self, user_id: str, container_group_id: str) -> Queue | None:
        """The queue of that name, or None before its first job and node."""
        place = self._registry.find(user_id, container_group_id)
        return None if place is None else place.queue
