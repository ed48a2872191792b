"""What owners do to their jobs: hold, resume, requeue, unban, prioritize, and the end of old ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError
from kelpie.job import Holder, Job, JobStatus, Lease, Outcome
from kelpie.store import Filter
from kelpie.store.codec import names
from tests.unit.store.conftest import OTHER_USER, START_MS, USER, StoreUnderTest, holder_of

HOUR_MS = 3_600_000


def end(sut: StoreUnderTest, lease: Lease, outcome: Outcome = Outcome.APP_FAILED) -> None:
    sut.store.finish(lease.job.id, holder_of(lease), outcome)


def ended(sut: StoreUnderTest, status: JobStatus) -> Job:
    """A job that was leased once and has ended."""
    job = sut.submit_one(max_failures=1)
    lease = sut.lease("ender")
    if status is JobStatus.CANCELED:
        sut.store.cancel(job.id)
    else:
        end(sut, lease, Outcome.COMPLETED if status is JobStatus.COMPLETED else Outcome.APP_FAILED)
    assert sut.get(job).status is status
    return job


# Hold and resume


def test_a_held_job_is_not_leased_until_it_is_resumed(sut: StoreUnderTest) -> None:
    job, other = sut.submit(2)
    held = sut.store.hold(job.id)
    assert (held.on_hold, held.status) == (True, JobStatus.PENDING)
    assert sut.lease().job.id == other.id
    assert sut.poll() is None
    resumed = sut.store.resume(job.id)
    assert not resumed.on_hold
    assert sut.lease().job.id == job.id


def test_holding_and_resuming_twice_changes_nothing_more(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    sut.store.hold(job.id)
    before = sut.state()
    sut.store.hold(job.id)
    assert sut.state() == before
    sut.store.resume(job.id)
    before = sut.state()
    sut.store.resume(job.id)
    assert sut.state() == before


def test_the_node_that_runs_a_held_job_goes_on_and_may_complete_it(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    sut.store.hold(job.id)
    assert sut.store.heartbeat(job.id, holder_of(lease)).status is JobStatus.RUNNING
    end(sut, lease, Outcome.COMPLETED)
    assert sut.get(job).status is JobStatus.COMPLETED


@pytest.mark.parametrize("how", ["released", "app_failed", "expired"])
def test_a_job_held_while_it_runs_stays_held_when_its_attempt_ends(sut: StoreUnderTest, how: str) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    sut.store.hold(job.id)
    if how == "expired":
        sut.expire(lease)
    else:
        end(sut, lease, Outcome(how))
    assert sut.poll("another") is None
    assert sut.get(job).status is JobStatus.RUNNING
    sut.store.resume(job.id)
    assert sut.lease("another").job.id == job.id


def test_a_late_heartbeat_revives_the_lease_of_a_held_job(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    sut.store.hold(job.id)
    sut.expire(lease)
    assert sut.store.heartbeat(job.id, holder_of(lease)).status is JobStatus.RUNNING
    assert sut.redis.zcard(sut.keys().on_hold) == 0
    assert sut.redis.zcard(sut.keys().leased) == 1


def test_a_held_job_keeps_its_bans(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    end(sut, sut.lease("bad"))
    sut.store.hold(job.id)
    sut.store.resume(job.id)
    assert sut.poll("bad") is None
    assert sut.lease("good").job.id == job.id


def test_a_held_job_can_be_canceled_and_deleted(
    sut: StoreUnderTest, leaked_keys: Callable[[], list[bytes]]
) -> None:
    job, other = sut.submit(2)
    sut.store.hold(job.id)
    sut.store.hold(other.id)
    assert sut.store.cancel(job.id).on_hold is False
    sut.store.purge(job.id)
    sut.store.purge(other.id)
    assert leaked_keys() == []


# Requeue


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELED])
def test_a_job_that_failed_or_was_canceled_can_be_requeued(sut: StoreUnderTest, status: JobStatus) -> None:
    job = ended(sut, status)
    again = sut.store.requeue(job.id)
    assert again.status is JobStatus.RUNNING  # it was leased once, so never pending again
    assert (again.num_failures, again.banned_nodes, again.failed, again.canceled) == (0, (), None, None)
    lease = sut.lease("ender")  # the ban is forgotten too
    assert lease.job.attempt == 2
    end(sut, lease, Outcome.COMPLETED)
    assert sut.get(job).status is JobStatus.COMPLETED
    first = Outcome.APP_FAILED if status is JobStatus.FAILED else Outcome.CANCELED
    assert [attempt.outcome for attempt in sut.store.attempts(job.id)] == [first, Outcome.COMPLETED]


def test_a_job_that_was_canceled_before_it_ran_is_pending_again(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    sut.store.cancel(job.id)
    assert sut.store.requeue(job.id).status is JobStatus.PENDING
    assert sut.lease().job.id == job.id


def test_a_completed_job_is_not_requeued(sut: StoreUnderTest) -> None:
    job = ended(sut, JobStatus.COMPLETED)
    before = sut.state()
    with pytest.raises(ConflictError, match="completed"):
        sut.store.requeue(job.id)
    assert sut.state() == before


def test_requeuing_a_live_job_changes_nothing(sut: StoreUnderTest) -> None:
    waiting, running = sut.submit(2)[1], sut.lease().job
    before = sut.state()
    for job in (waiting, running):
        sut.store.requeue(job.id)
    assert sut.state() == before


def test_a_report_of_an_attempt_before_the_requeue_is_refused(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease("old")
    sut.store.cancel(job.id)
    sut.store.requeue(job.id)
    assert sut.store.heartbeat(job.id, holder_of(lease)).reason == "closed"
    with pytest.raises(ConflictError):
        sut.store.finish(job.id, holder_of(lease), Outcome.COMPLETED)
    sut.lease("new")
    assert sut.store.heartbeat(job.id, holder_of(lease)).reason == "superseded"


def test_requeuing_ends_the_pause_after_a_failure(sut: StoreUnderTest) -> None:
    job = sut.submit_one(retry_backoff_s=3600)
    end(sut, sut.lease("bad"))
    assert sut.poll("good") is None
    assert sut.store.requeue(job.id).num_failures == 1  # it goes on, it does not start anew
    assert sut.lease("good").job.id == job.id


# Unban


@pytest.mark.parametrize("node", ["bad", None])
def test_a_node_may_be_given_a_job_again_once_it_is_unbanned(sut: StoreUnderTest, node: str | None) -> None:
    job = sut.submit_one(max_failures=9)
    end(sut, sut.lease("bad"))
    end(sut, sut.lease("worse"))
    unbanned = sut.store.unban(job.id, node=node)
    assert unbanned.banned_nodes == (("worse",) if node else ())
    assert unbanned.num_failures == 2
    assert (sut.poll("worse") is None) == (node is not None)
    if node:
        assert sut.lease("bad").job.id == job.id


def test_unbanning_a_node_that_is_not_banned_changes_nothing(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    end(sut, sut.lease("bad"))
    before = sut.state()
    sut.store.unban(job.id, node="innocent")
    assert sut.state() == before


def test_an_unbanned_node_is_banned_from_one_job_less(sut: StoreUnderTest) -> None:
    jobs = sut.submit(3)
    for _ in jobs:
        end(sut, sut.lease("bad"))
    sut.store.unban(jobs[0].id)
    reply = sut.store.finish(sut.lease("bad").job.id, Holder("bad"), Outcome.APP_FAILED)
    assert reply.node_bans == 3


# Prioritize


def test_a_job_with_a_higher_priority_goes_first_and_keeps_its_age_among_its_equals(
    sut: StoreUnderTest,
) -> None:
    first, second, third, fourth = sut.submit(4)
    assert sut.store.prioritize(fourth.id, 9).spec.priority == 9
    assert sut.store.prioritize(second.id, 9).spec.priority == 9
    assert [job.spec.priority for job in sut.store.search(USER, Filter()).jobs] == [9, 0, 9, 0]
    assert names(sut.redis.zrange(sut.keys().waiting, 0, -1)) == [
        job.id for job in (second, fourth, first, third)
    ]
    sut.store.prioritize(second.id, 0)
    assert [sut.lease(f"node-{n}").job.id for n in range(4)] == [fourth.id, first.id, second.id, third.id]


def test_a_running_job_takes_its_new_priority_to_the_next_node(sut: StoreUnderTest) -> None:
    ran, other = sut.submit(2)
    first, second = sut.lease("node-1"), sut.lease("node-2")
    assert sut.store.prioritize(other.id, 255).held
    for lease in (first, second):
        sut.store.finish(lease.job.id, holder_of(lease), Outcome.RELEASED)
    assert names(sut.redis.zrange(sut.keys().waiting, 0, -1)) == [other.id, ran.id]


@pytest.mark.parametrize("priority", [-1, 256])
def test_a_priority_that_there_is_not_is_refused(sut: StoreUnderTest, priority: int) -> None:
    job = sut.submit_one()
    with pytest.raises(InvalidInputError, match="priority"):
        sut.store.prioritize(job.id, priority)
    assert sut.get(job).spec.priority == 0


# For all of them


CHANGES = ["hold", "resume", "requeue", "unban", "cancel", "prioritize"]
GIVEN = {"prioritize": (9,)}
"""What a change takes beside the job."""


@pytest.mark.parametrize("change", CHANGES)
def test_another_user_cannot_change_a_job(sut: StoreUnderTest, change: str) -> None:
    job = sut.submit_one()
    sut.submit(1, user=OTHER_USER)
    before = sut.state()
    with pytest.raises(NotFoundError):
        getattr(sut.store, change)(job.id, *GIVEN.get(change, ()), user_id=OTHER_USER)
    assert sut.state() == before


@pytest.mark.parametrize("change", ["hold", "resume", "unban", "prioritize"])
@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED])
def test_a_job_that_has_ended_is_not_held_resumed_unbanned_or_prioritized(
    sut: StoreUnderTest, change: str, status: JobStatus
) -> None:
    job = ended(sut, status)
    before = sut.state()
    with pytest.raises(ConflictError, match=status):
        getattr(sut.store, change)(job.id, *GIVEN.get(change, ()))
    assert sut.state() == before


@pytest.mark.parametrize("change", CHANGES)
def test_a_deleted_job_is_not_found(sut: StoreUnderTest, change: str) -> None:
    job = sut.submit_one()
    sut.store.purge(job.id)
    with pytest.raises(NotFoundError):
        getattr(sut.store, change)(job.id, *GIVEN.get(change, ()))


def test_an_unfit_node_is_not_unbanned(sut: StoreUnderTest) -> None:
    with pytest.raises(InvalidInputError):
        sut.store.unban(sut.submit_one().id, node="a\nb")


# Retention


def test_jobs_that_ended_before_a_time_are_deleted_and_no_others(sut: StoreUnderTest) -> None:
    old = [ended(sut, status) for status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED)]
    old_but_live = sut.submit_one()
    sut.store.hold(old_but_live.id)
    old_but_ended_lately = sut.submit_one()
    sut.advance(HOUR_MS)
    sut.store.cancel(old_but_ended_lately.id)
    new = ended(sut, JobStatus.COMPLETED)
    queue = sut.store.find_queue(USER, new.spec.container_group_id)
    assert queue is not None
    assert sut.store.expire(queue, START_MS + 1000) == 3
    assert {job.id for job in sut.list()} == {old_but_live.id, old_but_ended_lately.id, new.id}
    for job in old:
        with pytest.raises(NotFoundError):
            sut.get(job)
    assert sut.store.expire(queue, START_MS + 1000) == 0


def test_many_old_jobs_go_over_several_calls(sut: StoreUnderTest) -> None:
    jobs = sut.submit(450)
    for job in jobs:
        sut.store.cancel(job.id)
    kept = sut.submit_one()
    queue = sut.store.find_queue(USER, kept.spec.container_group_id)
    assert queue is not None
    assert sut.store.expire(queue, sut.now) == 0  # not before now
    assert sut.store.expire(queue, sut.now + 1) == 450
    assert [job.id for job in sut.list()] == [kept.id]
