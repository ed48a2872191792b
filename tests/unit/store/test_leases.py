"""Which job a node is given, and for how long it is his."""

from __future__ import annotations

import random

import pytest

from kelpie.errors import InvalidInputError, LeaseLostError
from kelpie.job import Holder, JobStatus, Lease, Outcome
from tests.factories import GROUP, spec
from tests.unit.store.conftest import START_MS, USER, StoreUnderTest, holder_of, old_holder_of


def fail(sut: StoreUnderTest, lease: Lease, outcome: Outcome = Outcome.APP_FAILED) -> None:
    sut.store.finish(lease.job.id, holder_of(lease), outcome)


# Order


def test_an_empty_queue_gives_nothing(sut: StoreUnderTest) -> None:
    assert sut.poll() is None
    assert sut.store.queues() == []  # a poll makes no queue


def test_the_oldest_job_comes_first(sut: StoreUnderTest) -> None:
    jobs = sut.submit(5)
    assert [sut.lease().job.id for _ in jobs] == [job.id for job in jobs]
    assert sut.poll() is None


def test_priority_goes_before_age(sut: StoreUnderTest) -> None:
    order = [3, 255, 0, 3, 7]
    jobs = sut.store.submit(USER, [spec(priority=priority) for priority in order])
    assert [sut.lease().job.id for _ in jobs] == [jobs[i].id for i in (1, 4, 0, 3, 2)]


def test_a_resumed_job_goes_before_every_job_that_never_started(sut: StoreUnderTest) -> None:
    resumed = sut.submit_one()
    lease = sut.lease()
    sut.submit(1, priority=255)
    fail(sut, lease, Outcome.RELEASED)
    assert sut.lease().job.id == resumed.id


def test_jobs_that_come_back_keep_their_place(sut: StoreUnderTest) -> None:
    jobs = sut.submit(4)
    leases = [sut.lease() for _ in jobs]
    for i in (2, 0, 3, 1):
        fail(sut, leases[i], Outcome.RELEASED)
    assert [sut.lease().job.id for _ in jobs] == [job.id for job in jobs]


