"""The platform as the process that operators run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from standardwebhooks.webhooks import Webhook

from kelpie.embedded.processes import Server
from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import Holder, Outcome
from kelpie.store import Store, User
from tests.factories import GROUP, spec
from tests.unit.platform.receiver import Receiver, receiver
from tests.waiting import wait_until


class PlatformProcess(Server):
    """`kelpie platform`."""

    name = "platform"

    def __init__(self, redis_url: str, directory: Path, **settings: str) -> None:
        super().__init__(directory)
        self.redis_url = redis_url
        self.settings = settings

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        environment = {"KELPIE_REDIS_URL": self.redis_url, "KELPIE_WEBHOOK_ALLOW_PRIVATE": "true"}
        return [sys.executable, "-m", "kelpie.cli", "platform"], environment | self.settings

    def is_ready(self) -> bool:
        return self.log.exists() and "platform is running" in self.log.read_text()

    def family(self) -> list[psutil.Process]:
        """The process and everything that it has started."""
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey that a test may kill."""
    with ValkeyServer(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def platform(broker: ValkeyServer, tmp_path: Path) -> Iterator[PlatformProcess]:
    """The platform process on it."""
    with PlatformProcess(broker.url, tmp_path) as process:
        yield process


@pytest.fixture
def store(broker: ValkeyServer) -> Iterator[Store]:
    """The store on it."""
    store = Store.connect(broker.url)
    yield store
    store.close()


@pytest.fixture
def to() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receiver() as to:
        yield to


def run_job(store: Store, user: User, to: Receiver, node: str = "node-1") -> str:
    """A job that told ``to`` of its start and its end; its id."""
    [job] = store.submit(user.id, [spec(webhook=to.url)])
    lease = store.lease(user.id, GROUP, node, f"request-of-{job.id}")
    assert lease is not None
    store.finish(job.id, Holder(node, lease.secret), Outcome.COMPLETED)
    return job.id


def told(to: Receiver) -> set[tuple[str, str]]:
    bodies = [json.loads(delivery.body) for delivery in to.deliveries]
    return {(body["job_id"], body["status"]) for body in bodies}


def test_webhooks_arrive_signed_and_once(
    platform: PlatformProcess, store: Store, user: User, to: Receiver
) -> None:
    job_id = run_job(store, user, to)
    wait_until(lambda: len(to.deliveries) >= 2, "both webhooks")
    assert told(to) == {(job_id, "running"), (job_id, "completed")}
    for delivery in to.deliveries:
        Webhook(user.webhook_secret).verify(delivery.body, delivery.headers)


def test_a_lost_nodes_job_is_waiting_again_though_nobody_polls(
    platform: PlatformProcess, store: Store, user: User
) -> None:
    [job] = store.submit(user.id, [spec(heartbeat_interval=1)])
    assert store.lease(user.id, GROUP, "node-1", "request-0123456789") is not None
    wait_until(lambda: not store.get(job.id).held, "the lease has expired")
    assert store.get(job.id).waiting_for


def test_redis_killed_and_started_again_needs_no_new_platform(
    platform: PlatformProcess, broker: ValkeyServer, store: Store, user: User, to: Receiver
) -> None:
    before = platform.pid
    run_job(store, user, to)
    wait_until(lambda: len(to.deliveries) >= 2, "webhooks before the outage")
    broker.kill()
    wait_until(lambda: "waiting for redis" in platform.log.read_text(), "the platform has noticed")
    broker.start()
    job_id = run_job(store, user, to)
    wait_until(lambda: {(job_id, "running"), (job_id, "completed")} <= told(to), "webhooks after the outage")
    assert platform.pid == before
    assert platform.running


def test_a_killed_deliverer_is_replaced(
    platform: PlatformProcess, store: Store, user: User, to: Receiver
) -> None:
    wait_until(lambda: len(platform.family()) > 1, "a deliverer")
    for child in platform.family()[1:]:
        child.kill()
    run_job(store, user, to)
    wait_until(lambda: len(told(to)) == 2, "webhooks by the next deliverer")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_nothing_stays_behind(platform: PlatformProcess, how: str) -> None:
    wait_until(lambda: len(platform.family()) > 1, "a deliverer")
    family = platform.family()
    process = platform.process
    assert process is not None
    platform.kill() if how == "kill" else platform.stop()
    if how == "stop":
        assert process.returncode == 0
    wait_until(lambda: not any(_lives(member) for member in family), "all processes have ended")


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
