"""Stores to test: on the real server, and on fakeredis to hold that nothing exotic is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
import redis

from kelpie.job import Holder, Job, Lease
from kelpie.store import Filter, Store
from kelpie.store.connection import make_client
from kelpie.store.keys import QueueKeys
from kelpie.store.scripts import Scripts
from tests.factories import GROUP, spec

USER = "11111111-1111-4111-8111-111111111111"
OTHER_USER = "22222222-2222-4222-8222-222222222222"
START_MS = 1_800_000_000_000
MAX_QUEUES = 10


def set_virtual_clock(client: redis.Redis, now: int) -> None:
    """Sets the clock of every queue that a test may have, each where the queue is."""
    setting = client.pipeline(transaction=False)
    for number in range(1, MAX_QUEUES + 1):
        setting.set(f"{QueueKeys(number).prefix}virtual_clock", now)
    setting.execute()


class StoreUnderTest:
    """A store whose scripts read a clock that the test moves, and short names for what tests do."""

    def __init__(self, client: redis.Redis, *, real: bool) -> None:
        self.real = real
        self.redis = client
        self.store = Store(
            client, scripts=Scripts(client, shebang=real, virtual_clock=True), allow_volatile=True
        )
        self.now = START_MS
        self._requests = 0

    def keys(self, group: str = GROUP, user: str = USER) -> QueueKeys:
        """The keys of a queue; of the first one, as long as there is none."""
        queue = self.store.find_queue(user, group)
        return QueueKeys(1 if queue is None else queue.number)

    def set_clock(self) -> None:
        set_virtual_clock(self.redis, self.now)

    def jump(self, ms: int) -> None:
        """The server's time jumps, as a suspended or wrongly set machine's does."""
        self.now += ms
        self.set_clock()
        for key in self.redis.scan_iter(match="*:heartbeat:*"):
            left_ms = int(self.redis.pttl(key)) - max(ms, 0)
            if left_ms <= 0:
                self.redis.delete(key)
            else:
                self.redis.pexpire(key, left_ms)

    def advance(self, ms: int) -> None:
        """Time passes while something looks at the queue now and then, as in production."""
        while ms > 0:
            step = min(ms, 4000)
            self.jump(step)
            if self.redis.exists(self.keys().meta):  # a script has run at this moment
                self.redis.hincrby(self.keys().meta, "clock", step)
                self.redis.hset(self.keys().meta, "wall", self.now)
            ms -= step

    def reap(self) -> int:
        queue = self.store.find_queue(USER, GROUP)
        assert queue is not None
        return self.store.reap(queue)

    def expire(self, lease: Lease) -> None:
        """The lease runs out, and the job waits again."""
        self.advance(lease.job.spec.lease_ms)
        assert self.reap() == 1

    def submit(self, count: int = 1, user: str = USER, **overrides: Any) -> list[Job]:
        jobs = self.store.submit(user, [spec(**overrides) for _ in range(count)])
        return jobs

    def submit_one(self, **overrides: Any) -> Job:
        return self.submit(**overrides)[0]

    def poll(self, node: str = "node-1", request_id: str | None = None, group: str = GROUP) -> Lease | None:
        if request_id is None:
            self._requests += 1
            request_id = f"request-{self._requests:08}"
        return self.store.lease(USER, group, node, request_id)

    def lease(self, node: str = "node-1", request_id: str | None = None) -> Lease:
        lease = self.poll(node, request_id)
        assert lease is not None
        return lease

    def list(self, user_id: str | None = USER, **how: Any) -> list[Job]:
        """One page by number: of a status, of a group."""
        chosen = Filter(how.pop("status", None), how.pop("container_group_id", None))
        return self.store.page(user_id, chosen, **how).jobs

    def get(self, job: Job) -> Job:
        return self.store.get(job.id)

    def state(self) -> dict[str, Any]:
        """Everything that is kept, to see that nothing changed. Events and clocks excepted."""
        found: dict[str, Any] = {}
        for key in sorted(self.redis.scan_iter()):
            kind = self.redis.type(key)
            if kind == b"hash":
                found[key] = {
                    k: v for k, v in self.redis.hgetall(key).items() if k not in (b"wall", b"clock")
                }
            elif kind == b"zset":
                found[key] = self.redis.zrange(key, 0, -1, withscores=True)
            elif kind == b"list":
                found[key] = self.redis.lrange(key, 0, -1)
            elif kind == b"stream":
                found[key] = self.redis.xlen(key)
            elif kind == b"set":
                found[key] = self.redis.smembers(key)
            elif kind == b"string":
                found[key] = self.redis.get(key)
        return found


def holder_of(lease: Lease) -> Holder:
    """The holder as a worker of this project shows itself."""
    assert lease.job.machine_id is not None
    return Holder(lease.job.machine_id, lease.secret)


def old_holder_of(lease: Lease) -> Holder:
    """The holder as a worker that knows no leases shows itself, with a user's credentials."""
    assert lease.job.machine_id is not None
    return Holder(lease.job.machine_id, may_report_unheld=True)


@pytest.fixture(params=["valkey", "fakeredis"])
def sut(request: pytest.FixtureRequest) -> Iterator[StoreUnderTest]:
    """A store with a movable clock, on both servers."""
    if request.param == "valkey":
        client = make_client(request.getfixturevalue("valkey").url)
        made = StoreUnderTest(client, real=True)
    else:
        made = StoreUnderTest(fakeredis.FakeRedis(version=(7,)), real=False)
    made.set_clock()
    yield made
    made.store.close()


@pytest.fixture
def real_store(valkey: Any) -> Iterator[Store]:
    """A store on the real server, as production makes it, with real time."""
    store = Store.connect(valkey.url)
    yield store
    store.close()


@pytest.fixture
def leaked_keys(sut: StoreUnderTest) -> Callable[[], list[bytes]]:
    """The keys that are left beside the registry's, the queues' own records and the test's clock."""

    def left() -> list[bytes]:
        own = (b":meta", b":events", b":virtual_clock", b":polls", b":counters")
        return [
            key
            for key in sut.redis.scan_iter()
            if not key.endswith(own) and not key.startswith(b"kelpie:{registry}") and b":node:" not in key
        ]

    return left
