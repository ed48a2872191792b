"""Scaling rules, container groups, and the counts that the autoscaler decides by."""

from __future__ import annotations

from typing import Any

import pytest

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError
from kelpie.job import Outcome
from kelpie.scaling import Action, ContainerGroup, Decision, Demand, GroupState, ScalingRule, decide, failed
from kelpie.store import ADMIN_ID, keys
from kelpie.store.rules import MAX_DECISIONS
from tests.factories import GROUP, event_entry
from tests.unit.store.conftest import OTHER_USER, USER, StoreUnderTest, holder_of

GROUP_ID = "0c6b4b6e-2f4a-4c57-9d0e-5b8a2b6f1d3c"
NUMBERS = {"min_replicas": 1, "max_replicas": 5, "idle_threshold_seconds": 60}


def group(group_id: str = GROUP_ID) -> ContainerGroup:
    return ContainerGroup(group_id, "sims", "org", "project")


def make(sut: StoreUnderTest, group_id: str = GROUP_ID, user: str = USER, **numbers: int) -> ScalingRule:
    return sut.store.rules.create(user, group(group_id), **(NUMBERS | numbers))


def decision(rule: ScalingRule, demand: Demand, replicas: int = 0) -> Decision:
    running = ContainerGroup(
        rule.container_group_id, "sims", "org", "project", state=GroupState.RUNNING, replicas=replicas
    )
    return decide(rule, running, demand, now=0, cooldown_ms=0)


# ---- rules


def test_a_rule_is_what_it_was_made_of(sut: StoreUnderTest) -> None:
    made = make(sut)
    assert sut.store.rules.get(GROUP_ID) == made
    assert sut.store.rules.get(GROUP_ID, user_id=USER) == made
    assert (made.user_id, made.organization, made.project) == (USER, "org", "project")
    assert (made.min_replicas, made.max_replicas, made.idle_threshold_seconds) == (1, 5, 60)
    assert made.created == made.updated
    assert made.scaled is None


@pytest.mark.parametrize("user", [USER, OTHER_USER])
def test_a_group_has_one_rule(sut: StoreUnderTest, user: str) -> None:
    made = make(sut)
    before = sut.state()
    with pytest.raises(ConflictError, match=GROUP_ID):
        make(sut, user=user, max_replicas=7)
    assert sut.store.rules.get(GROUP_ID) == made
    assert sut.state() == before


def test_another_users_rule_does_not_exist(sut: StoreUnderTest) -> None:
    make(sut)
    before = sut.state()
    rules = sut.store.rules
    with pytest.raises(NotFoundError):
        rules.get(GROUP_ID, user_id=OTHER_USER)
    with pytest.raises(NotFoundError):
        rules.update(GROUP_ID, user_id=OTHER_USER, max_replicas=9)
    with pytest.raises(NotFoundError):
        rules.delete(GROUP_ID, user_id=OTHER_USER)
    assert rules.list(OTHER_USER) == []
    assert sut.state() == before


def test_rules_are_listed_by_user_and_for_all(sut: StoreUnderTest) -> None:
    ids = [f"{number:08}-0000-4000-8000-000000000000" for number in range(4)]
    for number, group_id in enumerate(ids):
        make(sut, group_id, USER if number % 2 else OTHER_USER)
    assert {rule.container_group_id for rule in sut.store.rules.list()} == set(ids)
    assert {rule.container_group_id for rule in sut.store.rules.list(USER)} == {ids[1], ids[3]}


def test_an_update_changes_what_is_given(sut: StoreUnderTest) -> None:
    made = make(sut)
    changed = sut.store.rules.update(GROUP_ID, user_id=USER, max_replicas=9)
    assert (changed.min_replicas, changed.max_replicas, changed.idle_threshold_seconds) == (1, 9, 60)
    assert changed.created == made.created
    assert changed.updated >= made.updated
    changed = sut.store.rules.update(GROUP_ID, min_replicas=0, idle_threshold_seconds=0)
    assert (changed.min_replicas, changed.max_replicas, changed.idle_threshold_seconds) == (0, 9, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"min_replicas": 6},  # above the maximum that is kept
        {"max_replicas": 0},  # below the minimum that is kept
        {"min_replicas": 4, "max_replicas": 3},
        {"max_replicas": 501},
        {"min_replicas": -1},
        {"idle_threshold_seconds": 3601},
    ],
)
def test_unfit_numbers_change_nothing(sut: StoreUnderTest, change: dict[str, int]) -> None:
    make(sut)
    before = sut.state()
    with pytest.raises(InvalidInputError):
        sut.store.rules.update(GROUP_ID, **change)
    assert sut.state() == before
    with pytest.raises(InvalidInputError):
        make(sut, "1" + GROUP_ID[1:], **({"max_replicas": 0} | change))
    assert sut.state() == before


