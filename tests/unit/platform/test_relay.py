from __future__ import annotations

from typing import Any

from rq import Queue
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from kelpie.job import Holder, Outcome
from kelpie.platform.relay import Relay
from kelpie.platform.tasks import QUEUE, Outbox
from kelpie.store import Store, User
from tests.factories import GROUP, spec

URL = "https://example.org/hook?token=x"


def relay_of(store: Store) -> Relay:
    return Relay(store, Outbox(store.redis, timeout_s=10))


def queued(store: Store) -> list[RqJob]:
    return Queue(QUEUE, connection=store.redis, serializer=JSONSerializer).jobs


def told(store: Store) -> list[tuple[str, str, str | None]]:
    """(status, job id, node) of every queued webhook, in order."""
    return [
        (job.args[0]["status"], job.args[0]["job_id"], job.args[0]["machine_id"]) for job in queued(store)
    ]


def run_once(store: Store, user: User, outcome: Outcome, node: str = "node-1", **job: Any) -> str:
    """A job that was submitted, leased and ended; its id."""
    [submitted] = store.submit(user.id, [spec(**job)])
    lease = store.lease(user.id, GROUP, node, f"request-of-{submitted.id}")
    assert lease is not None
    store.finish(submitted.id, Holder(node, lease.secret), outcome)
    return submitted.id


def test_a_job_with_a_webhook_tells_of_its_start_and_of_its_end(store: Store, user: User) -> None:
    job_id = run_once(store, user, Outcome.COMPLETED, webhook=URL)
    relay_of(store).tick()
    assert told(store) == [("running", job_id, "node-1"), ("completed", job_id, "node-1")]
    first = queued(store)[0]
    assert first.args[1:] == [URL, user.id]
    assert first.args[0]["container_group_id"] == GROUP
    assert URL not in (first.description or "")
    assert first.retries_left == 7


def test_the_last_failure_is_told_of_and_earlier_ones_are_not(store: Store, user: User) -> None:
    job_id = run_once(store, user, Outcome.APP_FAILED, webhook=URL, max_failures=2)
    relay = relay_of(store)
    relay.tick()
    assert told(store) == [("running", job_id, "node-1")]
    lease = store.lease(user.id, GROUP, "node-2", "another-request-0")
    assert lease is not None
    store.finish(job_id, Holder("node-2", lease.secret), Outcome.SYNC_FAILED)
    relay.tick()
    assert told(store)[1:] == [("running", job_id, "node-2"), ("failed", job_id, "node-2")]


def test_a_job_without_a_webhook_costs_no_task(store: Store, user: User) -> None:
    run_once(store, user, Outcome.COMPLETED)
    assert relay_of(store).tick() == 3
    assert told(store) == []


def test_a_relay_that_starts_again_goes_on_where_the_last_one_was(store: Store, user: User) -> None:
    run_once(store, user, Outcome.COMPLETED, webhook=URL)
    relay_of(store).tick()
    assert relay_of(store).tick() == 0
    assert len(queued(store)) == 2


def test_a_relay_that_died_before_it_noted_its_place_doubles_nothing(store: Store, user: User) -> None:
    run_once(store, user, Outcome.COMPLETED, webhook=URL)
    relay_of(store).tick()
    [queue] = store.queues()
    store.events.set_relay_cursor(queue, "0-0")
    assert relay_of(store).tick() > 0
    assert len(queued(store)) == 2


def test_more_events_than_one_read_are_all_handled(store: Store, user: User) -> None:
    store.submit(user.id, [spec(webhook=URL) for _ in range(150)])
    for number in range(150):
        assert store.lease(user.id, GROUP, "node-1", f"request-number-{number}") is not None
    relay = relay_of(store)
    while relay.tick():
        pass
    assert len(queued(store)) == 150


def test_news_of_a_deleted_job_is_dropped(store: Store, user: User) -> None:
    job_id = run_once(store, user, Outcome.COMPLETED, webhook=URL)
    store.purge(job_id)
    relay_of(store).tick()
    assert told(store) == []


def test_every_queue_is_read(store: Store, user: User) -> None:
    other = store.users.create("grace")
    for owner, group in ((user, "a"), (user, "b"), (other, "a")):
        store.submit(owner.id, [spec(webhook=URL, container_group_id=group)])
        assert store.lease(owner.id, group, "node-1", f"request-{owner.id}-{group}") is not None
    relay_of(store).tick()
    assert len(told(store)) == 3
