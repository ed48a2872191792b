from __future__ import annotations

from collections.abc import Iterator

import pytest
from rq import Worker
from standardwebhooks.webhooks import Webhook

from kelpie.embedded.valkey import ValkeyServer
from kelpie.platform import schedule, tasks
from kelpie.platform.dispatcher import Dispatcher
from kelpie.platform.guard import receiver_of
from kelpie.platform.tasks import deliver, enqueue, rq_queue
from kelpie.platform.webhooks import Message
from kelpie.store import Delivery, DeliveryStatus, Store, User
from kelpie.store.deliveries import Claim
from tests.unit.platform.receiver import Receiver, receiver
from tests.waiting import wait_until

JOB_ID = "11111111-1111-4111-8111-111111111111"
ID = "kelpie-1-5-0"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, valkey: ValkeyServer) -> None:
    monkeypatch.setenv("KELPIE_REDIS_URL", valkey.url)
    monkeypatch.setenv("KELPIE_WEBHOOK_ALLOW_PRIVATE", "true")
    monkeypatch.setenv("KELPIE_WEBHOOK_TIMEOUT_S", "2")


@pytest.fixture
def to() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receiver() as to:
        yield to


def put(store: Store, user: User, url: str, delivery_id: str = ID) -> bool:
    return store.deliveries.put(
        delivery_id,
        user_id=user.id,
        job_id=JOB_ID,
        event="running",
        url=url,
        receiver=receiver_of(url),
        body=Message(delivery_id, "running", JOB_ID, "node-1", "group-1").body(),
    )


def claim(store: Store, claim_ms: int = 60_000) -> list[Claim]:
    return store.deliveries.claim(limit=8, per_user=8, claim_ms=claim_ms, max_tries=3)


def try_once(store: Store, user: User, url: str) -> str:
    """What one try of a new delivery comes to."""
    put(store, user, url)
    [one] = claim(store)
    return deliver(one.delivery_id, one.number)


def get(store: Store, user: User, delivery_id: str = ID) -> Delivery:
    return store.deliveries.get(delivery_id, user_id=user.id)


def work(store: Store) -> None:
    """Run what is queued now, as a deliverer does, then return."""
    queue = rq_queue(store.redis)
    Worker([queue], connection=store.redis, serializer=queue.serializer).work(
        burst=True, logging_level="CRITICAL"
    )


def test_a_delivery_is_signed_with_the_secret_of_the_jobs_owner(
    store: Store, user: User, to: Receiver
) -> None:
    assert try_once(store, user, to.url) == "delivered"
    [delivery] = to.deliveries
    Webhook(user.webhook_secret).verify(delivery.body, delivery.headers)
    kept = get(store, user)
    assert kept.status is DeliveryStatus.DELIVERED
    assert [(one.code, one.error) for one in kept.attempts] == [(204, None)]
    assert kept.next_try is None


def test_after_a_rotation_both_secrets_verify_a_delivery(store: Store, user: User, to: Receiver) -> None:
    new, _ = store.webhook_secrets.rotate(user.id)
    assert try_once(store, user, to.url) == "delivered"
    [delivery] = to.deliveries
    for secret in (user.webhook_secret, new):
        Webhook(secret).verify(delivery.body, delivery.headers)
    assert delivery.headers["x-kelpie-key"] == new


def test_a_private_address_is_refused_for_good_unless_allowed(
    store: Store, user: User, to: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KELPIE_WEBHOOK_ALLOW_PRIVATE")
    assert try_once(store, user, to.url.replace("127.0.0.1", "localhost")) == "refused"
    assert not to.deliveries
    kept = get(store, user)
    assert kept.status is DeliveryStatus.REFUSED
    assert "127.0.0.1" not in str(kept.attempts)  # what our name server knows is nobody's business


def test_the_webhook_of_a_user_who_is_gone_is_dropped(store: Store, user: User, to: Receiver) -> None:
    store.users.delete_all()
    assert try_once(store, user, to.url) == "dropped"
    assert not to.deliveries
    assert get(store, user).status is DeliveryStatus.DROPPED


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 429, 500, 503])
def test_a_receiver_that_fails_is_asked_again(store: Store, user: User, to: Receiver, status: int) -> None:
    to.statuses, to.location = [status], to.url
    assert try_once(store, user, to.url) == "retry"
    kept = get(store, user)
    assert kept.status is DeliveryStatus.QUEUED
    assert kept.attempts[0].code == status
    assert kept.next_try is not None
    pause_ms = kept.next_try - kept.attempts[0].time
    assert 5000 <= pause_ms <= 5000 * (1 + schedule.JITTER)
    assert len(to.deliveries) == 1


def test_a_receiver_that_is_gone_is_asked_no_more(store: Store, user: User, to: Receiver) -> None:
    to.statuses = [410]
    assert try_once(store, user, to.url) == "failed"
    kept = get(store, user)
    assert kept.status is DeliveryStatus.FAILED
    assert kept.next_try is None
    assert claim(store) == []