def test_a_deleted_rule_leaves_nothing(sut: StoreUnderTest) -> None:
    rule = make(sut)
    sut.store.rules.record(rule, failed(rule, Demand(1, 0), "x"), now=1)
    sut.store.rules.delete(GROUP_ID, user_id=USER)
    assert not [key for key in sut.redis.scan_iter() if b"{rules}" in key]
    for gone in (
        lambda: sut.store.rules.get(GROUP_ID),
        lambda: sut.store.rules.delete(GROUP_ID),
        lambda: sut.store.rules.update(GROUP_ID, max_replicas=3),
    ):
        with pytest.raises(NotFoundError):
            gone()
    make(sut, user=OTHER_USER)


def test_all_rules_can_be_deleted(sut: StoreUnderTest) -> None:
    for number, user in enumerate((USER, OTHER_USER)):
        make(sut, f"{number:08}-0000-4000-8000-000000000000", user)
    sut.store.rules.delete_all()
    assert not [key for key in sut.redis.scan_iter() if b"{rules}" in key]


def test_with_all_users_end_their_rules_but_not_the_admins(sut: StoreUnderTest) -> None:
    sut.store.users.ensure_admin(None)
    users = [sut.store.users.create(f"user-{number}").id for number in range(3)]
    ids = [f"{number:08}-0000-4000-8000-000000000000" for number in range(4)]
    for group_id, user in zip(ids, [*users, ADMIN_ID], strict=True):
        make(sut, group_id, user)
    sut.store.delete_users()
    assert [rule.container_group_id for rule in sut.store.rules.list()] == ids[3:]
    with pytest.raises(ConflictError, match="admin"):
        sut.store.delete_user(ADMIN_ID)
    assert sut.store.rules.list(ADMIN_ID)


# ---- decisions


def test_like_decisions_in_a_row_are_one(sut: StoreUnderTest) -> None:
    rule = make(sut)
    nothing, busy = decision(rule, Demand(0, 1), 1), decision(rule, Demand(1, 1), 2)
    for now, made in ((10, nothing), (20, nothing), (30, busy), (40, nothing), (50, nothing), (60, nothing)):
        assert sut.store.rules.record(rule, made, now=now)
    kept = [(one.decision, one.first, one.last, one.count) for one in sut.store.rules.decisions(GROUP_ID)]
    assert kept == [(nothing, 40, 60, 3), (busy, 30, 30, 1), (nothing, 10, 20, 2)]
    assert sut.store.rules.get(GROUP_ID).scaled is None


def test_a_change_is_noted_in_the_rule_and_always_kept(sut: StoreUnderTest) -> None:
    rule = make(sut)
    more = decision(rule, Demand(3, 0))
    assert more.action is Action.SCALE_OUT
    for now in (10, 20):
        sut.store.rules.record(rule, more, now=now)
    assert [one.first for one in sut.store.rules.decisions(GROUP_ID)] == [20, 10]
    assert sut.store.rules.get(GROUP_ID).scaled == 20
    # An owner's change keeps it: the cool-down goes on.
    assert sut.store.rules.update(GROUP_ID, max_replicas=9).scaled == 20


def test_the_newest_decisions_are_kept(sut: StoreUnderTest) -> None:
    rule = make(sut)
    for number in range(MAX_DECISIONS + 5):
        sut.store.rules.record(rule, failed(rule, Demand(number, 0), "%s %b [x"), now=number)
    kept = sut.store.rules.decisions(GROUP_ID)
    assert [one.first for one in kept] == list(range(MAX_DECISIONS + 4, 4, -1))
    assert [one.first for one in sut.store.rules.decisions(GROUP_ID, limit=2)] == [204, 203]


def test_nothing_is_kept_of_a_rule_that_is_gone(sut: StoreUnderTest) -> None:
    rule = make(sut)
    sut.store.rules.delete(GROUP_ID)
    assert not sut.store.rules.record(rule, decision(rule, Demand(3, 0)), now=1)
    assert not [key for key in sut.redis.scan_iter() if b"{rules}" in key]


