from __future__ import annotations

import json
from typing import Any

import pytest

from kelpie.errors import NotFoundError
from kelpie.job import Holder, Outcome, WebhookEvent
from kelpie.platform.relay import Relay
from kelpie.store import Delivery, Store, User
from tests.factories import GROUP, spec
from tests.waiting import wait_until

URL = "https://example.org/hook?token=x"


def relay_of(store: Any) -> Relay:
    return Relay(store, store.deliveries)


def queued(store: Store, user: User) -> list[Delivery]:
    """Every delivery of the user, the oldest first."""
    found, cursor = store.deliveries.page(user_id=user.id, page_size=1000)
    assert cursor is None
    return list(reversed(found))


def told(store: Store, user: User) -> list[tuple[str, str, str | None]]:
    """(status, job id, node) of every queued webhook, in order."""
    bodies = [json.loads(delivery.body) for delivery in queued(store, user)]
    return [(body["status"], body["job_id"], body["machine_id"]) for body in bodies]


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
    assert told(store, user) == [("running", job_id, "node-1"), ("completed", job_id, "node-1")]
    first = queued(store, user)[0]
    assert (first.url, first.event, first.job_id, first.tries) == (URL, "running", job_id, 0)
    assert json.loads(first.body)["container_group_id"] == GROUP


def test_the_last_failure_is_told_of_and_earlier_ones_are_not(store: Store, user: User) -> None:
    job_id = run_once(store, user, Outcome.APP_FAILED, webhook=URL, max_failures=2)
    relay = relay_of(store)
    relay.tick()
    assert told(store, user) == [("running", job_id, "node-1")]
    lease = store.lease(user.id, GROUP, "node-2", "another-request-0")
    assert lease is not None
    store.finish(job_id, Holder("node-2", lease.secret), Outcome.SYNC_FAILED)
    relay.tick()
    assert told(store, user)[1:] == [("running", job_id, "node-2"), ("failed", job_id, "node-2")]


def test_a_job_without_a_webhook_costs_no_task(store: Store, user: User) -> None:
    run_once(store, user, Outcome.COMPLETED)
    assert relay_of(store).tick() == 3
    assert told(store, user) == []


def test_a_relay_that_starts_again_goes_on_where_the_last_one_was(store: Store, user: User) -> None:
    run_once(store, user, Outcome.COMPLETED, webhook=URL)
    relay_of(store).tick()
    assert relay_of(store).tick() == 0
    assert len(queued(store, user)) == 2


def test_a_relay_that_died_before_it_noted_its_place_doubles_nothing(store: Store, user: User) -> None:
    run_once(store, user, Outcome.COMPLETED, webhook=URL)
    relay_of(store).tick()
    [queue] = store.queues()
    store.events.set_relay_cursor(queue, "0-0")
    assert relay_of(store).tick() > 0
    assert len(queued(store, user)) == 2


def test_more_events_than_one_read_are_all_handled(store: Store, user: User) -> None:
    store.submit(user.id, [spec(webhook=URL) for _ in range(150)])
    for number in range(150):
        assert store.lease(user.id, GROUP, "node-1", f"request-number-{number}") is not None
    relay = relay_of(store)
    while relay.tick():
        pass
    assert len(queued(store, user)) == 150


def test_news_of_a_deleted_job_is_dropped(store: Store, user: User) -> None:
    job_id = run_once(store, user, Outcome.COMPLETED, webhook=URL)
    store.purge(job_id)
    relay_of(store).tick()
    assert told(store, user) == []


def test_every_queue_is_read(store: Store, user: User) -> None:
    other = store.users.create("grace")
    for owner, group in ((user, "a"), (user, "b"), (other, "a")):
        store.submit(owner.id, [spec(webhook=URL, container_group_id=group)])
        assert store.lease(owner.id, group, "node-1", f"request-{owner.id}-{group}") is not None
    relay_of(store).tick()
    assert len(told(store, user)) == 2
    assert len(told(store, other)) == 1


@pytest.mark.parametrize("asked", [(), ("canceled",), ("interrupted", "running"), tuple(WebhookEvent)])
def test_a_job_is_told_of_what_it_asks_for(store: Store, user: User, asked: tuple[str, ...]) -> None:
    [job] = store.submit(user.id, [spec(webhook=URL, webhook_events=asked, heartbeat_interval=1)])
    happened = []
    for number, (outcome, node) in enumerate(
        [(Outcome.RELEASED, "a"), (Outcome.APP_FAILED, "b"), (Outcome.SYNC_FAILED, "c"), (None, "d")]
    ):
        lease = store.lease(user.id, GROUP, node, f"request-number-{number}")
        assert lease is not None
        happened.append(("running", job.id, node))
        if outcome is None:
            wait_until(lambda: store.reap(store.queues()[0]), "the lease has expired")
            happened.append(("interrupted", job.id, node))
        else:
            store.finish(job.id, Holder(node, lease.secret), outcome)
            happened.append((outcome.value, job.id, node))
    store.cancel(job.id)
    happened.append(("canceled", job.id, "d"))
    relay_of(store).tick()
    assert told(store, user) == [one for one in happened if one[0] in asked]


def test_deliveries_about_a_purged_job_are_forgotten(store: Store, user: User) -> None:
    gone = run_once(store, user, Outcome.COMPLETED, webhook=URL)
    kept = run_once(store, user, Outcome.COMPLETED, webhook=URL)
    relay = relay_of(store)
    relay.tick()
    first = queued(store, user)[0].id
    store.purge(gone)
    relay.tick()
    assert {delivery.job_id for delivery in queued(store, user)} == {kept}
    with pytest.raises(NotFoundError):
        store.deliveries.get(first, user_id=user.id)
    with pytest.raises(NotFoundError):
        store.deliveries.replay(first, user_id=user.id)
    # What was told before the purge is still delivered.
    claims = store.deliveries.claim(limit=10, per_user=10, claim_ms=60_000, max_tries=3)
    assert first in {claim.delivery_id for claim in claims}


class Killed(BaseException):
    """The process is gone."""


class Mortal:
    """Lives for a number of calls that write, then dies right before or right after the next."""

    def __init__(self, part: Any, steps: list[int], *, after: bool) -> None:
        self._part = part
        self._steps = steps
        self._after = after

    def __getattr__(self, name: str) -> Any:
        whole = getattr(self._part, name)
        if name in {"events", "deliveries"}:
            return Mortal(whole, self._steps, after=self._after)
        if name not in {"put", "forget", "set_relay_cursor"}:
            return whole

        def call(*args: Any, **how: Any) -> Any:
            self._steps[0] -= 1
            if self._steps[0] == 0 and not self._after:
                raise Killed
            answer = whole(*args, **how)
            if self._steps[0] == 0:
                raise Killed
            return answer

        return call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(1, 7))
def test_a_relay_killed_between_any_two_steps_loses_nothing_and_doubles_nothing(
    store: Store, user: User, step: int, after: bool
) -> None:
    store.submit(user.id, [spec(webhook=URL, container_group_id="empty")])
    jobs = [run_once(store, user, Outcome.COMPLETED, webhook=URL) for _ in range(2)]
    mortal = Mortal(store, [step], after=after)
    with pytest.raises(Killed):
        relay_of(mortal).tick()
    relay_of(store).tick()
    expected = [(status, job, "node-1") for job in jobs for status in ("running", "completed")]
    assert told(store, user) == expected
