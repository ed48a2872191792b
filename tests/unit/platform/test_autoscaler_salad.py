"""The autoscaler and a cloud's API together: what it asks for, and that one sick group holds up no other."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest

from kelpie.config import Settings
from kelpie.job import Holder, Outcome
from kelpie.platform.autoscaler import Autoscaler
from kelpie.providers import Provider, make_provider
from kelpie.scaling import Action
from kelpie.store import Store, User
from tests.factories import spec
from tests.unit.providers.clouds import SaladCloud, served
from tests.waiting import wait_until

ORG, PROJECT = "org one", "project-1"


@pytest.fixture
def salad() -> Iterator[SaladCloud]:
    cloud = SaladCloud()
    with served(cloud):
        yield cloud


@pytest.fixture
def provider(salad: SaladCloud, store: Store) -> Provider:
    return make_provider(
        Settings(provider="salad", salad_api_key=salad.key, salad_api_url=salad.url, provider_timeout_s=0.4),
        store,
    )


@pytest.fixture
def scaler(store: Store, provider: Provider) -> Iterator[Autoscaler]:
    yield Autoscaler(store, provider, interval_s=0.1, cooldown_s=0)
    wait_until(
        lambda: not [one for one in threading.enumerate() if one.name.startswith("scale-")],
        "every evaluation has ended",
    )


def ruled(salad: SaladCloud, provider: Provider, store: Store, user: User, name: str) -> str:
    """A stopped group of the cloud with a rule; its id."""
    group_id = salad.add(name)
    group = provider.lookup(group_id, organization=ORG, project=PROJECT)
    assert group is not None
    store.rules.create(user.id, group, min_replicas=0, max_replicas=5, idle_threshold_seconds=0)
    return group_id


def test_a_group_is_started_and_stopped_and_its_rule_ends_with_it(
    salad: SaladCloud, provider: Provider, store: Store, user: User, scaler: Autoscaler
) -> None:
    group_id = ruled(salad, provider, store, user, "sims")
    sims = salad.groups["sims"]
    store.submit(user.id, [spec(container_group_id=group_id)] * 9)
    wait_until(lambda: scaler.tick() or sims["current_state"]["status"] == "deploying", "it is started")
    assert sims["replicas"] == 5
    asked = salad.said("PATCH") + salad.said("POST")
    assert asked == [f"{salad.home}/sims", f"{salad.home}/sims/start"]
    while (lease := store.lease(user.id, group_id, "node", uuid.uuid4().hex)) is not None:
        store.finish(lease.job.id, Holder("node", lease.secret), Outcome.COMPLETED)
    wait_until(lambda: scaler.tick() or sims["current_state"]["status"] == "stopped", "it is stopped")
    del salad.groups["sims"]
    wait_until(lambda: scaler.tick() or not store.rules.list(), "its rule has ended")


def test_rules_outlive_the_absence_of_their_whole_project(
    salad: SaladCloud, provider: Provider, store: Store, user: User, scaler: Autoscaler
) -> None:
    groups = {ruled(salad, provider, store, user, name) for name in ("one", "two")}
    salad.home = "/organizations/org%20one/projects/renamed/containers"
    for group_id in groups:
        store.submit(user.id, [spec(container_group_id=group_id)])

    def is_noted(group_id: str) -> bool:
        kept = [one.decision for one in store.rules.decisions(group_id)]
        why = f"no project {PROJECT!r} of an organization {ORG!r}"
        return any(one.action is Action.FAILED and why in one.reason for one in kept)

    wait_until(lambda: scaler.tick() or all(map(is_noted, groups)), "it is noted")
    assert {rule.container_group_id for rule in store.rules.list()} == groups
    salad.home = SaladCloud.home
    states = [group["current_state"] for group in salad.groups.values()]
    wait_until(
        lambda: scaler.tick() or all(state["status"] == "deploying" for state in states), "they are started"
    )


def test_a_sick_group_is_noted_and_holds_up_no_other(
    salad: SaladCloud, provider: Provider, store: Store, user: User, scaler: Autoscaler
) -> None:
    sick, well = (ruled(salad, provider, store, user, name) for name in ("sick", "well"))
    salad.down.add("/sick")
    for group_id in (sick, well):
        store.submit(user.id, [spec(container_group_id=group_id)])
    started = {name: salad.groups[name]["current_state"] for name in ("sick", "well")}
    wait_until(lambda: scaler.tick() or started["well"]["status"] == "deploying", "the other is started")
    wait_until(lambda: scaler.tick() or store.rules.decisions(sick), "it is noted")
    kept = store.rules.decisions(sick)[0]
    assert kept.decision.action is Action.FAILED
    assert "SaladCloud answered 503 to GET" in kept.decision.reason
    assert salad.key not in kept.decision.reason
    salad.down.clear()
    wait_until(lambda: scaler.tick() or started["sick"]["status"] == "deploying", "it is tried again")
