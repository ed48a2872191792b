"""What is told of the last day: from samples alone, and never more than they say."""

from __future__ import annotations

import pytest

from kelpie.store import Store, keys
from kelpie.store.history import DAY_MS, MAX_SAMPLES, History, Sample

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


def minutes(count: int, *, every: int = 1, leased: int = 2, lost_ms: int = 0) -> list[tuple[int, Sample]]:
    """Samples of a steady fleet that completes a job a minute."""
    return [
        (at * MINUTE_MS, Sample(leased=leased, completed=at, lost_ms=lost_ms * at))
        for at in range(0, count + 1, every)
    ]


def test_what_was_done_is_the_difference_of_two_samples() -> None:
    figures = History(minutes(120, lost_ms=3000)).within(HOUR_MS)
    assert figures is not None
    assert (figures.since, figures.until) == (HOUR_MS, 2 * HOUR_MS)
    assert (figures.completed, figures.failed, figures.lost_ms) == (60, 0, 180_000)
    assert figures.busy_ms == 2 * HOUR_MS  # two nodes, one hour
    assert figures.goodput == pytest.approx(1 - 180_000 / (2 * HOUR_MS))


def test_with_too_few_samples_it_says_since_when_and_with_one_nothing() -> None:
    assert History([]).within(DAY_MS) is None
    assert History(minutes(0)).within(DAY_MS) is None
    figures = History(minutes(3)).within(DAY_MS)
    assert figures is not None
    assert (figures.since, figures.completed) == (0, 3)


def test_a_gap_counts_no_work_that_nobody_saw() -> None:
    unseen = History([*minutes(10), (3 * HOUR_MS, Sample(leased=2, completed=500))]).within(DAY_MS)
    assert unseen is not None
    assert (unseen.completed, unseen.busy_ms) == (500, 2 * 10 * MINUTE_MS)
    nobody = History([(0, Sample()), (MINUTE_MS, Sample())]).within(DAY_MS)
    assert nobody is not None
    assert nobody.goodput is None


def test_losses_of_before_and_counters_that_fell_give_no_figure_below_zero() -> None:
    lost = History([(0, Sample(leased=1)), (MINUTE_MS, Sample(leased=1, lost_ms=DAY_MS))]).within(DAY_MS)
    assert lost is not None
    assert (lost.kept_ms, lost.goodput) == (0, 0.0)
    restored = History([(0, Sample(completed=9, failed=9, lost_ms=9)), (1, Sample())]).within(DAY_MS)
    assert restored is not None
    assert (restored.completed, restored.failed, restored.lost_ms) == (0, 0, 0)


def test_samples_of_a_day_come_back_with_the_last_one_before_it(real_store: Store) -> None:
    now_ms = real_store.events.now_ms()
    for hours in (30, 25, 23, 1):
        told = Sample(pending=hours, running=2, leased=3, completed=4, failed=5, lost_ms=6)
        real_store.histories.add({"ada": told, None: told}, at_ms=now_ms - hours * HOUR_MS)
    real_store.histories.add({"ada": Sample(pending=0)})
    for user in ("ada", None):
        read_ms, history = real_store.histories.read(user)
        assert [sample.pending for _, sample in history.samples][:3] == [25, 23, 1]
        assert history.samples[0][1] == Sample(25, 2, 3, 4, 5, 6)
        assert all(time <= read_ms for time, _ in history.samples)
    assert real_store.histories.read("ben")[1].samples == []


def test_samples_are_bounded_and_end_by_themselves(real_store: Store) -> None:
    now_ms = real_store.events.now_ms()
    for at in range(2 * MAX_SAMPLES):
        real_store.histories.add({"ada": Sample(pending=at)}, at_ms=now_ms - 2 * MAX_SAMPLES + at)
    assert real_store.redis.xlen(keys.history("ada")) <= MAX_SAMPLES + 100  # it trims by the block
    assert 0 < int(real_store.redis.ttl(keys.history("ada"))) <= 26 * 3600
    assert real_store.redis.memory_usage(keys.history("ada"), samples=0) < 150_000


def test_figures_between_samples_are_those_of_the_last_one() -> None:
    history = History([(10, Sample(running=1)), (20, Sample(running=2))])
    assert history.at([5, 10, 15, 20, 99], lambda one: one.running) == [None, 1, 1, 2, 2]
