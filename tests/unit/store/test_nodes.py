from __future__ import annotations

import pytest

from kelpie.job import Holder, Outcome
from kelpie.store import NodeState, registry
from kelpie.store.waiting import RECENT_MS
from tests.factories import GROUP, spec
from tests.unit.store.conftest import StoreUnderTest


def test_nodes_are_told_with_what_they_do_and_their_bans(sut: StoreUnderTest) -> None:
    store, user = sut.store, "u"
    store.submit(user, [spec() for _ in range(2)])
    lease = store.lease(user, GROUP, "fails", "")
    assert lease is not None
    store.finish(lease.job.id, Holder("fails", lease.secret), Outcome.APP_FAILED)
    held = store.lease(user, GROUP, "works", "")
    assert held is not None
    store.submit("other", [spec()])
    store.lease("other", GROUP, "elsewhere", "")
    found = {node.name: node for node in store.nodes(user)}
    assert set(found) == {"fails", "works"}
    assert (found["works"].state, found["works"].jobs) == (NodeState.BUSY, (held.job.id,))
    assert (found["fails"].state, found["fails"].bans, found["fails"].jobs) == (NodeState.IDLE, 1, ())
    assert {node.name for node in store.nodes(None)} == {"fails", "works", "elsewhere"}
    assert store.nodes(user, "another group") == []


def test_a_node_that_asks_no_more_is_silent(sut: StoreUnderTest) -> None:
    store, user = sut.store, "u"
    store.submit(user, [spec()])
    store.lease(user, GROUP, "gone", "")
    place = store._registry.find(user, GROUP)
    assert place is not None
    [job_id] = store.redis.zrange(place.keys.leased, 0, -1)
    store.redis.zrem(place.keys.leased, job_id)
    store.redis.zincrby(place.keys.polls, -RECENT_MS - 1, "gone")
    [node] = store.nodes(user)
    assert node.state is NodeState.SILENT


def test_a_node_that_asks_before_the_first_job_is_seen(sut: StoreUnderTest) -> None:
    store, user = sut.store, "u"
    store.open_queue(user, GROUP)
    assert store.lease(user, GROUP, "early", "") is None
    assert [(node.name, node.state) for node in store.nodes(user)] == [("early", NodeState.IDLE)]
    store.submit(user, [spec()])
    assert [queue.container_group_id for queue in store.queues(user)] == [GROUP]


def test_nodes_that_invent_queues_make_a_bounded_number(
    sut: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "MAX_OPENED", 2)
    for number in range(4):
        sut.store.open_queue("u", f"invented {number}")
    assert len(sut.store.queues("u")) == 2
    sut.store.submit("u", [spec(container_group_id="real")])
    assert len(sut.store.queues("u")) == 3
