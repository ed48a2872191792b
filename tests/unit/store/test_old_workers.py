"""Workers that know no leases and show a user's key: they look like their user, who may report by hand."""

from __future__ import annotations

import pytest

from kelpie.errors import LeaseLostError
from kelpie.job import JobStatus, Outcome
from tests.unit.store.conftest import StoreUnderTest, holder_of, old_holder_of


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.APP_FAILED])
def test_an_earlier_attempt_cannot_pass_for_its_user_while_nobody_holds_the_job(
    sut: StoreUnderTest, outcome: Outcome
) -> None:
    job = sut.submit_one()
    first = sut.lease("node-1")
    sut.expire(first)
    second = sut.lease("node-2")
    sut.expire(second)
    before = sut.state()
    with pytest.raises(LeaseLostError) as error:
        sut.store.finish(job.id, old_holder_of(first), outcome)
    assert error.value.reason == "superseded"
    assert sut.state() == before
    # The last one may: nobody has taken the job from it.
    assert sut.store.finish(job.id, old_holder_of(second), Outcome.COMPLETED).status is JobStatus.COMPLETED


def test_an_attempt_whose_record_is_gone_cannot_pass_for_its_user_either(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    first = sut.lease("node-1")
    sut.store.finish(job.id, holder_of(first), Outcome.RELEASED)
    second = sut.lease("node-2")
    sut.store.finish(job.id, holder_of(second), Outcome.RELEASED)
    sut.redis.ltrim(sut.keys().attempts(job.id), -1, -1)
    with pytest.raises(LeaseLostError) as error:
        sut.store.finish(job.id, old_holder_of(first), Outcome.COMPLETED)
    assert error.value.reason == "superseded"


def test_an_attempt_whose_record_is_gone_cannot_pass_for_its_user_while_a_later_one_has_expired(
    sut: StoreUnderTest,
) -> None:
    job = sut.submit_one()
    first = sut.lease("node-1")
    sut.store.finish(job.id, holder_of(first), Outcome.RELEASED)
    second = sut.lease("node-2")
    sut.store.finish(job.id, holder_of(second), Outcome.RELEASED)
    sut.expire(sut.lease("node-3"))
    sut.redis.ltrim(sut.keys().attempts(job.id), -1, -1)
    with pytest.raises(LeaseLostError) as error:
        sut.store.finish(job.id, old_holder_of(first), Outcome.COMPLETED)
    assert error.value.reason == "superseded"


def test_a_clock_that_goes_back_keeps_a_dead_nodes_job_for_one_lease_at_most(sut: StoreUnderTest) -> None:
    job = sut.submit_one(heartbeat_interval=1)
    lease = sut.lease()
    sut.redis.pexpire(f"{sut.keys().prefix}heartbeat:{job.id}", 3_600_000)
    sut.advance(lease.job.spec.lease_ms)
    assert sut.reap() == 0
    assert 0 < sut.redis.pttl(f"{sut.keys().prefix}heartbeat:{job.id}") <= lease.job.spec.lease_ms