def test_every_field_that_scripts_write_is_described(sut: StoreUnderTest) -> None:
    rule = make(sut)
    sut.store.rules.record(rule, decision(rule, Demand(3, 0)), now=1)
    assert {name.decode() for name in sut.redis.hkeys(keys.rule(GROUP_ID))} == set(keys.RULE_FIELDS)
    sut.store.groups.put(GROUP_ID, "sims", "org", "project")
    sut.store.groups.report(GROUP_ID, [])
    assert {name.decode() for name in sut.redis.hkeys(keys.group(GROUP_ID))} == set(keys.GROUP_FIELDS)
    described = keys.__doc__ or ""
    for key in sut.redis.scan_iter(match="kelpie:{rules}:*"):
        name = key.decode().removeprefix("kelpie:{rules}:").partition(":")[0]
        assert f"kelpie:{{rules}}:{name}" in described


# ---- container groups


def test_a_group_is_stopped_until_it_is_scaled(sut: StoreUnderTest) -> None:
    groups = sut.store.groups
    assert groups.put(GROUP_ID, "sims", "org", "project", slots=2)
    made = groups.get(GROUP_ID).group
    assert made == ContainerGroup(GROUP_ID, "sims", "org", "project", 2, GroupState.STOPPED, 0, None)
    groups.scale(GROUP_ID, replicas=4)
    assert groups.get(GROUP_ID).group.running_replicas == 0
    groups.scale(GROUP_ID, state=GroupState.RUNNING)
    assert groups.get(GROUP_ID).group.running_replicas == 4


def test_registering_again_renames_and_keeps_what_runs(sut: StoreUnderTest) -> None:
    groups = sut.store.groups
    groups.put(GROUP_ID, "sims", "org", "project")
    groups.scale(GROUP_ID, replicas=4, state=GroupState.RUNNING)
    assert not groups.put(GROUP_ID, "other", "org 2", "project 2")
    again = groups.get(GROUP_ID)
    assert (again.group.name, again.group.organization, again.group.project) == (
        "other",
        "org 2",
        "project 2",
    )
    assert again.group.running_replicas == 4
    assert groups.list() == [again]


def test_a_host_says_what_it_runs_and_hears_what_it_is_to_run(sut: StoreUnderTest) -> None:
    groups = sut.store.groups
    groups.put(GROUP_ID, "sims", "org", "project")
    groups.scale(GROUP_ID, replicas=2, state=GroupState.RUNNING)
    heard, replace = groups.report(GROUP_ID, ["a", "b", "c", "a"])
    assert (heard.group.running_replicas, heard.group.current, replace) == (2, 3, [])
    assert groups.report(GROUP_ID, [])[0].group.current == 0


def test_a_silent_host_is_not_believed(sut: StoreUnderTest) -> None:
    groups = sut.store.groups
    groups.put(GROUP_ID, "sims", "org", "project")
    groups.report(GROUP_ID, ["a"])
    assert groups.get(GROUP_ID).group.current == 1
    sut.redis.hincrby(keys.group(GROUP_ID), "reported", -60_000)
    assert groups.get(GROUP_ID).group.current is None


def test_a_node_to_be_replaced_is_asked_for_until_it_is_gone(sut: StoreUnderTest) -> None:
    groups = sut.store.groups
    groups.put(GROUP_ID, "sims", "org", "project")
    for node in ("b", "a", "b", "long gone"):
        assert groups.reallocate(GROUP_ID, node)
    assert groups.report(GROUP_ID, ["a", "b", "c"])[1] == ["a", "b"]
    assert groups.report(GROUP_ID, ["a", "b", "c"])[1] == ["a", "b"]
    assert groups.report(GROUP_ID, ["b", "c", "d"])[1] == ["b"]
    assert groups.report(GROUP_ID, ["a", "c", "d"])[1] == []  # a new node of that name is not meant


