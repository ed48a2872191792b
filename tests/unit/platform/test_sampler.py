"""The sampler: one of several processes writes, each user his own, and little for those who do nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kelpie.embedded.valkey import ValkeyServer
from kelpie.platform.sampler import IDLE_INTERVAL_S, Sampler
from kelpie.store import Store
from kelpie.store.history import Sample
from tests.factories import GROUP, spec


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[Store]:
    store = Store.connect(valkey.url)
    yield store
    store.close()


def samples(store: Store, user: str | None) -> list[Sample]:
    return [sample for _, sample in store.histories.read(user)[1].samples]


def test_each_user_has_his_own_figures_and_the_admin_the_sum(store: Store) -> None:
    store.submit("ada", [spec(), spec(), spec(container_group_id="other")])
    store.submit("ben", [spec()])
    store.lease("ada", GROUP, "node-1", "")
    Sampler(store).tick()
    assert samples(store, "ada") == [Sample(pending=2, running=1, leased=1)]
    assert samples(store, "ben") == [Sample(pending=1)]
    assert samples(store, None) == [Sample(pending=3, running=1, leased=1)]


def test_one_of_several_processes_samples_and_another_when_it_ends(store: Store) -> None:
    store.submit("ada", [spec()])
    first, second = Sampler(store), Sampler(store)
    assert first.tick() == second.tick() == 0
    assert len(samples(store, "ada")) == 1
    first.close()
    second.tick()
    first.tick()
    assert len(samples(store, "ada")) == 2


def test_a_user_for_whom_nothing_happens_is_written_down_once_an_hour(store: Store) -> None:
    now_s = 0.0
    sampler = Sampler(store, clock=lambda: now_s)
    [job] = store.submit("ada", [spec()])
    for _ in range(3):
        sampler.tick()
    assert len(samples(store, "ada")) == 3  # a job waits: its line goes on
    store.cancel(job.id)
    for _ in range(3):
        sampler.tick()
    assert len(samples(store, "ada")) == 4
    now_s = IDLE_INTERVAL_S
    sampler.tick()
    assert len(samples(store, "ada")) == 5
