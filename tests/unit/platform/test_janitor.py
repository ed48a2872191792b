"""Retention: what ended long ago goes, everything else stays, and by default everything does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis

from kelpie.config import Settings
from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import NotFoundError
from kelpie.job import Holder, Job, Outcome
from kelpie.platform import janitor
from kelpie.platform.janitor import DAY_MS, Janitor
from kelpie.store import Filter, Store, User
from kelpie.store.connection import make_client
from kelpie.store.scripts import Scripts
from tests.api import environment_without_kelpie
from tests.factories import spec
from tests.unit.store.conftest import set_virtual_clock
from tests.waiting import wait_until

START_MS = 1_800_000_000_000


class Kept:
    """A store whose scripts read a clock that the test moves."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.store = Store(client, scripts=Scripts(client, virtual_clock=True), allow_volatile=True)
        self.user = self.store.users.create("ada")
        self.now = START_MS
        self.wait_days(0)

    def wait_days(self, days: float) -> None:
        """Time passes, and nobody looks at any queue meanwhile."""
        self.now += int(days * DAY_MS)
        set_virtual_clock(self.redis, self.now)

    def submit(self, count: int = 1, user: User | None = None, group: str = "g") -> list[Job]:
        owner = self.user if user is None else user
        return self.store.submit(owner.id, [spec(container_group_id=group)] * count)

    def canceled(self, count: int = 1, **where: str) -> list[Job]:
        jobs = self.submit(count, **where)
        for job in jobs:
            self.store.cancel(job.id)
        return jobs

    def ids(self) -> set[str]:
        return {job.id for job in self.store.search(None, Filter(), size=1000).jobs}


@pytest.fixture
def kept(valkey: ValkeyServer) -> Iterator[Kept]:
    kept = Kept(make_client(valkey.url))
    yield kept
    kept.store.close()


def test_jobs_go_so_many_days_after_their_end_and_no_earlier(kept: Kept) -> None:
    [early] = kept.canceled()
    [live] = kept.submit()
    kept.wait_days(1)
    [late] = kept.canceled(group="another")
    kept.wait_days(6)
    assert Janitor(kept.store, keep_days=7).tick() == 0
    kept.wait_days(0.001)
    assert Janitor(kept.store, keep_days=7).tick() == 1
    assert kept.ids() == {live.id, late.id}
    kept.wait_days(100)
    assert Janitor(kept.store, keep_days=7).tick() == 1
    assert kept.ids() == {live.id}
    with pytest.raises(NotFoundError):
        kept.store.get(early.id)


def test_a_job_that_was_requeued_is_counted_from_its_last_end(kept: Kept) -> None:
    [job] = kept.canceled()
    kept.wait_days(6)
    kept.store.requeue(job.id)
    lease = kept.store.lease(kept.user.id, "g", "node-1", "request-0001")
    assert lease is not None
    kept.store.finish(job.id, Holder("node-1", lease.secret), Outcome.COMPLETED)
    kept.wait_days(6)
    assert Janitor(kept.store, keep_days=7).tick() == 0
    kept.wait_days(2)
    assert Janitor(kept.store, keep_days=7).tick() == 1


def test_one_tick_deletes_a_bounded_number_and_the_next_goes_on(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "ENOUGH", 150)
    other = kept.store.users.create("eve")
    kept.canceled(500)
    kept.store.submit(other.id, [spec()])
    kept.wait_days(9)
    cleaner = Janitor(kept.store, keep_days=7)
    found = [cleaner.tick() for _ in range(4)]
    assert sum(found) == 500
    assert all(0 < count <= 150 + 200 for count in found[:2])  # a script looks at 200 at once
    assert found[-1] == 0
    assert len(kept.ids()) == 1


def test_the_clock_of_this_machine_does_not_matter(kept: Kept) -> None:
    # Real time here is years away from the server's, either way.
    kept.canceled()
    assert Janitor(kept.store, keep_days=1).tick() == 0


def test_nothing_is_deleted_unless_somebody_asks_for_it() -> None:
    assert Settings().retention_days == 0
    with pytest.raises(ValueError, match="keep_days"):
        Janitor(None, keep_days=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("days", "goes"), [("0", False), ("1", True)])
def test_the_platform_deletes_old_jobs_only_where_a_retention_is_set(
    valkey: ValkeyServer, days: str, goes: bool
) -> None:
    store = Store.connect(valkey.url)
    user = store.users.create("ada")
    [old, live] = store.submit(user.id, [spec(), spec(heartbeat_interval=1)])
    store.cancel(old.id)
    assert store.lease(user.id, live.spec.container_group_id, "node-1", "request-0001") is not None
    [queue] = store.queues()
    # As if it had ended long ago.
    store.redis.hset(f"kelpie:{{{queue.number}}}:job:{old.id}", "canceled", old.created - 2 * DAY_MS)
    order = (old.created - 3 * DAY_MS) * 1000
    store.redis.zadd(f"kelpie:{{{queue.number}}}:jobs:canceled", {old.id: order})
    env = environment_without_kelpie() | {"KELPIE_REDIS_URL": valkey.url, "KELPIE_RETENTION_DAYS": days}
    process = subprocess.Popen(
        [sys.executable, "-m", "kelpie.cli", "platform"], env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        # The janitor ticks at once, the reaper gives the lease back later.
        wait_until(lambda: store.attempts(live.id)[0].outcome is Outcome.INTERRUPTED, "the platform works")
        if goes:
            wait_until(lambda: not _exists(store, old), "the old job is deleted")
        else:
            assert _exists(store, old)
        assert _exists(store, live)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
        store.close()


def _exists(store: Store, job: Job) -> bool:
    try:
        store.get(job.id)
    except NotFoundError:
        return False
    return True
