"""The decision that a scaling rule asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie.scaling import (
    Action,
    ContainerGroup,
    Decision,
    Demand,
    GroupState,
    KeptDecision,
    RegisteredGroup,
    ScalingRule,
    clamp_replicas,
    decide,
    failed,
)

NOW = 1_800_000_000_000
COOLDOWN_MS = 60_000
RUNNING, STOPPED = GroupState.RUNNING, GroupState.STOPPED


def rule(low: int = 0, high: int = 10, scaled: int | None = None, idle_s: int = 30) -> ScalingRule:
    return ScalingRule(
        container_group_id="g",
        user_id="u",
        organization="o",
        project="p",
        container_group_name="n",
        min_replicas=low,
        max_replicas=high,
        idle_threshold_seconds=idle_s,
        created=NOW,
        updated=NOW,
        scaled=scaled,
    )


def group(replicas: int = 0, state: GroupState = RUNNING, slots: int = 1) -> ContainerGroup:
    return ContainerGroup("g", "n", "o", "p", slots=slots, state=state, replicas=replicas, current=replicas)


@pytest.mark.parametrize(
    ("low", "high", "state", "replicas", "slots", "demand", "action", "wanted"),
    [
        (0, 10, STOPPED, 0, 1, Demand(0, 0), Action.NONE, 0),
        (0, 10, STOPPED, 0, 1, Demand(1, 0), Action.START, 1),
        (0, 10, STOPPED, 7, 1, Demand(3, 0), Action.START, 3),  # what it last ran does not matter
        (2, 10, STOPPED, 0, 1, Demand(0, 0), Action.START, 2),
        (0, 10, RUNNING, 1, 1, Demand(3, 1), Action.SCALE_OUT, 4),
        (0, 10, RUNNING, 4, 1, Demand(0, 4), Action.NONE, 4),
        (0, 10, RUNNING, 4, 1, Demand(0, 1), Action.SCALE_IN, 1),
        (0, 10, RUNNING, 4, 1, Demand(0, 1, finished=2), Action.SCALE_IN, 3),
        (0, 10, RUNNING, 4, 1, Demand(0, 0, finished=4), Action.NONE, 4),
        (0, 10, RUNNING, 4, 1, Demand(0, 0), Action.STOP, 0),
        (1, 10, RUNNING, 4, 1, Demand(0, 0), Action.SCALE_IN, 1),
        (0, 3, RUNNING, 3, 1, Demand(99, 3), Action.NONE, 3),
        (0, 3, RUNNING, 5, 1, Demand(99, 5), Action.SCALE_IN, 3),  # the maximum was lowered
        (0, 0, RUNNING, 5, 1, Demand(99, 5), Action.STOP, 0),
        (0, 10, RUNNING, 0, 4, Demand(9, 0), Action.SCALE_OUT, 3),  # rounded up
        (0, 10, RUNNING, 0, 4, Demand(8, 0), Action.SCALE_OUT, 2),
        (0, 10, RUNNING, 0, 1, Demand(0, 0), Action.NONE, 0),
    ],
)
def test_a_group_gets_what_its_queue_needs_within_the_rule(
    low: int,
    high: int,
    state: GroupState,
    replicas: int,
    slots: int,
    demand: Demand,
    action: Action,
    wanted: int,
) -> None:
    made = decide(rule(low, high), group(replicas, state, slots), demand, now=NOW, cooldown_ms=COOLDOWN_MS)
    assert (made.action, made.wanted) == (action, wanted)
    assert made.replicas == (replicas if state is RUNNING else 0)
    assert made.eligible == demand.waiting + demand.leased + demand.finished


@pytest.mark.parametrize(
    ("scaled", "action"),
    [
        (NOW, Action.HOLD),
        (NOW - COOLDOWN_MS + 1, Action.HOLD),
        (NOW - COOLDOWN_MS, Action.STOP),
        (None, Action.STOP),
        (NOW + 1_000_000_000, Action.STOP),  # a clock that went back holds nothing for ever
    ],
)
def test_a_group_shrinks_when_its_cool_down_is_over(scaled: int | None, action: Action) -> None:
    made = decide(rule(scaled=scaled), group(3), Demand(0, 0), now=NOW, cooldown_ms=COOLDOWN_MS)
    assert (made.action, made.wanted, made.replicas) == (action, 0, 3)


def test_a_group_grows_during_its_cool_down() -> None:
    made = decide(rule(scaled=NOW), group(3), Demand(5, 3), now=NOW, cooldown_ms=COOLDOWN_MS)
    assert (made.action, made.wanted) == (Action.SCALE_OUT, 8)


@pytest.mark.parametrize(
    ("demand", "text"),
    [
        (Demand(1, 2, 3), "6 jobs (1 waiting, 2 on nodes, 3 ended in the last 30 s) at 1 per replica need 6"),
        (Demand(20, 0), "the rule allows 10 at most"),
        (Demand(0, 0), "the rule asks for 2 at least"),
    ],
)
def test_a_decision_says_why(demand: Demand, text: str) -> None:
    made = decide(rule(2, 10), group(3), demand, now=NOW, cooldown_ms=0)
    assert text in made.reason


@given(
    low=st.integers(0, 500),
    high=st.integers(0, 500),
    state=st.sampled_from(GroupState),
    replicas=st.integers(0, 500),
    slots=st.integers(1, 64),
    demand=st.builds(Demand, *[st.integers(0, 100_000)] * 3),
    scaled=st.none() | st.integers(NOW - 100_000, NOW + 100_000),
)
def test_whatever_the_numbers_are(
    low: int,
    high: int,
    state: GroupState,
    replicas: int,
    slots: int,
    demand: Demand,
    scaled: int | None,
) -> None:
    low, high = sorted((low, high))
    made = decide(
        rule(low, high, scaled), group(replicas, state, slots), demand, now=NOW, cooldown_ms=COOLDOWN_MS
    )
    assert made.wanted is not None
    assert made.replicas is not None
    assert low <= made.wanted <= high
    # No slot too few, and no replica without a job, unless the rule says so.
    assert made.wanted == high or made.wanted * slots >= demand.eligible
    assert made.wanted == low or (made.wanted - 1) * slots < demand.eligible
    assert (made.action is Action.NONE) == (made.wanted == made.replicas)
    assert (made.action in {Action.SCALE_OUT, Action.START}) == (made.wanted > made.replicas)
    assert (made.action is Action.START) == (made.wanted > 0 and state is STOPPED)
    if made.action is Action.STOP:
        assert made.wanted == 0
    if made.action is Action.HOLD:
        assert scaled is not None
        assert NOW - COOLDOWN_MS < scaled <= NOW
    assert Decision.from_wire(made.to_wire()) == made


@given(a=st.integers(0, 10_000), b=st.integers(0, 10_000), slots=st.integers(1, 64))
def test_more_jobs_never_mean_fewer_replicas(a: int, b: int, slots: int) -> None:
    fewer, more = sorted((a, b))
    assert clamp_replicas(fewer, slots, 1, 400) <= clamp_replicas(more, slots, 1, 400)


def test_what_is_told_to_clients_reads_back() -> None:
    made = failed(rule(), Demand(1, 2), "ProviderError: 503")
    assert (made.action, made.wanted, made.acts) == (Action.FAILED, None, False)
    kept = KeptDecision(made, NOW, NOW + 1, 2)
    assert KeptDecision.from_wire(kept.to_wire()) == kept
    assert ScalingRule.from_wire(rule(scaled=None).to_wire()) == rule()
    registered = RegisteredGroup(group(3), NOW, NOW + 5)
    assert RegisteredGroup.from_wire(registered.to_wire()) == registered
