from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import pytest
from rq import Queue, Worker
from rq.serializers import JSONSerializer
from standardwebhooks.webhooks import Webhook

from kelpie.embedded.valkey import ValkeyServer
from kelpie.platform.promoter import Promoter
from kelpie.platform.tasks import QUEUE, Outbox, deliver
from kelpie.platform.webhooks import DeliveryError, Message
from kelpie.store import Store, User
from tests.unit.platform.receiver import Receiver, receiver
from tests.waiting import wait_until

MESSAGE = Message("kelpie-1-5-0", "running", "11111111-1111-4111-8111-111111111111", "node-1", "group-1")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, valkey: ValkeyServer) -> None:
    monkeypatch.setenv("KELPIE_REDIS_URL", valkey.url)
    monkeypatch.setenv("KELPIE_WEBHOOK_ALLOW_PRIVATE", "true")


@pytest.fixture
def to() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receiver() as to:
        yield to


def work(store: Store) -> None:
    """Run what is queued now, as a deliverer does, then return."""
    Worker([QUEUE], connection=store.redis, serializer=JSONSerializer).work(
        burst=True, logging_level="CRITICAL"
    )


def test_a_delivery_is_signed_with_the_secret_of_the_jobs_owner(
    store: Store, user: User, to: Receiver
) -> None:
    assert deliver(asdict(MESSAGE), to.url, user.id) == "delivered"
    [delivery] = to.deliveries
    Webhook(user.webhook_secret).verify(delivery.body, delivery.headers)


def test_a_private_address_is_refused_for_good_unless_allowed(
    user: User, to: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KELPIE_WEBHOOK_ALLOW_PRIVATE")
    assert deliver(asdict(MESSAGE), to.url, user.id) == "refused"
    assert not to.deliveries


def test_the_webhook_of_a_user_who_is_gone_is_dropped(store: Store, user: User, to: Receiver) -> None:
    store.users.delete_all()
    assert deliver(asdict(MESSAGE), to.url, user.id) == "dropped"
    assert not to.deliveries


def test_a_receiver_that_fails_asks_for_another_try(user: User, to: Receiver) -> None:
    to.statuses = [500]
    with pytest.raises(DeliveryError):
        deliver(asdict(MESSAGE), to.url, user.id)


def test_a_failed_delivery_is_tried_again_after_its_pause_with_the_same_id(
    store: Store, user: User, to: Receiver
) -> None:
    to.statuses = [503, 204]
    outbox = Outbox(store.redis, timeout_s=5, retry_after_s=(1,))
    assert outbox.put(MESSAGE, url=to.url, user_id=user.id)
    work(store)
    assert len(to.deliveries) == 1
    promoter = Promoter(store.redis)

    def delivered_again() -> bool:
        promoter.tick()
        work(store)
        return len(to.deliveries) == 2

    wait_until(delivered_again, "the second try")
    assert len({delivery.headers["webhook-id"] for delivery in to.deliveries}) == 1
    promoter.close()


def test_a_delivery_that_fails_for_good_harms_nothing(store: Store, user: User, to: Receiver) -> None:
    to.statuses = [500, 204]
    outbox = Outbox(store.redis, timeout_s=5, retry_after_s=(0,))
    outbox.put(MESSAGE, url="http://127.0.0.1:1/", user_id=user.id)
    outbox.put(Message("kelpie-1-6-0", "completed", MESSAGE.job_id, "n", "g"), url=to.url, user_id=user.id)
    work(store)
    assert [delivery.headers["webhook-id"] for delivery in to.deliveries] == ["kelpie-1-6-0"] * 2
    failed = Queue(QUEUE, connection=store.redis, serializer=JSONSerializer).failed_job_registry
    assert failed.get_job_ids() == [MESSAGE.id]


def test_a_message_is_queued_once_even_after_its_delivery(store: Store, user: User, to: Receiver) -> None:
    outbox = Outbox(store.redis, timeout_s=5)
    assert outbox.put(MESSAGE, url=to.url, user_id=user.id)
    assert not outbox.put(MESSAGE, url=to.url, user_id=user.id)
    work(store)
    assert not outbox.put(MESSAGE, url=to.url, user_id=user.id)
    work(store)
    assert len(to.deliveries) == 1
