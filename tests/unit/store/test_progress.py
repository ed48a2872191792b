"""What commands say of their progress: taken from the holder alone, and kept as long as the job."""

from __future__ import annotations

from kelpie.job import Holder, Outcome
from kelpie.progress import MAX_METRIC_NAME_CHARS, MAX_METRICS, Progress, ProgressReport
from tests.unit.store.conftest import StoreUnderTest, holder_of

SOME = ProgressReport(0.25, 25, 100, {"loss": 0.5}, checkpoint_age_s=7.0, age_s=2.0, rate=0.01)


def said(sut: StoreUnderTest, job_id: str) -> Progress | None:
    return sut.store.progress([sut.store.get(job_id)]).get(job_id)


def test_it_is_what_the_holder_said_last_and_stays_when_its_attempt_is_over(sut: StoreUnderTest) -> None:
    first, other = sut.submit(2)
    lease = sut.lease()
    assert said(sut, first.id) is None
    sut.store.heartbeat(first.id, holder_of(lease), progress=SOME)
    expected = Progress(1, sut.now - 2000, 0.25, 25, 100, {"loss": 0.5}, checkpoint=sut.now - 7000, rate=0.01)
    assert said(sut, first.id) == expected
    assert sut.store.progress([first, other, sut.store.get(first.id)]) == {first.id: expected}
    sut.store.heartbeat(first.id, holder_of(lease))  # a beat that says nothing leaves what was said
    sut.store.finish(first.id, holder_of(lease), Outcome.RELEASED)
    again = sut.lease("node-2")
    assert said(sut, first.id) == expected
    sut.jump(30_000)  # the time that people are told, not the logical clock, which takes that in steps
    sut.store.heartbeat(first.id, holder_of(again), progress=ProgressReport(0.5))
    assert said(sut, first.id) == Progress(2, sut.now, 0.5)
    sut.store.finish(first.id, holder_of(again), Outcome.COMPLETED)
    assert said(sut, first.id) == Progress(2, sut.now, 0.5)
    sut.store.purge(first.id)
    assert not sut.redis.exists(sut.keys().progress(first.id))


def test_who_does_not_hold_the_job_says_nothing_of_it(sut: StoreUnderTest) -> None:
    sut.submit(1)
    lease = sut.lease()
    sut.store.heartbeat(lease.job.id, Holder("another", "1.not-the-secret"), progress=SOME)
    assert said(sut, lease.job.id) is None
    sut.store.finish(lease.job.id, holder_of(lease), Outcome.COMPLETED)
    sut.store.heartbeat(lease.job.id, holder_of(lease), progress=SOME)  # too late
    assert said(sut, lease.job.id) is None


def test_the_most_that_may_be_said_is_small(sut: StoreUnderTest) -> None:
    sut.submit(1)
    lease = sut.lease()
    names = [chr(0x4E00 + number) * MAX_METRIC_NAME_CHARS for number in range(MAX_METRICS)]
    metrics = dict.fromkeys(names, -1.2345678901234567e-300)
    most = ProgressReport(1 / 3, 2**53, 2**53, metrics, 1e9, 1e9, 1e-300)
    sut.store.heartbeat(lease.job.id, holder_of(lease), progress=most)
    assert sut.redis.strlen(sut.keys().progress(lease.job.id)) <= 8 * 1024
    kept = said(sut, lease.job.id)
    assert kept is not None
    assert kept.metrics == metrics


def test_the_end_is_estimated_from_the_rate_that_was_seen_last() -> None:
    progress = Progress(2, updated=1_000_000, fraction=0.75, rate=0.001)
    assert progress.eta(2, 1_000_000) == 1_250_000
    assert progress.eta(2, 1_100_000) == 1_250_000
    assert progress.eta(2, 9_000_000) == 9_000_000  # overdue: any moment
    assert progress.eta(3, 2_000_000) == 2_250_000  # another attempt goes on from there
    for unknown in (
        Progress(1, 0),
        Progress(1, 0, 0.5),
        Progress(1, 0, 0.5, rate=0.0),
        Progress(1, 0, 0.0, rate=1e-300),
    ):
        assert unknown.eta(1, 0) is None
