"""Long polls on the real server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kelpie.embedded.valkey import ValkeyServer
from kelpie.errors import UnavailableError
from kelpie.job import Lease, Outcome
from kelpie.store import Poller, Store
from tests.factories import GROUP, spec
from tests.unit.store.conftest import USER, holder_of
from tests.waiting import wait_until

LONG_S = 30.0


class Polls:
    """Long polls in threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.poller = Poller(store)
        self._threads = ThreadPoolExecutor(64)
        self._count = 0

    def start(self, node: str, wait_s: float = LONG_S) -> Future[Lease | None]:
        self._count += 1
        return self._threads.submit(self.poller.poll, USER, GROUP, node, f"request-{self._count:010}", wait_s)

    def waiting(self, count: int) -> None:
        """Returns when the subscription is up and that many polls sleep."""

        def all_wait() -> bool:
            lines = self.poller._waiters._lines
            waiting = [w for line in list(lines.values()) for w in list(line)]
            return len(waiting) == count and all(w.asked > 0 and not w.event.is_set() for w in waiting)

        wait_until(all_wait, f"{count} polls wait")

    def close(self) -> None:
        self.poller.close()
        self._threads.shutdown()


@pytest.fixture
def polls(real_store: Store) -> Iterator[Polls]:
    made = Polls(real_store)
    yield made
    made.close()


def test_a_poll_wakes_as_soon_as_a_job_is_submitted(polls: Polls) -> None:
    poll = polls.start("node-1")  # before the queue's first job
    polls.waiting(1)
    (job,) = polls.store.submit(USER, [spec()])
    lease = poll.result(timeout=10)
    assert lease is not None
    assert lease.job.id == job.id


def test_a_foreign_message_on_the_wake_channel_harms_nothing(polls: Polls) -> None:
    poll = polls.start("node-1")
    polls.waiting(1)
    for message in ("", "x", "1", "1 x", "99 1", "1 1 1", b"\xff"):
        polls.store.redis.publish("kelpie:wake", message)
    polls.store.submit(USER, [spec()])
    assert poll.result(timeout=10) is not None


def test_a_poll_that_does_not_wait_answers_at_once(polls: Polls) -> None:
    assert polls.start("node-1", wait_s=0).result(timeout=10) is None


def test_a_poll_ends_with_nothing_when_nothing_came(polls: Polls) -> None:
    assert polls.start("node-1", wait_s=0.2).result(timeout=10) is None


@pytest.mark.parametrize("outcome", [Outcome.APP_FAILED, Outcome.RELEASED])
def test_a_poll_wakes_when_a_job_comes_back(polls: Polls, outcome: Outcome) -> None:
    polls.store.submit(USER, [spec()])
    held = polls.store.lease(USER, GROUP, "node-1", "r" * 16)
    assert held is not None
    poll = polls.start("node-2")
    polls.waiting(1)
    polls.store.finish(held.job.id, holder_of(held), outcome)
    lease = poll.result(timeout=10)
    assert lease is not None
    assert lease.job.attempt == 2


def test_a_poll_gets_a_lost_nodes_job_without_anybody_elses_help(polls: Polls) -> None:
    polls.store.submit(USER, [spec(heartbeat_interval=1)])
    assert polls.store.lease(USER, GROUP, "node-1", "r" * 16) is not None
    lease = polls.start("node-2").result(timeout=20)
    assert lease is not None
    assert lease.job.attempt == 2
    lost = polls.store.attempts(lease.job.id)[0]
    assert lost.outcome is Outcome.INTERRUPTED


def test_a_wake_reaches_the_one_node_that_is_not_banned(polls: Polls) -> None:
    polls.store.submit(USER, [spec(max_failures=100)])
    for i in range(12):
        lease = polls.store.lease(USER, GROUP, f"bad-{i}", f"ban-{i:016}")
        assert lease is not None
        polls.store.finish(lease.job.id, holder_of(lease), Outcome.APP_FAILED)
    last = polls.store.lease(USER, GROUP, "holder", "h" * 16)
    assert last is not None
    banned = [polls.start(f"bad-{i}") for i in range(12)]
    polls.waiting(12)
    good = polls.start("good")
    polls.waiting(13)
    polls.store.finish(last.job.id, holder_of(last), Outcome.RELEASED)
    lease = good.result(timeout=10)
    assert lease is not None
    assert lease.job.id == last.job.id
    assert not any(poll.done() for poll in banned)