def test_a_receiver_may_ask_for_a_longer_pause(store: Store, user: User, to: Receiver) -> None:
    to.statuses, to.retry_after = [429], "600"
    assert try_once(store, user, to.url) == "retry"
    kept = get(store, user)
    assert kept.next_try is not None
    assert kept.next_try - kept.attempts[0].time >= 600_000


def test_the_last_try_of_the_schedule_ends_a_delivery(
    store: Store, user: User, to: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "RETRY_AFTER_S", (0, 0))
    monkeypatch.setattr(schedule, "MAX_TRIES", 3)
    to.statuses = [500]
    put(store, user, to.url)
    outcomes = []
    for _ in range(3):
        [one] = claim(store)
        outcomes.append(deliver(one.delivery_id, one.number))
    assert outcomes == ["retry", "retry", "failed"]
    assert claim(store) == []
    kept = get(store, user)
    assert kept.status is DeliveryStatus.FAILED
    assert [one.code for one in kept.attempts] == [500] * 3
    assert {delivery.headers["webhook-id"] for delivery in to.deliveries} == {ID}


def test_a_receiver_that_is_away_for_a_day_misses_nothing() -> None:
    pauses = [schedule.pause_s(tries) for tries in range(1, schedule.MAX_TRIES + 1)]
    assert pauses[-1] is None
    assert 24 * 3600 <= sum(pause for pause in pauses if pause) <= 36 * 3600
    assert all(
        later >= sooner
        for sooner, later in zip(schedule.RETRY_AFTER_S, schedule.RETRY_AFTER_S[1:], strict=False)
    )
    assert len({schedule.pause_s(3) for _ in range(20)}) > 1  # jitter


def test_a_defect_is_a_try_that_failed(
    store: Store, user: User, to: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_how: object) -> None:
        raise RuntimeError("the secret of the kitchen")

    monkeypatch.setattr(tasks, "send", broken)
    assert try_once(store, user, to.url) == "retry"
    [attempt] = get(store, user).attempts
    assert attempt.error == "the try broke off (RuntimeError)"


def test_a_void_claim_sends_nothing(store: Store, user: User, to: Receiver) -> None:
    put(store, user, to.url)
    [one] = claim(store)
    assert deliver(one.delivery_id, one.number + 1) == "void"
    assert deliver("kelpie-1-6-0", 1) == "void"
    assert deliver(one.delivery_id, one.number) == "delivered"
    assert deliver(one.delivery_id, one.number) == "void"
    assert len(to.deliveries) == 1


def test_a_claim_is_one_task_however_often_it_is_queued(store: Store, user: User, to: Receiver) -> None:
    put(store, user, to.url)
    [one] = claim(store)
    for _ in range(2):
        enqueue(rq_queue(store.redis), one, timeout_s=5)
    work(store)
    assert len(to.deliveries) == 1
    assert list(store.redis.scan_iter("rq:job:*")) == []  # nothing stays in RQ


def test_a_replay_is_delivered_again_with_the_same_id(store: Store, user: User, to: Receiver) -> None:
    to.statuses = [410, 204]
    assert try_once(store, user, to.url) == "failed"
    assert store.deliveries.replay(ID, user_id=user.id).status is DeliveryStatus.QUEUED
    [one] = claim(store)
    assert deliver(one.delivery_id, one.number) == "delivered"
    assert [delivery.headers["webhook-id"] for delivery in to.deliveries] == [ID, ID]
    assert [one.code for one in get(store, user).attempts] == [410, 204]


def test_the_dispatcher_hands_over_and_goes_on_after_it_died(store: Store, user: User, to: Receiver) -> None:
    for number in range(5):
        put(store, user, to.url, f"kelpie-1-{number}-0")
    assert claim(store, claim_ms=1)  # by a dispatcher that died before it queued anything
    dispatcher = Dispatcher(store.deliveries, store.redis, workers=1, timeout_s=5)

    def all_delivered() -> bool:
        while dispatcher.tick():
            work(store)
        return len(to.deliveries) == 5

    wait_until(all_delivered, "all deliveries")
    assert len({delivery.headers["webhook-id"] for delivery in to.deliveries}) == 5


def test_a_dead_receiver_does_not_keep_other_users_waiting(store: Store, user: User, to: Receiver) -> None:
    for number in range(50):
        put(store, user, f"http://dead-{number}.example/", f"kelpie-1-{number}-0")
    dispatcher = Dispatcher(store.deliveries, store.redis, workers=1, timeout_s=5)
    assert dispatcher.tick() == 2  # of a user's many receivers, these are tried at once
    other = store.users.create("grace")
    put(store, other, to.url, "kelpie-2-0-0")
    assert dispatcher.tick() == 1
    waiting = rq_queue(store.redis).job_ids
    assert waiting[-1].startswith("kelpie-2-0-0")
    assert len(waiting) == 3
