from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kelpie.errors import ForbiddenError, LeaseLostError, UnauthenticatedError
from kelpie.job import JobStatus, LogBatch, LogLine, LogStream, Outcome
from kelpie.progress import ProgressReport
from kelpie.store import Scope, Store
from kelpie.transfers import EntryTransfers, TransferReport
from kelpie_worker.redis_queue import RedisQueue
from tests.factories import GROUP, spec
from tests.unit.worker.doubles import settings


class Cluster:
    """A real server with one user, and queues as that user's nodes see them."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder
        self.store = Store.connect(url, allow_volatile=True)
        self.user = self.store.users.create("someone")
        self.key = self.store.users.create_key(self.user.id, "org", "project")

    def node(self, name: str, **values: Any) -> RedisQueue:
        values = {"api_url": self._url, "api_key": self.key, "container_group_id": GROUP} | values
        return RedisQueue(settings(self._folder, machine_id=name, **values))


@pytest.fixture
def cluster(valkey: Any, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(valkey.url, tmp_path)
    yield cluster
    cluster.store.close()


def test_a_job_is_leased_kept_alive_and_completed(cluster: Cluster) -> None:
    (job,) = cluster.store.submit(cluster.user.id, [spec(arguments=("a",))])
    node = cluster.node("node-1")
    leased = node.lease(0)
    assert leased is not None
    assert (leased.id, leased.attempt, leased.arguments) == (job.id, 1, ("a",))
    assert node.heartbeat(leased).status is JobStatus.RUNNING
    moved = TransferReport(after=(EntryTransfers(files=1),))
    node.heartbeat(leased, progress=ProgressReport(fraction=0.5), transfers=moved)
    assert cluster.store.progress([cluster.store.get(job.id)])[job.id].fraction == 0.5
    told = cluster.store.transfers(job.id)
    assert told is not None
    assert told.report == moved
    assert [point.fraction for point in cluster.store.progress_history(job.id)] == [0.5]
    line = LogLine(LogStream.STDERR, 7, "hello")
    node.log(leased, LogBatch(1, (line,)))
    assert [kept for _, kept in cluster.store.log(job.id).lines] == [line]
    assert node.completed(leased).status is JobStatus.COMPLETED
    assert node.lease(0) is None
    node.close()


def test_a_failure_bans_this_node_and_another_one_goes_on(cluster: Cluster) -> None:
    cluster.store.submit(cluster.user.id, [spec()])
    first, second = cluster.node("node-1"), cluster.node("node-2")
    leased = first.lease(0)
    assert leased is not None
    assert first.failed(leased, Outcome.APP_FAILED, 3, "x" * 5000).node_bans == 1
    assert first.lease(0) is None
    again = second.lease(0)
    assert again is not None
    assert again.attempt == 2
    with pytest.raises(LeaseLostError):
        first.completed(leased)
    assert second.released(again).num_failures == 1
    first.close()
    second.close()


def test_stopping_ends_an_open_poll(cluster: Cluster) -> None:
    node = cluster.node("node-1")
    answers: list[Any] = []
    poll = threading.Thread(target=lambda: answers.append(node.lease(20)))
    poll.start()
    node.stop_leasing()
    poll.join(10)
    assert answers == [None]
    node.close()


def test_a_key_that_may_not_work_serves_no_queue(cluster: Cluster) -> None:
    key, _ = cluster.store.users.make_key(cluster.user.id, "org", "project", scopes=[Scope.SUBMIT])
    with pytest.raises(ForbiddenError, match="scope work"):
        cluster.node("node-1", api_key=key).lease(0)
    key, _ = cluster.store.users.make_key(cluster.user.id, "org", "project", scopes=[Scope.WORK])
    assert cluster.node("node-1", api_key=key).lease(0) is None


def test_the_key_tells_whose_queue_is_served(cluster: Cluster) -> None:
    with pytest.raises(ForbiddenError):
        cluster.node("node-1", api_key="klp_unknown").lease(0)
    with pytest.raises(UnauthenticatedError):
        cluster.node("node-1", api_key="").lease(0)
