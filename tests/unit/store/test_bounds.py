"""What the store keeps is bounded, and what it does in pages it does to the end."""

from __future__ import annotations

import random

import pytest

from kelpie.errors import ConflictError
from kelpie.job import JobStatus, Lease, Outcome
from kelpie.store import control
from tests.factories import GROUP
from tests.unit.store.conftest import USER, StoreUnderTest, holder_of

DAY_MS = 24 * 3600 * 1000


def test_the_newest_thousand_jobs_of_a_node_are_known(sut: StoreUnderTest) -> None:
    key = f"{sut.keys().prefix}node:node-1"
    sut.submit(2)
    sut.redis.zadd(key, {f"earlier-{n}": n for n in range(999)})
    first, second = sut.lease("node-1"), sut.lease("node-1")
    kept = [member.decode() for member in sut.redis.zrange(key, 0, -1)]
    assert kept == [*(f"earlier-{n}" for n in range(1, 999)), first.job.id, second.job.id]


def test_the_last_thousand_attempts_of_a_job_are_known(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    key = sut.keys().attempts(job.id)
    sut.redis.rpush(key, *(f"earlier-{n}" for n in range(1000)))
    sut.store.finish(job.id, holder_of(sut.lease()), Outcome.RELEASED)
    assert sut.redis.llen(key) == 1000
    assert sut.redis.lindex(key, 0) == b"earlier-1"


def test_a_node_that_has_not_polled_for_a_day_is_forgotten(sut: StoreUnderTest) -> None:
    sut.submit(1)
    sut.poll("node-1")
    sut.jump(DAY_MS - 1)
    sut.poll("node-2")
    sut.reap()
    assert sut.redis.zrange(sut.keys().polls, 0, -1) == [b"node-1", b"node-2"]
    sut.jump(1)
    sut.reap()
    assert sut.redis.zrange(sut.keys().polls, 0, -1) == [b"node-2"]


@pytest.mark.parametrize("jobs", [1, 2, 3, 4, 5])
def test_what_is_deleted_in_pages_is_deleted_to_the_end(
    sut: StoreUnderTest, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.setattr(control, "CLEAR_LIMIT", 2)
    submitted = sut.submit(jobs)
    sut.jump(1000)
    for job in submitted:
        sut.store.cancel(job.id)
    young = sut.submit_one()
    queue = sut.store.find_queue(USER, GROUP)
    assert queue is not None
    assert sut.store.expire(queue, sut.now) == 0
    sut.jump(1000)
    assert sut.store.expire(queue, sut.now) == jobs
    assert list(sut.redis.scan_iter(match="*:job:*")) == [sut.keys().job(young.id).encode()]
    sut.submit(jobs)
    sut.store.purge_all()
    assert list(sut.redis.scan_iter(match="*:job:*")) == []


def test_events_that_were_passed_on_go_with_all_jobs(sut: StoreUnderTest) -> None:
    sut.submit(3)
    queue = sut.store.find_queue(USER, GROUP)
    assert queue is not None
    last = sut.store.events.read(queue)[-1]
    sut.store.events.set_relay_cursor(queue, last.id)
    sut.store.purge_all()
    assert [event.type for event in sut.store.events.read(queue)][1:] == ["purged"] * 3


def test_an_expired_job_that_its_finder_may_not_have_is_announced(sut: StoreUnderTest) -> None:
    if not sut.real:
        pytest.skip("fakeredis publishes nothing from scripts")
    sut.submit(2, max_failures=9)
    listener = sut.redis.pubsub()
    for _ in range(2):
        lease = sut.lease("banned")
        sut.store.finish(lease.job.id, holder_of(lease), Outcome.APP_FAILED)
    for _ in range(2):
        lease = sut.lease("node-1")
    sut.advance(lease.job.spec.lease_ms)
    listener.subscribe("kelpie:wake")
    assert listener.get_message(timeout=5) is not None  # the subscription
    assert sut.poll("banned") is None
    woken = listener.get_message(timeout=5)
    assert woken is not None
    assert woken["data"] == b"1 2"
    listener.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_node_gets_the_first_job_that_does_not_ban_it_whatever_the_pattern_of_bans(
    sut: StoreUnderTest, seed: int
) -> None:
    draw = random.Random(seed)
    size = draw.choice((3, 10, 20, 33))
    jobs = sut.submit(size, max_failures=9)
    leases: dict[str, Lease] = {lease.job.id: lease for lease in (sut.lease("bad") for _ in jobs)}
    for density in (0.0, 0.2, 0.5, 0.8, 0.95, 1.0):
        banned = {job.id for job in jobs if draw.random() < density}
        _arrange(sut, leases, banned)
        allowed = [job.id for job in jobs if job.id not in banned]
        found = sut.poll("bad")
        assert (found.job.id if found else None) == (allowed[0] if allowed else None)
        if found:
            leases[found.job.id] = found


def _arrange(sut: StoreUnderTest, leases: dict[str, Lease], banned: set[str]) -> None:
    """All jobs wait, and just these ban the node."""
    for job_id in list(leases):
        lease = leases.pop(job_id)
        sut.store.finish(job_id, holder_of(lease), Outcome.RELEASED)
    for job in sorted((sut.store.get(i) for i in _waiting(sut)), key=lambda job: job.id):
        if job.banned_nodes and job.id not in banned:
            sut.store.unban(job.id)
    for job_id in _waiting(sut):
        if job_id in banned and not sut.store.get(job_id).banned_nodes:
            _ban(sut, job_id)


def _waiting(sut: StoreUnderTest) -> list[str]:
    return [member.decode() for member in sut.redis.zrange(sut.keys().waiting, 0, -1)]


def _ban(sut: StoreUnderTest, job_id: str) -> None:
    """The job fails on the node: everything else is held back meanwhile."""
    others = [other for other in _waiting(sut) if other != job_id]
    for other in others:
        sut.store.hold(other)
    lease = sut.lease("bad")
    assert lease.job.id == job_id
    sut.store.finish(job_id, holder_of(lease), Outcome.APP_FAILED)
    for other in others:
        sut.store.resume(other)


def test_completed_jobs_are_not_opened_again(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    sut.store.finish(job.id, holder_of(sut.lease()), Outcome.COMPLETED)
    with pytest.raises(ConflictError):
        sut.store.requeue(job.id)
    assert sut.get(job).status is JobStatus.COMPLETED