def test_a_lease_shows_the_job_as_it_is_from_then_on(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    sut.advance(700)
    lease = sut.lease("node-7")
    assert lease.job == sut.get(job)
    assert (lease.job.status, lease.job.machine_id, lease.job.attempt) == (JobStatus.RUNNING, "node-7", 1)
    assert (lease.job.started, lease.job.heartbeat, lease.job.held) == (START_MS + 700, START_MS + 700, True)
    assert lease.expires == START_MS + 700 + job.spec.lease_ms
    (attempt,) = sut.store.attempts(job.id)
    assert (attempt.attempt, attempt.node, attempt.start) == (1, "node-7", START_MS + 700)
    assert (attempt.end, attempt.outcome) == (None, None)


def test_attempts_and_fences_rise(sut: StoreUnderTest) -> None:
    sut.submit(2)
    fences = []
    for number in range(1, 5):
        lease = sut.lease()
        assert lease.job.attempt == number
        fences.append(lease.fence)
        fail(sut, lease, Outcome.RELEASED)
        sut.jump(-1000)  # also when the server's clock goes back
    assert fences == sorted(set(fences))


@pytest.mark.parametrize("node", ["", "a\nb", "x" * 257])
def test_an_unfit_node_name_is_refused(sut: StoreUnderTest, node: str) -> None:
    job = sut.submit_one()
    before = sut.state()
    with pytest.raises(InvalidInputError):
        sut.poll(node)
    with pytest.raises(InvalidInputError):
        sut.store.heartbeat(job.id, Holder(node))
    with pytest.raises(InvalidInputError):
        sut.store.finish(job.id, Holder(node, may_report_unheld=True), Outcome.COMPLETED)
    assert sut.state() == before


# Bans


def test_a_node_banned_from_the_five_oldest_gets_the_sixth(sut: StoreUnderTest) -> None:
    jobs = sut.submit(6)
    for _ in range(5):
        fail(sut, sut.lease("bad"))
    assert sut.lease("bad").job.id == jobs[5].id
    assert sut.poll("bad") is None
    assert [sut.lease("good").job.id for _ in range(5)] == [job.id for job in jobs[:5]]


@pytest.mark.parametrize("seed", range(6))
def test_bans_never_hide_an_eligible_job(sut: StoreUnderTest, seed: int) -> None:
    chance = random.Random(seed)
    jobs = sut.submit(40, max_failures=100)
    leases = [sut.lease("first") for _ in jobs]
    banned: set[str] = set()
    for lease in leases:
        if chance.random() < 0.8:
            fail(sut, lease)
            banned.add(lease.job.id)
        else:
            fail(sut, lease, Outcome.RELEASED)
    # some banned jobs are leased to another node meanwhile, and are not among the waiting
    away = [sut.lease("other") for _ in range(chance.randrange(10))]
    gone = {lease.job.id for lease in away}
    wanted = [job.id for job in jobs if job.id not in banned and job.id not in gone]
    assert [sut.lease("first").job.id for _ in wanted] == wanted
    assert sut.poll("first") is None
    assert sut.redis.zcard(sut.keys().bans("first")) == len(banned)


def test_a_ban_lasts_through_leases_to_other_nodes(sut: StoreUnderTest) -> None:
    sut.submit(1, max_failures=10)
    fail(sut, sut.lease("a"))
    lease = sut.lease("b")
    sut.expire(lease)
    assert sut.poll("a") is None
    sut.store.heartbeat(lease.job.id, holder_of(lease))  # revived
    fail(sut, lease)
    assert sut.poll("a") is None
    assert sut.poll("b") is None
    assert sut.lease("c").job.banned_nodes == ("a", "b")


def test_live_bans_are_counted_and_end_with_their_job(sut: StoreUnderTest) -> None:
    jobs = sut.submit(6, max_failures=2)
    counts = []
    for _ in jobs:
        lease = sut.lease("bad")
        reply = sut.store.finish(lease.job.id, holder_of(lease), Outcome.SYNC_FAILED)
        counts.append((reply.node_bans, reply.reallocate))
    assert counts == [(1, False), (2, False), (3, False), (4, False), (5, True), (6, True)]
    sut.store.cancel(jobs[0].id)
    sut.store.purge(jobs[1].id)
    done = sut.lease("good")
    fail(sut, done, Outcome.COMPLETED)
    last = sut.lease("good")
    assert sut.store.finish(last.job.id, holder_of(last), Outcome.APP_FAILED).status is JobStatus.FAILED
    assert sut.redis.zcard(sut.keys().bans("bad")) == 2
    assert sut.redis.zcard(sut.keys().bans("good")) == 0


# Failures


def test_failures_count_until_max_failures(sut: StoreUnderTest) -> None:
    job = sut.submit_one(max_failures=3)
    for number, outcome in enumerate((Outcome.APP_FAILED, Outcome.SYNC_FAILED), start=1):
        lease = sut.lease(f"node-{number}")
        reply = sut.store.finish(job.id, holder_of(lease), outcome, exit_code=number, reason="why")
        assert (reply.status, reply.num_failures) == (JobStatus.RUNNING, number)
    lease = sut.lease("node-3")
    sut.advance(10)
    reply = sut.store.finish(job.id, holder_of(lease), Outcome.APP_FAILED, exit_code=-9)
    assert (reply.status, reply.num_failures, reply.node_bans) == (JobStatus.FAILED, 3, 0)
    ended = sut.get(job)
    assert (ended.status, ended.failed, ended.held) == (JobStatus.FAILED, START_MS + 10, False)
    attempts = sut.store.attempts(job.id)
    assert [(a.attempt, a.outcome, a.exit_code, a.reason) for a in attempts] == [
        (1, Outcome.APP_FAILED, 1, "why"),
        (2, Outcome.SYNC_FAILED, 2, "why"),
        (3, Outcome.APP_FAILED, -9, None),
    ]
    assert sut.poll("node-4") is None


def test_releases_and_interruptions_never_count(sut: StoreUnderTest) -> None:
    job = sut.submit_one(max_failures=1)
    for _ in range(3):
        fail(sut, sut.lease("node-1"), Outcome.RELEASED)
        sut.expire(sut.lease("node-1"))
    now = sut.get(job)
    assert (now.status, now.num_failures, now.banned_nodes) == (JobStatus.RUNNING, 0, ())
    assert [a.outcome for a in sut.store.attempts(job.id)] == [Outcome.RELEASED, Outcome.INTERRUPTED] * 3


def test_the_attempts_that_are_kept_are_bounded(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    for _ in range(3):
        fail(sut, sut.lease(), Outcome.RELEASED)
    record = sut.redis.lindex(sut.keys().attempts(job.id), 0)
    assert record is not None
    sut.redis.rpush(sut.keys().attempts(job.id), *[record] * 1000)
    fail(sut, sut.lease(), Outcome.RELEASED)
    attempts = sut.store.attempts(job.id)
    assert len(attempts) == 1000
    assert attempts[-1].attempt == 4


# Expiry and heartbeats


def test_a_lease_lasts_two_heartbeat_intervals(sut: StoreUnderTest) -> None:
    sut.submit(1, heartbeat_interval=30)
    sut.lease()
    sut.advance(59_999)
    assert sut.poll("node-2") is None
    sut.advance(1)
    assert sut.lease("node-2").job.attempt == 2


def test_heartbeats_keep_a_lease(sut: StoreUnderTest) -> None:
    job = sut.submit_one(heartbeat_interval=30)
    lease = sut.lease()
    for _ in range(5):
        sut.advance(50_000)
        reply = sut.store.heartbeat(job.id, holder_of(lease))
        assert (reply.status, reply.reason) == (JobStatus.RUNNING, None)
        assert reply.lease_expires == sut.now + 60_000
        assert sut.poll("node-2") is None
    assert sut.get(job).heartbeat == sut.now


def test_an_interrupted_attempt_ends_when_its_lease_expired(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    sut.advance(90_000)
    assert sut.reap() == 1
    waiting = sut.get(job)
    assert (waiting.status, waiting.held) == (JobStatus.RUNNING, False)
    expected = [(1, Outcome.INTERRUPTED, START_MS + 60_000)]
    assert [(a.attempt, a.outcome, a.end) for a in sut.store.attempts(job.id)] == expected
    sut.advance(1000)
    sut.lease("node-2")
    attempts = [(a.attempt, a.outcome, a.end) for a in sut.store.attempts(job.id)]
    assert attempts == [*expected, (2, None, None)]
    assert sut.store.heartbeat(job.id, holder_of(lease)).reason == "superseded"


def test_a_late_heartbeat_revives_a_lease_that_nobody_took(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    sut.expire(lease)
    assert sut.store.heartbeat(job.id, holder_of(lease)).status is JobStatus.RUNNING
    assert sut.get(job).held
    assert sut.poll("node-2") is None
    (attempt,) = sut.store.attempts(job.id)
    assert (attempt.outcome, attempt.end) == (None, None)


def test_a_live_heartbeat_key_holds_the_lease_past_its_deadline(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    sut.lease()
    sut.advance(70_000)
    sut.redis.set(sut.keys().heartbeat(job.id), "1 node-1", px=10_000)
    assert sut.reap() == 0
    sut.advance(11_000)
    assert sut.reap() == 1


def test_heartbeats_are_counted_once_per_interval(sut: StoreUnderTest) -> None:
    job = sut.submit_one(heartbeat_interval=30)
    lease = sut.lease()
    for _ in range(30):  # a worker that beats three times per interval, for ten intervals
        sut.advance(10_000)
        sut.store.heartbeat(job.id, holder_of(lease))
    assert sut.get(job).num_heartbeats == 10
    sut.store.finish(job.id, holder_of(lease), Outcome.RELEASED)
    old_worker = sut.lease("node-2")
    for _ in range(5):  # one that beats once per interval
        sut.advance(30_000)
        sut.store.heartbeat(job.id, old_holder_of(old_worker))
    assert sut.get(job).num_heartbeats == 15


@pytest.mark.parametrize("jump_ms", [3_600_000, -3_600_000, 30_000])
def test_a_jump_of_the_clock_expires_nobody(sut: StoreUnderTest, jump_ms: int) -> None:
    jobs = sut.submit(20, heartbeat_interval=15)
    leases = [sut.lease(f"node-{i}") for i in range(20)]
    sut.jump(jump_ms)
    assert sut.reap() == 0
    for lease in leases:
        assert sut.store.heartbeat(lease.job.id, holder_of(lease)).status is JobStatus.RUNNING
    assert all(sut.get(job).held for job in jobs)


def test_leases_expire_in_time_after_the_clock_went_back(sut: StoreUnderTest) -> None:
    sut.submit(1, heartbeat_interval=30)
    sut.lease()
    sut.jump(-3_600_000)
    assert sut.reap() == 0
    sut.advance(60_000)
    assert sut.reap() == 1


def test_after_an_outage_every_holder_has_nearly_a_full_lease_to_report(sut: StoreUnderTest) -> None:
    sut.submit(1, heartbeat_interval=30)
    sut.lease()
    sut.jump(10_000_000)
    assert sut.reap() == 0  # the server is back
    sut.advance(54_999)
    assert sut.reap() == 0
    sut.advance(1)
    assert sut.reap() == 1


def test_a_reap_is_bounded(sut: StoreUnderTest) -> None:
    sut.submit(120)
    for i in range(120):
        sut.lease(f"node-{i}")
    sut.advance(60_000)
    assert [sut.reap() for _ in range(4)] == [50, 50, 20, 0]


# Lost replies


def test_the_same_poll_again_gets_the_same_lease(sut: StoreUnderTest) -> None:
    sut.submit(3)
    first = sut.lease(request_id="a" * 20)
    sut.advance(1000)
    again = sut.lease(request_id="a" * 20)
    assert (again.job.id, again.secret, again.fence) == (first.job.id, first.secret, first.fence)
    assert again.job.attempt == 1
    assert again.expires == first.expires + 1000
    assert sut.lease(request_id="b" * 20).job.id != first.job.id
    assert sut.lease("node-2", request_id="a" * 20).secret != first.secret


def test_the_same_poll_again_after_its_lease_expired_still_gets_it(sut: StoreUnderTest) -> None:
    sut.submit(1)
    first = sut.lease(request_id="a" * 20)
    sut.expire(first)
    again = sut.lease(request_id="a" * 20)
    assert (again.fence, again.job.attempt, again.job.held) == (first.fence, 1, True)


def test_the_same_poll_after_its_attempt_ended_gets_another_job(sut: StoreUnderTest) -> None:
    jobs = sut.submit(2)
    first = sut.lease(request_id="a" * 20)
    fail(sut, first, Outcome.COMPLETED)
    assert sut.lease(request_id="a" * 20).job.id == jobs[1].id


def test_a_poll_that_comes_again_when_its_attempt_is_over_revives_no_lease_of_old(
    sut: StoreUnderTest,
) -> None:
    job = sut.submit_one()
    cut_off = sut.lease("node-1", "a" * 20)
    sut.expire(cut_off)
    other = sut.lease("node-2")
    sut.store.finish(job.id, holder_of(other), Outcome.RELEASED)
    granted = sut.lease("node-1", "a" * 20)  # the network kept it until now
    assert granted.job.attempt == 3
    assert sut.store.heartbeat(job.id, holder_of(cut_off)).reason == "superseded"
    with pytest.raises(LeaseLostError):
        sut.store.finish(job.id, holder_of(cut_off), Outcome.COMPLETED)
    assert sut.store.heartbeat(job.id, holder_of(granted)).reason is None


@pytest.mark.parametrize(
    "mangled", ["{fence}", "{fence}.", ".{secret}", "{secret}", "+{fence}.{secret}", "\udc80.{secret}"]
)
def test_half_a_lease_is_none(sut: StoreUnderTest, mangled: str) -> None:
    job = sut.submit_one()
    fence, _, secret = sut.lease("node-1").secret.partition(".")
    shown = Holder("node-1", mangled.format(fence=fence, secret=secret))
    assert sut.store.heartbeat(job.id, shown).reason == "not_holder"


def test_nothing_secret_is_kept(sut: StoreUnderTest) -> None:
    sut.submit(1)
    request_id = "my-request-id-0123456789"
    lease = sut.lease(request_id=request_id)
    kept = repr(sut.state())
    assert lease.secret.partition(".")[2] not in kept
    assert request_id not in kept
    assert lease.secret.partition(".")[2] not in repr(sut.redis.xrange(sut.keys().events))


def test_a_poll_without_a_request_id_gets_a_random_secret(sut: StoreUnderTest) -> None:
    sut.submit(2)
    assert sut.lease(request_id="").secret != sut.lease(request_id="").secret


def test_queues_are_apart(sut: StoreUnderTest) -> None:
    sut.submit(1)
    assert sut.poll(group="other") is None
    assert sut.poll(group=GROUP) is not None
