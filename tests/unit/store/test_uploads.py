"""What nodes say of their uploads: remembered as long as the lease, and of no job that they do not hold."""

from __future__ import annotations

import pytest

from kelpie.errors import NotFoundError
from kelpie.job import Holder, Outcome, UploadBacklog
from kelpie.store.metrics import QueueFigures
from tests.unit.store.conftest import StoreUnderTest, holder_of

SOME = UploadBacklog(3, 5_000_000_000_000, 12.5)


def figures(sut: StoreUnderTest) -> QueueFigures:
    (queue,) = sut.store.metrics.queues()
    return queue


def test_a_job_and_its_queue_tell_what_its_holder_said_last(sut: StoreUnderTest) -> None:
    sut.submit(3)
    first, second = sut.lease(), sut.lease()
    sut.store.heartbeat(first.job.id, holder_of(first))
    assert sut.store.upload_backlog(first.job.id) is None
    assert figures(sut).uploads == UploadBacklog()
    sut.store.heartbeat(first.job.id, holder_of(first), backlog=SOME)
    sut.store.heartbeat(second.job.id, holder_of(second), backlog=UploadBacklog(1, 7, None))
    assert sut.store.upload_backlog(first.job.id) == SOME
    assert figures(sut).uploads == UploadBacklog(4, SOME.bytes + 7, 12.5)
    sut.store.heartbeat(first.job.id, holder_of(first))  # a beat that says nothing leaves what was said
    assert sut.store.upload_backlog(first.job.id) == SOME
    sut.store.heartbeat(first.job.id, holder_of(first), backlog=UploadBacklog())
    assert sut.store.upload_backlog(first.job.id) is None
    assert figures(sut).uploads == UploadBacklog(1, 7, None)


def test_what_is_said_of_a_job_that_one_does_not_hold_is_not_remembered(sut: StoreUnderTest) -> None:
    sut.submit(1)
    lease = sut.lease()
    sut.store.heartbeat(lease.job.id, Holder("another", "1.not-the-secret"), backlog=SOME)
    assert sut.store.upload_backlog(lease.job.id) is None
    with pytest.raises(NotFoundError):
        sut.store.upload_backlog(lease.job.id, user_id="another user")


def test_it_ends_with_the_lease_and_counts_for_no_job_that_has_ended(sut: StoreUnderTest) -> None:
    sut.submit(1)
    lease = sut.lease()
    sut.store.heartbeat(lease.job.id, holder_of(lease), backlog=SOME)
    left_ms = sut.redis.pttl(sut.keys().backlog(lease.job.id))
    assert 0 < left_ms <= lease.job.spec.lease_ms
    sut.store.finish(lease.job.id, holder_of(lease), Outcome.COMPLETED)
    assert figures(sut).uploads == UploadBacklog()
