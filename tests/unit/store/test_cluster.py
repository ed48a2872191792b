"""A cluster of three nodes: whatever holds on one server holds there, for queues on all of its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import redis

from kelpie.errors import NotFoundError, UnavailableError
from kelpie.job import JobStatus, Outcome, UploadBacklog
from kelpie.progress import ProgressReport
from kelpie.store import Filter, Poller, Store
from kelpie.store.connection import make_client, servers
from kelpie.transfers import EntryTransfers, TransferReport
from tests.clusters import Cluster
from tests.factories import spec
from tests.unit.store.conftest import USER, StoreUnderTest, holder_of

# Collected here again, with the `sut` of this module.
from tests.unit.store.test_events import *  # noqa: F403
from tests.unit.store.test_faults import *  # noqa: F403
from tests.unit.store.test_jobs import *  # noqa: F403
from tests.unit.store.test_leases import *  # noqa: F403
from tests.unit.store.test_users import *  # noqa: F403
from tests.waiting import wait_until

GROUPS = tuple(f"group-{number}" for number in range(12))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[redis.Redis]:
    client = make_client(cluster.url)
    for server in servers(client):
        server.flushall()
    yield client
    client.close()


@pytest.fixture
def sut(client: redis.Redis) -> StoreUnderTest:
    made = StoreUnderTest(client, real=True)
    made.set_clock()
    return made


@pytest.fixture
def store(client: redis.Redis, cluster: Cluster) -> Iterator[Store]:
    store = Store.connect(cluster.url)
    yield store
    store.close()


def nodes_of(store: Store) -> set[Any]:
    """The nodes that hold the queues GROUPS."""
    client: Any = store.redis
    places = [store._registry.find(USER, group) for group in GROUPS]
    return {client.get_node_from_key(place.keys.meta).name for place in places if place is not None}


def test_a_batch_over_queues_on_all_nodes_comes_back_in_order(store: Store) -> None:
    specs = [spec(container_group_id=group, command=f"{number}") for number in range(3) for group in GROUPS]
    jobs = store.submit(USER, specs)
    assert len(nodes_of(store)) == 3
    assert [job.spec for job in jobs] == specs
    assert {job.id for job in store.page(USER, Filter()).jobs} == {job.id for job in jobs}
    assert [job.id for job in store.page(USER, Filter(container_group_id=GROUPS[5])).jobs] == [
        job.id for job in reversed(jobs) if job.spec.container_group_id == GROUPS[5]
    ]
    for page in (1, 2, 3):
        part = store.page(USER, Filter(), number=page, size=7, ascending=True).jobs
        assert len({job.id for job in part}) == 7


def test_a_batch_that_fails_half_way_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = store._scripts.run
    calls: list[str] = []

    def fail_on_the_fifth(name: str, keys: Any, /, **arguments: Any) -> Any:
        calls.append(name)
        answer = run(name, keys, **arguments)
        if name == "submit" and calls.count("submit") == 5:  # it has happened, and its reply is lost
            raise UnavailableError("the node is gone")
        return answer

    store.submit(USER, [spec(container_group_id=group) for group in GROUPS])
    store.purge_all()
    monkeypatch.setattr(store._scripts, "run", fail_on_the_fifth)
    with pytest.raises(UnavailableError):
        store.submit(USER, [spec(container_group_id=group) for group in GROUPS])
    assert calls.count("submit") == 5
    assert store.page(USER, Filter()).jobs == []
    assert all(store.lease(USER, group, "node-1", f"request-{group}-0000") is None for group in GROUPS)


def test_the_whole_life_of_jobs_on_every_node(store: Store) -> None:
    jobs = store.submit(USER, [spec(container_group_id=group) for group in GROUPS])
    for job in jobs:
        lease = store.lease(USER, job.spec.container_group_id, "node-1", f"request-{job.id}")
        assert lease is not None
        assert lease.job.id == job.id
        moved = TransferReport(before=(EntryTransfers(files=1),))
        reply = store.heartbeat(
            job.id,
            holder_of(lease),
            backlog=UploadBacklog(1, 10, 0.5),
            progress=ProgressReport(0.5),
            transfers=moved,
        )
        assert reply.status is JobStatus.RUNNING
        known = store.transfers(job.id)
        assert known is not None
        assert (known.report, store.upload_backlog(job.id)) == (moved, UploadBacklog(1, 10, 0.5))
        assert [point.fraction for point in store.progress_history(job.id)] == [0.5]
        assert store.finish(job.id, holder_of(lease), Outcome.COMPLETED).status is JobStatus.COMPLETED
        assert [attempt.outcome for attempt in store.attempts(job.id)] == [Outcome.COMPLETED]
    store.purge(jobs[0].id)
    with pytest.raises(NotFoundError):
        store.get(jobs[0].id)


def test_scripts_that_a_node_has_forgotten_are_sent_again(store: Store) -> None:
    for server in servers(store.redis):
        server.script_flush()
    jobs = store.submit(USER, [spec(container_group_id=group) for group in GROUPS])
    assert store.cancel(jobs[3].id).status is JobStatus.CANCELED


def test_a_poll_is_woken_whatever_node_its_queue_is_on(store: Store) -> None:
    poller = Poller(store)
    try:
        for group in GROUPS:
            with ThreadPoolExecutor(1) as thread:
                waiting = thread.submit(poller.poll, USER, group, "node-1", f"request-{group}-0001", 60)
                wait_until(lambda: poller.open_polls == 1, "the poll waits")
                (job,) = store.submit(USER, [spec(container_group_id=group)])
                lease = waiting.result(20)  # long before it would ask by itself
            assert lease is not None
            assert lease.job.id == job.id
    finally:
        poller.close()


def test_every_node_is_checked(store: Store) -> None:
    assert any("everysec" in warning for warning in store.check())


def test_a_node_that_is_away_stops_its_queues_only_and_is_found_again(
    tmp_path: Any, request: pytest.FixtureRequest
) -> None:
    with Cluster(tmp_path) as cluster:
        for server in cluster.servers:
            with server.client() as client:
                client.config_set("cluster-require-full-coverage", "no")
                client.config_set("appendfsync", "always")  # what a slow disk holds up is lost by a kill
        store = Store.connect(cluster.url)
        jobs = store.submit(USER, [spec(container_group_id=group) for group in GROUPS])
        victim = cluster.servers[2]
        victim.kill()

        def reached() -> int:
            count = 0
            for job in jobs:
                with suppress(UnavailableError):
                    count += store.get(job.id).status is JobStatus.PENDING
            return count

        wait_until(lambda: 0 < reached() < len(jobs), "the other queues answer")
        victim.start()
        wait_until(lambda: reached() == len(jobs), "all queues answer")
        store.close()


def test_a_cluster_that_is_away_is_unavailable_and_found_when_it_is_there(tmp_path: Any) -> None:
    cluster = Cluster(tmp_path)
    store = Store.connect(cluster.url)
    with pytest.raises(UnavailableError):
        store.check()
    with cluster:
        assert store.submit(USER, [spec()])
    store.close()
