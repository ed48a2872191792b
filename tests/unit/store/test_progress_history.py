"""How progress was over time: bounded and even, over weeks and attempts, and gone with its job."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kelpie.errors import NotFoundError
from kelpie.job import Holder, Lease, Outcome
from kelpie.progress import MAX_METRIC_NAME_CHARS, MAX_METRICS, ProgressPoint, ProgressReport
from kelpie.store.progress_history import (
    EVEN_POINTS,
    MAX_CHANGES,
    MAX_POINT_BYTES,
    MAX_POINTS,
    stays,
    thinned,
)
from tests.unit.store.conftest import StoreUnderTest, holder_of

BEAT_MS = 10_000
DAY_MS = 86_400_000


@pytest.fixture
def lease(sut: StoreUnderTest) -> Lease:
    sut.submit(1)
    return sut.lease()


def beat(sut: StoreUnderTest, lease: Lease, said: ProgressReport, **how: float) -> None:
    sut.store.heartbeat(lease.job.id, holder_of(lease), progress=said, **how)


def history(sut: StoreUnderTest, lease: Lease) -> list[ProgressPoint]:
    return sut.store.progress_history(lease.job.id)


def test_it_tells_how_progress_was_over_two_attempts_and_ends_with_the_last_word(
    sut: StoreUnderTest, lease: Lease
) -> None:
    assert history(sut, lease) == []
    start = sut.now
    beat(sut, lease, ProgressReport(0.25, 25, 100, {"loss": 1.23456789}, age_s=2.0))
    sut.jump(BEAT_MS)
    beat(sut, lease, ProgressReport(0.5, 50, 100, {"loss": 1.0}))
    first = [
        ProgressPoint(start - 2000, 1, 0.25, 25, {"loss": 1.23457}),
        ProgressPoint(start + BEAT_MS, 1, 0.5, 50, {"loss": 1.0}),
    ]
    assert history(sut, lease) == first
    sut.store.finish(lease.job.id, holder_of(lease), Outcome.RELEASED)
    again = sut.lease("node-2")
    beat(sut, again, ProgressReport(0.375))  # at once, and less: it resumed from a checkpoint
    for word in (0.38, 0.39):  # the last word takes the place of one that was as near
        sut.jump(1)
        beat(sut, again, ProgressReport(word))
    second = [ProgressPoint(start + BEAT_MS, 2, 0.375), ProgressPoint(start + BEAT_MS + 2, 2, 0.39)]
    assert history(sut, lease) == first + second


def test_what_has_no_course_is_no_point(sut: StoreUnderTest, lease: Lease) -> None:
    sut.store.heartbeat(lease.job.id, holder_of(lease))
    beat(sut, lease, ProgressReport(checkpoint_age_s=1.0))
    sut.store.heartbeat(lease.job.id, Holder("another", "1.not-the-secret"), progress=ProgressReport(0.5))
    assert history(sut, lease) == []
    assert not sut.redis.exists(sut.keys().progress_history(lease.job.id))
    with pytest.raises(NotFoundError):
        sut.store.progress_history(lease.job.id, user_id="another user")


def test_it_is_kept_for_its_time_and_goes_with_its_job(sut: StoreUnderTest, lease: Lease) -> None:
    key = sut.keys().progress_history(lease.job.id)
    beat(sut, lease, ProgressReport(0.5), days=2)
    assert 2 * DAY_MS - 60_000 < sut.redis.pttl(key) <= 2 * DAY_MS
    sut.redis.delete(key)  # as if that time were over
    beat(sut, lease, ProgressReport(0.75))
    assert history(sut, lease) == [ProgressPoint(sut.now, 1, 0.75)]
    sut.store.purge(lease.job.id)
    assert not sut.redis.exists(key)


def test_a_list_that_is_full_is_thinned_out_and_goes_on(sut: StoreUnderTest, lease: Lease) -> None:
    key = sut.keys().progress_history(lease.job.id)
    points = [f"[{sut.now + BEAT_MS * place},1,{place / 1000},null,{{}}]" for place in range(MAX_POINTS)]
    sut.redis.rpush(key, *points)
    sut.jump(BEAT_MS * 2 * MAX_POINTS)
    beat(sut, lease, ProgressReport(0.5))
    kept = history(sut, lease)
    assert [point.fraction for point in kept] == [*(place / 1000 for place in range(0, MAX_POINTS, 4)), 0.5]
    assert sut.redis.llen(key) == len(kept)
    assert sut.redis.pttl(key) > 0


def test_the_largest_point_is_small_and_a_metric_does_not_come_and_go(
    sut: StoreUnderTest, lease: Lease
) -> None:
    key = sut.keys().progress_history(lease.job.id)
    names = [chr(0x4E00 + number) * MAX_METRIC_NAME_CHARS for number in range(MAX_METRICS)]
    told = set()
    for value in (-1.2345678901234567e-300, 1.0, 1.7976931348623157e308):
        sut.jump(BEAT_MS)
        beat(sut, lease, ProgressReport(1 / 3e5, 1 / 3e300, 2**53, dict.fromkeys(names, value), 1e9, 0.0))
        told.add(tuple(history(sut, lease)[-1].metrics))
    assert told == {tuple(names[:2])}
    beat(sut, lease, ProgressReport(metrics={f"metric {n}": float(n) for n in range(MAX_METRICS)}))
    assert list(history(sut, lease)[-1].metrics) == [f"metric {n}" for n in range(8)]
    assert max(map(len, sut.redis.lrange(key, 0, -1))) <= MAX_POINT_BYTES


def test_a_clock_that_goes_back_breaks_no_order(sut: StoreUnderTest, lease: Lease) -> None:
    for place in range(4):
        beat(sut, lease, ProgressReport(place / 10))
        sut.jump(BEAT_MS if place < 2 else -3 * BEAT_MS)
    times = [point.time for point in history(sut, lease)]
    assert times == sorted(times)
    assert len(times) == 4


def kept_of(beats: list[ProgressPoint]) -> tuple[list[ProgressPoint], int]:
    """What is left of so many, and how often it was thinned out for that."""
    kept: list[ProgressPoint] = []
    thinnings = 0
    for point in beats:
        if len(kept) >= MAX_POINTS:
            kept, thinnings = thinned([*kept, point]), thinnings + 1
            continue
        if len(kept) > 1 and not stays(kept[0], *kept[-2:], point):
            kept.pop()
        kept.append(point)
    return kept, thinnings


def test_weeks_of_heartbeats_leave_an_even_series() -> None:
    beats = [ProgressPoint(BEAT_MS * n, 1) for n in range(14 * DAY_MS // BEAT_MS)]
    kept, thinnings = kept_of(beats)
    gaps = [b.time - a.time for a, b in pairwise(kept)]
    assert EVEN_POINTS / 2 <= len(kept) <= MAX_POINTS
    assert max(gaps) <= 4 * min(gaps[:-1])
    assert max(gaps) <= 2 * (kept[-1].time - kept[0].time) / EVEN_POINTS
    assert thinnings <= 8


def test_changes_of_attempts_stay_however_long_the_job_goes_on() -> None:
    """A node is lost every half a day for six weeks; each time a third of what it did is done again."""
    beats = [
        ProgressPoint(60_000 * n, 1 + n // 720, (n // 720 * 480 + n % 720) / 50_000)
        for n in range(42 * DAY_MS // 60_000)
    ]
    kept, _ = kept_of(beats)
    assert len(kept) <= MAX_POINTS
    changes = [(a, b) for a, b in pairwise(kept) if a.attempt != b.attempt]
    assert {b.attempt for _, b in changes} >= set(range(85 - MAX_CHANGES, 85))
    for a, b in changes[-MAX_CHANGES:]:
        assert b.fraction is not None
        assert a.fraction is not None
        assert b.fraction < a.fraction


def test_attempts_that_say_one_thing_each_are_bounded_too() -> None:
    kept, _ = kept_of([ProgressPoint(BEAT_MS * n, n) for n in range(5000)])
    assert len(kept) <= MAX_POINTS
    assert thinned(kept)[-1].attempt == 4999
