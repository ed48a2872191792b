"""Jobs that wait for a time, pause after a failure, or run for longer than they may."""

from __future__ import annotations

import pytest

from kelpie.errors import InvalidInputError
from kelpie.job import JobStatus, Lease, Outcome
from tests.unit.store.conftest import START_MS, StoreUnderTest, holder_of

MINUTE_MS = 60_000


def fail(sut: StoreUnderTest, lease: Lease) -> None:
    sut.store.finish(lease.job.id, holder_of(lease), Outcome.APP_FAILED)


def test_a_job_is_not_leased_before_its_time(sut: StoreUnderTest) -> None:
    job = sut.submit_one(not_before=START_MS + MINUTE_MS)
    assert job.due == sut.get(job).due == START_MS + MINUTE_MS
    sut.advance(MINUTE_MS - 1)
    assert sut.poll() is None
    sut.advance(1)
    lease = sut.lease()
    assert (lease.job.id, lease.job.due) == (job.id, None)


def test_a_time_that_has_passed_delays_nothing(sut: StoreUnderTest) -> None:
    job = sut.submit_one(not_before=START_MS)
    assert sut.lease().job.id == job.id


def test_a_delayed_job_takes_the_place_that_its_age_gives_it(sut: StoreUnderTest) -> None:
    delayed = sut.submit_one(not_before=START_MS + MINUTE_MS)
    younger = sut.submit_one()
    sut.advance(MINUTE_MS)
    assert [sut.lease().job.id for _ in range(2)] == [delayed.id, younger.id]


def test_the_reaper_lets_due_jobs_wait_and_wakes_polls(sut: StoreUnderTest) -> None:
    sut.submit(3, not_before=START_MS + MINUTE_MS)
    sut.advance(MINUTE_MS)
    subscription = sut.redis.pubsub()
    subscription.subscribe("kelpie:wake")
    assert subscription.get_message(timeout=5)
    assert sut.reap() == 0
    assert sut.redis.zcard(sut.keys().waiting) == 3
    message = subscription.get_message(timeout=5)
    assert message
    assert message["data"] == b"1 3"
    subscription.close()


def test_the_pause_after_a_failure_doubles(sut: StoreUnderTest) -> None:
    job = sut.submit_one(retry_backoff_s=60, max_failures=9)
    for failures in range(1, 4):
        fail(sut, sut.lease(f"node-{failures}"))
        pause_ms = MINUTE_MS * 2 ** (failures - 1)
        assert sut.get(job).due == sut.now + pause_ms
        sut.advance(pause_ms - 1)
        assert sut.poll("another") is None
        sut.advance(1)


def test_the_pause_is_a_day_at_most(sut: StoreUnderTest) -> None:
    job = sut.submit_one(retry_backoff_s=24 * 3600, max_failures=9)
    fail(sut, sut.lease("a"))
    sut.store.requeue(job.id)
    fail(sut, sut.lease("b"))
    assert sut.get(job).due == sut.now + 24 * 3600 * 1000


@pytest.mark.parametrize("outcome", [Outcome.RELEASED, None])
def test_what_is_no_failure_makes_no_pause(sut: StoreUnderTest, outcome: Outcome | None) -> None:
    sut.submit_one(retry_backoff_s=3600)
    lease = sut.lease()
    if outcome is None:
        sut.expire(lease)
    else:
        sut.store.finish(lease.job.id, holder_of(lease), outcome)
    assert sut.poll("another") is not None


def test_a_node_banned_from_a_delayed_job_gets_the_next_one(sut: StoreUnderTest) -> None:
    sut.submit_one(retry_backoff_s=30, max_failures=9)
    fail(sut, sut.lease("bad"))
    other = sut.submit_one()
    assert sut.lease("bad").job.id == other.id
    sut.advance(30_000)
    assert sut.poll("bad") is None


def test_an_attempt_that_runs_for_too_long_has_failed(sut: StoreUnderTest) -> None:
    job = sut.submit_one(max_runtime_s=60, max_failures=2)
    lease = sut.lease("slow")
    for _ in range(2):
        sut.advance(29_000)
        assert sut.store.heartbeat(job.id, holder_of(lease)).status is JobStatus.RUNNING
    sut.advance(2000)
    reply = sut.store.heartbeat(job.id, holder_of(lease))
    assert (reply.status, reply.reason) == (JobStatus.CANCELED, "max_runtime")
    assert sut.store.heartbeat(job.id, holder_of(lease)).reason == "closed"
    now = sut.get(job)
    assert (now.num_failures, now.banned_nodes, now.status) == (1, ("slow",), JobStatus.RUNNING)
    (attempt,) = sut.store.attempts(job.id)
    assert (attempt.outcome, attempt.reason) == (Outcome.APP_FAILED, "it ran for longer than max_runtime_s")
    # Every attempt has the whole time; the last failure ends the job.
    again = sut.lease("slower")
    sut.advance(59_999)
    assert sut.store.heartbeat(job.id, holder_of(again)).status is JobStatus.RUNNING
    sut.advance(1)
    assert sut.store.heartbeat(job.id, holder_of(again)).reason == "max_runtime"
    assert sut.get(job).status is JobStatus.FAILED


def test_another_node_hears_at_once_of_a_job_that_ran_for_too_long(sut: StoreUnderTest) -> None:
    if not sut.real:
        pytest.skip("fakeredis publishes nothing from scripts")
    job = sut.submit_one(max_runtime_s=20)
    lease = sut.lease("slow")
    sut.advance(20_000)
    subscription = sut.redis.pubsub()
    subscription.subscribe("kelpie:wake")
    assert subscription.get_message(timeout=5)
    assert sut.store.heartbeat(job.id, holder_of(lease)).reason == "max_runtime"
    message = subscription.get_message(timeout=5)
    assert message
    assert message["data"] == b"1 1"
    subscription.close()


def test_a_clock_that_jumps_forward_ends_no_attempt(sut: StoreUnderTest) -> None:
    job = sut.submit_one(max_runtime_s=600)
    lease = sut.lease()
    sut.jump(3_600_000)
    assert sut.store.heartbeat(job.id, holder_of(lease)).status is JobStatus.RUNNING


@pytest.mark.parametrize(
    "bad",
    [{"retry_backoff_s": -1}, {"retry_backoff_s": 86_401}, {"max_runtime_s": -5}, {"not_before": 2**60}],
)
def test_times_out_of_bounds_are_refused(sut: StoreUnderTest, bad: dict[str, int]) -> None:
    with pytest.raises(InvalidInputError):
        sut.submit_one(**bad)
    assert sut.list() == []


def test_only_queues_with_leased_or_delayed_jobs_need_the_reaper(sut: StoreUnderTest) -> None:
    sut.submit(1, container_group_id="idle")
    sut.submit(1, container_group_id="delayed", not_before=START_MS + MINUTE_MS)
    sut.submit(1, container_group_id="leased")
    assert sut.poll(group="leased")
    assert [queue.container_group_id for queue in sut.store.with_leases()] == ["delayed", "leased"]
