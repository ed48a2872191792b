"""Nodes that are to be empty."""

from __future__ import annotations

import pytest

from kelpie.errors import InvalidInputError, NotFoundError
from kelpie.job import Outcome
from kelpie.store import drains
from tests.factories import GROUP, spec
from tests.unit.store.conftest import USER, StoreUnderTest, holder_of


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "CACHE_S", 0.0)


def test_a_drained_node_is_asked_for_its_job_and_given_none_until_it_is_resumed(sut: StoreUnderTest) -> None:
    sut.submit(2)
    lease = sut.lease("node-1")
    assert sut.store.heartbeat(lease.job.id, holder_of(lease)).drain is False
    (drained,) = sut.store.drain(USER, "node-1")
    assert (drained.node, drained.queue.container_group_id) == ("node-1", GROUP)
    reply = sut.store.heartbeat(lease.job.id, holder_of(lease))
    assert reply.drain
    assert reply.reason is None  # it holds the job still
    sut.store.finish(lease.job.id, holder_of(lease), Outcome.RELEASED)
    assert sut.poll("node-1") is None
    elsewhere = sut.lease("node-2")
    assert (elsewhere.job.id, elsewhere.job.num_failures) == (lease.job.id, 0)
    assert not sut.store.heartbeat(elsewhere.job.id, holder_of(elsewhere)).drain
    assert [queue.container_group_id for queue in sut.store.undrain(USER, "node-1")] == [GROUP]
    assert sut.store.undrain(USER, "node-1") == []
    assert sut.poll("node-1") is not None


def test_a_node_is_drained_in_every_queue_that_it_asked_or_in_the_one_that_is_named(
    sut: StoreUnderTest,
) -> None:
    sut.store.submit(USER, [spec(), spec(container_group_id="b"), spec(container_group_id="c")])
    for group in (GROUP, "b"):
        sut.poll("node-1", group=group)
    assert {one.queue.container_group_id for one in sut.store.drain(USER, "node-1")} == {GROUP, "b"}
    since = {one.queue: one.since for one in sut.store.drained_nodes(USER)}
    sut.store.drain(USER, "node-1", "c")  # which it has not asked yet
    again = sut.store.drain(USER, "node-1")
    assert {one.queue: one.since for one in again} == since  # since the first time
    assert len(sut.store.drained_nodes(USER)) == 3
    sut.store.undrain(USER, "node-1", "b")
    assert {one.queue.container_group_id for one in sut.store.drained_nodes(USER)} == {GROUP, "c"}


def test_another_users_nodes_are_not_seen_and_not_touched(sut: StoreUnderTest) -> None:
    sut.submit_one()
    sut.submit_one(user="other")
    sut.lease("node-1")
    for group in (None, GROUP):
        if group is None:
            with pytest.raises(NotFoundError):
                sut.store.drain("other", "node-1", group)
        else:
            sut.store.drain("other", "node-1", group)  # of his own queue of that name
    assert sut.store.drained_nodes(USER) == []
    sut.store.drain(None, "node-1")  # the admin
    assert [one.queue.user_id for one in sut.store.drained_nodes(USER)] == [USER]
    assert sut.store.undrain("other", "node-1")
    assert len(sut.store.drained_nodes(USER)) == 1


def test_an_unknown_node_and_an_unfit_name_are_refused(sut: StoreUnderTest) -> None:
    sut.submit_one()
    with pytest.raises(NotFoundError):
        sut.store.drain(USER, "node-9")
    with pytest.raises(NotFoundError):
        sut.store.drain(USER, "node-9", "no-such-group")
    with pytest.raises(InvalidInputError):
        sut.store.drain(USER, "")


def test_the_drained_nodes_of_a_queue_are_bounded(
    sut: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drains, "MAX_DRAINED", 2)
    sut.submit_one()
    for name in ("a", "b"):
        sut.store.drain(USER, name, GROUP)
    with pytest.raises(InvalidInputError, match="2 drained nodes"):
        sut.store.drain(USER, "c", GROUP)


def test_what_a_process_knows_is_a_second_old_at_most(
    sut: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(drains, "CACHE_S", 1.0)
    monkeypatch.setattr(drains.time, "monotonic", lambda: now[0])
    sut.submit(2)
    assert sut.poll("node-1") is not None
    sut.redis.hset(sut.keys().drained, "node-1", "1")  # by another process
    assert sut.poll("node-1") is not None
    now[0] += 1.0
    assert sut.poll("node-1") is None
