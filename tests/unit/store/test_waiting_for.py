"""Why a job does not run now, in words."""

from __future__ import annotations

from kelpie.job import Lease, Outcome
from tests.unit.store.conftest import START_MS, StoreUnderTest, holder_of


def fail(sut: StoreUnderTest, lease: Lease) -> None:
    sut.store.finish(lease.job.id, holder_of(lease), Outcome.APP_FAILED)


def test_a_job_of_a_group_that_nobody_polls_says_so(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    assert sut.get(job).waiting_for == "no node polls this group"
    (listed,) = sut.list()
    assert listed.waiting_for == "no node polls this group"


def test_a_running_job_and_one_that_has_ended_wait_for_nothing(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    lease = sut.lease()
    assert sut.get(job).waiting_for is None
    sut.store.finish(job.id, holder_of(lease), Outcome.COMPLETED)
    assert sut.get(job).waiting_for is None


def test_a_job_tells_how_many_are_before_it(sut: StoreUnderTest) -> None:
    jobs = sut.submit(4)
    sut.lease("n1")
    said = [sut.get(job).waiting_for for job in jobs[1:]]
    assert said == [
        "it is next in turn",
        "jobs before it in turn: 1",
        "jobs before it in turn: 2",
    ]


def test_a_job_that_bans_every_node_that_polls_names_them(sut: StoreUnderTest) -> None:
    job = sut.submit_one(max_failures=9)
    for node in ("n1", "n2"):
        fail(sut, sut.lease(node))
    for last in ("n1", "n2"):  # the words stay, whoever has polled last
        sut.poll(last)
        assert sut.get(job).waiting_for == "every polling node is banned (n1, n2)"
    sut.poll("n3", group="another group")
    assert "banned" in str(sut.get(job).waiting_for)


def test_nodes_that_have_not_polled_for_a_minute_do_not_count(sut: StoreUnderTest) -> None:
    job = sut.submit_one()
    sut.poll("n1")
    other = sut.submit_one()
    sut.store.hold(job.id)
    sut.advance(70_000)
    sut.reap()
    assert sut.get(other).waiting_for == "no node polls this group"


def test_a_job_whose_nodes_are_all_busy_says_so(sut: StoreUnderTest) -> None:
    _, waiting = sut.submit(2)
    lease = sut.lease("n1")
    for _ in range(3):
        sut.advance(30_000)
        sut.store.heartbeat(lease.job.id, holder_of(lease))
    assert sut.get(waiting).waiting_for == "a free node: all are busy (1 jobs run)"


def test_held_and_delayed_jobs_say_until_when(sut: StoreUnderTest) -> None:
    held, delayed = sut.submit_one(), sut.submit_one(not_before=START_MS + 60_000)
    paused = sut.submit_one(retry_backoff_s=60)
    sut.store.hold(held.id)
    fail(sut, sut.lease())
    assert sut.get(held).waiting_for == "held: it waits until it is resumed"
    assert sut.get(delayed).waiting_for == "not before 2027-01-15T08:01:00.000Z"
    assert (
        sut.get(paused).waiting_for == "not before 2027-01-15T08:01:00.000Z (a pause after its last failure)"
    )