def test_a_group_that_is_gone_is_not_found_and_not_made(sut: StoreUnderTest) -> None:
    groups = sut.store.groups
    groups.put(GROUP_ID, "sims", "org", "project")
    groups.reallocate(GROUP_ID, "a")
    groups.delete(GROUP_ID)
    for gone in (
        lambda: groups.get(GROUP_ID),
        lambda: groups.delete(GROUP_ID),
        lambda: groups.scale(GROUP_ID, replicas=1),
        lambda: groups.reallocate(GROUP_ID, "a"),
        lambda: groups.report(GROUP_ID, ["a"]),
    ):
        with pytest.raises(NotFoundError):
            gone()
    assert not [key for key in sut.redis.scan_iter() if b"{rules}" in key]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 257},
        {"organization": "a\nb"},
        {"project": ""},
        {"slots": 0},
        {"slots": 1001},
    ],
)
def test_an_unfit_group_is_refused(sut: StoreUnderTest, wrong: dict[str, Any]) -> None:
    values: dict[str, Any] = {"name": "n", "organization": "o", "project": "p", **wrong}
    with pytest.raises(InvalidInputError):
        sut.store.groups.put(GROUP_ID, **values)
    assert sut.store.groups.list() == []


# ---- demand


def demand(sut: StoreUnderTest, within_s: int = 3600, enough: int = 1000, user: str = USER) -> Demand:
    return sut.store.demand(user, GROUP, finished_within_s=within_s, enough=enough)


def test_jobs_count_while_they_wait_and_while_they_are_on_a_node(sut: StoreUnderTest) -> None:
    assert demand(sut) == Demand(0, 0)
    sut.submit(3)
    assert demand(sut) == Demand(3, 0)
    lease = sut.lease()
    assert demand(sut) == Demand(2, 1)
    sut.expire(lease)
    assert demand(sut) == Demand(3, 0)
    assert sut.store.backlogs([(USER, GROUP), (USER, "none"), (OTHER_USER, GROUP)]) == [
        Demand(3, 0),
        Demand(0, 0),
        Demand(0, 0),
    ]


def test_only_the_users_own_jobs_count(sut: StoreUnderTest) -> None:
    sut.submit(2)
    sut.submit(5, user=OTHER_USER)
    assert demand(sut) == Demand(2, 0)
    assert demand(sut, user=OTHER_USER) == Demand(5, 0)


def test_jobs_that_ended_on_a_node_count_for_a_while(sut: StoreUnderTest) -> None:
    completed, failing, canceled, pending = sut.submit(4, max_failures=1)
    sut.store.finish(completed.id, holder_of(sut.lease()), Outcome.COMPLETED)
    sut.store.finish(failing.id, holder_of(sut.lease()), Outcome.APP_FAILED)
    sut.lease()
    sut.store.cancel(canceled.id)
    sut.store.cancel(pending.id)  # never on a node
    assert demand(sut) == Demand(0, 0, finished=3)
    assert demand(sut, within_s=0) == Demand(0, 0)
    assert demand(sut, enough=2) == Demand(0, 0, finished=2)
    sut.store.purge(completed.id)
    assert demand(sut) == Demand(0, 0, finished=3)


def test_jobs_that_ended_earlier_do_not_count(sut: StoreUnderTest) -> None:
    stream = sut.store._registry.register(USER, GROUP).keys.events
    sut.redis.xadd(stream, event_entry("completed", "x", status="completed"), id="1000-0")
    job = sut.submit_one()
    sut.store.finish(job.id, holder_of(sut.lease()), Outcome.COMPLETED)
    assert demand(sut) == Demand(0, 0, finished=1)


def test_all_jobs_that_ended_are_found_among_many_events(sut: StoreUnderTest) -> None:
    first = sut.submit_one()
    sut.store.finish(first.id, holder_of(sut.lease()), Outcome.COMPLETED)
    for _ in range(3):
        sut.submit(1000)
    assert sut.store.clear_group(USER, GROUP) == 3000
    assert demand(sut) == Demand(0, 0, finished=1)


# ---- the lock of the autoscaler


def test_one_holds_the_lock_until_he_lets_go_or_is_silent(sut: StoreUnderTest) -> None:
    first, second = (sut.store.autoscaler_lock(ttl_s=10) for _ in range(2))
    assert first.take()
    assert first.take()
    assert not second.take()
    second.free()
    assert not second.take()
    assert 0 < sut.redis.pttl(keys.AUTOSCALER_LOCK) <= 10_000
    first.free()
    assert second.take()
    sut.redis.delete(keys.AUTOSCALER_LOCK)  # as when its time is over
    assert first.take()
    assert not second.take()
