"""Messages that come late, twice, from the wrong node, or never: the fault table of the lease protocol."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kelpie.errors import ConflictError, InvalidInputError, LeaseLostError, NotFoundError
from kelpie.job import Holder, JobStatus, Lease, Outcome
from tests.factories import spec
from tests.unit.store.conftest import OTHER_USER, USER, StoreUnderTest, holder_of, old_holder_of

Shown = Callable[[Lease], Holder]
REPORTS = [Outcome.COMPLETED, Outcome.APP_FAILED, Outcome.SYNC_FAILED, Outcome.RELEASED]
BY_HAND = Holder("a-laptop", may_report_unheld=True)


def refused(sut: StoreUnderTest, lease: Lease, outcome: Outcome, holder: Holder | None = None) -> str:
    """Why a report is refused; also sees that it changed nothing."""
    before = sut.state()
    with pytest.raises(LeaseLostError) as error:
        sut.store.finish(lease.job.id, holder or holder_of(lease), outcome)
    assert sut.state() == before
    return error.value.reason


@pytest.fixture(params=[holder_of, old_holder_of], ids=["by lease", "by node"])
def shown(request: pytest.FixtureRequest) -> Shown:
    """How the caller shows that it holds the job."""
    shown: Shown = request.param
    return shown


@pytest.mark.parametrize("outcome", REPORTS)
def test_a_report_after_the_lease_expired_is_accepted_if_nobody_took_the_job(
    sut: StoreUnderTest, shown: Shown, outcome: Outcome
) -> None:
    job = sut.submit_one(max_failures=2)
    lease = sut.lease()
    sut.expire(lease)
    reply = sut.store.finish(job.id, shown(lease), outcome)
    assert reply.status is (JobStatus.COMPLETED if outcome is Outcome.COMPLETED else JobStatus.RUNNING)
    assert reply.num_failures == (outcome in (Outcome.APP_FAILED, Outcome.SYNC_FAILED))
    assert [a.outcome for a in sut.store.attempts(job.id)] == [outcome]


@pytest.mark.parametrize("outcome", REPORTS)
def test_a_report_of_an_older_attempt_is_refused_and_changes_nothing(
    sut: StoreUnderTest, shown: Shown, outcome: Outcome
) -> None:
    sut.submit_one()
    old = sut.lease("node-1")
    sut.expire(old)
    sut.lease("node-2")
    assert refused(sut, old, outcome, shown(old)) == "superseded"


def test_a_heartbeat_of_an_older_attempt_is_told_so_and_changes_nothing(
    sut: StoreUnderTest, shown: Shown
) -> None:
    sut.submit_one()
    old = sut.lease("node-1")
    sut.expire(old)
    sut.lease("node-2")
    before = sut.state()
    reply = sut.store.heartbeat(old.job.id, shown(old))
    assert (reply.status, reply.reason, reply.lease_expires) == (JobStatus.CANCELED, "superseded", None)
    assert sut.state() == before


@pytest.mark.parametrize("first", [Outcome.APP_FAILED, Outcome.SYNC_FAILED, Outcome.RELEASED])
def test_a_repeated_report_of_an_older_attempt_is_refused_once_a_newer_exists(
    sut: StoreUnderTest, first: Outcome
) -> None:
    sut.submit_one(max_failures=5)
    old = sut.lease("node-1")
    sut.store.finish(old.job.id, holder_of(old), first)
    sut.lease("node-2")
    assert refused(sut, old, first) == "superseded"


@pytest.mark.parametrize("max_failures", [1, 3])
@pytest.mark.parametrize("outcome", REPORTS)
def test_the_same_report_twice_has_one_effect_and_the_same_answer(
    sut: StoreUnderTest, shown: Shown, outcome: Outcome, max_failures: int
) -> None:
    job = sut.submit_one(max_failures=max_failures)
    lease = sut.lease()
    first = sut.store.finish(job.id, shown(lease), outcome, exit_code=1)
    before = sut.state()
    assert sut.store.finish(job.id, shown(lease), outcome, exit_code=1) == first
    assert sut.state() == before


@pytest.mark.parametrize("max_failures", [1, 3])
@pytest.mark.parametrize(
    ("first", "second"), [(a, b) for a in REPORTS for b in REPORTS if a is not b], ids=str
)
def test_another_report_of_the_same_attempt_is_refused_and_the_first_stands(
    sut: StoreUnderTest, shown: Shown, first: Outcome, second: Outcome, max_failures: int
) -> None:
    sut.submit_one(max_failures=max_failures)
    lease = sut.lease()
    status = sut.store.finish(lease.job.id, shown(lease), first).status
    expected = "closed" if status is JobStatus.RUNNING else str(status)
    assert refused(sut, lease, second, shown(lease)) == expected


@pytest.mark.parametrize("outcome", REPORTS)
def test_canceled_stands_whatever_is_reported_after_it(
    sut: StoreUnderTest, shown: Shown, outcome: Outcome
) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    sut.store.cancel(job.id)
    assert refused(sut, lease, outcome, shown(lease)) == "canceled"


def test_anything_about_a_deleted_job_is_not_found(sut: StoreUnderTest, shown: Shown) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    sut.store.purge(job.id)
    before = sut.state()
    with pytest.raises(NotFoundError):
        sut.store.heartbeat(job.id, shown(lease))
    for outcome in REPORTS:
        with pytest.raises(NotFoundError):
            sut.store.finish(job.id, shown(lease), outcome)
    assert sut.state() == before


def test_a_heartbeat_after_the_attempt_was_closed_is_told_so(sut: StoreUnderTest, shown: Shown) -> None:
    job = sut.submit_one(max_failures=2)
    lease = sut.lease()
    sut.store.finish(job.id, shown(lease), Outcome.APP_FAILED)
    assert sut.store.heartbeat(job.id, shown(lease)).reason == "closed"
    lease = sut.lease("node-2")
    sut.store.finish(job.id, shown(lease), Outcome.COMPLETED)
    reply = sut.store.heartbeat(job.id, shown(lease))
    assert (reply.status, reply.reason) == (JobStatus.CANCELED, "completed")


@pytest.mark.parametrize("outcome", REPORTS)
@pytest.mark.parametrize(
    "thief",
    [Holder("node-9"), Holder("node-9", may_report_unheld=True), Holder("node-1", lease="0" * 64)],
    ids=["another node", "a user", "a wrong lease"],
)
def test_who_does_not_hold_a_held_job_is_refused(
    sut: StoreUnderTest, thief: Holder, outcome: Outcome
) -> None:
    lease_job = sut.submit_one()
    lease = sut.lease("node-1")
    assert refused(sut, lease, outcome, thief) == "not_holder"
    reply = sut.store.heartbeat(lease_job.id, thief)
    assert (reply.status, reply.reason) == (JobStatus.CANCELED, "not_holder")


def test_the_lease_alone_is_judged_where_it_is_shown(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease("node-1")
    renamed = Holder("another-name", lease=lease.secret)
    assert sut.store.heartbeat(job.id, renamed).status is JobStatus.RUNNING
    reply = sut.store.finish(job.id, renamed, Outcome.APP_FAILED)
    assert reply.node_bans == 1
    assert sut.get(job).banned_nodes == ("node-1",)


# Polls


def test_a_poll_repeated_with_the_same_request_id_gets_the_same_lease_again(sut: StoreUnderTest) -> None:
    sut.submit(2)
    first = sut.lease("node-1", "a-request-id-1234567")
    before = sut.state()
    again = sut.lease("node-1", "a-request-id-1234567")
    assert (again.job.id, again.job.attempt, again.secret, again.fence) == (
        first.job.id,
        first.job.attempt,
        first.secret,
        first.fence,
    )
    assert sut.state() == before


def test_of_polls_at_once_each_gets_at_most_one_job_and_no_job_goes_out_twice(sut: StoreUnderTest) -> None:
    polls = 5000 if sut.real else 300  # fakeredis is slow, and runs one command at a time anyhow
    jobs = sut.submit(polls // 5)
    with ThreadPoolExecutor(16) as threads:
        leases = list(threads.map(lambda n: sut.poll(f"node-{n}", f"request-{n:08}"), range(polls)))
    given = [lease.job.id for lease in leases if lease is not None]
    assert sorted(given) == sorted(job.id for job in jobs)


# Submits


def test_a_submit_repeated_with_the_same_idempotency_key_is_the_same_job(sut: StoreUnderTest) -> None:
    first = sut.store.submit(USER, [spec()], idempotency_key="my-key")
    before = sut.state()
    again = sut.store.submit(USER, [spec()], idempotency_key="my-key")
    assert [job.id for job in again] == [job.id for job in first]
    assert sut.state() == before
    sut.lease()
    [now] = sut.store.submit(USER, [spec()], idempotency_key="my-key")
    assert now.status is JobStatus.RUNNING


def test_another_submit_under_the_same_idempotency_key_is_a_conflict(sut: StoreUnderTest) -> None:
    sut.store.submit(USER, [spec()], idempotency_key="my-key")
    before = sut.state()
    for other in ([spec(command="false")], [spec(), spec()], [spec(container_group_id="another")]):
        with pytest.raises(ConflictError):
            sut.store.submit(USER, other, idempotency_key="my-key")
    assert sut.state() == before
    [mine] = sut.store.submit(OTHER_USER, [spec(command="false")], idempotency_key="my-key")
    assert mine.user_id == OTHER_USER


# Reports by hand


def test_a_user_may_complete_a_pending_job_by_hand(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    assert sut.store.finish(job.id, BY_HAND, Outcome.COMPLETED).status is JobStatus.COMPLETED
    before = sut.state()
    assert sut.store.finish(job.id, BY_HAND, Outcome.COMPLETED).status is JobStatus.COMPLETED
    assert sut.state() == before
    ended = sut.get(job)
    assert (ended.completed, ended.attempt, ended.machine_id) == (sut.now, 0, None)
    assert sut.poll() is None


def test_a_user_may_complete_a_job_whose_lease_expired(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    sut.expire(lease)
    sut.store.finish(job.id, BY_HAND, Outcome.COMPLETED)
    assert [a.outcome for a in sut.store.attempts(job.id)] == [Outcome.SUPERSEDED]
    assert refused(sut, lease, Outcome.APP_FAILED) == "completed"


def test_failures_by_hand_count_and_leave_the_job_pending_until_max_failures(sut: StoreUnderTest) -> None:
    job = sut.submit_one(max_failures=2)
    first = sut.store.finish(job.id, BY_HAND, Outcome.APP_FAILED)
    assert (first.status, first.num_failures, first.node_bans) == (JobStatus.PENDING, 1, 0)
    assert sut.lease("a-laptop").job.id == job.id  # it never ran there: no ban
    sut.store.finish(job.id, Holder("a-laptop"), Outcome.RELEASED)
    last = sut.store.finish(job.id, Holder("b", may_report_unheld=True), Outcome.SYNC_FAILED)
    assert (last.status, last.num_failures) == (JobStatus.FAILED, 2)


def test_a_failure_by_hand_leaves_an_expired_attempt_open_to_its_node(sut: StoreUnderTest) -> None:
    job = sut.submit_one(max_failures=3)
    lease = sut.lease()
    sut.expire(lease)
    assert sut.store.finish(job.id, BY_HAND, Outcome.APP_FAILED).num_failures == 1
    assert sut.store.finish(job.id, holder_of(lease), Outcome.COMPLETED).status is JobStatus.COMPLETED


def test_the_last_failure_by_hand_ends_an_expired_attempt(sut: StoreUnderTest) -> None:
    job = sut.submit_one(max_failures=1)
    lease = sut.lease()
    sut.expire(lease)
    assert sut.store.finish(job.id, BY_HAND, Outcome.APP_FAILED).status is JobStatus.FAILED
    assert [a.outcome for a in sut.store.attempts(job.id)] == [Outcome.SUPERSEDED]
    assert sut.redis.hlen(sut.keys().grants) == 0
    assert refused(sut, lease, Outcome.COMPLETED) == "failed"


def test_a_stranger_of_an_ended_job_is_told_how_it_ended(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease("node-1")
    sut.store.finish(job.id, holder_of(lease), Outcome.COMPLETED)
    stranger = Holder("node-9")
    reply = sut.store.heartbeat(job.id, stranger)
    assert (reply.status, reply.reason) == (JobStatus.CANCELED, "completed")
    assert refused(sut, lease, Outcome.APP_FAILED, stranger) == "completed"


def test_a_report_by_hand_whose_reply_was_lost_counts_once(
    sut: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sut.submit_one()
    run = sut.redis.evalsha

    def twice(*args: Any) -> Any:  # as a client does that lost the first reply
        run(*args)
        return run(*args)

    sut.store.finish(job.id, BY_HAND, Outcome.APP_FAILED)
    monkeypatch.setattr(sut.redis, "evalsha", twice)
    reply = sut.store.finish(job.id, BY_HAND, Outcome.APP_FAILED)
    assert reply.num_failures == 2


@pytest.mark.parametrize("outcome", REPORTS)
def test_a_node_may_not_report_on_a_job_that_nobody_holds(sut: StoreUnderTest, outcome: Outcome) -> None:
    job = sut.submit_one()
    before = sut.state()
    with pytest.raises(LeaseLostError) as error:
        sut.store.finish(job.id, Holder("node-1"), outcome)
    assert error.value.reason == "not_holder"
    assert sut.state() == before


def test_nobody_releases_by_hand_what_nobody_holds(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    with pytest.raises(LeaseLostError):
        sut.store.finish(job.id, BY_HAND, Outcome.RELEASED)


@pytest.mark.parametrize("outcome", [Outcome.INTERRUPTED, Outcome.CANCELED, Outcome.SUPERSEDED])
def test_outcomes_that_only_the_store_finds_are_not_reported(sut: StoreUnderTest, outcome: Outcome) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    with pytest.raises(InvalidInputError):
        sut.store.finish(job.id, holder_of(lease), outcome)


def test_a_node_that_comes_back_to_a_job_whose_failure_by_hand_made_it_pause_keeps_it(
    sut: StoreUnderTest, shown: Shown
) -> None:
    job = sut.submit_one(max_failures=3, retry_backoff_s=60)
    lease = sut.lease("node-1")
    sut.expire(lease)
    sut.store.finish(job.id, BY_HAND, Outcome.APP_FAILED)
    assert sut.get(job).due is not None
    assert sut.store.heartbeat(job.id, shown(lease)).reason is None
    sut.advance(50_000)
    sut.store.heartbeat(job.id, shown(lease))
    sut.advance(50_000)  # the pause is over: nobody else may have the job
    sut.store.heartbeat(job.id, shown(lease))
    assert sut.poll("node-2") is None
    assert (sut.get(job).held, sut.get(job).due) == (True, None)
    assert sut.store.requeue(job.id).held
    assert sut.poll("node-2") is None


def test_the_pause_after_a_failure_by_hand_does_not_bring_a_delayed_job_forward(sut: StoreUnderTest) -> None:
    later = sut.now + 3_600_000
    job = sut.submit_one(not_before=later, retry_backoff_s=1)
    sut.store.finish(job.id, BY_HAND, Outcome.APP_FAILED)
    assert sut.get(job).due == later
    sut.jump(3_599_999)
    assert sut.poll() is None
    sut.jump(1)
    assert sut.lease().job.id == job.id