def test_ten_jobs_reach_ten_of_the_waiting_polls(polls: Polls) -> None:
    waiting = [polls.start(f"node-{i}") for i in range(30)]
    polls.waiting(30)
    jobs = polls.store.submit(USER, [spec() for _ in range(10)])
    wait_until(lambda: sum(poll.done() for poll in waiting) >= 10, "ten polls are answered")
    leases = [poll.result() for poll in waiting if poll.done()]
    assert sorted(lease.job.id for lease in leases if lease) == sorted(job.id for job in jobs)


def test_a_job_that_another_process_was_faster_to_take_wakes_one_poll_and_not_all(polls: Polls) -> None:
    polls.store.submit(USER, [spec()])
    assert polls.store.lease(USER, GROUP, "of-another-process", "r" * 16) is not None
    for i in range(40):
        polls.start(f"node-{i}")
    polls.waiting(40)
    waiters = polls.poller._waiters
    waiting, before = list(waiters._lines[USER, GROUP]), waiters._last_wake
    queue = polls.store.find_queue(USER, GROUP)
    assert queue is not None
    polls.store.redis.config_resetstat()

    polls.store.redis.publish("kelpie:wake", f"{queue.number} 1")  # as the other process heard it, too
    wait_until(lambda: "cmdstat_zcard" in polls.store.redis.info("commandstats"), "a poll finds nothing")
    polls.store.submit(USER, [spec()])
    wait_until(lambda: len(waiters._lines[USER, GROUP]) == 39, "the next job is taken")

    assert sum(one.asked > before for one in waiting) == 2


def test_closing_ends_the_open_polls_with_nothing(polls: Polls) -> None:
    waiting = [polls.start(f"node-{i}") for i in range(5)]
    polls.waiting(5)
    polls.poller.close()
    assert [poll.result(timeout=10) for poll in waiting] == [None] * 5
    assert polls.start("late").result(timeout=10) is None
    assert not any(t.name.startswith("kelpie-") for t in threading.enumerate())


def test_waiting_polls_ask_the_server_nothing(polls: Polls) -> None:
    polls.store.submit(USER, [spec()])
    assert polls.store.lease(USER, GROUP, "node-0", "r" * 16) is not None  # the queue exists
    for i in range(40):
        polls.start(f"node-{i}")
    polls.waiting(40)

    def ticks() -> int:
        return int(polls.store.redis.info("commandstats")["cmdstat_evalsha"]["calls"])

    before, started = ticks(), time.monotonic()
    wait_until(lambda: ticks() >= before + 4, "the ticker goes on")
    # One script per tick for the whole queue, whatever the number of polls.
    assert ticks() - before <= 4 + (time.monotonic() - started) / 0.5


def test_polls_outlive_a_restart_of_the_server(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server:
        polls = Polls(Store.connect(server.url))
        try:
            poll = polls.start("node-1", wait_s=60)
            polls.waiting(1)
            server.stop()
            with pytest.raises(UnavailableError):
                polls.start("node-2").result(timeout=20)
            server.start()
            (job,) = submit_when_back(polls.store)
            lease = poll.result(timeout=30)
            assert lease is not None
            assert lease.job.id == job.id
        finally:
            polls.close()
            polls.store.close()


def submit_when_back(store: Store) -> list[Any]:
    def attempt() -> list[Any]:
        try:
            return store.submit(USER, [spec()])
        except UnavailableError:
            return []

    return wait_until(attempt, "the server takes jobs again")


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from kelpie.job import JobSpec, Sync
from kelpie.store import Poller, Store
store = Store.connect(sys.argv[1])
poller = Poller(store)
polls = [gevent.spawn(poller.poll, "u", "g", f"node-{i}", f"request-{i:010}", 30) for i in range(500)]
while len(poller._waiters._lines.get(("u", "g"), ())) < 500:
    gevent.sleep(0.02)
jobs = store.submit("u", [JobSpec(command="true", container_group_id="g", sync=Sync()) for _ in range(20)])
while sum(poll.ready() for poll in polls) < 20:
    gevent.sleep(0.02)
leased = [poll.value.job.id for poll in polls if poll.ready()]
assert sorted(leased) == sorted(job.id for job in jobs), leased
poller.close()
gevent.joinall(polls, timeout=10)
assert sum(poll.value is None for poll in polls) == 480
print("ok")
"""


def test_polls_run_on_greenlets(valkey: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS, valkey.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert done.stdout == "ok\n", done.stderr
